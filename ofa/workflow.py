"""The whole way, one call per command of the command line: what it reads, what it leaves, and results as objects.

Heavy libraries are loaded by the call that needs them. Every call takes ``progress``, see :mod:`ofa.progress`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ofa.errors import UsageError, unknown_name_message
from ofa.progress import Progress

if TYPE_CHECKING:
    import pandas as pd

    from ofa.cost import LatencyTable
    from ofa.deploy import Deployed, ElasticRuntime, ExportOptions, ExportResult, Measure, VerifyResult
    from ofa.hardware import Device
    from ofa.space import Arch, SearchSpace
    from ofa.supernet import Supernet
    from ofa.supernet.inspect import Inspection
    from ofa.training import Recipe, Run, SubnetEvaluator

TABLES = Path("latency_tables")
TRAIN_FIRST = "train it with `ofa train`"


def inspect(model: str, choices: Mapping[str, Any] | None = None) -> Inspection:
    """Take stock of a model without reading or making a weight.

    Args:
        model: timm model, preset, or run folder.
        choices: Arguments of :func:`ofa.elasticize`, for a model that is no run.

    Raises:
        UsageError: If choices are given for a run, whose space is settled, or if its space is no longer what it was.
    """
    from ofa.supernet.elasticize import check_choices
    from ofa.supernet.inspect import create_without_weights
    from ofa.supernet.inspect import inspect as take_stock
    from ofa.training import Run

    choices = dict(choices or {})
    check_choices(choices)
    if not is_run_folder(model):
        return take_stock(create_without_weights(model, **choices))
    if choices:
        raise UsageError(f"the space of run {model} is settled; choices such as {next(iter(choices))!r} are for others")
    run = Run.open(model)
    config = run.recipe.model
    supernet = create_without_weights(config.name, num_classes=int(run.info["num_classes"]), **config.choices())
    if supernet.space != run.space:
        raise UsageError(
            f"{model} has space {run.space.fingerprint}, but model {config.name!r} gives {supernet.space.fingerprint}; "
            f"use the versions that {Path(model) / 'supernet.json'} names, or train again"
        )
    return take_stock(supernet)


def train(
    recipe: Recipe | str | Path,
    out: Path | str,
    *,
    overrides: Sequence[str] = (),
    resume: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Train a supernet: :func:`ofa.training.train`.

    Args:
        recipe: A recipe, or the name or path of one.
        overrides: ``section.key=value`` words that are laid over a recipe that is read.
    """
    import ofa.training

    if isinstance(recipe, (str, Path)):
        recipe = ofa.training.load_recipe(recipe, overrides)
    return ofa.training.train(recipe, out, resume=resume, progress=progress)


@dataclass(frozen=True)
class Profiled:
    """A latency table and where it is; ``is_new`` unless there was nothing to measure."""

    csv_path: Path
    table: LatencyTable
    is_new: bool


def profile(
    model: str,
    device: str | Path,
    *,
    out: Path | str = TABLES,
    resolutions: Sequence[int] = (),
    num_resolutions: int | None = None,
    num_fit: int = 24,
    num_held_out: int = 24,
    seed: int = 0,
    fresh: bool = False,
    force: bool = False,
    energy: bool = False,
    progress: Progress | None = None,
) -> Profiled:
    """Measure the parts of a space on a device: :func:`ofa.hardware.profile`; leaves ``out/DEVICE/SPACE.csv``.

    Args:
        model: Run folder, preset or timm model.
        device: Name or YAML file.

    Raises:
        UsageError: If both ``resolutions`` and ``num_resolutions`` are given.
    """
    import numpy as np

    import ofa.hardware

    if resolutions and num_resolutions:
        raise UsageError("--resolution says which resolutions to measure, --num-resolutions how many; give one of them")
    target = ofa.hardware.load_device(device)
    supernet, space_name = _open_supernet(model)
    csv_path = Path(out) / target.name / f"{space_name}.csv"
    steps: list[int] = []

    def count(done: int, total: int, what: str) -> None:
        steps.append(done)
        if progress is not None:
            progress(done, total, what)

    table = ofa.hardware.profile(
        supernet,
        target,
        csv_path=csv_path,
        num_fit=num_fit,
        num_held_out=num_held_out,
        rng=np.random.default_rng(seed),
        resolutions=resolutions or None,
        num_resolutions=num_resolutions,
        fresh=fresh,
        force=force,
        energy=energy,
        progress=count,
    )
    return Profiled(csv_path, table, is_new=bool(steps))


