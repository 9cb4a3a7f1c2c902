"""Tiny data sets on disk, for the tests of this folder."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def noise(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.uint8]:
    return rng.integers(0, 256, size=shape, dtype=np.uint8)


def idx_bytes(array: npt.NDArray[np.uint8]) -> bytes:
    """The format as its authors describe it: two zeros, type 8, number of dims, big-endian sizes, data."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def write_idx(root: Path, part: str, pixels: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], *, gz: bool) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for stem, array in ((f"{part}-images-idx3-ubyte", pixels), (f"{part}-labels-idx1-ubyte", labels)):
        data = idx_bytes(array)
        path = root / (stem + (".gz" if gz else ""))
        path.write_bytes(gzip.compress(data) if gz else data)


def encoded(rng: np.random.Generator, *, format: str = "PNG", size: tuple[int, int] = (12, 10)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(rng, size[1], size[0], 3)).save(buffer, format=format)
    return buffer.getvalue()


def write_folder(root: Path, per_class: dict[str, int], *, seed: int = 0, extension: str = "png") -> None:
    rng = np.random.default_rng(seed)
    for name, num in per_class.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(num):
            Image.fromarray(noise(rng, 10, 12, 3)).save(root / name / f"{index:03}.{extension}")


def write_parquet(path: Path, num: int, labels: list[int] | list[str], *, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [encoded(rng) for _ in range(num)]
    pq.write_table(pa.table({"image": images, "label": [labels[index % len(labels)] for index in range(num)]}), path)


def write_manifest(path: Path, per_class: dict[str, int], *, header: str = "path,label") -> None:
    """A CSV file, beside it a folder of its images."""
    write_folder(path.with_suffix(".images"), per_class)
    rows = [
        f"{path.stem}.images/{name}/{index:03}.png,{name}" for name, num in per_class.items() for index in range(num)
    ]
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
