"""A synthetic run folder that looks like a real one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ofa.files import write_csv_atomic, write_json_atomic
from ofa.report.points import best_of
from ofa.space import Dim, SearchSpace

DEVICES = {"cpu-1t": 1.0, "cpu-2t": 0.62}
BUDGETS_MS = (0.8, 1.2, 1.8)


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
    """Write a run folder with every file that the report reads."""
    rng = np.random.default_rng(seed)
    space = make_space()
    supernet = {
        "format": 1,
        "model": {"name": "mobilenetv3_large_100", "pretrained": True},
        "num_classes": 10,
        "space": space.to_json(),
        "data": {"name": "fashion-mnist", "classes": [f"class {index}" for index in range(10)], "num_train": 48_000},
        "recipe": {"name": "sandwich", "seed": 0, "optimizer": {"name": "adamw", "learning_rate": 2e-3}, "epochs": 40},
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


def _evaluate(space: SearchSpace, population: np.ndarray, scale: float) -> pd.DataFrame:
    """A made-up but plausible truth: latency from the sizes, accuracy with diminishing returns."""
    rows = []
    for arch in space.to_archs(population):
        pixels = (float(arch["resolution"]) / 224) ** 2
        macs = 9e6 * pixels
        quality = 0.0
        for name, value in arch.items():
            if name.endswith(".expand"):
                kernel = float(arch[name.replace("expand", "kernel")])
                macs += pixels * 4.2e6 * float(value) * (0.8 + 0.05 * kernel)
                quality += 0.2 * np.sqrt(float(value)) + 0.04 * kernel
        rows.append(
            {
                "arch": arch.to_json(),
                "macs": macs,
                "params": macs / pixels / 48 + 1.2e6,
                "predicted_latency_ms": scale * (0.25 + macs / 2.4e8),
                "quality": 86.5 + 8.5 * (1 - np.exp(-(quality * pixels**0.5) / 3.4)),
            }
        )
    return pd.DataFrame(rows).round({"macs": 0, "params": 0})


def _search(space: SearchSpace, population: np.ndarray, scale: float, rng: np.random.Generator) -> pd.DataFrame:
    """A few generations of mutating the front."""
    for _ in range(6):
        found = _evaluate(space, population, scale)
        front = best_of(found.assign(latency_ms=found["predicted_latency_ms"], top1_percent=found["quality"]))
        parents = population[front.index]
        children = space.mutate(parents[rng.integers(len(parents), size=250)], rng, probability=0.08)
        population = np.concatenate([parents, children])
    return front


def _write_device(run_dir: Path, device: str, space: SearchSpace, rng: np.random.Generator) -> None:
    scale = DEVICES[device]
    random = _evaluate(space, space.sample_population(300, rng), scale)
    random["measured_top1_percent"] = random["quality"] + rng.normal(0, 0.15, len(random))
    random["predicted_top1_percent"] = random["quality"]
    searched = _search(
        space, space.to_population([space.arch(json.loads(arch)) for arch in random["arch"]]), scale, rng
    )
    searched["predicted_top1_percent"] = searched["quality"]
    searched = searched.iloc[np.linspace(0, len(searched) - 1, 30).astype(int)].reset_index(drop=True)
    searched["measured_top1_percent"] = searched["quality"] + rng.normal(0, 0.12, len(searched))
    random["origin"], searched["origin"] = "random", "front"
    random["measured_latency_ms"] = np.nan
    noise = rng.normal(1.005, 0.012, len(searched))
    searched["measured_latency_ms"] = (searched["predicted_latency_ms"] * noise).where(rng.random(len(searched)) < 0.3)

    picks = []
    for budget_ms in BUDGETS_MS:
        budget_ms = round(budget_ms * scale, 2)
        row = searched[searched["predicted_latency_ms"] < budget_ms * 0.97].iloc[-1].copy()
        row["budget_ms"] = budget_ms
        row["measured_latency_ms"] = row["predicted_latency_ms"] * rng.normal(1.005, 0.008)
        row["measured_top1_percent"] = row["quality"] + rng.normal(0, 0.1)
        row["origin"] = "pick"
        picks.append(row)
    front = pd.concat([random, searched, pd.DataFrame(picks)])
    columns = ["arch", "predicted_top1_percent", "predicted_latency_ms", "measured_top1_percent"]
    columns += ["measured_latency_ms", "macs", "params", "origin"]
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
    write_json_atomic(run_dir / "latency_tables" / device / "space.json", _table(space, device, scale, rng))
    write_csv_atomic(
        run_dir / "latency_tables" / device / "space.csv",
        pd.DataFrame({"key": ["stem"], "latency_ms_p10": [0.1], "latency_ms_p50": [0.1], "latency_ms_p90": [0.12]}),
    )
    for pick in entries[:2]:
        accuracy = pick["measured_top1_percent"] - 0.4
        bundle = {
            "format": 1,
            "arch": pick["arch"],
            "device": device,
            "fingerprint": {"cpu": "Example CPU"},
            "budget_ms": pick["budget_ms"],
            "latency_ms": {name: value * 0.99 for name, value in pick["latency_ms"].items()},
            "top1_percent": {"value": accuracy, "low": accuracy - 0.5, "high": accuracy + 0.5},
            "files": {},
        }
        write_json_atomic(run_dir / "bundles" / f"{device}-{pick['budget_ms']:g}ms" / "bundle.json", bundle)


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


def _table(space: SearchSpace, device: str, scale: float, rng: np.random.Generator) -> dict[str, Any]:
    predicted = _evaluate(space, space.sample_population(40, rng), scale)["predicted_latency_ms"].to_numpy()
    measured = predicted * rng.normal(1, 0.013, len(predicted))
    return {
        "format": 1,
        "device": device,
        "fingerprint": {"cpu": "Example CPU @ 2.60GHz", "cores": 2, "runtime": {"onnxruntime": "1.27.0"}, "threads": 1},
        "space": space.to_json(),
        "repeatability_percent": 0.61,
        "refused": False,
        "held_out": {
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
            "measured_ms": measured.tolist(),
        },
    }


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_run(tmp_path / "demo")


@pytest.fixture
def make_run() -> Callable[..., Path]:
    return write_run


@pytest.fixture(scope="session")
def space() -> SearchSpace:
    return make_space()
