"""The commands: what each prints of the call of :mod:`ofa.workflow` that it makes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ofa import workflow
from ofa.cli.printing import correlation, print_json, print_picks, print_promises, print_table, say
from ofa.cli.skin import command

NUM_COSTS = 12  # kernels that are listed

if TYPE_CHECKING:
    from ofa.data.check import DataCheck
    from ofa.data.fetch import Fetched
    from ofa.data.shards import Sharded
    from ofa.deploy import Deployed, ElasticRuntime, ExportResult, VerifyResult
    from ofa.estimate import Estimate
    from ofa.hub import Transfer
    from ofa.supernet.inspect import Inspection
    from ofa.training import Run

app = typer.Typer(
    name="ofa",
    help="Train once, deploy everywhere: any torch model, any device, any latency budget.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
command_of = partial(command, app)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo leaves.")] = Path("runs/demo"),
    device: Annotated[str, typer.Option(help="Device: a name in devices/ or a YAML file.", metavar="NAME")] = "cpu-1t",
) -> None:
    """The whole way on scikit-learn's digits: train, profile, search, export, verify, report. Needs no network."""
    tables = out / "latency_tables"
    say(f"    a supernet on digits, into {out}", head="1/6  train", style="bold")
    train(recipe="demo", overrides=[], out=out, resume=True)
    say(f"  its parts on device {device}", head="2/6  profile", style="bold")
    profile(run=str(out), devices=[device], out=tables, force=True)
    budgets_ms = workflow.demo_budgets(out, device, tables=tables)
    say(f"   within {', '.join(f'{budget:g} ms' for budget in budgets_ms)}", head="3/6  search", style="bold")
    search(run=out, devices=[device], budgets_ms=budgets_ms, tables=tables)
    say("   a bundle per budget", head="4/6  export", style="bold")
    bundles = [out / "bundles" / f"{device}-{budget:g}ms" for budget in budgets_ms]
    for bundle, budget in zip(bundles, budgets_ms, strict=True):
        export(run=out, device=device, budget_ms=budget, out=bundle, overwrite=True)
    say("   each bundle again", head="5/6  verify", style="bold")
    results = [workflow.verify(bundle, device=device) for bundle in bundles]
    print_promises(results, out / "search" / device)
    say(head="6/6  report", style="bold")
    report(run=out, tables=tables)
    say(f"Open {out / 'report.html'} in a browser. Training curves: tensorboard --logdir {out / 'tensorboard'}")
    if not all(result.ok for result in results):
        raise typer.Exit(1)


@command_of(workflow.inspect)
def inspect(result: Inspection, model: str, **_: Any) -> None:
    from ofa.cli.inspection import print_inspection

    print_inspection(model, result)


data = typer.Typer(name="data", help="Look at data before training on it.", no_args_is_help=True)
app.add_typer(data)


@command(data, workflow.data_check)
def data_check(result: DataCheck, **_: Any) -> bool:
    print_table(["class", *(counts := result.counts())], [[name, *row] for name, row in counts.T.items()])
    for well, text in result.findings():
        say(text) if well else say(head=text)
    return result.ok


@command(data, workflow.data_shard)
def data_shard(result: Sharded, **_: Any) -> None:
    print_table(
        ["split", "shards", "images", "MB"],
        [
            [split, len(own), sum(each["samples"] for each in own), f"{sum(each['bytes'] for each in own) / 1e6:,.0f}"]
            for split in ("train", "test")
            if (own := [each for each in result.shards if each["split"] == split])
        ],
    )
    say(f"wrote {result.path}: data.name=shards data.root={result.path}")


@command(data, workflow.data_fetch)
def data_fetch(result: Fetched, **_: Any) -> None:
    say(f"{len(result.files)} files, {result.num_bytes / 1e6:,.0f} MB, in {result.path}: ofa data check {result.path}")


def say_trained(result: Run, **_: Any) -> None:
    from ofa.cli.inspection import count_text

    metric, (largest, smallest) = result.task.metric, result.bounds()
    say(
        f"{count_text(result.space.num_archs)} subnets in one set of weights; {metric.title} on the search split: "
        f"largest {metric.text(largest)}, smallest {metric.text(smallest)}"
    )


