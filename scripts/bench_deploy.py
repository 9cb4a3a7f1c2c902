"""Measure deployment: bundles that keep their promise, their size, what INT8 costs, and how long a bundle takes.

    python scripts/bench_deploy.py bundles --run RUN [--device NAME …] [--num-budgets 5]
    python scripts/bench_deploy.py arch --photos FOLDER [--model ofa_mobilenetv3_w1.0] [--resolution 224]

- bundles: after `ofa search` for each device, `--num-budgets` bundles a device (`ofa deploy`), from its fastest to
  its slowest measured subnet. When all are made, each is verified again in a process of its own, with its latency. The
  accuracy of the same subnets in fp32 and torch stands beside. One row per bundle in OUT/bundles.csv.
- arch: from an architecture to a verified ONNX bundle, step by step, for the subnet of median and of most
  multiply-accumulates among 1,000; twice each, since the first export of a process also imports the exporter.
  Untrained weights; real pictures from a folder with one folder per class. Rows in OUT/arch.csv.

Tables are printed as Markdown.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from bench_helper import parser_of, table_text

import ofa
from ofa.cli import say
from ofa.cost import macs
from ofa.data import DataConfig, load_data
from ofa.deploy import deploy, export_bundle, measure_on, read_candidates, verify_bundle
from ofa.deploy.walk_down import HEADROOM
from ofa.files import write_csv_atomic
from ofa.hardware import load_device
from ofa.progress import progress_bar
from ofa.training import Run, SubnetEvaluator

DEVICES = ("cpu-1t", "cpu-int8-1t", "openvino-1t", "executorch-1t")
OUT = Path("docs/results/deploy")
BYTES_PER_PARAM = {"fp32": 4, "fp16": 2, "int8": 1}


def budgets_of(front_csv: Path, num: int) -> list[float]:
    """Budgets in three digits, from what the fastest measured subnet keeps to what the slowest one does."""
    measured = pd.read_csv(front_csv)["measured_latency_ms"].dropna()
    low, high = 1.06 * (1 + HEADROOM) * measured.min(), (1 + HEADROOM) * measured.max()
    return sorted({float(f"{budget:.3g}") for budget in np.geomspace(low, high, num)})


def bench_bundles(run_dir: Path, devices: Sequence[str], num_budgets: int, data_root: str | None, out: Path) -> None:
    run = Run.open(run_dir)
    evaluator = SubnetEvaluator(run.supernet(), run.data(root=data_root))
    targets = [load_device(name) for name in devices]
    orders = [
        (target, budget, read_candidates(run_dir / "search" / target.name, budget))
        for target in targets
        for budget in budgets_of(run_dir / "search" / target.name / "front.csv", num_budgets)
    ]
    started = time.perf_counter()
    with progress_bar() as progress:
        entries = deploy(
            run,
            orders,
            out=run_dir / "deploy",
            measure_on=lambda target: measure_on(target, rng=np.random.default_rng(0)),
            data_root=data_root,
            num_processes=2,
            progress=progress,
        )
    say(f"{len(entries)} bundles in {time.perf_counter() - started:.0f} s")
    rows = []
    for entry in entries:
        info = entry.info
        if info is None:
            say(f"{entry.path.name}: {entry.error}")
            continue
        again = verified(entry.path, entry.device)
        (latency,) = (check for check in again["checks"] if check["name"] == "latency")
        (torch_percent,) = evaluator.values([run.space.arch(info.arch)], split="test")
        quantization = info.model.quantization
        rows.append(
            {
                "bundle": entry.path.name,
                "target": info.model.target,
                "precision": info.model.precision,
                "budget_ms": info.budget_ms,
                "latency_ms_p50": round(info.latency_ms.p50, 4),
                "again_ms_p50": float(latency["found"].split()[1]),
                "holds": again["ok"],
                "num_too_slow": len(entry.too_slow),
                "difference_of_largest": share_of_largest(entry.path, info.parity.max_abs_difference),
                "tolerance": info.parity.tolerance,
                "top1_percent": round(info.score.value, 2),
                "torch_top1_percent": round(float(torch_percent), 2),
                "float_nodes": len(quantization.float_nodes) if quantization else "",
                "nodes": quantization.num_nodes if quantization else "",
                "model_bytes": sum(info.files[name]["bytes"] for name in info.model.files),
                "params_bytes": info.model.num_params * BYTES_PER_PARAM[info.model.precision],
            }
        )
    finish(rows, out / "bundles.csv")


def share_of_largest(bundle: Path, difference: float) -> float:
    """A difference over the largest output of the sample pictures."""
    return float(f"{difference / np.abs(np.load(bundle / 'samples' / 'outputs.npy')).max():.2g}")


def verified(bundle: Path, device: str) -> dict[str, Any]:
    """`ofa verify`, in a process of its own."""
    command = [sys.executable, "-m", "ofa", "verify", str(bundle), "--device", device, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        sys.exit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-500:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def bench_arch(model: str, photos: Path, resolution: int, out: Path) -> None:
    data = load_data(DataConfig(name="folder", root=str(photos)), image_size=resolution)
    supernet = ofa.create_supernet(model, num_classes=data.num_classes).eval()
    evaluator = SubnetEvaluator(supernet, data)
    population = supernet.space.sample_population(1000, np.random.default_rng(0))
    archs = [
        supernet.space.arch(dict(arch) | {"resolution": resolution}) for arch in supernet.space.to_archs(population)
    ]
    costs = macs(supernet).predict(supernet.space.to_population(archs))
    order = np.argsort(costs)
    device = load_device("cpu-1t")
    run_info = {
        "model": {"name": model},
        "recipe": {"data": {"name": "folder"}},
        "data": {"name": photos.name, "num_train": len(data.splits.train)},
        "weights_sha256": "0" * 64,
    }
    rows = []
    for what, row in (("median", order[500]), ("largest", order[-1])):
        for number in range(2):
            with tempfile.TemporaryDirectory() as folder:
                started = time.perf_counter()
                result = export_bundle(
                    evaluator,
                    [{"arch": archs[row], "latency_ms": 1.0}],
                    out=Path(folder) / "bundle",
                    device=device,
                    budget_ms=1e6,
                    measure=measure_on(device, rng=np.random.default_rng(0)),
                    run_info=run_info,
                )
                verifying = time.perf_counter()
                assert verify_bundle(result.path).ok
                ended = time.perf_counter()
            rows.append(
                {
                    "subnet": what,
                    "time": number + 1,
                    "macs": int(costs[row]),
                    **{step: round(seconds, 2) for step, seconds in result.seconds.items()},
                    "verifying": round(ended - verifying, 2),
                    "seconds": round(ended - started, 2),
                    "num_calibration_images": min(len(data.splits.calibration), evaluator.num_calibration_images),
                    "num_test_images": len(data.splits.test),
                }
            )
    finish(rows, out / "arch.csv")


def finish(rows: list[dict[str, Any]], path: Path) -> None:
    write_csv_atomic(path, pd.DataFrame(rows))
    print(table_text(list(rows[0]), [list(row.values()) for row in rows]))


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("section", choices=("bundles", "arch"))
    parser.add_argument("--run", type=Path, help="trained run, searched for all devices")
    parser.add_argument("--device", nargs="+", default=DEVICES)
    parser.add_argument("--num-budgets", type=int, default=5)
    parser.add_argument("--data-root", help="where the run's data is now, if it moved")
    parser.add_argument("--photos", type=Path, help="folder with one folder of pictures per class")
    parser.add_argument("--model", default="ofa_mobilenetv3_w1.0")
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    if options.section == "bundles":
        if options.run is None:
            parser.error("bundles needs --run")
        bench_bundles(options.run, options.device, options.num_budgets, options.data_root, options.out)
    else:
        if options.photos is None:
            parser.error("arch needs --photos")
        bench_arch(options.model, options.photos, options.resolution, options.out)


if __name__ == "__main__":
    main()
