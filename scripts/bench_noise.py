"""How well latencies hold on a machine that is not quiet: tables from hour to hour, intervals, budgets of bundles.

    python scripts/bench_noise.py [profiles] [busy] [devices] [bundles] [--minutes 25] [--out docs/results]

Leaves ``noise.md`` in ``--out`` and its rows in ``--out``/noise/*.csv. Works for ``--minutes`` and ends after the step
that is begun then; the same command goes on, hours later as well, which is what it is for.

- profiles: ten tables of ``ofa_mobilenetv3_w1.0`` on ``cpu-1t``, all resolutions. Each predicts 60 fresh subnets that
  are timed for this, and is held against the one before, at one speed.
- busy: the same once more while another process keeps a core busy; its intervals on subnets timed quietly and busily.
- devices: three tables of one resolution for each of the other runtimes of a CPU.
- bundles: twelve, verified again and again, six minutes apart or more: how often budgets hold. Accuracy is said to grow
  with MACs, so that picks fill their budgets. Beside the others it is done between their steps.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from bench_helper import OutOfTimeError, page, parsed, parser_of, read_rows, say, table_text

from ofa import workflow
from ofa.cost import LatencyTable, macs
from ofa.cost.held_out import spearman
from ofa.deploy import read_bundle, verify_bundle
from ofa.deploy.bundle import BundleInfo, Latency
from ofa.files import write_csv_atomic, write_text_atomic
from ofa.hardware import load_device, measure, profile
from ofa.hardware.timed_models import export_model
from ofa.progress import progress_bar
from ofa.space import Arch, Population
from ofa.states import Speed, States, states_from
from ofa.supernet import Supernet, create_supernet
from ofa.training import SubnetEvaluator

SECTIONS = ("profiles", "busy", "devices", "bundles")
SPACE = "ofa_mobilenetv3_w1.0"
DEVICES = ("cpu-1t", "openvino-1t", "executorch-1t", "litert-1t", "cpu-int8-1t")
RESOLUTION = 224
NUM_PROFILES, NUM_FRESH, NUM_BUSY, NUM_COMPARED = 10, 60, 100, 500
NUM_BUNDLES, NUM_VERIFIED, MINUTES_APART = 12, 20, 6.0
BUSY = "while True: sum(range(100_000))"


def make_table(
    options: argparse.Namespace, supernet: Supernet, name: str, number: int, **settings: Any
) -> LatencyTable:
    """A table, with how long it took in a file beside it."""
    path = options.work / f"{name}-{number}" / f"{SPACE}.csv"
    if not path.exists():
        started = time.monotonic()
        with progress_bar() as progress:
            profile(
                supernet,
                load_device(name.partition(" ")[0]),
                csv_path=path,
                rng=np.random.default_rng(number),
                progress=progress,
                **settings,
            )
        (path.parent / "seconds").write_text(f"{time.monotonic() - started:.1f}")
    return LatencyTable.load(path, force=True)


def fresh_ms(supernet: Supernet, table: LatencyTable, device: str, population: Population, seed: int) -> Any:
    """Medians of whole subnets, timed for themselves, at the typical speed of the table."""
    target, archs = load_device(device), supernet.space.to_archs(population)
    models = {
        str(number): export_model(supernet.extract(arch), supernet.input_shape(arch), target.setting)
        for number, arch in enumerate(archs)
    }
    speed = Speed(state="typical", states=states_from(table.details["states"]))
    measured = measure(models, target, rng=np.random.default_rng(seed), speed=speed)
    return measured["latency_ms_p50"].to_numpy(), measured.attrs["times_as_long"]


def judged(
    options: argparse.Namespace,
    supernet: Supernet,
    table: LatencyTable,
    device: str,
    number: int,
    num: int,
    resolutions: Sequence[int] = (),
) -> dict[str, Any]:
    """Errors of a table on subnets that were drawn and timed for this."""
    rng = np.random.default_rng([number, 1])
    population = supernet.space.sample_population(num, rng)
    if resolutions:
        population[:, supernet.space.column("resolution")] = supernet.space["resolution"].index(resolutions[0])
    measured_ms, times_as_long = fresh_ms(supernet, table, device, population, number)
    predicted_ms = table.predict_ms(population)
    errors = measured_ms / predicted_ms - 1
    return {
        "mape_percent": 100 * float(np.abs(errors).mean()),
        "bias_percent": 100 * float(errors.mean()),
        "spearman": spearman(predicted_ms, measured_ms),
        "within_interval_percent": 100 * float((np.abs(errors) <= table.interval_percent / 100).mean()),
        "times_as_long": times_as_long,
    }


def facts_of(options: argparse.Namespace, table: LatencyTable, name: str, number: int) -> dict[str, Any]:
    details = table.details
    folder = options.work / f"{name}-{number}"
    return {
        "seconds": float((folder / "seconds").read_text()),
        "measuring_minutes": details["minutes"],
        "num_blocks": details["num_blocks"],
        "repeated_percent": details["repeated_percent"],
        "own_mape_percent": table.held_out["mape_percent"],
        "interval_percent": table.interval_percent,
        "refused": table.refused,
        **{key: details["states"][key] for key in ("kind", "fast_ms", "typical_ms", "slow_ms", "slow_share", "slope")},
    }


def difference_percent(first: LatencyTable, second: LatencyTable, population: Population) -> float:
    """By how many percent two tables of one machine differ, at one speed."""
    states = [States(**table.details["states"]) for table in (first, second)]
    factor = states[0].times_as_long_as(states[1])
    ratios = second.predict_ms(population) * factor / first.predict_ms(population)
    return 100 * float(np.abs(ratios - 1).mean())


# -- sections ----------------------------------------------------------------------------------------------------------


def step(options: argparse.Namespace, name: str, wanted: Sequence[Mapping[str, Any]], make: Any) -> None:
    """Rows that are not there yet, one by one; a row is known by what was wanted."""
    path = options.out / "noise" / f"{name}.csv"
    rows = read_rows(path)
    for each in wanted:
        if any(all(row[key] == value for key, value in each.items()) for row in rows):
            continue
        if time.monotonic() > options.until:
            raise OutOfTimeError
        if name != "bundles" and "bundles" in options.sections:
            round_of_bundles(options)
        say(f"{name}: {', '.join(map(str, each.values()))}")
        at = time.strftime("%Y-%m-%d %H:%M")
        rows.append({**each, "at": at, **make(**each)})
        write_csv_atomic(path, pd.DataFrame(rows))


def profiles(options: argparse.Namespace) -> None:
    supernet = create_supernet(SPACE).eval()
    compared = supernet.space.sample_population(NUM_COMPARED, np.random.default_rng(3))

    def make(number: int) -> dict[str, Any]:
        table = make_table(options, supernet, "cpu-1t", number)
        row = facts_of(options, table, "cpu-1t", number)
        row |= judged(options, supernet, table, "cpu-1t", number, NUM_FRESH)
        if number:
            before = make_table(options, supernet, "cpu-1t", number - 1)
            row["difference_percent"] = difference_percent(before, table, compared)
        return row

    step(options, "profiles", [{"number": number} for number in range(NUM_PROFILES)], make)


@contextlib.contextmanager
def busy_core() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def busy(options: argparse.Namespace) -> None:
    supernet = create_supernet(SPACE).eval()

    def make(measured: str) -> dict[str, Any]:
        with busy_core():
            table = make_table(options, supernet, "cpu-1t busy", 0)
        with busy_core() if measured == "busily" else contextlib.nullcontext():
            return facts_of(options, table, "cpu-1t busy", 0) | judged(
                options, supernet, table, "cpu-1t", 100, NUM_BUSY
            )

    step(options, "busy", [{"measured": how} for how in ("quietly", "busily")], make)


def devices(options: argparse.Namespace) -> None:
    supernet = create_supernet(SPACE).eval()

    def make(device: str, number: int) -> dict[str, Any]:
        name = f"{device} {RESOLUTION}"
        table = make_table(options, supernet, name, number, resolutions=[RESOLUTION])
        row = facts_of(options, table, name, number)
        return row | judged(options, supernet, table, device, number, NUM_FRESH, [RESOLUTION])

    step(options, "devices", [{"device": device, "number": number} for number in range(3) for device in DEVICES], make)


def bundles(options: argparse.Namespace) -> None:
    while (seconds := round_of_bundles(options)) is not None:
        if time.monotonic() + seconds > options.until:
            raise OutOfTimeError
        time.sleep(seconds)


def round_of_bundles(options: argparse.Namespace) -> float | None:
    """Verify all bundles once if that is due; seconds until it is due again, ``None`` after the last time."""
    rows = read_rows(options.out / "noise" / "bundles.csv")
    number = sum(1 for row in rows if row["budget_ms"] == rows[0]["budget_ms"])
    if rows and len(rows) < number * NUM_BUNDLES:
        number -= 1  # begun, not finished
    elif rows and (seconds := options.bundles_at + 60 * MINUTES_APART - time.monotonic()) > 0:
        return seconds if number < NUM_VERIFIED else None
    if number == NUM_VERIFIED:
        return None
    root = options.work / "bundles"
    budgets_ms = deployed(options, root)
    target = load_device("cpu-1t")

    def make(round: int, budget_ms: float) -> dict[str, Any]:
        path, watched = root / f"cpu-1t-{budget_ms:g}ms", list[tuple[Latency, BundleInfo]]()
        timed = workflow.measure_on(target, seed=round)

        def watch(files: Sequence[Path], speed: Speed) -> list[Latency]:
            found = timed(files, speed)
            watched.append((found[0], read_bundle(path)))
            return found

        check = verify_bundle(path, device=target, measure=watch).checks[-1]
        last, info = watched[-1]
        return {
            "holds": check.ok,
            "promised_ms": info.latency_ms.p50,
            "found_ms": last.p50,
            "as_it_was_ms": last.p50 * last.times_as_long,
            "times_as_long": last.times_as_long,
            "cold_ms": last.cold_p50,
            "num_measurements": len(watched),
        }

    step(options, "bundles", [{"round": number, "budget_ms": budget} for budget in budgets_ms], make)
    options.bundles_at = time.monotonic()
    return 60 * MINUTES_APART


class ByMacs(SubnetEvaluator):
    """Says that accuracy grows with the logarithm of MACs."""

    def race(self, archs: Sequence[Arch], *_: Any, **settings: Any) -> npt.NDArray[np.float64]:
        found = np.zeros((len(archs), len(self.metric.columns)))
        found[:, 0] = 20 * np.log10(macs(self.supernet).predict(list(archs)) / 1e4)
        found[:, 1] = len(self.data.splits.search)
        return found


def deployed(options: argparse.Namespace, root: Path) -> list[float]:
    """Budgets of the bundles; a run that is hardly trained, its table, search and bundles, if they are not there."""
    run, tables = options.work / "run", options.work / "tables"
    selected = run / "search" / "cpu-1t" / "selected.json"
    if not selected.exists():
        quickly = ("data.limit=128", "train.batch_size=32", "train.epochs=1", "train.warmup_epochs=0")
        if not (run / "supernet.json").exists():
            workflow.train("bignas", [f"model.name={SPACE}", "train.device=cpu", *quickly], out=run)
        if not (tables / "cpu-1t").exists():
            workflow.profile(str(run), "cpu-1t", out=tables)
        table = LatencyTable.load(tables / "cpu-1t" / f"{SPACE}.csv")
        least, most = table.predict_ms([table.space.smallest(), table.space.largest()])
        budgets_ms = np.geomspace(1.25 * least, most, NUM_BUNDLES).round(3).tolist()
        judge = workflow.open_evaluator
        workflow.open_evaluator = lambda *given: ByMacs(**vars(judge(*given)))
        workflow.search(run, ["cpu-1t"], budgets_ms, tables=tables, num_evaluations=300)
        workflow.open_evaluator = judge
    budgets_ms = [pick["budget_ms"] for pick in json.loads(selected.read_text())["picks"]]
    if not options.deployed:
        workflow.deploy(run, ["cpu-1t"], budgets_ms, out=root)
        options.deployed = True
    return budgets_ms


# -- the page ----------------------------------------------------------------------------------------------------------


def rows_text(path: Path, columns: Mapping[str, str]) -> str:
    """A CSV file as a table; numbers with three digits."""
    rows = [{key: row.get(key, "") for key in columns} for row in read_rows(path)]
    cells = [[f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows]
    return table_text(list(columns.values()), cells) if rows else "Not measured yet."


TABLE = {
    "at": "when",
    "seconds": "s in all",
    "measuring_minutes": "min measured",
    "repeated_percent": "blocks again (%)",
    "kind": "states",
    "slow_share": "slow share",
    "slope": "slope",
    "interval_percent": "90 % interval (±%)",
    "mape_percent": "MAPE on fresh (%)",
    "bias_percent": "bias (%)",
    "spearman": "Spearman",
    "within_interval_percent": "within interval (%)",
}


def write_page(options: argparse.Namespace) -> None:
    folder = options.out / "noise"
    bundle_rows = pd.DataFrame(read_rows(folder / "bundles.csv"))
    held = "" if bundle_rows.empty else f"{100 * bundle_rows['holds'].mean():.1f} % of {len(bundle_rows)}"
    by_budget = (
        []
        if bundle_rows.empty
        else [
            [
                f"{budget:g}",
                f"{rows['promised_ms'].iloc[0]:.3f}",
                f"{rows['found_ms'].min():.3f} to {rows['found_ms'].max():.3f}",
                f"{rows['as_it_was_ms'].min():.3f} to {rows['as_it_was_ms'].max():.3f}",
                f"{rows['cold_ms'].median():.3f}",
                f"{rows['holds'].sum()} of {len(rows)}",
            ]
            for budget, rows in bundle_rows.groupby("budget_ms")
        ]
    )
    text = page(
        "noise.md",
        space=SPACE,
        profiles=rows_text(folder / "profiles.csv", TABLE | {"difference_percent": "from the one before (%)"}),
        busy=rows_text(folder / "busy.csv", {"measured": "subnets measured", **TABLE}),
        devices=rows_text(folder / "devices.csv", {"device": "device", **TABLE}),
        held=held,
        bundles=table_text(["budget (ms)", "promised", "found, at that speed", "as it was", "cold", "held"], by_budget),
    )
    write_text_atomic(options.out / "noise.md", text)


def main(words: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__, SECTIONS)
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--work", type=Path, default=Path("runs/noise"), help="where tables and bundles are kept")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parsed(parser, words, SECTIONS)
    options.until = time.monotonic() + 60 * options.minutes
    options.bundles_at, options.deployed = -np.inf, False
    try:
        for name in options.sections:
            globals()[name](options)
    except OutOfTimeError:
        say("out of time; the same command goes on")
    write_page(options)


if __name__ == "__main__":
    main()
