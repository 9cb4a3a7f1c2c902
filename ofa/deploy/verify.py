"""Whether a bundle holds what it promises: its files, its logits, its accuracy, its latency.

Nothing of a bundle is executed or unpickled. A model is loaded only after every file has been found to be as listed, in
a process that is ended if it takes too long. What a bundle says of itself weakens no check.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ofa.data import DataError
from ofa.deploy.bundle import CARD, INFO, OUTPUTS, PREDICT, BundleError, BundleInfo, Latency, read_bundle
from ofa.deploy.checked_folder import SUMS, refused, sums_text, unlisted
from ofa.deploy.foreign_graph import problem_of
from ofa.deploy.parity import TOLERANCES, Images, Outputs, ParityError, compare_outputs, load_outputs
from ofa.deploy.predict_script import is_ours
from ofa.deploy.targets.network import int8_text
from ofa.files import sha256_of_file
from ofa.hardware import Device
from ofa.hardware.apart import apart
from ofa.hardware.runtimes import RUNTIMES, HasKernels, ModelError, NotInstalledError, Runtime
from ofa.progress import Progress
from ofa.setting import Setting
from ofa.states import MIN_CHANGE, Speed, change_text

MAX_FILE_BYTES = (1 << 31) - 1  # an ONNX file cannot be larger
NUM_TOGETHER = 64
MAX_SLACK = 0.01  # share of a metric
MAX_LESS_INT8 = 1.0  # percentage points of the multiply-accumulates
NOT_AN_ARRAY = (OSError, ValueError, EOFError, SyntaxError)  # what numpy makes of a damaged header
MAX_MEASUREMENTS, PAUSE_SECONDS = 3, 5.0
MAX_REPEATABILITY_PERCENT = 3.0
SECONDS, SECONDS_PER_FILE = 120.0, 5.0
"""For loading a network and running it on the samples, and besides for each file of a user's own."""

Measure = Callable[[Sequence[Path], Speed], list[Latency]]


@dataclass(frozen=True)
class Check:
    """One thing that was checked: what it should be, and what it is."""

    name: str
    ok: bool
    expected: str
    found: str


