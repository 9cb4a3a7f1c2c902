"""Whether a bundle holds what it promises: its files, its logits, its accuracy, its latency.

Nothing of a bundle is executed or unpickled. A model is loaded only after every file has been found to be as listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ofa.data.readers.source import DECODING_ERRORS
from ofa.deploy.bundle import FORMAT, INFO, OUTPUTS, BundleError, BundleInfo, Latency, read_bundle
from ofa.deploy.checked_folder import SUMS, refused, sums_text
from ofa.deploy.parity import Images, Outputs, ParityError, compare_outputs, load_outputs
from ofa.errors import unknown_name_message
from ofa.files import sha256_of_file
from ofa.hardware import Device
from ofa.hardware.runtimes import ModelError, NotInstalledError
from ofa.progress import Progress
from ofa.setting import Setting
from ofa.tasks.predict_class import preprocess

MAX_FILE_BYTES = (1 << 31) - 1  # an ONNX file cannot be larger
NUM_TOGETHER = 64
MAX_REPEATABILITY_PERCENT = 3.0  # above it a table is refused, and here no more is granted
IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")

Labels = npt.NDArray[np.int64]
Measure = Callable[[Sequence[Path]], list[Latency]]


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

    Files first: names, sizes, sha256, nothing missing, nothing added (names that begin with a dot are left alone). If
    all are as listed: the model's outputs on the stored pictures against those that its reference gave, its accuracy on
    them and on a folder of yours, and its median latency against the budget.

    Args:
        device: Measure on it.
        measure: Measures files on it; see :func:`ofa.deploy.measure_on`.
        images: Folder of pictures, one folder per class in it.

    Raises:
        BundleError: If there is no readable ``bundle.json``, if the device does not run such files, or if ``images``
            holds other classes.
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
    pictures = [] if images is None else _labelled(Path(images), info)
    checks = [Check("format", True, str(FORMAT), str(FORMAT)), *_check_sums(root, info), *_check_files(root, info)]
    if all(check.ok for check in checks):
        checks += _check_model(root, info, pictures, progress)
        if device is not None and measure is not None and all(check.ok for check in checks):
            (latency_ms,) = measure([root / info.model.files[0]])
            checks.append(_check_latency(info, latency_ms, device))
    return VerifyResult(root, info, tuple(checks))


# -- files -----------------------------------------------------------------------------------------------------------


def _check_sums(root: Path, info: BundleInfo) -> Iterator[Check]:
    """``bundle.json`` against ``SHA256SUMS``, and the rest of the latter against the former."""
    problem = refused(root, SUMS, MAX_FILE_BYTES)
    text = "" if problem else (root / SUMS).read_text(encoding="utf-8", errors="replace")
    stated = {name: digest for digest, _, name in (line.partition("  ") for line in text.splitlines())}
    digest = sha256_of_file(root / INFO)
    yield _same(INFO, f"sha256 {stated.get(INFO, f'in {SUMS}')}", f"sha256 {digest}")
    sums = sums_text({name: str(entry["sha256"]) for name, entry in info.files.items()} | {INFO: stated.get(INFO, "")})
    yield Check(SUMS, text == sums, f"the sums of {INFO}", problem or ("the same" if text == sums else "other sums"))


def _check_files(root: Path, info: BundleInfo) -> Iterator[Check]:
    for name, entry in info.files.items():
        yield _same(
            name, _describe(**entry), refused(root, name, MAX_FILE_BYTES) or _found(root / name, entry["bytes"])
        )
    for name in sorted({*info.model.files, OUTPUTS, *info.sample_names} - set(info.files)):
        yield Check(name, False, f"listed in {INFO}", "not listed")
    present = (file.relative_to(root) for file in sorted(root.rglob("*")) if file.is_symlink() or not file.is_dir())
    known = {INFO, SUMS, *info.files}
    for file in present:
        if file.as_posix() not in known and not file.parts[0].startswith("."):
            yield Check(file.as_posix(), False, f"listed in {INFO}", "not listed")


def _found(file: Path, expected_bytes: object) -> str:
    num_bytes = file.stat().st_size
    return _describe(sha256_of_file(file), num_bytes) if num_bytes == expected_bytes else f"{num_bytes} bytes"


def _describe(sha256: object, bytes: object) -> str:
    return f"{bytes} bytes, sha256 {sha256}"


def _same(name: str, expected: str, found: str) -> Check:
    return Check(name, expected == found, expected, found)


# -- what it computes ------------------------------------------------------------------------------------------------


def _check_model(
    root: Path, info: BundleInfo, pictures: Sequence[tuple[Path, int]], progress: Progress | None
) -> Iterator[Check]:
    num, model = len(info.sample_labels), root / info.model.files[0]
    here = Setting(runtime=info.model.runtime, precision=info.model.precision)
    agrees = f"outputs of {num} sample pictures to {info.parity.tolerance:g} of the largest"
    try:
        expected = _stored_outputs(root, info)
        for name in info.model.files:
            _self_contained(root / name)
        run = load_outputs(model, setting=here, batch=info.model.batch)
        found = run(_sample_images(root, info))
        difference = compare_outputs(expected, found, what=model.name, tolerance=info.parity.tolerance)
    except (ParityError, ModelError, NotInstalledError, *DECODING_ERRORS) as error:
        yield Check("parity", False, agrees, str(error))
        return
    yield Check("parity", True, agrees, f"largest difference {difference:.2g}")
    metric, labels = info.task.metric, np.array(info.sample_labels)
    ours, promised = (_value(info, outputs, labels) for outputs in (found, expected))
    # Where the reference is another computation, two classes that are as good as equal may change places.
    slack = 0.0 if info.parity.reference == "torch" else abs(metric.perfect) / num
    yield Check(
        "accuracy",
        metric.sign * ours >= metric.sign * promised - slack - 1e-9,
        f"{metric.title} {metric.text(promised)} on the {num} samples",
        metric.text(ours),
    )
    if pictures:
        yield _check_pictures(info, pictures, run, progress)


def _value(info: BundleInfo, outputs: Outputs, labels: Labels) -> float:
    scorer = info.task.scorer(None)
    scorer.update(outputs, labels)
    return scorer.value()


def _stored_outputs(root: Path, info: BundleInfo) -> Outputs:
    # Mapped, not read: a header that claims more than there is fails instead of allocating it.
    outputs = np.load(root / OUTPUTS, mmap_mode="r", allow_pickle=False)
    shape = (len(info.sample_labels), len(info.classes))
    if outputs.dtype != np.float32 or outputs.shape != shape:
        raise ValueError(f"{OUTPUTS} holds {outputs.dtype} {outputs.shape}, not float32 {shape}")
    return np.array(outputs)


def _self_contained(model: Path) -> None:
    """:class:`ModelError` if the weights of an ONNX file lie in other files, which need not be in the bundle."""
    import onnx
    from google.protobuf.message import DecodeError

    if model.suffix != ".onnx":
        return
    try:
        graph = onnx.load(model, load_external_data=False).graph
    except DecodeError as error:
        raise ModelError(f"{model.name} is not a valid ONNX model: {error}") from None
    for tensor in graph.initializer:
        if onnx.external_data_helper.uses_external_data(tensor):
            raise ModelError(f"{model.name} takes weight {tensor.name!r} from another file")


def _sample_images(root: Path, info: BundleInfo) -> Images:
    spec = asdict(info.preprocessing)
    size = (spec["resize"][0],) * 2
    images = []
    for name in info.sample_names:
        with Image.open(root / name, formats=["PNG"]) as image:
            if image.size != size:  # known before anything is decompressed
                raise ValueError(f"{name} has {image.size} pixels, not {size}")
            images.append(preprocess(image, spec))
    return np.stack(images)


def _labelled(folder: Path, info: BundleInfo) -> list[tuple[Path, int]]:
    """Pictures of a folder, and the class of each, which is the name of the folder that it is in."""
    if not folder.is_dir():
        raise BundleError(f"no folder {folder}; give one that has a folder of pictures per class")
    places = sorted(place for place in folder.iterdir() if place.is_dir() and not place.name.startswith("."))
    for place in places:
        if place.name not in info.classes:
            raise BundleError(f"{place}: {unknown_name_message('class', place.name, info.classes)}")
    found = [
        (file, info.classes.index(place.name))
        for place in places
        for file in sorted(place.rglob("*"))
        if file.suffix.lower() in IMAGE_SUFFIXES
    ]
    if not found:
        raise BundleError(f"{folder} holds no pictures; they go into a folder per class, such as {info.classes[0]}/")
    return found


def _check_pictures(
    info: BundleInfo,
    pictures: Sequence[tuple[Path, int]],
    run: Callable[[Images], Outputs],
    progress: Progress | None,
) -> Check:
    """Accuracy on somebody's own pictures: it holds if the promised one is not surely (95 %) missed."""
    spec, scorer = asdict(info.preprocessing), info.task.scorer(None)
    for start in range(0, len(pictures), NUM_TOGETHER):
        some = pictures[start : start + NUM_TOGETHER]
        images = []
        for file, _ in some:
            try:
                with Image.open(file) as image:
                    images.append(preprocess(image, spec))
            except DECODING_ERRORS as error:
                raise BundleError(f"{file} is no picture that can be read ({error}); take it out") from None
        scorer.update(run(np.stack(images)), np.array([label for _, label in some]))
        if progress is not None:
            progress(min(start + NUM_TOGETHER, len(pictures)), len(pictures), "classifying pictures")
    metric, found, promised = info.task.metric, scorer.score(), info.score
    return Check(
        "accuracy on pictures",
        found.high >= promised.low if metric.higher_is_better else found.low <= promised.high,
        f"{metric.interval_text(promised)} as on the test split",
        f"{metric.interval_text(found)} of {len(pictures)}",
    )


def _check_latency(info: BundleInfo, latency_ms: Latency, device: Device) -> Check:
    """The median may exceed the budget by what two measurements on this machine differ by."""
    repeats = latency_ms.repeatability_percent
    found = (
        f"p50 {latency_ms.p50:.3f} ms (p10 {latency_ms.p10:.3f}, p90 {latency_ms.p90:.3f}, repeats to {repeats:.1f} %)"
    )
    machine = device.host.fingerprint(device.setting)
    if machine["id"] != info.fingerprint.get("id"):
        found += f" on another machine ({machine['cpu']}) than it was promised for ({info.fingerprint.get('cpu')})"
    ok = latency_ms.p50 <= info.budget_ms * (1 + min(repeats, MAX_REPEATABILITY_PERCENT) / 100)
    return Check("latency", ok, f"p50 at most {info.budget_ms:g} ms", found)
