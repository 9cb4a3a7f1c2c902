"""The folder of an elastic artefact: what it holds, and how it is read without trusting it.

``weights.safetensors`` holds every weight that some subnet uses, once. A subnet's own ``NAME.onnx`` says which slices
of them it takes, as external data of ONNX, and holds what it alone has: factors and biases of folded batch
normalisation. ``elastic.json`` says the rest. Nothing here imports torch: a machine that only runs subnets needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ofa.config import ConfigError, from_mapping
from ofa.deploy.checked_folder import PLAIN_NAME, SUMS, CheckedFolder, check_entries, refused, unlisted
from ofa.errors import OfaError, shown
from ofa.files import check_file_name, sha256_of_file
from ofa.metrics import TOP1, Metric, metric_of, name_in_file

FORMAT = 1
INFO, WEIGHTS = "elastic.json", "weights.safetensors"
MAX_GRAPH_BYTES = 1 << 28

Floats = npt.NDArray[np.float32]
"""Images ``(N, C, H, W)`` and logits ``(N, num_classes)`` of requests, and weights."""
Compute = Callable[[Floats], Floats]
"""Gives the logits of images."""

MAX_WEIGHTS_BYTES = 1 << 34
MAX_SUBNETS = 256
MAX_RESOLUTION = 4096
MAX_CHANNELS = 1024
REMEDY = "name a folder that `write_elastic` left, or write it again"


class ElasticError(OfaError, ValueError):
    """An elastic artefact cannot be read, written or used as asked."""


FOLDER = CheckedFolder(
    info=INFO,
    kind="an elastic artefact",
    formats=(FORMAT,),
    remedy=REMEDY,
    error=ElasticError,
    belongs=lambda name: name == WEIGHTS or name.endswith(".onnx"),
)


@dataclass(frozen=True, kw_only=True)
class LatencyMs:
    """Milliseconds that one image took: percentiles."""

    p10: float
    p50: float
    p90: float


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Latencies of all subnets in one runtime.

    Args:
        fingerprint: What :func:`ofa.hardware.fingerprint.fingerprint` said of the machine.
        latency_ms: In the order of the subnets.
        device: What computed them: ``cpu``, ``cuda:0`` ...
    """

    runtime: str
    threads: int
    fingerprint: dict[str, Any]
    latency_ms: tuple[LatencyMs, ...]
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class SubnetInfo:
    """One subnet.

    Args:
        score: By the artefact's metric, on the split that it names; in the file under the metric's name.
        low, high: Its 95 % interval.
        max_abs_difference: Between the logits of a runtime and those of the extracted, calibrated subnet.
        preprocessing: From a picture to its input, see :func:`ofa.data.preprocessing`.
    """

    name: str
    arch: dict[str, Any]
    resolution: int
    score: float
    low: float
    high: float
    max_abs_difference: dict[str, float]
    preprocessing: dict[str, Any]

    def __post_init__(self) -> None:
        check_file_name("name", self.name)
        if not 1 <= self.resolution <= MAX_RESOLUTION:
            raise ConfigError(f"resolution must be 1 to {MAX_RESOLUTION}, not {self.resolution}")

    @property
    def graph(self) -> str:
        """Its file."""
        return f"{self.name}.onnx"


