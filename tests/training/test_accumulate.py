"""Steps in parts, and steps that do not fit into memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from ofa.inputs import Inputs
from ofa.training import NotEnoughMemoryError, Run, load_recipe, train, trainer
from ofa.training.checkpoint import checkpoints_in
from ofa.training.memory import attempt, parts_that_fit

from .conftest import tiny_recipe
from .test_trainer import SMALL, Killed, assert_same_result, killer

NO_BATCH_NORM = (
    *SMALL,
    "model.name=test_vit",
    "model.resolution=[160]",
    "model.zero_init=false",
    "model.drop_rate=0",
    "train.epochs=1",
    "train.average_epochs=0",
    "train.optimizer=momentum",
    "data.limit=32",
)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("bignas", ()),
        ("bignas", ("train.accumulate=5",)),  # parts of 3 and 4 images
        ("bignas", ("strategy.remove_conflicts=true", "data.mixup=0.5")),
        pytest.param("attentivenas", ("strategy.sampler.num_random=1",), marks=pytest.mark.slow),
        pytest.param("multi_arch", ("strategy.sampler.num_random=2",), marks=pytest.mark.slow),
        pytest.param("progressive_shrinking", ("train.epochs=3", "train.learning_rate=0.01"), marks=pytest.mark.slow),
    ],
    ids=["sandwich", "odd", "conflicts", "attentive", "multi_arch", "frozen_teacher"],
)
def test_without_batch_norm_a_step_in_parts_is_the_step(recipe: str, words: tuple[str, ...], tmp_path: Path) -> None:
    whole = train(load_recipe(recipe, (*NO_BATCH_NORM, *words, "train.accumulate=1")), tmp_path / "whole")
    parts = train(load_recipe(recipe, (*NO_BATCH_NORM, "train.accumulate=4", *words)), tmp_path / "parts")
    columns = ["loss_largest", "loss_random", "loss_smallest", "train_macs", "step"]
    metrics, others = (pd.read_csv(run.path / "metrics.csv")[columns] for run in (parts, whole))
    pd.testing.assert_frame_equal(metrics, others, rtol=1e-4)
    found, expected = (load_file(run.path / "supernet.safetensors") for run in (parts, whole))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5)


def test_a_run_in_parts_resumes_to_the_same_bits(tmp_path: Path) -> None:
    recipe = load_recipe("bignas", (*SMALL, "train.epochs=1.5", "train.accumulate=3", "data.mixup=0.5"))
    whole = train(recipe, tmp_path / "whole")
    with pytest.raises(Killed):
        train(recipe, tmp_path / "run", progress=killer(5))
    assert_same_result(train(recipe, tmp_path / "run", resume=True), whole)


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def room_for(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """How many images fit into memory at once, and what is said where they do not."""
    memory: dict[str, Any] = {"images": 1000, "error": torch.OutOfMemoryError("CUDA out of memory.")}
    really = trainer._Trainer._outputs

    def outputs(self: Any, inputs: Inputs, targets: Any, draw: Any) -> Any:
        if len(inputs) > memory["images"]:
            raise memory["error"]
        return really(self, inputs, targets, draw)

    monkeypatch.setattr(trainer._Trainer, "_outputs", outputs)
    return memory


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), marks=pytest.mark.slow),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to"),
    ],
)
def test_what_fits_is_found_by_trying(error: Exception, room_for: dict[str, Any], tmp_path: Path) -> None:
    room_for |= {"images": 10, "error": error}
    message = (
        r"a step of train.batch_size=32 needs more than the \d+ GiB of this machine; train.accumulate=4 \(the same "
        r"step in 4 parts\) was tried and fits, and so does train.batch_size=8; checkpoints are as they were"
    )
    with pytest.raises(NotEnoughMemoryError, match=message) as caught:
        train(tiny_recipe(), tmp_path / "run")
    assert caught.value.exit_status == 2
    with pytest.raises(NotEnoughMemoryError, match=r"train.batch_size=32 in 2 parts needs more .*accumulate=4 .*=16;"):
        train(tiny_recipe("train.accumulate=2"), tmp_path / "two")
    for words in ("train.accumulate=4", "train.batch_size=8"):
        train(tiny_recipe(words, "data.limit=32"), tmp_path / words)


def test_the_run_goes_on_in_parts_from_its_checkpoint(room_for: dict[str, Any], tmp_path: Path) -> None:
    def others_come(done: int, total: int, what: str) -> None:
        room_for["images"] = 20 if done == 4 else room_for["images"]

    out = tmp_path / "run"
    with pytest.raises(NotEnoughMemoryError, match=r"--resume goes on with another train\.accumulate"):
        train(tiny_recipe(), out, progress=others_come)
    assert [path.stem for path in checkpoints_in(out / "checkpoints")] == ["step-000000003"]
    run = train(tiny_recipe("train.accumulate=2"), out, resume=True)
    assert Run.open(out).recipe.train.accumulate == 2 and pd.read_csv(run.path / "metrics.csv")["step"].max() == 6


@pytest.mark.slow
def test_where_nothing_fits_it_is_said(room_for: dict[str, Any], tmp_path: Path) -> None:
    room_for["images"] = 0
    with pytest.raises(NotEnoughMemoryError, match="and so does one image at a time; take a smaller model"):
        train(tiny_recipe(), tmp_path / "run")


def test_it_is_said_wherever_memory_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def values(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nAnd more.")

    monkeypatch.setattr(trainer.SubnetEvaluator, "values", values)
    message = r"training needs more memory than there is \(CUDA .* 2\.00 GiB\.\); lower train\.batch_size, or take"
    with pytest.raises(NotEnoughMemoryError, match=message):
        train(tiny_recipe("train.epochs=1", "data.limit=64"), tmp_path / "run")


def test_other_errors_are_not_taken_for_it() -> None:
    def fail(text: str) -> None:
        raise RuntimeError(text)

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        attempt(lambda: fail("mat1 and mat2 shapes cannot be multiplied"))
    assert attempt(lambda: fail("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")) is None


def test_parts_are_doubled() -> None:
    tried: list[int] = []

    def work(num_parts: int) -> None:
        tried.append(num_parts)
        if num_parts < 10:
            raise MemoryError

    assert parts_that_fit(work, num_parts=1, num_rows=12) == 12
    assert tried == [2, 4, 8, 12]
