"""Measure training: subnets against the same trained alone, strategies at equal cost, BN calibration, throughput.

    python scripts/bench_training.py [gap] [strategies] [calibration] [throughput] [--data FOLDER] [--out docs/results]

Leaves ``training.md`` in ``--out`` and one row per finished piece of work in ``--out``/training/*.csv. Stopped at any
moment, the same command goes on: what has a row is not done again, a run that was being trained continues from its last
checkpoint in ``--work``. Settings are part of a row's key, so other settings give other rows beside those there are.

- gap: a supernet (recipe bignas) and some of its subnets, each trained alone (recipe plain) for as many epochs.
- strategies: recipes at the training cost of bignas, counted in multiply-accumulates; gap's longer run beside them.
- calibration: accuracy and time of BN calibration on few and many images.
- throughput: a sandwich step against the steps of the same four subnets as networks of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import hashlib
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from bench_helper import median_and_range, parsed, parser_of, read_rows, say, table_text
from bench_helper import page as filled
from scipy.stats import kendalltau
from steps import (
    CALIBRATION_BATCH,
    THROUGHPUT_MODEL,
    StepSettings,
    calibration_times,
    machine,
    num_threads,
    step_times,
)
from torch import nn

from ofa.config import read_yaml
from ofa.cost import CostModel, macs
from ofa.files import write_csv_atomic, write_text_atomic
from ofa.progress import progress_bar
from ofa.search.sampling import sample_distinct
from ofa.space import Arch, SearchSpace
from ofa.supernet import create_supernet
from ofa.training import (
    Recipe,
    Run,
    StoppedError,
    SubnetEvaluator,
    judge,
    load_recipe,
    train,
)
from ofa.training.evaluation import Progress
from ofa.training.recipe import RECIPES_DIR
from ofa.training.samplers.sorted import Sorted, nested_chain

SECTIONS = ("gap", "strategies", "calibration", "throughput")
MODEL = "ofa_mobilenetv3_tiny"
DIGITS = "digits"
STRATEGIES = ("bignas", "deps", "alphanet", "progressive_shrinking", "sortednet")
WARMUP_SHARE = 0.05  # 3 of 60 epochs, as in the recipes, however long the run is
HELD_BACK = 4096  # images for BN calibration, and as many for the search split
CALIBRATION_IMAGES = (0, 256, 1024, 4096)
NUM_CHAIN = 10
POOL = 1000
PROBE_BATCH = 4


# -- what is done, and what is kept of it ------------------------------------------------------------------------------


def digest(values: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that change with any value."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


class Rows:
    """A CSV file with one row per finished piece of work, found by its ``key``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.by_key = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        return {row["key"]: row for row in read_rows(self.path, key=str, run=str)}

    def __contains__(self, key: str) -> bool:
        return key in self.by_key

    def get(self, key: str) -> dict[str, Any] | None:
        return self.by_key.get(key)

    def add(self, key: str, values: Mapping[str, Any]) -> None:
        """Put a row on disk, whole or not at all."""
        self.by_key = self._read()  # somebody else may have added some
        self.by_key[key] = {"key": key, **values, "date": str(datetime.date.today())}
        write_csv_atomic(self.path, pd.DataFrame(list(self.by_key.values())))


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run to be trained.

    Args:
        arch: JSON of the only subnet that trains, or nothing.
    """

    recipe: str
    epochs: float
    seed: int
    batch_size: int
    data: str
    limit: int | None
    resolutions: tuple[int, ...]
    device: str
    arch: str = ""

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Everything that decides the result, the recipe's own contents too."""
        contents = read_yaml(RECIPES_DIR / f"{self.recipe}.yaml", kind="recipe")
        contents.pop("description", None)
        return {
            "recipe": self.recipe,
            "recipe_sha256": digest(contents),
            "model": MODEL,
            "resolutions": " ".join(map(str, self.resolutions)),
            "data": self.data,
            "limit": self.limit or 0,
            "epochs": round(self.epochs, 4),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "device": self.device,
            "arch": self.arch,
        }

    @cached_property
    def key(self) -> str:
        return digest(self.settings)

    @property
    def title(self) -> str:
        what = arch_text(Arch(json.loads(self.arch))) if self.arch else f"seed {self.seed}"
        return f"{self.recipe} {what}, {epochs_text(self.epochs)}"

    def load(self, root: Path) -> Recipe:
        """The recipe with its overrides."""
        words = [
            f"model.name={MODEL}",
            f"model.resolution={list(self.resolutions)}",
            *data_words(self.data, root, self.limit),
            f"train.epochs={round(self.epochs, 4)}",
            f"train.warmup_epochs={round(WARMUP_SHARE * self.epochs, 4)}",
            f"train.batch_size={self.batch_size}",
            f"train.seed={self.seed}",
            f"train.device={self.device}",
            "train.eval_every_epochs=0",
        ]
        return load_recipe(self.recipe, [*words, *([f"strategy.sampler.arch={self.arch}"] if self.arch else [])])


