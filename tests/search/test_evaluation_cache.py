from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from ofa.files import FileFormatError
from ofa.metrics import TOP1
from ofa.search.evaluation_cache import EvaluationCache, Scores
from ofa.space import Arch


@pytest.fixture
def archs(space):
    return space.to_archs(np.unique(space.sample_population(12, np.random.default_rng(0)), axis=0))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "search" / "evaluations.csv"


def open_cache(path, weights="w1", split="search"):
    return EvaluationCache(path, weights_sha256=weights, split=split)


def test_what_is_added_is_found_again(path, archs):
    open_cache(path).add(archs[:2], [90.1, 1 / 3])
    open_cache(path).add(archs[2:3], [91.5])
    cache = open_cache(path)
    assert len(cache.known) == 3 and archs[3] not in cache
    assert cache.get(archs[:3])[:, 0].tolist() == [90.1, 1 / 3, 91.5]
    table = pd.read_csv(path)
    assert list(table.columns) == ["weights_sha256", "split", "arch", "top1_percent"]
    assert list(table["arch"]) == [arch.to_json() for arch in archs[:3]]


def test_other_weights_and_splits_are_other_accuracies(path, archs):
    open_cache(path).add(archs[:1], [90.0])
    open_cache(path, weights="w2").add(archs[:1], [80.0])
    open_cache(path, split="test").add(archs[:1], [70.0])
    assert [open_cache(path, *key).known[archs[0]] for key in [("w1", "search"), ("w2", "search"), ("w1", "test")]] == [
        (90.0,),
        (80.0,),
        (70.0,),
    ]


def test_the_order_of_keys_does_not_matter(path, archs):
    reordered = Arch(dict(sorted(archs[0].items())))
    assert reordered.to_json() != archs[0].to_json()
    open_cache(path).add([reordered], [90.0])
    assert archs[0] in open_cache(path)


def test_every_truncation_keeps_the_complete_lines_and_goes_on(path, archs):
    open_cache(path).add(archs[:3], [90.0, 91.0, 92.0])
    whole = path.read_bytes()
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        cache = open_cache(path)
        assert len(cache.known) == max(0, whole[:length].count(b"\n") - 1)
        cache.add([arch for arch in archs[:4] if arch not in cache], np.full(4 - len(cache.known), 50.0))
        assert np.array_equal(open_cache(path).get(archs[:4]), cache.get(archs[:4]))


def test_damage_elsewhere_is_an_error(path, archs):
    open_cache(path).add(archs[:3], [90.0, 91.0, 92.0])
    whole = path.read_text()
    path.write_text(whole.replace("91.0", "91.o"))
    with pytest.raises(FileFormatError, match=r"line 3 of evaluation cache .*could not convert.*delete the line"):
        open_cache(path)
    for wrong, reason in {
        "nan": "1 finite values are needed",
        "91.0,5": "1 finite values are needed",
        '"' + "9" * 200_000 + '"': "field larger than field limit",
    }.items():
        path.write_text(whole.replace("91.0", wrong))
        with pytest.raises(FileFormatError, match=f"line 3 of evaluation cache .*{reason}.*delete the line"):
            open_cache(path)
    path.write_text(whole.replace('"{""', '"[""', 1))
    with pytest.raises(FileFormatError, match=r"line 2 .*an architecture is a JSON object"):
        open_cache(path)
    path.write_bytes(b"\xff\xfe" + whole.encode())
    with pytest.raises(FileFormatError, match=r"line 1 of .*it should be weights_sha256"):
        open_cache(path)
    path.write_text("arch,accuracy\n")
    with pytest.raises(FileFormatError, match=r"line 1 of .*it should be weights_sha256,split,arch,top1_percent"):
        open_cache(path)


def race_of(asked, num_images=1000):
    def race(archs, floors_percent):
        asked.append((list(archs), floors_percent.tolist()))
        return np.column_stack([np.arange(len(archs)) + 80.0, np.full(len(archs), num_images)])

    return race


def test_only_what_is_missing_is_evaluated_once_each(archs):
    asked = []
    accuracies = Scores(TOP1, race_of(asked), 1000, chunk_size=1)
    accuracies.cache.add(archs[:1], [[10.0, 1000]])
    assert accuracies([archs[0], archs[1], archs[1], archs[2]]).tolist() == [10.0, 80.0, 80.0, 80.0]
    assert asked == [([archs[1]], [0.0]), ([archs[2]], [0.0])]
    assert accuracies([]).shape == (0,)
    asked.clear()
    together = Scores(TOP1, race_of(asked), 1000)
    assert together([archs[0], archs[1], archs[1], archs[2]]).tolist() == [80.0, 81.0, 81.0, 82.0]
    assert asked == [(archs[:3], [0.0, 0.0, 0.0])]


def test_what_was_given_up_is_finished_only_where_it_may_matter(archs):
    asked = []
    accuracies = Scores(TOP1, race_of(asked, num_images=300), 1000, chunk_size=4)
    accuracies(archs[:1], lambda some: np.full(len(some), 95.0))  # 80 % on 300 of 1,000 images
    assert archs[0] not in accuracies.cache
    accuracies(archs[:1], lambda some: np.full(len(some), 90.0))  # surely below this too
    assert len(asked) == 1
    asked_for_all = Scores(TOP1, race_of(asked), 1000)
    asked_for_all.given_up.add(archs[:1], [[80.0, 300]])
    asked_for_all(archs[:1], lambda some: np.full(len(some), 82.0))
    assert [floors for _, floors in asked] == [[95.0], [82.0]] and archs[0] in asked_for_all.cache


