"""One subnet in the form that a device runs: calibrated, exported, compared with its reference, tested."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ofa.confidence import wilson_interval
from ofa.deploy.bundle import BundleInfo, Latency, ModelInfo, Parity, Preprocessing, Top1, read_bundle, write_bundle
from ofa.deploy.departure import first_departure
from ofa.deploy.inputs import Inputs
from ofa.deploy.onnx_export import INPUT
from ofa.deploy.parity import (
    NUM_PARITY_IMAGES,
    TOLERANCES,
    Images,
    Outputs,
    ParityError,
    compare_outputs,
    load_outputs,
    run_outputs,
)
from ofa.deploy.targets import Exported, Network, Target, TargetError, target_of
from ofa.files import atomic_path, write_json_atomic
from ofa.hardware import Device
from ofa.nn.structure import own_tensors
from ofa.progress import Progress
from ofa.space import Arch, Value
from ofa.training import SubnetEvaluator
from ofa.training.run import versions

STEPS = ("calibrating", "exporting", "comparing", "measuring", "testing", "writing")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How a subnet is exported.

    Args:
        dynamic_batch: Leave the batch free; otherwise it is the device's.
        from_pixels: The network takes ``(N, H, W, C)`` uint8 pictures and gives probabilities, instead of normalised
            ``(N, C, H, W)`` float32 and logits.
        max_loss_points: Percentage points of accuracy on the search split that INT8 may cost.
        num_samples: Test pictures to put into a bundle.
    """

    dynamic_batch: bool = False
    from_pixels: bool = False
    max_loss_points: float = 0.5
    num_samples: int = 32


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
    preprocessing: Preprocessing
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
        TargetError: If the device runs nothing that is a file, or not with a free batch.
        ParityError: If the file does not compute what it should; it says which layer departs first.
        NotInstalledError: If the exporter or the runtime is not there.
    """
    clock = clock or Clock()
    canonical: Arch = evaluator.supernet.space.arch(arch)
    resolution = int(canonical["resolution"])
    name, target = target_of(device)
    if options.dynamic_batch and not target.free_batch:
        raise TargetError(f"target {name} needs a fixed batch; leave --dynamic-batch out, or name another device")
    inputs = Inputs(evaluator, resolution, options.from_pixels)
    spec = inputs.preprocessing
    with clock.step("calibrating"):
        subnet = evaluator.calibrated(canonical).cpu().eval()
        own_tensors(subnet)  # contiguous: exporters make more nodes of channels-last weights, or refuse them
        num_params = sum(parameter.numel() for parameter in subnet.parameters())
        network = Network(
            module=inputs.wrap(subnet, device.precision),
            input_shape=spec.input_size,
            dtype=inputs.dtype,
            batch=None if options.dynamic_batch else device.batch,
            accuracy=inputs.accuracy(options.max_loss_points) if device.precision == "int8" else None,
        )
    with clock.step("exporting"):
        exported = target.export(network, device)
    tolerance = TOLERANCES[device.precision]
    with clock.step("comparing"):
        images = inputs.first("calibration", NUM_PARITY_IMAGES)
        expected = exported.reference(images)
        with on_disk(exported.files) as file:
            found = run_outputs(file, images, device=device, batch=network.batch)
            try:
                difference = compare_outputs(expected, found, what=file.name, tolerance=tolerance)
            except ParityError as error:
                raise ParityError(
                    _explain(str(error), exported, network, target, device, images, keep_failed)
                ) from None
        sample_outputs = exported.reference(inputs.first("test", options.num_samples))
    return Artefact(
        arch=dict(canonical),
        model=ModelInfo(
            target=name,
            runtime=device.runtime,
            precision=device.precision,
            files=tuple(exported.files),
            input=INPUT,
            batch=network.batch,
            output="probabilities" if options.from_pixels else "logits",
            num_params=num_params,
            quantization=exported.quantization,
        ),
        files=exported.files,
        parity=Parity(
            max_abs_difference=difference,
            tolerance=tolerance,
            num_images=len(images),
            split="calibration",
            reference="quantized graph" if device.precision == "int8" else "torch",
        ),
        preprocessing=spec,
        sample_outputs=sample_outputs,
    )


def bundle_artefact(
    evaluator: SubnetEvaluator,
    artefact: Artefact,
    out: Path | str,
    *,
    device: Device,
    top1: Top1,
    latency_ms: Latency,
    budget_ms: float,
    run_info: Mapping[str, Any],
    overwrite: bool = False,
) -> BundleInfo:
    """Write the bundle of an artefact that was measured and tested.

    Args:
        top1: See :func:`judge_artefact`.
        run_info: ``Run.info``: where the weights came from.

    Returns:
        What ``bundle.json`` says.

    Raises:
        BundleError: If ``out`` is taken.
    """
    samples, labels = _inputs_of(evaluator, artefact).samples(len(artefact.sample_outputs))
    info = BundleInfo(
        arch=artefact.arch,
        model=artefact.model,
        device=device.name,
        fingerprint=device.host.fingerprint(device),
        budget_ms=float(budget_ms),
        latency_ms=latency_ms,
        top1_percent=top1,
        parity=artefact.parity,
        preprocessing=artefact.preprocessing,
        classes=evaluator.data.classes,
        provenance=_provenance(run_info),
        sample_labels=labels,
    )
    path = write_bundle(
        out, model=artefact.files, info=info, samples=samples, outputs=artefact.sample_outputs, overwrite=overwrite
    )
    return read_bundle(path)


def judge_artefact(evaluator: SubnetEvaluator, artefact: Artefact, device: Device) -> Top1:
    """Accuracy of the exported files themselves on the test split, in the device's runtime."""
    inputs = _inputs_of(evaluator, artefact)
    num_right = num_images = 0
    with on_disk(artefact.files) as file:
        run = load_outputs(file, device=device, batch=artefact.model.batch)
        for images, labels in inputs.batches("test"):
            outputs = run(images)
            num_right += int((outputs.argmax(axis=1) == labels).sum())
            num_images += len(labels)
    low, high = wilson_interval(num_right, num_images)
    return Top1(
        value=100 * num_right / num_images,
        low=low,
        high=high,
        num_images=num_images,
        split="test",
        runtime=device.runtime,
    )


def _inputs_of(evaluator: SubnetEvaluator, artefact: Artefact) -> Inputs:
    return Inputs(evaluator, int(artefact.arch["resolution"]), artefact.preprocessing.dtype == "uint8")


def _explain(
    message: str,
    exported: Exported,
    network: Network,
    target: Target,
    device: Device,
    images: Images,
    keep: Path | None,
) -> str:
    """Which layer departs first; the files are kept with what is known."""

    def run(prefix: nn.Module, inputs: Tensor) -> Outputs:
        made = target.export(replace(network, module=prefix, batch=1), device)
        with on_disk(made.files) as file:
            return run_outputs(file, inputs.numpy(), device=device)

    if device.precision == "fp32":
        departure = first_departure(
            network.module, torch.from_numpy(images), run, tolerance=TOLERANCES[device.precision]
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
    """What of ``supernet.json`` is worth sending around: neither the indices of the splits nor where the data lay."""
    recipe = {**run_info["recipe"], "data": {**run_info["recipe"]["data"], "root": None}}
    return {
        "model": run_info["model"]["name"],
        "data": {"name": run_info["data"]["name"], "num_train": run_info["data"]["num_train"]},
        "recipe": recipe,
        "weights_sha256": run_info["weights_sha256"],
        "trained_with": run_info.get("versions", {}),
        "exported_with": versions(),
    }