def data_words(data: str, root: Path, limit: int | None) -> list[str]:
    words = [f"data.limit={limit}"] if limit else []
    if data == DIGITS:
        return [f"data.name={DIGITS}", *words]
    held_back = [f"data.{split}_share={HELD_BACK}" for split in ("calibration", "search")]
    return ["data.name=idx", f"data.root={json.dumps(str(root))}", *held_back, *words]


@contextlib.contextmanager
def showing(title: str) -> Iterator[Progress]:
    """A progress callback: a bar on a terminal, a line every half minute elsewhere."""
    if sys.stderr.isatty():
        with progress_bar() as bar:
            yield lambda done, total, what: bar(done, total, f"{title}: {what}")
    else:
        yield log_lines(title)


def log_lines(title: str, every_seconds: float = 30.0) -> Progress:
    last = time.monotonic()

    def log(done: int, total: int, what: str) -> None:
        nonlocal last
        if time.monotonic() - last >= every_seconds:
            last = time.monotonic()
            say(f"  {title}: {what}  {done}/{total}")

    return log


class Bench:
    """Does what has no row yet; everything that is asked for twice is done once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.data = DIGITS if str(options.data) == DIGITS else options.data.name
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        folder = options.out / "training"
        self.runs = Rows(folder / "runs.csv")
        self.accuracies = Rows(folder / "accuracies.csv")
        self.costs = Rows(folder / "costs.csv")
        self.calibration_times = Rows(folder / "calibration_times.csv")
        self.steps = Rows(folder / "steps.csv")
        self._evaluator: SubnetEvaluator | None = None

    # -- the space and subnets of it -----------------------------------------------------------------------------------

    @cached_property
    def cost(self) -> CostModel:
        """MACs of one image."""
        return macs(create_supernet(MODEL, num_classes=10, resolution=list(self.options.resolutions)))

    @property
    def space(self) -> SearchSpace:
        return self.cost.space

    def macs(self, archs: Sequence[Arch]) -> npt.NDArray[np.float64]:
        return self.cost.predict(archs)

    @cached_property
    def gap_archs(self) -> list[Arch]:
        """The bounds, and of a pool the ones at even quantiles of MACs; ascending."""
        pool = self.space.to_archs(sample_distinct(self.space, POOL, np.random.default_rng(0), set()))
        costs = self.macs(pool)
        shares = np.linspace(0, 1, self.options.gap_archs)[1:-1]
        middle = [pool[int(np.argmin(np.abs(costs - np.quantile(costs, share))))] for share in shares]
        return [self.space.smallest(), *middle, self.space.largest()]

    @cached_property
    def fixed_archs(self) -> list[Arch]:
        """The bounds and random subnets, always the same; ascending in MACs."""
        bounds = self.space.to_population([self.space.smallest(), self.space.largest()])
        seen = set(self.space.row_keys(bounds).tolist())
        drawn = sample_distinct(self.space, self.options.num_archs - 2, np.random.default_rng(1), seen)
        archs = self.space.to_archs(np.concatenate([bounds, drawn]))
        return [archs[position] for position in np.argsort(self.macs(archs), kind="stable")]

    @cached_property
    def chain_archs(self) -> list[Arch]:
        """Some of the nested sub-models that sortednet trains; ascending."""
        sampler = load_recipe("sortednet").strategy.sampler
        assert isinstance(sampler, Sorted)
        chain = nested_chain(self.space, sampler.num_models)
        rows = np.unique(np.linspace(0, len(chain) - 1, NUM_CHAIN).round().astype(int))
        return self.space.to_archs(chain[rows])

    # -- training and judging ------------------------------------------------------------------------------------------

    def job(self, recipe: str, *, epochs: float, seed: int, arch: Arch | None = None) -> Job:
        return Job(
            recipe=recipe,
            epochs=epochs,
            seed=seed,
            batch_size=self.options.batch_size,
            data=self.data,
            limit=self.options.limit,
            resolutions=tuple(self.options.resolutions),
            device=self.device,
            arch="" if arch is None else arch.to_json(),
        )

    def train(self, job: Job) -> Run:
        """Train, or continue, or open what was trained; afterwards the run has its row."""
        folder = self.options.work / f"{job.recipe}-{job.key}"
        if not (folder / "supernet.json").exists():
            say(f"training {job.title} ({folder.name})")
        with showing(job.title) as progress:
            run = train(job.load(self.options.data), folder, resume=True, progress=progress)
        if job.key not in self.runs:
            metrics = pd.read_csv(folder / "metrics.csv")
            measured = {
                "num_train": run.info["data"]["num_train"],
                "images": int(metrics["step"].iloc[-1]) * job.batch_size,
                "train_macs": float(metrics["train_macs"].iloc[-1]),
                "seconds": round(float(metrics["seconds"].sum()), 1),
                "threads": torch.get_num_threads(),
            }
            self.runs.add(job.key, {**job.settings, **measured})
        return run

    def evaluator(self, run: Run, num_images: int) -> SubnetEvaluator:
        """Of the run's subnets; the images, which all runs share, are prepared once."""
        supernet = run.supernet().to(self.device)
        if self._evaluator is None:
            self._evaluator = SubnetEvaluator(supernet, run.data(), batch_size=CALIBRATION_BATCH)
        self._evaluator.supernet = supernet
        self._evaluator.num_calibration_images = num_images
        return self._evaluator

    def judge(self, job: Job, archs: Sequence[Arch], *, num_images: int = HELD_BACK) -> None:
        """See to it that the run is trained and that these subnets of it have test accuracies."""
        missing = [arch for arch in dict.fromkeys(archs) if accuracy_key(job, arch, num_images) not in self.accuracies]
        if not missing and job.key in self.runs:
            return
        run = self.train(job)
        evaluator = self.evaluator(run, num_images)
        with showing(f"{job.title}: BN calibration on {num_images} images") as progress:
            for done, arch in enumerate(missing, start=1):
                row = {
                    "run": job.key,
                    "recipe": job.recipe,
                    "calibration_images": num_images,
                    "macs": int(self.macs([arch])[0]),
                    "top1_percent": round(accuracy_of(evaluator, arch), 3),
                    "arch": arch.to_json(),
                }
                self.accuracies.add(accuracy_key(job, arch, num_images), row)
                progress(done, len(missing), "subnets")
        self.write_page()

    def top1(self, job: Job, archs: Sequence[Arch], *, num_images: int = HELD_BACK) -> npt.NDArray[np.float64] | None:
        """Test accuracies, percent, shape ``(N,)``, if all are there."""
        if job.key not in self.runs:
            return None
        rows = [self.accuracies.get(accuracy_key(job, arch, num_images)) for arch in archs]
        found = [row["top1_percent"] for row in rows if row is not None]
        return np.array(found) if len(found) == len(rows) else None

    def own_top1(self, jobs: Sequence[Job], archs: Sequence[Arch]) -> npt.NDArray[np.float64] | None:
        """Test accuracies of subnets, each of a run of its own, shape ``(N,)``, if all are there."""
        scores = [self.top1(job, [arch]) for job, arch in zip(jobs, archs, strict=True)]
        found = [score for score in scores if score is not None]
        return np.concatenate(found) if len(found) == len(scores) else None

    # -- gap -----------------------------------------------------------------------------------------------------------

    def supernet_job(self, seed: int) -> Job:
        return self.job("bignas", epochs=self.options.epochs, seed=seed)

    def alone_job(self, arch: Arch, *, epochs: float, seed: int) -> Job:
        return self.job("plain", epochs=epochs, seed=seed, arch=arch)

    def gap(self) -> None:
        for seed in self.options.seeds:
            self.judge(self.supernet_job(seed), self.gap_archs)
            for arch in self.gap_archs:
                self.judge(self.alone_job(arch, epochs=self.options.epochs, seed=seed), [arch])

    # -- strategies ----------------------------------------------------------------------------------------------------

    @property
    def base_job(self) -> Job:
        """What gives the budget."""
        return self.job("bignas", epochs=self.options.strategy_epochs, seed=self.options.strategy_seed)

    def probe_key(self, recipe: str) -> str:
        job = self.job(recipe, epochs=1, seed=0)
        names = ("recipe", "recipe_sha256", "model", "resolutions")
        return digest({name: job.settings[name] for name in names} | {"steps": self.options.probe_steps})

    def probe(self, recipe: str) -> None:
        """Find what an image of a recipe's run costs, by a short run of small batches that has all of its phases."""
        key, steps = self.probe_key(recipe), self.options.probe_steps
        if key in self.costs:
            return
        limit = 100 * PROBE_BATCH
        words = [
            f"model.name={MODEL}",
            f"model.resolution={list(self.options.resolutions)}",
            *data_words(DIGITS, Path(), limit),
            f"train.batch_size={PROBE_BATCH}",
            f"train.epochs={steps / 100}",
            "train.learning_rate=0.001",
            "train.eval_every_epochs=0",
            "train.device=cpu",
        ]
        with tempfile.TemporaryDirectory() as folder, showing(f"what {recipe} costs") as progress:
            train(load_recipe(recipe, words), Path(folder) / "probe", progress=progress)
            last = pd.read_csv(Path(folder) / "probe" / "metrics.csv").iloc[-1]
        row = {
            "recipe": recipe,
            "resolutions": " ".join(map(str, self.options.resolutions)),
            "steps": steps,
            "macs_per_image": float(last["train_macs"]) / (int(last["step"]) * PROBE_BATCH),
        }
        self.costs.add(key, row)

    def planned(self, recipe: str, share: float) -> Job | None:
        """The run of a recipe that costs a share of the budget, if enough is known to tell its epochs."""
        epochs = share * self.options.strategy_epochs
        if recipe != "bignas":
            base, own = self.costs.get(self.probe_key("bignas")), self.costs.get(self.probe_key(recipe))
            if base is None or own is None:
                return None
            epochs *= base["macs_per_image"] / own["macs_per_image"]
        return self.job(recipe, epochs=epochs, seed=self.options.strategy_seed)

    def archs_of(self, recipe: str) -> list[Arch]:
        """Subnets that a recipe's run is judged by."""
        return [*self.fixed_archs, *self.gap_archs, *(self.chain_archs if recipe == "sortednet" else [])]

    @property
    def longer_share(self) -> float:
        """Cost of gap's run of bignas, as a share of the budget."""
        return float(self.options.epochs / self.options.strategy_epochs)

    def strategies(self) -> None:
        self.judge(self.base_job, self.archs_of("bignas"))
        self.probe("bignas")
        for recipe in STRATEGIES:
            self.probe(recipe)
            job = self.planned(recipe, 1.0)
            assert job is not None
            self.judge(job, self.archs_of(recipe))
        self.judge(self.job("bignas", epochs=self.options.epochs, seed=self.options.strategy_seed), self.fixed_archs)
        self.gap()  # its subnets that are trained alone

    def alone_top1(self) -> npt.NDArray[np.float64] | None:
        """Mean over seeds of the accuracies of gap's subnets, each trained alone, if all are there."""
        found = []
        for seed in self.options.seeds:
            jobs = [self.alone_job(arch, epochs=self.options.epochs, seed=seed) for arch in self.gap_archs]
            scores = self.own_top1(jobs, self.gap_archs)
            if scores is None:
                return None
            found.append(scores)
        return np.mean(found, axis=0)

    # -- BN calibration ------------------------------------------------------------------------------------------------

    def calibration(self) -> None:
        job = self.supernet_job(self.options.seeds[0])
        for num_images in CALIBRATION_IMAGES:
            self.judge(job, self.fixed_archs, num_images=num_images)
        rng = np.random.default_rng(2)
        for num_images in CALIBRATION_IMAGES[1:]:
            missing = [
                arch for arch in self.fixed_archs if self.time_key(job, arch, num_images) not in self.calibration_times
            ]
            if missing:
                evaluator = self.evaluator(self.train(job), num_images)
            for arch in missing:
                row = {
                    "run": job.key,
                    "machine": machine(self.device),
                    "threads": torch.get_num_threads(),
                    "calibration_images": num_images,
                    "pairs": self.options.pairs,
                    **calibration_times(evaluator, arch, num_images=num_images, pairs=self.options.pairs, rng=rng),
                    "arch": arch.to_json(),
                }
                self.calibration_times.add(self.time_key(job, arch, num_images), row)

    def time_key(self, job: Job, arch: Arch, num_images: int) -> str:
        return digest(
            {
                "run": job.key,
                "arch": arch.to_json(),
                "images": num_images,
                "machine": machine(self.device),
                "threads": torch.get_num_threads(),
                "pairs": self.options.pairs,
            }
        )

    # -- throughput ----------------------------------------------------------------------------------------------------

    @property
    def step_settings(self) -> list[StepSettings]:
        small = StepSettings(
            machine=machine("cpu"),
            device="cpu",
            threads=self.options.step_threads,
            batch_size=self.options.step_batch,
            resolution=self.options.step_resolution,
            rounds=self.options.rounds,
        )
        if self.device != "cuda":
            return [small]
        large = dataclasses.replace(small, machine=machine("cuda"), device="cuda", batch_size=256, resolution=224)
        return [dataclasses.replace(large, rounds=5 * large.rounds, compile=compile) for compile in (False, True)] + [
            small
        ]

    def step_key(self, settings: StepSettings, draw: int) -> str:
        return digest({**dataclasses.asdict(settings), "model": THROUGHPUT_MODEL, "draw": draw})

    def throughput(self) -> None:
        for settings in self.step_settings:
            for draw in range(self.options.draws):
                if self.step_key(settings, draw) in self.steps:
                    continue
                say(f"steps on {settings.text}: draw {draw + 1} of {self.options.draws}")
                with num_threads(settings.threads):
                    times = step_times(settings, draw=draw)
                row = {"model": THROUGHPUT_MODEL, **dataclasses.asdict(settings), "draw": draw, **times}
                self.steps.add(self.step_key(settings, draw), row)

    # -- the page ------------------------------------------------------------------------------------------------------

    def write_page(self) -> None:
        write_text_atomic(self.options.out / "training.md", "\n".join(page(self)) + "\n")


