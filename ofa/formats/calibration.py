"""What INT8 is scaled by: the ranges of activations over calibration images; and a network that has them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from ofa.errors import OfaError, UsageError

RANGE_FOR_TIMING = (-1.0, 1.0)

Ranges = Mapping[str, tuple[float, float]]
"""Least and greatest value of each tensor, by its name."""


class QuantizationError(OfaError, ValueError):
    """A network cannot be quantized as asked."""


def _as_it_is(quantized: bytes | nn.Module) -> bytes:
    assert isinstance(quantized, bytes)
    return quantized


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A network whose ranges are known, put into INT8 as often as need be.

    What is quantized is a file, or where making one takes a minute a graph of torch, from which it is made in the end.

    Args:
        nodes: Names of the convolutions and products that can be in INT8.
        plain: In floating point.
        quantize: Gives it in INT8, but for the nodes of these names.
        to_file: Makes a file of what ``quantize`` gave.
    """

    nodes: Sequence[str]
    plain: bytes | nn.Module
    quantize: Callable[[Collection[str]], bytes | nn.Module]
    to_file: Callable[[bytes | nn.Module], bytes] = _as_it_is


def checked(ranges: Ranges) -> Ranges:
    """Ranges that were found.

    Raises:
        UsageError: If there are none, for want of images.
        QuantizationError: If one is not finite.
    """
    if not ranges:
        raise UsageError("calibration of activations needs at least one batch of images")
    for name, (low, high) in ranges.items():
        if not (math.isfinite(low) and math.isfinite(high)):
            raise QuantizationError(
                f"tensor {name!r} reaches from {low} to {high} on calibration images; check the weights"
            )
    return ranges


def check_known(float_nodes: Collection[str], known: Collection[str]) -> None:
    """:class:`QuantizationError` if a node that is to stay in floating point is not there."""
    if unknown := sorted(set(float_nodes) - set(known)):
        raise QuantizationError(f"the graph has no node {unknown[0]!r} to keep in floating point; export it again")
