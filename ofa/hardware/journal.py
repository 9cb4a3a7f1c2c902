"""What a profile has measured so far, on disk after every block, so that nothing is measured twice."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from ofa.files import parse_json, write_text_atomic
from ofa.hardware.timing import TimedBlock

FORMAT = 3


class Journal:
    """A file of one JSON line per block, after a line that says what it belongs to.

    A file that belongs to something else (another machine, other software, other block lengths) is begun anew: its
    numbers must not mix with these. A half-written last line, from a killed process, is dropped, and so is a damaged
    one: what it held is measured again.

    Args:
        identity: What must agree for old blocks to count.

    Attributes:
        num_damaged: Lines that were dropped because they make no sense.
    """

    def __init__(self, path: Path, identity: Mapping[str, object]) -> None:
        header = json.dumps({"format": FORMAT, **identity})
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
        kept = lines[1:-1] if lines and lines[0] == header else []
        self.blocks: list[TimedBlock] = []
        for line in kept:
            with contextlib.suppress(ValueError):
                self.blocks.append(TimedBlock.from_json(parse_json(line)))
        self.num_damaged = len(kept) - len(self.blocks)
        write_text_atomic(path, "".join(f"{line}\n" for line in (header, *map(_line, self.blocks))))
        self._file = path.open("a", encoding="utf-8")

    def append(self, block: TimedBlock) -> None:
        self.blocks.append(block)
        self._file.write(_line(block) + "\n")
        self._file.flush()  # to the system: that outlives this process, if not a power cut

    def close(self) -> None:
        self._file.close()


def _line(block: TimedBlock) -> str:
    return json.dumps(block, separators=(",", ":"))
