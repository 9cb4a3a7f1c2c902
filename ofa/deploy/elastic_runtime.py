"""Several subnets of one supernet, ready to run, with a switch between them (SortedNet, arXiv:2309.00255; SN-Net).

Nothing is loaded or compiled when a subnet is switched to: one reference changes.
"""

from __future__ import annotations

import ctypes
import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from ofa.deploy.elastic_format import (
    Compute,
    ElasticError,
    ElasticInfo,
    Floats,
    LatencyMs,
    Measurement,
    SubnetInfo,
    read_elastic,
)
from ofa.deploy.elastic_onnx import OnnxSubnets
from ofa.errors import OfaError, unknown_name_message
from ofa.setting import Setting

RuntimeName = Literal["onnxruntime", "torch"]


class UnknownSubnetError(OfaError, LookupError):
    """No subnet has this name."""


class Subnets(Protocol):
    """Makes what computes one subnet."""

    def load(self, subnet: SubnetInfo) -> Compute: ...


def _torch(root: Path, info: ElasticInfo, threads: int, device: str) -> Subnets:
    from ofa.deploy.elastic_torch import TorchSubnets

    return TorchSubnets(root, info, threads, device)


ELASTIC_RUNTIMES: dict[str, Callable[[Path, ElasticInfo, int, str], Subnets]] = {
    "onnxruntime": OnnxSubnets,
    "torch": _torch,
}


@dataclass(frozen=True, kw_only=True)
class ElasticSubnet(SubnetInfo):
    """One subnet of an artefact that is open.

    Args:
        latency_ms: Median of one image in the runtime and with the threads that the artefact was opened with; ``None``
            if that was not measured.
        worth: The score, or its negative where less is better.
    """

    latency_ms: float | None
    worth: float


@dataclass(frozen=True)
class LoadedSubnet:
    """A subnet that can run. Whoever holds one is not concerned by switching."""

    name: str
    input_shape: tuple[int, int, int]
    _compute: Compute

    def run(self, images: Floats) -> Floats:
        """Logits ``(N, num_classes)`` of normalised images ``(N, C, H, W)``, float32, ``N`` at least 1.

        Raises:
            ElasticError: If the images have another shape or type.
        """
        if images.dtype != np.float32 or images.shape[1:] != self.input_shape or not len(images):
            raise ElasticError(
                f"subnet {self.name!r} takes float32 images of shape (N, {', '.join(map(str, self.input_shape))}), not "
                f"{images.dtype} {images.shape}; hold ElasticRuntime.current while you prepare images for it"
            )
        return self._compute(np.ascontiguousarray(images))


