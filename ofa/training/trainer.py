"""The trainer: one loop for every strategy, checkpoints, metrics."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricOptimizer
from timm.optim import create_optimizer_v2, get_optimizer_info
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.tensorboard import SummaryWriter

from ofa.config import ConfigError
from ofa.cost import CostModel, macs
from ofa.errors import OfaError
from ofa.files import write_csv_atomic
from ofa.inputs import Inputs, channels_last
from ofa.progress import Progress
from ofa.space import Arch, Population
from ofa.supernet import Supernet, sort_channels
from ofa.supernet.model_sources import code_sha256
from ofa.tasks import TaskData, mean_of
from ofa.training import gradients
from ofa.training.checkpoint import (
    checkpoints_in,
    load_checkpoint,
    optimizer_state_dict,
    optimizer_tensors,
    save_checkpoint,
)
from ofa.training.compiled import CompiledSubnets
from ofa.training.evaluation import SubnetEvaluator
from ofa.training.recipe import Recipe
from ofa.training.run import Run, RunError, build_supernet
from ofa.training.samplers import ROLES, Draw, Step
from ofa.training.schedules import Stretch, stretch_at
from ofa.training.signals import StopRequest, stop_on_signals
from ofa.training.teacher import frozen_copy, load_teacher, without_dropout
from ofa.training.zero_init import zero_init

FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
PASSES = 3
"""A training pass counts as three forward passes, as usual: backward computes two gradients per multiplication."""


class DivergedError(OfaError, ArithmeticError):
    """The loss is no longer a number."""


class StoppedError(OfaError, RuntimeError):
    """A signal asked for the end; what was trained is saved."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.exit_status = 128 + signum


