"""What was evaluated, on disk, so that no subnet is evaluated twice, whatever is interrupted or searched again."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ofa.files import FileFormatError, write_text_atomic
from ofa.space import Arch


class EvaluationCache:
    """A CSV file that only grows, one line per evaluated architecture, and what it holds of one thing.

    Each call of :meth:`add` is on disk when it returns. A last line that a killed process left incomplete is dropped.

    Args:
        path: The file; it need not exist. ``None`` keeps everything in memory only.
        values: Names of what is known of an architecture.
        key: What the values belong to, by name: ``weights_sha256``, ``split``. Lines of other things stay in the file,
            unseen.

    Raises:
        FileFormatError: If a complete line of the file makes no sense.
    """

    def __init__(
        self, path: Path | str | None = None, *, values: Sequence[str] = ("top1_percent",), **key: str
    ) -> None:
        self.path = None if path is None else Path(path)
        self.values, self.key = tuple(values), dict(key)
        self._known: dict[Arch, tuple[float, ...]] = {}
        if self.path is not None and self.path.exists():
            self._known.update(self._read(self.path))

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the file."""
        return (*self.key, "arch", *self.values)

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, arch: object) -> bool:
        return arch in self._known

    def __getitem__(self, arch: Arch) -> tuple[float, ...]:
        """Its values, in the order of :attr:`values`; ``KeyError`` if it is not known."""
        return self._known[arch]

    def get(self, archs: Sequence[Arch]) -> npt.NDArray[np.float64]:
        """Values of architectures that are all known, shape ``(N, V)``."""
        return np.array([self._known[arch] for arch in archs], dtype=np.float64).reshape(len(archs), len(self.values))

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
        if self.path is not None:
            rows = [
                (*self.key.values(), arch.to_json(), *map(repr, row))
                for arch, row in zip(archs, array.tolist(), strict=True)
            ]
            self._append(self.path, rows)
        self._known.update(zip(archs, map(tuple, array.tolist()), strict=True))

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

    def export_csv(self, path: Path | str) -> None:
        """Write what is known of this one thing to a file that :meth:`import_csv` reads."""
        rows = [(*self.key.values(), arch.to_json(), *map(repr, row)) for arch, row in self._known.items()]
        write_text_atomic(Path(path), _csv_text([self.columns, *rows]))

    def _append(self, path: Path, rows: list[tuple[str, ...]]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            file.seek(0)
            end = file.read().rfind(b"\n") + 1
            file.truncate(end)
            file.write(_csv_text(([] if end else [self.columns]) + rows).encode())
            file.flush()
            os.fsync(file.fileno())

    def _read(self, path: Path) -> dict[Arch, tuple[float, ...]]:
        content = path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1].decode()
        num_keys = len(self.key)
        found = {}
        for number, row in enumerate(csv.reader(io.StringIO(complete)), start=1):
            if number == 1:
                if tuple(row) != self.columns:
                    raise _bad_line(path, number, f"it should be {','.join(self.columns)}")
                continue
            try:
                key, (arch, *values) = row[:num_keys], row[num_keys:]
                entry = Arch(json.loads(arch)), tuple(map(float, values))
                if len(entry[1]) != len(self.values):
                    raise ValueError(f"{len(self.values)} values are needed")
            except (ValueError, TypeError) as error:
                raise _bad_line(path, number, str(error)) from None
            if key == list(self.key.values()):
                found[entry[0]] = entry[1]
        return found


def _csv_text(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _bad_line(path: Path, number: int, reason: str) -> FileFormatError:
    return FileFormatError(
        f"line {number} of evaluation cache {path} is damaged ({reason}); delete the line or the file"
    )


def cached(
    evaluate: Callable[[list[Arch]], npt.NDArray[np.float64]],
    cache: EvaluationCache,
    *,
    chunk_size: int = 1,
    progress: Callable[[int, int, str], None] | None = None,
) -> Callable[[Sequence[Arch]], npt.NDArray[np.float64]]:
    """Wrap ``evaluate`` so that it only sees what ``cache`` lacks, each architecture once.

    Args:
        evaluate: Maps ``N`` architectures to ``(N, V)`` values, or ``(N,)`` where there is one per architecture.
        chunk_size: Architectures per call; the cache is written after each call.

    Returns:
        A function to arrays of the same shape.
    """

    def wrapped(archs: Sequence[Arch]) -> npt.NDArray[np.float64]:
        distinct = list(dict.fromkeys(archs))
        missing = [arch for arch in distinct if arch not in cache]
        for start in range(0, len(missing), chunk_size):
            if progress is not None:
                progress(len(distinct) - len(missing) + start, len(distinct), "evaluating subnets")
            chunk = missing[start : start + chunk_size]
            cache.add(chunk, evaluate(chunk))
        if progress is not None:
            progress(len(distinct), len(distinct), "evaluating subnets")
        values = cache.get(archs)
        return values[:, 0] if len(cache.values) == 1 else values

    return wrapped
