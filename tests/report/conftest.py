"""A synthetic run folder that looks like a real one."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ofa.cost import LatencyTable
from ofa.cost.correction import Correction
from ofa.cost.latency_table import TableSlot
from ofa.files import write_csv_atomic, write_json_atomic
from ofa.report.charts import best_of
from ofa.space import Dim, SearchSpace

BUDGETS_MS = (0.8, 1.2, 1.8)
NUM_IMAGES = 2_000


@dataclass(frozen=True)
class World:
    """What a made-up device takes for a block, in milliseconds: more for channels, or more for kernels."""

    scale: float
    per_kernel: float

    def stem_ms(self, resolution: float) -> float:
        return self.scale * (0.25 + 0.0375 * (resolution / 224) ** 2)

    def block_ms(self, resolution: float, kernel: float, expand: float) -> float:
        return self.scale * (resolution / 224) ** 2 * 0.0175 * expand * (0.8 + self.per_kernel * (kernel - 3))


DEVICES = {"cpu-1t": World(1.0, 0.05), "cpu-2t": World(0.62, 0.05), "phone": World(2.4, 0.9)}


def make_space(num_stages: int = 5, depths: tuple[int, ...] = (2, 3, 4)) -> SearchSpace:
    dims = [Dim("resolution", (128, 160, 192, 224))]
    for stage in range(1, num_stages + 1):
        dims.append(Dim(f"stage{stage}.depth", depths))
        for block in range(depths[-1]):
            deeper = tuple(depth for depth in depths if depth > block)
            requires = None if deeper == depths else (f"stage{stage}.depth", deeper)
            dims.append(Dim(f"stage{stage}.block{block}.kernel", (3, 5, 7), requires))
            dims.append(Dim(f"stage{stage}.block{block}.expand", (3, 4, 6), requires))
    return SearchSpace(tuple(dims))


def write_run(run_dir: Path, *, devices: tuple[str, ...] = ("cpu-1t",), seed: int = 0) -> Path:
    """Write a run folder with every file that the report reads: bundles of both formats, in both places."""
    rng = np.random.default_rng(seed)
    space = make_space()
    supernet = {
        "format": 1,
        "model": {"name": "mobilenetv3_large_100", "pretrained": True},
        "num_classes": 10,
        "space": space.to_json(),
        "data": {"name": "fashion-mnist", "classes": [f"class {index}" for index in range(10)], "num_train": 48_000},
        "recipe": {
            "name": "sandwich",
            "strategy": {"sampler": {"name": "sandwich", "num_random": 2}, "loss": {"name": "soft_labels"}},
            "train": {"epochs": 40, "batch_size": 128, "optimizer": "adamw", "learning_rate": 2e-3},
        },
        "versions": {"ofa": "0.1.0", "python": "3.11.9", "torch": "2.15.0", "timm": "1.0.31"},
        "weights_sha256": "4f" * 32,
    }
    write_json_atomic(run_dir / "supernet.json", supernet)
    write_csv_atomic(run_dir / "metrics.csv", _metrics(rng))
    for device in devices:
        _write_device(run_dir, device, space, rng)
    return run_dir


def _metrics(rng: np.random.Generator, num: int = 320, per_epoch: int = 8) -> pd.DataFrame:
    step = np.arange(num) * 47
    epoch = np.arange(num) // per_epoch
    decay = np.exp(-np.arange(num) / 70)

    def loss(start: float, end: float) -> np.ndarray:
        return end + (start - end) * decay + rng.normal(0, 0.03, num) * (0.4 + decay)

    def top1(end: float) -> np.ndarray:
        values = end - (end - 20) * decay + rng.normal(0, 0.3, num)
        return np.where(np.arange(num) % per_epoch == per_epoch - 1, values, np.nan)

    return pd.DataFrame(
        {
            "epoch": epoch,
            "step": step,
            "seconds": step * 0.05,
            "learning_rate": 2e-3 * np.cos(np.arange(num) / num * np.pi / 2),
            "images_per_second": rng.normal(2400, 80, num),
            "loss_largest": loss(2.3, 0.21),
            "loss_smallest": loss(2.35, 0.38),
            "loss_random": loss(2.33, 0.29),
            "largest_top1_percent": top1(94.1),
            "smallest_top1_percent": top1(90.6),
            "weight_decay": 0.05,
        }
    )


def _evaluate(space: SearchSpace, population: np.ndarray, world: World) -> pd.DataFrame:
    """A made-up but plausible truth: latency from the sizes, accuracy with diminishing returns."""
    rows = []
    for arch in space.to_archs(population):
        resolution = float(arch["resolution"])
        pixels = (resolution / 224) ** 2
        macs = 9e6 * pixels
        quality = 0.0
        latency_ms = world.stem_ms(resolution)
        for name, value in arch.items():
            if name.endswith(".expand"):
                kernel = float(arch[name.replace("expand", "kernel")])
                macs += pixels * 4.2e6 * float(value) * (0.8 + 0.05 * kernel)
                quality += 0.2 * np.sqrt(float(value)) + 0.04 * kernel
                latency_ms += world.block_ms(resolution, kernel, float(value))
        rows.append(
            {
                "arch": arch.to_json(),
                "macs": macs,
                "params": macs / pixels / 48 + 1.2e6,
                "predicted_latency_ms": latency_ms,
                "quality": 86.5 + 8.5 * (1 - np.exp(-(quality * pixels**0.5) / 3.4)),
            }
        )
    return pd.DataFrame(rows).round({"macs": 0, "params": 0})


def _search(space: SearchSpace, population: np.ndarray, world: World, rng: np.random.Generator) -> pd.DataFrame:
    """A few generations of mutating the front."""
    for _ in range(6):
        found = _evaluate(space, population, world)
        front = best_of(found.assign(latency_ms=found["predicted_latency_ms"], worth=found["quality"]))
        parents = population[front.index]
        children = space.mutate(parents[rng.integers(len(parents), size=250)], rng, probability=0.08)
        population = np.concatenate([parents, children])
    return front


def _write_device(run_dir: Path, device: str, space: SearchSpace, rng: np.random.Generator) -> None:
    world = DEVICES[device]
    random = _evaluate(space, space.sample_population(300, rng), world)
    random["measured_top1_percent"] = _measured(random["quality"] + rng.normal(0, 0.15, len(random)))
    random["predicted_top1_percent"] = random["quality"]
    searched = _search(
        space, space.to_population([space.arch(json.loads(arch)) for arch in random["arch"]]), world, rng
    )
    searched["predicted_top1_percent"] = searched["quality"]
    searched = searched.iloc[np.linspace(0, len(searched) - 1, 30).astype(int)].reset_index(drop=True)
    searched["measured_top1_percent"] = _measured(searched["quality"] + rng.normal(0, 0.12, len(searched)))
    random["origin"], searched["origin"] = "random", "front"
    random["measured_latency_ms"] = np.nan
    noise = rng.normal(1.005, 0.012, len(searched))
    searched["measured_latency_ms"] = (searched["predicted_latency_ms"] * noise).where(rng.random(len(searched)) < 0.5)

    picks = []
    for budget_ms in BUDGETS_MS:
        budget_ms = round(budget_ms * world.scale, 2)
        keeping = searched[searched["measured_latency_ms"] * 1.03 <= budget_ms]
        row = keeping.loc[keeping["measured_top1_percent"].idxmax()].copy()
        row["budget_ms"], row["origin"] = budget_ms, "pick"
        picks.append(row)
    front = pd.concat([random, searched, pd.DataFrame(picks)])
    front = front.assign(
        latency_ms_p10=front["measured_latency_ms"] * 0.985,
        latency_ms_p90=front["measured_latency_ms"] * 1.06,
        num_images=NUM_IMAGES,
    )
    columns = ["arch", "predicted_top1_percent", "predicted_latency_ms", "measured_top1_percent", "measured_latency_ms"]
    columns += ["macs", "params", "origin", "latency_ms_p10", "latency_ms_p90", "num_images"]
    write_csv_atomic(run_dir / "search" / device / "front.csv", front.reindex(columns=columns))

    entries = [_pick_entry(row) for row in picks]
    selected = {
        "format": 1,
        "device": device,
        "predictor": {"name": "ridge", "kendall_tau": 0.871, "num_samples": 300},
        "hypervolume": {"front": 7.918, "random": 7.441},
        "hypervolume_reference": {"top1_percent": 91.0, "latency_ms": 2.4},
        "hypervolume_num_evaluations": {"front": 330, "random": 330},
        "hypervolume_curve": {
            "num_evaluations": [1, 100, 330],
            "front": [1.0, 7.5, 7.918],
            "random": [1.2, 6.8, 7.441],
        },
        "seed": 0,
        "num_evaluations": 324,
        "picks": entries,
    }
    write_json_atomic(run_dir / "search" / device / "selected.json", selected)
    _table(space, device, world, rng).save(run_dir / "latency_tables" / device / "space.csv")
    for number, pick in enumerate(entries[:2]):
        accuracy = pick["measured_top1_percent"] - 0.4
        latency_ms = {name: value * 0.99 for name, value in pick["latency_ms"].items()}
        if number == 1:  # of format 2, where `ofa deploy` leaves it
            spread = np.linspace(-1, 1, 21) ** 3 * 0.06 + 1
            latency_ms |= {"num_runs": 400, "repeatability_percent": 0.4}
            latency_ms |= {"quantiles": (spread * latency_ms["p50"]).tolist()}
        bundle = {
            "format": 1 + number,
            "arch": pick["arch"],
            "device": device,
            "fingerprint": {"cpu": "Example CPU"},
            "budget_ms": pick["budget_ms"],
            "latency_ms": latency_ms,
            "top1_percent": {"value": accuracy, "low": accuracy - 0.5, "high": accuracy + 0.5},
            "files": {},
        }
        folder = run_dir / ("bundles", "deploy")[number] / f"{device}-{pick['budget_ms']:g}ms"
        write_json_atomic(folder / "bundle.json", bundle)


def _measured(top1_percent: pd.Series) -> pd.Series:
    """What so many images can tell."""
    return (top1_percent.clip(upper=100) * NUM_IMAGES / 100).round() * 100 / NUM_IMAGES


def _pick_entry(row: pd.Series) -> dict[str, Any]:
    p50 = float(row["measured_latency_ms"])
    return {
        "budget_ms": float(row["budget_ms"]),
        "arch": json.loads(row["arch"]),
        "predicted_latency_ms": float(row["predicted_latency_ms"]),
        "predicted_top1_percent": float(row["predicted_top1_percent"]),
        "measured_top1_percent": float(row["measured_top1_percent"]),
        "measured_latency_ms": p50,
        "latency_ms": {"p10": p50 * 0.985, "p50": p50, "p90": p50 * 1.06},
        "macs": int(row["macs"]),
        "params": int(row["params"]),
    }


def _table(space: SearchSpace, device: str, world: World, rng: np.random.Generator) -> LatencyTable:
    """A table that predicts exactly what the world says."""
    resolutions = space["resolution"].values
    parts = {f"stem_r{r}": world.stem_ms(float(r)) for r in resolutions}
    slots = [TableSlot("stem", ("resolution",), np.array([f"stem_r{r}" for r in resolutions], dtype=object))]
    for name in space.names:
        if not name.endswith(".kernel"):
            continue
        block, stage = name.removesuffix(".kernel"), name.split(".")[0]
        dims = ("resolution", f"{stage}.depth", name, f"{block}.expand")
        keys = np.full([len(space[dim].values) for dim in dims], "", dtype=object)
        for position in np.ndindex(*keys.shape):
            r, depth, k, e = (space[dim].values[index] for dim, index in zip(dims, position, strict=True))
            if int(block[-1]) < int(depth):
                keys[position] = f"r{r}_k{k}_e{e}"
                parts[keys[position]] = world.block_ms(float(r), float(k), float(e))
        slots.append(TableSlot(block, dims, keys))
    predicted = _evaluate(space, space.sample_population(40, rng), world)["predicted_latency_ms"].to_numpy()
    ms = np.array(list(parts.values()))
    return LatencyTable(
        space=space,
        slots=slots,
        entries=pd.DataFrame(
            {"key": list(parts), "latency_ms_p10": ms, "latency_ms_p50": ms, "latency_ms_p90": ms, "num_runs": 99}
        ),
        correction=Correction(0.0),
        device=device,
        fingerprint={"cpu": "Example CPU @ 2.60GHz", "cores": 2, "runtime": {"onnxruntime": "1.27.0"}, "threads": 1},
        repeatability_percent=0.61,
        held_out={
            "num": 40,
            "mape_percent": 1.07,
            "bias_percent": -0.2,
            "spearman": 0.994,
            "worst_percent": 3.4,
            "macs_only_spearman": 0.962,
            "depth_only_spearman": 0.831,
            "macs_only_mape_percent": 4.9,
            "depth_only_mape_percent": 13.2,
            "predicted_ms": predicted.tolist(),
            "measured_ms": (predicted * rng.normal(1, 0.013, len(predicted))).tolist(),
        },
    )


@pytest.fixture(scope="session")
def one_device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that no test changes."""
    return write_run(tmp_path_factory.mktemp("one") / "demo")


@pytest.fixture(scope="session")
def three_devices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that no test changes."""
    return write_run(tmp_path_factory.mktemp("three") / "demo", devices=tuple(DEVICES))


@pytest.fixture
def run_dir(one_device: Path, tmp_path: Path) -> Path:
    """A run of one device, to be changed."""
    return shutil.copytree(one_device, tmp_path / "demo")


@pytest.fixture(scope="session")
def space() -> SearchSpace:
    return make_space()
