"""Measure the search: its speed at predicted cost, and how much it gets out of each evaluation.

    python scripts/bench_search.py [speed] [exact] [efficiency] [predictors] [precision] [--run RUN] [--data-root DIR]

Leaves ``search.md`` in ``--out`` and its rows in ``--out``/search/*.csv. Stopped at any moment, the same command goes
on: accuracies that were evaluated are kept in ``--work``.

- speed: architectures priced a second on ``ofa_mobilenetv3_w1.0``; seconds for a whole Pareto front at predicted cost.
- exact: the whole front of latency and a sum of factors on each device with a table of ``ofa_mobilenetv3_w1.0``;
  seconds, and how far NSGA-II is from it at the same values; the best within limits of two devices at once.
- efficiency: a part of the run's space (2,592 subnets) is evaluated as a whole, so that its true front of accuracy and
  MACs is known; share of the true hypervolume after 50 to 500 evaluations, for every method, ten seeds.
- predictors: held-out Kendall tau against the number of samples, for every predictor, with and without MACs and
  parameters as further inputs; random subnets of the whole space.
- precision: fp32 or INT8 for each block, in the space: the front of accuracy (of quantized graphs that are really run)
  and latency on ONNX Runtime, beside those of fp32 only and of INT8 everywhere; two picks measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import pandas as pd
from bench_helper import page, parsed, parser_of, read_rows, say, seconds, table_text
from scipy.stats import kendalltau

from ofa.cost import CostModel, LatencyTable, macs, params
from ofa.files import write_csv_atomic, write_text_atomic
from ofa.hardware import load_device, measure
from ofa.precision import MixedLatency
from ofa.precision.quantized_subnets import MixedPrecisionEvaluator
from ofa.progress import progress_bar
from ofa.search import hypervolume, search
from ofa.search.bucket_elimination import exact_front, gap
from ofa.search.evaluation_cache import EvaluationCache
from ofa.search.integer_program import exact_best
from ofa.search.methods import METHODS
from ofa.search.methods.nsga2 import nsga2
from ofa.search.predictors import PREDICTORS, Features
from ofa.search.predictors.ridge import RidgePredictor
from ofa.search.problem import Constraint, Problem
from ofa.space import Arch, Population, SearchSpace
from ofa.supernet import Supernet
from ofa.training import Run, SubnetEvaluator

SECTIONS = ("speed", "exact", "efficiency", "predictors", "precision")
OBJECTIVES = ("top1_error_percent", "million_macs")
NUM_EVALUATIONS = (50, 100, 250, 500)
SHORT = 100  # evaluations, up to which everything is tried
NUM_SEEDS = 10
NUM_GENERATIONS = (40, 200)
NUM_SAMPLES = (25, 50, 100, 200, 400, 800)
NUM_TEST = 200
NUM_SPLITS = 5
CHUNK = 24  # subnets that a process evaluates before it hands them over
NUM_MIXED = 60  # whole networks of mixed precision that are measured, half of them to fit the cost of boundaries
NUM_JOINT = 80


# -- speed -------------------------------------------------------------------------------------------------------------


def speed(options: argparse.Namespace) -> None:
    table = LatencyTable.load(options.table, force=True)
    space, rng = table.space, np.random.default_rng(0)
    samples = space.sample_population(200, rng)
    top1 = samples.sum(axis=1) + rng.normal(0, 1, len(samples))  # any values: speed does not depend on them
    predictor = RidgePredictor(Features(space)).fit(samples, top1)
    population = space.sample_population(500_000, rng)
    priced = seconds(lambda: (table.predict_ms(population), predictor.predict(population)))
    problem = Problem(space, 2, {1: table.predict_ms})

    def front() -> None:
        found = nsga2(
            problem,
            lambda archs: np.column_stack([-predictor.predict(archs), table.predict_ms(archs)]),
            rng=np.random.default_rng(0),
            population_size=200,
            num_generations=200,
        )
        assert len(found.population) == 40_000

    rows = [
        {"what": "architectures priced a second (latency and accuracy)", "value": len(population) / priced},
        {"what": "seconds for the front (population 200, 40,000 evaluations)", "value": seconds(front)},
    ]
    write_csv_atomic(options.out / "search" / "speed.csv", pd.DataFrame(rows).assign(date=str(datetime.date.today())))


# -- exact -------------------------------------------------------------------------------------------------------------


def exact(options: argparse.Namespace) -> None:
    """Fill ``exact.csv``: one row per device."""
    tables = [LatencyTable.load(path, force=True) for path in sorted(options.tables.glob(f"*/{options.table.name}"))]
    whole = [table for table in tables if not np.isnan(table.cost_model.predict(ends(table.space))).any()]
    rows = [exact_row(table, whole[number - 1]) for number, table in enumerate(whole)]
    rows = [row | {"date": str(datetime.date.today())} for row in rows]
    write_csv_atomic(options.out / "search" / "exact.csv", pd.DataFrame(rows).round(4))


def exact_row(table: LatencyTable, other: LatencyTable) -> dict[str, Any]:
    value = RidgePredictor(Features(table.space)).fit(*made_up_errors(table.space)).as_sum
    assert value is not None
    front = exact_front(table.cost_model, value)
    limits = [
        Constraint(each.device, each.cost_model, float(np.median(each.predict_ms(front.population))))
        for each in (table, other)
    ]
    best = exact_best(value, limits)
    row: dict[str, Any] = {
        "device": table.device,
        "points": len(front.values),
        "front_seconds": seconds(lambda: exact_front(table.cost_model, value)),
        "other_device": other.device,
        "two_limits_seconds": seconds(lambda: exact_best(value, limits)),
        "two_limits_gap_points": best.value - best.bound,
    }
    for num in NUM_GENERATIONS:
        gaps = [gap(evolved(table, value, num, seed), front.values) for seed in range(NUM_SEEDS)]
        share, largest, mean = np.mean(gaps, axis=0)
        row |= {f"hypervolume_percent_{num}": share, f"mean_points_{num}": mean, f"largest_points_{num}": largest}
    return row


def ends(space: SearchSpace) -> Population:
    """The smallest and the largest subnet at every resolution."""
    values = space["resolution"].values
    return space.to_population(
        [space.arch({**arch, "resolution": value}) for arch in (space.smallest(), space.largest()) for value in values]
    )


def made_up_errors(space: SearchSpace) -> tuple[Population, npt.NDArray[np.float64]]:
    """200 subnets, and errors that span ten points: what larger values of each dim gain is drawn at random."""
    rng = np.random.default_rng(0)
    gains = np.concatenate([np.sort(rng.exponential(1.0, num)) for num in space.num_values])
    largest, smallest = (space.encode(arch)[0] @ gains for arch in (space.largest(), space.smallest()))
    samples = space.sample_population(200, rng)
    return samples, 30 - 10 * (space.encode(samples) @ gains - smallest) / (largest - smallest) + rng.normal(
        0, 0.1, 200
    )


def evolved(table: LatencyTable, value: CostModel, num_generations: int, seed: int) -> npt.NDArray[np.float64]:
    """Latencies and errors that NSGA-II finds, of 200 subnets a generation."""

    def pairs(archs: Population) -> npt.NDArray[np.float64]:
        return np.column_stack([value.predict(archs), table.predict_ms(archs)])

    problem = Problem(table.space, 2, {1: table.predict_ms})
    found = nsga2(problem, pairs, rng=np.random.default_rng(seed), num_generations=num_generations)
    return found.values[:, ::-1]


# -- accuracies --------------------------------------------------------------------------------------------------------


def evaluator(run: Path, data_root: str | None) -> SubnetEvaluator:
    import torch

    torch.set_num_threads(1)
    opened = Run.open(run)
    return SubnetEvaluator(opened.supernet(), opened.data(root=data_root))


def evaluate_here(run: Path, data_root: str | None, archs: list[Arch]) -> npt.NDArray[np.float64]:
    return evaluator(run, data_root).values(archs)


def accuracies(options: argparse.Namespace, archs: list[Arch]) -> npt.NDArray[np.float64]:
    """Search-split accuracies, in percent; one process per core evaluates those that are not known."""
    cache = EvaluationCache(
        options.work / "accuracies.csv", weights_sha256=Run.open(options.run).weights_sha256, split="search"
    )
    missing = [arch for arch in archs if arch not in cache]
    chunks = [missing[start : start + CHUNK] for start in range(0, len(missing), CHUNK)]
    parallel = joblib.Parallel(n_jobs=options.jobs, return_as="generator")
    with progress_bar() as progress:
        done = parallel(joblib.delayed(evaluate_here)(options.run, options.data_root, chunk) for chunk in chunks)
        for number, (chunk, top1) in enumerate(zip(chunks, done, strict=True), start=1):
            cache.add(chunk, top1)
            progress(number, len(chunks), "evaluating subnets")
    return cache.get(archs)[:, 0]


# -- efficiency --------------------------------------------------------------------------------------------------------


def small_space(space: SearchSpace) -> SearchSpace:
    """Two resolutions; in each stage the depth and the expand ratio of the first block; the rest in the middle."""
    stages = sorted({name.split(".")[0] for name in space.names if name != "resolution"})
    choices: dict[str, Sequence[Any]] = {"resolution": (12, 20)}
    for stage in stages:
        for block in range(3):
            choices[f"{stage}.block{block}.kernel"] = (3,)
            choices[f"{stage}.block{block}.expand"] = (2, 4) if block == 0 else (3,)
    return space.restrict(choices)


def efficiency(options: argparse.Namespace) -> None:
    """Fill ``efficiency.csv``: one row per method, number of evaluations and seed."""
    opened = Run.open(options.run)
    space = small_space(opened.space)
    every = space.every()
    top1 = accuracies(options, space.to_archs(every))
    cost = macs(opened.supernet())
    values = np.column_stack([100 - top1, cost.predict(space.to_archs(every)) / 1e6])
    write_csv_atomic(  # for bench_dynast.py
        options.work / "table.csv",
        pd.DataFrame(every, columns=space.names).assign(**dict(zip(OBJECTIVES, values.T, strict=True))),
    )
    smooth = PREDICTORS["gradient_boosting"](Features(space)).fit(every, values[:, 0]).predict(every)
    truths = {"as evaluated": values, "noise removed": np.column_stack([smooth, values[:, 1]])}
    row_of = {key: row for row, key in enumerate(space.row_keys(every).tolist())}

    def run(truth: str, method: str, num: int, seed: int) -> dict[str, Any]:
        known = truths[truth]

        def evaluate(population: Population) -> npt.NDArray[np.float64]:
            return known[[row_of[key] for key in space.row_keys(population).tolist()]]

        started = time.perf_counter()
        found = search(
            space,
            evaluate,
            num_evaluations=num,
            method=method.split(",")[0],
            seed=seed,
            objectives=OBJECTIVES,
            free={} if method.endswith("learnt") else {OBJECTIVES[1]: lambda population: evaluate(population)[:, 1]},
        )
        reference = known.max(axis=0)
        share = hypervolume(found[list(OBJECTIVES)].to_numpy(), reference) / hypervolume(known, reference)
        return {
            "truth": truth,
            "method": method,
            "num_evaluations": num,
            "seed": seed,
            "hypervolume_share_percent": round(100 * share, 4),
            "seconds": round(time.perf_counter() - started, 2),
        }

    path = options.out / "search" / "efficiency.csv"
    rows = read_rows(path)
    done = {(row["truth"], row["method"], row["num_evaluations"], row["seed"]) for row in rows}
    tasks = [
        (truth, method, num, seed)
        for truth in truths
        for num in NUM_EVALUATIONS
        for method in [*METHODS, "thompson, MACs learnt"]
        for seed in range(NUM_SEEDS)
        if (truth, method, num, seed) not in done and not (num > SHORT and (truth != "as evaluated" or "," in method))
    ]
    tasks += [  # cheap ones further, to see where they get as far
        ("noise removed", "nsga2", num, seed)
        for num in NUM_EVALUATIONS
        for seed in range(NUM_SEEDS)
        if num > SHORT and ("noise removed", "nsga2", num, seed) not in done
    ]
    with progress_bar() as progress:
        parallel = joblib.Parallel(n_jobs=options.jobs, return_as="generator")
        for number, row in enumerate(parallel(joblib.delayed(run)(*task) for task in tasks), start=1):
            rows.append(row)
            write_csv_atomic(path, pd.DataFrame(rows))
            progress(number, len(tasks), "searching")


# -- predictors --------------------------------------------------------------------------------------------------------


def predictors(options: argparse.Namespace) -> None:
    """Fill ``predictors.csv``: one row per predictor, kind of inputs and number of samples."""
    opened = Run.open(options.run)
    space, supernet = opened.space, opened.supernet()
    rng = np.random.default_rng(0)
    num = max(NUM_SAMPLES) + NUM_TEST
    population = np.unique(space.sample_population(2 * num, rng), axis=0)
    population = population[rng.permutation(len(population))[:num]]
    top1 = accuracies(options, space.to_archs(population))
    statistics = (macs(supernet).predict, params(supernet).predict)
    score = synflow(options, supernet, population)
    inputs: dict[str, Any] = {
        "architecture": Features(space),
        "architecture, MACs, parameters": Features(space, statistics),
        "architecture, MACs, parameters, SynFlow": Features(space, (*statistics, score)),
        "architecture, units pretrained on MACs and parameters": pretrained(space, statistics),
    }
    path = options.out / "search" / "predictors.csv"
    rows = read_rows(path)
    for name, make in PREDICTORS.items():
        for kind, features in inputs.items():
            for num_samples in NUM_SAMPLES:
                if any(
                    (row["predictor"], row["inputs"], row["num_samples"]) == (name, kind, num_samples) for row in rows
                ):
                    continue
                taus, times = [], []
                for split in range(NUM_SPLITS):
                    order = np.random.default_rng(split).permutation(num)
                    fitted, tested = order[NUM_TEST:][:num_samples], order[:NUM_TEST]
                    started = time.perf_counter()
                    predictor = make(features).fit(population[fitted], top1[fitted])
                    times.append(time.perf_counter() - started)
                    taus.append(kendalltau(predictor.predict(population[tested]), top1[tested]).statistic)
                rows.append(
                    {
                        "predictor": name,
                        "inputs": kind,
                        "num_samples": num_samples,
                        "kendall_tau": round(float(np.mean(taus)), 4),
                        "fit_seconds": round(float(np.median(times)), 4),
                    }
                )
            write_csv_atomic(path, pd.DataFrame(rows))
        say(f"{name} done")


def synflow(
    options: argparse.Namespace, supernet: Supernet, population: Population
) -> Callable[[Population], npt.NDArray[np.float64]]:
    """The zero-cost score of Tanaka et al. (arXiv:2006.05467) for subnets with the supernet's weights, looked up."""
    import torch

    path = options.work / "synflow.csv"
    cache = EvaluationCache(path, values=("synflow",))
    missing = [arch for arch in supernet.space.to_archs(population) if arch not in cache]
    for arch in missing:
        module = supernet.extract(arch).double().eval()
        for tensor in [*module.parameters(), *module.buffers()]:
            tensor.data = tensor.data.abs() if tensor.is_floating_point() else tensor.data
        module(torch.ones(1, *supernet.input_shape(arch), dtype=torch.float64)).sum().backward()
        score = sum(float((p * p.grad).abs().sum()) for p in module.parameters() if p.grad is not None)
        cache.add([arch], [np.log(score)])
    return lambda archs: np.exp(cache.get(supernet.space.to_archs(archs))[:, 0] / 10)  # predictors take logarithms


