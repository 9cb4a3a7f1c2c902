"""One subnet in the form that a device runs: calibrated, exported, compared with its reference, tested."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ofa.deploy.bundle import BundleInfo, FileScore, Latency, ModelInfo, Parity, read_bundle, write_bundle
from ofa.deploy.departure import first_departure
from ofa.deploy.parity import NUM_PARITY_IMAGES, TOLERANCES, Images, Outputs, ParityError, compare_outputs, load_outputs
from ofa.deploy.targets import Exported, Network, Target, TargetError, target_of
from ofa.deploy.targets.network import Accuracy, HalfPrecision, Quantization
from ofa.errors import UsageError
from ofa.files import atomic_path, write_json_atomic
from ofa.formats import FORMATS
from ofa.formats.onnx import DYNAMO_OPSET, check_opset
from ofa.formats.onnx_int8 import LEAST_INT8_OPSET
from ofa.hardware import Device
from ofa.hardware.runtimes import RUNTIMES, HasKernels
from ofa.nn.structure import own_tensors
from ofa.progress import Progress
from ofa.setting import Setting
from ofa.space import Arch, Value
from ofa.states import MEDIAN, Speed
from ofa.supernet.model_sources import public_name
from ofa.tasks import Feed
from ofa.training import SubnetEvaluator
from ofa.training.run import versions

NUM_CALIBRATION_IMAGES = 256
STEPS = ("calibrating", "exporting", "comparing", "measuring", "testing", "writing")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How a subnet is exported.

    Args:
        dynamic_batch: Leave the batch free; otherwise it is the device's.
        from_pixels: The network takes ``(N, H, W, C)`` uint8 pictures and gives probabilities, instead of normalised
            ``(N, C, H, W)`` float32 and logits.
        max_loss_points: What INT8 may cost of the metric on the search split, in its unit.
        opset: Of ONNX files.

    Raises:
        UsageError: If what INT8 may cost is no number from 0 up.
        OpsetError: If there is no such opset.
    """

    dynamic_batch: bool = False
    from_pixels: bool = False
    max_loss_points: float = 0.5
    opset: int = DYNAMO_OPSET

    def __post_init__(self) -> None:
        if not self.max_loss_points >= 0:
            raise UsageError(f"--max-loss must be 0 or more points of the metric, not {self.max_loss_points:g}")
        check_opset(self.opset)


DEFAULTS = ExportOptions()


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """An exported subnet that computes what it should.

    Args:
        files: Contents by name.
        sample_outputs: What its reference gives for the bundle's sample pictures.
    """

    arch: dict[str, Value]
    model: ModelInfo
    files: dict[str, bytes]
    parity: Parity
    preprocessing: Any
    sample_outputs: Outputs


@dataclass
class Clock:
    """Reports steps and adds up how long they take."""

    progress: Progress | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        if self.progress is not None:
            self.progress(STEPS.index(what), len(STEPS), what)
        start = time.perf_counter()
        yield
        self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - start


@contextmanager
def on_disk(files: Mapping[str, bytes]) -> Iterator[Path]:
    """The first of some files, all of them written to a folder that goes with the block."""
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        yield Path(folder) / next(iter(files))


def check_options(device: Device, options: ExportOptions) -> tuple[str, Target]:
    """Name and form of what a device runs; :class:`TargetError` if that is no file, or cannot be as the options say."""
    name, target = target_of(device)
    if options.dynamic_batch and not target.free_batch:
        raise TargetError(f"target {name} needs a fixed batch; leave --dynamic-batch out, or name another device")
    if options.opset != DYNAMO_OPSET and not target.is_onnx:
        raise TargetError(
            f"device {device.name} gets {' and '.join(target.files)}, no ONNX file that could be in opset "
            f"{options.opset}; leave --opset out, or name another device"
        )
    if device.setting.precision == "int8" and options.opset < LEAST_INT8_OPSET:
        raise TargetError(f"INT8 cannot be said in opset {options.opset}; the lowest is {LEAST_INT8_OPSET}: ask for it")
    return name, target


