"""Batch normalisation over processes: two of them compute what one does on the joined mini-batch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional

import ofa
from ofa.training import Run, sync_batch_norm, train
from ofa.training.sync_batch_norm import SyncBatchNorm

from .conftest import TINY, tiny_recipe

PARTS = (slice(0, 5), slice(5, 8))  # of a batch of eight, unequal
LOSSES = ["loss_largest", "loss_random", "loss_smallest"]


def images(*shape: int, seed: int = 0) -> Tensor:
    """Far from zero, where a variance from squares would lose digits; each row another distribution."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(8, *shape, generator=generator, dtype=torch.float64)
    return (values * torch.arange(1, 9).view(8, *(1 for _ in shape)) + 100).requires_grad_()


def layer(make: Callable[[], nn.Module], *shape: int) -> tuple[nn.Module, list[Tensor]]:
    norm = make().double().train()
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, 0.5, 2)
    return norm, [images(*shape)]


def a_supernet(model: nn.Module, size: int, **choices: Any) -> tuple[nn.Module, list[Tensor]]:
    supernet = ofa.elasticize(model, torch.zeros(1, 3, size, size), **choices).double().train()
    return Subnets(supernet), [images(3, size, size)]


class Subnets(nn.Module):
    """The logits of the largest and the smallest subnet, side by side."""

    def __init__(self, supernet: Any) -> None:
        super().__init__()
        self.supernet = supernet

    def forward(self, x: Tensor) -> Tensor:
        space = self.supernet.space
        return torch.cat([self.supernet(x, space.largest()), self.supernet(x, space.smallest())], dim=1)


CASES: dict[str, Callable[[], tuple[nn.Module, list[Tensor]]]] = {
    "1d": lambda: layer(lambda: nn.BatchNorm1d(3), 3),
    "1d along time": lambda: layer(lambda: nn.BatchNorm1d(3), 3, 4),
    "2d": lambda: layer(lambda: nn.BatchNorm2d(3), 3, 4, 5),
    "3d": lambda: layer(lambda: nn.BatchNorm3d(2), 2, 2, 2, 3),
    "plain": lambda: layer(lambda: nn.BatchNorm2d(3, affine=False), 3, 4, 4),
    "no statistics": lambda: layer(lambda: nn.BatchNorm2d(3, track_running_stats=False), 3, 4, 4),
    "mean statistics": lambda: layer(lambda: nn.BatchNorm2d(3, momentum=None), 3, 4, 4),
    "timm": lambda: layer(lambda: BatchNormAct2d(3), 3, 4, 4),
    "supernet": lambda: a_supernet(timm.create_model("test_efficientnet", num_classes=4), 64, expand=["50%", "100%"]),
}


def computed(name: str, rows: slice) -> dict[str, Tensor]:
    """Output, gradients and buffers for some rows of the mini-batch."""
    torch.manual_seed(0)
    model, inputs = CASES[name]()
    outputs = model(*(tensor[rows] for tensor in inputs))
    weights = torch.linspace(-1, 1, 8, dtype=outputs.dtype)[rows].view(-1, *(1 for _ in outputs.shape[1:]))
    (outputs**3 * weights).sum().backward()
    found = {"output": outputs.detach()}
    found |= {f"gradient of input {i}": tensor.grad[rows] for i, tensor in enumerate(inputs) if tensor.grad is not None}
    found |= {f"gradient of {key}": each.grad for key, each in model.named_parameters() if each.grad is not None}
    return found | {f"buffer {key}": each.clone() for key, each in model.named_buffers()}


def main(rank: int, folder: Path) -> None:
    """What each of the two processes does."""
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    with SyncBatchNorm():
        found = {name: computed(name, PARTS[rank]) for name in CASES}
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    folder = tmp_path_factory.mktemp("both")
    script = "import sys, pathlib; from training.test_sync_batch_norm import main; "
    script += "main(int(sys.argv[1]), pathlib.Path(sys.argv[2]))"
    root = Path(__file__).parents[2]
    path = os.pathsep.join((str(root), str(root / "tests"), os.environ.get("PYTHONPATH", "")))
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(rank), str(folder)], env={**os.environ, "PYTHONPATH": path})
        for rank in (0, 1)
    ]
    assert [process.wait() for process in processes] == [0, 0]
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_compute_what_one_does(name: str, found: list[dict[str, dict[str, Tensor]]]) -> None:
    alone, both = computed(name, slice(0, 8)), [each[name] for each in found]
    assert set(alone) == set(both[0]) == set(both[1])
    for key, expected in alone.items():
        mine = [each[key] for each in both]
        if key == "output" or key.startswith("gradient of input"):
            torch.testing.assert_close(torch.cat(mine), expected, rtol=1e-7, atol=1e-7)
        elif key.startswith("gradient"):  # which training sums over processes
            torch.testing.assert_close(sum(mine), expected, rtol=1e-7, atol=1e-7 * float(expected.abs().max()) + 1e-9)
        else:
            for buffer in mine:
                torch.testing.assert_close(buffer, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["2d", "supernet"])
def test_without_it_they_do_not(name: str) -> None:
    """The cases tell: rows alone give something else."""
    alone, part = computed(name, slice(0, 8))["output"], computed(name, PARTS[0])["output"]
    assert float((alone[PARTS[0]] - part).abs().max()) > 1e-3


# -- what it leaves alone ----------------------------------------------------------------------------------------------


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_outside_training_it_is_torchs(one_process: None) -> None:
    norm, x = nn.BatchNorm2d(3).eval(), images(3, 4, 4).float()
    expected = norm(x)
    with SyncBatchNorm():
        assert torch.equal(norm(x), expected)
        assert torch.equal(nn.LayerNorm(4)(x), nn.LayerNorm(4)(x))


def test_half_precision_is_computed_in_single(one_process: None) -> None:
    x = images(3, 4, 4).detach().bfloat16()
    with SyncBatchNorm():
        found = functional.batch_norm(x, None, None, torch.ones(3), torch.zeros(3), training=True)
    expected = functional.batch_norm(x.float(), None, None, training=True)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected.bfloat16())


def test_in_one_process_it_says_that_it_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def batch_norm(*args: object, **kwargs: object) -> None:
        raise AssertionError("used")

    monkeypatch.setattr(sync_batch_norm, "batch_norm", batch_norm)
    said: list[str] = []
    words = ("train.sync_batch_norm=true", "train.epochs=1", "train.warmup_epochs=0")
    train(tiny_recipe(*words), tmp_path / "run", progress=lambda done, total, what: said.append(what))
    assert "train.sync_batch_norm changes nothing in one process; torchrun starts several" in said


# -- in training -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """One step, after which rounding grows: of torch's own kernel it is a thousandth of the first layer's gradient."""
    words = ["train.epochs=0.34", "train.warmup_epochs=0", "train.ema_decay=0", "model.drop_rate=0"]
    alone = train(tiny_recipe(*words), tmp_path / "alone")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "ofa"]
    command = [*torchrun, "train", "demo", *TINY, *words, "train.sync_batch_norm=true", "--out", str(tmp_path / "both")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    both = Run.open(tmp_path / "both")
    first, second = (pd.read_csv(run.path / "metrics.csv")[LOSSES] for run in (alone, both))
    np.testing.assert_allclose(second, first, rtol=1e-6)
    mine, other = (load_file(run.path / "supernet.safetensors") for run in (both, alone))
    names = [name for name in mine if "num_batches" not in name]
    assert sum(float((mine[name] - other[name]).square().sum()) for name in names) ** 0.5 < 0.02  # else about 2
