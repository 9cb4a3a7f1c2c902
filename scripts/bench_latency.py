"""Measure latency tables: how well they predict, how long they take, what specialisation for a device gains.

    python scripts/bench_latency.py [tables] [fit] [gpus] [matrix] [--devices cpu-1t ...] [--run RUN] [--out DIR]

Leaves ``latency.md`` in ``--out`` and its rows in ``--out``/latency/*.csv. Stopped at any moment, the same command goes
on: tables and rows that are there are not measured again.

- tables: for each device a table of ``ofa_mobilenetv3_w1.0``; its errors on whole subnets that had no part in it.
- fit: whole subnets of that space on the first device; error of tables fitted on some of them, against one-hot ridge.
- gpus: the same, and with more networks, on five settings of GPUs that others measured (``--gpus FILE``: HELP's 5,000).
- matrix: for each pair of devices and three budgets, the subnet that the one device's table chooses, measured on the
  other beside the subnet that the other's own table chooses at the same predicted accuracy.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from bench_helper import add_row, known, page, parsed, parser_of, read_rows, say, table_text
from sklearn.linear_model import RidgeCV

from ofa.cost import LatencyTable, fit_latency, macs
from ofa.cost.held_out import held_out_errors, spearman
from ofa.files import write_csv_atomic, write_text_atomic
from ofa.hardware import Device, load_device, measure, profile
from ofa.hardware.timed_models import export_model
from ofa.progress import progress_bar
from ofa.search.methods.nsga2 import nsga2
from ofa.search.predictors import Features, held_out_kendall_tau
from ofa.search.predictors.ridge import RidgePredictor
from ofa.search.problem import Problem
from ofa.search.sampling import sample_distinct
from ofa.space import Arch, Population
from ofa.supernet import Supernet, create_supernet
from ofa.training import Run, SubnetEvaluator

SECTIONS = ("tables", "fit", "gpus", "matrix")
SPACE = "ofa_mobilenetv3_w1.0"
DEVICES = ("cpu-1t", "cpu-int8-1t", "openvino-1t", "executorch-1t")
FIT_SIZES = (25, 50, 100, 200, 400)
GPU_SIZES = (50, 100, 200, 400, 800)
NUM_SPLITS = 5
SAID = ("mape_percent", "bias_percent", "within_5_percent", "within_10_percent", "spearman")
FIT_BATCH = 100  # subnets measured against each other at once
BUDGET_SHARES = (0.25, 0.5, 0.75)  # of the way from the fastest to the slowest subnet, on a logarithmic scale


# -- tables ------------------------------------------------------------------------------------------------------------


def measure_table(options: argparse.Namespace, device: Device) -> dict[str, Any]:
    """Measure a device's table and say how it went."""
    started, load = time.perf_counter(), os.getloadavg()[0]
    supernet = create_supernet(SPACE).eval()
    csv_path = options.tables / device.name / f"{SPACE}.csv"
    with progress_bar() as progress:
        table = profile(
            supernet,
            device,
            csv_path=csv_path,
            rng=np.random.default_rng(options.seed),
            num_fit=options.num_fit,
            num_held_out=options.num_held_out,
            resolutions=options.resolutions or None,
            num_resolutions=options.num_resolutions,
            rounds=options.rounds,
            force=True,
            progress=progress,
        )
    held_out = table.held_out
    return {
        "device": device.name,
        "resolutions": " ".join(map(str, options.resolutions)) or "all",
        "num_measured_resolutions": len(table.details["measured_resolutions"]),
        "num_entries": len(table.entries),
        "seconds": round(time.perf_counter() - started, 1),
        "repeatability_percent": table.repeatability_percent,
        **{name: value for name, value in held_out.items() if not isinstance(value, list)},
        "num_fit": table.correction.num_fit,
        "load_before": round(load, 2),
        "date": str(datetime.date.today()),
    }