def make_artefact(
    evaluator: SubnetEvaluator,
    arch: Mapping[str, Value],
    device: Device,
    *,
    options: ExportOptions = DEFAULTS,
    keep_failed: Path | None = None,
    clock: Clock | None = None,
) -> Artefact:
    """Extract, calibrate and export a subnet for a device, and compare it with its reference on real images.

    Args:
        keep_failed: Folder for the files of an export that does not compute what it should.

    Raises:
        TargetError: If the device runs nothing that is a file, or not with these options.
        OpsetError: If the subnet cannot be written in the opset.
        ParityError: If the file does not compute what it should; it says which layer departs first.
        NotInstalledError: If the exporter or the runtime is not there.
    """
    clock, setting = clock or Clock(), device.setting
    canonical: Arch = evaluator.supernet.space.arch(arch)
    name, target = check_options(device, options)
    feed = _feed(evaluator, canonical, from_pixels=options.from_pixels)
    spec = feed.preprocessing
    _check_dtype(feed.dtype, name, target, evaluator)
    with clock.step("calibrating"):
        subnet = evaluator.calibrated(canonical).cpu().eval()
        own_tensors(subnet)  # contiguous: exporters make more nodes of channels-last weights, or refuse them
        num_params = sum(parameter.numel() for parameter in subnet.parameters())
        network = Network(
            module=feed.wrap(HalfPrecision(subnet) if setting.precision == "fp16" else subnet),
            input_shape=spec.input_size,
            dtype=feed.dtype,
            batch=None if options.dynamic_batch else setting.batch,
            input=feed.input,
            output=feed.output,
            opset=options.opset,
            accuracy=_accuracy(evaluator, feed, options.max_loss_points) if setting.precision == "int8" else None,
        )
    with clock.step("exporting"):
        exported = target.export(network, setting)
    tolerance = TOLERANCES[setting.precision]
    with clock.step("comparing"):
        images = feed.first("calibration", NUM_PARITY_IMAGES)
        expected = exported.reference(images)
        with on_disk(exported.files) as file:
            found = load_outputs(file, setting=setting, batch=network.batch, input_name=feed.input)(images)
            try:
                difference = compare_outputs(expected, found, what=file.name, tolerance=tolerance)
            except ParityError as error:
                raise ParityError(
                    _explain(str(error), exported, network, target, setting, images, keep_failed)
                ) from None
            quantization = _counted(exported.quantization, file, setting)
        sample_outputs = exported.reference(feed.first("test", evaluator.task.num_samples))
    return Artefact(
        arch=dict(canonical),
        model=ModelInfo(
            target=name,
            runtime=setting.runtime,
            precision=setting.precision,
            files=tuple(exported.files),
            input=feed.input,
            batch=network.batch,
            output=feed.output,
            num_params=num_params,
            quantization=quantization,
        ),
        files=exported.files,
        parity=Parity(
            max_abs_difference=difference,
            tolerance=tolerance,
            num_images=len(images),
            split="calibration",
            reference="quantized graph" if setting.precision == "int8" else "torch",
        ),
        preprocessing=spec,
        sample_outputs=sample_outputs,
    )


def _counted(quantization: Quantization | None, file: Path, setting: Setting) -> Quantization | None:
    """With what the file's kernels are."""
    if quantization is None or not RUNTIMES[setting.runtime]().on_cpu:
        return quantization
    session = RUNTIMES[setting.runtime]().prepare(file, setting)
    assert isinstance(session, HasKernels)
    kernels = session.kernels()
    return replace(
        quantization, int8_macs_percent=round(kernels.int8_percent, 2), num_conversions=kernels.num_conversions
    )


def _check_dtype(dtype: torch.dtype, name: str, target: Target, evaluator: SubnetEvaluator) -> None:
    if not FORMATS[target.format].takes_any and dtype not in (torch.float32, torch.uint8):
        raise TargetError(
            f"target {name} takes floats or pixels, not {str(dtype).removeprefix('torch.')} as {evaluator.task.name} "
            "gives; name a device of onnxruntime, openvino or executorch"
        )


def bundle_artefact(
    evaluator: SubnetEvaluator,
    artefact: Artefact,
    out: Path | str,
    *,
    device: Device,
    score: FileScore,
    latency_ms: Latency,
    budget_ms: float | None,
    speed: Speed = MEDIAN,
    run_info: Mapping[str, Any],
    overwrite: bool = False,
) -> BundleInfo:
    """Write the bundle of an artefact that was measured and tested.

    Args:
        score: See :func:`judge_artefact`.
        run_info: ``Run.info``: where the weights came from.

    Raises:
        BundleError: If ``out`` is taken.
    """
    samples = _feed_of(evaluator, artefact).samples(len(artefact.sample_outputs))
    info = BundleInfo(
        arch=artefact.arch,
        model=artefact.model,
        device=device.name,
        fingerprint=device.host.fingerprint(device.setting),
        budget_ms=None if budget_ms is None else float(budget_ms),
        latency_ms=latency_ms,
        speed=speed,
        score=score,
        parity=artefact.parity,
        preprocessing=artefact.preprocessing,
        classes=evaluator.task.classes(evaluator.data),
        provenance=_provenance(run_info),
        sample_labels=samples.labels,
        task=evaluator.task.shipped(),
    )
    path = write_bundle(
        out,
        model=artefact.files,
        info=info,
        samples=samples,
        outputs=artefact.sample_outputs,
        further=evaluator.task.files(evaluator.data),
        overwrite=overwrite,
    )
    return read_bundle(path)