def accuracy_key(job: Job, arch: Arch, num_images: int) -> str:
    return digest({"run": job.key, "arch": arch.to_json(), "calibration_images": num_images, "split": "test"})


def accuracy_of(evaluator: SubnetEvaluator, arch: Arch) -> float:
    """Percent of the test split, after BN calibration if the evaluator has images for it."""
    if evaluator.num_calibration_images:
        return float(evaluator.values([arch], split="test")[0])
    module: nn.Module = evaluator.supernet.extract(arch).to(memory_format=torch.channels_last)
    return judge(module, evaluator.batches("test", arch), evaluator.task.scorer(None)).value


# -- the page ----------------------------------------------------------------------------------------------------------


def arch_text(arch: Arch) -> str:
    """``28 px, depths 3-3-2-1``."""
    return f"{arch['resolution']} px, depths {depths(arch)}"


def depths(arch: Arch) -> str:
    return "-".join(str(value) for name, value in arch.items() if name.endswith(".depth"))


def epochs_text(epochs: float) -> str:
    return f"{epochs:.3g} epoch{'' if epochs == 1 else 's'}"


def cost_text(num_macs: float) -> str:
    """Three digits with their unit."""
    unit, size = ("T", 1e12) if num_macs >= 1e12 else ("G", 1e9)
    return f"{float(f'{num_macs / size:.3g}'):g} {unit}MAC"


def duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def shown_command(words: Sequence[str]) -> str:
    """The command line without folders of this machine."""
    return " ".join(
        ["python scripts/bench_training.py", *(Path(word).name if Path(word).is_absolute() else word for word in words)]
    )


def page(bench: Bench) -> list[str]:
    """Everything that is known with the present settings."""
    options = bench.options
    text = filled(
        "training.md",
        command=shown_command(options.words),
        where=machine(bench.device),
        threads=torch.get_num_threads(),
        load=os.getloadavg()[0],
        options=options,
        data=bench.data,
        model=MODEL,
        num_subnets=bench.space.num_archs,
        warmup_percent=100 * WARMUP_SHARE,
        gap=gap_page(bench),
        strategies=strategies_page(bench),
        calibration=calibration_page(bench),
        throughput=throughput_page(bench),
    )
    return text.splitlines()


@dataclass(frozen=True)
class SeedGap:
    """Accuracies of one seed's subnets, percent, and what they cost."""

    seed: int
    alone: npt.NDArray[np.float64]
    supernet: npt.NDArray[np.float64]
    supernet_run: Mapping[str, Any]
    alone_runs: Sequence[Mapping[str, Any]]

    @property
    def gaps(self) -> npt.NDArray[np.float64]:
        return self.supernet - self.alone