def tables(options: argparse.Namespace) -> None:
    path = options.out / "latency" / "tables.csv"
    for name in options.devices:
        device = load_device(name)
        rows = read_rows(path)
        settings = (name, " ".join(map(str, options.resolutions)) or "all", options.num_resolutions or 0)
        if any((row["device"], row["resolutions"], row["asked_num_resolutions"]) == settings for row in rows):
            continue
        say(f"table of {SPACE} on {name}")
        row = {**measure_table(options, device), "asked_num_resolutions": settings[2]}
        write_csv_atomic(path, pd.DataFrame([*rows, row]))


# -- fit ---------------------------------------------------------------------------------------------------------------


def fit(options: argparse.Namespace) -> None:
    """Fill ``whole.csv``, batch by batch, and then ``fit.csv``."""
    supernet = create_supernet(SPACE).eval()
    device = load_device(options.devices[0])
    population = sample_distinct(supernet.space, options.num_whole, np.random.default_rng(7), set())
    path = options.out / "latency" / "whole.csv"
    rows = read_rows(path)
    for first in range(len(rows), len(population), FIT_BATCH):
        say(f"whole subnets {first} to {first + FIT_BATCH} on {device.name}")
        batch = population[first : first + FIT_BATCH]
        measured, anchor_ms = measure_population(options, supernet, device, batch)
        archs = [arch.to_json() for arch in supernet.space.to_archs(batch)]
        rows += [
            {"arch": arch, "latency_ms": value, "anchor_ms": anchor_ms}
            for arch, value in zip(archs, measured.tolist(), strict=True)
        ]
        write_csv_atomic(path, pd.DataFrame(rows))
    # Batches are minutes apart; the anchor says how fast the machine was for each.
    anchors_ms = np.array([row["anchor_ms"] for row in rows])
    measured_ms = np.array([row["latency_ms"] for row in rows]) * np.median(anchors_ms) / anchors_ms
    write_csv_atomic(options.out / "latency" / "fit.csv", pd.DataFrame(fit_errors(supernet, population, measured_ms)))


def predictions_of_fits(
    supernet: Supernet, population: Population, measured_ms: npt.NDArray[np.float64], seen: npt.NDArray[np.intp]
) -> dict[str, npt.NDArray[np.float64]]:
    """What fits on some networks say of all, shape ``(N,)``."""
    encoded, num_macs = supernet.space.encode(population), macs(supernet).predict(population)
    ridge = RidgeCV(np.logspace(-3, 3, 13)).fit(encoded[seen], measured_ms[seen])
    line = np.polyfit(num_macs[seen], measured_ms[seen], 1)
    return {
        "ours": fit_latency(supernet, population[seen], measured_ms[seen]).table.predict_ms(population),
        "one_hot_ridge": ridge.predict(encoded),
        "macs_only": np.polyval(line, num_macs),
    }


def gpus(options: argparse.Namespace) -> None:
    supernet = create_supernet(SPACE)
    measured = pd.read_csv(options.gpus)
    archs = [Arch.from_json(text) for text in measured.pop("arch")]
    population, path = supernet.space.to_population(archs), options.out / "latency" / "gpus.csv"
    for gpu, size, split in itertools.product(measured, GPU_SIZES, range(NUM_SPLITS)):
        key = {"gpu": gpu.removesuffix("_ms"), "num_samples": size, "split": split}
        if known(path, **key) is not None:
            continue
        order = np.random.default_rng(split).permutation(len(population))
        seen, unseen, measured_ms = order[:size], order[max(GPU_SIZES) :], measured[gpu].to_numpy()
        row: dict[str, Any] = {}
        for name, predicted in predictions_of_fits(supernet, population, measured_ms, seen).items():
            errors = held_out_errors(predicted[unseen], measured_ms[unseen], baselines={}, fit_ms=measured_ms[:0])
            row |= {f"{name}_{what}": round(errors[what], 4) for what in SAID}
        say(f"{key}: {row['ours_mape_percent']:.2f} %")
        add_row(path, key | row)