train, finetune = command_of(workflow.train)(say_trained), command_of(workflow.finetune)(say_trained)


@command_of(workflow.import_)
def import_(result: Run | list[dict[str, str]], **_: Any) -> None:
    if isinstance(result, list):
        print_table(["project", "network", "here", "licence", "published"], [list(row.values())[:-1] for row in result])
        for project, where in {row["project"]: row["where"] for row in result}.items():
            say(f"  {where}", head=project)
        say("  any of its models, by name: ofa import timm NAME", head="timm")
        return
    say_trained(result)
    if stated := result.info["origin"].get("published"):
        say(f"published of this network: {stated}")


judge = command_of(workflow.judge)(say_trained)


@command_of(workflow.recipes)
def recipes(result: list[dict[str, str]], **_: Any) -> None:
    print_table(["recipe", "what it does"], [list(row.values()) for row in result])


@command_of(workflow.profile)
def profile(result: workflow.Profiled | workflow.ProfiledFleet | workflow.ProfiledOperators, **_: Any) -> bool:
    if isinstance(result, workflow.ProfiledFleet):
        return _say_fleet(result)
    if isinstance(result, workflow.ProfiledOperators):
        return _say_operators(result)
    table, held_out = result.table, result.table.held_out
    if not result.is_new:
        say(f"{result.csv_path} has every part already; --fresh measures it anew")
    say(
        f"{len(table.entries)} parts; {held_out['num']} unseen whole subnets predicted with "
        f"{held_out['mape_percent']:.1f} % mean error{_shares_within(held_out)}, rank correlation "
        f"{correlation(held_out['spearman'])} (MACs alone {correlation(held_out['macs_only_spearman'])}); "
        f"90 of 100 lie within {table.interval_percent:.1f} % of it; {result.states_text}"
    )
    if table.refused:
        say(head="that is too wide to search with; measure in a quieter hour, or keep the table with --force")
    return not table.refused


def _say_operators(result: workflow.ProfiledOperators) -> bool:
    held_out = result.table.held_out
    if not result.is_new:
        say(f"{result.csv_path} is there already; --fresh measures it anew")
    rows = [
        [kind, each["num"], f"{each['median_error_percent']:.1f} %", f"{each['within_10_percent']:.0f} %"]
        for kind, each in held_out["kinds"].items()
    ]
    print_table(["mostly of", "samples", "median error", "within 10 %"], rows, title="each predicted without it")
    rows = [
        [name, f"{each['latency_ms']:.3f} ms", f"{each['error_percent']:+.1f} %"]
        for name, each in held_out["networks"].items()
    ]
    print_table(["whole network", "measured", "error"], rows, title="each predicted without it")
    details = result.table.details
    say(f"{result.csv_path}: {details['num_samples']} samples and {len(rows)} networks in {details['minutes']:.0f} min")
    return True


@command_of(workflow.estimate)
def estimate(result: Estimate, model: Path, device: str, **_: Any) -> bool:
    rows = [
        [
            cost.kernel.kind,
            " ".join(str(value) for value in cost.kernel.inputs if value.size > 1),
            cost.count,
            f"{cost.kernel.macs * cost.count / 1e6:.1f} M",
            f"{cost.latency_ms:.3f} ms",
            f"{100 * cost.latency_ms / result.latency_ms:.1f} %",
            "" if cost.is_known else "never measured",
        ]
        for cost in result.costs[:NUM_COSTS]
    ]
    title = f"the most expensive of {len(result.costs)} different kernels"
    print_table(["kernel", "reads (* weights)", "count", "MACs", "takes", "share", ""], rows, title=title)
    low_ms, high_ms = result.interval_ms
    say(
        f"{model} on {device}: {result.latency_ms:.3f} ms, in 90 of 100 cases {low_ms:.3f} to {high_ms:.3f} ms; "
        f"{result.macs / 1e6:.1f} M MACs, {result.unseen_percent:.1f} % of them in kernels like none that was measured"
    )
    if result.unseen_kinds:
        what = "never measured" if result.ok else "that is too much to rely on; never measured"
        say(f" {', '.join(result.unseen_kinds)}", head=f"{what}, or not in such sizes:", style="red")
    return result.ok


