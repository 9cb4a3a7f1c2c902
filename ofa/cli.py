"""The ``ofa`` command: parse, call the library, print."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from decimal import Decimal
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperCommand

import ofa
from ofa.errors import OfaError, UsageError, unknown_name_message

if TYPE_CHECKING:
    import pandas as pd

    from ofa.cost import LatencyTable
    from ofa.deploy import BundleInfo, Check
    from ofa.hardware import Device
    from ofa.metrics import Metric
    from ofa.search.run import SearchResult
    from ofa.space import Arch, SearchSpace
    from ofa.supernet import Supernet
    from ofa.supernet.inspect import Inspection, StageReport
    from ofa.training import Run, SubnetEvaluator

Progress = Callable[[int, int, str], None]


class ManyValues(TyperCommand):
    """A command whose options that may be repeated also take several values in a row: ``--budget-ms 1 2 4``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        repeatable = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        words: list[str] = []
        option: str | None = None
        for word in args:
            if option is not None and not word.startswith("-") and words[-1] != option:
                words.append(option)
            elif word.startswith("-"):
                option = word if word in repeatable else None
            words.append(word)
        return super().parse_args(ctx, words)


app = typer.Typer(
    name="ofa",
    help="Train once, deploy everywhere: any timm model, any device, any latency budget.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

RunOption = Annotated[Path, typer.Option("--run", help="Run folder that `ofa train` left.", metavar="RUN")]
DeviceOption = Annotated[
    str, typer.Option("--device", help="Device: a name in devices/ or a YAML file.", metavar="NAME")
]
TablesOption = Annotated[Path, typer.Option("--tables", help="Folder of latency tables.", metavar="DIR")]
DataRootOption = Annotated[str | None, typer.Option("--data-root", help="Where the run's data is now, if it moved.")]
DynamicBatchOption = Annotated[
    bool, typer.Option("--dynamic-batch", help="Leave the network's batch free; the default is the device's.")
]
FromPixelsOption = Annotated[
    bool, typer.Option("--from-pixels", help="The network takes uint8 pictures (NHWC) and gives probabilities.")
]
MaxLossOption = Annotated[
    float, typer.Option(help="Points of search-split accuracy that INT8 may cost; more stays in floating point.", min=0)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]

TABLES = Path("latency_tables")


# -- commands --------------------------------------------------------------------------------------------------------


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo leaves.")] = Path("runs/demo"),
    device: DeviceOption = "cpu-1t",
) -> None:
    """The whole way on scikit-learn's digits: train, profile, search, export, verify, report. Needs no network."""
    tables = out / "latency_tables"
    say(f"[bold]1/6  train[/]    a supernet on digits, into {out}")
    train("demo", out=out, resume=True)
    say(f"[bold]2/6  profile[/]  its parts on device {device}")
    profile(run=str(out), device=device, out=tables, force=True)
    budgets_ms = demo_budgets(out, device, tables)
    say(f"[bold]3/6  search[/]   within {', '.join(f'{budget:g} ms' for budget in budgets_ms)}")
    search(run=out, device=[device], budget_ms=budgets_ms, tables=tables)
    say("[bold]4/6  export[/]   a bundle per budget")
    bundles = [out / "bundles" / f"{device}-{budget:g}ms" for budget in budgets_ms]
    for bundle, budget in zip(bundles, budgets_ms, strict=True):
        export(run=out, device=device, budget_ms=budget, out=bundle, overwrite=True)
    say("[bold]5/6  verify[/]   each bundle again")
    all_hold = print_bundles(bundles, device, front_csv=out / "search" / device / "front.csv")
    say("[bold]6/6  report[/]")
    report(run=out, tables=tables)
    say(f"Open {out / 'report.html'} in a browser. Training curves: tensorboard --logdir {out / 'tensorboard'}")
    if not all_hold:
        raise typer.Exit(1)


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="timm model, preset, or run folder.", metavar="MODEL")],
    choices: Annotated[
        list[str] | None,
        typer.Argument(
            help='What may vary, as in Python: depth=[2,3] expand=["50%","100%"] width.stage1=["75%"]',
            metavar="key=value",
        ),
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Tell what is elastic in a model, what is not and why, and between which costs its subnets lie.

    Takes seconds, whatever the size of the model: no weight is read or made.
    """
    from ofa.supernet.inspect import inspect

    supernet = open_without_weights(model, choices or [])
    inspection = inspect(supernet)
    if as_json:
        print_json({"model": model, **inspection.to_json()})
    else:
        print_inspection(model, inspection)


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(help="Packaged recipe, or a .yaml file; see `ofa recipes`.", metavar="RECIPE")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings to change: train.epochs=90 data.root=photos", metavar="key=value"),
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="Run folder to make.", metavar="RUN")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the latest checkpoint.")] = False,
) -> None:
    """Train a supernet; leaves weights, metrics.csv, TensorBoard events and checkpoints in RUN.

    On several GPUs: `torchrun --nproc_per_node=4 -m ofa train ...`; the batch size is that of all of them together.
    """
    import ofa.training

    loaded = ofa.training.load_recipe(recipe, overrides or [])
    is_first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started
    with progress_bar() if is_first else nullcontext() as progress:
        run = ofa.training.train(loaded, out, resume=resume, progress=progress)
    if not is_first:
        return
    import pandas as pd

    last, metric = pd.read_csv(out / "metrics.csv").iloc[-1], run.task.metric
    say(
        f"{run.space.num_archs:.3g} subnets in one set of weights; {metric.title} on the search split: largest "
        f"{metric.text(last[metric.of('largest')])}, smallest {metric.text(last[metric.of('smallest')])}"
    )


@app.command()
def recipes() -> None:
    """List the packaged recipes."""
    from ofa.training import list_recipes, load_recipe

    print_table(["recipe", "what it does"], [[name, load_recipe(name).description] for name in list_recipes()])


@app.command()
def profile(
    *,
    run: Annotated[str, typer.Option("--run", help="Run folder, preset or timm model.", metavar="RUN")],
    device: DeviceOption,
    out: Annotated[Path, typer.Option(help="Folder of latency tables to add to.", metavar="DIR")] = TABLES,
    resolution: Annotated[
        list[int] | None, typer.Option(help="Measure only these resolutions (may be given several times).")
    ] = None,
    num_resolutions: Annotated[
        int | None, typer.Option(help="Measure parts at so many resolutions, interpolate the others.", min=2)
    ] = None,
    num_fit: Annotated[int, typer.Option(help="Whole subnets that the correction is fitted on.", min=0)] = 24,
    num_held_out: Annotated[int, typer.Option(help="Other whole subnets that the table is judged on.", min=2)] = 24,
    seed: Annotated[int, typer.Option(help="Decides the subnets and the order of measuring.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure everything anew, whatever is there.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Keep a table even if measurements do not repeat well.")
    ] = False,
    energy: Annotated[
        bool, typer.Option("--energy", help="Measure energy too, where this machine has a counter that can be read.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the parts of the space on a device; leaves DIR/NAME/SPACE.csv and .json.

    Continues where it stopped, and adds to a table that is there only what it lacks.
    """
    import numpy as np

    import ofa.hardware

    if resolution and num_resolutions:
        raise UsageError("--resolution says which resolutions to measure, --num-resolutions how many; give one of them")
    target = ofa.hardware.load_device(device)
    supernet, space_name = open_supernet(run)
    csv_path = out / target.name / f"{space_name}.csv"
    num_steps = 0
    with progress_bar() as bar:

        def progress(done: int, total: int, what: str) -> None:
            nonlocal num_steps
            num_steps += 1
            bar(done, total, what)

        table = ofa.hardware.profile(
            supernet,
            target,
            csv_path=csv_path,
            num_fit=num_fit,
            num_held_out=num_held_out,
            rng=np.random.default_rng(seed),
            resolutions=resolution,
            num_resolutions=num_resolutions,
            fresh=fresh,
            force=force,
            energy=energy,
            progress=progress,
        )
    held_out = table.held_out
    if as_json:
        print_json({"csv": str(csv_path), "held_out": held_out})
    if not num_steps:
        say(f"{csv_path} has every part already; --fresh measures it anew")
    say(
        f"{len(table.entries)} parts; {held_out['num']} unseen whole subnets predicted with "
        f"{held_out['mape_percent']:.1f} % mean error, rank correlation {held_out['spearman']:.3f} "
        f"(MACs alone {held_out['macs_only_spearman']:.3f}); measurements repeat to {table.repeatability_percent:.1f} %"
    )
    if table.refused:
        say("[red]that is too noisy to search with; measure in a quieter hour, or keep the table with --force[/]")
        raise typer.Exit(1)


@app.command(cls=ManyValues)
def search(
    *,
    run: RunOption,
    device: Annotated[list[str], typer.Option("--device", help="Devices, one or several.", metavar="NAME …")],
    budget_ms: Annotated[list[float], typer.Option(help="Latency budgets, one or several.", metavar="MS …")],
    tables: TablesOption = TABLES,
    out: Annotated[Path | None, typer.Option(help="Instead of RUN/search.", metavar="DIR")] = None,
    num_evaluations: Annotated[
        int, typer.Option(help="Subnets truly evaluated by the search, and as many by random search beside it.", min=2)
    ] = 80,
    method: Annotated[str, typer.Option(help="Search method: auto, linas, thompson, nsga2, local, random.")] = "auto",
    predictor: Annotated[str, typer.Option(help="Accuracy predictor of the last candidates; auto tries several.")] = (
        "auto"
    ),
    limit: Annotated[
        list[str] | None,
        typer.Option(
            "--max", help="Limit of a cost, in its unit or as a share of the largest: macs=60%.", metavar="COST=LIMIT"
        ),
    ] = None,
    fleet: Annotated[
        bool, typer.Option("--fleet", help="Also find the best single subnet for all devices together.")
    ] = False,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Search precision too, fp32 or INT8: of the whole network, or of each block (network, block)."
        ),
    ] = None,
    int8_device: Annotated[
        str | None,
        typer.Option(help="With --precision: the same device in INT8, for its latency table.", metavar="NAME"),
    ] = None,
    start_from: Annotated[
        list[Path] | None,
        typer.Option("--start-from", help="front.csv of another search, whose front is evaluated first."),
    ] = None,
    evaluations: Annotated[
        list[Path] | None,
        typer.Option("--evaluations", help="evaluations.csv from elsewhere, of the same weights: not evaluated again."),
    ] = None,
    refine: Annotated[
        bool,
        typer.Option("--refine", help="Look closely at new budgets, rather than answer from what was measured before."),
    ] = False,
    seed: Annotated[int, typer.Option(help="The same seed gives the same search.")] = 0,
    any_machine: Annotated[
        bool, typer.Option("--any-machine", help="Take a table that was measured elsewhere or with other software too.")
    ] = False,
    data_root: DataRootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search the accuracy-latency front of each device and pick a measured subnet per budget.

    Asked again with other budgets, it answers at once from what it measured. Interrupted, it goes on.
    """
    from ofa.search.answer import answer
    from ofa.search.run import FLEET

    folder = out or run / "search"
    names = [Path(name).stem for name in device]
    headroom = 0.03
    facts = {
        "settings": {
            "num_evaluations": num_evaluations,
            "method": method,
            "predictor": predictor,
            "max": sorted(limit or []),
            "devices": names,
            "seed": seed,
        },
    }
    if precision is not None:
        given = {"--max": limit, "--fleet": fleet, "--start-from": start_from, "--evaluations": evaluations}
        for option in (option for option, value in given.items() if value):
            raise UsageError(f"{option} does not go with --precision; leave one of them out")
        _search_mixed(
            run=run,
            device=device,
            int8_device=int8_device,
            per=precision,
            budgets_ms=budget_ms,
            tables=tables,
            out_dir=out or run / "mixed",
            any_machine=any_machine,
            data_root=data_root,
            as_json=as_json,
            num_evaluations=num_evaluations,
            method=method,
            predictor=predictor,
            seed=seed,
        )
        return
    if fleet and len(names) < 2:
        raise UsageError("a fleet is two devices or more, such as --device cpu-1t cpu-2t")
    is_known = len(files_sha256(run, tables, names)["tables_sha256"]) == len(names)
    if is_known and not (refine or start_from or evaluations):
        answers = {
            name: answer(
                folder / name,
                budget_ms,
                facts={**facts, **files_sha256(run, tables, names if name == FLEET else [name])},
                costs=["macs", "params"],
                headroom=headroom,
            )
            for name in [*names, *([FLEET] if fleet else [])]
        }
        known = {name: selected for name, selected in answers.items() if selected is not None}
        if len(known) == len(answers):
            for name, selected in known.items():
                print_picks(name, selected)
            say("answered from what the earlier search measured; --refine looks closer at these budgets")
            if as_json:
                print_json(known)
            return
    check_budgets(run, tables, names, budget_ms, headroom=headroom, seed=seed)
    results = _search(
        run=run,
        device=device,
        budgets_ms=budget_ms,
        tables=tables,
        folder=folder,
        limits=limit or [],
        start_from=start_from or [],
        evaluations=evaluations or [],
        any_machine=any_machine,
        data_root=data_root,
        facts=facts,
        num_evaluations=num_evaluations,
        method=method,
        predictor=predictor,
        with_fleet=fleet,
        seed=seed,
        headroom=headroom,
    )
    for name, result in results.items():
        print_picks(name, result.selected)
    if as_json:
        print_json({name: result.selected for name, result in results.items()})


def check_budgets(
    run: Path, tables: Path, devices: Sequence[str], budgets_ms: Sequence[float], *, headroom: float, seed: int
) -> None:
    """Refuse what no subnet can keep, before anything heavy is loaded; what cannot be told here is told later."""
    from ofa.cost.latency_table import LatencyTable
    from ofa.files import read_json
    from ofa.search.run import check_feasible

    info = read_json(run / "supernet.json", kind="run folder", remedy="train it with `ofa train`")
    for device in devices:
        path = tables / device / f"{info.get('space_name')}.csv"
        if path.exists():
            table = LatencyTable.load(path)
            if table.space.to_json() != info.get("space"):
                continue
            check_feasible(table.space, {device: table.predict_ms}, budgets_ms, headroom=headroom, seed=seed)


def files_sha256(run: Path, tables: Path, devices: Sequence[str]) -> dict[str, Any]:
    """Of the weights and the devices' tables, as their files tell; read without the libraries that a search needs."""
    from ofa.files import read_json

    info = read_json(run / "supernet.json", kind="run folder", remedy="train it with `ofa train`")
    found = {}
    for device in devices:
        path = tables / device / f"{info.get('space_name')}.json"
        if path.exists():
            found[device] = read_json(path, kind="latency table", remedy="measure it again")["csv"]["sha256"]
    return {"weights_sha256": info.get("weights_sha256"), "tables_sha256": found}