def gpus_table(rows: pd.DataFrame) -> str:
    """A line for each GPU and number of networks, with what doubling them changed."""
    cells = []
    for gpu, own in rows.groupby("gpu", sort=False):
        errors = own.pivot(index="split", columns="num_samples", values="ours_mape_percent")
        for size, each in own.groupby("num_samples"):
            change = errors[size] - errors[size // 2] if size // 2 in errors else pd.Series(dtype=float)
            twice = 2 * change.std() / max(len(change), 1) ** 0.5
            mean = each.mean(numeric_only=True)
            cells.append(
                [
                    *(gpu, size),
                    f"{mean['ours_mape_percent']:.2f} %",
                    "" if change.empty else f"{change.mean():+.2f} ± {twice:.2f}",
                    *(f"{mean[f'ours_{what}']:.0f} %" for what in ("within_5_percent", "within_10_percent")),
                    f"{mean['ours_spearman']:.4f}",
                    *(f"{mean[f'{name}_mape_percent']:.1f} %" for name in ("one_hot_ridge", "macs_only")),
                ]
            )
    header = ["GPU, batch", "samples", "`fit_latency`", "against half as many", "within 5 %", "within 10 %", "Spearman"]
    return table_text([*header, "one-hot ridge", "MACs only"], cells)


def fit_errors(
    supernet: Supernet, population: Population, measured_ms: npt.NDArray[np.float64]
) -> list[dict[str, Any]]:
    """Errors on what each of several random subsets leaves out."""
    rows = []
    for size in (size for size in FIT_SIZES if size < len(population)):
        errors: dict[str, list[tuple[float, float]]] = {"ours": [], "one_hot_ridge": [], "macs_only": []}
        for split in range(NUM_SPLITS):
            order = np.random.default_rng(split).permutation(len(population))
            seen, unseen = order[:size], order[size:]
            for name, predicted in predictions_of_fits(supernet, population, measured_ms, seen).items():
                error = 100 * float(np.abs(predicted[unseen] / measured_ms[unseen] - 1).mean())
                errors[name].append((error, spearman(predicted[unseen], measured_ms[unseen]) or 0.0))
        means = {name: np.mean(values, axis=0) for name, values in errors.items()}
        row: dict[str, Any] = {"num_samples": size}
        for name, (error, correlation) in means.items():
            row |= {f"{name}_mape_percent": round(float(error), 3), f"{name}_spearman": round(float(correlation), 4)}
        rows.append(row)
    return rows


def fit_table(rows: list[dict[str, Any]]) -> str:
    names = {"ours": "`fit_latency`", "one_hot_ridge": "one-hot ridge", "macs_only": "MACs only"}
    return table_text(
        ["samples", *names.values()],
        [
            [
                int(row["num_samples"]),
                *(f"{row[f'{name}_mape_percent']:.2f} %, {row[f'{name}_spearman']:.3f}" for name in names),
            ]
            for row in rows
        ],
    )


# -- matrix ------------------------------------------------------------------------------------------------------------


class Front:
    """The best of a space on one device by predictions: accuracy against latency."""

    def __init__(self, table: LatencyTable, predictor: RidgePredictor, initial: Population, seed: int) -> None:
        def objectives(population: Population) -> npt.NDArray[np.float64]:
            return np.column_stack([-predictor.predict(population), table.predict_ms(population)])

        evaluated = nsga2(
            Problem(table.space, 2),
            objectives,
            rng=np.random.default_rng(seed),
            population_size=200,
            num_generations=200,
            initial=initial,
        ).front()
        order = np.argsort(evaluated.values[:, 1])
        self.population = evaluated.population[order]
        self.top1_percent, self.latency_ms = -evaluated.values[order, 0], evaluated.values[order, 1]

    def within(self, budget_ms: float) -> int:
        """Position of the most accurate within a budget."""
        return int(np.searchsorted(self.latency_ms, budget_ms, side="right")) - 1

    def as_accurate_as(self, top1_percent: float) -> int:
        """Position of the fastest that is as accurate, or else of the most accurate."""
        enough = np.flatnonzero(self.top1_percent >= top1_percent - 1e-9)
        return int(enough[0]) if len(enough) else int(np.argmax(self.top1_percent))


def matrix(options: argparse.Namespace) -> None:
    """Fill ``matrix.csv``: one row per pair of devices and budget."""
    path = options.out / "latency" / "matrix.csv"
    if path.exists():
        return
    run = Run.open(options.run)
    supernet = run.supernet()
    devices = [load_device(name) for name in options.devices]
    found = [run_table(options, run, supernet, device) for device in devices]
    predictor, samples, tau = fit_predictor(options, run, supernet)
    fronts = [Front(table, predictor, samples, options.seed) for table in found]
    picks = []  # (device that chooses, budget share, arch genes, predicted accuracy)
    for number, (table, front) in enumerate(zip(found, fronts, strict=True)):
        low, high = table.predict_ms([table.space.smallest(), table.space.largest()])
        for share in BUDGET_SHARES:
            budget_ms = float(low ** (1 - share) * high**share)
            position = front.within(budget_ms)
            picks.append((number, share, budget_ms, front.population[position], front.top1_percent[position]))
    rows: list[dict[str, Any]] = []
    for number, device in enumerate(devices):
        own = [fronts[number].as_accurate_as(pick[4]) for pick in picks]
        chosen = np.concatenate([np.stack([pick[3] for pick in picks]), fronts[number].population[own]])
        measured, _ = measure_population(options, supernet, device, chosen)
        for index, (chooser, share, budget_ms, _, top1_percent) in enumerate(picks):
            theirs_ms, ours_ms = measured[index], measured[len(picks) + index]
            rows.append(
                {
                    "chosen_for": devices[chooser].name,
                    "budget_share": share,
                    "budget_ms": round(budget_ms, 4),
                    "predicted_top1_percent": round(float(top1_percent), 3),
                    "measured_on": device.name,
                    "latency_ms": round(float(theirs_ms), 4),
                    "own_latency_ms": round(float(ours_ms), 4),
                    "slower_percent": round(100 * (float(theirs_ms / ours_ms) - 1), 2),
                    "predictor_tau": tau,
                }
            )
    write_csv_atomic(path, pd.DataFrame(rows))


def run_table(options: argparse.Namespace, run: Run, supernet: Supernet, device: Device) -> LatencyTable:
    say(f"table of {run.space_name} on {device.name}")
    with progress_bar() as progress:
        return profile(
            supernet,
            device,
            csv_path=options.work / "latency_tables" / device.name / f"{run.space_name}.csv",
            rng=np.random.default_rng(options.seed),
            num_fit=options.num_fit,
            num_held_out=24,
            rounds=options.rounds,
            force=True,
            progress=progress,
        )


def fit_predictor(
    options: argparse.Namespace, run: Run, supernet: Supernet
) -> tuple[RidgePredictor, Population, float | None]:
    """Accuracy of subnets on the search split, learnt from some of them."""
    population = sample_distinct(run.space, options.num_samples, np.random.default_rng(options.seed), set())
    path = options.work / "matrix_accuracies.csv"
    if not path.exists():
        say(f"accuracy of {len(population)} subnets")
        evaluator = SubnetEvaluator(supernet, run.data(root=options.data), num_calibration_images=1024)
        top1 = evaluator.values(run.space.to_archs(population), split="search")
        write_csv_atomic(path, pd.DataFrame({"top1_percent": top1}))
    top1 = pd.read_csv(path)["top1_percent"].to_numpy()
    tau = held_out_kendall_tau(RidgePredictor, Features(run.space), population, top1, rng=np.random.default_rng(0))
    return RidgePredictor(Features(run.space)).fit(population, top1), population, tau


def measure_population(
    options: argparse.Namespace, supernet: Supernet, device: Device, population: Population
) -> tuple[npt.NDArray[np.float64], float]:
    """Low percentile of the latencies, milliseconds, shape ``(N,)``, and the anchor's, which tells the machine's speed.

    Equal architectures are measured once.
    """
    archs = supernet.space.to_archs(population)
    models = {
        arch.to_json(): export_model(supernet.extract(arch), supernet.input_shape(arch), device.setting)
        for arch in dict.fromkeys(archs)
    }
    with progress_bar() as progress:
        table = measure(models, device, rng=np.random.default_rng(options.seed), progress=progress)
    latency_ms = table.loc[[arch.to_json() for arch in archs], "latency_ms_p50"].to_numpy()
    return latency_ms, table.attrs["timing"]["states"]["typical_ms"]


# -- the page ----------------------------------------------------------------------------------------------------------


def page_text(options: argparse.Namespace) -> str:
    """Everything that is known."""
    folder = options.out / "latency"
    errors, samples, by_gpu, pairs = (read_rows(folder / f"{name}.csv") for name in SECTIONS)
    return page(
        "latency.md",
        words=options.words,
        space=SPACE,
        tables=error_table(errors) if errors else "",
        num_splits=NUM_SPLITS,
        fit=fit_table(samples) if samples else "",
        gpus=gpus_table(pd.DataFrame(by_gpu)) if by_gpu else "",
        matrix=matrix_part(pd.DataFrame(pairs)) if pairs else None,
    )


def error_table(rows: list[dict[str, Any]]) -> str:
    return table_text(
        [
            *("device", "resolutions", "entries", "time", "held out", "MAPE", "bias", "worst", "Spearman"),
            *("repeats to", "MACs only", "depth only", "interpolated resolutions"),
        ],
        [
            [
                row["device"],
                f"{row['num_measured_resolutions']} measured of {row['resolutions']}",
                f"{row['num_entries']:,}",
                f"{row['seconds']:.0f} s",
                row["num"],
                f"{row['mape_percent']:.2f} %",
                f"{row['bias_percent']:+.2f} %",
                f"{row['worst_percent']:.1f} %",
                f"{row['spearman']:.4f}",
                f"{row['repeatability_percent']:.2f} %",
                f"{row['macs_only_mape_percent']:.1f} %, {row['macs_only_spearman']:.3f}",
                f"{row['depth_only_mape_percent']:.1f} %, {row['depth_only_spearman']:.3f}",
                interpolated_text(row),
            ]
            for row in rows
        ],
    )


def interpolated_text(row: dict[str, Any]) -> str:
    if pd.isna(row.get("interpolated_num", np.nan)):
        return ""
    return f"{row['interpolated_mape_percent']:.2f} % ({int(row['interpolated_num'])} subnets)"


def matrix_part(rows: pd.DataFrame) -> dict[str, Any]:
    devices = list(dict.fromkeys(rows["measured_on"]))
    tables = {}
    for share, group in rows.groupby("budget_share"):
        cells = group.set_index(["chosen_for", "measured_on"])["slower_percent"]
        tables[share] = table_text(
            ["chosen for, measured on", *devices],
            [[name, *(f"{cells[name, other]:+.1f} %" for other in devices)] for name in devices],
        )
    is_same = rows["chosen_for"] == rows["measured_on"]
    return {"tables": tables, "other": rows["slower_percent"][~is_same], "same": rows["slower_percent"][is_same]}


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = parser_of(__doc__, SECTIONS)
    parser.add_argument("--devices", nargs="+", default=list(DEVICES))
    parser.add_argument("--resolutions", type=int, nargs="*", default=[], help="of tables; all if none is named")
    parser.add_argument("--num-resolutions", type=int, help="measure parts at so many and interpolate the others")
    parser.add_argument("--num-fit", type=int, default=30)
    parser.add_argument("--num-held-out", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--num-whole", type=int, default=500, help="whole subnets measured for fit")
    parser.add_argument("--num-samples", type=int, default=200, help="subnets that the accuracy predictor learns from")
    parser.add_argument("--gpus", type=Path, default=Path("ofa_mobilenetv3_gpus.csv.gz"), help="file of gpus")
    parser.add_argument("--run", type=Path, default=Path("runs/fashion"), help="run folder, for matrix")
    parser.add_argument("--data", help="where its data is now")
    parser.add_argument("--tables", type=Path, default=Path("latency_tables"))
    parser.add_argument("--work", type=Path, default=Path("runs/bench_latency"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--seed", type=int, default=0)
    return parsed(parser, words, SECTIONS)


def main(words: Sequence[str] | None = None) -> int:
    options = parse(words)
    torch.set_num_threads(1)
    doing = {"tables": tables, "fit": fit, "gpus": gpus, "matrix": matrix}
    for name in options.sections:
        doing[name](options)
        write_text_atomic(options.out / "latency.md", page_text(options))
        say(f"{name} done; see {options.out / 'latency.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
