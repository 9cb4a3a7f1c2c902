"""The trainer on a few images of digits."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from safetensors.torch import load_file, save_file

from ofa.config import ConfigError
from ofa.cost import macs
from ofa.files import FileFormatError
from ofa.supernet.presets import create_model
from ofa.supernet.weights import WeightsError
from ofa.tasks import Classification
from ofa.training import (
    DivergedError,
    Run,
    RunError,
    StoppedError,
    build_supernet,
    checkpoint,
    list_recipes,
    load_recipe,
    train,
    trainer,
)
from ofa.training.checkpoint import checkpoints_in, load_checkpoint
from ofa.training.recipe import Recipe

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


@pytest.mark.slow
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
    further = f"give another --out and model.weights={trained.path / 'supernet.safetensors'}"
    with pytest.raises(RunError, match=f"already holds a finished run; to train it further, {further}"):
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
    remedy = "to train it further, give another --out" if finished else "choose another --out"
    message = rf"was started with another recipe \(different: data.limit, train.epochs\); {remedy}"
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
    assert [path.stem for path in checkpoints_in(run.path / "checkpoints")] == ["step-000000006"]


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
    recipe = tiny_recipe("train.epochs=8", "train.ema_decay=0", "data.limit=128")
    metrics = pd.read_csv(train(recipe, tmp_path / "run").path / "metrics.csv")
    assert metrics["loss_largest"].iloc[-1] < 0.7 * metrics["loss_largest"].iloc[0]
    assert metrics["largest_top1_percent"].iloc[-1] > 50  # of ten classes


@pytest.mark.parametrize("loss", ["soft_labels", "labels"])
def test_first_step_is_the_sandwich_by_hand(tmp_path: Path, loss: str) -> None:
    """One step of SGD (timm's "sgd" adds Nesterov's) follows the summed gradients of the losses, written out."""
    recipe = tiny_recipe(
        "train.epochs=1",
        "train.batch_size=64",
        "data.limit=64",
        "train.warmup_epochs=0",
        "train.weight_decay=0",
        "train.ema_decay=0",
        "train.optimizer=momentum",
        f"strategy.loss={{name: {loss}, label_smoothing: 0}}",
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
    rng = np.random.default_rng([0, 0, 0, 1])
    (middle,) = space.to_archs(space.sample_population(1, rng))
    teacher = supernet(images, space.largest())
    total = torch.nn.functional.cross_entropy(teacher, labels)
    for arch in (middle, space.smallest()):
        logits = supernet(images, arch)
        soft = -(teacher.detach().softmax(1) * logits.log_softmax(1)).sum(1).mean()
        total = total + (soft if loss == "soft_labels" else torch.nn.functional.cross_entropy(logits, labels))
    total.backward()
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


def test_recipe_is_kept_with_the_run(trained: Run) -> None:
    assert (
        Recipe.from_json(json.loads((trained.path / "supernet.json").read_text())["recipe"], where="run")
        == tiny_recipe()
    )


# -- every packaged strategy -----------------------------------------------------------------------------------------

SMALL = (
    "data.name=digits",
    "data.limit=64",
    "data.search_share=32",
    "data.calibration_share=32",
    "model.resolution=[16, 20]",
    "train.epochs=3.5",
    "train.batch_size=16",
    "train.warmup_epochs=0.5",
    "train.eval_every_epochs=0",
    "train.device=cpu",
    "train.average_epochs=2",
    "model.drop_rate=0.2",
)


SIMILAR = ("alphanet", "attentivenas", "compofa", "deps", "finetune", "multi_arch", "plain", "sortednet")
"""To others of the packaged recipes."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in SIMILAR))
        for name in list_recipes()
        if name not in ("demo", "instatune", "stitch")
        and not name.startswith("imagenet_")  # the same strategies, at rates for other data
        and load_recipe(name).task == Classification()
    ],
)
def test_every_strategy_resumes_to_the_same_bits_from_the_middle_of_an_epoch(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, SMALL)
    whole = train(recipe, tmp_path / "whole")
    assert pd.read_csv(whole.path / "metrics.csv")["step"].tolist() == [4, 8, 12, 14]

    def stop(done: int, total: int, what: str) -> None:
        if what.startswith("epoch") and done in (3, 10):
            os.kill(os.getpid(), signal.SIGTERM)  # noted now, seen in the step after

    for steps in (4, 11):
        with pytest.raises(StoppedError, match=f"stopped by SIGTERM at step {steps} of 14; .* continue with --resume"):
            train(recipe, tmp_path / "run", resume=True, progress=stop)
        assert checkpoints_in(tmp_path / "run" / "checkpoints")[-1].stem == f"step-{steps:09d}"
    assert_same_result(train(recipe, tmp_path / "run", resume=True), whole)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("strategy.remove_conflicts=true",), marks=pytest.mark.slow),
        pytest.param(
            ("strategy.resolution=per_batch", "model.drop_path_rate=0.2", "strategy.drop=all"), marks=pytest.mark.slow
        ),
        ("data.mixup=0.5", "data.auto_augment=rand_augment", "train.optimizer=adamw", "train.learning_rate=0.001"),
    ],
)
def test_options_resume_to_the_same_bits(options: tuple[str, ...], tmp_path: Path) -> None:
    recipe = load_recipe("bignas", (*SMALL, "train.epochs=1.5", *options))
    whole = train(recipe, tmp_path / "whole")
    with pytest.raises(Killed):
        train(recipe, tmp_path / "run", progress=killer(5))
    assert_same_result(train(recipe, tmp_path / "run", resume=True), whole)