# -- search ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """What a search of devices is besides its budgets: what it found holds for these only.

    Args:
        num_evaluations: Subnets truly evaluated by the search, and as many by random search beside it.
        method, predictor: See :func:`ofa.search.search`.
        limits: ``cost=limit`` words; a limit is in the cost's unit or a share of the largest, such as ``macs=60%``.
        seed: The same seed gives the same search.
    """

    num_evaluations: int = 80
    method: str = "auto"
    predictor: str = "auto"
    limits: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Searched:
    """Device -> the content of its ``selected.json``; ``is_new`` unless an earlier search had measured enough."""

    selected: dict[str, dict[str, Any]]
    is_new: bool


def search(
    run: Path | str,
    devices: Sequence[str],
    budgets_ms: Sequence[float],
    *,
    settings: SearchSettings | None = None,
    tables: Path | str = TABLES,
    out: Path | str | None = None,
    fleet: bool = False,
    start_from: Sequence[Path] = (),
    evaluations: Sequence[Path] = (),
    refine: bool = False,
    any_machine: bool = False,
    data_root: str | None = None,
    progress: Progress | None = None,
) -> Searched:
    """Search the front of each device and pick a measured subnet per budget: :func:`ofa.search.run.run_search`.

    Args:
        fleet: Also the best single subnet for all devices together.
        start_from: ``front.csv`` of other searches, whose fronts are evaluated first.
        evaluations: ``evaluations.csv`` from elsewhere, of the same weights: not evaluated again.
        refine: Look closely at new budgets, rather than answer from what was measured before.
        any_machine: Take a table that was measured elsewhere, too.

    Raises:
        UsageError: If a table is missing or of another space, or options do not go together.
        InfeasibleBudgetError: If no subnet keeps a budget.
    """
    from ofa.search.answer import answer
    from ofa.search.pick import HEADROOM
    from ofa.search.run import FLEET, check_feasible

    job = _DeviceSearch(
        Path(run), Path(tables), Path(out or Path(run) / "search"), devices, settings or SearchSettings()
    )
    if fleet and len(job.names) < 2:
        raise UsageError("a fleet is two devices or more, such as --device cpu-1t cpu-2t")
    wanted = [*job.names, *([FLEET] if fleet else [])]
    if len(job.table_sums) == len(job.names) and not (refine or start_from or evaluations):
        answers = {}
        for name in wanted:
            facts = {**job.facts, **job.sums([name] if name != FLEET else job.names)}
            found = answer(job.folder / name, budgets_ms, facts=facts, costs=["macs", "params"], headroom=HEADROOM)
            if found is None:
                break
            answers[name] = found
        if len(answers) == len(wanted):
            return Searched(answers, is_new=False)
    predictions = {name: table.predict_ms for name, table in job.tables.items() if job.is_of_this_space(table)}
    for name, predict_ms in predictions.items():  # before anything heavy is loaded
        space = job.tables[name].space
        check_feasible(space, {name: predict_ms}, budgets_ms, headroom=HEADROOM, seed=job.settings.seed)
    results = job.run(
        budgets_ms,
        start_from=start_from,
        evaluations=evaluations,
        any_machine=any_machine,
        evaluator=lambda run: open_evaluator(run, data_root, progress),
        with_fleet=fleet,
        headroom=HEADROOM,
        progress=progress,
    )
    return Searched({name: result.selected for name, result in results.items()}, is_new=True)


class _DeviceSearch:
    """Files of a search: each is read once."""

    def __init__(self, run: Path, tables: Path, folder: Path, devices: Sequence[str], settings: SearchSettings) -> None:
        from ofa.cost.latency_table import LatencyTable
        from ofa.files import read_json

        self.path, self.tables_dir, self.folder, self.devices, self.settings = run, tables, folder, devices, settings
        self.names = [Path(device).stem for device in devices]
        self.info = read_json(run / "supernet.json", kind="run folder", remedy=TRAIN_FIRST)
        paths = {name: tables / name / f"{self.info.get('space_name')}.csv" for name in self.names}
        self.tables = {name: LatencyTable.load(path) for name, path in paths.items() if path.exists()}
        self.table_sums = {
            name: read_json(paths[name].with_suffix(".json"), kind="latency table", remedy="measure it again")["csv"][
                "sha256"
            ]
            for name in self.tables
        }
        self.facts = {
            "settings": {
                "num_evaluations": settings.num_evaluations,
                "method": settings.method,
                "predictor": settings.predictor,
                "max": sorted(settings.limits),
                "devices": self.names,
                "seed": settings.seed,
            }
        }

    def sums(self, names: Sequence[str]) -> dict[str, Any]:
        """What a result of some devices goes by: checksums of the weights and of their tables."""
        sums = {name: self.table_sums[name] for name in names if name in self.table_sums}
        return {"weights_sha256": self.info.get("weights_sha256"), "tables_sha256": sums}

    def is_of_this_space(self, table: LatencyTable) -> bool:
        return bool(table.space.to_json() == self.info.get("space"))

    def run(
        self,
        budgets_ms: Sequence[float],
        *,
        start_from: Sequence[Path],
        evaluations: Sequence[Path],
        any_machine: bool,
        evaluator: Callable[[Run], SubnetEvaluator],
        **options: Any,
    ) -> Any:
        import ofa.hardware
        from ofa.search.evaluation_cache import EvaluationCache, Scores
        from ofa.search.run import Target, run_search
        from ofa.training import Run

        opened, settings = Run.of(self.path, self.info), self.settings
        metric = opened.task.metric
        devices = [ofa.hardware.load_device(name) for name in self.devices]
        tables = [
            check_table(self.tables.get(device.name), opened, device, self.tables_dir, any_machine=any_machine)
            for device in devices
        ]
        key = {"weights_sha256": opened.weights_sha256, "split": "search"}
        cache = EvaluationCache(self.folder / "evaluations.csv", values=metric.columns, **key)
        for path in evaluations:
            cache.import_csv(path)
        initial = [arch for path in start_from for arch in _read_front(path, opened)]
        judge = evaluator(opened)
        num_images = len(judge.data.splits.search)
        costs, constraints = _costs(opened.space, judge.supernet, tables, settings.limits)
        return run_search(
            opened.space,
            scores=Scores(metric, judge.race, num_images, cache, chunk_size=judge.num_together),
            targets=[
                Target(
                    device.name,
                    table.predict_ms,
                    partial(_measure_archs, judge.supernet, device, settings.seed),
                    {"tables_sha256": self.sums([device.name])["tables_sha256"]},
                )
                for device, table in zip(devices, tables, strict=True)
            ],
            costs=costs,
            budgets_ms=budgets_ms,
            out_dir=self.folder,
            constraints=constraints,
            initial=initial,
            num_evaluations=settings.num_evaluations,
            method=settings.method,
            predictor=settings.predictor,
            seed=settings.seed,
            identity={**self.facts, "weights_sha256": opened.weights_sha256},
            **options,
        )


def _costs(
    space: SearchSpace, supernet: Supernet, tables: Sequence[LatencyTable], limits: Sequence[str]
) -> tuple[dict[str, Any], list[Any]]:
    """Costs that result files name, and the limits of these and others."""
    import ofa.cost
    from ofa.cost.energy import ENERGY, energy_mj
    from ofa.search import Constraint

    costs = {"macs": ofa.cost.macs(supernet), "params": ofa.cost.params(supernet)}
    limited = costs | {
        "model_bytes": ofa.cost.model_bytes(supernet),
        "peak_activation_bytes": ofa.cost.peak_activation_bytes(supernet),
    }
    if any(text.startswith(f"{ENERGY}=") for text in limits):
        if len(tables) > 1:
            raise UsageError(f"{ENERGY} is of one device; search for one --device at a time")
        costs[ENERGY] = limited[ENERGY] = energy_mj(tables[0])
    constraints = []
    for text in limits:
        name, _, value = text.partition("=")
        if name not in limited:
            raise UsageError(unknown_name_message("cost", name, limited))
        constraints.append(Constraint.of(space, name, limited[name], value))
    return costs, constraints


def search_mixed(
    run: Path | str,
    devices: Sequence[str],
    int8_device: str | None,
    budgets_ms: Sequence[float],
    *,
    per: str,
    settings: SearchSettings | None = None,
    tables: Path | str = TABLES,
    out: Path | str | None = None,
    any_machine: bool = False,
    data_root: str | None = None,
    progress: Progress | None = None,
) -> Searched:
    """Search architecture and precision together: :func:`ofa.precision.mixed_search.search_mixed`.

    Args:
        devices, int8_device: One device in fp32, and the same in INT8, for its latency tables.
        per: ``network`` or ``block``.
    """
    import ofa.cost
    from ofa.hardware import load_device
    from ofa.precision.mixed_search import search_mixed as run_mixed
    from ofa.training import Run

    if per not in ("network", "block"):
        raise UsageError(f"--precision is network or block, not {per!r}")
    if len(devices) != 1 or int8_device is None:
        raise UsageError(
            "--precision takes one --device in fp32 and the same in INT8: --device cpu-1t --int8-device cpu-int8-1t"
        )
    fp32, int8 = load_device(devices[0]), load_device(int8_device)
    found = [(each.setting.runtime, each.setting.precision) for each in (fp32, int8)]
    if found != [("onnxruntime", "fp32"), ("onnxruntime", "int8")]:
        raise UsageError(
            f"ONNX Runtime mixes precisions; {fp32.name} is {fp32.setting.precision} on {fp32.setting.runtime}, "
            f"{int8.name} {int8.setting.precision} on {int8.setting.runtime}"
        )
    opened, settings = Run.open(run), settings or SearchSettings()
    both = [open_table(opened, each, Path(tables), any_machine=any_machine) for each in (fp32, int8)]
    evaluator = open_evaluator(opened, data_root, progress)
    result = run_mixed(
        evaluator,
        fp32,
        fp32=both[0],
        int8=both[1],
        per="network" if per == "network" else "block",
        costs={"macs": ofa.cost.macs(evaluator.supernet), "params": ofa.cost.params(evaluator.supernet)},
        budgets_ms=budgets_ms,
        out_dir=Path(out or Path(run) / "mixed"),
        weights_sha256=opened.weights_sha256,
        num_evaluations=settings.num_evaluations,
        method=settings.method,
        predictor=settings.predictor,
        seed=settings.seed,
        progress=progress,
    )
    return Searched({fp32.name: result.selected}, is_new=True)


# -- what leaves -----------------------------------------------------------------------------------------------------


def export(
    run: Path | str,
    device: str,
    budget_ms: float,
    out: Path | str,
    *,
    options: ExportOptions | None = None,
    search_dir: Path | str | None = None,
    overwrite: bool = False,
    data_root: str | None = None,
    progress: Progress | None = None,
) -> ExportResult:
    """Export the best subnet within a budget and check it: :func:`ofa.deploy.export_bundle`; leaves a bundle.

    Args:
        search_dir: Where the search left its files, instead of ``RUN/search/DEVICE``.
    """
    import ofa.deploy
    import ofa.hardware
    from ofa.training import Run

    opened, target = Run.open(run), ofa.hardware.load_device(device)
    candidates = ofa.deploy.read_candidates(search_dir or Path(run) / "search" / target.name, budget_ms)
    return ofa.deploy.export_bundle(
        open_evaluator(opened, data_root, progress),
        candidates,
        out=out,
        device=target,
        budget_ms=budget_ms,
        measure=measure_on(target),
        run_info=opened.info,
        options=options or ofa.deploy.ExportOptions(),
        overwrite=overwrite,
        progress=progress,
    )


def deploy(
    run: Path | str,
    devices: Sequence[str],
    budgets_ms: Sequence[float],
    *,
    out: Path | str | None = None,
    options: ExportOptions | None = None,
    processes: int | None = None,
    fresh: bool = False,
    data_root: str | None = None,
    progress: Progress | None = None,
) -> list[Deployed]:
    """Bundles for several devices and budgets at once: :func:`ofa.deploy.deploy`; leaves them and an index."""
    import ofa.deploy
    import ofa.hardware
    from ofa.training import Run

    opened = Run.open(run)
    targets = [ofa.hardware.load_device(name) for name in dict.fromkeys(devices)]
    orders = [
        (target, budget, ofa.deploy.read_candidates(Path(run) / "search" / target.name, budget))
        for target in targets
        for budget in sorted(set(budgets_ms))
    ]
    return ofa.deploy.deploy(
        opened,
        orders,
        out=out or Path(run) / "deploy",
        measure_on=measure_on,
        options=options or ofa.deploy.ExportOptions(),
        data_root=data_root,
        num_processes=processes or os.cpu_count() or 1,
        fresh=fresh,
        progress=progress,
    )


def elastic(
    run: Path | str,
    device: str,
    budgets_ms: Sequence[float],
    out: Path | str,
    *,
    overwrite: bool = False,
    data_root: str | None = None,
    progress: Progress | None = None,
) -> ElasticRuntime:
    """One artefact with the subnets of several budgets: :func:`ofa.deploy.write_elastic`; gives it opened."""
    import numpy as np

    import ofa.deploy
    import ofa.hardware
    from ofa.deploy.walk_down import Walk
    from ofa.training import Run

    opened, target = Run.open(run), ofa.hardware.load_device(device)
    archs = {}
    for budget in sorted(set(budgets_ms)):
        candidates = ofa.deploy.read_candidates(Path(run) / "search" / target.name, budget)
        archs[f"{budget:g}ms"] = Walk(iter(candidates), budget, target.name).advance()["arch"]
    distinct = {str(sorted(arch.items())): name for name, arch in reversed(archs.items())}
    ofa.deploy.write_elastic(
        open_evaluator(opened, data_root, progress),
        {name: archs[name] for name in reversed(distinct.values())},
        out,
        rng=np.random.default_rng(0),
        model=opened.recipe.model,
        provenance={"weights_sha256": opened.weights_sha256},
        options=ofa.deploy.ElasticOptions(threads=target.setting.threads),
        overwrite=overwrite,
        progress=progress,
    )
    return ofa.deploy.ElasticRuntime(out, threads=target.setting.threads)


def verify(
    bundle: Path | str,
    *,
    device: str | None = None,
    images: Path | str | None = None,
    progress: Progress | None = None,
) -> VerifyResult:
    """Check a bundle again: :func:`ofa.deploy.verify_bundle`.

    Args:
        device: Measure the latency on it too.
        images: A folder of pictures, one folder per class in it.
    """
    import ofa.deploy
    import ofa.hardware

    target = None if device is None else ofa.hardware.load_device(device)
    measure = None if target is None else measure_on(target)
    return ofa.deploy.verify_bundle(bundle, device=target, measure=measure, images=images, progress=progress)


def report(run: Path | str, *, tables: Path | str = TABLES, out: Path | str | None = None) -> Path:
    """Write the page of a run: :func:`ofa.report.write_report`; gives its path."""
    import ofa.report

    return ofa.report.write_report(run, tables_dir=tables, out=out)


def plot(
    run: Path | str, *, tables: Path | str = TABLES, out: Path | str | None = None, file_format: str = "png"
) -> list[Path]:
    """Write figures of a run for papers: :func:`ofa.report.write_plots`; gives their paths."""
    import ofa.report

    return ofa.report.write_plots(run, out or Path(run) / "plots", tables, file_format)


# -- latencies of other things -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """Latencies of models, one row each, see :func:`ofa.hardware.measure`; ``to_json`` is what ``--out`` writes."""

    device: Device
    table: pd.DataFrame

    def to_json(self) -> dict[str, Any]:
        return {
            "format": 1,
            "device": self.device.to_json(),
            "fingerprint": self.device.host.fingerprint(self.device.setting),
            "timing": self.table.attrs["timing"],
            "models": self.table.reset_index(names="model").to_dict("records"),
        }


def measure(
    models: Sequence[Path],
    device: str,
    *,
    rounds: int = 10,
    block_ms: float = 50.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Measured:
    """Time model files on a device, against each other: :func:`ofa.hardware.measure`."""
    import numpy as np

    import ofa.hardware

    target = ofa.hardware.load_device(device)
    table = ofa.hardware.measure(
        {str(path): path for path in models},
        target,
        rng=np.random.default_rng(seed),
        rounds=rounds,
        block_seconds=block_ms / 1000,
        progress=progress,
    )
    return Measured(target, table)


@dataclass(frozen=True)
class Fitted:
    """A table from whole networks, where it is, and architectures to measure next; no table where there was nothing."""

    csv_path: Path
    table: LatencyTable | None
    proposals: list[dict[str, Any]]


def fit(
    space: str,
    csv: Path | str,
    device: str,
    *,
    out: Path | str = TABLES,
    propose: int = 0,
    overwrite: bool = False,
    seed: int = 0,
) -> Fitted:
    """Fit a latency table to latencies of whole networks: :func:`ofa.cost.fit.fit_latency_csv`.

    Args:
        space: Preset, timm model or run folder.
        csv: Columns ``arch`` (JSON) and ``latency_ms``; one without rows gets the first proposals.
        propose: Also name so many subnets to measure next.
    """
    import numpy as np

    from ofa.cost.fit import fit_latency_csv, read_latencies

    supernet, space_name = _open_supernet(space)
    rng, csv_path = np.random.default_rng(seed), Path(out) / device / f"{space_name}.csv"
    if propose and not len(read_latencies(csv, supernet.space)[0]):
        first = supernet.space.to_archs(supernet.space.sample_population(propose, rng))
        return Fitted(csv_path, None, [dict(arch) for arch in first])
    if csv_path.exists() and not overwrite:
        raise UsageError(f"{csv_path} is there already; replace it with --overwrite, or give another --device or --out")
    fitted = fit_latency_csv(supernet, csv, device=device)
    fitted.table.save(csv_path)
    return Fitted(csv_path, fitted.table, [dict(arch) for arch in fitted.propose(propose, rng=rng)] if propose else [])


def devices(*, tables: Path | str = TABLES) -> list[dict[str, Any]]:
    """All devices that are known: what each is, what of it is ``installed`` here, and the ``tables`` measured on it."""
    import ofa.hardware
    from ofa.hardware.runtimes import RUNTIMES, NotInstalledError

    def installed(device: Device) -> str:
        if device.host.name != "local":
            return f"on {device.host.name} host"
        try:
            versions = RUNTIMES[device.setting.runtime]().versions()
        except NotInstalledError as error:
            return f"no: {error}"
        return ", ".join(f"{name} {version}" for name, version in versions.items())

    def measured(device: Device) -> list[str]:
        files = (Path(tables) / device.name).glob("*.csv")
        return sorted(csv.stem for csv in files if csv.with_suffix(".json").exists())

    found = [ofa.hardware.load_device(path) for path in ofa.hardware.list_devices().values()]
    return [{**each.to_json(), "installed": installed(each), "tables": measured(each)} for each in found]


# -- the demo ----------------------------------------------------------------------------------------------------------


def demo_budgets(run: Path | str, device: str, *, tables: Path | str, num: int = 3) -> list[float]:
    """Budgets, in two digits, from near the fastest subnet to half the slowest, above which digits gain nothing."""
    import numpy as np

    from ofa.hardware import load_device
    from ofa.training import Run

    table = open_table(Run.open(run), load_device(device), Path(tables))
    low, high = table.predict_ms([table.space.smallest(), table.space.largest()])
    return sorted({float(f"{budget:.2g}") for budget in np.geomspace(1.3 * low, 0.5 * high, num)})


def searched(folder: Path) -> dict[frozenset[tuple[str, Any]], dict[str, Any]]:
    """Rows of a search's ``front.csv`` by the items of their architecture."""
    import pandas as pd

    rows = pd.read_csv(folder / "front.csv").to_dict("records")
    return {frozenset(json.loads(row["arch"]).items()): {str(k): v for k, v in row.items()} for row in rows}


