"""What was evaluated, on disk, so that no subnet is evaluated twice, whatever is interrupted or searched again."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ofa.files import FileFormatError, enough_space
from ofa.metrics import TOP1, Metric
from ofa.space import Arch
from ofa.system import hold


class EvaluationCache:
    """A CSV file that only grows, one line per evaluated architecture, and what it holds of one thing.

    Each call of :meth:`add` is on disk when it returns, whoever else adds to the file. A last line that a killed
    process left incomplete is dropped.

    Args:
        path: The file; it need not exist. ``None`` keeps everything in memory only.
        values: Names of what is known of an architecture.
        key: What the values belong to, by name: ``weights_sha256``, ``split``. Lines of other things stay in the file,
            unseen.

    Attributes:
        known: Architecture -> its values, in the order of :attr:`values`.

    Raises:
        FileFormatError: If a complete line of the file makes no sense.
    """

    def __init__(self, path: Path | str | None = None, *, values: Sequence[str] = (TOP1.name,), **key: str) -> None:
        self.path = None if path is None else Path(path)
        self.values, self.key = tuple(values), key
        self.columns = (*key, "arch", *self.values)
        self.known = self._read(self.path) if self.path is not None and self.path.exists() else {}

    def __contains__(self, arch: object) -> bool:
        return arch in self.known

    def get(self, archs: Sequence[Arch]) -> npt.NDArray[np.float64]:
        """Values of architectures that are all known, shape ``(N, V)``."""
        return np.array([self.known[arch] for arch in archs], dtype=np.float64).reshape(len(archs), len(self.values))

    def add(self, archs: Sequence[Arch], values: npt.ArrayLike) -> None:
        """Store values, on disk and in memory; an architecture that is known gets the new ones.

        Args:
            values: Shape ``(N, V)``, or ``(N,)`` where there is one per architecture.

        Raises:
            ValueError: If the shape does not fit, or a value is not finite.
        """
        array = np.asarray(values, dtype=np.float64)
        if array.ndim == 1 and len(self.values) == 1:
            array = array[:, None]
        if array.shape != (len(archs), len(self.values)) or not np.isfinite(array).all():
            raise ValueError(
                f"{len(archs)} architectures need as many finite values of {', '.join(self.values)}, not {array}"
            )
        if self.path is not None and archs:
            rows = [
                (*self.key.values(), arch.to_json(), *map(repr, row))
                for arch, row in zip(archs, array.tolist(), strict=True)
            ]
            self._append(self.path, rows)
        self.known.update(zip(archs, map(tuple, array.tolist()), strict=True))

    def import_csv(self, path: Path | str) -> int:
        """Take over what another cache's file holds of the same thing; the number of new architectures.

        Raises:
            FileFormatError: If the file makes no sense.
        """
        theirs = self._read(Path(path))
        new = [arch for arch in theirs if arch not in self]
        if new:
            self.add(new, [theirs[arch] for arch in new])
        return len(new)

    def _append(self, path: Path, rows: list[tuple[str, ...]]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with enough_space(path), path.open("a+b") as file:
            hold(file.fileno(), wait=True)  # others append too, and would take ours for a line that was cut off
            file.seek(0)
            end = file.read().rfind(b"\n") + 1
            file.truncate(end)
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(([] if end else [self.columns]) + rows)
            file.write(text.getvalue().encode())
            file.flush()
            os.fsync(file.fileno())

    def _read(self, path: Path) -> dict[Arch, tuple[float, ...]]:
        content = path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1].decode(errors="replace")
        num_keys = len(self.key)
        found = {}
        rows = csv.reader(io.StringIO(complete))
        try:
            if tuple(next(rows, self.columns)) != self.columns:
                raise ValueError(f"it should be {','.join(self.columns)}")
            for row in rows:
                key, (arch, *values) = row[:num_keys], row[num_keys:]
                entry = Arch.from_json(arch), tuple(map(float, values))
                if len(entry[1]) != len(self.values) or not np.isfinite(entry[1]).all():
                    raise ValueError(f"{len(self.values)} finite values are needed")
                if key == list(self.key.values()):
                    found[entry[0]] = entry[1]
        except (ValueError, csv.Error) as error:
            raise _bad_line(path, rows.line_num, str(error)) from None
        return found


def _bad_line(path: Path, number: int, reason: str) -> FileFormatError:
    return FileFormatError(
        f"line {number} of evaluation cache {path} is damaged ({reason}); delete the line or the file"
    )


ROUND = 8
"""Architectures that are evaluated together: what they give up goes by what was known before."""


class Scores:
    """True scores of architectures, each evaluated once, and given up where it is surely not wanted.

    What was given up is kept apart from what was evaluated to the end, so that a search that is repeated finds what it
    found at first, whatever was evaluated since.

    Args:
        metric: What is measured.
        race: Maps ``N`` architectures and as many floors to ``(N, len(metric.columns))``: the value, the number of
            images that it was measured on, fewer than ``num_images`` where that showed that the floor is out of reach,
            and what else the metric keeps. :meth:`ofa.training.SubnetEvaluator.race` is one.
        num_images: Of the whole split.
        cache: Its values are the metric's columns; in memory if there is none.
        chunk_size: Architectures per call of ``race``, however many work on it, so that what is given up does not
            depend on that; the cache is written after each call.
    """

    def __init__(
        self,
        metric: Metric,
        race: Callable[[list[Arch], npt.NDArray[np.float64]], npt.NDArray[np.float64]],
        num_images: int,
        cache: EvaluationCache | None = None,
        *,
        chunk_size: int = ROUND,
    ) -> None:
        self.metric, self.num_images, self.chunk_size = metric, num_images, chunk_size
        self.cache = EvaluationCache(values=metric.columns) if cache is None else cache
        key = {**self.cache.key, "split": f"{self.cache.key['split']}, given up"} if "split" in self.cache.key else {}
        # Without a split to tell them apart in one file, what was given up is known in memory only.
        self.given_up = EvaluationCache(self.cache.path if key else None, values=metric.columns, **key)
        self._race = race

    def known(self, archs: Sequence[Arch]) -> npt.NDArray[np.float64]:
        """The metric's columns, shape ``(N, len(metric.columns))``; not-a-number where nothing is known."""
        unknown = (np.nan,) * len(self.metric.columns)
        found = [self.cache.known.get(arch, self.given_up.known.get(arch, unknown)) for arch in archs]
        return np.array(found, dtype=np.float64).reshape(len(archs), len(self.metric.columns))

    def __call__(
        self, archs: Sequence[Arch], floors: Callable[[list[Arch]], npt.NDArray[np.float64]] | None = None
    ) -> npt.NDArray[np.float64]:
        """Values of the metric, shape ``(N,)``.

        Args:
            floors: Gives the values, worse than which these need not be known exactly, when they are about to be
                evaluated; without it all are evaluated on all images.
        """
        distinct = list(dict.fromkeys(archs))
        found: dict[Arch, float] = {}
        for start in range(0, len(distinct), self.chunk_size):
            chunk = distinct[start : start + self.chunk_size]
            below = np.full(len(chunk), self.metric.worst) if floors is None else floors(chunk)
            missing = [row for row, arch in enumerate(chunk) if self._enough(arch, float(below[row])) is None]
            if missing:
                self._add([chunk[row] for row in missing], self._race([chunk[row] for row in missing], below[missing]))
            for arch, floor in zip(chunk, below.tolist(), strict=True):
                enough = self._enough(arch, floor)
                assert enough is not None
                found[arch] = enough
        return np.array([found[arch] for arch in archs], dtype=np.float64)

    def _add(self, archs: list[Arch], values: npt.NDArray[np.float64]) -> None:
        is_complete = values[:, 1] >= self.num_images
        for cache, mask in ((self.cache, is_complete), (self.given_up, ~is_complete)):
            cache.add([arch for arch, own in zip(archs, mask, strict=True) if own], values[mask])

    def _enough(self, arch: Arch, floor: float) -> float | None:
        """What is known, if that is enough for a floor: what was found when it was given up, or else all of it."""
        given_up = self.given_up.known.get(arch)
        if given_up is not None and self.metric.is_hopeless(given_up[0], int(given_up[1]), floor):
            return given_up[0]
        return self.cache.known[arch][0] if arch in self.cache else None