class ElasticRuntime:
    """An elastic artefact, opened: one subnet is current, any other can be in the next request.

    Threads may run images and switch at the same time: a request is computed by the subnet that was current when
    :meth:`run` was called, whatever happens meanwhile. Where subnets differ in resolution, take :attr:`current` first,
    prepare the images for its ``input_shape``, and call its ``run``.

    The fastest subnet is current at first.

    Args:
        path: What :func:`ofa.deploy.elastic_write.write_elastic` left.
        runtime: ``onnxruntime``, on the CPU, or ``torch``. torch keeps the number of threads per process, and it is
            set when images run.
        threads: Threads that compute one image.
        device: Where ``torch`` has the weights and computes: ``cpu``, ``cuda`` (the first GPU) or ``cuda:1``. Images
            come from numpy and logits go back there, which is part of a latency. On a GPU torch's convolutions round
            to TF32 where torch is set so, as it is by default.
        max_loaded: Hold at most so many subnets besides what all have in common. The one that was used longest ago
            goes, and a switch to one that is not held loads it first. By default all are held.

    Raises:
        ElasticError: If the artefact is damaged or not what it should be, or if it cannot run so.
    """

    def __init__(
        self,
        path: Path | str,
        runtime: RuntimeName = "onnxruntime",
        threads: int = 1,
        *,
        device: str = "cpu",
        max_loaded: int | None = None,
    ) -> None:
        if runtime not in ELASTIC_RUNTIMES:
            raise ElasticError(unknown_name_message("runtime", runtime, ELASTIC_RUNTIMES))
        if threads < 1:
            raise ElasticError(f"threads must be at least 1, not {threads}")
        if max_loaded is not None and max_loaded < 1:
            raise ElasticError(f"max_loaded must be at least 1, not {max_loaded}; leave it out to hold all")
        self.path, self.runtime, self.threads = Path(path), runtime, threads
        self.device = "cuda:0" if device == "cuda" else device
        self.info = read_elastic(self.path)
        self._infos = {subnet.name: subnet for subnet in self.info.subnets}
        self._max_loaded = max_loaded or len(self._infos)
        self._subnets = ELASTIC_RUNTIMES[runtime](self.path, self.info, threads, self.device)
        self._loaded: OrderedDict[str, LoadedSubnet] = OrderedDict()
        self._lock = threading.Lock()
        self._measurement = self.info.measured(runtime, threads, self.device)
        names = [subnet.name for subnet in sorted(self.subnets, key=lambda each: each.latency_ms or math.inf)]
        for name in reversed(names[: self._max_loaded]):
            self.use(name)

    def to_json(self) -> dict[str, Any]:
        """What ``elastic.json`` says."""
        return self.info.to_json()

    # -- what there is -----------------------------------------------------------------------------------------------

    @property
    def subnets(self) -> tuple[ElasticSubnet, ...]:
        """All subnets, in the order in which they were written."""
        measurement = self._measurement
        latencies = [each.p50 for each in measurement.latency_ms] if measurement else [None] * len(self._infos)
        return tuple(
            ElasticSubnet(**vars(info), latency_ms=latency_ms, worth=self.info.metric.sign * info.score)
            for info, latency_ms in zip(self.info.subnets, latencies, strict=True)
        )

    @property
    def current(self) -> LoadedSubnet:
        """The subnet that the next request is computed by."""
        return self._current

    @property
    def is_measured_here(self) -> bool:
        """Whether latencies are of this machine and these versions; if not, :meth:`measure` makes them so."""
        measured = self._measurement
        return measured is not None and measured.fingerprint.get("id") == self._fingerprint()["id"]

    # -- switching ---------------------------------------------------------------------------------------------------

    def use(self, name: str) -> None:
        """Make a subnet current.

        Raises:
            UnknownSubnetError: If there is none of this name.
        """
        if name not in self._infos:
            raise UnknownSubnetError(unknown_name_message("subnet", name, self._infos))
        with self._lock:
            loaded = self._loaded.get(name)
            if loaded is not None:
                self._loaded.move_to_end(name)
                self._current = loaded
                return
            self._loaded[name] = self._current = self._load(name)
            while len(self._loaded) > self._max_loaded:
                self._loaded.popitem(last=False)  # a request that it computes keeps it
            give_back_memory()

    def set_budget_ms(self, budget_ms: float) -> ElasticSubnet:
        """Switch to the most accurate subnet whose measured latency keeps a budget.

        Raises:
            ElasticError: If none does, which names the nearest budget, or if latencies were not measured so.
        """
        subnets = self.subnets
        timed = [(each.latency_ms, each) for each in subnets if each.latency_ms is not None]
        if not timed:
            raise ElasticError(f"{self.path} has no latencies of {self._setting}; call measure() first")
        within = [(each.worth, -latency_ms, each) for latency_ms, each in timed if latency_ms <= budget_ms]
        if not within:
            latency_ms, fastest = min(timed, key=lambda pair: pair[0])
            nearest_ms = math.ceil(latency_ms * 1000) / 1000
            raise ElasticError(
                f"no subnet of {self.path} keeps {budget_ms:g} ms in {self._setting}: the fastest, {fastest.name!r}, "
                f"takes {latency_ms:.3f} ms; ask for at least {nearest_ms:.3f} ms"
            )
        chosen = max(within, key=lambda entry: entry[:2])[2]
        self.use(chosen.name)
        return chosen

    @property
    def _setting(self) -> str:
        """As messages name it."""
        where = "" if self.device == "cpu" else f" on {self.device}"
        return f"{self.runtime}{where} with threads={self.threads}"

    def _load(self, name: str) -> LoadedSubnet:
        info = self._infos[name]
        shape = (self.info.channels, info.resolution, info.resolution)
        loaded = LoadedSubnet(name, shape, self._subnets.load(info))
        loaded.run(np.zeros((1, *shape), dtype=np.float32))  # the first call plans and allocates
        return loaded

    # -- running -----------------------------------------------------------------------------------------------------

    def run(self, images: Floats) -> Floats:
        """Logits of images by the current subnet; see :meth:`LoadedSubnet.run`."""
        return self._current.run(images)

    def measure(self, *, rng: np.random.Generator, rounds: int = 10, block_seconds: float = 0.05) -> Measurement:
        """Time all subnets against each other, here and now; from then on latencies are these.

        With ``max_loaded`` all are loaded meanwhile. The artefact is left as it is.

        Args:
            rng: Draws an image and the order of measurements.
            rounds, block_seconds: See :func:`ofa.hardware.timing.time_models`.
        """
        from ofa.hardware.timing import SystemClock, time_models

        with self._lock:
            held = dict(self._loaded)
        requests = {}
        for name in self._infos:
            subnet = held.get(name) or self._load(name)
            images = rng.standard_normal((1, *subnet.input_shape)).astype(np.float32)
            requests[name] = partial(subnet.run, images)
        result = time_models(
            requests,
            anchor=requests[next(iter(requests))],
            rng=rng,
            num_blocks=rounds,
            block_seconds=block_seconds,
            clock=SystemClock(self.threads, on_cpu=self.device == "cpu"),
        )
        table = result.latencies_ms(list(self._infos))
        columns = [table[f"latency_ms_p{percentile}"].tolist() for percentile in (10, 50, 90)]
        self._measurement = Measurement(
            runtime=self.runtime,
            threads=self.threads,
            device=self.device,
            fingerprint=self._fingerprint(),
            latency_ms=tuple(LatencyMs(p10=p10, p50=p50, p90=p90) for p10, p50, p90 in zip(*columns, strict=True)),
        )
        return self._measurement

    def _fingerprint(self) -> dict[str, Any]:
        from ofa.hardware.fingerprint import fingerprint

        runtime = self.runtime if self.device == "cpu" else "torch-cuda"  # which names the GPU
        return fingerprint(Setting(runtime=runtime, threads=self.threads))


def give_back_memory() -> None:
    """Return freed memory to the system: glibc keeps what loading took, as much again as the weights.

    Other libraries have no such function, and no such habit.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
