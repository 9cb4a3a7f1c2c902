"""The folder of an elastic artefact: what it holds, and how it is read without trusting it.

``weights.safetensors`` holds every weight that some subnet uses, once. A subnet's own ``NAME.onnx`` says which slices
of them it takes, as external data of ONNX, and holds what it alone has: factors and biases of folded batch
normalisation. ``elastic.json`` says the rest. Nothing here imports torch: a machine that only runs subnets needs none.
"""

from __future__ import annotations

import json
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ofa.config import ConfigError, from_mapping
from ofa.errors import OfaError
from ofa.files import FileFormatError, read_json, sha256_of_file

FORMAT = 1
INFO, SUMS, WEIGHTS = "elastic.json", "SHA256SUMS", "weights.safetensors"
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
MAX_JSON_BYTES = 1 << 24
MAX_GRAPH_BYTES = 1 << 28

Floats = npt.NDArray[np.float32]
"""Images ``(N, C, H, W)`` and logits ``(N, num_classes)`` of requests, and weights."""
MAX_WEIGHTS_BYTES = 1 << 34
MAX_SUBNETS = 256
MAX_RESOLUTION = 4096
REMEDY = "name a folder that `write_elastic` left, or write it again"


class ElasticError(OfaError, ValueError):
    """An elastic artefact cannot be read, written or used as asked."""


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
    """

    runtime: str
    threads: int
    fingerprint: dict[str, Any]
    latency_ms: tuple[LatencyMs, ...]


@dataclass(frozen=True, kw_only=True)
class SubnetInfo:
    """One subnet.

    Args:
        top1_percent: On the split that the artefact names.
        low, high: Its 95 % interval (Wilson).
        max_abs_difference: Between the logits of a runtime and those of the extracted, calibrated subnet.
        preprocessing: From a picture to its input, see :func:`ofa.data.preprocessing`.
    """

    name: str
    arch: dict[str, Any]
    resolution: int
    top1_percent: float
    low: float
    high: float
    max_abs_difference: dict[str, float]
    preprocessing: dict[str, Any]

    def __post_init__(self) -> None:
        if not PLAIN_NAME.fullmatch(self.name):
            raise ConfigError(f"name {self.name!r} must be up to 64 letters, digits, '_', '-' or '.'")
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
        split: What accuracies were measured on, ``num_images`` of it.
        channels: Of an input image.
        model: What :class:`ofa.training.recipe.ModelConfig` says of the supernet; without it torch cannot run subnets.
        provenance: Where the weights came from, and with what versions they were written.
        files: Name -> ``{"sha256", "bytes"}``.
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

    def __post_init__(self) -> None:
        names = [subnet.name for subnet in self.subnets]
        if not 1 <= len(names) <= MAX_SUBNETS or len(set(names)) < len(names):
            raise ConfigError(f"there must be 1 to {MAX_SUBNETS} subnets of different names, not {names}")
        if any(len(each.latency_ms) != len(names) for each in self.measurements):
            raise ConfigError(f"each measurement must have {len(names)} latencies, one per subnet")
        for name, entry in self.files.items():
            if not PLAIN_NAME.fullmatch(name):
                raise ConfigError(f"files: {name!r} leaves the folder, or has odd characters")
            if not isinstance(entry, dict) or set(entry) != {"sha256", "bytes"}:
                raise ConfigError(f"files: {name!r} must have 'sha256' and 'bytes', not {entry!r}")

    def measured(self, runtime: str, threads: int) -> Measurement | None:
        """Latencies in a runtime with so many threads, if they were measured."""
        return next((each for each in self.measurements if (each.runtime, each.threads) == (runtime, threads)), None)


def read_elastic(path: Path | str) -> ElasticInfo:
    """Read ``elastic.json``, and check that every file that it needs is there, whole and as listed.

    Raises:
        ElasticError: If something is missing, changed, a link, too large, or not what it should be.
    """
    root = Path(path)
    if problem := _refused(root / INFO, MAX_JSON_BYTES):
        raise ElasticError(f"{root / INFO} is {problem}; {REMEDY}")
    try:
        data = read_json(root / INFO, kind="elastic artefact", remedy=REMEDY, format=FORMAT)
        del data["format"]
        info = from_mapping(ElasticInfo, data, where=str(root / INFO))
    except FileFormatError as error:
        raise ElasticError(str(error)) from None
    except (ValueError, RecursionError) as error:
        where = "" if str(root / INFO) in str(error) else f"{root / INFO}: "
        raise ElasticError(f"{where}{error}; {REMEDY}") from None
    for name in (WEIGHTS, *(subnet.graph for subnet in info.subnets)):
        _check_file(root, info, name)
    return info


def read_graph(root: Path, info: ElasticInfo, subnet: SubnetInfo) -> bytes:
    """A subnet's graph, the very bytes that were found to be as listed."""
    data = (root / subnet.graph).read_bytes()
    if sha256(data).hexdigest() != info.files[subnet.graph]["sha256"]:
        raise ElasticError(f"{root / subnet.graph} has changed; {REMEDY}")
    return data