def test_what_was_given_up_stays_so_for_those_who_gave_it_up(path, archs):
    """Else a search that is killed and repeated would take another way than it took at first."""

    def race(some, floors_percent):
        num_images = np.where(floors_percent > 0, 300, 1000)
        return np.column_stack([np.where(floors_percent > 0, 79.0, 80.0), num_images])

    def open_it():
        cache = EvaluationCache(path, values=TOP1.columns, weights_sha256="w1", split="search")
        return Scores(TOP1, race, 1000, cache)

    high = lambda some: np.full(len(some), 95.0)  # noqa: E731
    assert open_it()(archs[:1], high).tolist() == [79.0]
    assert open_it()(archs[:1]).tolist() == [80.0]
    again = open_it()
    assert again(archs[:1], high).tolist() == [79.0]
    assert again(archs[:1]).tolist() == [80.0]
    assert again.known(archs[:2]).tolist()[0] == [80.0, 1000.0] and np.isnan(again.known(archs[1:2])).all()


def test_what_was_evaluated_before_an_interruption_is_on_disk(path, archs):
    def race(some, floors_percent):
        if archs[4] in some:
            raise KeyboardInterrupt
        return np.full((len(some), 2), 90.0)

    open_it = lambda: EvaluationCache(path, values=TOP1.columns)  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        Scores(TOP1, race, 90, open_it(), chunk_size=2)(archs[:6])
    assert [arch in open_it() for arch in archs[:6]] == [True] * 4 + [False] * 2


@pytest.mark.parametrize("values", [[90.0], [90.0, np.nan], 90.0])
def test_bad_accuracies_are_not_stored(path, archs, values):
    cache = open_cache(path)
    with pytest.raises(ValueError, match="2 architectures need as many finite values of top1_percent"):
        cache.add(archs[:2], values)
    assert len(cache.known) == 0 and not path.exists()


def test_in_memory(archs):
    cache = EvaluationCache()
    cache.add(archs[:1], [90.0])
    assert cache.known[archs[0]] == (90.0,)


def test_several_values(path, archs):
    cache = EvaluationCache(path, values=("top1_error_percent", "latency_ms"))
    cache.add(archs[:2], [[10.0, 1.5], [20.0, 0.5]])
    again = EvaluationCache(path, values=("top1_error_percent", "latency_ms"))
    assert again.get(archs[:2]).tolist() == [[10.0, 1.5], [20.0, 0.5]]
    assert again.known[archs[1]] == (20.0, 0.5)
    with pytest.raises(
        ValueError, match="1 architectures need as many finite values of top1_error_percent, latency_ms"
    ):
        again.add(archs[2:3], [[1.0]])
    with pytest.raises(FileFormatError, match=r"line 1 .*it should be arch,top1_error_percent"):
        EvaluationCache(path, values=("top1_error_percent",))


def test_import_takes_what_is_not_known_here(path, archs, tmp_path):
    here = open_cache(path)
    here.add(archs[:2], [90.0, 91.0])
    open_cache(path, weights="w2").add(archs[2:3], [50.0])
    there = open_cache(tmp_path / "there.csv")
    there.add(archs[:1], [80.0])
    assert there.import_csv(path) == 1  # what is known here stays
    assert open_cache(tmp_path / "there.csv").get(archs[:2])[:, 0].tolist() == [80.0, 91.0]
    assert open_cache(tmp_path / "other.csv", weights="w2").import_csv(path) == 1


WRITER = """
import json, sys
from ofa.search.evaluation_cache import EvaluationCache
from ofa.space import Arch

path, key, archs = sys.argv[1:]
cache = EvaluationCache(path, weights_sha256=key, split="search")
sys.stdin.readline()
for number, arch in enumerate(json.loads(archs) * 40):
    cache.add([Arch(arch)], [float(number)])
"""


def test_four_writers_lose_no_line(path, archs):
    few = [dict(arch) for arch in archs[:10]]
    commands = [[sys.executable, "-c", WRITER, str(path), f"w{number}", json.dumps(few)] for number in range(4)]
    writers = [subprocess.Popen(command, stdin=subprocess.PIPE) for command in commands]
    for writer in writers:
        writer.stdin.write(b"go\n")
        writer.stdin.close()
    assert [writer.wait() for writer in writers] == [0] * 4
    table = pd.read_csv(path)
    assert len(table) == 4 * 400
    for number in range(4):
        own = table[table["weights_sha256"] == f"w{number}"]["top1_percent"]
        assert own.tolist() == [float(each) for each in range(400)]
        assert len(open_cache(path, weights=f"w{number}").known) == 10


def test_a_writer_that_is_killed_costs_at_most_its_own_line(path, archs):
    few = [dict(arch) for arch in archs[:10]]
    commands = [[sys.executable, "-c", WRITER, str(path), f"w{number}", json.dumps(few)] for number in range(2)]
    writers = [subprocess.Popen(command, stdin=subprocess.PIPE) for command in commands]
    for writer in writers:
        writer.stdin.write(b"go\n")
        writer.stdin.close()
    while not (path.exists() and path.read_bytes().count(b"\nw0,") > 20):
        assert writers[0].poll() is None
    writers[0].kill()
    assert [writer.wait() for writer in writers] == [-9, 0]
    open_cache(path, weights="w2").add(archs[:1], [1.0])
    counts = pd.read_csv(path)["weights_sha256"].value_counts()
    assert counts["w1"] == 400 and counts["w2"] == 1 and counts["w0"] > 20
