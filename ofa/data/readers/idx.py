"""IDX files, the format of MNIST and Fashion-MNIST (http://yann.lecun.com/exdb/mnist)."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ofa.data.config import DataConfig, DataError
from ofa.data.readers.source import ArrayImages, Source, encode_labels, require_root
from ofa.data.readers.split_names import SPLIT_NAMES

HOLDS = "a folder with train-images-idx3-ubyte and train-labels-idx1-ubyte (and t10k-... alike), with or without .gz"
UNSIGNED_BYTE = 0x08
TEST_PARTS = ("t10k", *SPLIT_NAMES["test"])


def read_idx(config: DataConfig) -> Source:
    """Read grey images; ``t10k-...`` (or ``test-...``), where present, is the test set.

    Raises:
        DataError: If a file is missing, truncated or of another kind, or images and labels differ in number.
    """
    root = require_root(config, HOLDS)
    pixels, labels = _read_pair(root, "train")
    test_pixels, test_labels = pixels[:0], labels[:0]
    tests = [part for part in TEST_PARTS if any(root.glob(f"{part}-images*"))]
    if len(tests) > 1:
        raise DataError(f"{root} has images of {' and of '.join(tests)}, which are both the test set; leave one out")
    if tests:
        test_pixels, test_labels = _read_pair(root, tests[0])
    if test_pixels.shape[1:] != pixels.shape[1:]:
        raise DataError(f"images in {root} are {pixels.shape[1:]} for training and {test_pixels.shape[1:]} for test")
    classes, encoded = encode_labels(labels, test_labels)
    images = ArrayImages(np.concatenate([pixels, test_pixels]))
    return Source(classes, encoded, images, grey=True, num_test=len(test_labels))


def _read_pair(root: Path, part: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    images_path, labels_path = _find(root, f"{part}-images"), _find(root, f"{part}-labels")
    pixels, labels = read_idx_file(images_path, num_dims=3), read_idx_file(labels_path, num_dims=1)
    if len(pixels) != len(labels) or not len(labels):
        raise DataError(
            f"{images_path} has {len(pixels)} images and {labels_path} {len(labels)} labels; get both again"
        )
    return pixels, labels


def _find(root: Path, stem: str) -> Path:
    found = sorted(root.glob(f"{stem}[-.]idx[0-9]-ubyte*")) if root.is_dir() else []
    if not found:
        raise DataError(f"found no {stem}-idx*-ubyte or {stem}-idx*-ubyte.gz in {root}; it should be {HOLDS}")
    return found[0]


def read_idx_file(path: Path, *, num_dims: int) -> npt.NDArray[np.uint8]:
    """Read one IDX file of bytes, gzipped or not.

    Raises:
        DataError: If it is truncated, or not bytes in ``num_dims`` dims.
    """
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise DataError(f"{path} is truncated or damaged ({error}); get it again") from error
    start = 4 + 4 * num_dims
    if len(data) < start or data[:4] != bytes([0, 0, UNSIGNED_BYTE, num_dims]):
        raise DataError(f"{path} is not an IDX file of bytes in {num_dims} dims (it begins with {data[:4].hex()!r})")
    shape = np.frombuffer(data, dtype=">u4", count=num_dims, offset=4).tolist()
    if len(data) - start != math.prod(shape):
        raise DataError(
            f"{path} is truncated: its header promises {math.prod(shape)} bytes of shape {tuple(shape)}, "
            f"{len(data) - start} are there; get it again"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)
