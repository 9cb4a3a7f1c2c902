"""What tasks have in common that learn something else of a picture than one class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ofa.data import DataConfig, DataError
from ofa.data.readers import guess_reader, read_source
from ofa.data.readers.source import EncodedImages, Source
from ofa.errors import UsageError
from ofa.metrics import Score

NUM_RESAMPLES = 1000
CLASSES_ONLY: Mapping[str, Any] = {"mixup": 0.0, "cutmix": 0.0, "balance": 0.0}
"""What needs classes, and what is off."""


def check_plain_images(task: str, data: DataConfig) -> None:
    """:class:`DataError` if settings of the data mix classes or count them."""
    for name, off in CLASSES_ONLY.items():
        if getattr(data, name) != off:
            raise DataError(f"data.{name} is for classes, which task {task} has not; leave it at {off:g}")


def mean_score(values: npt.NDArray[np.float64]) -> Score:
    """Mean over images with a 95 % interval by bootstrap (Efron and Tibshirani 1993, sec. 13.3).

    Raises:
        UsageError: If there are none.
    """
    if not len(values):
        raise UsageError("a mean needs at least one image")
    rng, num = np.random.default_rng(0), len(values)
    drawn = [values[rng.integers(num, size=num)].mean() for _ in range(NUM_RESAMPLES)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Score(value=float(values.mean()), low=float(low), high=float(high), num_images=num)


def labelled_pictures(place: Path, answers: Callable[[Source], Source]) -> tuple[list[Path], Source]:
    """Files of pictures with what is right for them: a table of paths and labels, or a folder for each label.

    Raises:
        DataError: If there is none.
    """
    source = answers(read_source(DataConfig(name=guess_reader(place), root=str(place))))
    encoded = source.images.encoded if isinstance(source.images, EncodedImages) else []
    files = [file for file, _ in encoded if isinstance(file, Path)]
    if not files:
        raise DataError(f"{place} names no files of pictures; give a .csv file with columns path and label")
    return files, source
