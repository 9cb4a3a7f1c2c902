"""What a profile has measured so far, on disk after every block, so that nothing is measured twice."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from ofa.files import write_text_atomic
from ofa.hardware.timing import TimedBlock

FORMAT = 2


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
        found = lines[1:-1] if lines and lines[0] == header else []
        whole = [(line, block) for line in found if (block := _block(line)) is not None]
        self.blocks, self.num_damaged = [block for _, block in whole], len(found) - len(whole)
        write_text_atomic(path, "\n".join([header, *(line for line, _ in whole)]) + "\n")
        self._file = path.open("a", encoding="utf-8")

    def append(self, block: TimedBlock) -> None:
        self.blocks.append(block)
        self._file.write(json.dumps(block, separators=(",", ":")) + "\n")
        self._file.flush()  # to the system: that outlives this process, if not a power cut

    def close(self) -> None:
        self._file.close()


def _block(line: str) -> TimedBlock | None:
    """What a line holds; ``None`` if it is damaged."""
    try:
        block = TimedBlock.from_json(json.loads(line))
        makes_sense = (
            isinstance(block.name, str)
            and isinstance(block.round, int)
            and min(block.round, *block.durations_ns) >= 0
            and all(isinstance(cause, str) for cause in block.causes)
            and 0 < block.anchor_ns < math.inf
        )
    except (ValueError, TypeError, RecursionError):
        return None
    return block if makes_sense else None
