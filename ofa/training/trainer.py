"""The trainer: one loop for every strategy, checkpoints, metrics."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricOptimizer
from timm.utils import ModelEmaV3
from torch import Tensor, distributed, nn

from ofa.config import ConfigError
from ofa.cost import CostModel, macs
from ofa.errors import OfaError
from ofa.files import remove_leftovers, resolved, write_csv_atomic
from ofa.inputs import Inputs, channels_last
from ofa.locks import only_writer
from ofa.progress import Progress, notice
from ofa.space import Arch, Population
from ofa.supernet import Supernet, sort_channels
from ofa.supernet.model_sources import code_sha256
from ofa.supernet.stitching import Stitched, fit_stitches
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
from ofa.training.curves import curves_of, drawn
from ofa.training.evaluation import SubnetEvaluator
from ofa.training.growing import grow_from
from ofa.training.memory import NotEnoughMemoryError, attempt, memory_explained, parts_that_fit, too_large
from ofa.training.minibatch import in_parts, joined, mixed, nth_part, taken
from ofa.training.optimizer import forget, make_optimizer
from ofa.training.preflight import check_recipe, step_weights
from ofa.training.pretrained import as_pretrained
from ofa.training.recipe import Recipe
from ofa.training.reduction import Reduction
from ofa.training.run import Run, RunError, build_supernet
from ofa.training.samplers import ROLES, Draw, Step
from ofa.training.schedules import Stretch, stretch_at
from ofa.training.signals import StoppedError, StopRequest, stop_on_signals
from ofa.training.sync_batch_norm import SyncBatchNorm
from ofa.training.teacher import frozen_copy, load_teacher, without_dropout
from ofa.training.threads import torch_threads
from ofa.training.time_limit import TimeLimit
from ofa.training.zero_init import zero_init

FREE_TO_CHANGE = {"train": ("accumulate", "threads", "mlflow"), "data": ("num_workers",)}
"""Keys that a run may go on with other values of: they say how it is computed and where it is shown, not what."""
PASSES = 3
"""A training pass counts as three forward passes, as usual: backward computes two gradients per multiplication."""


class DivergedError(OfaError, ArithmeticError):
    """The loss is no longer a number."""


def train(
    recipe: Recipe,
    out: Path | str,
    *,
    resume: bool = False,
    splits_of: Run | None = None,
    progress: Progress | None = None,
) -> Run:
    """Train a supernet and leave a run folder.

    Under ``torchrun`` every process calls this; each trains on its part of every mini-batch. After a restart
    (``--max-restarts``) they go on from the latest checkpoint by themselves.

    Args:
        out: The folder; it must not hold a run already, unless ``resume``.
        resume: Continue from the latest checkpoint; the result is the one of an uninterrupted run, bit for bit on CPU.
        splits_of: A run on the same data, whose splits and statistics are taken over.
        progress: Called with (steps done, steps in all, what).

    Raises:
        RunError: If the folder holds a run, or one of another recipe.
        LockedError: If another process trains there.
        NoSpaceError: If the disk is full; the last checkpoint stays.
        ConfigError: If parts of the recipe do not go together.
        DivergedError: If a loss is not finite; it names step, subnet and last checkpoint.
        NotEnoughMemoryError: If a step does not fit into memory; it names what does.
        StoppedError: After SIGTERM or SIGINT, when the state is saved.
    """
    out = resolved(out)
    resume = resume or _was_begun_here(out)
    if (run := _finished(recipe, out, resume=resume)) is not None:
        return run
    # Of several processes, the first is the one that writes.
    is_first = os.environ.get("RANK", "0") == "0"
    with only_writer(out, command="ofa train") if is_first else nullcontext():
        if (run := _finished(recipe, out, resume=resume)) is not None:  # while this waited to be alone
            return run
        if is_first:
            remove_leftovers(out / "checkpoints")
        checkpoints = checkpoints_in(out / "checkpoints")
        if checkpoints:  # before data is read
            _check_same_recipe(recipe, load_checkpoint(checkpoints[-1])[1]["recipe"], out)
        with (
            torch.random.fork_rng(),  # layers and dropout draw from the global generator
            torch_threads(recipe.train.threads, key="train.threads", progress=progress),
            memory_explained(),
        ):
            _seed(recipe.train.seed)
            trainer = _Trainer(recipe, out, progress, resumes=bool(checkpoints), splits_of=splits_of)
            return trainer.fit(checkpoints[-1] if checkpoints else None)


def _was_begun_here(out: Path) -> bool:
    """Whether ``torchrun`` started this process again, and its checkpoints are of the starts before."""
    checkpoints = checkpoints_in(out / "checkpoints")
    if not _num_restarts() or not checkpoints:
        return False
    return load_checkpoint(checkpoints[-1])[1].get("torchrun") == os.environ.get("TORCHELASTIC_RUN_ID")


def _finished(recipe: Recipe, out: Path, *, resume: bool) -> Run | None:
    """The run that is there, if it is at its end; :class:`RunError` if one is there that should not be continued."""
    finished = (out / "supernet.json").exists()
    further = f"; to train it further, give another --out and model.weights={out / 'supernet.safetensors'}"
    if (finished or checkpoints_in(out / "checkpoints")) and not resume:
        remedy = further if finished else "; continue it with --resume, or choose another --out"
        raise RunError(f"{out} already holds a {'finished ' if finished else ''}run{remedy}")
    if not finished:
        return None
    run = Run.open(out)
    _check_same_recipe(recipe, run.info["recipe"], out, remedy=further)
    return run


def _check_same_recipe(
    recipe: Recipe, stored: dict[str, Any], out: Path, *, remedy: str = "; choose another --out"
) -> None:
    before = Recipe.from_json(stored, where=f"recipe stored in {out}")
    for section, names in FREE_TO_CHANGE.items():
        now = getattr(recipe, section)
        free = dataclasses.replace(getattr(before, section), **{name: getattr(now, name) for name in names})
        before = dataclasses.replace(before, **{section: free})
    if before != recipe:
        changed = [
            f"{section}.{name}"
            for section in ("task", "model", "data", "strategy", "train")
            for name, value in vars(getattr(recipe, section)).items()
            if value != getattr(getattr(before, section), name, None)
        ]
        raise RunError(f"{out} was started with another recipe (different: {', '.join(changed) or 'name'}){remedy}")


def _seed(*seed: int) -> None:
    torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint32)[0]))


def _fabric(recipe: Recipe) -> Fabric:
    """Device and precision, and the processes that ``torchrun`` started."""
    config = recipe.train
    if config.device == "cuda" and not torch.cuda.is_available():
        raise RunError("train.device is 'cuda', but torch sees no CUDA device; use train.device=cpu or auto")
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    if num_processes > 1 and not distributed.is_torchelastic_launched():
        raise RunError(
            f"WORLD_SIZE={num_processes} says that there are more processes, but this one was not started by torchrun; "
            "start it with torchrun, or unset WORLD_SIZE"
        )
    here = int(os.environ.get("LOCAL_WORLD_SIZE", num_processes)) if num_processes > 1 else 1
    if config.device != "cpu" and 0 < torch.cuda.device_count() < here:
        raise RunError(
            f"{here} processes on this machine need as many GPUs, but torch sees {torch.cuda.device_count()}; give "
            "torchrun a lower --nproc_per_node"
        )
    fabric = Fabric(
        accelerator=config.device,
        devices=here,
        num_nodes=num_processes // here,
        strategy="ddp" if num_processes > 1 else "auto",
        precision=config.precision,
    )
    if _num_restarts():
        _meet_anew(fabric)
    fabric.launch()
    return fabric


@contextmanager
def _first_before_others(fabric: Fabric) -> Iterator[None]:
    """The first process of a machine looks at the data, and leaves for the others what it found out."""
    try:
        with fabric.rank_zero_first(local=True):
            yield
    except RuntimeError as error:
        if fabric.local_rank and "arrier" in str(error):
            raise RunError("the first process stopped while it read the data; its own message says why") from None
        raise


def _num_restarts() -> int:
    """How often ``torchrun`` has started this process before."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _meet_anew(fabric: Fabric) -> None:
    """Join the other processes of this start, where torch would find the addresses of those of the start before
    (https://github.com/pytorch/pytorch/issues/135712)."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return
    if os.environ.get("GROUP_WORLD_SIZE", "1") != "1":  # machines do not count restarts alike
        raise RunError(
            "torchrun restarted on several machines, where processes find each other only if they share no store with "
            "it; set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment, and start it again with --resume"
        )
    world_size = int(os.environ["WORLD_SIZE"])
    store = distributed.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), world_size, is_master=False)
    distributed.init_process_group(
        distributed.get_default_backend_for_device(fabric.device),
        store=distributed.PrefixStore(f"restart {_num_restarts()}", store),
        rank=int(os.environ["RANK"]),
        world_size=world_size,
    )


class _Trainer:
    def __init__(
        self, recipe: Recipe, out: Path, progress: Progress | None, *, resumes: bool, splits_of: Run | None
    ) -> None:
        self.recipe, self.config, self.out, self.progress = recipe, recipe.train, out, progress
        self.task, self.strategy, config = recipe.task, recipe.strategy, recipe.train
        self.limit = None if config.max_hours is None else TimeLimit(3600 * config.max_hours)
        self.elapsed = 0.0
        self.fabric = _fabric(recipe)
        self.synced: Callable[[], AbstractContextManager[Any]] = nullcontext
        if config.sync_batch_norm and self.fabric.world_size > 1:
            self.synced = SyncBatchNorm
        elif config.sync_batch_norm:
            notice(progress, "train.sync_batch_norm changes nothing in one process; torchrun starts several")
        # Whoever trains with a file of code runs it; checkpoints and the run say which it was.
        self.code_sha256 = code_sha256(recipe.model.name, is_trusted=self._is_first)
        outline = check_recipe(recipe, num_processes=self.fabric.world_size, resumes=resumes)
        space, sizes = outline.space, outline.largest_sizes
        self.curves = curves_of(recipe, out, resumes=resumes, progress=progress) if self._is_first else []
        data = as_pretrained(recipe.data, recipe.model)
        with _first_before_others(self.fabric):
            self.data: TaskData = (
                self.task.load(data, inputs=outline.inputs, sizes=sizes, progress=progress)
                if splits_of is None
                else self.task.reload(data, splits_of.info["data"], sizes=sizes, progress=progress)
            )
        num_classes = self.task.num_classes(self.data)
        self.steps_per_epoch = max(1, len(self.data.splits.train) // config.batch_size)
        self.num_steps = max(1, round(config.epochs * self.steps_per_epoch))
        self.plan = self.strategy.schedule.plan(space, self.num_steps)
        # A checkpoint brings its own weights.
        model = recipe.model.untrained() if resumes else recipe.model
        supernet = build_supernet(model, num_classes=num_classes, inputs=self.task.inputs())
        self._check_outputs(supernet, num_classes)
        if not resumes:
            self._prepare(supernet)
        self.fabric.to_device(supernet)
        self.supernet = supernet
        self.parameters = [parameter for parameter in supernet.parameters() if parameter.requires_grad]
        num_processes = self.fabric.world_size
        self.reduction = Reduction(self.parameters, num_processes=num_processes) if num_processes > 1 else None
        self.optimizer = cast(_FabricOptimizer, self.fabric.setup_optimizers(make_optimizer(config, supernet)))
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
        trace = supernet.analysis.trace
        try:
            self.task.check_outputs(trace.output_type, trace.output_shapes, num_classes)
            self.task.check_model(supernet.model, self.data)
        except ConfigError as error:
            raise ConfigError(f"model {self.recipe.model.name!r} does not fit the data: {error}") from None

    def _prepare(self, supernet: Supernet) -> None:
        """What is done to the weights before the first step."""
        model = self.recipe.model
        if model.zero_init:
            zero_init(supernet)
        if model.sort_channels != "none":
            by_activations = model.sort_channels == "activations"
            sort_channels(supernet, inputs=self._few_inputs(512) if by_activations else None)
        if isinstance(supernet.model, Stitched) and model.weights is None:
            fit_stitches(supernet.model, self._few_inputs(128))
        grow_from(self.recipe, supernet, num_classes=self.task.num_classes(self.data))

    def _few_inputs(self, num: int) -> Iterator[Inputs]:
        """Training batches of about so many inputs in all."""
        batch_size = min(self.config.batch_size, len(self.data.splits.train) // 2 * 2)
        batches = self.task.train_batches(
            self.data, epoch=0, batch_size=batch_size, seed=self.config.seed, device="cpu"
        )
        return (inputs for inputs, _ in itertools.islice(batches, max(1, num // batch_size)))

    # -- the loop ----------------------------------------------------------------------------------------------------

    def fit(self, checkpoint: Path | None) -> Run:
        done = self._restore(checkpoint) if checkpoint else 0
        if self._is_first and self.rows:
            self._write_metrics()  # an earlier version may have been killed before it did
        with drawn(self.curves, self.rows) as add:
            self._train(done, add)
            if self._is_first:
                Run.save(
                    self.out, recipe=self.recipe, supernet=self._result(), data=self.data, code_sha256=self.code_sha256
                )
        self.fabric.barrier()
        return Run.open(self.out)

    def _train(self, done: int, add: Callable[[Mapping[str, Any]], None]) -> None:
        """From step ``done`` to the last, or until a signal; ``add`` takes what each epoch gives."""
        with stop_on_signals() as request:
            while done < self.num_steps:
                done, stops = self._train_epoch(done, request)
                if done % self.steps_per_epoch == 0 or done == self.num_steps:
                    add(self._end_epoch(done))
                self._save(done)
                if stops:
                    signum = request.signum or signal.SIGTERM
                    raise StoppedError(
                        f"stopped by {signal.Signals(signum).name} at step {done} of {self.num_steps}; everything "
                        f"is saved in {self.out / 'checkpoints'}, continue with --resume",
                        signum,
                    )

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
                what += f"  loss {losses[0][1]:.3f}  {speed:,.0f} {self.task.counted}s/s"
                self.progress(step + 1, self.num_steps, what)
            self._keep_time(step + 1)
            if stops or step + 1 == self.num_steps:
                return step + 1, stops
            if now - saved > 60 * self.config.checkpoint_minutes and step + 1 < end:
                self._save(step + 1)
                saved = time.perf_counter()
        return end, False

    def _end_epoch(self, done: int) -> dict[str, Any]:
        """Its row of ``metrics.csv``."""
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
        return row

    def _keep_time(self, done: int) -> None:
        """Shorten the run, once, to what fits into ``train.max_hours``."""
        limit, plan = self.limit, self.plan
        if limit is None or limit.num_steps is not None:
            return
        speed = limit.seconds_per_step(done, self.elapsed, at_once=len(plan) > 1 and done == plan[0].end)
        if speed is None:
            return
        limit.fit(
            self._plan_of,
            self.num_steps,
            done=done,
            elapsed=self.elapsed,
            seconds_per_step=speed,
            weights=step_weights(self.recipe, plan),
        )
        self._shorten(limit.num_steps or self.num_steps)
        fit, asked = self.num_steps / self.steps_per_epoch, plan[-1].end / self.steps_per_epoch
        what = f"all {asked:.4g}" if fit == asked else f"{fit:.3g} of {asked:.4g}"
        hours = self.config.max_hours
        notice(self.progress, f"{what} epochs fit into {hours:g} h, at {speed:.3g} s a step")

    def _plan_of(self, num_steps: int) -> list[Stretch]:
        return self.strategy.schedule.plan(self.supernet.space, num_steps)

    def _shorten(self, num_steps: int) -> None:
        self.num_steps, self.plan = num_steps, self._plan_of(num_steps)

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
            forget(self.optimizer.optimizer)
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
        inputs, ramp = channels_last(inputs), self._ramp(step, stretch)

        def compute(num_parts: int) -> tuple[list[Draw], Tensor, gradients.Gradients | None]:
            draws = self._draws(step, stretch, inputs, targets, num_parts)
            return draws, *self._backward(draws, inputs, targets, others_weight=ramp, num_parts=num_parts)

        computed = attempt(lambda: compute(self.config.accumulate))
        if computed is None:
            raise self._too_large(compute, len(inputs))
        draws, losses, set_aside = computed
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

    def _too_large(self, compute: Callable[[int], Any], num_rows: int) -> NotEnoughMemoryError:
        """What fits instead, found by trying; not among several processes, which wait for each other."""
        before, fits = self.config.accumulate, None

        def work(num_parts: int) -> None:
            gradients.take(self.parameters)
            compute(num_parts)

        gradients.take(self.parameters)
        alone = self.fabric.world_size == 1
        if alone:
            fits = parts_that_fit(work, num_parts=before, num_rows=num_rows)
        return too_large(
            self.fabric.device, batch_size=self.config.batch_size, before=before, fits=fits, was_tried=alone
        )

    def _backward(
        self, draws: Sequence[Draw], inputs: Inputs, targets: Any, *, others_weight: float, num_parts: int
    ) -> tuple[Tensor, gradients.Gradients | None]:
        """Forward and backward of every draw; gradients add up in the parameters.

        Args:
            num_parts: The images of each draw are computed in so many parts, one after another. What is learnt of them
                is the same but for batch normalisation, whose statistics are those of a part.

        Returns:
            Losses ``(num draws,)``, and the largest subnet's gradients where they are to be kept apart.
        """
        everything = range(len(inputs))
        parts = in_parts(everything, num_parts)
        taught = joined([self._taught(_some(inputs, rows), taken(targets, rows)) for rows in parts])
        in_place: Any = None
        set_aside: gradients.Gradients | None = None
        losses: list[Tensor] = []
        joint: list[Tensor] = []
        for draw in draws:
            mine = nth_part(everything, draw.part)
            is_largest, shown, shares = draw.role == "largest", [], []
            is_apart = is_largest and self.strategy.remove_conflicts
            for rows in in_parts(mine, num_parts):
                own, *learnt = (taken(values, rows) for values in (targets, taught, in_place))
                outputs = self._outputs(_some(inputs, rows), own, draw)
                loss = self._loss(draw, outputs, own, *learnt) * (len(rows) / len(mine))
                shares.append(loss.detach())
                weighted = loss if is_largest else loss * others_weight
                is_last = draw is draws[-1] and rows[-1] == mine[-1] and not is_apart
                if not self.strategy.sampler.joint_backward:
                    self._add_gradients(weighted, is_last=is_last)
                elif num_parts == 1:
                    joint.append(weighted * (len(mine) / len(inputs)))
                else:  # one backward pass would need the memory of all parts
                    self._add_gradients(weighted * (len(mine) / len(inputs)), is_last=is_last)
                if is_largest and self.strategy.loss.needs_teacher:
                    shown.append(self.task.teaching(outputs))
            losses.append(torch.stack(shares).sum())
            in_place = joined(shown) if shown else in_place
            if is_apart:
                set_aside = gradients.take(self.parameters)
                if self.reduction is not None:
                    self.reduction.send_apart(set_aside)
            self._count_macs(draw.arch, PASSES * len(mine))
        if joint:
            self._add_gradients(torch.stack(joint).sum(), is_last=True)
        return torch.stack(losses), set_aside

    def _add_gradients(self, loss: Tensor, *, is_last: bool) -> None:
        """What the last backward pass of a step is done with is averaged over processes while it goes on."""
        with self.reduction.last_pass(loss) if self.reduction is not None and is_last else nullcontext():
            self.fabric.backward(loss)

    def _loss(self, draw: Draw, outputs: Any, targets: Any, taught: Any, in_place: Any) -> Tensor:
        """The largest subnet learns from the targets or from another model, the rest from whatever teaches."""
        loss = self.strategy.loss
        if draw.role == "largest":
            teacher = taught if self.teacher is not None else None
        else:
            teacher = mixed(taught, in_place, share=self.strategy.teacher_share)
        return loss.label_loss(outputs, targets) if teacher is None else loss.distil(outputs, targets, teacher)

    def _finish(
        self, losses: Tensor, set_aside: gradients.Gradients | None, stops: bool
    ) -> tuple[Sequence[float], bool]:
        """Average over processes and put the gradients together; gives losses and whether to stop."""
        self.elapsed = 0.0 if self.limit is None else self.limit.elapsed
        parts = [] if set_aside is None else [set_aside]
        if self.reduction is not None:
            numbers = torch.cat([losses, losses.new_tensor([float(stops), self.elapsed])])
            parts, numbers = self.reduction.finish(numbers)
            losses, stops, self.elapsed = numbers[:-2], bool(numbers[-2] > 0), float(numbers[-1])
            gradients.take(self.parameters)
        else:
            parts.append(gradients.take(self.parameters))
        if set_aside is not None:
            parts[0] = gradients.without_conflict(parts[0], parts[1])
        for part in parts:
            gradients.add(self.parameters, part)
        return losses.tolist(), stops

    def _sum_over_processes(self, tensor: Tensor) -> Tensor:
        return cast(Tensor, self.fabric.all_reduce(tensor, reduce_op="sum"))

    def _draws(self, step: int, stretch: Stretch, inputs: Inputs, targets: Any, num_parts: int) -> list[Draw]:
        space = stretch.space

        def costs(population: Population) -> npt.NDArray[np.float64]:
            return self.cost.predict(population if space == self.supernet.space else space.to_archs(population))

        @torch.no_grad()
        def label_loss(arch: Arch) -> float:
            self._count_macs(arch, len(inputs))
            shares = []
            for rows in in_parts(range(len(inputs)), num_parts):
                own = taken(targets, rows)
                loss = self.strategy.loss.label_loss(self._outputs(_some(inputs, rows), own, Draw(arch)), own).detach()
                shares.append(loss * (len(rows) / len(inputs)))
            return float(self._sum_over_processes(torch.stack(shares).sum()))  # all must choose alike

        rng = np.random.default_rng([self.config.seed, step, 0, 1])  # not the data's sequence
        return self.strategy.draw(stretch.phase, Step(space, rng, costs, label_loss))

    def _ramp(self, step: int, stretch: Stretch) -> float:
        """Weight of the gradients of all subnets but the largest."""
        ramp_steps = stretch.phase.ramp * self.num_steps
        return min(1.0, (step - stretch.first + 1) / ramp_steps) if ramp_steps >= 1 else 1.0

    @torch.no_grad()
    def _taught(self, inputs: Inputs, targets: Any) -> Any:
        """What the frozen copy or the other model teaches of the inputs; both, in equal parts, if there are both."""
        said = []
        for teacher in (self.frozen, self.teacher):
            if teacher is not None:
                with self.fabric.autocast():
                    outputs = inputs.call(teacher)
                said.append(self.task.teaching(self.task.outputs(outputs, targets)))
        if self.frozen is not None:
            self._count_macs(self.supernet.space.largest(), len(inputs))
        return mean_of(said) if said else None

    def _outputs(self, inputs: Inputs, targets: Any, draw: Draw) -> Any:
        subnet = self.supernet.subnet(draw.arch)
        if draw.role != "largest" and self.strategy.drop == "largest" and subnet is not self.supernet.model:
            without_dropout(subnet)
        spec = self.supernet.inputs
        inputs = spec.resize(inputs, spec.sizes(draw.arch))
        with self.fabric.autocast(), self.synced():
            given = self.compiled(draw.arch, subnet, inputs) if draw.arch in self.compiled else inputs.call(subnet)
        return self.task.outputs(given, targets)

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
        """The metric, on the search split, of the largest and the smallest subnet, in the epochs that are evaluated.

        Of several processes two evaluate one each.
        """
        every = self.config.eval_every_epochs
        if not (is_last or (every and epoch % every == 0)):
            return None, None
        rank, num_ranks = self.fabric.global_rank, self.fabric.world_size
        space, scores = self.supernet.space, torch.zeros(2, dtype=torch.float64)
        bounds = [space.largest(), space.smallest()][rank::num_ranks]
        if bounds:
            with self.fabric.autocast():
                found = SubnetEvaluator(self._smoothed, self.data, self.task).values(bounds)
            scores[rank::num_ranks] = torch.from_numpy(found)
        if num_ranks > 1:
            scores = self._sum_over_processes(scores.to(self.fabric.device))
        largest, smallest = scores.tolist()
        return largest, smallest

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
                "threads": torch.get_num_threads(),
                **({} if self.code_sha256 is None else {"code_sha256": self.code_sha256}),
                **({} if self.limit is None else {"num_steps": self.limit.num_steps}),
                "splits": self.data.splits.to_json(),
                "torchrun": os.environ.get("TORCHELASTIC_RUN_ID"),
            }
            self._write_metrics()  # first: after a checkpoint of an epoch nothing of it is written again
            save_checkpoint(folder / f"step-{step:09d}.safetensors", groups, state)
            for old in checkpoints_in(folder)[: -self.config.keep_checkpoints]:
                old.unlink()
        self.fabric.barrier()

    def _write_metrics(self) -> None:
        write_csv_atomic(self.out / "metrics.csv", pd.DataFrame(self.rows))

    def _restore(self, path: Path) -> int:
        groups, state = load_checkpoint(path)
        if state.get("code_sha256") != self.code_sha256:
            raise RunError(
                f"the code of model {self.recipe.model.name!r} is not the one that {path} was trained with; restore "
                "the file, or choose another --out"
            )
        splits = self.data.splits.to_json()
        # Those of old may lack what is newer; the processes but the first have not looked at the samples.
        if any(splits[name] != value for name, value in state["splits"].items() if name in splits):
            raise RunError(
                f"the data set is not the one that {path} was trained on; restore it, or choose another --out"
            )
        if not self.config.threads:
            torch.set_num_threads(state.get("threads", torch.get_num_threads()))  # sums come out as before
        if self.limit is not None and (num_steps := state.get("num_steps")) is not None:
            self.limit.num_steps = int(num_steps)
            self._shorten(int(num_steps))
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


def _some(inputs: Inputs, rows: range) -> Inputs:
    return inputs.rows(slice(rows.start, rows.stop))
