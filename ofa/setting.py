"""What a network runs in, wherever that is: runtime, precision, batch, threads and cooling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "fp16", "bf16", "int8"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a runtime and an exporter need to know. It travels to other machines as it is.

    Args:
        runtime: A name of :data:`ofa.hardware.runtimes.RUNTIMES`, which know the precisions that they compute in.
        batch: Images in one call.
        threads: Threads that compute one call.
        cool_below_c: Wait, five minutes at most, until the machine is cooler than so many degrees Celsius.
        cold: Time each call after the core's caches were used by others, as where calls come seldom or in turn.
    """

    runtime: str
    precision: Precision = "fp32"
    batch: int = 1
    threads: int = 1
    cool_below_c: float | None = None
    cold: bool = False


REFERENCE = Setting(runtime="onnxruntime")
"""What others are compared with, and what computes where nothing is timed."""
