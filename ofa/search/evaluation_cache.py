"""True accuracies on disk, so that no subnet is evaluated twice, whatever is interrupted or searched again."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ofa.files import FileFormatError
from ofa.space import Arch

COLUMNS = ("weights_sha256", "split", "arch", "top1_percent")


class EvaluationCache:
    """A CSV file that only grows, one line per evaluated architecture, and what it holds for one network and split.

    Each call of :meth:`add` is on disk when it returns. A last line that a killed process left incomplete is dropped.

    Args:
        path: The file; it need not exist. ``None`` keeps everything in memory only.
        weights_sha256: Which weights the accuracies belong to; other weights' lines stay in the file, unseen.
        split: Which images they were measured on.

    Raises:
        FileFormatError: If a complete line of the file makes no sense.
    """

    def __init__(self, path: Path | str | None = None, *, weights_sha256: str = "", split: str = "") -> None:
        self.path = None if path is None else Path(path)
        self.weights_sha256, self.split = weights_sha256, split
        self._top1: dict[Arch, float] = {}
        if self.path is not None and self.path.exists():
            self._read(self.path)

    def __len__(self) -> int:
        return len(self._top1)

    def __contains__(self, arch: object) -> bool:
        return arch in self._top1

    def __getitem__(self, arch: Arch) -> float:
        """Top-1 accuracy in percent; ``KeyError`` if it is not known."""
        return self._top1[arch]

    def add(self, archs: Sequence[Arch], top1_percent: npt.ArrayLike) -> None:
        """Store accuracies, in percent, on disk and in memory.

        Raises:
            ValueError: If there is not one finite accuracy per architecture.
        """
        values = np.asarray(top1_percent, dtype=np.float64)
        if values.shape != (len(archs),) or not np.isfinite(values).all():
            raise ValueError(f"{len(archs)} architectures need as many finite accuracies, not {values}")
        if self.path is not None:
            rows = [
                (self.weights_sha256, self.split, arch.to_json(), repr(value))
                for arch, value in zip(archs, values.tolist(), strict=True)
            ]
            self._append(self.path, rows)
        self._top1.update(zip(archs, values.tolist(), strict=True))

    def _append(self, path: Path, rows: list[tuple[str, str, str, str]]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            file.seek(0)
            end = file.read().rfind(b"\n") + 1
            file.truncate(end)
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(([] if end else [COLUMNS]) + rows)
            file.write(text.getvalue().encode())
            file.flush()
            os.fsync(file.fileno())

    def _read(self, path: Path) -> None:
        content = path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1].decode()
        for number, row in enumerate(csv.reader(io.StringIO(complete)), start=1):
            if number == 1:
                if tuple(row) != COLUMNS:
                    raise _bad_line(path, number, f"it should be {','.join(COLUMNS)}")
                continue
            try:
                weights_sha256, split, arch, top1_percent = row
                entry = Arch(json.loads(arch)), float(top1_percent)
            except (ValueError, TypeError) as error:
                raise _bad_line(path, number, str(error)) from None
            if (weights_sha256, split) == (self.weights_sha256, self.split):
                self._top1[entry[0]] = entry[1]


def _bad_line(path: Path, number: int, reason: str) -> FileFormatError:
    return FileFormatError(
        f"line {number} of evaluation cache {path} is damaged ({reason}); delete the line or the file"
    )


def cached(
    evaluate_top1: Callable[[list[Arch]], npt.NDArray[np.float64]],
    cache: EvaluationCache,
    *,
    chunk_size: int = 1,
    progress: Callable[[int, int, str], None] | None = None,
) -> Callable[[Sequence[Arch]], npt.NDArray[np.float64]]:
    """Wrap ``evaluate_top1`` so that it only sees what ``cache`` lacks, each architecture once.

    Args:
        evaluate_top1: Maps ``N`` architectures to ``(N,)`` percent.
        chunk_size: Architectures per call; the cache is written after each call.
    """

    def evaluate(archs: Sequence[Arch]) -> npt.NDArray[np.float64]:
        distinct = list(dict.fromkeys(archs))
        missing = [arch for arch in distinct if arch not in cache]
        for start in range(0, len(missing), chunk_size):
            if progress is not None:
                progress(len(distinct) - len(missing) + start, len(distinct), "evaluating subnets")
            chunk = missing[start : start + chunk_size]
            cache.add(chunk, evaluate_top1(chunk))
        if progress is not None:
            progress(len(distinct), len(distinct), "evaluating subnets")
        return np.array([cache[arch] for arch in archs], dtype=np.float64)

    return evaluate
