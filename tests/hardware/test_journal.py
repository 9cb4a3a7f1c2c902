from __future__ import annotations

import pytest

from ofa.hardware.journal import Journal
from ofa.hardware.timing import TimedBlock

BLOCKS = [TimedBlock("a", 0, (10, 11)), TimedBlock("b", 0, (20,), ("off the core",)), TimedBlock("a", 1, (12,))]


def write(path, identity=None):
    journal = Journal(path, identity or {"device": "cpu"})
    for block in BLOCKS:
        journal.append(block)
    journal.close()
    return journal


def read(path, identity=None):
    journal = Journal(path, identity or {"device": "cpu"})
    journal.close()
    return journal.blocks


def test_round_trip_and_continuation(tmp_path):
    path = tmp_path / "deep" / "space.csv.partial.jsonl"
    assert write(path).blocks == BLOCKS
    assert read(path) == BLOCKS
    write(path)
    assert read(path) == BLOCKS * 2


def test_a_half_written_line_is_dropped_wherever_it_breaks(tmp_path):
    path = tmp_path / "journal"
    write(path)
    data = path.read_bytes()
    header, *lines = data.splitlines(keepends=True)
    for length in range(len(data)):
        path.write_bytes(data[:length])
        num_complete = sum(len(header) + sum(map(len, lines[: n + 1])) <= length for n in range(len(lines)))
        assert read(path) == BLOCKS[:num_complete]


def test_what_belongs_to_something_else_is_begun_anew(tmp_path):
    path = tmp_path / "journal"
    write(path, {"device": "other"})
    assert read(path) == []


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "\x00" * 40,
        "[" * 100_000,
        "9" * 5000,
        "null",
        '["a",0,[10]]',
        '["a",0,[10],[],"fast",1.0,1.0]',
        '["a",0,[10],[],1.0,NaN,1.0]',
        '["a",0,[10],[],0,1.0,1.0]',
        '["a",0,[10],[],1.0,1.0,-1]',
        '["a",0,[10],[],1.0]',
        '["a",0,[10],[],true,1.0,1.0]',
        '["a",0,10,[],1.0,1.0,1.0]',
        '["a",0,[],[],1.0,1.0,1.0]',
        '["a",0,["10"],[],1.0,1.0,1.0]',
        '["a","0",[10],[],1.0,1.0,1.0]',
        '["a",-1,[10],[],1.0,1.0,1.0]',
        '["a",0,[-10],[],1.0,1.0,1.0]',
        "[1,0,[10],[],1.0,1.0,1.0]",
    ],
    ids=lambda line: line[:24],
)
def test_a_damaged_line_is_skipped_and_counted(tmp_path, line):
    path = tmp_path / "journal"
    write(path)
    header, first, *rest = path.read_text().split("\n")
    path.write_text("\n".join([header, first, line, *rest]))
    journal = Journal(path, {"device": "cpu"})
    journal.append(BLOCKS[0])
    journal.close()
    assert journal.num_damaged == 1
    again = Journal(path, {"device": "cpu"})
    again.close()
    assert (again.blocks, again.num_damaged) == ([*BLOCKS, BLOCKS[0]], 0)