@dataclass(frozen=True)
class VerifyResult:
    """All checks of a bundle."""

    path: Path
    info: BundleInfo
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return all(check.ok for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return {"bundle": str(self.path), "ok": self.ok, "checks": [asdict(check) for check in self.checks]}

    @property
    def failed(self) -> tuple[Check, ...]:
        """What does not hold."""
        return tuple(check for check in self.checks if not check.ok)


def verify_bundle(
    path: Path | str,
    *,
    device: Device | None = None,
    measure: Measure | None = None,
    images: Path | str | None = None,
    progress: Progress | None = None,
) -> VerifyResult:
    """Check a bundle again, on any machine that has its runtime.

    Files first: names, sizes, sha256, nothing missing, nothing added, hidden files included. If all are as listed: the
    model's outputs on the stored pictures against those that its reference gave, its accuracy on them and on a folder
    of yours, and its median latency against the budget.

    Args:
        device: Measure on it.
        measure: Measures files on it; see :func:`ofa.deploy.measure_on`.
        images: Samples of your own, such as the task can read: for classification a folder that has one of pictures
            per class, for that of texts a table.

    Raises:
        BundleError: If there is no readable ``bundle.json``, or if the device does not run such files.
        DataError: If ``images`` cannot be read, or holds other classes.
    """
    root = Path(path)
    info = read_bundle(root)
    if device is not None and (device.setting.runtime, device.setting.precision) != (
        info.model.runtime,
        info.model.precision,
    ):
        raise BundleError(
            f"{root} is for {info.model.runtime} in {info.model.precision}, but device {device.name} computes in "
            f"{device.setting.precision} on {device.setting.runtime}; name another device"
        )
    own = [] if images is None else info.task.labelled(Path(images), info.classes)
    checks = check_files(root, info)
    if all(check.ok for check in checks):
        checks += _check_model(root, info, own, progress)
        if device is not None and measure is not None and all(check.ok for check in checks):
            checks.append(_check_latency(info, root / info.model.files[0], device, measure))
    return VerifyResult(root, info, tuple(checks))


# -- files -----------------------------------------------------------------------------------------------------------


def check_files(root: Path, info: BundleInfo) -> list[Check]:
    """Whether a bundle's files are those that it lists, none missing and none added, and its program is ours."""
    return [*_check_sums(root, info), *_check_files(root, info), _check_script(root, info)]


def _check_sums(root: Path, info: BundleInfo) -> Iterator[Check]:
    """``bundle.json`` against ``SHA256SUMS``, and the rest of the latter against the former."""
    problem = refused(root, SUMS, MAX_FILE_BYTES)
    text = "" if problem else (root / SUMS).read_text(encoding="utf-8", errors="replace")
    stated = {name: digest for digest, _, name in (line.partition("  ") for line in text.splitlines())}
    digest = sha256_of_file(root / INFO)
    yield _same(INFO, f"sha256 {stated.get(INFO, f'in {SUMS}')}", f"sha256 {digest}")
    sums = sums_text({name: str(entry["sha256"]) for name, entry in info.files.items()} | {INFO: stated.get(INFO, "")})
    yield Check(SUMS, text == sums, f"the sums of {INFO}", problem or ("the same" if text == sums else "other sums"))


def _check_script(root: Path, info: BundleInfo) -> Check:
    """The program that a receiver is told to run, against those of this version and of earlier formats."""
    problem = refused(root, PREDICT, MAX_FILE_BYTES)
    holds = not problem and is_ours((root / PREDICT).read_bytes(), info.task)
    return Check(PREDICT, holds, "the program of this package", problem or ("the same" if holds else "another program"))


def _check_files(root: Path, info: BundleInfo) -> Iterator[Check]:
    task, labels = info.task, info.sample_labels
    needed = {*info.model.files, OUTPUTS, *info.sample_names, *task.bundle_files, *task.label_files(labels)}
    for name, entry in info.files.items():
        problem = refused(root, name, MAX_FILE_BYTES)
        if not problem and name not in {*needed, CARD, PREDICT}:
            problem = "no file of a bundle"
        yield _same(name, _describe(**entry), problem or _found(root / name, entry["bytes"]))
    for name in sorted(needed - set(info.files)) + unlisted(root, {INFO, SUMS, *info.files}):
        yield Check(name, False, f"listed in {INFO}", "not listed")


def _found(file: Path, expected_bytes: object) -> str:
    num_bytes = file.stat().st_size
    return _describe(sha256_of_file(file), num_bytes) if num_bytes == expected_bytes else f"{num_bytes} bytes"


def _describe(sha256: object, bytes: object) -> str:
    return f"{bytes} bytes, sha256 {sha256}"


def _same(name: str, expected: str, found: str) -> Check:
    return Check(name, expected == found, expected, found)


# -- what it computes ------------------------------------------------------------------------------------------------


def _check_model(
    root: Path, info: BundleInfo, own: Sequence[tuple[Any, Any]], progress: Progress | None
) -> Iterator[Check]:
    num, model = len(info.sample_labels), root / info.model.files[0]
    here = Setting(runtime=info.model.runtime, precision=info.model.precision, threads=os.cpu_count() or 1)
    tolerance = min(info.parity.tolerance, TOLERANCES[info.model.precision])
    agrees = f"outputs of {num} sample {info.task.sample}s to {tolerance:g} of the largest"
    with apart(RUNTIMES[info.model.runtime], seconds=SECONDS + SECONDS_PER_FILE * len(own)) as runtime:
        try:
            expected = _stored_outputs(root, info)
            for problem in filter(None, (problem_of(root / name) for name in info.model.files)):
                raise ModelError(problem)
            run = load_outputs(
                model, setting=here, batch=info.model.batch, runtime=runtime, input_name=info.model.input
            )
            read = info.task.reader(root, info.preprocessing)
            found = run(np.stack([read(root / name, stored=True) for name in info.sample_names]))
            difference = compare_outputs(expected, found, what=model.name, tolerance=tolerance)
        except (ParityError, ModelError, NotInstalledError, DataError, *NOT_AN_ARRAY) as error:
            yield Check("parity", False, agrees, str(error))
            return
        yield Check("parity", True, agrees, f"largest difference {difference:.2g}")
        quantization = info.model.quantization
        if quantization is not None and quantization.int8_macs_percent is not None:
            yield _check_kernels(quantization.int8_macs_percent, runtime, model, here)
        metric, labels = info.task.metric, info.task.truth(info.sample_labels, info.preprocessing, root)
        ours, promised = (_value(info, outputs, labels) for outputs in (found, expected))
        # Outputs need not be equal to the last bit; a metric that counts does not notice so little.
        slack = min(tolerance, MAX_SLACK) * abs(promised) + 1e-9
        if info.model.precision == "int8":  # another computation: two classes as good as equal may change places
            slack += (100 if metric.symbol == "%" else abs(metric.perfect)) / num
        yield Check(
            "accuracy",
            metric.sign * ours >= metric.sign * promised - slack,
            f"{metric.title} {metric.text(promised)} on the {num} samples",
            metric.text(ours),
        )
        if own:
            yield _check_own(info, own, read, run, progress)


def _check_kernels(promised_percent: float, runtime: Runtime, model: Path, setting: Setting) -> Check:
    """Whether as much is computed in eight bits here as was promised; another CPU may have other kernels."""
    try:
        session = runtime.prepare(model, setting)
        assert isinstance(session, HasKernels)
        kernels = session.kernels()
    except (ModelError, NotInstalledError) as error:
        return Check("INT8", False, int8_text(promised_percent), str(error))
    found = int8_text(kernels.int8_percent, kernels.num_conversions)
    return Check("INT8", kernels.int8_percent >= promised_percent - MAX_LESS_INT8, int8_text(promised_percent), found)


def _value(info: BundleInfo, outputs: Outputs, labels: npt.NDArray[np.generic]) -> float:
    scorer = info.task.shipped_scorer(info.preprocessing)
    scorer.update(outputs, labels)
    return scorer.value()


def _stored_outputs(root: Path, info: BundleInfo) -> Outputs:
    # Mapped, not read: a header that claims more than there is fails instead of allocating it.
    outputs = np.load(root / OUTPUTS, mmap_mode="r", allow_pickle=False)
    num = len(info.sample_labels)
    if outputs.dtype != np.float32 or outputs.ndim < 2 or len(outputs) != num:
        raise ValueError(f"{OUTPUTS} holds {outputs.dtype} {outputs.shape}, not float32 ({num}, ...)")
    if not np.isfinite(outputs).all():
        raise ValueError(f"{OUTPUTS} holds values that are not finite, from which nothing departs")
    return np.array(outputs)


def _check_own(
    info: BundleInfo,
    own: Sequence[tuple[Any, Any]],
    read: Callable[..., Images],
    run: Callable[[Images], Outputs],
    progress: Progress | None,
) -> Check:
    """The metric on somebody's own samples: it holds if the promised one is not surely (95 %) missed."""
    scorer = info.task.shipped_scorer(info.preprocessing)
    for start in range(0, len(own), NUM_TOGETHER):
        files, labels = zip(*own[start : start + NUM_TOGETHER], strict=True)
        inputs = np.stack([read(file) for file in files])
        scorer.update(run(inputs), info.task.truth(labels, info.preprocessing, Path()))
        if progress is not None:
            progress(min(start + NUM_TOGETHER, len(own)), len(own), f"classifying {info.task.sample}s")
    metric, found, promised = info.task.metric, scorer.score(), info.score
    return Check(
        f"accuracy on {info.task.sample}s",
        found.high >= promised.low if metric.higher_is_better else found.low <= promised.high,
        f"{metric.interval_text(promised)} as on the test split",
        f"{metric.interval_text(found)} of {len(own)}",
    )


def _check_latency(info: BundleInfo, file: Path, device: Device, measure: Measure) -> Check:
    """The latency at the speed that the budget is for; it may exceed it by what two measurements here differ by.

    A machine that is busy for some seconds says nothing of the file, so a miss is measured again, some seconds later.
    Where the machine has become slower than it ever was while its table was made, what is measured counts as it is.
    """
    machine = device.host.fingerprint(device.setting)
    is_same = machine["id"] == info.fingerprint.get("id")
    speed = info.speed if is_same else replace(info.speed, states=None)
    limit_ms = math.inf if info.budget_ms is None else info.budget_ms
    found: list[tuple[float, Latency]] = []
    holds = False
    while not holds and len(found) < MAX_MEASUREMENTS:
        if found:
            time.sleep(PAUSE_SECONDS)
        (latency_ms,) = measure([file], speed)
        found_ms = latency_ms.at(speed.percentile) * max(1.0, latency_ms.times_as_long / _slowest(speed))
        found.append((found_ms, latency_ms))
        slack = min(latency_ms.repeatability_percent, MAX_REPEATABILITY_PERCENT) / 100
        holds = found_ms <= limit_ms * (1 + slack)
    found_ms, best = min(found, key=lambda each: each[0])
    others = f"p10 {best.p10:.3f}, p50 {best.p50:.3f}, p90 {best.p90:.3f}"
    text = f"p{speed.percentile} {found_ms:.3f} ms{speed.text} ({others}, "
    text += "" if best.cold_p50 is None else f"{best.cold_p50:.3f} after others used the caches, "
    text += f"repeats to {best.repeatability_percent:.1f} %)"
    text += f", best of {len(found)} measurements" if len(found) > 1 else ""
    if speed.states is not None and (now := change_text(best.times_as_long * speed.factor)):
        text += f"; this machine is {now} now than when its table was made"
    if not is_same:
        text += f" on another machine ({machine['cpu']}) than it was promised for ({info.fingerprint.get('cpu')})"
    if info.budget_ms is None:
        return Check("latency", holds, f"no budget; p50 was {info.latency_ms.p50:.3f} ms", text)
    return Check("latency", holds, f"p{speed.percentile} at most {info.budget_ms:g} ms{speed.text}", text)


def _slowest(speed: Speed) -> float:
    """How many times as long as at the stated speed models took at most while the table was made, and a little more."""
    slow = 1.0 if speed.states is None else speed.states.times_as_long("slow") / speed.factor
    return slow * (1 + MIN_CHANGE)
