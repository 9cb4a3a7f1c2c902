"""The whole way, one call per command of the command line: what it reads, what it leaves, and results as objects.

Heavy libraries are loaded by the call that needs them: packages of ``ofa`` when they are first named. The command line
makes its options and help of these signatures and docstrings (:mod:`ofa.cli.skin`); what several calls take means the
same in all of them:

Args:
    run: Run folder that `ofa train` left.
    device: Device: a name in devices/ or a YAML file.
    devices: Devices, one or several.
    budgets_ms: Latency budgets, one or several.
    tables: Folder of latency tables.
    any_machine: Take a table that was measured elsewhere or with other software too.
    data_root: Where the run's data is now, if it moved.
    dynamic_batch: Leave the network's batch free; the default is the device's.
    from_pixels: The network takes uint8 pictures (NHWC) and gives probabilities.
    max_loss: Points of the metric on the search split that INT8 may cost; more stays in floating point.
    overwrite: Replace what is there, if it is of the same kind.
    fresh: Make everything anew, whatever is there.
    seed: Decides what is drawn and the order of measuring; the same seed gives the same.
    trust_code: Execute the file of code that the run names, and put it on your list of trusted files.
    progress: See :mod:`ofa.progress`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ofa
from ofa.errors import UsageError, unknown_name_message
from ofa.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    import ofa.cost
    import ofa.deploy
    import ofa.hardware
    import ofa.report
    import ofa.training
    from ofa.cost import LatencyTable
    from ofa.deploy import Deployed, ElasticRuntime, ExportResult, VerifyResult
    from ofa.deploy.verify import Measure
    from ofa.hardware import Device
    from ofa.space import Arch, SearchSpace
    from ofa.supernet import Supernet
    from ofa.supernet.inspect import Inspection
    from ofa.training import Recipe, Run, SubnetEvaluator

TABLES = Path("latency_tables")


def inspect(model: str, overrides: Sequence[str] = (), *, trust_code: bool = False) -> Inspection:
    """Tell what is elastic in a model, what is not and why, and between which costs its subnets lie.

    Takes seconds, whatever the size of the model: no weight is read or made.

    Args:
        model: timm model, preset, torchvision:NAME, path/file.py:function (which is executed), or run folder.
        overrides: What may vary, as in Python: depth=[2,3] expand=["50%","100%"] width.stage1=["75%"]

    Raises:
        UsageError: If something is to vary in a run, whose space is settled, or if its space is no longer what it was.
    """
    from ofa.config import apply_overrides
    from ofa.supernet.elasticize import check_choices
    from ofa.supernet.inspect import inspect as take_stock
    from ofa.training.run import outline_named

    wanted = apply_overrides({}, overrides)
    check_choices(wanted)
    return replace(take_stock(outline_named(model, wanted, trust_code=trust_code)), model=model)


def train(
    recipe: Recipe | Path | str,
    overrides: Sequence[str] = (),
    *,
    out: Path | str,
    resume: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Train a supernet; leaves weights, metrics.csv, TensorBoard events and checkpoints in RUN.

    On several GPUs: `torchrun --nproc_per_node=4 -m ofa train ...`; the batch size is that of all of them together.
    A model.name=path/file.py:function is executed; its file goes on your list of trusted files.

    Args:
        recipe: Packaged recipe, or a .yaml file; see `ofa recipes`.
        overrides: Settings to change: train.epochs=90 data.root=photos
        out: Run folder to make.
        resume: Continue from the latest checkpoint.

    Raises:
        RunError, ConfigError, DivergedError, StoppedError: See :func:`ofa.training.train`.
    """
    if isinstance(recipe, (str, Path)):
        recipe = ofa.training.load_recipe(recipe, overrides)
    return ofa.training.train(recipe, out, resume=resume, progress=progress)


@dataclass(frozen=True)
class Profiled:
    """A latency table and where it is; ``is_new`` unless there was nothing to measure."""

    csv_path: Path
    table: LatencyTable
    is_new: bool

    def to_json(self) -> dict[str, Any]:
        return {"csv": str(self.csv_path), "held_out": self.table.held_out}


