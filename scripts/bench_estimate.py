"""How well `ofa estimate` knows networks of families that it never saw.

    python scripts/bench_estimate.py [--device cpu-1t] [--tables DIR] [--models NAME ...] [--minutes N] [--out DIR]

Measures the device's operators unless that is done (``--operator-minutes``). Then each model of timm, with random
weights and at its own size, is exported, estimated and timed; a row for each in ``--out``/estimate/networks.csv, and
``estimate.md`` in ``--out``. Stopped at any moment, the same command goes on. Beside the estimates stands a line
through the multiply-accumulates, fitted on the whole networks of the table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from bench_helper import add_row, known, page, parsed, parser_of, read_rows, say, table_text

from ofa import workflow
from ofa.cost.held_out import spearman
from ofa.estimate import OperatorTable, estimate, read_kernels
from ofa.estimate.networks import timm_network
from ofa.files import atomic_path, write_text_atomic
from ofa.hardware import Device, load_device, measure
from ofa.hardware.timed_models import export_model
from ofa.progress import progress_bar
from ofa.states import Speed, states_from

# One or two of each family of timm that no whole network of `ofa/estimate/networks.py` is of.
MODELS = (
    *("botnet26t_256", "cait_xxs24_224", "coat_lite_tiny", "coatnet_pico_rw_224", "convit_tiny"),
    *("convmixer_1024_20_ks9_p14", "crossvit_tiny_240", "cspdarknet53", "cspresnet50", "davit_tiny", "dla34"),
    *("dpn48b", "edgenext_xx_small", "efficientformer_l1", "efficientformerv2_s0", "efficientvit_b0"),
    *("efficientvit_m0", "ese_vovnet19b_dw", "eva02_tiny_patch14_224", "fasternet_t0", "fastvit_t8"),
    *("focalnet_tiny_srf", "gcvit_xxtiny", "gernet_s", "halonet26t", "hgnetv2_b0", "hiera_tiny_224"),
    *("inception_next_atto", "inception_v3", "lambda_resnet26t", "legacy_seresnet18", "legacy_xception"),
    *("levit_128", "mambaout_femto", "mobileone_s0", "mvitv2_tiny", "nest_tiny", "nf_regnet_b0", "pvt_v2_b0"),
    *("cpubone_nano", "repvgg_a0", "repvit_m0_9", "res2net50_14w_8s", "resnest14d", "rexnet_100", "selecsls42"),
    *("shvit_s1", "skresnet18", "starnet_s1", "swiftformer_xs", "lowformer_b0", "tiny_vit_5m_224"),
    *("tresnet_m", "twins_svt_small", "vgg11", "visformer_tiny", "iformer_t", "volo_d1_224"),
    *("xception41", "xcit_nano_12_p16_224"),
)
TOGETHER = 4  # networks that are timed against each other


def exported(name: str, options: argparse.Namespace, device: Device) -> Path:
    path: Path = options.work / f"{name}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(export_model(*timm_network(name), device.setting))
    return path


def add_rows(names: Sequence[str], options: argparse.Namespace, device: Device, table: OperatorTable) -> None:
    """Estimate some models, then time them."""
    paths = {name: exported(name, options, device) for name in names}
    speed = Speed(state="typical", states=states_from(table.details.get("states")))
    with progress_bar() as progress:
        measured = measure(
            paths, device, rng=np.random.default_rng(0), rounds=options.rounds, speed=speed, progress=progress
        )
    for name, path in paths.items():
        found = estimate(read_kernels(path, device.setting), table)
        row = {
            "model": name,
            "measured_ms": round(float(measured.loc[name, "latency_ms_p50"]), 4),
            "repeats_to_percent": round(float(measured.loc[name, "repeatability_percent"]), 2),
            "estimated_ms": round(found.latency_ms, 4),
            "low_ms": round(found.interval_ms[0], 4),
            "high_ms": round(found.interval_ms[1], 4),
            "macs": found.macs,
            "unseen_percent": round(found.unseen_percent, 2),
        }
        add_row(options.out / "estimate" / "networks.csv", row)
        path.unlink()


def line_through_macs(table: OperatorTable, macs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Latencies by the line of least relative squares through the table's whole networks."""
    whole = [network for network in table.networks.values() if network.is_whole]
    own = [sum(kernel.macs * count for kernel, count in network.kernels.items()) for network in whole]
    latency_ms = np.array([network.latency_ms for network in whole])
    sides = np.column_stack([own, np.ones(len(own))]) / latency_ms[:, None]
    slope, offset = np.linalg.lstsq(sides, np.ones(len(own)), rcond=None)[0]
    return np.asarray(slope * macs + offset)