def pretrained(space: SearchSpace, statistics: Sequence[Callable[[Population], npt.NDArray[np.float64]]]) -> Features:
    """The encoding, and the hidden units of a network that was trained to predict statistics (FBNetV3, sec. 3.2)."""
    from sklearn.neural_network import MLPRegressor

    population = space.sample_population(4000, np.random.default_rng(1))
    targets = np.log([statistic(population) for statistic in statistics]).T
    targets = (targets - targets.mean(axis=0)) / targets.std(axis=0)
    network = MLPRegressor(hidden_layer_sizes=(32,), max_iter=60, random_state=0).fit(space.encode(population), targets)

    def unit(number: int) -> Callable[[Population], npt.NDArray[np.float64]]:
        weights, offset = network.coefs_[0][:, number], network.intercepts_[0][number]
        return lambda archs: np.exp(np.maximum(space.encode(archs) @ weights + offset, 0))

    return Features(space, tuple(map(unit, range(32))))


# -- precision ---------------------------------------------------------------------------------------------------------


def precision(options: argparse.Namespace) -> None:
    """Fill ``precision.csv``: what each of three searches evaluated; ``precision_picks.csv``: two picks, measured."""
    opened = Run.open(options.run)
    here = evaluator(options.run, options.data_root)
    mixed = MixedPrecisionEvaluator(here)
    space, device = mixed.space, load_device("cpu-1t")
    fp32, int8 = (
        LatencyTable.load(options.tables / name / f"{opened.space_name}.csv", force=True)
        for name in ("cpu-1t", "cpu-int8-1t")
    )
    tables = MixedLatency(
        fp32=fp32, int8=int8, per="block", num_elements=lambda key: math.prod(here.supernet.part(key).input_shape)
    )
    rng = np.random.default_rng(0)

    def measured_ms(archs: Sequence[Arch]) -> npt.NDArray[np.float64]:
        models = {str(row): mixed.onnx(arch) for row, arch in enumerate(archs)}
        with progress_bar() as progress:
            return measure(models, device, rng=rng, progress=progress)["latency_ms_p50"].to_numpy()

    path = options.out / "search" / "precision_held_out.csv"
    population = space.sample_population(NUM_MIXED, rng)
    fit_path = options.work / "mixed.csv"
    if not fit_path.exists():
        rows = [arch.to_json() for arch in space.to_archs(population)]
        write_csv_atomic(fit_path, pd.DataFrame({"arch": rows, "latency_ms": measured_ms(space.to_archs(population))}))
    latency_ms = pd.read_csv(fit_path)["latency_ms"].to_numpy()
    half = NUM_MIXED // 2
    tables = tables.fit(population[:half], latency_ms[:half])
    errors = tables.held_out(population[half:], latency_ms[half:])
    numbers = {name: value for name, value in errors.items() if not isinstance(value, list)}
    write_csv_atomic(path, pd.DataFrame([{**numbers, **dataclasses.asdict(tables.boundary)}]))
    say(f"mixed networks: {numbers}")

    names = [name for name in space.names if name.endswith("precision")]
    spaces = {
        "fp32 only": space.restrict({name: ("fp32",) for name in names}),
        "INT8 everywhere": space.restrict({name: ("int8",) for name in names}),
        "fp32 or INT8 per block": space,
    }
    cache = EvaluationCache(options.work / "mixed_accuracies.csv", weights_sha256=opened.weights_sha256, split="search")
    found = []
    for kind, part in spaces.items():

        def predict_ms(archs: Population, part: SearchSpace = part) -> npt.NDArray[np.float64]:
            return tables.predict_ms(space.to_population(part.to_archs(archs)))

        def evaluate(archs: Population, part: SearchSpace = part, kind: str = kind) -> npt.NDArray[np.float64]:
            for number, arch in enumerate(part.to_archs(archs)):
                if arch not in cache:
                    cache.add([arch], mixed.values([arch])[:, 0])
                    say(f"{kind}: {number + 1} of {len(archs)}: {cache.known[arch][0]:.2f} %")
            return np.column_stack([100 - cache.get(part.to_archs(archs))[:, 0], predict_ms(archs)])

        table = search(part, evaluate, num_evaluations=NUM_JOINT, free={"latency_ms": predict_ms})
        found.append(table.assign(kind=kind, top1_percent=100 - table["top1_error_percent"]))
    everything = pd.concat(found, ignore_index=True)
    picks = []
    for limit_ms in np.quantile(everything["latency_ms"], [0.3, 0.6]):
        for kind in spaces:
            own = everything[(everything["kind"] == kind) & (everything["latency_ms"] <= limit_ms)]
            if len(own):
                picks.append({"limit_ms": limit_ms, **own.loc[own["top1_percent"].idxmax()].to_dict()})
    table = pd.DataFrame(picks)
    table["measured_latency_ms"] = measured_ms(list(table["arch"]))
    for frame, name in ((everything, "precision"), (table, "precision_picks")):
        rows = frame.assign(arch=[arch.to_json() for arch in frame["arch"]]).round(5)
        write_csv_atomic(options.out / "search" / f"{name}.csv", rows)


