"""A bundle: the folder that leaves this toolkit, with a model and everything needed to run and to check it.

``bundle.json`` describes it (its schema is ``docs/bundle.schema.json``), see :mod:`ofa.deploy.checked_folder`. The same
inputs give the same bytes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ofa.config import ConfigError, from_mapping, to_plain
from ofa.deploy.checked_folder import SUMS, CheckedFolder, check_entries
from ofa.deploy.model_card import model_card
from ofa.deploy.parity import Outputs
from ofa.deploy.predict_script import predict_script
from ofa.deploy.targets import TARGETS, Quantization
from ofa.errors import OfaError, unknown_name_message
from ofa.files import resolved
from ofa.metrics import Score
from ofa.states import Speed
from ofa.tasks import TASKS, Classification, Samples, Task, task_from_json

FORMATS = (2, 3, 4, 5)
"""5: the share of INT8. 4: the speed that latencies are stated at. 3: pictures of any proportions, channels and bits.
2: any target, whole distribution of the latency, outputs instead of logits. 1 was ``model.onnx`` in fp32 only.
"""

INFO, CARD, PREDICT, OUTPUTS = ("bundle.json", "README.md", "predict.py", "samples/outputs.npy")
TOP_LEVEL = {INFO, SUMS, CARD, PREDICT, "samples", *(name for target in TARGETS.values() for name in target.files)}
MAX_BATCH = 4096


class BundleError(OfaError, ValueError):
    """A bundle cannot be read, or cannot be written where it should."""


def _belongs(name: str) -> bool:
    return name in TOP_LEVEL or any(name in task.bundle_files for task in TASKS.values())


FOLDER = CheckedFolder(
    info=INFO,
    kind="a bundle",
    formats=FORMATS,
    remedy="name a folder that `ofa export` left, or export it again",
    error=BundleError,
    belongs=_belongs,
)


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds that one call took, or that it would have taken at the speed that is stated.

    Args:
        p99: ``None`` where an earlier version measured.
        cold_p50: After the caches were used by others; ``None`` where that was not measured.
        times_as_long: How many times as long it took when it was measured.
        quantiles: At 0, 5 ... 100 %.
        repeatability_percent: By how much two halves of the measurement differ in their low percentile.
    """

    p10: float
    p50: float
    p90: float
    p99: float | None = None
    cold_p50: float | None = None
    times_as_long: float = 1.0
    num_runs: int = 0
    repeatability_percent: float = 0.0
    quantiles: tuple[float, ...] = ()

    def at(self, percentile: int) -> float:
        """One of the percentiles; infinite where it was not measured."""
        found: float | None = {50: self.p50, 90: self.p90, 99: self.p99}[percentile]
        return math.inf if found is None else found


