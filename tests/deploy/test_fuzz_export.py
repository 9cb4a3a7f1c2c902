"""The fuzzing script: its networks, how it makes a fault small, what it keeps. And the faults that it has found."""

from __future__ import annotations

import csv
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from ofa.deploy import export_onnx
from ofa.deploy.parity import compare_outputs, load_outputs
from ofa.space import Arch
from ofa.supernet import Supernet

SCRIPT = Path(__file__).parents[2] / "scripts" / "fuzz_export.py"
TINY = "ofa_mobilenetv3_tiny"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_export", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_export"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


fuzz_export = load_script()
fuzz_export.RESOLUTIONS = (20, 24, 27, 32)  # fast


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    state = torch.get_rng_state()
    supernet: Supernet = fuzz_export.make_supernet(TINY, 0)
    assert torch.equal(torch.get_rng_state(), state)
    return supernet


@pytest.fixture(scope="module")
def photos() -> Any:
    return fuzz_export.photographs()


class InTorch:
    """Stands for an exporter and its runtime: modules run in torch, and double what a squeeze-excite gives."""

    def __init__(self, *, fault: bool) -> None:
        self.fault = fault

    def export(self, module: nn.Module, input_shape: Sequence[int], folder: Path, dynamic_batch: bool) -> Any:
        return module, 7

    def run(self, model: nn.Module, images: Tensor, batch: int) -> npt.NDArray[np.floating]:
        from torch.utils._python_dispatch import TorchDispatchMode

        class Doubled(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                output = func(*args, **(kwargs or {}))
                return output * 2 if func is torch.ops.aten.hardsigmoid.default else output

        with torch.no_grad():
            if not self.fault:
                return torch.cat([model(part) for part in images.split(batch)]).numpy()
            with Doubled():
                return torch.cat([model(part) for part in images.split(batch)]).numpy()


@pytest.fixture
def in_torch(monkeypatch: pytest.MonkeyPatch, supernet: Supernet, request: pytest.FixtureRequest) -> None:
    stand_in = InTorch(fault=request.param)
    monkeypatch.setattr(fuzz_export.Fuzzer, "export", lambda _, *args: stand_in.export(*args))
    monkeypatch.setattr(fuzz_export.Fuzzer, "run", lambda _, *args: stand_in.run(*args))
    monkeypatch.setattr(fuzz_export, "make_supernet", lambda family, seed: supernet)


def run_main(*arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as exit:
        patch.setattr(sys, "argv", ["fuzz_export.py", "--families", TINY, *arguments])
        fuzz_export.main()
    return int(exit.value.code or 0)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_layer_matters(supernet: Supernet, photos: Any) -> None:
    """A tenth more of any weight or statistic moves the logits by far more than is allowed."""
    fuzzer = fuzz_export.Fuzzer(supernet=supernet, runtime="onnxruntime", photos=photos)
    subnet, images = fuzzer.case(supernet.space.sample(np.random.default_rng(0)), (0, 0))
    with torch.no_grad():
        expected = subnet(images)
        for name, tensor in subnet.state_dict().items():
            if tensor.is_floating_point() and not name.endswith("classifier.bias"):
                before = tensor.clone()
                tensor.mul_(1.1)
                assert (subnet(images) - expected).abs().max() > 3 * fuzz_export.TOLERANCE * expected.abs().max(), name
                tensor.copy_(before)


def test_cases_repeat(supernet: Supernet, photos: Any) -> None:
    fuzzer = fuzz_export.Fuzzer(supernet=supernet, runtime="onnxruntime", photos=photos)
    arch = supernet.space.smallest()
    (subnet, images), (again, same) = fuzzer.case(arch, (0, 1)), fuzzer.case(arch, (0, 1))
    assert torch.equal(images, same) and images.shape == (4, 3, 20, 20)
    with torch.no_grad():
        assert torch.equal(subnet(images), again(images))
    _, others = fuzzer.case(arch, (0, 2))
    assert not torch.equal(images, others)


def test_shrinks_to_what_the_fault_needs(supernet: Supernet, photos: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    space, asked = supernet.space, []

    def check(self: Any, arch: Arch, **_: Any) -> Any:
        asked.append(arch)
        at_fault = int(arch["stage2.depth"]) >= 2 and int(arch["resolution"]) >= 24
        return fuzz_export.Outcome(kind="departs" if at_fault else "")

    monkeypatch.setattr(fuzz_export.Fuzzer, "check", check)
    fuzzer = fuzz_export.Fuzzer(supernet=supernet, runtime="onnxruntime", photos=photos)
    outcome = fuzz_export.Outcome(kind="departs")
    shrunk = fuzzer.shrink(space.largest(), outcome, dynamic_batch=False, seed=(0, 0))
    genes = space.to_population(space.smallest())
    genes[0, space.column("stage2.depth")] = space["stage2.depth"].index(2)
    genes[0, space.column("resolution")] = space["resolution"].index(24)
    assert shrunk == space.to_archs(space.canonical(genes))[0]
    assert len(asked) <= fuzz_export.MAX_SHRINKING_EXPORTS


@pytest.mark.parametrize("in_torch", [True], indirect=True)
@pytest.mark.usefixtures("in_torch")
def test_fault_is_reported_with_a_small_case_and_its_layer(tmp_path: Path, supernet: Supernet) -> None:
    out = tmp_path / "new" / "fuzz.csv"
    assert run_main("--num-archs", "1", "--out", str(out)) == 1
    (row,) = read(out)
    assert row["ok"] == "no" and float(row["max_abs_difference"]) > float(row["limit"])
    assert f"smallest architecture: {supernet.space.smallest().to_json()}" in row["fault"]
    assert "; blocks.2.0.se.gate (hardsigmoid) departs by" in row["fault"]


@pytest.mark.parametrize("in_torch", [False], indirect=True)
@pytest.mark.usefixtures("in_torch")
def test_rows_are_kept_and_a_torn_one_is_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "fuzz.csv"
    assert run_main("--num-archs", "3", "--out", str(out)) == 0
    rows, text = read(out), out.read_text()
    assert [row["dynamic_batch"] for row in rows] == ["no", "yes", "no"]
    assert [row["ok"] for row in rows] == ["yes"] * 3 and {row["num_nodes"] for row in rows} == {"7"}
    out.write_text(text[:-20])
    capsys.readouterr()
    assert run_main("--num-archs", "3", "--out", str(out), "--resume") == 0
    assert out.read_text() == text
    assert capsys.readouterr().out.count("px, difference") == 1


@pytest.mark.slow
def test_real_export_agrees(tmp_path: Path) -> None:
    out = tmp_path / "fuzz.csv"
    assert run_main("--num-archs", "1", "--out", str(out)) == 0
    (row,) = read(out)
    assert row["ok"] == "yes" and int(row["num_nodes"]) > 20
    assert 0 < float(row["max_abs_difference"]) < 0.2 * float(row["limit"])


# -- found by it ------------------------------------------------------------------------------------------------------


class Caching(nn.Module):
    """Keeps a tensor for the next call, as LeViT does with attention biases."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.arange(5.0))
        self.linear = nn.Linear(12, 5)
        self.cache: dict[str, Tensor] = {}

    def forward(self, images: Tensor) -> Tensor:
        if "bias" not in self.cache:
            self.cache["bias"] = self.bias[torch.tensor([4, 3, 2, 1, 0])]
        return self.linear(images.flatten(1)) + self.cache["bias"]


def test_export_leaves_nothing_in_a_cache(tmp_path: Path) -> None:
    """What the exporter computes with stood in the module's own cache, and its next call failed."""
    network = Caching().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_onnx(network, (3, 2, 2), tmp_path / "model.onnx")
    assert network.cache == {}
    images = torch.ones(1, 3, 2, 2)
    assert torch.equal(network(images), network.linear(images.flatten(1)) + network.bias.flip(0))


class Attention(nn.Module):
    """Its mask is computed from a parameter, as MaxViT does with relative positions."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(3, 24)
        self.biases = nn.Parameter(torch.randn(2, 9, generator=torch.Generator().manual_seed(0)))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.qkv(images.flatten(2).transpose(1, 2))
        query, key, value = tokens.view(len(images), 9, 2, 12).transpose(1, 2).chunk(3, dim=3)
        mask = self.biases[:, torch.arange(81).view(9, 9) % 9][None]
        output = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return output.transpose(1, 2).reshape(len(images), 3, 3, -1).mean((1, 2))


def test_masks_of_attention_may_be_learned(tmp_path: Path) -> None:
    """What was traced with gradients had another layout than what was exported, and a view of it failed."""
    network = Attention().eval()
    path = export_onnx(network, (3, 3, 3), tmp_path / "model.onnx")
    images = torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(images).numpy()
    assert compare_outputs(expected, load_outputs(path)(images.numpy()), what="the file", tolerance=1e-4) < 1e-5