def profile(
    run: str,
    device: str,
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
    trust_code: bool = False,
    progress: Progress | None = None,
) -> Profiled:
    """Measure the parts of the space on a device; leaves DIR/NAME/SPACE.csv and .json.

    Continues where it stopped, and adds to a table that is there only what it lacks.

    Args:
        run: Run folder, or a model as `ofa inspect` takes it; a file of code is executed.
        out: Folder of latency tables to add to.
        resolutions: Measure only these resolutions.
        num_resolutions: Measure parts at so many resolutions, interpolate the others.
        num_fit: Whole subnets that the correction is fitted on.
        num_held_out: Other whole subnets that the table is judged on.
        force: Keep a table even if measurements do not repeat well.
        energy: Measure energy too, where this machine has a counter that can be read.

    Raises:
        UsageError: If both ``resolutions`` and ``num_resolutions`` are given.
    """
    from ofa.training.run import open_named

    if resolutions and num_resolutions:
        raise UsageError("--resolution says which resolutions to measure, --num-resolutions how many; give one of them")
    target = ofa.hardware.load_device(device)
    supernet, space_name = open_named(run, trust_code=trust_code)
    csv_path = Path(out) / target.name / f"{space_name}.csv"
    written_ns = csv_path.stat().st_mtime_ns if csv_path.exists() else None
    table = ofa.hardware.profile(
        supernet,
        target,
        csv_path=csv_path,
        num_fit=num_fit,
        num_held_out=num_held_out,
        rng=_generator(seed),
        resolutions=resolutions or None,
        num_resolutions=num_resolutions,
        fresh=fresh,
        force=force,
        energy=energy,
        progress=progress,
    )
    return Profiled(csv_path, table, is_new=csv_path.stat().st_mtime_ns != written_ns)


# -- search ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Searched:
    """What was picked.

    Args:
        selected: Device -> the content of its ``selected.json``.
        is_new: Unless an earlier search had measured enough.
        files: Folder of the picks' own files, where precision was searched too.
    """

    selected: dict[str, dict[str, Any]]
    is_new: bool = True
    files: Path | None = None

    def to_json(self) -> dict[str, Any]:
        return self.selected


