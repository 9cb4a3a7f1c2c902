"""The trainer: one loop, checkpoints, metrics."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ofa.data import ImageData, load_data
from ofa.files import write_csv_atomic
from ofa.space import Arch
from ofa.supernet import Supernet, sort_channels
from ofa.training.checkpoint import (
    checkpoints_in,
    load_checkpoint,
    optimizer_state_dict,
    optimizer_tensors,
    save_checkpoint,
)
from ofa.training.distillation import in_place_distillation, label_loss
from ofa.training.evaluation import Progress, SubnetEvaluator
from ofa.training.recipe import Recipe, TrainConfig
from ofa.training.run import Run, RunError, build_supernet
from ofa.training.sandwich import sandwich

ROLES = ("largest", "random", "smallest")


class DivergedError(ArithmeticError):
    """The loss is no longer a number."""


def train(recipe: Recipe, out: Path | str, *, resume: bool = False, progress: Progress | None = None) -> Run:
    """Train a supernet and leave a run folder.

    Args:
        out: The folder; it must not hold a run already, unless ``resume``.
        resume: Continue from the latest checkpoint; the result is the one of an uninterrupted run, bit for bit on CPU.
        progress: Called with (steps done, steps in all, what).

    Raises:
        RunError: If the folder holds a run, or one of another recipe.
        DivergedError: If the loss is not finite; it names step, subnet and last checkpoint.
    """
    out = Path(out)
    checkpoints = checkpoints_in(out / "checkpoints")
    finished = (out / "supernet.json").exists()
    if (finished or checkpoints) and not resume:
        raise RunError(f"{out} already holds a run; continue it with --resume, or choose another --out")
    if finished:
        run = Run.open(out)
        _check_same_recipe(recipe, run.info["recipe"], out)
        return run
    with _seeded(recipe.train.seed):
        trainer = _Trainer(recipe, out, progress, resumes=bool(checkpoints))
        return trainer.fit(checkpoints[-1] if checkpoints else None)


def _check_same_recipe(recipe: Recipe, stored: dict[str, Any], out: Path) -> None:
    before = Recipe.from_json(stored, where=f"recipe stored in {out}")
    if before != recipe:
        changed = [
            f"{section}.{name}"
            for section in ("model", "data", "train")
            for name, value in vars(getattr(recipe, section)).items()
            if value != getattr(getattr(before, section), name)
        ]
        raise RunError(
            f"{out} was started with another recipe (different: {', '.join(changed) or 'name'}); choose another --out"
        )


@contextmanager
def _seeded(*seed: int) -> Iterator[None]:
    """Torch's global generator, seeded inside the block and put back after it; layers and dropout draw from it."""
    with torch.random.fork_rng():
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint32)[0]))
        yield