# -- the page ----------------------------------------------------------------------------------------------------------


def efficiency_tables(rows: pd.DataFrame) -> dict[str, str]:
    """Means and standard deviations over seeds, for each truth."""
    tables = {}
    for truth, part in rows.fillna({"truth": "as evaluated"}).groupby("truth"):
        means, stds = (
            part.pivot_table("hypervolume_share_percent", "method", "num_evaluations", name, sort=False)
            for name in ("mean", "std")
        )
        cells = [
            [method, *("" if np.isnan(row[num]) else f"{row[num]:.2f} ± {stds.loc[method, num]:.2f}" for num in means)]
            for method, row in means.iterrows()
        ]
        tables[str(truth)] = table_text(["method", *means.columns], cells)
    return tables


def exact_table(rows: pd.DataFrame) -> str:
    """What NSGA-II has of the hypervolume, and how many points its subnets lack: on average, and at most."""

    def far(row: Any, num: int) -> str:
        share, mean, largest = (
            row[f"{name}_{num}"] for name in ("hypervolume_percent", "mean_points", "largest_points")
        )
        return f"{share:.1f} %, {mean:.2f} ({largest:.2f})"

    cells = [
        [
            row["device"],
            row["points"],
            f"{row['front_seconds']:.2f}",
            *(far(row, num) for num in NUM_GENERATIONS),
            f"{row['two_limits_seconds']:.2f} (and {row['other_device']})",
        ]
        for _, row in rows.iterrows()
    ]
    evaluations = [f"NSGA-II of {200 * num:,}" for num in NUM_GENERATIONS]
    return table_text(["device", "points", "front, s", *evaluations, "best within two limits, s"], cells)