def summary(rows: pd.DataFrame, table: OperatorTable) -> str:
    measured = rows["measured_ms"].to_numpy()
    held = (rows["low_ms"] <= measured) & (measured <= rows["high_ms"])
    lines = []
    for name, predicted in (
        ("`ofa estimate`", rows["estimated_ms"].to_numpy()),
        ("MACs only", line_through_macs(table, rows["macs"].to_numpy(dtype=np.float64))),
    ):
        errors = 100 * np.abs(predicted / measured - 1)
        within = [f"{100 * np.mean(errors <= limit):.0f} %" for limit in (5, 10)]
        covered = f"{100 * held.mean():.0f} %" if name.startswith("`") else ""
        rank = spearman(predicted, measured)
        lines.append([name, f"{np.median(errors):.1f} %", *within, covered, "" if rank is None else f"{rank:.3f}"])
    header = ["", "median error", "within 5 %", "within 10 %", "in the 90 % interval", "rank correlation"]
    return table_text(header, lines)


def cells_of(row: dict[str, Any]) -> list[str]:
    error = 100 * (row["estimated_ms"] / row["measured_ms"] - 1)
    interval = f"{row['low_ms']:.2f} to {row['high_ms']:.2f}"
    return [
        row["model"],
        f"{row['measured_ms']:.2f}",
        f"{row['estimated_ms']:.2f}",
        interval,
        f"{error:+.1f}",
        f"{row['macs'] / 1e6:.0f}",
        f"{row['unseen_percent']:.1f}",
    ]


def main(words: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--device", default="cpu-1t")
    parser.add_argument("--tables", type=Path, default=Path("latency_tables"))
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--operator-minutes", type=float, default=30.0)
    parser.add_argument("--minutes", type=float, default=np.inf, help="begin nothing after that")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--work", type=Path, default=Path("runs/bench_estimate"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parsed(parser, words)
    until = time.monotonic() + 60 * options.minutes
    device, path = load_device(options.device), options.out / "estimate" / "networks.csv"
    with progress_bar() as progress:
        profiled = workflow.profile(
            devices=[options.device],
            operators=True,
            out=options.tables,
            max_minutes=options.operator_minutes,
            progress=progress,
        )
    assert isinstance(profiled, workflow.ProfiledOperators)
    missing = [name for name in options.models if known(path, model=name) is None]
    for first in range(0, len(missing), TOGETHER):
        if time.monotonic() > until:
            say(f"{len(missing) - first} models are left for another call")
            break
        add_rows(missing[first : first + TOGETHER], options, device, profiled.table)
    rows = pd.DataFrame(read_rows(path))
    if len(rows):
        held_out, details = profiled.table.held_out, profiled.table.details
        text = page(
            "estimate.md",
            device=options.device,
            num=len(rows),
            summary=summary(rows, profiled.table),
            unseen=rows.loc[rows["unseen_percent"] > 5, "model"].tolist(),
            networks=table_text(
                ["model", "measured, ms", "estimated, ms", "90 % interval, ms", "error, %", "M MACs", "unseen, %"],
                [cells_of(row) for row in rows.sort_values("measured_ms").to_dict("records")],
            ),
            kinds=table_text(
                ["samples mostly of", "number", "median error, %", "within 10 %, %"],
                [[kind, *each.values()] for kind, each in held_out["kinds"].items()],
            ),
            details=details,
            num_whole=len(held_out["networks"]),
        )
        write_text_atomic(options.out / "estimate.md", text)


if __name__ == "__main__":
    main()