# -- opening things ----------------------------------------------------------------------------------------------------


def is_run_folder(name: str) -> bool:
    """Whether a run folder is meant, rather than a model's name."""
    return os.sep in name or Path(name).is_dir()


def _open_supernet(name: str) -> tuple[Supernet, str]:
    """A run's trained supernet, or an untrained one of a preset or timm model, and the name of its space."""
    from ofa.supernet import create_supernet
    from ofa.training import Run

    if is_run_folder(name):
        run = Run.open(name)
        return run.supernet(), run.space_name
    return create_supernet(name).eval(), name


def open_table(run: Run, device: Device, tables: Path, *, any_machine: bool = False) -> LatencyTable:
    """The device's table of the run's space; see :func:`check_table`."""
    from ofa.cost import LatencyTable

    path = tables / device.name / f"{run.space_name}.csv"
    table = LatencyTable.load(path) if path.exists() else None
    return check_table(table, run, device, tables, any_machine=any_machine)


def check_table(
    table: LatencyTable | None, run: Run, device: Device, tables: Path, *, any_machine: bool = False
) -> LatencyTable:
    """A table that there is, of the run's very space, and of the machine that there is now unless ``any_machine``.

    Raises:
        UsageError: If it is missing or of another space.
        AnotherMachineError: If it was measured elsewhere.
    """
    from ofa.hardware.profiler import check_machine

    path = tables / device.name / f"{run.space_name}.csv"
    remedy = f"measure it with `ofa profile --run {run.path} --device {device.name} --out {tables}`"
    if table is None:
        raise UsageError(f"no latency table at {path}; {remedy}")
    if table.space != run.space:
        raise UsageError(
            f"{path} is of space {table.space.fingerprint}, but {run.path} has space {run.space.fingerprint}; {remedy}"
        )
    if not any_machine:
        check_machine(table, device.host.fingerprint(device.setting), device, path)
    return table