def write_info(folder: Path, info: ElasticInfo) -> ElasticInfo:
    """Write ``elastic.json`` and ``SHA256SUMS`` for the other files of a folder; gives what was written."""
    others = [path for path in sorted(folder.iterdir()) if path.name not in (INFO, SUMS)]
    files = {path.name: {"sha256": sha256_of_file(path), "bytes": path.stat().st_size} for path in others}
    described = {"format": FORMAT, **asdict(info), "files": files}
    text = json.dumps(described, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    (folder / INFO).write_text(text, encoding="utf-8")
    digests = {name: entry["sha256"] for name, entry in files.items()} | {INFO: sha256(text.encode()).hexdigest()}
    sums = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    (folder / SUMS).write_text(sums, encoding="utf-8")
    return read_elastic(folder)


def check_destination(out: Path | str, *, overwrite: bool) -> None:
    """:class:`ElasticError` unless an artefact may be written to ``out``: nothing there, or one to be replaced."""
    out = Path(out)
    if not out.exists() and not out.is_symlink():
        return
    entries = sorted(entry.name for entry in out.iterdir()) if out.is_dir() and not out.is_symlink() else None
    if entries == []:
        return
    if entries is None or INFO not in entries:
        raise ElasticError(f"{out} exists and is no elastic artefact; it is left alone: give another folder")
    known = {INFO, SUMS, WEIGHTS}
    strange = [name for name in entries if name not in known and not name.endswith(".onnx")]
    if strange:
        raise ElasticError(f"{out} holds {strange[0]!r} beside an elastic artefact; it is left alone")
    if not overwrite:
        raise ElasticError(f"{out} holds an elastic artefact; give another folder, or overwrite=True")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, renamed to ``out`` only if the block succeeds; what was there is put back if that fails."""
    out.parent.mkdir(parents=True, exist_ok=True)
    workspace = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    new, old = workspace / "new", workspace / "old"
    try:
        new.mkdir()
        yield new
        if out.exists():
            out.rename(old)
        try:
            new.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
    finally:
        shutil.rmtree(workspace)


def _check_file(root: Path, info: ElasticInfo, name: str) -> None:
    entry: Mapping[str, Any] | None = info.files.get(name)
    if entry is None:
        raise ElasticError(f"{root / INFO} does not list {name}; {REMEDY}")
    problem = _refused(root / name, MAX_WEIGHTS_BYTES if name == WEIGHTS else MAX_GRAPH_BYTES)
    if not problem and (root / name).stat().st_size != entry["bytes"]:
        problem = f"{(root / name).stat().st_size} bytes long, not {entry['bytes']}"
    if not problem and sha256_of_file(root / name) != entry["sha256"]:
        problem = "not the file that elastic.json lists: its sha256 differs"
    if problem:
        raise ElasticError(f"{root / name} is {problem}; {REMEDY}")


def _refused(file: Path, max_bytes: int) -> str:
    """Why a file is not even opened; empty if it may be."""
    if file.is_symlink():
        return "a link"
    if not file.exists():
        return "missing"
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        return "no plain file"
    return f"{status.st_size} bytes long, above the limit of {max_bytes}" if status.st_size > max_bytes else ""