def seed_gap(bench: Bench, seed: int) -> SeedGap | None:
    """What is there of a seed, if all is there."""
    archs, job = bench.gap_archs, bench.supernet_job(seed)
    jobs = [bench.alone_job(arch, epochs=bench.options.epochs, seed=seed) for arch in archs]
    supernet, alone = bench.top1(job, archs), bench.own_top1(jobs, archs)
    if supernet is None or alone is None:
        return None
    return SeedGap(seed, alone, supernet, bench.runs.by_key[job.key], [bench.runs.by_key[own.key] for own in jobs])


def gap_page(bench: Bench) -> dict[str, Any] | None:
    archs = bench.gap_archs
    found = [gap for seed in bench.options.seeds if (gap := seed_gap(bench, seed)) is not None]
    if not found:
        return None
    rows = [
        [
            gap.seed,
            f"{arch['resolution']} px",
            depths(arch),
            f"{num_macs / 1e6:.2f} M",
            f"{alone:.2f}",
            f"{supernet:.2f}",
            f"{supernet - alone:+.2f}",
        ]
        for gap in found
        for arch, num_macs, alone, supernet in zip(archs, bench.macs(archs), gap.alone, gap.supernet, strict=True)
    ]
    by_seed = {str(gap.seed): gap.gaps for gap in found}
    if len(found) > 1:
        by_seed["all"] = np.concatenate([gap.gaps for gap in found])
    summary = [[seed, f"{gaps.mean():+.2f}", f"{gaps.min():+.2f}"] for seed, gaps in by_seed.items()]
    return {
        "num_archs": len(archs),
        "table": table_text(["seed", "resolution", "depths", "MACs", "alone %", "supernet %", "gap"], rows),
        "summary": table_text(["seed", "mean gap", "worst gap"], summary),
        "costs": gap_costs(found),
    }