def _search(
    *,
    run: Path,
    device: Sequence[str],
    budgets_ms: Sequence[float],
    tables: Path,
    folder: Path,
    limits: Sequence[str],
    start_from: Sequence[Path],
    evaluations: Sequence[Path],
    any_machine: bool,
    data_root: str | None,
    facts: dict[str, Any],
    seed: int,
    **settings: Any,
) -> dict[str, SearchResult]:
    import ofa.cost
    import ofa.hardware
    from ofa.cost.energy import ENERGY, energy_mj
    from ofa.search import Constraint
    from ofa.search.evaluation_cache import EvaluationCache, Scores
    from ofa.search.run import Target, run_search
    from ofa.training import Run

    opened = Run.open(run)
    devices = [ofa.hardware.load_device(name) for name in device]
    latency_tables = [open_table(opened, target, tables, any_machine=any_machine) for target in devices]
    metric = opened.task.metric
    cache = EvaluationCache(
        folder / "evaluations.csv",
        values=metric.columns,
        weights_sha256=opened.weights_sha256,
        split="search",
    )
    for path in evaluations:
        say(f"{path}: {cache.import_csv(path)} evaluated subnets taken over")
    initial = [arch for path in start_from for arch in read_front(path, opened.space, metric)]
    evaluator = open_evaluator(opened, data_root)
    supernet = evaluator.supernet
    costs = {"macs": ofa.cost.macs(supernet), "params": ofa.cost.params(supernet)}
    limited = costs | {
        "model_bytes": ofa.cost.model_bytes(supernet),
        "peak_activation_bytes": ofa.cost.peak_activation_bytes(supernet),
    }
    if any(text.startswith(f"{ENERGY}=") for text in limits):
        if len(latency_tables) > 1:
            raise UsageError(f"{ENERGY} is of one device; search for one --device at a time")
        costs[ENERGY] = limited[ENERGY] = energy_mj(latency_tables[0])
    constraints = []
    for text in limits:
        name, _, value = text.partition("=")
        if name not in limited:
            raise UsageError(unknown_name_message("cost", name, limited))
        constraints.append(Constraint.of(opened.space, name, limited[name], value))
    with progress_bar() as progress:
        return run_search(
            opened.space,
            scores=Scores(
                opened.task.metric,
                evaluator.race,
                len(evaluator.data.splits.search),
                cache,
                chunk_size=evaluator.num_together,
            ),
            targets=[
                Target(
                    target.name,
                    table.predict_ms,
                    partial(measure_archs, supernet, target, seed),
                    {"tables_sha256": files_sha256(run, tables, [target.name])["tables_sha256"]},
                )
                for target, table in zip(devices, latency_tables, strict=True)
            ],
            costs=costs,
            budgets_ms=budgets_ms,
            out_dir=folder,
            constraints=constraints,
            initial=initial,
            seed=seed,
            identity={**facts, "weights_sha256": opened.weights_sha256},
            progress=progress,
            **settings,
        )