def search(
    run: Path | str,
    devices: Sequence[str],
    budgets_ms: Sequence[float],
    *,
    tables: Path | str = TABLES,
    out: Path | str | None = None,
    num_evaluations: int = 80,
    method: str = "auto",
    predictor: str = "auto",
    limits: Sequence[str] = (),
    fleet: bool = False,
    precision: str | None = None,
    int8_device: str | None = None,
    start_from: Sequence[Path] = (),
    evaluations: Sequence[Path] = (),
    refine: bool = False,
    seed: int = 0,
    any_machine: bool = False,
    data_root: str | None = None,
    trust_code: bool = False,
    progress: Progress | None = None,
) -> Searched:
    """Search the front of each device and pick a measured subnet per budget.

    Asked again with other budgets, it answers at once from what it measured. Interrupted, it goes on.

    Args:
        out: Instead of RUN/search (RUN/mixed with --precision).
        num_evaluations: Subnets truly evaluated by the search, and as many by random search beside it.
        method: Search method: auto (one that suits the number of evaluations), linas, thompson, nsga2, local, random.
        predictor: Predictor that the last candidates are proposed by; auto tries several.
        limits: Limit of a cost, in its unit or as a share of the largest: macs=60%.
        fleet: Also find the best single subnet for all devices together.
        precision: Search precision too, fp32 or INT8: of the whole network, or of each block (network, block).
        int8_device: With --precision: the same device in INT8, for its latency table.
        start_from: front.csv of another search, whose front is evaluated first.
        evaluations: evaluations.csv from elsewhere, of the same weights: not evaluated again.
        refine: Look closely at new budgets, rather than answer from what was measured before.

    Raises:
        UsageError: If a table is missing or of another space, or options do not go together.
        InfeasibleBudgetError: If no subnet keeps a budget.
    """
    _check_seed(seed)
    if len({Path(device).stem for device in devices}) < len(devices):
        raise UsageError(f"two of the devices {', '.join(devices)} are called alike; leave one out, or rename its file")
    settings: dict[str, Any] = {
        "num_evaluations": num_evaluations,
        "method": method,
        "predictor": predictor,
        "seed": seed,
    }
    if precision is None:
        return _search_devices(
            Path(run),
            devices,
            budgets_ms,
            tables=Path(tables),
            out_dir=Path(out or Path(run) / "search"),
            limits=limits,
            with_fleet=fleet,
            start_from=start_from,
            evaluations=evaluations,
            refine=refine,
            any_machine=any_machine,
            data_root=data_root,
            trust_code=trust_code,
            progress=progress,
            **settings,
        )
    given = {"--max": limits, "--fleet": fleet, "--start-from": start_from, "--evaluations": evaluations}
    for name in (name for name, value in given.items() if value):
        raise UsageError(f"{name} does not go with --precision; leave one of them out")
    pair = _pair_of_devices(devices, int8_device, precision)
    from ofa.precision.mixed_search import search_mixed

    opened = ofa.Run.open(run, trust_code=trust_code)
    fp32, int8 = (open_table(opened, device, Path(tables), any_machine=any_machine) for device in pair)
    evaluator, out = open_evaluator(opened, data_root, progress), Path(out or Path(run) / "mixed")
    result = search_mixed(
        evaluator,
        pair[0],
        fp32=fp32,
        int8=int8,
        per=precision,  # type: ignore[arg-type]
        costs={"macs": ofa.cost.macs(evaluator.supernet), "params": ofa.cost.params(evaluator.supernet)},
        budgets_ms=budgets_ms,
        out_dir=out,
        weights_sha256=opened.weights_sha256,
        progress=progress,
        **settings,
    )
    return Searched({pair[0].name: result.selected}, files=out / pair[0].name)


def _search_devices(
    run: Path,
    devices: Sequence[str],
    budgets_ms: Sequence[float],
    *,
    tables: Path,
    out_dir: Path,
    limits: Sequence[str],
    with_fleet: bool,
    start_from: Sequence[Path],
    evaluations: Sequence[Path],
    refine: bool,
    any_machine: bool,
    data_root: str | None,
    trust_code: bool,
    progress: Progress | None,
    **settings: Any,
) -> Searched:
    """Architectures: answered from an earlier search's files, each of which is read once, or searched."""
    from ofa.files import read_json
    from ofa.search.evaluation_cache import EvaluationCache, Scores
    from ofa.search.run import Target, TargetSearch, check_feasible

    info = read_json(run / "supernet.json", kind="run folder", remedy="train it with `ofa train`")
    names = [Path(device).stem for device in devices]
    if with_fleet and len(names) < 2:
        raise UsageError("a fleet is two devices or more, such as --device cpu-1t cpu-2t")
    known, sums = _read_tables([tables / name / f"{info.get('space_name')}.csv" for name in names])
    facts = {
        "settings": {**settings, "max": sorted(limits), "devices": names},
        "weights_sha256": info.get("weights_sha256"),
    }
    if len(known) == len(names) and not (refine or start_from or evaluations):
        answers = _answers(out_dir, names, budgets_ms, facts=facts, sums=sums, with_fleet=with_fleet)
        if answers is not None:
            return Searched(answers, is_new=False)
    for name, table in known.items():  # before anything heavy is loaded
        if table.space.to_json() == info.get("space"):
            predictions = {name: table.predict_ms}
            check_feasible(table.space, predictions, budgets_ms, seed=settings["seed"])
    opened = ofa.Run.of(run, info, trust_code=trust_code)
    targets = [ofa.hardware.load_device(device) for device in devices]
    renamed = [target.name for target in targets if target.name not in known]  # in a device file
    more, sums_of_more = _read_tables([tables / name / f"{opened.space_name}.csv" for name in renamed])
    known, sums = known | more, sums | sums_of_more
    measured = [
        open_table(opened, target, tables, any_machine=any_machine, table=known.get(target.name)) for target in targets
    ]
    key = {"weights_sha256": opened.weights_sha256, "split": "search"}
    cache = EvaluationCache(out_dir / "evaluations.csv", values=opened.task.metric.columns, **key)
    for path in evaluations:
        cache.import_csv(path)
    initial = [arch for path in start_from for arch in _read_front(path, opened)]
    judge = open_evaluator(opened, data_root, progress)
    costs, constraints = _costs(opened.space, judge.supernet, measured, limits)
    results = TargetSearch(
        space=opened.space,
        scores=Scores(judge.metric, judge.race, len(judge.data.splits.search), cache, chunk_size=judge.num_together),
        targets=[
            Target(
                target.name,
                table.predict_ms,
                partial(_measure_archs, judge.supernet, target, settings["seed"]),
                {"tables_sha256": {target.name: sums[target.name]}},
            )
            for target, table in zip(targets, measured, strict=True)
        ],
        costs=costs,
        budgets_ms=budgets_ms,
        out_dir=out_dir,
        constraints=constraints,
        initial=initial,
        identity=facts,
        with_fleet=with_fleet,
        progress=progress,
        **settings,
    ).run()
    return Searched({name: result.selected for name, result in results.items()})


