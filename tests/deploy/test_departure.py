"""Locating faults that were put into a known layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ofa.deploy import export_onnx
from ofa.deploy.departure import Departure, first_departure

TOLERANCE = 1e-4
aten = torch.ops.aten

Fault = Callable[[Any, tuple[Any, ...], Any], Any]
"""What an operator gives instead, of the operator, its arguments and its output."""


class Tiny(nn.Module):
    """Two branches, squeeze-excite, and a module that adds twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.Hardswish(True))
        self.left1, self.left2 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.right1, self.right2 = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.act = nn.Hardswish(inplace=True)
        self.reduce, self.gate = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        left = self.left2(self.left1(x).relu())
        right = self.right2(self.right1(x).relu())
        x = self.act(x + left + right)
        x = x * self.gate(self.reduce(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.head(x.mean((2, 3)))


LAYERS = [name for name, layer in Tiny().named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]


@pytest.fixture(scope="module")
def tiny() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    network = Tiny().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
        network.stem[1].running_var.uniform_(0.5, 2, generator=generator)
    return network.requires_grad_(False)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class _Faulty(TorchDispatchMode):
    def __init__(self, fault: Fault) -> None:
        super().__init__()
        self.fault = fault

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.fault(func, args, func(*args, **(kwargs or {})))


class Runner:
    """Runs modules in torch, where some operators are at fault, and counts them."""

    def __init__(self, fault: Fault, *, together: bool = False) -> None:
        self.fault, self.together, self.num_exports = fault, together, 0

    def __call__(self, module: nn.Module, images: Tensor) -> npt.NDArray[np.floating]:
        assert not module.training
        self.num_exports += 1
        with torch.no_grad(), _Faulty(self.fault):
            return torch.cat([module(part) for part in (images.split(len(images) if self.together else 1))]).numpy()


def faultless(func: Any, args: tuple[Any, ...], output: Any) -> Any:
    return output


def scaled(weight: Tensor) -> Fault:
    """What the layer with this weight gives is 1 % too large."""

    def fault(func: Any, args: tuple[Any, ...], output: Any) -> Any:
        pointers = {value.data_ptr() for value in args if isinstance(value, Tensor)}
        return output * 1.01 if func in (aten.convolution.default, aten.addmm.default) and pointers & own else output

    own = {weight.data_ptr()}
    return fault


def relu_for_hardswish(func: Any, args: tuple[Any, ...], output: Any) -> Any:
    return args[0].clamp_(min=0) if func is aten.hardswish_.default else output


@pytest.mark.parametrize("layer", LAYERS)
def test_faulty_layer_is_found(tiny: nn.Module, images: Tensor, layer: str) -> None:
    runner = Runner(scaled(tiny.get_submodule(layer).weight))  # type: ignore[arg-type]
    departure = first_departure(tiny, images, runner, tolerance=TOLERANCE)
    assert departure is not None
    assert departure.layer == f"{layer} ({'linear' if layer == 'head' else 'conv2d'})"
    assert departure.difference / departure.limit == pytest.approx(0.01 / TOLERANCE, rel=0.1)
    assert departure.input_share == 0
    assert departure.num_exports == runner.num_exports <= 11  # of 20 operators, in branches


def test_faulty_kind_of_layer_is_found_where_it_is_first(tiny: nn.Module, images: Tensor) -> None:
    departure = first_departure(tiny, images, Runner(relu_for_hardswish), tolerance=TOLERANCE)
    assert departure is not None and departure.layer == "stem.2 (hardswish)"


def test_operators_of_one_module_are_told_apart(tiny: nn.Module, images: Tensor) -> None:
    adds: list[Tensor] = []

    def fault(func: Any, args: tuple[Any, ...], output: Any) -> Any:
        if func is not aten.add.Tensor:
            return output
        adds.append(output)
        # The second sum takes what the first gave.
        return output + 1 if len(adds) > 1 and args[0] is adds[-2] else output

    departure = first_departure(tiny, images, Runner(fault), tolerance=TOLERANCE)
    assert departure is not None and departure.layer == "the network itself (add, 2 of 2)"


def test_none_where_all_agrees(tiny: nn.Module, images: Tensor) -> None:
    runner = Runner(faultless)
    assert first_departure(tiny, images, runner, tolerance=TOLERANCE) is None
    assert runner.num_exports == 1


def test_few_exports_for_a_deep_network() -> None:
    network = nn.Sequential(*(nn.Conv2d(2, 2, 1) for _ in range(150))).eval().requires_grad_(False)
    for layer in network:
        nn.init.orthogonal_(layer.weight, generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    images = torch.randn(1, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    runner = Runner(scaled(network[97].weight))  # type: ignore[arg-type]
    departure = first_departure(network, images, runner, tolerance=TOLERANCE)
    assert departure is not None and departure.layer == "97 (conv2d)"
    assert departure.num_exports == runner.num_exports <= 10


def test_growing_rounding_is_told_from_a_fault(tiny: nn.Module, images: Tensor) -> None:
    def fault(func: Any, args: tuple[Any, ...], output: Any) -> Any:
        return output * (1 + 0.4 * TOLERANCE) if func is aten.convolution.default else output

    departure = first_departure(tiny, images, Runner(fault), tolerance=TOLERANCE)
    assert departure is not None and departure.layer is not None
    assert departure.difference < 2 * departure.limit
    assert 0.5 < departure.input_share <= 1


def test_fault_that_no_prefix_has(tiny: nn.Module, images: Tensor) -> None:
    def run(module: nn.Module, images: Tensor) -> npt.NDArray[np.floating]:
        outputs = Runner(faultless)(module, images)
        return outputs + 1 if hasattr(module, "stem") else outputs

    departure = first_departure(tiny, images, run, tolerance=TOLERANCE)
    assert departure is not None and departure.layer is None and departure.num_exports == 2
    assert departure.difference == pytest.approx(1)
    assert str(departure).startswith("the network departs by 1, where")
    assert str(departure).endswith("but not as a graph of operators")


def test_description() -> None:
    departure = Departure(layer="a (conv2d)", difference=0.5, limit=1e-3, input_share=0.02, num_exports=5)
    assert (
        str(departure)
        == "a (conv2d) departs by 0.5, where 0.001 is allowed; its inputs depart by 0.02 of what they may"
    )


def test_nans_and_shapes_depart(tiny: nn.Module, images: Tensor) -> None:
    def nan(func: Any, args: tuple[Any, ...], output: Any) -> Any:
        return output * float("nan") if func is aten.sigmoid.default else output

    departure = first_departure(tiny, images, Runner(nan), tolerance=TOLERANCE)
    assert (
        departure is not None and departure.layer == "the network itself (sigmoid)" and np.isnan(departure.difference)
    )

    def one_image(module: nn.Module, images: Tensor) -> npt.NDArray[np.floating]:
        return Runner(faultless)(module, images)[:1]

    departure = first_departure(tiny, images, one_image, tolerance=TOLERANCE)
    assert departure is not None and departure.layer == "stem.0 (conv2d)" and departure.difference == np.inf


def test_infinities_agree(images: Tensor) -> None:
    class Masked(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.masked_fill(images < 0, float("-inf")).softmax(3).mean((2, 3))

    def fault(func: Any, args: tuple[Any, ...], output: Any) -> Any:
        return output * 2 if func is aten._softmax.default else output

    departure = first_departure(Masked().eval(), images, Runner(fault), tolerance=TOLERANCE)
    assert departure is not None and departure.layer == "the network itself (softmax)"


def test_fault_of_free_batches_only(tiny: nn.Module, images: Tensor) -> None:
    def fault(func: Any, args: tuple[Any, ...], output: Any) -> Any:
        return output * 2 if func is aten.sigmoid.default and len(output) > 1 else output

    assert first_departure(tiny, images, Runner(fault), tolerance=TOLERANCE) is None
    runner = Runner(fault, together=True)
    departure = first_departure(tiny, images, runner, tolerance=TOLERANCE, dynamic_batch=True)
    assert departure is not None and departure.layer == "the network itself (sigmoid)"
    assert departure.num_exports == runner.num_exports


class Caching(nn.Module):
    """Keeps a tensor for the next call, as LeViT does with attention biases."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.arange(5.0))
        self.linear = nn.Linear(192, 5)
        self.cache: dict[str, Tensor] = {}

    def forward(self, images: Tensor) -> Tensor:
        if "bias" not in self.cache:
            self.cache["bias"] = self.bias[torch.tensor([4, 3, 2, 1, 0])]
        return self.linear(images.flatten(1)) + self.cache["bias"]


def test_module_is_left_as_it_is(images: Tensor) -> None:
    network = Caching().eval()
    runner = Runner(scaled(network.linear.weight))
    departure = first_departure(network, images, runner, tolerance=TOLERANCE)
    assert departure is not None and departure.layer == "linear (linear)"
    assert network.cache == {}


def test_mistakes(tiny: nn.Module, images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"training mode; call .eval\(\)"):
        first_departure(nn.Conv2d(3, 4, 3), images, Runner(faultless), tolerance=TOLERANCE)
    with pytest.raises(ValueError, match="no images"):
        first_departure(tiny, images[:0], Runner(faultless), tolerance=TOLERANCE)


def test_fault_in_an_onnx_file(images: Tensor, tmp_path: Path) -> None:
    """Hard swish as another activation: whatever follows is wrong too."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Hardswish(), nn.Flatten(), nn.Linear(144, 5)
    ).eval()
    faulty = True

    def run(module: nn.Module, images: Tensor) -> npt.NDArray[np.floating]:
        from onnxruntime import InferenceSession

        path = export_onnx(module, tuple(images.shape[1:]), tmp_path / "model.onnx")
        model = onnx.load(path)
        for node in model.graph.node if faulty else ():
            node.op_type = "Softsign" if node.op_type == "HardSwish" else node.op_type
        session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return np.concatenate([session.run(None, {"images": image[None].numpy()})[0] for image in images])

    departure = first_departure(network, images, run, tolerance=TOLERANCE)
    assert departure is not None and departure.layer == "2 (hardswish)"
    assert departure.input_share < 0.1
    assert departure.num_exports <= 5
    faulty = False
    assert first_departure(network, images, run, tolerance=TOLERANCE) is None
