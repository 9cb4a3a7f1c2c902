"""Bundles for many devices and budgets at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from ofa.deploy.artefact import (
    DEFAULTS,
    Artefact,
    ExportOptions,
    bundle_artefact,
    check_options,
    judge_artefact,
    make_artefact,
    on_disk,
)
from ofa.deploy.bundle import BundleError, BundleInfo, FileScore, Latency, check_destination, read_bundle
from ofa.deploy.verify import verify_bundle
from ofa.deploy.walk_down import Candidate, Measure, Walk
from ofa.engine import Engine, Here
from ofa.errors import UsageError
from ofa.files import FORMAT, resolved, write_csv_atomic, write_json_atomic
from ofa.formats.onnx import opset_of_file
from ofa.hardware import Device
from ofa.locks import only_writer
from ofa.progress import Progress
from ofa.search.pick import InfeasibleBudgetError
from ofa.space import Arch, Value
from ofa.states import MEDIAN, Speed
from ofa.training import Run
from ofa.training.elsewhere import RunSource, evaluator_of

ARCHS = ("arch", "first_arch")  # of an entry; tables have no place for them


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """One bundle of a deployment.

    Args:
        kept: It was there already, and still holds.
        first_arch: The pick of the search; another stands there if its file missed the budget.
        too_slow: See :class:`ofa.deploy.ExportResult`.
        error: Why there is none, if there is none; ``info`` is ``None`` then.
    """

    path: Path
    device: str
    budget_ms: float
    info: BundleInfo | None = None
    kept: bool = False
    first_arch: Mapping[str, Value] | None = None
    too_slow: Sequence[Mapping[str, Any]] = ()
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """An entry of ``index.json``."""
        entry: dict[str, Any] = {"bundle": self.path.name, "device": self.device, "budget_ms": self.budget_ms}
        if (info := self.info) is None:
            return entry | {"error": self.error}
        return entry | {
            "target": info.model.target,
            "precision": info.model.precision,
            "latency_ms": {name: getattr(info.latency_ms, name) for name in ("p10", "p50", "p90")},
            info.task.metric.name: {name: getattr(info.score, name) for name in ("value", "low", "high")},
            "model_bytes": sum(info.files[name]["bytes"] for name in info.model.files),
            "num_params": info.model.num_params,
            "arch": info.arch,
            "first_arch": self.first_arch,
            "num_too_slow": len(self.too_slow),
        }


@dataclass
class _Order:
    """A bundle that is asked for; ``entry`` once it is there, or cannot be."""

    device: Device
    path: Path
    speed: Speed
    walk: Walk
    first_arch: Mapping[str, Value] | None
    arch: Arch = field(init=False)
    entry: Deployed | None = None

    def settle(self, **what: Any) -> None:
        self.entry = Deployed(
            path=self.path,
            device=self.device.name,
            budget_ms=self.walk.budget_ms,
            first_arch=self.first_arch,
            **what,
        )


def deploy(
    run: Run,
    orders: Sequence[tuple[Device, float, Sequence[Candidate]]],
    *,
    out: Path | str,
    measure_on: Callable[[Device], Measure],
    speeds: Mapping[str, Speed] | None = None,
    options: ExportOptions = DEFAULTS,
    data_root: str | None = None,
    engine: Engine | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
) -> list[Deployed]:
    """Make a bundle per device and budget, and an index of them: ``index.json`` and ``index.csv`` in ``out``.

    Device by device: the candidates of all budgets are exported in processes side by side, then measured together with
    nothing else running; those that miss their budget are followed by the next ones down the front. Bundles of the same
    weights, pick and options that are there and still hold are kept, so that an interrupted deployment goes on.

    Args:
        orders: Device, budget in ms, and candidates, see :func:`ofa.deploy.read_candidates`.
        measure_on: Gives what measures on a device.
        speeds: By name of the device: what its latencies are stated at; see :func:`ofa.deploy.export_bundle`.
        engine: Where candidates are exported; here if not given.
        fresh: Make what is there anew.

    Returns:
        One entry per order, in their order; what no subnet keeps has an ``error``.

    Raises:
        TargetError: If a device runs nothing that is a file, or not with these options; before anything is done.
        BundleError: If something else is where a bundle goes; before anything is done.
        UsageError: If two bundles would go to one place; before anything is done.
        LockedError: If another process deploys there.
        ParityError: If an export does not compute what it should.
    """
    root = resolved(out)
    begun_from = _begun_from(root)
    asked: list[_Order] = []
    for device, budget_ms, candidates in orders:
        check_options(device, options)
        speed = (speeds or {}).get(device.name, MEDIAN)
        walk = Walk(iter(candidates), budget_ms, device.name, speed.percentile)
        first = next((dict(run.space.arch(each["arch"])) for each in candidates), None)
        order = _Order(device, root / f"{device.name}-{budget_ms:g}ms", speed, walk, first)
        check_destination(order.path, overwrite=True)
        info = None if fresh else _kept(order, run, options)
        if info is not None and first in (dict(info.arch), begun_from.get(order.path.name)):
            order.settle(info=info, kept=True)
        if any(order.path == other.path for other in asked):
            raise UsageError(f"two orders make {order.path}; name devices differently, or give budgets further apart")
        asked.append(order)

    def report(what: str) -> None:
        if progress is not None:
            progress(sum(order.entry is not None for order in asked), len(asked), what)

    with only_writer(root, command="ofa deploy"):
        for device in dict.fromkeys(order.device for order in asked if order.entry is None):
            source, failed = RunSource(run.path, run.trust_code, data_root), root / f"{device.name}.failed"
            batch = _Batch(run, source, device, options, failed, engine or Here(), measure_on(device), report)
            batch.work_off([order for order in asked if order.device == device])
        entries = [order.entry for order in asked if order.entry is not None]
        _write_index(root, run, entries)
    return entries


@dataclass
class _Batch:
    """The orders of one device; a subnet of several budgets is exported, measured and judged once."""

    run: Run
    source: RunSource
    device: Device
    options: ExportOptions
    keep_failed: Path
    engine: Engine
    measure: Measure
    report: Callable[[str], None]
    _known: dict[Arch, tuple[Artefact, Latency]] = field(default_factory=dict)
    _scores: dict[Arch, FileScore] = field(default_factory=dict)

    def work_off(self, orders: Sequence[_Order]) -> None:
        """Until each order has its bundle, or no candidate is left for it."""
        while waiting := [order for order in orders if order.entry is None]:
            for order in waiting:
                try:
                    order.arch = self.run.space.arch(order.walk.advance()["arch"])
                except InfeasibleBudgetError as error:
                    order.settle(error=str(error))
            self._make([order.arch for order in waiting if order.entry is None], waiting[0].speed)
            for order in waiting:
                if order.entry is None and order.walk.holds(self._known[order.arch][1]):
                    self._bundle(order)

    def _make(self, archs: Sequence[Arch], speed: Speed) -> None:
        """Export side by side, then measure side by side, with nothing else running."""
        new = [arch for arch in dict.fromkeys(archs) if arch not in self._known]
        self.report(f"exporting for {self.device.name}")
        make = partial(_make, self.source, self.device, self.options, self.keep_failed)
        engine = self.engine if len(new) > 1 else Here()
        artefacts = list(engine.map(make, [dict(arch) for arch in new]))
        self.report(f"measuring on {self.device.name}")
        with ExitStack() as stack:
            files = [stack.enter_context(on_disk(artefact.files)) for artefact in artefacts]
            latencies_ms = self.measure(files, speed) if files else []
        self._known |= dict(zip(new, zip(artefacts, latencies_ms, strict=True), strict=True))

    def _bundle(self, order: _Order) -> None:
        artefact, latency_ms = self._known[order.arch]
        self.report(f"testing {order.path.name}")
        evaluator = evaluator_of(self.source)
        if order.arch not in self._scores:
            self._scores[order.arch] = judge_artefact(evaluator, artefact, self.device)
        info = bundle_artefact(
            evaluator,
            artefact,
            order.path,
            device=self.device,
            score=self._scores[order.arch],
            latency_ms=latency_ms,
            budget_ms=order.walk.budget_ms,
            speed=order.speed,
            run_info=self.run.info,
            overwrite=True,
        )
        order.settle(info=info, too_slow=tuple(order.walk.too_slow))


def _begun_from(root: Path) -> dict[str, dict[str, Value] | None]:
    """The pick that each bundle was to be, by its name, as the last deployment here has it."""
    try:
        entries = json.loads((root / "index.json").read_text(encoding="utf-8"))["bundles"]
        return {entry["bundle"]: entry.get("first_arch") for entry in entries}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def _kept(order: _Order, run: Run, options: ExportOptions) -> BundleInfo | None:
    """What is said by a bundle that is there already, if it is the one that would be made and still holds."""
    path, device = order.path, order.device
    try:
        info = read_bundle(path)
    except BundleError:
        return None
    is_same = (
        info.provenance.get("weights_sha256") == run.weights_sha256
        and (info.device, info.budget_ms, info.speed) == (device.name, order.walk.budget_ms, order.speed)
        and info.fingerprint.get("id") == device.host.fingerprint(device.setting)["id"]
        and info.model.batch == (None if options.dynamic_batch else device.setting.batch)
        and (info.preprocessing.dtype == "uint8") == options.from_pixels
        and (info.model.quantization is None or info.model.quantization.loss_points <= options.max_loss_points)
    )
    if not (is_same and verify_bundle(path).ok):
        return None
    graphs = [path / name for name in info.model.files if name.endswith(".onnx")]  # whole, as verified
    return info if all(opset_of_file(graph) == options.opset for graph in graphs) else None


def _make(source: RunSource, device: Device, options: ExportOptions, keep: Path, arch: Mapping[str, Any]) -> Artefact:
    return make_artefact(evaluator_of(source), arch, device, options=options, keep_failed=keep)


def _write_index(root: Path, run: Run, entries: Sequence[Deployed]) -> None:
    bundles = [entry.to_json() for entry in entries]
    write_json_atomic(
        root / "index.json",
        {"format": FORMAT, "run": run.path.name, "weights_sha256": run.weights_sha256, "bundles": bundles},
    )
    write_csv_atomic(
        root / "index.csv",
        pd.json_normalize([{**each, **dict.fromkeys(ARCHS)} for each in bundles], sep="_").drop(columns=[*ARCHS]),
    )
