"""Whether a bundle holds what it promises: its files, its logits, its accuracy, its latency.

Nothing of a bundle is executed or unpickled. A model is loaded only after every file has been found to be as listed.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ofa.data.readers.source import DECODING_ERRORS
from ofa.deploy.bundle import INFO, LOGITS, MODEL, SUMS, BundleInfo, read_bundle, sums_text
from ofa.deploy.parity import Logits, ParityError, compare_logits, run_logits
from ofa.deploy.predict import preprocess
from ofa.files import FORMAT, sha256_of_file
from ofa.hardware.runtimes import ModelError

# Parts may not begin with a dot, so that none is `..`.
PLAIN_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*", re.ASCII)
MAX_FILE_BYTES = (1 << 31) - 1  # an ONNX file cannot be larger

MeasureMs = Callable[[Path], Mapping[str, float]]


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


def verify_bundle(path: Path | str, *, measure: MeasureMs | None = None) -> VerifyResult:
    """Check a bundle again, on any machine.

    Files first: names, sizes, sha256, nothing missing, nothing added (names that begin with a dot are left alone). If
    all are as listed: the model's logits on the stored pictures against those that torch gave, its accuracy on them,
    and, with ``measure``, its median latency against the budget.

    Args:
        measure: Gives ``p10``, ``p50`` and ``p90`` in milliseconds of an ONNX file; see :func:`ofa.deploy.measure_on`.

    Raises:
        BundleError: If there is no readable ``bundle.json``.
    """
    root = Path(path)
    info = read_bundle(root)
    checks = [Check("format", True, str(FORMAT), str(FORMAT)), *_check_sums(root, info), *_check_files(root, info)]
    if all(check.ok for check in checks):
        checks += _check_model(root, info)
        if measure is not None and checks[-1].ok:
            checks.append(_check_latency(info, measure(root / MODEL)))
    return VerifyResult(root, info, tuple(checks))


# -- files -----------------------------------------------------------------------------------------------------------


def _check_sums(root: Path, info: BundleInfo) -> Iterator[Check]:
    """``bundle.json`` against ``SHA256SUMS``, and the rest of the latter against the former."""
    problem = _refused(root, SUMS)
    text = "" if problem else (root / SUMS).read_text(encoding="utf-8", errors="replace")
    stated = {name: digest for digest, _, name in (line.partition("  ") for line in text.splitlines())}
    digest = sha256_of_file(root / INFO)
    yield _same(INFO, f"sha256 {stated.get(INFO, f'in {SUMS}')}", f"sha256 {digest}")
    sums = sums_text({name: str(entry["sha256"]) for name, entry in info.files.items()} | {INFO: stated.get(INFO, "")})
    yield Check(SUMS, text == sums, f"the sums of {INFO}", problem or ("the same" if text == sums else "other sums"))


def _check_files(root: Path, info: BundleInfo) -> Iterator[Check]:
    for name, entry in info.files.items():
        yield _same(name, _describe(**entry), _refused(root, name) or _found(root / name, entry["bytes"]))
    for name in sorted({MODEL, LOGITS, *info.sample_names} - set(info.files)):
        yield Check(name, False, f"listed in {INFO}", "not listed")
    present = (file.relative_to(root) for file in sorted(root.rglob("*")) if file.is_symlink() or not file.is_dir())
    known = {INFO, SUMS, *info.files}
    for file in present:
        if file.as_posix() not in known and not file.parts[0].startswith("."):
            yield Check(file.as_posix(), False, f"listed in {INFO}", "not listed")


def _refused(root: Path, name: str) -> str:
    """Why a file is not even opened; empty if it may be."""
    if not PLAIN_NAME.fullmatch(name):
        return "a name that leaves the bundle, or has odd characters"
    file = root / name
    if file.resolve() != root.resolve() / name:
        return "a link"
    if not file.exists():
        return "missing"
    if not stat.S_ISREG(file.stat().st_mode):
        return "not a plain file"
    if file.stat().st_size > MAX_FILE_BYTES:
        return f"{file.stat().st_size} bytes, above the limit of {MAX_FILE_BYTES}"
    return ""


def _found(file: Path, expected_bytes: object) -> str:
    num_bytes = file.stat().st_size
    return _describe(sha256_of_file(file), num_bytes) if num_bytes == expected_bytes else f"{num_bytes} bytes"


def _describe(sha256: object, bytes: object) -> str:
    return f"{bytes} bytes, sha256 {sha256}"


def _same(name: str, expected: str, found: str) -> Check:
    return Check(name, expected == found, expected, found)


# -- what it computes ------------------------------------------------------------------------------------------------


def _check_model(root: Path, info: BundleInfo) -> Iterator[Check]:
    num = len(info.sample_labels)
    agrees = f"logits of {num} sample pictures as torch gave them"
    try:
        expected = _stored_logits(root, info)
        found = run_logits(_self_contained(root / MODEL), _sample_images(root, info))
        difference = compare_logits(expected, found, what=MODEL)
    except (ParityError, ModelError, *DECODING_ERRORS) as error:
        yield Check("parity", False, agrees, str(error))
        return
    yield Check("parity", True, agrees, f"largest difference {difference:.2g}")
    labels = np.array(info.sample_labels)
    num_right, num_promised = (int((logits.argmax(axis=1) == labels).sum()) for logits in (found, expected))
    yield Check(
        "accuracy", num_right >= num_promised, f"{num_promised} of {num} samples right", f"{num_right} of {num}"
    )


def _stored_logits(root: Path, info: BundleInfo) -> Logits:
    # Mapped, not read: a header that claims more than there is fails instead of allocating it.
    logits = np.load(root / LOGITS, mmap_mode="r", allow_pickle=False)
    shape = (len(info.sample_labels), len(info.classes))
    if logits.dtype != np.float32 or logits.shape != shape:
        raise ValueError(f"{LOGITS} holds {logits.dtype} {logits.shape}, not float32 {shape}")
    return np.array(logits)


def _self_contained(model: Path) -> Path:
    """:class:`ModelError` if a model's weights lie in other files, which need not be in the bundle."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(model, load_external_data=False).graph
    except DecodeError as error:
        raise ModelError(f"{MODEL} is not a valid ONNX model: {error}") from None
    for tensor in graph.initializer:
        if onnx.external_data_helper.uses_external_data(tensor):
            raise ModelError(f"{MODEL} takes weight {tensor.name!r} from another file")
    return model


def _sample_images(root: Path, info: BundleInfo) -> npt.NDArray[np.float32]:
    spec = asdict(info.preprocessing)
    size = (spec["resize"][0],) * 2
    images = []
    for name in info.sample_names:
        with Image.open(root / name, formats=["PNG"]) as image:
            if image.size != size:  # known before anything is decompressed
                raise ValueError(f"{name} has {image.size} pixels, not {size}")
            images.append(preprocess(image, spec))
    return np.stack(images)


def _check_latency(info: BundleInfo, latency_ms: Mapping[str, float]) -> Check:
    p10, p50, p90 = (latency_ms[name] for name in ("p10", "p50", "p90"))
    found = f"p50 {p50:.3f} ms (p10 {p10:.3f}, p90 {p90:.3f})"
    return Check("latency", p50 <= info.budget_ms, f"p50 at most {info.budget_ms:g} ms", found)
