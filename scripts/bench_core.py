"""Measure what the README and docs/results.md claim of the supernet, the space and the latency table.

    python scripts/bench_core.py [--preset ofa_mobilenetv3_w1.0] [--table latency_tables/DEVICE/SPACE.csv]

Low percentiles of repeated runs; two threads; prints one Markdown table.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from bench_helper import parser_of, seconds, table_text

import ofa
from ofa.cost import CostModel, Factor, macs
from ofa.hardware.fingerprint import cpu_model
from ofa.training import calibrate_bn


def table_like(supernet: ofa.Supernet) -> CostModel:
    """A latency table's arithmetic with made-up milliseconds, where no measured table is given."""
    rng = np.random.default_rng(0)
    factors = [
        Factor(slot.dims, np.where(slot.keys == "", 0.0, rng.random(slot.keys.shape))) for slot in supernet.slots
    ]
    return CostModel(supernet.space, factors, name="latency")


def bn_calibration_ratio(supernet: ofa.Supernet, *, resolution: int = 128, repeats: int = 9) -> float:
    """Time of BN calibration over that of an eval-mode forward pass of the same images: median of interleaved pairs."""
    arch = dict(supernet.space.sample(np.random.default_rng(1))) | {"resolution": resolution}
    module = supernet.extract(arch).to(memory_format=torch.channels_last)
    batches = [torch.randn(64, 3, resolution, resolution).to(memory_format=torch.channels_last) for _ in range(4)]

    @torch.inference_mode()
    def forward() -> None:
        for images in batches:
            module(images)

    ratios = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        forward()
        between = time.perf_counter()
        calibrate_bn(module, batches)
        ratios.append((time.perf_counter() - between) / (between - started))
    return float(np.median(ratios[1:]))


def import_seconds(statement: str) -> float:
    """Of a fresh interpreter."""
    return seconds(lambda: subprocess.run([sys.executable, "-c", statement], check=True))


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--preset", default="ofa_mobilenetv3_w1.0")
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    supernet = ofa.create_supernet(arguments.preset).eval()
    space = supernet.space
    rng = np.random.default_rng(0)
    predict_ms = ofa.LatencyTable.load(arguments.table).predict_ms if arguments.table else table_like(supernet).predict
    archs = [space.sample(rng) for _ in range(12)]
    rows: list[tuple[str, str]] = []

    def sample_encode_price() -> None:
        population = space.sample_population(100_000, rng)
        space.encode(population)
        predict_ms(population)

    spent = seconds(sample_encode_price, repeats=9, percentile=10)
    rows.append(("100,000 archs sampled, made canonical, encoded, priced", f"{spent:.3f} s"))
    count = macs(supernet)
    population = space.sample_population(100_000, rng)
    spent = seconds(lambda: count.predict(population), repeats=9, percentile=10)
    rows.append(("100,000 archs priced in MACs", f"{spent:.3f} s"))
    extraction = [seconds(lambda arch=arch: supernet.extract(arch), percentile=10) for arch in archs]  # type: ignore[misc]
    rows.append(("extraction of a subnet, median of 12", f"{1000 * float(np.median(extraction)):.1f} ms"))
    rows.append(("BN calibration over a forward pass of the same images", f"{bn_calibration_ratio(supernet):.2f}"))
    timm_seconds, ofa_seconds = import_seconds("import timm"), import_seconds("import ofa")
    rows.append(("import timm / import ofa", f"{timm_seconds:.2f} s / {ofa_seconds:.2f} s"))
    rows.append(("import ofa.cli, which is what `ofa --help` waits for", f"{import_seconds('import ofa.cli'):.2f} s"))
    print(
        f"{arguments.preset}, {space.num_archs:.3g} subnets; {cpu_model()}, {platform.machine()}, 2 threads, "
        f"torch {torch.__version__}\n"
    )
    print(table_text(["what", "measured"], rows))


if __name__ == "__main__":
    main()