def _read_tables(paths: Sequence[Path]) -> tuple[dict[str, LatencyTable], dict[str, str]]:
    """The tables that there are, and their checksums, by device."""
    from ofa.files import read_json

    tables, sums = {}, {}
    for path in filter(Path.exists, paths):
        tables[path.parent.name] = ofa.LatencyTable.load(path)
        info = read_json(path.with_suffix(".json"), kind="latency table", remedy="measure it again")
        sums[path.parent.name] = info["csv"]["sha256"]
    return tables, sums


def _answers(
    folder: Path,
    names: Sequence[str],
    budgets_ms: Sequence[float],
    *,
    facts: Mapping[str, Any],
    sums: Mapping[str, str],
    with_fleet: bool,
) -> dict[str, dict[str, Any]] | None:
    """What an earlier search measured enough for, of each device; ``None`` unless of all."""
    from ofa.search.answer import answer
    from ofa.search.run import FLEET

    answers = {}
    for name in [*names, FLEET] if with_fleet else names:
        whole = {**facts, "tables_sha256": sums if name == FLEET else {name: sums[name]}}
        found = answer(folder / name, budgets_ms, facts=whole, costs=["macs", "params"])
        if found is None:
            return None
        answers[name] = found
    return answers


def _costs(
    space: SearchSpace, supernet: Supernet, tables: Sequence[LatencyTable], limits: Sequence[str]
) -> tuple[dict[str, Any], list[Any]]:
    """Costs that result files name, and the limits of these and others."""
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


def _pair_of_devices(devices: Sequence[str], int8_device: str | None, per: str) -> tuple[Device, Device]:
    """The same device in fp32 and in INT8."""
    if per not in ("network", "block"):
        raise UsageError(f"--precision is network or block, not {per!r}")
    if len(devices) != 1 or int8_device is None:
        raise UsageError(
            "--precision takes one --device in fp32 and the same in INT8: --device cpu-1t --int8-device cpu-int8-1t"
        )
    fp32, int8 = ofa.hardware.load_device(devices[0]), ofa.hardware.load_device(int8_device)
    found = [(each.setting.runtime, each.setting.precision) for each in (fp32, int8)]
    if found != [("onnxruntime", "fp32"), ("onnxruntime", "int8")]:
        raise UsageError(
            f"ONNX Runtime mixes precisions; {fp32.name} is {fp32.setting.precision} on {fp32.setting.runtime}, "
            f"{int8.name} {int8.setting.precision} on {int8.setting.runtime}"
        )
    return fp32, int8