def open_evaluator(run: Run, data_root: str | None = None, progress: Progress | None = None) -> SubnetEvaluator:
    """What judges the subnets of a run by its task, on its data."""
    from ofa.training import SubnetEvaluator

    return SubnetEvaluator(run.supernet(), run.data(root=data_root, progress=progress), run.task)


def measure_on(device: Device) -> Measure:
    """What measures files on a device; the same files in the same order are measured alike."""
    import numpy as np

    import ofa.deploy

    return ofa.deploy.measure_on(device, rng=np.random.default_rng(0))


def _measure_archs(supernet: Supernet, device: Device, seed: int, archs: list[Arch]) -> pd.DataFrame:
    """Latency of whole subnets on a device, measured side by side; weights do not matter for it."""
    import numpy as np

    from ofa.hardware import measure
    from ofa.hardware.timed_models import export_model

    models = {
        str(i): export_model(supernet.extract(arch), supernet.input_shape(arch), device.setting)
        for i, arch in enumerate(archs)
    }
    return measure(models, device, rng=np.random.default_rng(seed))


def _read_front(path: Path, run: Run) -> list[Arch]:
    """The non-dominated architectures of a ``front.csv``."""
    import pandas as pd

    from ofa.search import non_dominated

    metric, space = run.task.metric, run.space
    try:
        table = pd.read_csv(path).dropna(subset=[metric.of("measured")])
        values = table.assign(error=-metric.sign * table[metric.of("measured")])[["error", "predicted_latency_ms"]]
        return [space.arch(json.loads(text)) for text in table.loc[non_dominated(values), "arch"]]
    except (OSError, KeyError, ValueError) as error:
        raise UsageError(f"{path} is not the front.csv of a search ({error})") from None