def predictor_table(rows: pd.DataFrame) -> str:
    taus = rows.pivot_table("kendall_tau", ["predictor", "inputs"], "num_samples", sort=False)
    times = rows[rows["num_samples"] == max(NUM_SAMPLES)].set_index(["predictor", "inputs"])["fit_seconds"]
    return table_text(
        ["predictor", "inputs", *taus.columns, f"fit at {max(NUM_SAMPLES)}, s"],
        [[*key, *(f"{tau:.3f}" for tau in row), f"{times.get(key, np.nan):.2f}"] for key, row in taus.iterrows()],
    )


def precision_part(folder: Path) -> dict[str, Any]:
    found, picks = pd.read_csv(folder / "precision.csv"), pd.read_csv(folder / "precision_picks.csv")
    (errors,) = read_rows(folder / "precision_held_out.csv")
    columns = ["top1_error_percent", "latency_ms"]
    rows = []
    for kind, own in found.groupby("kind", sort=False):
        cells = (
            f"{row.latency_ms:.3f} ms, {row.measured_latency_ms:.3f} ms, {row.top1_percent:.2f} %"
            for row in picks[picks["kind"] == kind].itertuples()
        )
        volume = hypervolume(own[columns].to_numpy(), found[columns].max().to_numpy())
        rows.append([kind, f"{volume:.3f}", "; ".join(cells)])
    return {
        "num_joint": NUM_JOINT,
        "num_held_out": NUM_MIXED - NUM_MIXED // 2,
        "errors": errors,
        "table": table_text(["space", "hypervolume, percent x ms", "picks: predicted, measured, accuracy"], rows),
    }


