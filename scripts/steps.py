"""Timing of training steps and of BN calibration; what `bench_training.py` and `gpu.py` share."""

from __future__ import annotations

import contextlib
import itertools
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import ofa
from ofa.hardware.fingerprint import cpu_model
from ofa.inputs import Inputs, channels_last
from ofa.space import Arch
from ofa.supernet import create_supernet
from ofa.tasks.losses import SoftLabels
from ofa.training import SubnetEvaluator, calibrate_bn
from ofa.training.compiled import CompiledSubnets

CALIBRATION_BATCH = 256
THROUGHPUT_MODEL = "ofa_mobilenetv3_w1.0"


def machine(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"{cpu_model()}, {platform.machine()}"


@contextlib.contextmanager
def num_threads(num: int) -> Iterator[None]:
    """So many threads of torch for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def milliseconds(action: Callable[[], object], device: str) -> float:
    """Wall time, of what runs on the GPU too."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    action()
    if device == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - started)


def calibration_times(
    evaluator: SubnetEvaluator, arch: Arch, *, num_images: int, pairs: int, rng: np.random.Generator
) -> dict[str, float]:
    """Time of BN calibration and of a plain forward pass over the same batches, in pairs of random order."""
    batches = evaluator.batches("calibration", arch)
    images = [inputs.tensors[0] for inputs, _ in itertools.islice(batches, max(1, num_images // CALIBRATION_BATCH))]
    module = channels_last(evaluator.supernet.extract(arch))

    @torch.inference_mode()
    def forward() -> None:
        for batch in images:
            module(batch)

    actions: list[Callable[[], object]] = [lambda: calibrate_bn(module, images), forward]
    times = interleaved(actions, rounds=pairs, rng=rng, device=images[0].device.type)
    return {
        "images": sum(map(len, images)),
        "calibration_ms": round(float(np.median(times[0])), 3),
        "forward_ms": round(float(np.median(times[1])), 3),
        "ratio": round(float(np.median(times[0] / times[1])), 4),
    }


def interleaved(
    actions: Sequence[Callable[[], object]], *, rounds: int, rng: np.random.Generator, device: str, num_warmup: int = 1
) -> npt.NDArray[np.float64]:
    """Milliseconds of every action in every round, shape ``(actions, rounds)``; each round in another random order.

    Args:
        num_warmup: Rounds before, which do not count.
    """
    times = np.empty((len(actions), rounds))
    for turn in range(-num_warmup, rounds):
        for number in rng.permutation(len(actions)):
            measured = milliseconds(actions[number], device)
            if turn >= 0:
                times[number, turn] = measured
    return times


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """Where and how training steps are timed; bfloat16 on a GPU."""

    machine: str
    device: str
    threads: int
    batch_size: int
    resolution: int
    rounds: int
    compile: bool = False

    @property
    def text(self) -> str:
        where = f"{self.machine}, {self.threads} threads" if self.device == "cpu" else f"{self.machine}, bf16"
        compiled = ", bounds compiled" if self.compile else ""
        return f"{where}, batch {self.batch_size}, {self.resolution} px{compiled}"

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda")


class Steps:
    """Training steps as the trainer takes them, on one batch of noise."""

    def __init__(self, settings: StepSettings) -> None:
        self.settings = settings
        shape = (settings.batch_size, 3, settings.resolution, settings.resolution)
        self.images = channels_last(torch.randn(shape, device=settings.device))
        self.labels = torch.randint(10, (settings.batch_size,), device=settings.device)
        self.loss = SoftLabels()

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            network.parameters(), lr=1e-4, momentum=0.9, nesterov=True, weight_decay=3e-5, fused=True
        )

    def _forward(self, compiled: CompiledSubnets, arch: Arch, network: nn.Module) -> Tensor:
        with self.settings.autocast():
            logits = compiled(arch, network, Inputs(self.images)) if arch in compiled else network(self.images)
            return torch.as_tensor(logits)

    def _compiled(self, archs: Sequence[Arch]) -> CompiledSubnets:
        """What compiles the first and the last, which are the bounds, if that is asked for."""
        return CompiledSubnets([archs[0], archs[-1]] if self.settings.compile else [])

    def sandwich(self, supernet: ofa.Supernet, archs: Sequence[Arch]) -> Callable[[], None]:
        """A step of all subnets, the largest first, through the supernet."""
        optimizer, compiled = self.optimizer(supernet), self._compiled(archs)

        def step() -> None:
            teacher: Tensor | None = None
            losses = []
            for arch in archs:
                logits = self._forward(compiled, arch, supernet.subnet(arch))
                if teacher is None:
                    loss = self.loss.label_loss(logits, self.labels)
                    teacher = logits.detach().float().softmax(dim=1)
                else:
                    loss = self.loss.distil(logits, self.labels, teacher)
                loss.backward()
                losses.append(loss.detach())
            torch.stack(losses).tolist()
            optimizer.step()
            optimizer.zero_grad()

        return step

    def static(self, supernet: ofa.Supernet, archs: Sequence[Arch]) -> list[Callable[[], None]]:
        """A step of each subnet as a network of its own, with its own optimiser."""
        compiled = self._compiled(archs)
        return [self._static(supernet.extract(arch), arch, compiled) for arch in archs]

    def _static(self, extracted: nn.Module, arch: Arch, compiled: CompiledSubnets) -> Callable[[], None]:
        network = extracted.train().to(memory_format=torch.channels_last)
        optimizer = self.optimizer(network)

        def step() -> None:
            loss = self.loss.label_loss(self._forward(compiled, arch, network), self.labels)
            loss.backward()
            loss.item()
            optimizer.step()
            optimizer.zero_grad()

        return step


@dataclass(frozen=True)
class Sandwich:
    """A supernet with random weights, and four subnets of it: the largest, two random, the smallest."""

    supernet: ofa.Supernet
    archs: Sequence[Arch]
    steps: Steps


def make_sandwich(settings: StepSettings, *, draw: int, model: str = THROUGHPUT_MODEL) -> Sandwich:
    """All of it on the device; ``draw`` decides weights, images and random subnets."""
    with torch.random.fork_rng():
        torch.manual_seed(draw)
        supernet = create_supernet(model, num_classes=10, resolution=[settings.resolution]).train()
        supernet = supernet.to(settings.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        steps = Steps(settings)
    space, rng = supernet.space, np.random.default_rng(draw)
    return Sandwich(supernet, [space.largest(), space.sample(rng), space.sample(rng), space.smallest()], steps)


def step_times(settings: StepSettings, *, draw: int) -> dict[str, float]:
    """Low percentiles of a sandwich step and of the steps of its subnets alone, which take turns."""
    if settings.compile:
        torch.compiler.reset()  # graphs of earlier draws would be tried first, at every call
    made = make_sandwich(settings, draw=draw)
    actions = [made.steps.sandwich(made.supernet, made.archs), *made.steps.static(made.supernet, made.archs)]
    # The compiler sees its function twice before it settles.
    num_warmup = 3 if settings.compile else 1
    rng = np.random.default_rng([draw, 1])  # not the sequence that the subnets were drawn from
    times = interleaved(actions, rounds=settings.rounds, rng=rng, device=settings.device, num_warmup=num_warmup)
    return step_summary(times)


def step_summary(times: npt.NDArray[np.float64]) -> dict[str, float]:
    """Of milliseconds ``(1 + subnets, rounds)``, the sandwich first."""
    low = np.percentile(times, 10, axis=1)
    return {
        "sandwich_ms": round(float(low[0]), 2),
        "static_ms": round(float(low[1:].sum()), 2),
        "ratio": round(float(low[1:].sum() / low[0]), 4),
        "median_ratio": round(float(np.median(times[1:].sum(0) / times[0])), 4),
    }