def gap_costs(found: Sequence[SeedGap]) -> str:
    """What the supernets cost against the subnets one by one."""
    rows = []
    for gap in found:
        row = [str(gap.seed)]
        for what, text in (("train_macs", cost_text), ("seconds", duration)):
            own, alone = gap.supernet_run[what], [run[what] for run in gap.alone_runs]
            row += [text(own), text(sum(alone)), f"{pays_off_after(own, alone):.1f}"]
        rows.append(row)
    return table_text(["seed", *["supernet", "all alone", "pays off after"] * 2], rows)


def pays_off_after(supernet: float, alone: Sequence[float]) -> float:
    """Number of targets at which the supernet costs as much as training a network for each."""
    return supernet / float(np.mean(alone))


def rank_correlation(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> str:
    """Kendall's tau, as text."""
    tau = float(kendalltau(a, b).statistic)
    return "not defined" if np.isnan(tau) else f"{tau:.2f}"


def strategies_page(bench: Bench) -> dict[str, Any] | None:
    base, rows = bench.runs.get(bench.base_job.key), strategy_rows(bench)
    if base is None or not rows:
        return None
    header = ["recipe", "epochs", "cost", "of budget", "time", "mean %", "worst %", "best %", "tau", "own chain %"]
    return {
        "budget": cost_text(base["train_macs"]),
        "num_archs": len(bench.fixed_archs),
        "num_alone": len(bench.gap_archs),
        "num_chain": len(bench.chain_archs),
        "table": table_text(header, rows),
        **curve_page(bench),
    }


def strategy_rows(bench: Bench) -> list[list[str]]:
    alone, base = bench.alone_top1(), bench.runs.get(bench.base_job.key)
    rows = []
    for recipe in STRATEGIES:
        job = bench.planned(recipe, 1.0)
        scores = bench.top1(job, bench.fixed_archs) if job else None
        if job is None or base is None or scores is None:
            continue
        run, shared = bench.runs.by_key[job.key], bench.top1(job, bench.gap_archs)
        chain = bench.top1(job, bench.chain_archs) if recipe == "sortednet" else None
        rows.append(
            [
                f"`{recipe}`",
                f"{job.epochs:.2f}",
                cost_text(run["train_macs"]),
                f"{100 * run['train_macs'] / base['train_macs']:.1f} %",
                duration(run["seconds"]),
                f"{scores.mean():.2f}",
                f"{scores.min():.2f}",
                f"{scores.max():.2f}",
                "" if alone is None or shared is None else rank_correlation(shared, alone),
                "" if chain is None else f"{chain.mean():.2f}, {chain.min():.2f}",
            ]
        )
    return rows


def curve_page(bench: Bench) -> dict[str, str | None]:
    """What DepS needs to be as accurate, as far as two budgets of bignas tell."""
    points: dict[str, list[tuple[float, float]]] = {"bignas": [], "deps": []}
    rows = []
    for recipe, share in (("deps", 1.0), ("bignas", 1.0), ("bignas", bench.longer_share)):
        job = bench.planned(recipe, share)
        scores = bench.top1(job, bench.fixed_archs) if job else None
        if job is None or scores is None:
            return {"curve": None}
        cost = float(bench.runs.by_key[job.key]["train_macs"])
        points[recipe].append((cost, float(scores.mean())))
        rows.append([f"`{recipe}`", f"{share:g}", cost_text(cost), f"{scores.mean():.2f}", f"{scores.min():.2f}"])
    return {
        "curve": table_text(["recipe", "share of budget", "cost", "mean %", "worst %"], rows),
        "saving": factor_text(points["deps"][0], points["bignas"]),
    }


def factor_text(ours: tuple[float, float], reference: Sequence[tuple[float, float]]) -> str:
    """The sentence on what a run of ``(cost, accuracy)`` saves, from such points of the reference."""
    cost, accuracy = ours
    needed = cost_at(reference, accuracy)
    reached = f"Here `deps` reaches {accuracy:.2f} % at {cost_text(cost)}"
    if needed is None:
        longest, best = max(reference)
        return f"{reached}; `bignas` stays below that at {longest / cost:.2f} times the cost ({best:.2f} %)."
    if needed <= min(reference)[0]:
        return f"{reached}; `bignas` needs less than {cost_text(needed)} for it."
    return f"{reached}; `bignas` needs {cost_text(needed)} for it (interpolated), {needed / cost:.2f} times that."


def cost_at(curve: Sequence[tuple[float, float]], accuracy: float) -> float | None:
    """Least cost at which a curve of ``(cost, accuracy)``, linear between its points, reaches an accuracy.

    Returns:
        The cost of the first point if that is accurate enough already; ``None`` if no point is.
    """
    ordered = sorted(curve)
    if ordered[0][1] >= accuracy:
        return ordered[0][0]
    for (cost, low), (next_cost, high) in itertools.pairwise(ordered):
        if low < accuracy <= high:
            return cost + (next_cost - cost) * (accuracy - low) / (high - low)
    return None


def calibration_page(bench: Bench) -> dict[str, Any] | None:
    job, archs = bench.supernet_job(bench.options.seeds[0]), bench.fixed_archs
    rows = []
    for num_images in CALIBRATION_IMAGES:
        scores = bench.top1(job, archs, num_images=num_images)
        if scores is not None:
            found = [bench.calibration_times.get(bench.time_key(job, arch, num_images)) for arch in archs]
            ratios = [row["ratio"] for row in found if row is not None]
            timed = median_and_range(ratios) if len(ratios) == len(archs) else ""
            rows.append([f"{num_images:,}", f"{scores.mean():.2f}", f"{scores.min():.2f}", timed])
    if not rows:
        return None
    return {
        "num_archs": len(archs),
        "seed": job.seed,
        "epochs": job.epochs,
        "batch": CALIBRATION_BATCH,
        "table": table_text(["images", "mean %", "worst %", "time / forward pass"], rows),
    }


def throughput_page(bench: Bench) -> dict[str, Any] | None:
    rows = []
    for settings in bench.step_settings:
        found = [bench.steps.get(bench.step_key(settings, draw)) for draw in range(bench.options.draws)]
        done = [row for row in found if row is not None]
        if done:
            rows.append(
                [
                    settings.text,
                    len(done),
                    f"{np.median([row['sandwich_ms'] for row in done]):.1f} ms",
                    f"{np.median([row['static_ms'] for row in done]):.1f} ms",
                    median_and_range(row["ratio"] for row in done),
                    "at least 0.95",
                ]
            )
    if not rows:
        return None
    header = ["where", "draws", "sandwich step", "four static steps", "static / sandwich", "target"]
    return {"model": THROUGHPUT_MODEL, "table": table_text(header, rows), "on_gpu": bench.device == "cuda"}


# -- the command -------------------------------------------------------------------------------------------------------


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = parser_of(__doc__, SECTIONS)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/fashion-mnist"), help="IDX files, or digits")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--work", type=Path, default=Path("runs/bench_training"), help="run folders")
    parser.add_argument("--epochs", type=float, default=10, help="gap and calibration")
    parser.add_argument("--strategy-epochs", type=float, default=4, help="epochs of bignas, which give the budget")
    parser.add_argument("--limit", type=int, help="training images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of gap; calibration uses the first")
    parser.add_argument("--strategy-seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[12, 16, 20, 24])
    parser.add_argument("--gap-archs", type=int, default=6, help="trained alone for gap")
    parser.add_argument("--num-archs", type=int, default=30, help="judged in strategies and calibration")
    parser.add_argument("--probe-steps", type=int, default=1000, help="to find what a recipe costs")
    parser.add_argument("--pairs", type=int, default=5, help="timings of BN calibration per subnet")
    parser.add_argument("--step-batch", type=int, default=32)
    parser.add_argument("--step-resolution", type=int, default=128)
    parser.add_argument("--step-threads", type=int, default=2)
    parser.add_argument("--draws", type=int, default=6, help="random subnets of throughput")
    parser.add_argument("--rounds", type=int, default=9, help="timings per draw; five times as many on a GPU")
    parser.add_argument("--threads", type=int, default=1, help="of training and BN calibration")
    options = parsed(parser, words, SECTIONS)
    for name in ("gap_archs", "num_archs"):
        if getattr(options, name) < 2:
            parser.error(f"--{name.replace('_', '-')} must be at least 2, the bounds")
    return options


def main(words: Sequence[str] | None = None) -> int:
    options = parse(words)
    needs_data = any(name != "throughput" for name in options.sections) and str(options.data) != DIGITS
    if needs_data and not any(options.data.glob("train-images*")):
        say(f"no IDX files in {options.data}: name a folder with Fashion-MNIST by --data, or run only `throughput`")
        return 2
    torch.set_num_threads(options.threads)
    bench = Bench(options)
    say(f"{MODEL} at {options.resolutions} px: {bench.space.num_archs:,} subnets")
    doing: dict[str, Callable[[], None]] = {name: getattr(bench, name) for name in SECTIONS}
    try:
        for name in options.sections:
            doing[name]()
            bench.write_page()
            say(f"{name} done; see {options.out / 'training.md'}")
    except StoppedError as error:
        say(f"{error}; the same command goes on")
        return error.exit_status
    except KeyboardInterrupt:
        say("interrupted; what was finished is kept, the same command goes on")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