def _shares_within(held_out: Mapping[str, Any]) -> str:
    """How many are near; tables of earlier versions do not say."""
    shares = {limit: held_out.get(f"within_{limit}_percent") for limit in (5, 10)}
    told = ", ".join(f"{share:.0f} % within {limit} %" for limit, share in shares.items() if share is not None)
    return f" ({told})" if told else ""


def _say_fleet(fleet: workflow.ProfiledFleet) -> bool:
    rows = [
        [
            each.device,
            len(each.table.entries),
            f"{each.table.held_out['mape_percent']:.1f}",
            correlation(each.table.held_out["spearman"]),
            f"{each.table.interval_percent:.1f}",
            "too wide" if each.table.refused else "measured" if each.is_new else "there already",
        ]
        for each in fleet.profiled
    ]
    rows += [[device, "", "", "", "", "failed"] for device in fleet.failed]
    print_table(["device", "parts", "error %", "rank correlation", "90 % within %", ""], rows)
    for device, error in fleet.failed.items():
        say(head=f"{device}: {error}")
    if not fleet.ok:
        say("the same command measures what is missing; the others are there")
    return fleet.ok


@command_of(workflow.search)
def search(result: workflow.Searched, **_: Any) -> None:
    for name, selected in result.selected.items():
        print_picks(name, selected)
    if not result.is_new:
        say("answered from what the earlier search measured; --refine looks closer at these budgets")
    if result.files is not None:
        say(f"the picks are ONNX files in {result.files}, INT8 where that pays, for ONNX Runtime")


@command_of(workflow.export)
def export(result: ExportResult, **_: Any) -> None:
    for miss in result.too_slow:
        say(f"the exported file of a better candidate took {miss['latency_ms']:.3f} ms; took the next one")
    info, quantization = result.info, result.info.model.quantization
    within = ("" if info.budget_ms is None else f" within {info.budget_ms:g} ms") + info.speed.text
    say(
        f"{result.path}: p50 {info.latency_ms.p50:.3f} ms{within} on {info.device}, "
        f"{info.task.metric.title} on the test split {info.task.metric.interval_text(info.score)}"
    )
    if quantization is not None:
        say(
            f"  INT8 costs {quantization.loss_points:.2f} points on the search split, "
            f"{len(quantization.float_nodes)} of {quantization.num_nodes} nodes in floating point"
        )
        if quantization.kernels:
            say(f"  {quantization.kernels}")


@command_of(workflow.deploy)
def deploy(result: list[Deployed], run: Path, out: Path | None, **_: Any) -> bool:
    rows = [
        [
            entry.path.name,
            info.model.files[0],
            f"{sum(info.files[name]['bytes'] for name in info.model.files) / 1e6:.2f} MB",
            f"{info.latency_ms.p50:.3f} ms",
            info.task.metric.interval_text(info.score),
            "kept" if entry.kept else f"{len(entry.too_slow)} missed before" if entry.too_slow else "",
        ]
        for entry in result
        if (info := entry.info) is not None
    ]
    print_table(["bundle", "file", "size", "p50", "test split", ""], rows)
    for entry in result:
        if entry.error:
            say(f" {entry.error}", head=f"{entry.path.name}:")
    say(f"{len(rows)} of {len(result)} bundles in {out or run / 'deploy'}")
    return len(rows) == len(result)


@command_of(workflow.elastic)
def elastic(result: ElasticRuntime, out: Path, **_: Any) -> None:
    metric = result.info.metric
    rows = [
        [each.name, f"{each.resolution} px", f"{each.latency_ms:.3f} ms", metric.text(each.score)]
        for each in result.subnets
    ]
    print_table(["subnet", "resolution", "measured p50", "test split"], rows)
    num_bytes = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    say(f"{out}: {len(rows)} subnets in {num_bytes / 1e6:.2f} MB")