def write_page(options: argparse.Namespace) -> None:
    """``search.md``, from the rows that are there."""
    folder = options.out / "search"
    speeds = [[row["what"], f"{row['value']:,.2f}"] for row in read_rows(folder / "speed.csv")]
    shares = read_rows(folder / "efficiency.csv")
    scores = read_rows(folder / "predictors.csv")
    fronts = read_rows(folder / "exact.csv")
    text = page(
        "search.md",
        speed=table_text(["", ""], speeds) if speeds else "",
        exact=exact_table(pd.DataFrame(fronts)) if fronts else "",
        efficiency=efficiency_tables(pd.DataFrame(shares + read_rows(folder / "dynast.csv"))) if shares else {},
        num_test=NUM_TEST,
        num_splits=NUM_SPLITS,
        predictors=predictor_table(pd.DataFrame(scores)) if scores else "",
        precision=precision_part(folder) if (folder / "precision_picks.csv").exists() else None,
    )
    write_text_atomic(options.out / "search.md", text)


def main() -> None:
    parser = parser_of(__doc__, SECTIONS)
    parser.add_argument("--run", type=Path, help="run folder of a Fashion-MNIST supernet (ofa_mobilenetv3_tiny)")
    parser.add_argument("--data-root", help="where the run's data is, if it moved")
    parser.add_argument("--table", type=Path, default=Path("latency_tables/cpu-1t/ofa_mobilenetv3_w1.0.csv"))
    parser.add_argument("--tables", type=Path, default=Path("latency_tables"), help="of all devices")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--work", type=Path, default=Path("runs/bench_search"))
    parser.add_argument("--jobs", type=int, default=-1, help="processes that evaluate; -1 is one per core")
    options = parsed(parser, None, SECTIONS)
    for name in options.sections:
        if name not in ("speed", "exact") and options.run is None:
            parser.error(f"section {name} needs --run, a trained supernet")
    for name in options.sections:
        {"speed": speed, "exact": exact, "efficiency": efficiency, "predictors": predictors, "precision": precision}[
            name
        ](options)
        write_page(options)
    say(f"done; see {options.out / 'search.md'}")


if __name__ == "__main__":
    main()