def judge_artefact(evaluator: SubnetEvaluator, artefact: Artefact, device: Device) -> FileScore:
    """What the exported files themselves are worth on the test split, in the device's runtime."""
    scorer = evaluator.task.shipped_scorer(artefact.preprocessing)
    with on_disk(artefact.files) as file:
        model = artefact.model
        run = load_outputs(file, setting=device.setting, batch=model.batch, input_name=model.input)
        for inputs, targets in _feed_of(evaluator, artefact).batches("test"):
            scorer.update(run(inputs), targets)
    details = evaluator.task.details(scorer, evaluator.data)
    return FileScore(**vars(scorer.score()), split="test", runtime=device.setting.runtime, details=details)


def _feed(evaluator: SubnetEvaluator, arch: Mapping[str, Value], *, from_pixels: bool) -> Feed:
    """The run's samples as a subnet takes them."""
    sizes = evaluator.supernet.inputs.sizes(arch)
    return evaluator.task.feed(evaluator.data, sizes, from_pixels=from_pixels)


def _feed_of(evaluator: SubnetEvaluator, artefact: Artefact) -> Feed:
    return _feed(evaluator, artefact.arch, from_pixels=artefact.preprocessing.dtype == "uint8")


def _accuracy(evaluator: SubnetEvaluator, feed: Feed, max_loss_points: float) -> Accuracy:
    """What INT8 may cost on the search split, and the samples that its ranges come from."""
    batches = list(feed.batches("search"))
    inputs = np.concatenate([inputs for inputs, _ in batches])
    targets = tree_map(lambda *each: np.concatenate(each), *(targets for _, targets in batches))

    def worth(outputs: Outputs) -> float:
        scorer = evaluator.task.shipped_scorer(feed.preprocessing)
        scorer.update(outputs, targets)
        return evaluator.metric.sign * scorer.value()

    return Accuracy(
        calibration_images=feed.first("calibration", NUM_CALIBRATION_IMAGES),
        images=inputs,
        worth=worth,
        max_loss_points=max_loss_points,
    )


def _explain(
    message: str,
    exported: Exported,
    network: Network,
    target: Target,
    setting: Setting,
    images: Images,
    keep: Path | None,
) -> str:
    """Which layer departs first; the files are kept with what is known."""

    def run(prefix: nn.Module, inputs: Tensor) -> Outputs:
        made = target.export(replace(network, module=prefix, batch=1), setting)
        with on_disk(made.files) as file:
            return load_outputs(file, setting=setting, input_name=network.input)(inputs.numpy())

    if setting.precision == "fp32":
        departure = first_departure(
            network.module, torch.from_numpy(images), run, tolerance=TOLERANCES[setting.precision]
        )
        message += f"; {departure or 'exported once more it agrees'}"
    if keep is not None:
        for name, data in exported.files.items():
            with atomic_path(keep / name) as temporary:
                temporary.write_bytes(data)
        write_json_atomic(keep / "departure.json", {"format": 1, "message": message})
        message += f"; the files are in {keep}"
    return message


def _provenance(run_info: Mapping[str, Any]) -> dict[str, Any]:
    """What of ``supernet.json`` is worth sending around: neither the indices of the splits nor where files lay."""
    name = public_name(run_info["model"]["name"])
    recipe = {**run_info["recipe"], "data": {**run_info["recipe"]["data"], "root": None}}
    if "model" in recipe:
        recipe["model"] = _without_folders({**recipe["model"], "name": name}, "weights", "grow_from")
    if "task" in recipe:
        recipe["task"] = _without_folders(recipe["task"], "tokenizer")
    if "strategy" in recipe:
        recipe["strategy"] = _without_folders(recipe["strategy"], "teacher", "teacher_weights")
    return {
        "model": name,
        "data": {"name": run_info["data"]["name"], "num_train": run_info["data"]["num_train"]},
        "recipe": recipe,
        "weights_sha256": run_info["weights_sha256"],
        **({"origin": run_info["origin"]} if "origin" in run_info else {}),
        "trained_with": run_info.get("versions", {}),
        "exported_with": versions(),
    }


def _without_folders(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {**values, **{name: Path(values[name]).name for name in names if values.get(name)}}