@dataclass(frozen=True, kw_only=True)
class FileScore(Score):
    """What the metric is with its 95 % interval, and what it was measured on and with.

    Args:
        details: What else is known: for classification the accuracy class by class.
    """

    split: str
    runtime: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far the file's outputs were from those of its reference.

    Args:
        tolerance: Share of the largest absolute output that is allowed.
        reference: ``torch``; for INT8 ``quantized graph``, evaluated in floating point.
    """

    max_abs_difference: float
    tolerance: float
    num_images: int
    split: str
    reference: Literal["torch", "quantized graph"]


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """The files of the network, and how to call it.

    Args:
        target: A name of :data:`ofa.deploy.targets.TARGETS`.
        files: The first is the one that the runtime loads.
        input: Name of the input; its shape is the batch and ``preprocessing.input_size``.
        batch: Images in one call; ``None`` if any number will do.
        output: What it gives: ``logits`` or ``probabilities`` of classes.
        num_params: Parameters of the subnet.

    Raises:
        ConfigError: If target and files do not belong together, or a batch is none.
    """

    target: str
    runtime: str
    precision: Literal["fp32", "fp16", "bf16", "int8"]
    files: tuple[str, ...]
    input: str
    batch: int | None
    output: str
    num_params: int
    quantization: Quantization | None = None

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise ConfigError(unknown_name_message("target", self.target, TARGETS))
        target = TARGETS[self.target]
        if self.files != target.files or self.runtime not in target.runtimes or self.precision not in target.precisions:
            raise ConfigError(
                f"target {self.target!r} is {list(target.files)} for {list(target.runtimes)} in "
                f"{list(target.precisions)}, not {list(self.files)} for {self.runtime!r} in {self.precision!r}"
            )
        if self.batch is not None and not 1 <= self.batch <= MAX_BATCH:
            raise ConfigError(f"batch must be 1 to {MAX_BATCH}, not {self.batch}")


@dataclass(frozen=True, kw_only=True)
class BundleInfo:
    """Contents of ``bundle.json``.

    Args:
        device: Name of the device that ``latency_ms`` was measured on.
        budget_ms: What the latency keeps at ``speed``; ``None`` where nothing was asked.
        speed: At which ``latency_ms`` is stated.
        fingerprint: What :func:`ofa.hardware.fingerprint.fingerprint` said of it.
        score: By the task's metric, on the test split; in the file under the metric's name.
        provenance: Model, data, recipe, weights and versions that it came from.
        preprocessing: What the task says of its input, :attr:`ofa.tasks.Task.preprocessing`.
        classes: In the order of the outputs; none where outputs have no names.
        sample_labels: What is right for each file in ``samples/``: for classification the index of its class.
        files: Name -> ``{"sha256", "bytes"}``; filled in where they are written.
        task: In the file only where it is not the default.
    """

    arch: dict[str, Any]
    model: ModelInfo
    device: str
    fingerprint: dict[str, Any]
    budget_ms: float | None
    latency_ms: Latency
    score: FileScore
    parity: Parity
    preprocessing: Any
    classes: tuple[str, ...]
    provenance: dict[str, Any]
    sample_labels: tuple[Any, ...]
    files: dict[str, Any] = field(default_factory=dict)
    speed: Speed = field(default_factory=Speed)
    task: Task = field(default_factory=Classification)

    def __post_init__(self) -> None:
        if not self.sample_labels:
            raise ConfigError("sample_labels must hold at least one: a bundle without samples cannot be checked")
        self.task.check_labels(self.sample_labels, self.classes)
        check_entries(self.files)

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = to_plain(self)
        if self.task == Classification():
            del plain["task"]
        return {self.task.metric.name if key == "score" else key: value for key, value in plain.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, where: str) -> BundleInfo:
        """The inverse of :meth:`to_json`; :class:`ConfigError` if a key or value does not fit."""
        task = task_from_json(data.get("task"), where=where)
        if "score" in data:
            raise ConfigError(f"{where}: {unknown_name_message('key', 'score', [task.metric.name])}")
        renamed = {"score" if key == task.metric.name else key: value for key, value in data.items()}
        if "preprocessing" in data:
            spec = from_mapping(task.preprocessing, data["preprocessing"], where=f"{where}: preprocessing")
            renamed["preprocessing"] = spec
        return from_mapping(cls, {**renamed, "task": task}, where=where)

    @property
    def sample_names(self) -> list[str]:
        """Where the samples lie in the bundle."""
        return [f"samples/{index:03}{self.task.sample_suffix}" for index in range(len(self.sample_labels))]


def write_bundle(
    out: Path | str,
    *,
    model: Mapping[str, bytes],
    info: BundleInfo,
    samples: Samples,
    outputs: Outputs,
    further: Mapping[str, bytes] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a bundle: into a folder beside ``out``, renamed at the end, so that there is never half of one.

    Args:
        out: Folder to make.
        model: Contents of ``info.model.files``, by name.
        samples: Real test files, one for each of ``info.sample_labels``, small enough to send around.
        outputs: What the network's reference gives for them, float32 ``(len(samples), ...)``.
        further: Contents of the task's :attr:`~ofa.tasks.Task.bundle_files`, by name.
        overwrite: Replace a bundle that is there; anything else is never replaced.

    Returns:
        ``out``, links and ``..`` followed.

    Raises:
        BundleError: If ``out`` cannot be made or replaced, or something appeared there: both are kept then.
    """
    assert len(samples.files) == len(outputs) == len(info.sample_labels)
    assert tuple(samples.label_files) == info.task.label_files(info.sample_labels)
    assert tuple(model) == info.model.files
    further = further or {}
    assert tuple(further) == info.task.bundle_files
    contents = {
        **model,
        **further,
        CARD: model_card(info.to_json(), info.task, output_shape=outputs.shape[1:], model_files=model).encode(),
        PREDICT: predict_script(info.task),
        OUTPUTS: _npy(outputs),
        **dict(zip(info.sample_names, samples.files, strict=True)),
        **samples.label_files,
    }
    with FOLDER.new(out, overwrite=overwrite) as folder:
        (folder / "samples").mkdir()
        for name, data in contents.items():
            (folder / name).write_bytes(data)
        FOLDER.seal(folder, info.to_json())
    return resolved(out)


def read_bundle(path: Path | str) -> BundleInfo:
    """Read and check ``bundle.json``; the other files are left alone.

    Raises:
        BundleError: If it is missing, truncated, of another format, or does not say what it should.
    """
    root = Path(path)
    return FOLDER.read(root, lambda data: BundleInfo.from_json(data, where=str(root / INFO)))


def check_destination(out: Path | str, *, overwrite: bool) -> None:
    """:class:`BundleError` unless a bundle may be written to ``out``: nothing there, or a bundle and ``overwrite``."""
    FOLDER.check_destination(out, overwrite=overwrite)


def _npy(array: Outputs) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