def train(recipe: Recipe, out: Path | str, *, resume: bool = False, progress: Progress | None = None) -> Run:
    """Train a supernet and leave a run folder.

    Under ``torchrun`` every process calls this; each trains on its part of every mini-batch.

    Args:
        out: The folder; it must not hold a run already, unless ``resume``.
        resume: Continue from the latest checkpoint; the result is the one of an uninterrupted run, bit for bit on CPU.
        progress: Called with (steps done, steps in all, what).

    Raises:
        RunError: If the folder holds a run, or one of another recipe.
        ConfigError: If parts of the recipe do not go together.
        DivergedError: If a loss is not finite; it names step, subnet and last checkpoint.
        StoppedError: After SIGTERM or SIGINT, when the state is saved.
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
    with torch.random.fork_rng():  # layers and dropout draw from the global generator
        _seed(recipe.train.seed)
        trainer = _Trainer(recipe, out, progress, resumes=bool(checkpoints))
        return trainer.fit(checkpoints[-1] if checkpoints else None)


def _check_same_recipe(recipe: Recipe, stored: dict[str, Any], out: Path) -> None:
    before = Recipe.from_json(stored, where=f"recipe stored in {out}")
    if before != recipe:
        changed = [
            f"{section}.{name}"
            for section in ("model", "data", "strategy", "train")
            for name, value in vars(getattr(recipe, section)).items()
            if value != getattr(getattr(before, section), name)
        ]
        raise RunError(
            f"{out} was started with another recipe (different: {', '.join(changed) or 'name'}); choose another --out"
        )


def _seed(*seed: int) -> None:
    torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint32)[0]))


def _fabric(recipe: Recipe) -> Fabric:
    """Device and precision, and the processes that ``torchrun`` started."""
    config = recipe.train
    if config.device == "cuda" and not torch.cuda.is_available():
        raise RunError("train.device is 'cuda', but torch sees no CUDA device; use train.device=cpu or auto")
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", num_processes)) if num_processes > 1 else 1
    fabric = Fabric(
        accelerator=config.device,
        devices=here,
        num_nodes=num_processes // here,
        strategy="ddp" if num_processes > 1 else "auto",
        precision=config.precision,
    )
    fabric.launch()
    if config.batch_size % fabric.world_size:
        raise ConfigError(
            f"train.batch_size {config.batch_size} does not divide among {fabric.world_size} processes; make it a "
            "multiple"
        )
    return fabric


class _Trainer:
    def __init__(self, recipe: Recipe, out: Path, progress: Progress | None, *, resumes: bool = False) -> None:
        self.recipe, self.config, self.out, self.progress = recipe, recipe.train, out, progress
        self.task, self.strategy, config = recipe.task, recipe.strategy, recipe.train
        self.fabric = _fabric(recipe)
        untrained = recipe.model.untrained()
        # Whoever trains with a file of code runs it; checkpoints and the run say which it was.
        self.code_sha256 = code_sha256(untrained.name, is_trusted=self._is_first)
        with torch.device("meta"):  # only to learn how large images must be: no weights, nothing drawn
            outline = build_supernet(untrained, num_classes=1)
        space = outline.space
        self.data: TaskData = self.task.load(recipe.data, sizes=outline.inputs.largest(space), progress=progress)
        num_classes = self.task.num_classes(self.data)
        self.steps_per_epoch = max(1, len(self.data.splits.train) // config.batch_size)
        self.num_steps = max(1, round(config.epochs * self.steps_per_epoch))
        self.plan = self.strategy.schedule.plan(space, self.num_steps)
        self._check_teacher()
        # A checkpoint brings its own weights.
        supernet = build_supernet(untrained if resumes else recipe.model, num_classes=num_classes)
        self._check_outputs(supernet, num_classes)
        if recipe.model.zero_init and not resumes:
            zero_init(supernet)
        if not resumes:
            self._sort_channels(supernet)
        self.fabric.to_device(supernet)
        self.supernet = supernet
        self.parameters = [parameter for parameter in supernet.parameters() if parameter.requires_grad]
        # A fused step would unscale the gradients of 16-mixed itself, too late for what clips them.
        clips_scaled = config.precision == "16-mixed" and config.clip_grad_norm > 0
        can_fuse = get_optimizer_info(config.optimizer).opt_class in FUSED and not clips_scaled
        fused: dict[str, Any] = {"fused": True} if can_fuse else {}
        optimizer = create_optimizer_v2(
            supernet,
            opt=config.optimizer,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            momentum=0.9,
            **fused,
        )
        _forget(optimizer)
        self.optimizer = cast(_FabricOptimizer, self.fabric.setup_optimizers(optimizer))
        self.ema = ModelEmaV3(supernet, decay=config.ema_decay, use_warmup=True) if config.ema_decay else None
        self.average: dict[str, Tensor] = {}
        self.teacher = load_teacher(self.strategy, num_classes=num_classes)
        if self.teacher is not None:
            self.teacher = self.fabric.to_device(self.teacher)
        self.frozen: nn.Module | None = None
        self.compiled = CompiledSubnets([space.largest(), space.smallest()] if config.compile else [])
        self.cost: CostModel = macs(supernet)
        self.rows: list[dict[str, Any]] = []
        self.train_macs = 0.0
        self.epoch_sums = _EpochSums()

    def _check_outputs(self, supernet: Supernet, num_classes: int) -> None:
        """What is timm's or torchvision's gives what it is asked for."""
        shape, name = supernet.analysis.trace.output_shape, self.recipe.model.name
        if self.code_sha256 is not None and shape[1:] != (num_classes,):
            raise ConfigError(
                f"model {name!r} gives outputs of shape {shape[1:]} for one image, but the data has {num_classes} "
                "classes; let its function take num_classes"
            )

    def _check_teacher(self) -> None:
        strategy = self.strategy
        freezes = any(stretch.phase.freezes_largest for stretch in self.plan)
        if strategy.loss.needs_teacher and not (strategy.sampler.teaches or strategy.teacher or freezes):
            raise ConfigError(
                f"strategy.loss {strategy.loss.name} needs a teacher, but sampler {strategy.sampler.name} does not "
                "draw the largest subnet in every step; use strategy.loss=labels, or name a strategy.teacher"
            )

    def _sort_channels(self, supernet: Supernet) -> None:
        how = self.recipe.model.sort_channels
        if how == "none":
            return
        batch_size = min(self.config.batch_size, len(self.data.splits.train) // 2 * 2)
        batches = self.task.train_batches(
            self.data, epoch=0, batch_size=batch_size, seed=self.config.seed, device="cpu"
        )
        few = (inputs for inputs, _ in itertools.islice(batches, max(1, 512 // batch_size)))
        sort_channels(supernet, inputs=few if how == "activations" else None)

    # -- the loop ----------------------------------------------------------------------------------------------------

    def fit(self, checkpoint: Path | None) -> Run:
        done = self._restore(checkpoint) if checkpoint else 0
        writer = SummaryWriter(str(self.out / "tensorboard"), purge_step=len(self.rows)) if self._is_first else None
        try:
            with stop_on_signals() as request:
                while done < self.num_steps:
                    done, stops = self._train_epoch(done, request)
                    if done % self.steps_per_epoch == 0 or done == self.num_steps:
                        self._end_epoch(done, writer)
                    self._save(done)
                    if stops:
                        signum = request.signum or signal.SIGTERM
                        raise StoppedError(
                            f"stopped by {signal.Signals(signum).name} at step {done} of {self.num_steps}; everything "
                            f"is saved in {self.out / 'checkpoints'}, continue with --resume",
                            signum,
                        )
        finally:
            if writer is not None:
                writer.close()
        if self._is_first:
            Run.save(
                self.out, recipe=self.recipe, supernet=self._result(), data=self.data, code_sha256=self.code_sha256
            )
        self.fabric.barrier()
        return Run.open(self.out)

    @property
    def _is_first(self) -> bool:
        """Whether this process writes files; all of them compute the same."""
        return bool(self.fabric.is_global_zero)

    def _train_epoch(self, done: int, request: StopRequest) -> tuple[int, bool]:
        """Train from step ``done`` to the end of its epoch or until a signal; gives the steps done and which it was."""
        epoch, skipped = divmod(done, self.steps_per_epoch)
        end = min((epoch + 1) * self.steps_per_epoch, self.num_steps)
        batches = self.task.train_batches(
            self.data,
            epoch=epoch,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            device=self.fabric.device,
            start=skipped,
            shard=(self.fabric.global_rank, self.fabric.world_size),
        )
        self.supernet.train()
        sums, started, saved = self.epoch_sums, time.perf_counter(), time.perf_counter()
        seconds_before = sums.seconds
        for step, (inputs, targets) in zip(range(done, end), batches, strict=False):
            stretch = stretch_at(self.plan, step)
            if step == stretch.first and step > 0:
                self._begin(stretch)
            self._set_learning_rate(step)
            losses, stops = self._step(step, stretch, Inputs.of(inputs), targets, stops=request.signum is not None)
            now = time.perf_counter()
            sums.add(losses)
            sums.seconds = seconds_before + now - started
            if self.progress is not None:
                what = f"epoch {epoch + 1}/{math.ceil(self.num_steps / self.steps_per_epoch)}"
                what += f" {stretch.phase.name}" if len(self.plan) > 1 else ""
                speed = (step + 1 - done) * self.config.batch_size / (now - started)
                self.progress(step + 1, self.num_steps, f"{what}  loss {losses[0][1]:.3f}  {speed:,.0f} images/s")
            if stops:
                return step + 1, True
            if now - saved > 60 * self.config.checkpoint_minutes and step + 1 < end:
                self._save(step + 1)
                saved = time.perf_counter()
        return end, False

    def _end_epoch(self, done: int, writer: SummaryWriter | None) -> None:
        epochs = math.ceil(self.num_steps / self.steps_per_epoch)
        epoch = math.ceil(done / self.steps_per_epoch)
        sums, num_steps = self.epoch_sums, done - (epoch - 1) * self.steps_per_epoch
        largest, smallest = self._scores_of_bounds(epoch, is_last=epoch == epochs)
        self._average(epochs_left=epochs - epoch)
        row = {
            "epoch": epoch,
            "step": done,
            "phase": stretch_at(self.plan, done - 1).phase.name,
            "seconds": round(sums.seconds, 3),
            "learning_rate": self._set_learning_rate(done - 1),
            "images_per_second": round(num_steps * self.config.batch_size / sums.seconds, 1),
            "train_macs": self.train_macs,
            **sums.means(),
            self.task.metric.of("largest"): largest,
            self.task.metric.of("smallest"): smallest,
        }
        self.rows.append(row)
        self.epoch_sums = _EpochSums()
        if writer is not None:
            for name, value in row.items():
                if isinstance(value, int | float) and name != "epoch":
                    writer.add_scalar(name, value, epoch - 1)

    def _set_learning_rate(self, step: int) -> float:
        warmup_steps = round(self.config.warmup_epochs * self.steps_per_epoch)
        share = self.strategy.schedule.learning_rate(step, self.plan, warmup_steps=warmup_steps)
        rate = self.config.learning_rate * share
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        return rate

    def _begin(self, stretch: Stretch) -> None:
        """What a phase asks for at its first step."""
        if stretch.phase.sort_channels:
            sort_channels(self.supernet)
            # What the optimiser and the average remember is of channels in another order.
            _forget(self.optimizer.optimizer)
            if self.ema:
                self.ema.module.load_state_dict(self.supernet.state_dict())
        if stretch.phase.freezes_largest:
            self.frozen = frozen_copy(self.supernet)

    # -- one step ----------------------------------------------------------------------------------------------------

    def _step(
        self, step: int, stretch: Stretch, inputs: Inputs, targets: Any, *, stops: bool
    ) -> tuple[list[tuple[str, float]], bool]:
        """One optimiser step on the summed gradients of the step's subnets.

        Returns:
            Each subnet's role and loss, and whether any process has been asked to stop.
        """
        _seed(self.config.seed, 1, step)  # for dropout
        inputs = channels_last(inputs)
        draws = self._draws(step, stretch, inputs, targets)
        if len(inputs) < draws[0].part[1]:
            raise ConfigError(
                f"{draws[0].part[1]} subnets share a mini-batch of {len(inputs)} images; raise train.batch_size or "
                "lower strategy.sampler.num_random"
            )
        losses, set_aside = self._backward(draws, inputs, targets, others_weight=self._ramp(step, stretch))
        values, stops = self._finish(losses, set_aside, stops)
        for draw, value in zip(draws, values, strict=True):
            if not math.isfinite(value):
                raise DivergedError(self._diverged(step, draw))
        if self.config.clip_grad_norm:
            # In 16-mixed gradients overflow now and then; the step is then left out and the scale lowered.
            self.fabric.clip_gradients(
                self.supernet,
                self.optimizer,
                max_norm=self.config.clip_grad_norm,
                error_if_nonfinite=self.config.precision != "16-mixed",
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema:
            self.ema.update(self.supernet, step=step)
        return [(draw.role, value) for draw, value in zip(draws, values, strict=True)], stops

    def _backward(
        self, draws: Sequence[Draw], inputs: Inputs, targets: Any, *, others_weight: float
    ) -> tuple[Tensor, gradients.Gradients | None]:
        """Forward and backward of every draw; gradients add up in the parameters.

        Returns:
            Losses ``(num draws,)``, and the largest subnet's gradients where they are to be kept apart.
        """
        taught = self._taught(inputs)
        in_place: Any = None
        set_aside: gradients.Gradients | None = None
        losses: list[Tensor] = []
        joint: list[Tensor] = []
        for draw in draws:
            part = _part(len(inputs), draw.part)
            outputs = self._outputs(inputs.rows(part), draw)
            num = part.stop - part.start
            loss = self._loss(draw, outputs, _rows(targets, part), _rows(taught, part), in_place)
            losses.append(loss.detach())
            is_largest = draw.role == "largest"
            weighted = loss if is_largest else loss * others_weight
            if self.strategy.sampler.joint_backward:
                joint.append(weighted * (num / len(inputs)))
            else:
                self.fabric.backward(weighted)
            if is_largest and self.strategy.loss.needs_teacher:
                in_place = self.task.teaching(outputs)
            if is_largest and self.strategy.remove_conflicts:
                set_aside = gradients.take(self.parameters)
            self._count_macs(draw.arch, PASSES * num)
        if joint:
            self.fabric.backward(torch.stack(joint).sum())
        return torch.stack(losses), set_aside

    def _loss(self, draw: Draw, outputs: Any, targets: Any, taught: Any, in_place: Any) -> Tensor:
        """The largest subnet learns from the targets or from another model, the rest from whatever teaches."""
        loss = self.strategy.loss
        if draw.role == "largest":
            teacher = taught if self.teacher is not None else None
        else:
            teacher = _mixed(taught, in_place, share=self.strategy.teacher_share)
        return loss.label_loss(outputs, targets) if teacher is None else loss.distil(outputs, targets, teacher)

    def _finish(
        self, losses: Tensor, set_aside: gradients.Gradients | None, stops: bool
    ) -> tuple[Sequence[float], bool]:
        """Average over processes, in one call, and put the gradients together; gives losses and whether to stop."""
        parts = [gradients.take(self.parameters)] if set_aside is None else [set_aside, gradients.take(self.parameters)]
        if self.fabric.world_size > 1:
            numbers = torch.cat([losses, losses.new_tensor([float(stops)])])
            parts, numbers = gradients.all_reduce_mean(parts, numbers, self._sum_over_processes, self.fabric.world_size)
            losses, stops = numbers[:-1], bool(numbers[-1] > 0)
        if set_aside is not None:
            parts[0] = gradients.without_conflict(parts[0], parts[1])
        for part in parts:
            gradients.add(self.parameters, part)
        return losses.tolist(), stops

    def _sum_over_processes(self, tensor: Tensor) -> Tensor:
        return cast(Tensor, self.fabric.all_reduce(tensor, reduce_op="sum"))

    def _draws(self, step: int, stretch: Stretch, inputs: Inputs, targets: Any) -> list[Draw]:
        phase, space = stretch.phase, stretch.space

        def costs(population: Population) -> npt.NDArray[np.float64]:
            return self.cost.predict(population if space == self.supernet.space else space.to_archs(population))

        @torch.no_grad()
        def label_loss(arch: Arch) -> float:
            outputs = self._outputs(inputs, Draw(arch))
            self._count_macs(arch, len(inputs))
            loss = self.strategy.loss.label_loss(outputs, targets).detach()
            return float(self._sum_over_processes(loss))  # all must choose alike

        rng = np.random.default_rng([self.config.seed, step, 0, 1])  # not the data's sequence
        if phase.only_largest:
            draws = [Draw(space.largest(), "largest")]
        else:
            sampler = self.strategy.sampler
            if phase.num_random is not None:
                sampler = sampler.with_num_random(phase.num_random)
            draws = sampler.draw(Step(space, rng, costs, label_loss))
        if self.strategy.resolution == "per_batch":
            resolutions = space["resolution"].values
            chosen = {"resolution": resolutions[rng.integers(len(resolutions))]}
            draws = [dataclasses.replace(draw, arch=space.arch({**draw.arch, **chosen})) for draw in draws]
        return draws

    def _ramp(self, step: int, stretch: Stretch) -> float:
        """Weight of the gradients of all subnets but the largest."""
        ramp_steps = stretch.phase.ramp * self.num_steps
        return min(1.0, (step - stretch.first + 1) / ramp_steps) if ramp_steps >= 1 else 1.0

    @torch.no_grad()
    def _taught(self, inputs: Inputs) -> Any:
        """What the frozen copy or the other model teaches of the inputs; both, in equal parts, if there are both."""
        said = []
        for teacher in (self.frozen, self.teacher):
            if teacher is not None:
                with self.fabric.autocast():
                    outputs = inputs.call(teacher)
                said.append(self.task.teaching(outputs))
        if self.frozen is not None:
            self._count_macs(self.supernet.space.largest(), len(inputs))
        return mean_of(said) if said else None

    def _outputs(self, inputs: Inputs, draw: Draw) -> Any:
        subnet = self.supernet.subnet(draw.arch)
        if draw.role != "largest" and self.strategy.drop == "largest" and subnet is not self.supernet.model:
            without_dropout(subnet)
        spec = self.supernet.inputs
        inputs = spec.resize(inputs, spec.sizes(draw.arch))
        with self.fabric.autocast():
            return self.compiled(draw.arch, subnet, inputs) if draw.arch in self.compiled else inputs.call(subnet)

    def _count_macs(self, arch: Arch, num_passes: int) -> None:
        """Add what this many forward passes of one image cost in every process."""
        self.train_macs += float(self.cost.predict(arch)[0]) * num_passes * self.fabric.world_size

    def _diverged(self, step: int, draw: Draw) -> str:
        kept = checkpoints_in(self.out / "checkpoints")
        return (
            f"the loss of the {draw.role} subnet is not finite at step {step} (learning rate "
            f"{self._set_learning_rate(step):.4g}, {draw.arch.to_json()}); last good checkpoint: "
            f"{kept[-1] if kept else 'none yet'}; lower train.learning_rate or set train.clip_grad_norm=1"
        )

    # -- what is left ------------------------------------------------------------------------------------------------

    @property
    def _smoothed(self) -> Supernet:
        """What is judged: the moving average where there is one."""
        return cast(Supernet, self.ema.module) if self.ema else self.supernet

    def _result(self) -> Supernet:
        if not self.average:
            return self._smoothed
        averaged = copy.deepcopy(self._smoothed)
        averaged.load_state_dict(self.average)
        return averaged

    @torch.no_grad()
    def _average(self, *, epochs_left: int) -> None:
        if epochs_left >= self.config.average_epochs:
            return
        count = self.config.average_epochs - epochs_left
        for name, tensor in self._smoothed.state_dict().items():
            if name in self.average and tensor.is_floating_point():
                self.average[name] += (tensor - self.average[name]) / count
            else:
                self.average[name] = tensor.clone()

    def _scores_of_bounds(self, epoch: int, *, is_last: bool) -> tuple[float | None, float | None]:
        """The metric, on the search split, of the largest and the smallest subnet, in the epochs that are evaluated."""
        every = self.config.eval_every_epochs
        scores: tuple[float | None, float | None] = (None, None)
        if is_last or (every and epoch % every == 0):
            if self._is_first:
                space = self.supernet.space
                bounds = [space.largest(), space.smallest()]
                largest, smallest = SubnetEvaluator(self._smoothed, self.data, self.task).values(bounds)
                scores = float(largest), float(smallest)
            self.fabric.barrier()
        return scores

    def _save(self, step: int) -> None:
        if self._is_first:
            folder = self.out / "checkpoints"
            tensors, numbers = optimizer_tensors(self.optimizer.state_dict())
            groups = {"model": self.supernet.state_dict(), "optimizer": tensors, "average": self.average}
            if self.ema:
                groups["ema"] = self.ema.module.state_dict()
            if self.frozen is not None:
                groups["frozen"] = self.frozen.state_dict()
            state = {
                "step": step,
                "optimizer": numbers,
                "metrics": self.rows,
                "train_macs": self.train_macs,
                "epoch_sums": vars(self.epoch_sums),
                "precision": self.fabric.strategy.precision.state_dict(),  # the scale of 16-mixed
                "recipe": self.recipe.to_json(),
                **({} if self.code_sha256 is None else {"code_sha256": self.code_sha256}),
                "splits": self.data.splits.to_json(),
            }
            save_checkpoint(folder / f"step-{step:09d}.safetensors", groups, state)
            write_csv_atomic(self.out / "metrics.csv", pd.DataFrame(self.rows))
            for old in checkpoints_in(folder)[: -self.config.keep_checkpoints]:
                old.unlink()
        self.fabric.barrier()

    def _restore(self, path: Path) -> int:
        groups, state = load_checkpoint(path)
        _check_same_recipe(self.recipe, state["recipe"], self.out)
        if state.get("code_sha256") != self.code_sha256:
            raise RunError(
                f"the code of model {self.recipe.model.name!r} is not the one that {path} was trained with; restore "
                "the file, or choose another --out"
            )
        splits = self.data.splits.to_json()
        if any(splits.get(name) != value for name, value in state["splits"].items()):  # which may lack what is newer
            raise RunError(
                f"the data set is not the one that {path} was trained on; restore it, or choose another --out"
            )
        self.supernet.load_state_dict(groups["model"])
        self.optimizer.load_state_dict(
            optimizer_state_dict(groups.get("optimizer", {}), state["optimizer"])  # empty where a phase begins
        )
        for parameter, entries in self.optimizer.optimizer.state.items():
            for name, value in entries.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    entries[name] = torch.empty_like(parameter).copy_(value)  # in the memory format that kernels expect
        if self.ema:
            self.ema.module.load_state_dict(groups["ema"])
        if "frozen" in groups:
            self.frozen = frozen_copy(self.supernet)
            self.frozen.load_state_dict(groups["frozen"])
        device = self.fabric.device
        self.average = {name: tensor.to(device) for name, tensor in groups.get("average", {}).items()}
        self.rows = state["metrics"]
        self.train_macs = state["train_macs"]
        self.epoch_sums = _EpochSums(**state["epoch_sums"])
        if scale := state.get("precision"):
            self.fabric.strategy.precision.load_state_dict(scale)
        return int(state["step"])


@dataclass
class _EpochSums:
    """Losses of the epoch so far, by role."""

    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, losses: Sequence[tuple[str, float]]) -> None:
        for role, loss in losses:
            self.sums[role] = self.sums.get(role, 0.0) + loss
            self.counts[role] = self.counts.get(role, 0) + 1

    def means(self) -> dict[str, float | None]:
        return {f"loss_{role}": self.sums[role] / self.counts[role] if role in self.sums else None for role in ROLES}


def _forget(optimizer: torch.optim.Optimizer) -> None:
    """Begin an optimiser anew.

    Momentum begins as zeros rather than with the first gradient, which is the same: torch's fused SGD does not take
    parameters with and without a buffer together, and weights of few subnets get their first gradients late.
    """
    optimizer.state.clear()
    if isinstance(optimizer, torch.optim.SGD):
        for group in optimizer.param_groups:
            if group["momentum"]:
                for parameter in group["params"]:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _part(num: int, part: tuple[int, int]) -> slice:
    """Rows of the i-th of n parts of ``num`` images."""
    index, parts = part
    return slice(num * index // parts, num * (index + 1) // parts)


def _rows(values: Any, rows: slice) -> Any:
    """Some samples of a pytree of tensors, or of nothing."""
    return tree_map_only(Tensor, lambda tensor: tensor[rows], values)


def _mixed(outer: Any, in_place: Any, *, share: float) -> Any:
    """What to learn: ``share`` of what the outer teacher says, the rest of what the largest subnet does."""
    if outer is None or in_place is None:
        return in_place if outer is None else outer
    return outer if share == 1 else mean_of([outer, in_place], weights=[share, 1 - share])