# -- what leaves -----------------------------------------------------------------------------------------------------


def export(
    run: Path | str,
    device: str,
    budget_ms: float,
    out: Path | str,
    *,
    dynamic_batch: bool = False,
    from_pixels: bool = False,
    max_loss: float = 0.5,
    overwrite: bool = False,
    search_dir: Path | str | None = None,
    data_root: str | None = None,
    trust_code: bool = False,
    progress: Progress | None = None,
) -> ExportResult:
    """Extract, calibrate, export and check the best subnet within a budget; leaves BUNDLE/.

    The device says in what form: ONNX in fp32, fp16 or INT8, OpenVINO IR, an ExecuTorch program, a LiteRT file, a
    TensorRT engine. Where a file misses the budget, the next subnet down the front is exported, until one holds.

    Args:
        budget_ms: Latency budget that the exported file must keep.
        out: Bundle folder to make.
        search_dir: Instead of RUN/search/NAME: where the search left its files.

    Raises:
        InfeasibleBudgetError, ParityError, TargetError, BundleError: See :func:`ofa.deploy.export_bundle`.
    """
    opened, target = ofa.Run.open(run, trust_code=trust_code), ofa.hardware.load_device(device)
    candidates = ofa.deploy.read_candidates(search_dir or Path(run) / "search" / target.name, budget_ms)
    return ofa.deploy.export_bundle(
        open_evaluator(opened, data_root, progress),
        candidates,
        out=out,
        device=target,
        budget_ms=budget_ms,
        measure=measure_on(target),
        run_info=opened.info,
        options=ofa.deploy.ExportOptions(
            dynamic_batch=dynamic_batch, from_pixels=from_pixels, max_loss_points=max_loss
        ),
        overwrite=overwrite,
        progress=progress,
    )