def test_train_macs_by_hand(tmp_path: Path) -> None:
    """Images × MACs, a training pass counted as three forward passes."""
    run = train(load_recipe("plain", SMALL), tmp_path / "run")
    supernet = run.supernet()
    per_image = macs(supernet).predict(supernet.space.largest())[0]
    assert pd.read_csv(run.path / "metrics.csv")["train_macs"].iloc[-1] == pytest.approx(3 * per_image * 14 * 16)


def test_the_smallest_alone_trains_nothing_but_its_own_weights(tmp_path: Path) -> None:
    recipe = load_recipe("plain", (*SMALL, "strategy.sampler.bound=smallest", "train.weight_decay=0"))
    run = train(recipe, tmp_path / "run")
    before = _state_before_training(recipe, tmp_path / "before")
    last_block = "blocks.1.2.conv_pw.weight"  # of a stage that the smallest keeps one block of
    assert torch.equal(weights(run)[last_block], before[f"model.{last_block}"])
    head = "classifier.weight"
    assert not torch.equal(weights(run)[head], before[f"model.{head}"])


def test_another_model_teaches(tmp_path: Path) -> None:
    teacher = create_model("ofa_mobilenetv3_tiny", num_classes=10)
    file = tmp_path / "teacher.safetensors"
    save_file(teacher.state_dict(), file)
    words = (*SMALL, "train.epochs=1", "strategy.teacher=ofa_mobilenetv3_tiny", f"strategy.teacher_weights={file}")
    losses = {}
    for share in (0.5, 1.0):
        run = train(load_recipe("bignas", (*words, f"strategy.teacher_share={share}")), tmp_path / f"run{share}")
        losses[share] = pd.read_csv(run.path / "metrics.csv")[LOSSES].to_numpy()
    assert np.isfinite(losses[0.5]).all()
    assert not np.allclose(losses[0.5], losses[1.0])
    with pytest.raises(WeightsError, match="do not fit MobileNetV3"):
        train(load_recipe("bignas", (*words, "strategy.teacher=mobilenetv3_small_050")), tmp_path / "other")


def test_a_loss_without_its_teacher_is_refused(tmp_path: Path) -> None:
    message = "loss soft_labels needs a teacher, but sampler uniform does not draw .*; use strategy.loss=labels"
    with pytest.raises(ConfigError, match=message):
        train(load_recipe("bignas", (*SMALL, "strategy.sampler=uniform")), tmp_path / "run")


