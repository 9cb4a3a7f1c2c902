"""The trainer on a few images of digits."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from ofa.files import FileFormatError
from ofa.training import DivergedError, Run, RunError, build_supernet, train
from ofa.training.checkpoint import checkpoints_in, load_checkpoint
from ofa.training.recipe import Recipe, TrainConfig
from ofa.training.trainer import learning_rate

from .conftest import tiny_recipe

LOSSES = ["loss_largest", "loss_random", "loss_smallest"]


class Killed(BaseException):
    """Stands for a signal."""


def killer(at_step: int) -> Callable[[int, int, str], None]:
    def progress(done: int, total: int, what: str) -> None:
        if what.startswith("epoch") and done == at_step:
            raise Killed

    return progress


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.path / "supernet.safetensors")


def assert_same_result(first: Run, second: Run) -> None:
    assert first.weights_sha256 == second.weights_sha256
    columns = ["epoch", "step", "learning_rate", *LOSSES, "largest_top1_percent", "smallest_top1_percent"]
    metrics, others = (pd.read_csv(run.path / "metrics.csv")[columns] for run in (first, second))
    pd.testing.assert_frame_equal(metrics, others, check_exact=True)


def test_a_run_leaves_what_the_contract_says(trained: Run) -> None:
    names = {path.name for path in trained.path.iterdir()}
    assert names == {"supernet.safetensors", "supernet.json", "metrics.csv", "tensorboard", "checkpoints"}
    assert list((trained.path / "tensorboard").glob("events.out.tfevents.*"))
    metrics = pd.read_csv(trained.path / "metrics.csv")
    assert metrics["epoch"].tolist() == [1, 2]
    assert metrics["step"].tolist() == [3, 6]
    assert np.isfinite(metrics[LOSSES]).all(axis=None)
    assert metrics["largest_top1_percent"].isna().tolist() == [True, False]


def test_the_same_recipe_gives_the_same_bits_whatever_the_global_seed(trained: Run, tmp_path: Path) -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()
    again = train(tiny_recipe(), tmp_path / "again", resume=True)  # where there is nothing to resume, it starts
    assert_same_result(again, trained)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("at_step", [2, 5])
def test_a_killed_run_resumes_to_the_same_bits(trained: Run, tmp_path: Path, at_step: int) -> None:
    out = tmp_path / "run"
    with pytest.raises(Killed):
        train(tiny_recipe(), out, progress=killer(at_step))
    assert len(checkpoints_in(out / "checkpoints")) == (at_step - 1) // 3
    assert not (out / "supernet.json").exists()
    assert_same_result(train(tiny_recipe(), out, resume=True), trained)


def test_adamw_with_clipping_resumes_to_the_same_bits(tmp_path: Path) -> None:
    recipe = tiny_recipe(
        "train.optimizer=adamw", "train.learning_rate=1e-3", "train.clip_grad_norm=1", "train.ema_decay=0"
    )
    whole = train(recipe, tmp_path / "whole")
    with pytest.raises(Killed):
        train(recipe, tmp_path / "killed", progress=killer(5))
    assert_same_result(train(recipe, tmp_path / "killed", resume=True), whole)


def test_another_seed_gives_other_weights(trained: Run, tmp_path: Path) -> None:
    other = train(tiny_recipe("train.seed=1"), tmp_path / "other")
    assert other.weights_sha256 != trained.weights_sha256
    assert other.info["data"]["splits"] == trained.info["data"]["splits"]


def test_an_existing_run_is_not_overwritten(trained: Run) -> None:
    before = (trained.path / "supernet.json").read_bytes()
    with pytest.raises(RunError, match="already holds a run; continue it with --resume, or choose another --out"):
        train(tiny_recipe(), trained.path)
    assert (trained.path / "supernet.json").read_bytes() == before


def test_resuming_a_finished_run_does_nothing(trained: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.path.rglob("*")}
    assert train(tiny_recipe(), trained.path, resume=True) == Run.open(trained.path)
    assert {path: path.stat().st_mtime_ns for path in trained.path.rglob("*")} == before


@pytest.mark.parametrize("finished", [True, False])
def test_resuming_with_another_recipe_names_the_key(trained: Run, tmp_path: Path, finished: bool) -> None:
    out = Path(shutil.copytree(trained.path, tmp_path / "run"))
    if not finished:
        (out / "supernet.json").unlink()
    message = r"was started with another recipe \(different: data.limit, train.epochs\); choose another --out"
    with pytest.raises(RunError, match=message):
        train(tiny_recipe("train.epochs=3", "data.limit=64"), out, resume=True)


def test_a_truncated_checkpoint_can_be_deleted_for_the_one_before(trained: Run, tmp_path: Path) -> None:
    out = Path(shutil.copytree(trained.path, tmp_path / "run"))
    (out / "supernet.json").unlink()
    latest = checkpoints_in(out / "checkpoints")[-1]
    latest.write_bytes(latest.read_bytes()[:1000])
    with pytest.raises(
        FileFormatError, match=f"{latest.name} is truncated or damaged .* delete it to use the one before"
    ):
        train(tiny_recipe(), out, resume=True)
    latest.unlink()
    assert_same_result(train(tiny_recipe(), out, resume=True), trained)


def test_checkpoints_are_pruned(tmp_path: Path) -> None:
    run = train(tiny_recipe("train.epochs=3", "train.keep_checkpoints=1", "data.limit=64"), tmp_path / "run")
    assert [path.stem for path in checkpoints_in(run.path / "checkpoints")] == ["epoch-00003"]


def test_divergence_names_the_step_and_what_to_do(tmp_path: Path) -> None:
    recipe = tiny_recipe("train.learning_rate=1e30", "train.warmup_epochs=0")
    message = (
        r"the loss of the (largest|random|smallest) subnet is not finite at step \d+ \(learning rate \S+e\+\d+, "
        r"\{.*\}\); "
        r"last good checkpoint: none yet; lower train.learning_rate or set train.clip_grad_norm=1"
    )
    with pytest.raises(DivergedError, match=message):
        train(recipe, tmp_path / "run")
    assert not checkpoints_in(tmp_path / "run" / "checkpoints")


def test_ema_is_what_the_run_leaves(trained: Run) -> None:
    groups, _ = load_checkpoint(checkpoints_in(trained.path / "checkpoints")[-1])
    left = weights(trained)
    name = "classifier.weight"
    assert torch.equal(left[name], groups["ema"][f"model.{name}"])
    assert not torch.equal(left[name], groups["model"][f"model.{name}"])


def test_without_ema_the_run_leaves_the_weights_that_trained(tmp_path: Path) -> None:
    run = train(tiny_recipe("train.epochs=1", "train.ema_decay=0", "data.limit=64"), tmp_path / "run")
    groups, _ = load_checkpoint(checkpoints_in(run.path / "checkpoints")[-1])
    assert "ema" not in groups
    for name, tensor in weights(run).items():
        assert torch.equal(tensor, groups["model"][f"model.{name}"])


def test_training_learns_and_distils(tmp_path: Path) -> None:
    recipe = tiny_recipe("train.epochs=6", "train.ema_decay=0", "data.limit=128")
    metrics = pd.read_csv(train(recipe, tmp_path / "run").path / "metrics.csv")
    assert metrics["loss_largest"].iloc[-1] < 0.7 * metrics["loss_largest"].iloc[0]
    assert metrics["largest_top1_percent"].iloc[-1] > 50  # of ten classes


@pytest.mark.parametrize("distillation", ["in_place", "none"])
def test_first_step_is_the_sandwich_by_hand(tmp_path: Path, distillation: str) -> None:
    """One step of SGD (timm's "sgd" adds Nesterov's) follows the summed gradients of the losses, written out."""
    recipe = tiny_recipe(
        "train.epochs=1",
        "train.batch_size=64",
        "data.limit=64",
        "train.warmup_epochs=0",
        "train.weight_decay=0",
        "train.ema_decay=0",
        "train.optimizer=momentum",
        "train.label_smoothing=0",
        f"train.distillation={distillation}",
    )
    run = train(recipe, tmp_path / "run")
    state = _state_before_training(recipe, tmp_path / "before")
    supernet = build_supernet(recipe.model, num_classes=10)
    supernet.load_state_dict(state)
    supernet.train()
    data = run.data()
    ((images, labels),) = data.train_batches(epoch=0, batch_size=64, seed=0)
    images = images.to(memory_format=torch.channels_last)
    space = supernet.space
    rng = np.random.default_rng([0, 0])
    (middle,) = space.to_archs(space.sample_population(1, rng))
    teacher = supernet(images, space.largest())
    loss = torch.nn.functional.cross_entropy(teacher, labels)
    for arch in (middle, space.smallest()):
        logits = supernet(images, arch)
        soft = -(teacher.detach().softmax(1) * logits.log_softmax(1)).sum(1).mean()
        loss = loss + (soft if distillation == "in_place" else torch.nn.functional.cross_entropy(logits, labels))
    loss.backward()
    trained = weights(run)
    for name, parameter in supernet.model.named_parameters():
        expected = parameter.detach() - recipe.train.learning_rate * (0 if parameter.grad is None else parameter.grad)
        torch.testing.assert_close(trained[name], expected.contiguous(), atol=1e-5, rtol=1e-4)


def _state_before_training(recipe: Recipe, out: Path) -> dict[str, torch.Tensor]:
    """Initial weights: those that a run with a vanishing learning rate leaves."""
    values = recipe.to_json()
    values["train"]["learning_rate"] = 1e-30
    run = train(Recipe.from_json(values, where="test"), out)
    state = {f"model.{name}": tensor for name, tensor in weights(run).items()}
    for name, tensor in state.items():
        if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            tensor.fill_(float(name.endswith("var")))
    return state


def test_learning_rate_schedule_by_hand() -> None:
    config = TrainConfig(epochs=4, warmup_epochs=1, learning_rate=0.8)
    rates = [learning_rate(step, 3, config) for step in range(12)]
    np.testing.assert_allclose(rates[:3], [0.2, 0.4, 0.6])
    assert rates[3] == 0.8
    np.testing.assert_allclose(rates[3:], [0.4 * (1 + math.cos(math.pi * k / 9)) for k in range(9)])
    assert rates == sorted(rates[:3]) + sorted(rates[3:], reverse=True)
    assert 0 < rates[-1] < 0.03


def test_recipe_is_kept_with_the_run(trained: Run) -> None:
    assert (
        Recipe.from_json(json.loads((trained.path / "supernet.json").read_text())["recipe"], where="run")
        == tiny_recipe()
    )