def deploy(
    run: Path | str,
    devices: Sequence[str],
    budgets_ms: Sequence[float],
    *,
    out: Path | str | None = None,
    dynamic_batch: bool = False,
    from_pixels: bool = False,
    max_loss: float = 0.5,
    processes: int | None = None,
    fresh: bool = False,
    data_root: str | None = None,
    trust_code: bool = False,
    progress: Progress | None = None,
) -> list[Deployed]:
    """Bundles for several devices and budgets at once; leaves DIR/NAME-BUDGETms/, DIR/index.json and index.csv.

    Interrupted, it goes on: bundles that are there and still hold are kept. Exit status 1 if a budget cannot be kept.

    Args:
        out: Instead of RUN/deploy.
        processes: Exports at a time; one per core if not given. Measuring is done alone.

    Raises:
        TargetError, BundleError, ParityError: See :func:`ofa.deploy.deploy`.
    """
    opened = ofa.Run.open(run, trust_code=trust_code)
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
        options=ofa.deploy.ExportOptions(
            dynamic_batch=dynamic_batch, from_pixels=from_pixels, max_loss_points=max_loss
        ),
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
    trust_code: bool = False,
    progress: Progress | None = None,
) -> ElasticRuntime:
    """One artefact with the subnets of several budgets, weights stored once, between which a program switches.

    `ofa.deploy.ElasticRuntime(DIR)` runs it; `set_budget_ms` switches between requests.

    Args:
        out: Folder to make.

    Raises:
        InfeasibleBudgetError, ElasticError, ParityError: See :func:`ofa.deploy.write_elastic`.
    """
    from ofa.deploy.walk_down import Walk

    opened, target = ofa.Run.open(run, trust_code=trust_code), ofa.hardware.load_device(device)
    archs = {}
    for budget in sorted(set(budgets_ms)):
        candidates = ofa.deploy.read_candidates(Path(run) / "search" / target.name, budget)
        archs[f"{budget:g}ms"] = Walk(iter(candidates), budget, target.name).advance()["arch"]
    distinct = {str(sorted(arch.items())): name for name, arch in reversed(archs.items())}
    ofa.deploy.write_elastic(
        open_evaluator(opened, data_root, progress),
        {name: archs[name] for name in reversed(distinct.values())},
        out,
        rng=_generator(0),
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
    """Check a bundle again: checksums, parity, accuracy, latency. Exit status 1 if something does not hold.

    Args:
        bundle: Bundle folder that `ofa export` left.
        device: Measure the latency on this device too.
        images: Also the accuracy on pictures of yours: FOLDER/<class>/*.

    Raises:
        BundleError: See :func:`ofa.deploy.verify_bundle`.
    """
    target = None if device is None else ofa.hardware.load_device(device)
    measure = None if target is None else measure_on(target)
    return ofa.deploy.verify_bundle(bundle, device=target, measure=measure, images=images, progress=progress)


def report(run: Path | str, *, tables: Path | str = TABLES, out: Path | str | None = None) -> list[Path]:
    """Write the page to look at: RUN/report.html, self-contained.

    Args:
        out: Instead of RUN/report.html.
    """
    return [ofa.report.write_report(run, tables_dir=tables, out=out)]


def plot(
    run: Path | str, *, out: Path | str | None = None, tables: Path | str = TABLES, file_format: str = "png"
) -> list[Path]:
    """Figures for papers, a column wide: fronts, search, prediction error, training, one device against another.

    Args:
        out: Instead of RUN/plots.
        file_format: png, pdf or svg.
    """
    return ofa.report.write_plots(run, out or Path(run) / "plots", tables, file_format)


# -- latencies of other things -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """Latencies of models, one row each, see :func:`ofa.hardware.measure`."""

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
    *,
    device: str,
    rounds: int = 10,
    block_ms: float = 50.0,
    out: Path | str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Measured:
    """Time any model file on a device, several against each other, with the care that tables are measured with.

    Args:
        models: ONNX files (or .pte programs).
        rounds: Blocks of each model, in random order.
        block_ms: Length of a block.
        out: JSON file for results, fingerprint and causes of rejection.
    """
    from ofa.files import write_json_atomic

    target = ofa.hardware.load_device(device)
    table = ofa.hardware.measure(
        {str(path): path for path in models},
        target,
        rng=_generator(seed),
        rounds=rounds,
        block_seconds=block_ms / 1000,
        progress=progress,
    )
    measured = Measured(target, table)
    if out is not None:
        write_json_atomic(out, measured.to_json())
    return measured


@dataclass(frozen=True)
class Fitted:
    """A table from whole networks, where it is, and architectures to measure next; no table where there was nothing."""

    csv_path: Path
    table: LatencyTable | None
    proposals: list[dict[str, Any]]

    def to_json(self) -> Any:
        if self.table is None:
            return self.proposals
        return {"csv": str(self.csv_path), "held_out": self.table.held_out, "proposals": self.proposals}


def fit(
    space: str,
    csv: Path | str,
    device: str,
    *,
    out: Path | str = TABLES,
    propose: int = 0,
    overwrite: bool = False,
    seed: int = 0,
    trust_code: bool = False,
) -> Fitted:
    """Fit a latency table from latencies of whole networks, where nothing else can be measured.

    A few dozen networks are enough to begin with. --propose N on an empty file (only the header) names the first N.

    Args:
        space: Run folder, or a model as `ofa inspect` takes it; a file of code is executed.
        csv: Columns arch (JSON) and latency_ms.
        device: What to call the device.
        out: Folder of latency tables to add to.
        propose: Also name so many subnets to measure next.

    Raises:
        FitError: If the file does not hold what it should, or too little.
        UsageError: If there is a table already.
    """
    from ofa.cost.fit import fit_latency_csv, read_latencies
    from ofa.files import check_file_name
    from ofa.training.run import open_named

    check_file_name("device", device)
    supernet, space_name = open_named(space, trust_code=trust_code)
    rng, csv_path = _generator(seed), Path(out) / device / f"{space_name}.csv"
    if propose and not len(read_latencies(csv, supernet.space)[0]):
        first = supernet.space.to_archs(supernet.space.sample_population(propose, rng))
        return Fitted(csv_path, None, [dict(arch) for arch in first])
    if csv_path.exists() and not overwrite:
        raise UsageError(f"{csv_path} is there already; replace it with --overwrite, or give another --device or --out")
    fitted = fit_latency_csv(supernet, csv, device=device)
    fitted.table.save(csv_path)
    return Fitted(csv_path, fitted.table, [dict(arch) for arch in fitted.propose(propose, rng=rng)] if propose else [])


def devices(*, tables: Path | str = TABLES) -> list[dict[str, Any]]:
    """List the devices: what each needs, whether that is installed here, and which spaces are measured on it."""
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

    table = open_table(ofa.Run.open(run), ofa.hardware.load_device(device), Path(tables))
    low, high = table.predict_ms([table.space.smallest(), table.space.largest()])
    return sorted({float(f"{budget:.2g}") for budget in np.geomspace(1.3 * low, 0.5 * high, num)})


# -- opening things ----------------------------------------------------------------------------------------------------


def open_table(
    run: Run, device: Device, tables: Path, *, any_machine: bool = False, table: LatencyTable | None = None
) -> LatencyTable:
    """The device's table of the run's very space, and of the machine that there is now unless ``any_machine``.

    Args:
        table: What has been read of it before.

    Raises:
        UsageError: If it is missing or of another space.
        AnotherMachineError: If it was measured elsewhere.
    """
    from ofa.hardware.profiler import check_machine

    path = tables / device.name / f"{run.space_name}.csv"
    remedy = f"measure it with `ofa profile --run {run.path} --device {device.name} --out {tables}`"
    if table is None:
        if not path.exists():
            raise UsageError(f"no latency table at {path}; {remedy}")
        table = ofa.LatencyTable.load(path)
    if table.space != run.space:
        raise UsageError(
            f"{path} is of space {table.space.fingerprint}, but {run.path} has space {run.space.fingerprint}; {remedy}"
        )
    if not any_machine:
        check_machine(table, device.host.fingerprint(device.setting), device, path)
    return table


def open_evaluator(run: Run, data_root: str | None = None, progress: Progress | None = None) -> SubnetEvaluator:
    """What judges the subnets of a run by its task, on its data."""
    return ofa.training.SubnetEvaluator(run.supernet(), run.data(root=data_root, progress=progress), run.task)


def measure_on(device: Device) -> Measure:
    """What measures files on a device; the same files in the same order are measured alike."""
    return ofa.deploy.measure_on(device, rng=_generator(0))


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise UsageError(f"--seed must be 0 or more, not {seed}")


def _generator(seed: int) -> np.random.Generator:
    import numpy as np

    _check_seed(seed)
    return np.random.default_rng(seed)


def _measure_archs(supernet: Supernet, device: Device, seed: int, archs: list[Arch]) -> pd.DataFrame:
    """Latency of whole subnets on a device, measured side by side; weights do not matter for it."""
    from ofa.hardware.timed_models import export_model

    models = {
        str(i): export_model(supernet.extract(arch), supernet.input_shape(arch), device.setting)
        for i, arch in enumerate(archs)
    }
    return ofa.hardware.measure(models, device, rng=_generator(seed))


def _read_front(path: Path, run: Run) -> list[Arch]:
    """The non-dominated architectures of a ``front.csv``."""
    from ofa.files import read_csv
    from ofa.search import non_dominated

    metric, space = run.task.metric, run.space
    numbers = [metric.of("measured"), "predicted_latency_ms"]
    try:
        table = read_csv(path, numbers=numbers, json_in=["arch"], remedy="name another").dropna(subset=numbers)
        values = table.assign(error=-metric.sign * table[metric.of("measured")])[["error", "predicted_latency_ms"]]
        return [space.arch(json.loads(text)) for text in table.loc[non_dominated(values), "arch"]]
    except (KeyError, ValueError) as error:
        raise UsageError(f"{path} is not the front.csv of a search ({error})") from None