def test_more_subnets_than_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"20 subnets share a mini-batch of 16 images; raise train\.batch_size or"):
        train(load_recipe("multi_arch", (*SMALL, "strategy.sampler.num_random=20")), tmp_path / "run")


def test_fewer_steps_than_phases_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has 6 phases, but the run has 4 steps; raise train\.epochs"):
        train(load_recipe("progressive_shrinking", (*SMALL, "train.epochs=1")), tmp_path / "run")


def test_averaging_is_the_mean_of_the_last_epochs(tmp_path: Path) -> None:
    words = (*SMALL, "train.epochs=3", "train.keep_checkpoints=3")
    run = train(load_recipe("bignas", words), tmp_path / "run")
    last = [load_checkpoint(path)[0]["model"] for path in checkpoints_in(run.path / "checkpoints")[-2:]]
    name = "classifier.weight"
    mean = (last[0][f"model.{name}"] + last[1][f"model.{name}"]) / 2
    torch.testing.assert_close(weights(run)[name], mean)


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("bignas", SMALL)
    whole = train(recipe, tmp_path / "whole")
    really_save = checkpoint.safetensors.torch.save_file
    calls = []

    def save(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        calls.append(path)
        if len(calls) == 3:
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        really_save(tensors, path, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.safetensors.torch, "save_file", save)
        with pytest.raises(OSError, match="No space left"):
            train(recipe, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == [
        "step-000000004.safetensors",
        "step-000000008.safetensors",
    ]
    assert_same_result(train(recipe, tmp_path / "run", resume=True), whole)


# -- processes -------------------------------------------------------------------------------------------------------


def command(recipe: str, out: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "ofa", "train", recipe, *SMALL, *words, "--out", str(out), "--resume"]


@pytest.mark.slow
def test_killed_at_five_random_moments_the_weights_are_the_same(tmp_path: Path) -> None:
    words = ("train.epochs=12", "train.checkpoint_minutes=0.01")
    subprocess.run(command("deps", tmp_path / "whole", *words), check=True, capture_output=True)
    rng, out = np.random.default_rng(0), tmp_path / "run"
    for _ in range(5):
        process = subprocess.Popen(command("deps", out, *words), stderr=subprocess.DEVNULL)
        begun = len(checkpoints_in(out / "checkpoints"))
        while process.poll() is None and len(checkpoints_in(out / "checkpoints")) == begun < 2:
            time.sleep(0.05)
        time.sleep(float(rng.uniform(0, 8)))
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command("deps", out, *words), check=True, capture_output=True)
    assert_same_result(Run.open(out), Run.open(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("model", "tolerance", "options"),
    [
        ("test_vit", 1e-4, ()),
        pytest.param("test_vit", 1e-4, ("strategy.remove_conflicts=true",), marks=pytest.mark.slow),
        pytest.param(None, 0.2, (), marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_as_one(
    model: str | None, tolerance: float, options: tuple[str, ...], tmp_path: Path
) -> None:
    """Without batch normalisation the losses agree to rounding; with it, each process normalises its own images.

    Gradients are averaged once, in buckets, however many subnets there are.
    """
    recipe = "bignas"
    words = ["train.epochs=1", "data.limit=32", "train.average_epochs=0", "model.drop_rate=0", *options]
    words += (
        [f"model.name={model}", "model.resolution=[160]", "model.zero_init=false", "train.accumulate=2"]
        if model
        else []
    )
    alone = train(load_recipe(recipe, (*SMALL, *words)), tmp_path / "alone")
    script = tmp_path / "count.py"
    script.write_text(
        "import os\n"
        "import torch.distributed as dist\n"
        "from ofa.cli import main\n"
        "from ofa.training.reduction import Reduction\n"
        "Reduction.__init__.__kwdefaults__['bucket_bytes'] = 500_000\n"
        "really, calls = dist.all_reduce, []\n"
        "def counted(*args, **kwargs):\n"
        "    calls.append(args[0].numel())\n"
        "    return really(*args, **kwargs)\n"
        "dist.all_reduce = counted\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        f"    open(r'{tmp_path}/calls' + os.environ['RANK'], 'w').write(' '.join(map(str, calls)))\n"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    arguments = ["train", recipe, *SMALL, *words, "--out", str(tmp_path / "both")]
    done = subprocess.run(
        [*torchrun, *arguments], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    first, second = (pd.read_csv(tmp_path / run / "metrics.csv") for run in ("alone", "both"))
    np.testing.assert_allclose(second[LOSSES], first[LOSSES], rtol=tolerance)
    assert second["train_macs"].tolist() == first["train_macs"].tolist()
    calls = [list(map(int, (tmp_path / f"calls{rank}").read_text().split())) for rank in (0, 1)]
    num_gradients = sum(parameter.numel() for parameter in alone.supernet().parameters())
    buckets = [num for num in calls[0] if num > 6]
    assert calls[0] == calls[1] and len(buckets) >= 2 * 2  # two steps
    # Where those of the largest subnet are apart, the others' are fewer: they lack some blocks.
    assert num_gradients == sum(buckets) / 2 or (options and num_gradients < sum(buckets) / 2 < 2 * num_gradients)
    # Losses of four subnets, and what else is agreed on; the scores of the largest and the smallest subnet.
    assert [num for num in calls[0] if num <= 6] == [6, 6, 2]
    assert alone.space == Run.open(tmp_path / "both").space


def test_processes_that_torchrun_did_not_start_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a PyTorchJob of Kubeflow, for one, if its command is not torchrun."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        RunError, match=r"WORLD_SIZE=2 says .*not started by torchrun; start it with torchrun, or unset"
    ):
        train(tiny_recipe(), tmp_path / "run")


@pytest.mark.slow
def test_a_process_killed_among_several_is_restarted_to_the_same_weights(tmp_path: Path) -> None:
    """By torchrun, which counts restarts; nobody says --resume."""
    words = ["train.epochs=3", "data.limit=64", "train.average_epochs=0", "model.name=test_vit", "model.drop_rate=0"]
    words += ["model.resolution=[160]", "model.zero_init=false", 'model.width=["100%"]']
    script = tmp_path / "killed.py"
    script.write_text(
        "import os, signal\n"
        "import ofa.training.trainer as trainer\n"
        "from ofa.cli import main\n"
        "step = trainer._Trainer._step\n"
        "def killed(self, number, *args, **kwargs):\n"
        "    if number == 5 and os.environ['RANK'] == '1' and os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return step(self, number, *args, **kwargs)\n"
        "if os.environ.get('KILLS'):\n"
        "    trainer._Trainer._step = killed\n"
        "main()\n"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    printed = []
    for name, options, kills in (("whole", [], ""), ("killed", ["--max-restarts=1"], "1")):
        arguments = ["train", "bignas", *SMALL, *words, "--out", str(tmp_path / name)]
        done = subprocess.run(
            [*torchrun, *options, str(script), *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "KILLS": kills},
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stderr)
    assert "Signal 9" in printed[1] or "exitcode: -9" in printed[1], printed[1]
    assert_same_result(Run.open(tmp_path / "killed"), Run.open(tmp_path / "whole"))


# -- devices and precisions --------------------------------------------------------------------------------------------

# cuDNN plans each shape of a convolution that a process has not met, which takes a tenth of a second and more.
FEW_SHAPES = ("model.resolution=[16]", "model.kernel=[3]", "model.expand=[2, 4]")


def distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Norm of the difference of the parameters."""
    names = [name for name in first if "running" not in name and "num_batches" not in name]
    return sum(float((first[name].double() - second[name].double()).square().sum()) for name in names) ** 0.5


def test_a_step_is_that_of_the_cpu(torch_device: str, full_fp32: None, tmp_path: Path) -> None:
    words = ("train.epochs=1", "data.limit=32", "train.ema_decay=0", "train.warmup_epochs=0")
    there = train(tiny_recipe(*words, f"train.device={torch_device}"), tmp_path / "there")
    here = train(tiny_recipe(*words), tmp_path / "here")
    before = train(tiny_recipe(*words, "train.learning_rate=1e-12"), tmp_path / "before")
    assert pd.read_csv(here.path / "metrics.csv")["step"].tolist() == [1]
    moved = distance(weights(here), weights(before))
    assert moved > 0.01 and distance(weights(there), weights(here)) < 0.01 * moved


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("strategy.remove_conflicts=true",),
        ("strategy.loss=alpha_divergence", "train.clip_grad_norm=1"),
        ("train.optimizer=adamw", "train.learning_rate=1e-3", "train.ema_decay=0.9", "train.average_epochs=2"),
        ("strategy.schedule={name: largest_first, alone: 0.5, sort_channels: true}",),
        ("data.mixup=0.8", "data.cutmix=1.0"),
        ("train.accumulate=2", "strategy.remove_conflicts=true"),
    ],
    ids=["sandwich", "conflicts", "clipping", "average", "sorting", "mixing", "accumulating"],
)
def test_mixed_precision_trains(words: tuple[str, ...], torch_device: str, tmp_path: Path) -> None:
    recipe = tiny_recipe(
        *FEW_SHAPES, "train.ema_decay=0", "train.precision=bf16-mixed", f"train.device={torch_device}", *words
    )
    run = train(recipe, tmp_path / "run")
    assert pd.read_csv(run.path / "metrics.csv").filter(like="loss_largest").notna().all(axis=None)
    assert all(tensor.isfinite().all() for tensor in weights(run).values())


@pytest.mark.parametrize(
    "words",
    [
        pytest.param((), id="sgd", marks=pytest.mark.slow),
        pytest.param(("train.optimizer=adamw", "train.learning_rate=1e-3"), id="adamw", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_resumes_on_its_device(words: tuple[str, ...], torch_device: str, tmp_path: Path) -> None:
    """To the same bits on the CPU; on a GPU sums come in any order."""
    recipe = tiny_recipe(*FEW_SHAPES, f"train.device={torch_device}", "train.precision=bf16-mixed", *words)
    whole = train(recipe, tmp_path / "whole")
    with pytest.raises(Killed):
        train(recipe, tmp_path / "killed", progress=killer(5))
    resumed = train(recipe, tmp_path / "killed", resume=True)
    found, expected = weights(resumed), weights(whole)
    size = distance(expected, {name: torch.zeros_like(tensor) for name, tensor in expected.items()})
    assert distance(found, expected) <= (0 if torch_device == "cpu" else 0.02 * size)


@pytest.fixture
def half_precision(torch_device: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """16-mixed on the CPU, too, where Lightning would take bf16."""

    def fabric(recipe: Recipe) -> Fabric:
        return Fabric(accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", device="cpu")])

    if torch_device == "cpu":
        monkeypatch.setattr(trainer, "_fabric", fabric)
    return torch_device


@pytest.mark.slow
@pytest.mark.parametrize("clip", [0, 1])
def test_half_precision_trains_and_resumes_with_its_scale(clip: int, half_precision: str, tmp_path: Path) -> None:
    words = ("train.precision=16-mixed", f"train.device={half_precision}", f"train.clip_grad_norm={clip}")
    recipe = tiny_recipe(*FEW_SHAPES, *words)
    with pytest.raises(Killed):
        train(recipe, tmp_path / "run", progress=killer(5))
    path = checkpoints_in(tmp_path / "run" / "checkpoints")[-1]
    groups, state = load_checkpoint(path)
    assert state["precision"]["scale"] > 0
    state["precision"]["scale"] = 4.0
    checkpoint.save_checkpoint(path, groups, state)
    run = train(recipe, tmp_path / "run", resume=True)
    assert all(tensor.isfinite().all() for tensor in weights(run).values())
    _, state = load_checkpoint(checkpoints_in(tmp_path / "run" / "checkpoints")[-1])
    assert state["precision"]["scale"] == 4.0
