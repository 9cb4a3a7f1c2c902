"""Kernels as ONNX Runtime tells them, and what follows from their shapes."""

from __future__ import annotations

from collections import Counter

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from ofa.estimate.kernels import Kernel, KernelError, Value, read_kernels
from ofa.hardware.runtimes import ModelError
from ofa.hardware.timed_models import export_model
from ofa.setting import Setting

SETTING = Setting(runtime="onnxruntime")


def kernels_of(module: nn.Module, shape: tuple[int, ...]) -> Counter[Kernel]:
    with torch.random.fork_rng():
        return read_kernels(export_model(module.eval(), shape, SETTING), SETTING)


def conv(*weights: int, out: tuple[int, ...], group: int = 1) -> Kernel:
    inputs = (Value((1, weights[1] * group, *out[2:])), Value(weights, is_weight=True))
    return Kernel("Conv", inputs, (Value(out),), (("group", str(group)),))


def test_an_activation_is_fused_into_its_convolution() -> None:
    found = kernels_of(nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()), (16, 8, 8))
    (only,) = [kernel for kernel in found if kernel.is_convolution]
    assert dict(only.attributes)["activation"] == "Relu"
    assert "Relu" not in {kernel.name for kernel in found}
    assert only.macs == 32 * 8 * 8 * 16 * 9
    assert only.weight_bytes == 4 * (32 * 16 * 9 + 32)
    assert (only.input_bytes, only.output_bytes) == (4 * 16 * 64, 4 * 32 * 64)


def test_a_linear_layer_keeps_the_shape_of_weights_that_the_runtime_packs() -> None:
    found = kernels_of(nn.Linear(24, 40), (24,))
    (only,) = [kernel for kernel in found if kernel.is_product]
    assert only.macs == 24 * 40
    assert only.inputs[1].is_weight and only.inputs[1].size == 24 * 40


def test_what_runs_twice_is_counted_twice() -> None:
    layers = [nn.Conv2d(16, 16, 1), nn.Sigmoid(), nn.Conv2d(16, 16, 1), nn.Sigmoid()]
    found = kernels_of(nn.Sequential(*layers), (16, 4, 4))
    assert sum(count for kernel, count in found.items() if kernel.is_convolution) == 2


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        (conv(32, 16, 1, 1, out=(1, 32, 8, 8)), "Conv pointwise"),
        (conv(32, 16, 3, 3, out=(1, 32, 8, 8)), "Conv spatial"),
        (conv(32, 1, 3, 3, out=(1, 32, 8, 8), group=32), "Conv depthwise"),
        (conv(32, 4, 3, 3, out=(1, 32, 8, 8), group=8), "Conv grouped"),
        (Kernel("MatMul", (Value((2, 3)), Value((3, 4), is_weight=True)), (Value((2, 4)),)), "MatMul by weights"),
        (Kernel("MatMul", (Value((2, 3)), Value((3, 4))), (Value((2, 4)),)), "MatMul"),
        (Kernel("Resize", (Value((1, 2)),), (Value((1, 4)),), (("mode", "linear"),)), "Resize linear"),
        (Kernel("Slice", (Value((1, 4)),), (Value((1, 2)),), (("steps", "2"),)), "Slice with steps"),
        (Kernel("Slice", (Value((1, 4)),), (Value((1, 2)),), (("steps", "1"),)), "Slice"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_kinds(kernel: Kernel, kind: str) -> None:
    assert kernel.kind == kind


def test_multiply_accumulates_of_grouped_convolutions_and_products() -> None:
    assert conv(32, 4, 3, 3, out=(1, 32, 8, 8), group=8).macs == 32 * 64 * 4 * 9
    assert Kernel("MatMul", (Value((6, 5, 7)), Value((6, 7, 3))), (Value((6, 5, 3)),)).macs == 6 * 5 * 7 * 3
    transposed = Kernel("Gemm", (Value((7, 5)), Value((7, 3))), (Value((5, 3)),), (("transA", "1"),))
    assert transposed.macs == 5 * 7 * 3


@pytest.mark.parametrize(
    ("op", "inputs", "output", "perm", "run"),
    [
        ("Transpose", [(2, 3, 4, 5)], (3, 2, 4, 5), "1,0,2,3", 20),
        ("Transpose", [(2, 3)], (3, 2), "1,0", 1),
        ("Mul", [(1, 8, 6, 6), (1, 8, 1, 1)], (1, 8, 6, 6), "", 36),
        ("Add", [(4, 6, 8), (8,)], (4, 6, 8), "", 8),
        ("Slice", [(1, 8, 6, 6)], (1, 4, 6, 6), "", 4 * 36),
    ],
)
def test_how_much_lies_together(
    op: str, inputs: list[tuple[int, ...]], output: tuple[int, ...], perm: str, run: int
) -> None:
    attributes = (("perm", perm),) if perm else ()
    assert Kernel(op, tuple(map(Value, inputs)), (Value(output),), attributes)._run == run


@pytest.mark.parametrize(
    "value", [Value((1, 64, 56, 56)), Value((), "int64"), Value((3,), "int64", True), Value((7,), is_weight=True)]
)
def test_values_as_text(value: Value) -> None:
    assert Value.parse(str(value)) == value


def test_what_is_no_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="'3xx4' is no shape"):
        Value.parse("3xx4")


def test_other_runtimes_do_not_tell() -> None:
    with pytest.raises(
        KernelError, match="kernels of runtime 'openvino' cannot be told; choose a device of onnxruntime"
    ):
        read_kernels(b"", Setting(runtime="openvino"))


def test_free_sizes_are_refused() -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "tokens"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ModelError, match="input 'x' has free dimensions"):
        read_kernels(onnx.ModelProto.SerializeToString(model), SETTING)