def _search_mixed(
    *,
    run: Path,
    device: Sequence[str],
    int8_device: str | None,
    per: str,
    budgets_ms: Sequence[float],
    tables: Path,
    out_dir: Path,
    any_machine: bool,
    data_root: str | None,
    as_json: bool,
    **settings: Any,
) -> None:
    import ofa.cost
    from ofa.hardware import load_device
    from ofa.precision.mixed_search import search_mixed
    from ofa.training import Run

    if per not in ("network", "block"):
        raise UsageError(f"--precision is network or block, not {per!r}")
    if len(device) != 1 or int8_device is None:
        raise UsageError(
            "--precision takes one --device in fp32 and the same in INT8: --device cpu-1t --int8-device cpu-int8-1t"
        )
    fp32, int8 = load_device(device[0]), load_device(int8_device)
    for target, precision in ((fp32, "fp32"), (int8, "int8")):
        found = target.setting
        if (found.runtime, found.precision) != ("onnxruntime", precision):
            raise UsageError(
                f"ONNX Runtime mixes precisions; {target.name} computes in {found.precision} on {found.runtime}, "
                f"not in {precision} on onnxruntime"
            )
    opened = Run.open(run)
    both = [open_table(opened, target, tables, any_machine=any_machine) for target in (fp32, int8)]
    evaluator = open_evaluator(opened, data_root)
    with progress_bar() as progress:
        result = search_mixed(
            evaluator,
            fp32,
            fp32=both[0],
            int8=both[1],
            per="network" if per == "network" else "block",
            costs={"macs": ofa.cost.macs(evaluator.supernet), "params": ofa.cost.params(evaluator.supernet)},
            budgets_ms=budgets_ms,
            out_dir=out_dir,
            weights_sha256=opened.weights_sha256,
            progress=progress,
            **settings,
        )
    print_picks(fp32.name, result.selected)
    say(f"the picks are ONNX files in {out_dir / fp32.name}, INT8 where that pays, for ONNX Runtime")
    if as_json:
        print_json({fp32.name: result.selected})