@command_of(workflow.verify)
def verify(result: VerifyResult, bundle: Path, **_: Any) -> bool:
    rows, num_samples = [], 0  # sample pictures that are as they should be are counted in one row
    for check in result.checks:
        if check.ok and check.name.startswith("samples/"):
            num_samples += 1
            continue
        texts = (re.sub(r"(sha256 [0-9a-f]{12})[0-9a-f]{52}", r"\1…", text) for text in (check.expected, check.found))
        rows.append([check.name, "yes" if check.ok else "NO", *texts])
    if num_samples:
        rows.append(["samples/", "yes", f"{num_samples} files as listed", "the same"])
    print_table(["check", "holds", "expected", "found"], rows)
    if result.ok:
        say(f"{bundle} holds what it promises ({len(result.checks)} checks)")
    else:
        failed = ", ".join(check.name for check in result.failed)
        say(head=f"{bundle} does not hold what it promises: {failed}")
    return result.ok


def say_written(result: list[Path], **_: Any) -> None:
    for path in result:
        say(f"wrote {path}")


report, plot = command_of(workflow.report)(say_written), command_of(workflow.plot)(say_written)


@command_of(workflow.push)
def push(result: Transfer, **_: Any) -> None:
    say_transfer(result, f"pushed {result.kind} {result.path} to {result.url}")


@command_of(workflow.pull)
def pull(result: Transfer, **_: Any) -> None:
    say_transfer(result, f"pulled {result.kind} {result.url} into {result.path}")


def say_transfer(result: Transfer, done: str) -> None:
    num_bytes = sum(result.files.values())
    say(f"{done}: {len(result.files)} files, {num_bytes / 1e6:,.2f} MB, revision {result.revision[:12]}")
    if result.left_out:
        more = f" and {len(result.left_out) - 10} more" if len(result.left_out) > 10 else ""
        say(f"left out: {', '.join(result.left_out[:10])}{more}")
    if result.code:
        say(f"{', '.join(result.code)} is no part of it; who has it, reads it and trusts it, adds --trust-code")


@command_of(workflow.measure)
def measure(result: workflow.Measured, **_: Any) -> None:
    rows = [
        [
            name,
            *(f"{row[f'latency_ms_p{p}']:.3f} ms" for p in (10, 50, 90)),
            int(row["num_runs"]),
            f"{row['repeatability_percent']:.1f} %",
        ]
        for name, row in result.table.iterrows()
    ]
    title = f"{result.device.name}: {result.device.description}"
    print_table(["model", "p10", "p50", "p90", "runs", "repeats to"], rows, title=title)
    timing = result.table.attrs["timing"]
    causes = ", ".join(f"{cause} × {count}" for cause, count in timing["causes"].items()) or "none disturbed"
    say(f"{timing['repeated_percent']:g} % of {timing['num_blocks']} blocks measured again ({causes})")


@command_of(workflow.fit)
def fit(result: workflow.Fitted, as_json: bool, **_: Any) -> None:
    if result.table is None:
        return None if as_json else print_json(result)
    held_out = result.table.held_out
    say(
        f"{result.csv_path}: {held_out['num']} networks, each predicted without it: {held_out['mape_percent']:.1f} % "
        f"mean error{_shares_within(held_out)}, rank correlation {correlation(held_out['spearman'])} (MACs alone "
        f"{held_out['macs_only_mape_percent']:.1f} %, {correlation(held_out['macs_only_spearman'])})"
    )
    noise_percent = result.table.details["noise_percent"]
    limited = ", which limits the table: measure each network more often rather than more of them"
    say(f"measurements scatter by {noise_percent:.1f} %{limited if result.is_limited_by_noise else ''}")
    for arch in result.proposals:
        say(f"measure next: {arch}")


@command_of(workflow.devices)
def devices(result: list[dict[str, Any]], **_: Any) -> None:
    header = ["device", "what it is for", "batch", "threads", "installed", "tables"]
    names = ("name", "description", "batch", "threads", "installed")
    print_table(header, [[*(str(row[name]) for name in names), ", ".join(row["tables"])] for row in result])
