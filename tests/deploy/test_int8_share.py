"""What is said of how much of a network is in INT8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ofa.deploy.targets import Quantization
from ofa.deploy.verify import _check_kernels
from ofa.hardware.runtimes import Kernels, ModelError
from ofa.setting import Setting


def quantization(percent: float | None, num: int | None = 3) -> Quantization:
    known: dict[str, Any] = {"loss_points": 0.1, "all_int8_loss_points": 0.1, "float_nodes": ()}
    known |= {"num_nodes": 5, "num_calibration_images": 256}
    return Quantization(**known, int8_macs_percent=percent, num_conversions=num)


@pytest.mark.parametrize(
    ("percent", "text"),
    [
        (None, ""),
        (100.0, "100.0 % of multiply-accumulates in INT8, 3 conversions"),
        (95.0, "95.0 % of multiply-accumulates in INT8, 3 conversions"),
        (
            42.0,
            "42.0 % of multiply-accumulates in INT8, 3 conversions: less than 95 %; compare its latency with that of "
            "fp32",
        ),
    ],
)
def test_less_than_95_percent_is_a_warning(percent: float | None, text: str) -> None:
    assert quantization(percent).kernels == text


def test_the_share_is_of_multiply_accumulates() -> None:
    assert Kernels(macs=200, int8_macs=150, num_conversions=2).int8_percent == 75
    assert Kernels(macs=0, int8_macs=0, num_conversions=0).int8_percent == 0


class Counted:
    """A runtime whose sessions have these kernels."""

    format, precisions, on_cpu = "onnx", ("int8",), True

    def __init__(self, kernels: Kernels | None) -> None:
        self._kernels = kernels

    def prepare(self, model: object, setting: Setting) -> Any:
        if self._kernels is None:
            raise ModelError("it cannot be read")
        return self

    def kernels(self) -> Kernels | None:
        return self._kernels

    def versions(self) -> dict[str, str]:
        return {}


@pytest.mark.parametrize(
    ("kernels", "ok", "found"),
    [
        (Kernels(1000, 990, 2), True, "99.0 % of multiply-accumulates in INT8, 2 conversions"),
        (Kernels(1000, 989, 2), False, "98.9 % of multiply-accumulates in INT8, 2 conversions"),
        (None, False, "it cannot be read"),
    ],
)
def test_verify_counts_again(kernels: Kernels | None, ok: bool, found: str) -> None:
    setting = Setting(runtime="onnxruntime", precision="int8")
    check = _check_kernels(100.0, Counted(kernels), Path("model.onnx"), setting)
    assert (check.ok, check.found) == (ok, found)
    assert check.expected == "100.0 % of multiply-accumulates in INT8"