def read_front(path: Path, space: SearchSpace, metric: Metric) -> list[Arch]:
    """The non-dominated architectures of a ``front.csv``."""
    import pandas as pd

    from ofa.search import non_dominated

    try:
        table = pd.read_csv(path).dropna(subset=[metric.of("measured")])
        values = table.assign(error=-metric.sign * table[metric.of("measured")])[["error", "predicted_latency_ms"]]
        return [space.arch(json.loads(text)) for text in table.loc[non_dominated(values), "arch"]]
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise UsageError(f"{path} is not the front.csv of a search ({error})") from None


@app.command()
def export(
    *,
    run: RunOption,
    device: DeviceOption,
    budget_ms: Annotated[float, typer.Option(help="Latency budget that the exported file must keep.")],
    out: Annotated[Path, typer.Option(help="Bundle folder to make.", metavar="BUNDLE")],
    dynamic_batch: DynamicBatchOption = False,
    from_pixels: FromPixelsOption = False,
    max_loss: MaxLossOption = 0.5,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
    search_dir: Annotated[
        Path | None, typer.Option("--search", help="Instead of RUN/search/NAME: where the search left its files.")
    ] = None,
    data_root: DataRootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Extract, calibrate, export and check the best subnet within a budget; leaves BUNDLE/.

    The device says in what form: ONNX in fp32, fp16 or INT8, OpenVINO IR, an ExecuTorch program, a LiteRT file, a
    TensorRT engine. Where a file misses the budget, the next subnet down the front is exported, until one holds.
    """
    import numpy as np

    import ofa.deploy
    import ofa.hardware
    from ofa.training import Run

    opened = Run.open(run)
    target = ofa.hardware.load_device(device)
    candidates = ofa.deploy.read_candidates(search_dir or run / "search" / target.name, budget_ms)
    evaluator = open_evaluator(opened, data_root)
    with progress_bar() as progress:
        result = ofa.deploy.export_bundle(
            evaluator,
            candidates,
            out=out,
            device=target,
            budget_ms=budget_ms,
            measure=ofa.deploy.measure_on(target, rng=np.random.default_rng(0)),
            run_info=opened.info,
            options=ofa.deploy.ExportOptions(
                dynamic_batch=dynamic_batch, from_pixels=from_pixels, max_loss_points=max_loss
            ),
            overwrite=overwrite,
            progress=progress,
        )
    for miss in result.too_slow:
        say(f"the exported file of a better candidate took {miss['latency_ms']:.3f} ms; took the next one")
    say_exported(out, result.info)
    if as_json:
        print_json(result.to_json())


@app.command(cls=ManyValues)
def deploy(
    *,
    run: RunOption,
    device: Annotated[list[str], typer.Option("--device", help="Devices, one or several.", metavar="NAME …")],
    budget_ms: Annotated[list[float], typer.Option(help="Latency budgets, of every device.", metavar="MS …")],
    out: Annotated[Path | None, typer.Option(help="Instead of RUN/deploy.", metavar="DIR")] = None,
    dynamic_batch: DynamicBatchOption = False,
    from_pixels: FromPixelsOption = False,
    max_loss: MaxLossOption = 0.5,
    processes: Annotated[
        int | None, typer.Option(help="Exports at a time; one per core if not given. Measuring is done alone.", min=1)
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Make all bundles anew, whatever is there.")] = False,
    data_root: DataRootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bundles for several devices and budgets at once; leaves DIR/NAME-BUDGETms/, DIR/index.json and index.csv.

    Interrupted, it goes on: bundles that are there and still hold are kept. Exit status 1 if a budget cannot be kept.
    """
    import numpy as np

    import ofa.deploy
    import ofa.hardware
    from ofa.training import Run

    opened = Run.open(run)
    targets = [ofa.hardware.load_device(name) for name in dict.fromkeys(device)]
    orders = [
        (target, budget, ofa.deploy.read_candidates(run / "search" / target.name, budget))
        for target in targets
        for budget in sorted(set(budget_ms))
    ]
    with progress_bar() as progress:
        entries = ofa.deploy.deploy(
            opened,
            orders,
            out=out or run / "deploy",
            measure_on=lambda target: ofa.deploy.measure_on(target, rng=np.random.default_rng(0)),
            options=ofa.deploy.ExportOptions(
                dynamic_batch=dynamic_batch, from_pixels=from_pixels, max_loss_points=max_loss
            ),
            data_root=data_root,
            num_processes=processes or os.cpu_count() or 1,
            fresh=fresh,
            progress=progress,
        )
    print_table(
        ["bundle", "file", "size", "p50", "test split", ""],
        [
            [
                entry.path.name,
                info.model.files[0],
                f"{sum(info.files[name]['bytes'] for name in info.model.files) / 1e6:.2f} MB",
                f"{info.latency_ms.p50:.3f} ms",
                info.task.metric.interval_text(info.score),
                "kept" if entry.kept else f"{len(entry.too_slow)} missed before" if entry.too_slow else "",
            ]
            for entry in entries
            if (info := entry.info) is not None
        ],
    )
    if as_json:
        print_json([entry.to_json() for entry in entries])
    for entry in entries:
        if entry.error:
            say(f"[red]{entry.path.name}:[/] {escape(entry.error)}")
    say(f"{sum(entry.info is not None for entry in entries)} of {len(entries)} bundles in {out or run / 'deploy'}")
    if any(entry.error for entry in entries):
        raise typer.Exit(1)


@app.command(cls=ManyValues)
def elastic(
    *,
    run: RunOption,
    device: DeviceOption,
    budget_ms: Annotated[list[float], typer.Option(help="Budgets, whose subnets it holds.", metavar="MS …")],
    out: Annotated[Path, typer.Option(help="Folder to make.", metavar="DIR")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an artefact that is there.")] = False,
    data_root: DataRootOption = None,
    as_json: JsonOption = False,
) -> None:
    """One artefact with the subnets of several budgets, weights stored once, between which a program switches.

    `ofa.deploy.ElasticRuntime(DIR)` runs it; `set_budget_ms` switches between requests.
    """
    import dataclasses

    import numpy as np

    import ofa.deploy
    import ofa.hardware
    from ofa.deploy.walk_down import Walk
    from ofa.training import Run

    opened = Run.open(run)
    target = ofa.hardware.load_device(device)
    archs = {}
    for budget in sorted(set(budget_ms)):
        candidates = ofa.deploy.read_candidates(run / "search" / target.name, budget)
        archs[f"{budget:g}ms"] = Walk(iter(candidates), budget, target.name).advance()["arch"]
    distinct = {str(sorted(arch.items())): name for name, arch in reversed(archs.items())}
    evaluator = open_evaluator(opened, data_root)
    with progress_bar() as progress:
        info = ofa.deploy.write_elastic(
            evaluator,
            {name: archs[name] for name in reversed(distinct.values())},
            out,
            rng=np.random.default_rng(0),
            model=opened.recipe.model,
            provenance={"weights_sha256": opened.weights_sha256},
            options=ofa.deploy.ElasticOptions(threads=target.setting.threads),
            overwrite=overwrite,
            progress=progress,
        )
    runtime = ofa.deploy.ElasticRuntime(out, threads=target.setting.threads)
    print_table(
        ["subnet", "resolution", "measured p50", "test split"],
        [
            [each.name, f"{each.arch['resolution']} px", f"{each.latency_ms:.3f} ms", info.metric.text(each.score)]
            for each in runtime.subnets
        ],
    )
    num_bytes = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    say(f"{out}: {len(runtime.subnets)} subnets in {num_bytes / 1e6:.2f} MB")
    if as_json:
        print_json(dataclasses.asdict(info))


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder that `ofa export` left.", metavar="BUNDLE")],
    device: Annotated[
        str | None, typer.Option("--device", help="Measure the latency on this device too.", metavar="NAME")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Also the accuracy on pictures of yours: FOLDER/<class>/*.", metavar="FOLDER")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a bundle again: checksums, parity, accuracy, latency. Exit status 1 if something does not hold."""
    import numpy as np

    import ofa.deploy
    import ofa.hardware

    target = None if device is None else ofa.hardware.load_device(device)
    with progress_bar() as progress:
        result = ofa.deploy.verify_bundle(
            bundle,
            device=target,
            measure=None if target is None else ofa.deploy.measure_on(target, rng=np.random.default_rng(0)),
            images=images,
            progress=progress,
        )
    if as_json:
        checks = [{"name": c.name, "ok": c.ok, "expected": c.expected, "found": c.found} for c in result.checks]
        print_json({"bundle": str(bundle), "ok": result.ok, "checks": checks})
    else:
        print_table(["check", "holds", "expected", "found"], check_rows(result.checks))
    if not result.ok:
        failed = ", ".join(check.name for check in result.failed)
        say(f"[red]{escape(str(bundle))} does not hold what it promises: {escape(failed)}[/]")
        raise typer.Exit(1)
    say(f"{bundle} holds what it promises ({len(result.checks)} checks)")


@app.command()
def report(
    *,
    run: RunOption,
    tables: TablesOption = TABLES,
    out: Annotated[Path | None, typer.Option(help="Instead of RUN/report.html.", metavar="FILE")] = None,
) -> None:
    """Write the page to look at: RUN/report.html, self-contained."""
    import ofa.report

    page = ofa.report.write_report(run, tables_dir=tables, out=out)
    say(f"wrote {page}")


@app.command()
def plot(
    *,
    run: RunOption,
    out: Annotated[Path | None, typer.Option(help="Instead of RUN/plots.", metavar="DIR")] = None,
    tables: TablesOption = TABLES,
    file_format: Annotated[str, typer.Option("--format", help="png, pdf or svg.")] = "png",
) -> None:
    """Figures for papers, a column wide: fronts, search, prediction error, training, one device against another."""
    import ofa.report

    paths = ofa.report.write_plots(run, out or run / "plots", tables, file_format)
    for path in paths:
        say(f"wrote {path}")


@app.command()
def measure(
    models: Annotated[list[Path], typer.Argument(help="ONNX files (or .pte programs).", metavar="MODEL…")],
    *,
    device: DeviceOption,
    rounds: Annotated[int, typer.Option(help="Blocks of each model, in random order.", min=2)] = 10,
    block_ms: Annotated[float, typer.Option(help="Length of a block.", min=1)] = 50.0,
    out: Annotated[
        Path | None, typer.Option(help="JSON file for results, fingerprint and causes of rejection.", metavar="FILE")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides the inputs and the order of measuring.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Time any model file on a device, several against each other, with the care that tables are measured with."""
    import numpy as np

    import ofa.hardware
    from ofa.files import write_json_atomic

    target = ofa.hardware.load_device(device)
    with progress_bar() as progress:
        table = ofa.hardware.measure(
            {str(path): path for path in models},
            target,
            rng=np.random.default_rng(seed),
            rounds=rounds,
            block_seconds=block_ms / 1000,
            progress=progress,
        )
    result = {
        "format": 1,
        "device": target.to_json(),
        "fingerprint": target.host.fingerprint(target.setting),
        "timing": table.attrs["timing"],
        "models": table.reset_index(names="model").to_dict("records"),
    }
    if out is not None:
        write_json_atomic(out, result)
    if as_json:
        print_json(result)
    print_table(
        ["model", "p10", "p50", "p90", "runs", "repeats to"],
        [
            [
                name,
                *(f"{row[f'latency_ms_p{p}']:.3f} ms" for p in (10, 50, 90)),
                int(row["num_runs"]),
                f"{row['repeatability_percent']:.1f} %",
            ]
            for name, row in table.iterrows()
        ],
        title=f"{target.name}: {target.description}",
    )
    timing = table.attrs["timing"]
    causes = ", ".join(f"{cause} × {count}" for cause, count in timing["causes"].items()) or "none disturbed"
    say(f"{timing['rejected_percent']:g} % of {timing['num_blocks']} blocks measured again ({causes})")


@app.command()
def fit(
    *,
    space: Annotated[str, typer.Option("--space", help="Preset, timm model or run folder.", metavar="SPACE")],
    csv: Annotated[Path, typer.Option("--csv", help="Columns arch (JSON) and latency_ms.", metavar="FILE")],
    device: Annotated[str, typer.Option("--device", help="What to call the device.", metavar="NAME")],
    out: Annotated[Path, typer.Option(help="Folder of latency tables to add to.", metavar="DIR")] = TABLES,
    propose: Annotated[int, typer.Option(help="Also name so many subnets to measure next.", min=0)] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a table that is there.")] = False,
    seed: Annotated[int, typer.Option(help="Decides which subnets may be proposed.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Fit a latency table from latencies of whole networks, where nothing else can be measured.

    A few dozen networks are enough to begin with. --propose N on an empty file (only the header) names the first N.
    """
    import numpy as np

    from ofa.cost.fit import fit_latency_csv, read_latencies

    supernet, space_name = open_supernet(space)
    rng = np.random.default_rng(seed)
    if propose and not len(read_latencies(csv, supernet.space)[0]):
        print_json([dict(arch) for arch in supernet.space.to_archs(supernet.space.sample_population(propose, rng))])
        return
    csv_path = out / device / f"{space_name}.csv"
    if csv_path.exists() and not overwrite:
        raise UsageError(f"{csv_path} is there already; replace it with --overwrite, or give another --device or --out")
    fitted = fit_latency_csv(supernet, csv, device=device)
    fitted.table.save(csv_path)
    proposals = [dict(arch) for arch in fitted.propose(propose, rng=rng)] if propose else []
    held_out = fitted.table.held_out
    if as_json:
        print_json({"csv": str(csv_path), "held_out": held_out, "proposals": proposals})
    elif proposals:
        print_json(proposals)
    say(
        f"{csv_path}: {held_out['num']} networks, each predicted without it: {held_out['mape_percent']:.1f} % mean "
        f"error, rank correlation {held_out['spearman']:.3f} (MACs alone {held_out['macs_only_mape_percent']:.1f} %, "
        f"{held_out['macs_only_spearman']:.3f})"
    )


@app.command()
def devices(tables: TablesOption = TABLES, as_json: JsonOption = False) -> None:
    """List the devices: what each needs, whether that is installed here, and which spaces are measured on it."""
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

    rows = []
    for path in ofa.hardware.list_devices().values():
        device = ofa.hardware.load_device(path)
        measured = sorted(csv.stem for csv in (tables / device.name).glob("*.csv") if csv.with_suffix(".json").exists())
        rows.append({**device.to_json(), "installed": installed(device), "tables": measured})
    if as_json:
        print_json(rows)
    print_table(
        ["device", "what it is for", "batch", "threads", "installed", "tables"],
        escaped(
            [str(row[name]) for name in ("name", "description", "batch", "threads", "installed")]
            + [", ".join(row["tables"])]
            for row in rows
        ),
    )


# -- opening things --------------------------------------------------------------------------------------------------


def open_supernet(name: str) -> tuple[Supernet, str]:
    """A run's trained supernet, or an untrained one of a preset or timm model, and the name of its space."""
    from ofa.supernet import create_supernet
    from ofa.training import Run

    if os.sep in name or Path(name).is_dir():
        run = Run.open(name)
        return run.supernet(), run.space_name
    return create_supernet(name).eval(), name


def open_without_weights(name: str, overrides: Sequence[str]) -> Supernet:
    """The supernet of a run folder, preset or timm model, to be looked at only."""
    from ofa.config import apply_overrides
    from ofa.supernet.elasticize import check_choices
    from ofa.supernet.inspect import create_without_weights
    from ofa.training import Run

    choices = apply_overrides({}, overrides)
    check_choices(choices)
    if not (os.sep in name or Path(name).is_dir()):
        return create_without_weights(name, **choices)
    if choices:
        raise UsageError(f"the space of run {name} is settled; choices such as {overrides[0]!r} are for other models")
    run = Run.open(name)
    config = run.recipe.model
    supernet = create_without_weights(config.name, num_classes=int(run.info["num_classes"]), **config.choices())
    if supernet.space != run.space:
        raise UsageError(
            f"{name} has space {run.space.fingerprint}, but model {config.name!r} gives {supernet.space.fingerprint}; "
            f"use the versions that {Path(name) / 'supernet.json'} names, or train again"
        )
    return supernet


def open_table(run: Run, device: Device, tables: Path, *, any_machine: bool = False) -> LatencyTable:
    """The device's table of the run's space; it must be of this very space, and of the machine that there is now."""
    from ofa.cost import LatencyTable
    from ofa.hardware.profiler import check_machine

    path = tables / device.name / f"{run.space_name}.csv"
    remedy = f"measure it with `ofa profile --run {run.path} --device {device.name} --out {tables}`"
    if not path.exists():
        raise UsageError(f"no latency table at {path}; {remedy}")
    table = LatencyTable.load(path)
    if table.space != run.space:
        raise UsageError(
            f"{path} is of space {table.space.fingerprint}, but {run.path} has space {run.space.fingerprint}; {remedy}"
        )
    if not any_machine:
        check_machine(table, device.host.fingerprint(device.setting), device, path)
    return table


def open_evaluator(run: Run, data_root: str | None) -> SubnetEvaluator:
    from ofa.training import SubnetEvaluator

    with progress_bar() as progress:
        return SubnetEvaluator(run.supernet(), run.data(root=data_root, progress=progress), run.task)


def demo_budgets(run: Path, device: str, tables: Path, *, num: int = 3) -> list[float]:
    """Budgets, in two digits, from near the fastest subnet to half the slowest, above which digits gain nothing."""
    import numpy as np

    from ofa.hardware import load_device
    from ofa.training import Run

    table = open_table(Run.open(run), load_device(device), tables)
    low, high = table.predict_ms([table.space.smallest(), table.space.largest()])
    return sorted({float(f"{budget:.2g}") for budget in np.geomspace(1.3 * low, 0.5 * high, num)})


def measure_archs(supernet: Supernet, device: Device, seed: int, archs: list[Arch]) -> pd.DataFrame:
    """Latency of whole subnets on a device, measured side by side; weights do not matter for it."""
    import numpy as np

    from ofa.hardware import measure
    from ofa.hardware.timed_models import export_model

    models = {
        str(i): export_model(supernet.extract(arch), supernet.input_shape(arch), device.setting)
        for i, arch in enumerate(archs)
    }
    return measure(models, device, rng=np.random.default_rng(seed))


# -- printing --------------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    """Print for people, on standard error, so that ``--json`` leaves standard output to the result."""
    from rich.console import Console

    Console(stderr=True, highlight=False, soft_wrap=True).print(text)


def print_json(data: Any) -> None:
    print(json.dumps(data, indent=2))


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str | None = None) -> None:
    """Print a table; columns of numbers are aligned to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for index, name in enumerate(header):
        numbers = all(not isinstance(cell := row[index], str) or re.fullmatch(r"[\d.]+( \S+)?", cell) for row in rows)
        table.add_column(name, justify="right" if rows and numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console = Console(stderr=True)
    console.print(table) if console.is_terminal else Console(stderr=True, width=160).print(table)


def check_rows(checks: Sequence[Check]) -> list[list[str]]:
    """Checks for people: checksums cut short, sample pictures that are as they should be counted in one row."""

    def short(text: str) -> str:
        return re.sub(r"(sha256 [0-9a-f]{12})[0-9a-f]{52}", r"\1…", text)

    folded = [check for check in checks if check.ok and check.name.startswith("samples/")]
    rows = [
        [check.name, "yes" if check.ok else "NO", short(check.expected), short(check.found)]
        for check in checks
        if check not in folded
    ]
    return rows + ([["samples/", "yes", f"{len(folded)} files as listed", "the same"]] if folded else [])


def print_inspection(name: str, inspection: Inspection) -> None:
    from ofa.supernet.inspect import ranges

    largest, smallest = inspection.largest, inspection.smallest
    title = f"{name}: {inspection.model_class}, {inspection.resolution} pixels"
    rows: dict[bool, list[list[str]]] = {False: [], True: []}  # above and below the stages
    for place, entries in groupby(inspection.dims, lambda dims: dims.where.partition(".")[0]):
        inside = [[e.kind, values_text(e.values, e.where.partition(".")[2])] for e in entries if len(e.values) > 1]
        rows[place == "head"] += labelled([place or "model", "", ""], inside)
    for stages in alike_stages(inspection.stages):
        first, last = stages[0], stages[-1]
        inside = [[dims.kind, values_text(dims.values, dims.where)] for dims in first.dims]
        if len(first.depths) > 1:
            inside.insert(0, ["depth", values_text(first.depths)])
        where = ranges("stage", [int(stage.name.removeprefix("stage")) for stage in stages])
        path = first.path if first is last else f"{first.path} … {last.path}"
        rows[False] += labelled([where, path, blocks_text(first.blocks)], inside or [["–", ""]])
    table = escaped(rows[False] + rows[True])
    print_table(["where", "module", "blocks", "elastic", "values"], table, title=escape(title))
    if inspection.not_elastic:
        table = [[entry.where or "model", entry.kind, entry.reason] for entry in inspection.not_elastic]
        print_table(["where", "not elastic", "why"], escaped(table))
    if inspection.unknown_operations:
        operations = ", ".join(inspection.unknown_operations)
        say(f"channels could not be followed through {escape(operations)}; what these touch stays whole")
    say(
        f"{count_text(inspection.num_subnets)} subnets; MACs {span_text(smallest.macs, largest.macs)}; "
        f"parameters {span_text(smallest.params, largest.params)}"
    )


def alike_stages(stages: Sequence[StageReport], *, many: int = 12) -> list[list[StageReport]]:
    """Stages of which the same is to be said: neighbours, and all of them where there are many."""
    alike: dict[Any, list[StageReport]] = {}
    run, before = 0, None
    for stage in stages:
        content = (stage.blocks, stage.depths, tuple((dims.kind, dims.where, dims.values) for dims in stage.dims))
        run += content != before
        before = content
        alike.setdefault((content, run if len(stages) <= many else 0), []).append(stage)
    return list(alike.values())


def labelled(labels: Sequence[str], rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Rows of a table that begin with the same labels, which stand in the first only."""
    return [[*(labels if number == 0 else [""] * len(labels)), *row] for number, row in enumerate(rows)]


def escaped(rows: Iterable[Sequence[str]]) -> list[list[str]]:
    return [[escape(cell) for cell in row] for row in rows]


def blocks_text(blocks: Sequence[tuple[str, int]], *, many: int = 4) -> str:
    """``Conv2d × 1, Block × 4``; where types change more often, how many there are of each."""
    if len(blocks) <= many:
        return ", ".join(f"{name} × {num}" for name, num in blocks)
    counts: Counter[str] = Counter()
    for name, num in blocks:
        counts[name] += num
    return ", ".join(f"{name} × {num}" for name, num in counts.items()) + ", in turns"


def values_text(values: Sequence[Any], where: str = "") -> str:
    """``block0: 3, 5, 7``; many values at equal distances in short: ``128, 132, … 224 (25 values)``."""
    steps = {b - a for a, b in pairwise(values) if not isinstance(b, str)}
    if len(values) > 8 and len(steps) == 1:
        text = f"{values[0]}, {values[1]}, … {values[-1]} ({len(values)} values)"
    else:
        text = ", ".join(map(str, values))
    return f"{where}: {text}" if where else text


def count_text(count: int) -> str:
    """``12,345``, or two digits of what is longer."""
    return f"{count:,}" if count < 10**6 else f"{Decimal(count):.1e}"


def span_text(low: int, high: int) -> str:
    """``0.05 G to 0.57 G``: the unit is that of the larger."""
    size, unit = next(((size, unit) for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if high >= size), (1, ""))
    return " to ".join(f"{value / size:.3g} {unit}".strip() for value in (low, high))


def print_picks(device: str, selected: dict[str, Any]) -> None:
    from ofa.metrics import metric_of

    metric, tau = metric_of(selected), selected["predictor"]["kendall_tau"]
    volume = selected["hypervolume"]
    print_table(
        ["budget", "measured p50", "predicted", "search split", "MACs", "params"],
        [
            [
                f"{pick['budget_ms']:g} ms",
                f"{pick['measured_latency_ms']:.3f} ms",
                f"{pick['predicted_latency_ms']:.3f} ms",
                "{} ({:.1f} to {:.1f})".format(metric.text(pick[metric.of("measured")]), *pick[metric.interval_key]),
                f"{pick['macs'] / 1e6:.2f} M",
                f"{pick['params'] / 1e6:.3f} M",
            ]
            for pick in selected["picks"]
        ],
        title=f"picks on {device}",
    )
    say(
        f"{selected['num_evaluations']} subnets evaluated; predictor rank correlation (held out) "
        f"{'unknown' if tau is None else f'{tau:.2f}'}; hypervolume {volume['front']:.4g} against "
        f"{volume['random']:.4g} of random search with as many evaluations"
    )


def say_exported(path: Path, info: BundleInfo) -> None:
    metric, quantization = info.task.metric, info.model.quantization
    say(
        f"{escape(str(path))}: p50 {info.latency_ms.p50:.3f} ms within {info.budget_ms:g} ms on {info.device}, "
        f"{metric.title} on the test split {metric.interval_text(info.score)}"
    )
    if quantization is not None:
        say(
            f"  INT8 costs {quantization.loss_points:.2f} points on the search split, "
            f"{len(quantization.float_nodes)} of {quantization.num_nodes} nodes in floating point"
        )


def print_bundles(bundles: Sequence[Path], device: str, *, front_csv: Path) -> bool:
    """Verify bundles, measuring them on the device, and print what each promises; whether all hold."""
    import numpy as np
    import pandas as pd

    import ofa.deploy
    import ofa.hardware
    from ofa.space import Arch

    target = ofa.hardware.load_device(device)
    measure = ofa.deploy.measure_on(target, rng=np.random.default_rng(1))
    searched = {Arch(json.loads(row["arch"])): row for row in pd.read_csv(front_csv).to_dict("records")}
    rows, failed = [], []
    for bundle in bundles:
        result = ofa.deploy.verify_bundle(bundle, device=target, measure=measure)
        info, entry = result.info, searched[Arch(result.info.arch)]
        failed += [f"{bundle.name}: {check.name}: {check.found}" for check in result.failed]
        rows.append(
            [
                f"{info.budget_ms:g} ms",
                f"{entry['predicted_latency_ms']:.3f} ms",
                f"{info.latency_ms.p50:.3f} ms",
                f"{info.latency_ms.p90:.3f} ms",
                f"{entry['macs'] / 1e6:.2f} M",
                f"{entry['params'] / 1e6:.3f} M",
                info.task.metric.text(info.score.value),
                "yes" if result.ok else "NO",
            ]
        )
    print_table(["budget", "predicted", "p50", "p90", "MACs", "params", "test split", "holds"], rows)
    for line in failed:
        say(f"[red]does not hold:[/] {escape(line)}")
    return not failed


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress callback that draws a bar where there is a terminal, and prints a line now and then where not."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _log_progress()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Bars(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as bars:
        task = bars.add_task("", total=None)
        yield lambda done, total, what: bars.update(task, completed=done, total=total, description=what)


def _log_progress(every_seconds: float = 15.0) -> Progress:
    last = time.monotonic()

    def log(done: int, total: int, what: str) -> None:
        nonlocal last
        if time.monotonic() - last >= every_seconds:
            last = time.monotonic()
            say(f"  {what}: {done}/{total}")

    return log


# -- entry point -----------------------------------------------------------------------------------------------------


def main() -> None:
    """Run the command; the user's mistakes end with a message and exit status 2, our own with a traceback and 70."""
    try:
        app()
    except KeyboardInterrupt:
        say("interrupted; what was finished is kept")
        sys.exit(130)
    except OfaError as error:
        say(f"{'[red]error:[/] ' if error.exit_status == 2 else ''}{escape(str(error))}")
        sys.exit(error.exit_status)
    except OSError as error:
        say(f"[red]error:[/] {escape(refusal_message(error))}")
        sys.exit(2)
    # The last door: what was not meant for the user is ours, and said to be so.
    except Exception as error:
        traceback.print_exception(error)
        say(f"[red]this is a fault of ofa {ofa.__version__}, not yours:[/] please report it with the lines above")
        sys.exit(70)


def refusal_message(error: OSError) -> str:
    """What the system refused, of which file, and what to do about it."""
    remedies = {
        errno.ENOENT: "check the path",
        errno.EACCES: "give a place that you may read and write, or change its permissions",
        errno.EPERM: "give a place that you may read and write, or change its permissions",
        errno.EROFS: "give a place that can be written",
        errno.ENOSPC: "make space, or give another place",
        errno.EDQUOT: "make space, or give another place",
    }
    paths = " -> ".join(str(path) for path in (error.filename, error.filename2) if path is not None)
    where = f"{paths}: " if paths else ""
    remedy = f"; {remedies[error.errno]}" if error.errno in remedies else ""
    return f"{where}{error.strerror or error}{remedy}"
