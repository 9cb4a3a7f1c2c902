"""What is learnt of pictures instead of one class: a number, or which of several properties they have.

Readers give labels as names; here these become targets.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ofa.data.config import DataError
from ofa.data.readers.source import Source
from ofa.errors import shown


def with_numbers(source: Source) -> Source:
    """Labels read as numbers: targets float64 ``(N,)``.

    Raises:
        DataError: If one is none, or all are the same.
    """
    numbers = np.array([_number(name) for name in source.classes])
    if len(numbers) < 2:
        raise DataError(f"all numbers of the data are {numbers[0]:g}; there is nothing to learn")
    return replace(source, classes=(), labels=np.zeros_like(source.labels), targets=numbers[source.labels])


def with_properties(source: Source, separator: str) -> Source:
    """Labels read as names of properties: targets uint8 ``(N, K)``, 1 where a picture has one; K names as classes.

    Args:
        separator: Between names; what is left empty is none.

    Raises:
        DataError: If there are none.
    """
    named = [{name.strip() for name in label.split(separator)} - {""} for label in source.classes]
    properties = sorted(set().union(*named))
    if not properties:
        raise DataError("no picture of the data has a property; check the column of labels")
    has = np.array([[name in names for name in properties] for names in named], dtype=np.uint8)
    return replace(source, classes=tuple(properties), labels=np.zeros_like(source.labels), targets=has[source.labels])


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise DataError(f"label {shown(text)} is no number; name the column of numbers as data.label_column")
    return value