class _Trainer:
    def __init__(self, recipe: Recipe, out: Path, progress: Progress | None, *, resumes: bool = False) -> None:
        self.recipe, self.config, self.out, self.progress = recipe, recipe.train, out, progress
        config = recipe.train
        if config.device == "cuda" and not torch.cuda.is_available():
            raise RunError("train.device is 'cuda', but torch sees no CUDA device; use train.device=cpu or auto")
        self.fabric = Fabric(accelerator=config.device, devices=1, precision=config.precision)
        untrained = recipe.model.untrained()
        with torch.device("meta"):  # only to learn how large images must be: no weights, nothing drawn
            space = build_supernet(untrained, num_classes=1).space
        self.data: ImageData = load_data(recipe.data, image_size=int(space["resolution"].values[-1]), progress=progress)
        # A checkpoint brings its own weights.
        supernet = build_supernet(untrained if resumes else recipe.model, num_classes=self.data.num_classes)
        if not resumes:
            self._sort_channels(supernet)
        optimizer = create_optimizer_v2(
            supernet, opt=config.optimizer, lr=config.learning_rate, weight_decay=config.weight_decay, momentum=0.9
        )
        self.ema = ModelEmaV3(supernet, decay=config.ema_decay, use_warmup=True) if config.ema_decay else None
        self.supernet = supernet
        self.module, self.optimizer = self.fabric.setup(supernet, optimizer)
        self.steps_per_epoch = max(1, len(self.data.splits.train) // config.batch_size)
        self.rows: list[dict[str, float | int | None]] = []

    def _sort_channels(self, supernet: Supernet) -> None:
        how = self.recipe.model.sort_channels
        if how == "none":
            return
        batch_size = min(self.config.batch_size, len(self.data.splits.train))
        batches = self.data.train_batches(epoch=0, batch_size=batch_size, seed=self.config.seed, device="cpu")
        few = (images for images, _ in itertools.islice(batches, max(1, 512 // batch_size)))
        sort_channels(supernet, images=few if how == "activations" else None)

    def fit(self, checkpoint: Path | None) -> Run:
        start = self._restore(checkpoint) if checkpoint else 0
        writer = SummaryWriter(str(self.out / "tensorboard"), purge_step=start)
        try:
            for epoch in range(start, self.config.epochs):
                with _seeded(self.config.seed, epoch + 1):
                    self.rows.append(self._epoch(epoch))
                self._evaluate_bounds(epoch)
                for name, value in self.rows[-1].items():
                    if value is not None and name != "epoch":
                        writer.add_scalar(name, value, epoch)
                self._save(epoch)
        finally:
            writer.close()
        return Run.save(self.out, recipe=self.recipe, supernet=self._result(), data=self.data)

    def _result(self) -> Supernet:
        return self.ema.module if self.ema else self.supernet

    def _epoch(self, epoch: int) -> dict[str, float | int | None]:
        self.module.train()
        sums: dict[str, list[float]] = {role: [] for role in ROLES}
        started = time.perf_counter()
        batches = self.data.train_batches(
            epoch=epoch, batch_size=self.config.batch_size, seed=self.config.seed, device=self.fabric.device
        )
        rate = 0.0
        for index, (images, labels) in enumerate(batches):
            step = epoch * self.steps_per_epoch + index
            rate = learning_rate(step, self.steps_per_epoch, self.config)
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group.get("lr_scale", 1.0)
            losses = self._step(step, images.to(memory_format=torch.channels_last), labels)
            for role, loss in losses:
                sums[role].append(loss)
            if self.progress is not None:
                speed = (index + 1) * self.config.batch_size / (time.perf_counter() - started)
                what = f"epoch {epoch + 1}/{self.config.epochs}  loss {losses[0][1]:.3f}  {speed:,.0f} images/s"
                self.progress(step + 1, self.config.epochs * self.steps_per_epoch, what)
        seconds = time.perf_counter() - started
        return {
            "epoch": epoch + 1,
            "step": (epoch + 1) * self.steps_per_epoch,
            "seconds": round(seconds, 3),
            "learning_rate": rate,
            "images_per_second": round(self.steps_per_epoch * self.config.batch_size / seconds, 1),
            **{f"loss_{role}": float(np.mean(values)) if values else None for role, values in sums.items()},
            "largest_top1_percent": None,
            "smallest_top1_percent": None,
        }

    def _step(self, step: int, images: Tensor, labels: Tensor) -> list[tuple[str, float]]:
        """One optimiser step on the summed gradients of the sandwich; gives each subnet's role and loss."""
        rng = np.random.default_rng([self.config.seed, step])
        archs = sandwich(self.supernet.space, num_random=self.config.num_random, rng=rng)
        roles = ["largest", *["random"] * self.config.num_random, "smallest"]
        teacher: Tensor | None = None
        losses = []
        for role, arch in zip(roles, archs, strict=True):
            logits = self.module(images, arch)
            if teacher is None or self.config.distillation == "none":
                loss = label_loss(logits, labels, label_smoothing=self.config.label_smoothing)
            else:
                loss = in_place_distillation(logits, teacher)
            self.fabric.backward(loss)
            if teacher is None:
                teacher = logits.detach()
            losses.append((role, float(loss.detach())))
            if not math.isfinite(losses[-1][1]):
                raise DivergedError(self._diverged(step, role, arch))
        if self.config.clip_grad_norm:
            self.fabric.clip_gradients(self.module, self.optimizer, max_norm=self.config.clip_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema:
            self.ema.update(self.supernet, step=step)
        return losses

    def _diverged(self, step: int, role: str, arch: Arch) -> str:
        kept = checkpoints_in(self.out / "checkpoints")
        return (
            f"the loss of the {role} subnet is not finite at step {step} (learning rate "
            f"{learning_rate(step, self.steps_per_epoch, self.config):.4g}, {arch.to_json()}); last good checkpoint: "
            f"{kept[-1] if kept else 'none yet'}; lower train.learning_rate or set train.clip_grad_norm=1"
        )

    def _evaluate_bounds(self, epoch: int) -> None:
        every = self.config.eval_every_epochs
        if epoch + 1 != self.config.epochs and not (every and (epoch + 1) % every == 0):
            return
        result = self._result()
        evaluator = SubnetEvaluator(result, self.data)
        space = result.space
        bounds: Sequence[Arch] = [space.largest(), space.smallest()]
        largest, smallest = evaluator.top1_percent(bounds)
        self.rows[-1] |= {"largest_top1_percent": float(largest), "smallest_top1_percent": float(smallest)}

    def _save(self, epoch: int) -> None:
        folder = self.out / "checkpoints"
        tensors, numbers = optimizer_tensors(self.optimizer.state_dict())
        groups = {"model": self.supernet.state_dict(), "optimizer": tensors}
        if self.ema:
            groups["ema"] = self.ema.module.state_dict()
        state = {
            "epoch": epoch + 1,
            "optimizer": numbers,
            "metrics": self.rows,
            "recipe": self.recipe.to_json(),
            "splits": self.data.splits.to_json(),
        }
        save_checkpoint(folder / f"epoch-{epoch + 1:05d}.safetensors", groups, state)
        write_csv_atomic(self.out / "metrics.csv", pd.DataFrame(self.rows))
        for old in checkpoints_in(folder)[: -self.config.keep_checkpoints]:
            old.unlink()

    def _restore(self, path: Path) -> int:
        groups, state = load_checkpoint(path)
        _check_same_recipe(self.recipe, state["recipe"], self.out)
        if state["splits"] != self.data.splits.to_json():
            raise RunError(
                f"the data set is not the one that {path} was trained on; restore it, or choose another --out"
            )
        self.supernet.load_state_dict(groups["model"])
        self.optimizer.load_state_dict(optimizer_state_dict(groups["optimizer"], state["optimizer"]))
        if self.ema:
            self.ema.module.load_state_dict(groups["ema"])
        self.rows = state["metrics"]
        return int(state["epoch"])


def learning_rate(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine from the peak to nearly zero at the last step."""
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    share = (step - warmup) / max(1, config.epochs * steps_per_epoch - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