@dataclass(frozen=True, kw_only=True)
class ElasticInfo:
    """Contents of ``elastic.json``.

    Args:
        classes: In the order of the outputs; none where outputs have no names.
        split: What scores were measured on, ``num_images`` of it.
        channels: Of an input image.
        model: What :class:`ofa.training.recipe.ModelConfig` says of the supernet; without it torch cannot run subnets.
        provenance: Where the weights came from, and with what versions they were written.
        files: Name -> ``{"sha256", "bytes"}``.
        metric: What subnets are compared by; in the file only where it is not top-1 accuracy.
        num_outputs: What the model was built with, where there are no ``classes``.
    """

    subnets: tuple[SubnetInfo, ...]
    measurements: tuple[Measurement, ...]
    classes: tuple[str, ...]
    split: str
    num_images: int
    channels: int
    model: dict[str, Any] | None
    provenance: dict[str, Any]
    files: dict[str, Any] = field(default_factory=dict)
    metric: Metric = TOP1
    num_outputs: int | None = None

    def __post_init__(self) -> None:
        names = [subnet.name for subnet in self.subnets]
        if not 1 <= len(names) <= MAX_SUBNETS or len(set(names)) < len(names):
            raise ConfigError(f"there must be 1 to {MAX_SUBNETS} subnets of different names, not {names}")
        if any(len(each.latency_ms) != len(names) for each in self.measurements):
            raise ConfigError(f"each measurement must have {len(names)} latencies, one per subnet")
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise ConfigError(f"channels must be 1 to {MAX_CHANNELS}, not {self.channels}")
        check_entries(self.files)
        for name in self.files:
            if not PLAIN_NAME.fullmatch(name):
                raise ConfigError(f"files: {name!r} leaves the folder, or has odd characters")

    def to_json(self) -> dict[str, Any]:
        plain = asdict(self)
        del plain["metric"]
        if self.num_outputs is None:
            del plain["num_outputs"]
        subnets = [_renamed(subnet, "score", self.metric.name) for subnet in plain["subnets"]]
        return {**plain, "subnets": subnets, **name_in_file(self.metric)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, where: str) -> ElasticInfo:
        """The inverse of :meth:`to_json`; :class:`ConfigError` or :class:`UsageError` if something does not fit."""
        metric = metric_of(data)
        subnets = data.get("subnets")
        if isinstance(subnets, list):
            subnets = [_renamed(each, metric.name, "score") if isinstance(each, dict) else each for each in subnets]
        return from_mapping(cls, {**data, "subnets": subnets, "metric": metric}, where=where)

    def measured(self, runtime: str, threads: int, device: str = "cpu") -> Measurement | None:
        """Latencies in a runtime with so many threads on a device, if they were measured."""
        wanted = (runtime, threads, device)
        found = (each for each in self.measurements if (each.runtime, each.threads, each.device) == wanted)
        return next(found, None)


def _renamed(values: Mapping[str, Any], old: str, new: str) -> dict[str, Any]:
    return {new if key == old else key: value for key, value in values.items()}


def read_elastic(path: Path | str) -> ElasticInfo:
    """Read ``elastic.json``, and check that every file that it needs is there, whole and as listed, and no other.

    Raises:
        ElasticError: If something is missing, changed, a link, too large, or not what it should be.
    """
    root = Path(path)
    info = FOLDER.read(root, lambda data: ElasticInfo.from_json(data, where=str(root / INFO)))
    names = (WEIGHTS, *(subnet.graph for subnet in info.subnets))
    for name in names:
        _check_file(root, info, name)
    for name in unlisted(root, {INFO, SUMS, *names}):
        raise ElasticError(f"{root} holds {shown(name)}, which is no part of an elastic artefact; remove it")
    return info


def _check_file(root: Path, info: ElasticInfo, name: str) -> None:
    entry: Mapping[str, Any] | None = info.files.get(name)
    if entry is None:
        raise ElasticError(f"{root / INFO} does not list {name}; {REMEDY}")
    problem = refused(root, name, MAX_WEIGHTS_BYTES if name == WEIGHTS else MAX_GRAPH_BYTES)
    if not problem and (root / name).stat().st_size != entry["bytes"]:
        problem = f"{(root / name).stat().st_size} bytes long, not {entry['bytes']}"
    if not problem and sha256_of_file(root / name) != entry["sha256"]:
        problem = "not the file that elastic.json lists: its sha256 differs"
    if problem:
        raise ElasticError(f"{root / name} is {problem}; {REMEDY}")
