"""From the candidates of a search to a bundle that keeps its budget: extract, calibrate, export, measure, judge."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn

from ofa.confidence import wilson_interval
from ofa.config import from_mapping
from ofa.data import ImageData, preprocessing
from ofa.data.preprocessing import to_pixels
from ofa.deploy.bundle import (
    BundleInfo,
    Latency,
    Parity,
    Preprocessing,
    Top1,
    check_destination,
    read_bundle,
    write_bundle,
)
from ofa.deploy.onnx_export import export_onnx
from ofa.deploy.parity import HERE, Logits, check_parity, run_logits
from ofa.deploy.verify import MeasureMs
from ofa.files import FileFormatError, read_json
from ofa.hardware import Device, measure
from ofa.hardware.fingerprint import fingerprint
from ofa.search.pick import InfeasibleBudgetError
from ofa.space import Arch
from ofa.training import SubnetEvaluator
from ofa.training.run import versions

Progress = Callable[[int, int, str], None]

NUM_PARITY_IMAGES = 32
STEPS = ("calibrating", "exporting", "comparing with torch", "measuring", "testing", "writing")


@dataclass(frozen=True)
class ExportResult:
    """What :func:`export_bundle` did.

    Args:
        info: What ``bundle.json`` says.
        too_slow: Candidates that looked better but missed the budget as exported files: ``arch``, ``latency_ms`` (p50).
        seconds: How long each step took, over all candidates.
    """

    path: Path
    info: BundleInfo
    too_slow: tuple[dict[str, Any], ...]
    seconds: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return {**asdict(self), "path": str(self.path)}


@dataclass
class _Clock:
    """Reports steps and adds up how long they take."""

    progress: Progress | None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        if self.progress is not None:
            self.progress(STEPS.index(what), len(STEPS), what)
        start = time.perf_counter()
        yield
        self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - start


def export_bundle(
    evaluator: SubnetEvaluator,
    candidates: Sequence[Mapping[str, Any]],
    *,
    out: Path | str,
    device: Device,
    budget_ms: float,
    measure_ms: MeasureMs,
    run_info: Mapping[str, Any],
    headroom: float = 0.02,
    num_samples: int = 32,
    dynamic_batch: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExportResult:
    """Export the first candidate whose exported file keeps the budget on the device, and write its bundle.

    The test split is touched once, for that candidate, and judged by the exported file itself in ONNX Runtime.

    Args:
        candidates: Best first, each with ``arch`` and ``latency_ms``, what the search believes of it; see
            :func:`read_candidates`. One that should miss after others were slower than believed is not exported.
        measure_ms: Measures an ONNX file on the device; see :func:`measure_on`.
        run_info: ``Run.info``: where the weights came from.
        headroom: The measured median must be this fraction below the budget: medians drift, and the promise is checked
            again elsewhere.
        num_samples: Test pictures to put into the bundle.
        dynamic_batch: Leave the batch of the exported network free; it is measured at the device's.

    Raises:
        InfeasibleBudgetError: If no candidate keeps the budget.
        ParityError: If an exported file does not compute what torch computes.
        BundleError: If ``out`` is taken.
    """
    check_destination(out, overwrite=overwrite)
    clock = _Clock(progress)
    limit_ms = budget_ms / (1 + headroom)
    slowdown, best_ms, too_slow = 1.0, np.inf, []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        for candidate in candidates:
            arch = evaluator.supernet.space.arch(candidate["arch"])
            believed_ms = float(candidate["latency_ms"])
            if believed_ms * slowdown > limit_ms:
                best_ms = min(best_ms, believed_ms * slowdown)
                continue
            module, parity = _export(evaluator, arch, file, clock, dynamic_batch=dynamic_batch)
            with clock.step("measuring"):
                latency_ms = dict(measure_ms(file))
            if latency_ms["p50"] <= limit_ms:
                break
            slowdown = max(slowdown, latency_ms["p50"] / believed_ms)
            best_ms = min(best_ms, latency_ms["p50"])
            too_slow.append({"arch": dict(arch), "latency_ms": latency_ms["p50"]})
        else:
            how = "measured or predicted"
            raise InfeasibleBudgetError(budget_ms, best_ms, headroom=headroom, device=device.name, how=how)
        model = file.read_bytes()
    with clock.step("testing"):
        top1 = _test(evaluator, model, int(arch["resolution"]))
        samples, labels, logits = _samples(evaluator, module, int(arch["resolution"]), num_samples)
    info = BundleInfo(
        arch=dict(arch),
        device=device.name,
        fingerprint=fingerprint(device),
        budget_ms=float(budget_ms),
        latency_ms=Latency(**{name: float(latency_ms[name]) for name in ("p10", "p50", "p90")}),
        top1_percent=top1,
        parity=parity,
        preprocessing=_spec(evaluator.data, int(arch["resolution"])),
        classes=evaluator.data.classes,
        provenance=_provenance(run_info),
        sample_labels=labels,
    )
    with clock.step("writing"):
        path = write_bundle(out, model=model, info=info, samples=samples, logits=logits, overwrite=overwrite)
    return ExportResult(path, read_bundle(path), tuple(too_slow), clock.seconds)


def _export(
    evaluator: SubnetEvaluator, arch: Arch, file: Path, clock: _Clock, *, dynamic_batch: bool
) -> tuple[nn.Module, Parity]:
    with clock.step("calibrating"):
        module = evaluator.calibrated(arch).cpu()
    with clock.step("exporting"):
        export_onnx(module, evaluator.supernet.input_shape(arch), file, dynamic_batch=dynamic_batch)
    with clock.step("comparing with torch"):
        images = next(iter(evaluator.batches("calibration", int(arch["resolution"]))))[0][:NUM_PARITY_IMAGES].cpu()
        difference = check_parity(module, file, images)
    return module, Parity(max_abs_difference=difference, num_images=len(images), split="calibration")


def _test(evaluator: SubnetEvaluator, model: bytes, resolution: int) -> Top1:
    num_right = num_images = 0
    for images, labels in evaluator.batches("test", resolution):
        chosen = run_logits(model, images.cpu().numpy()).argmax(axis=1)
        num_right += int((chosen == labels.cpu().numpy()).sum())
        num_images += len(labels)
    low, high = wilson_interval(num_right, num_images)
    return Top1(
        value=100 * num_right / num_images,
        low=low,
        high=high,
        num_images=num_images,
        split="test",
        runtime=HERE.runtime,
    )


def _samples(
    evaluator: SubnetEvaluator, module: nn.Module, resolution: int, num: int
) -> tuple[list[Image.Image], tuple[int, ...], Logits]:
    """The first test pictures, their labels and torch's logits. (Any run of a split holds the classes in proportion.)

    The pictures are cropped and resized to the first of the preprocessing's sizes; doing that again changes nothing.
    """
    data = evaluator.data
    images, labels = next(iter(evaluator.batches("test", resolution)))
    with torch.inference_mode():
        logits = module(images[:num].cpu()).numpy()
    grey, size = data.source.grey, data.resize_steps(resolution)[:1]
    pixels = [to_pixels(data.source.images[index], size, grey=grey) for index in data.splits.test[: len(logits)]]
    pictures = [Image.fromarray(array[0] if grey else array.transpose(1, 2, 0)) for array in pixels]
    return pictures, tuple(labels[:num].tolist()), logits


def _spec(data: ImageData, resolution: int) -> Preprocessing:
    return from_mapping(Preprocessing, preprocessing(data, resolution), where="preprocessing")


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


def measure_on(
    device: Device,
    *,
    rng: np.random.Generator,
    passes: int = 3,
    pause_seconds: float = 0.5,
    progress: Progress | None = None,
) -> MeasureMs:
    """A function that measures an ONNX file on a device, for :func:`export_bundle` and ``verify_bundle``.

    A pass takes a fraction of a second, and a shared machine can be busy for longer than that, which says nothing of
    the file. So there are several passes, apart in time, and the one with the lowest median counts.
    """

    def measure_ms(model: Path) -> dict[str, float]:
        found = []
        for number in range(passes):
            if number:
                time.sleep(pause_seconds)
            table = measure({"model": model}, device, rng=rng, progress=progress)
            found.append({name: float(table[f"latency_ms_{name}"].iloc[0]) for name in ("p10", "p50", "p90")})
        return min(found, key=lambda latency_ms: latency_ms["p50"])

    return measure_ms


def read_candidates(search_dir: Path | str, budget_ms: float) -> list[dict[str, Any]]:
    """What a search left for :func:`export_bundle`, best first.

    The pick for exactly this budget comes first; then all that was evaluated, by accuracy on the search split, so that
    there is somewhere to go when a file misses the budget. ``latency_ms`` is measured, or else predicted.

    Args:
        search_dir: ``RUN/search/DEVICE``.

    Raises:
        FileFormatError: If ``selected.json`` or ``front.csv`` is missing or damaged.
    """
    folder = Path(search_dir)
    remedy = "run `ofa search` for this device"
    picks = read_json(folder / "selected.json", kind="search result", remedy=remedy)["picks"]
    try:
        table = pd.read_csv(folder / "front.csv")
        latency_ms = table["measured_latency_ms"].fillna(table["predicted_latency_ms"])
        table = table.assign(latency_ms=latency_ms, arch=table["arch"].map(json.loads))
        table = table.sort_values(["measured_top1_percent", "latency_ms"], ascending=[False, True])
    except (OSError, KeyError, ValueError) as error:
        raise FileFormatError(f"{folder / 'front.csv'} is missing or damaged ({error!r}); {remedy}") from None
    chosen = [
        {"arch": pick["arch"], "latency_ms": pick["measured_latency_ms"]}
        for pick in picks
        if pick["budget_ms"] == budget_ms
    ]
    others = [{"arch": row["arch"], "latency_ms": row["latency_ms"]} for row in table.to_dict("records")]
    first: dict[str, dict[str, Any]] = {}
    for candidate in chosen + others:
        first.setdefault(json.dumps(candidate["arch"], sort_keys=True), candidate)
    return list(first.values())
