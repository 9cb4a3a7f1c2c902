"""What INT8 costs and saves on a CPU: subnets of a trained run in fp32 and INT8, in every runtime.

    python scripts/bench_precision.py RUNTIME … --run RUN [--minutes 25] [--out docs/results]

Leaves ``precision.md`` in ``--out`` and its rows in ``--out``/precision/subnets.csv. Works for ``--minutes`` and stops
behind the file that it is at then; the same command goes on. Runtimes: onnxruntime, executorch, litert, openvino.

The subnets are the smallest, the largest, and random ones in between, spread over the multiply-accumulates. Each is
exported for the runtime's device in both precisions, all of it in INT8 whatever that costs, written as a bundle and
verified. Accuracy is that of the file in
its runtime on the test split; a row keeps which pictures are right (bits in hexadecimal), so that precisions can be
compared picture by picture. Latencies are the least of many calls of one thread, since other work may run beside it.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from bench_helper import OutOfTimeError, add_row, known, page, parsed, parser_of, read_rows, say, seconds, table_text
from torch import nn

from ofa.cost import macs
from ofa.deploy import ExportOptions, Latency, verify_bundle
from ofa.deploy.artefact import bundle_artefact, judge_artefact, make_artefact, on_disk
from ofa.deploy.parity import load_outputs
from ofa.files import write_text_atomic
from ofa.hardware import Device, load_device
from ofa.hardware.runtimes import RUNTIMES
from ofa.space import Arch
from ofa.training import Run, SubnetEvaluator

DEVICES = {
    "onnxruntime": ("cpu-1t", "cpu-int8-1t"),
    "executorch": ("executorch-1t", "executorch-int8-1t"),
    "litert": ("litert-1t", "litert-int8-1t"),
    "openvino": ("openvino-1t", "openvino-int8-1t"),  # last: what torch does after it may crash
}
NUM_DRAWN, NUM_CALLS = 200, 60
ANY_LOSS = 100.0
ALLOWED_POINTS, ALLOWED_SHARE = 0.5, 0.3


class KeptEvaluator(SubnetEvaluator):
    """Calibrates each subnet once."""

    def calibrated(self, arch: Arch) -> nn.Module:
        kept: dict[str, nn.Module] = self.__dict__.setdefault("kept", {})
        key = arch.to_json()
        if key not in kept:
            kept[key] = super().calibrated(arch)
        return copy.deepcopy(kept[key])


def subnets_of(run: Run, num: int) -> dict[Arch, int]:
    """Architectures with their multiply-accumulates, from the smallest to the largest."""
    space, costs = run.space, macs(run.supernet())
    drawn = space.to_archs(space.sample_population(NUM_DRAWN, np.random.default_rng(0)))
    ordered = sorted(drawn, key=lambda arch: float(costs.predict(arch)[0]))
    places = np.linspace(0, NUM_DRAWN - 1, num)[1:-1].round().astype(int)
    chosen = [space.smallest(), *(ordered[place] for place in places), space.largest()]
    return {arch: int(costs.predict(arch)[0]) for arch in chosen}


def row_of(evaluator: SubnetEvaluator, run: Run, arch: Arch, device: Device) -> dict[str, Any]:
    """Export, write, verify, test and time."""
    started = time.perf_counter()
    artefact = make_artefact(evaluator, arch, device, options=ExportOptions(max_loss_points=ANY_LOSS))
    made = time.perf_counter()
    feed = evaluator.task.feed(evaluator.data, evaluator.supernet.inputs.sizes(arch), from_pixels=False)
    with on_disk(artefact.files) as file:
        setting, model = device.setting, artefact.model
        outputs = load_outputs(file, setting=setting, batch=model.batch, input_name=model.input)
        right = np.concatenate([outputs(images).argmax(1) == labels for images, labels in feed.batches("test")])
        session = RUNTIMES[setting.runtime]().prepare(file, setting)
        call = session.prepared(session.random_inputs(np.random.default_rng(0)))
        latency_ms = 1000 * seconds(call, repeats=NUM_CALLS)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        spent = Latency(p10=latency_ms, p50=latency_ms, p90=latency_ms)
        score, info = judge_artefact(evaluator, artefact, device), run.info
        told: Mapping[str, Any] = {"score": score, "latency_ms": spent, "budget_ms": None, "run_info": info}
        bundle_artefact(evaluator, artefact, Path(folder) / "bundle", device=device, **told)
        verified = verify_bundle(Path(folder) / "bundle").ok
    quantization = artefact.model.quantization
    return {
        "model_bytes": sum(map(len, artefact.files.values())),
        "latency_ms": round(latency_ms, 4),
        "top1_percent": round(100 * float(right.mean()), 2),
        "int8_macs_percent": quantization.int8_macs_percent if quantization else 0.0,
        "num_conversions": quantization.num_conversions if quantization else 0,
        "verified": verified,
        "export_seconds": round(made - started, 1),
        "num_pictures": len(right),
        "right": np.packbits(right).tobytes().hex(),
    }


def measure(options: argparse.Namespace) -> None:
    run = Run.open(options.run)
    evaluator = KeptEvaluator(run.supernet(), run.data(root=options.data_root), run.task)
    for runtime in options.sections:
        for number, (arch, num_macs) in enumerate(subnets_of(run, options.num).items()):
            for name in DEVICES[runtime]:
                device = load_device(name)
                key = {"subnet": number, "runtime": runtime, "precision": device.setting.precision}
                if known(options.rows, **key) is not None:
                    continue
                if time.monotonic() > options.until:
                    raise OutOfTimeError
                say(" ".join(map(str, key.values())))
                row = row_of(evaluator, run, arch, device)
                add_row(options.rows, {**key, "resolution": arch["resolution"], "macs": num_macs, **row})


# -- the page ----------------------------------------------------------------------------------------------------------


def lost(fp32: Sequence[Any], int8: Sequence[Any]) -> tuple[float, float]:
    """Mean loss over subnets in points of accuracy, and its standard error, paired by picture."""
    differences = np.mean([bits(before) - bits(after) for before, after in zip(fp32, int8, strict=True)], axis=0)
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    return 100 * float(differences.mean()), 100 * float(error)


def bits(row: Any) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bytes.fromhex(row.right), np.uint8))[: row.num_pictures].astype(float)


def pairs_of(rows: pd.DataFrame, runtime: str) -> list[tuple[Any, Any]]:
    """Rows of subnets that were measured in both precisions."""
    own = rows[rows["runtime"] == runtime].sort_values("subnet")
    fp32, int8 = ({row.subnet: row for row in own[own["precision"] == each].itertuples()} for each in ("fp32", "int8"))
    return [(fp32[number], int8[number]) for number in fp32 if number in int8]


def summary_text(rows: pd.DataFrame) -> str:
    cells = []
    for runtime in DEVICES:
        if not (pairs := pairs_of(rows, runtime)):
            continue
        fp32, int8 = zip(*pairs, strict=True)
        points, error = lost(fp32, int8)
        share = np.mean([after.model_bytes / before.model_bytes for before, after in pairs])
        faster = np.exp(np.mean([np.log(before.latency_ms / after.latency_ms) for before, after in pairs]))
        cells.append(
            [
                runtime,
                len(pairs),
                f"{points:+.2f} ± {error:.2f}",
                "yes" if points <= ALLOWED_POINTS + error else "no",
                f"{share:.3f}",
                "yes" if share <= ALLOWED_SHARE else "no",
                f"{faster:.2f}",
                f"{min(row.int8_macs_percent for row in int8):.1f}",
                f"{max(row.num_conversions for row in int8):g}",
                "all" if all(row.verified for pair in pairs for row in pair) else "not all",
            ]
        )
    header = ["runtime", "subnets", "points lost", f"at most {ALLOWED_POINTS:g} and the error", "size, share of fp32's"]
    header += [f"at most {ALLOWED_SHARE:g}", "times as fast", "least MACs in INT8 (%)", "conversions", "verified"]
    return table_text(header, cells)


def subnets_text(rows: pd.DataFrame) -> str:
    cells = []
    for runtime in DEVICES:
        for before, after in pairs_of(rows, runtime):
            cells.append(
                [
                    runtime,
                    f"{before.resolution} px, {before.macs / 1e6:.0f}",
                    *(f"{row.top1_percent:.2f}" for row in (before, after)),
                    *(f"{row.latency_ms:.3f}" for row in (before, after)),
                    *(f"{row.model_bytes / 1e6:.2f}" for row in (before, after)),
                    *(f"{row.export_seconds:.0f}" for row in (before, after)),
                ]
            )
    header = ["runtime", "subnet (MACs, M)", "fp32 (%)", "INT8 (%)", "fp32 (ms)", "INT8 (ms)", "fp32 (MB)", "INT8 (MB)"]
    return table_text([*header, "fp32 export (s)", "INT8 export (s)"], cells)


def main(words: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__, tuple(DEVICES))
    parser.add_argument("--run", type=Path, required=True, help="a trained run")
    parser.add_argument("--data-root", help="where the run's data is now, if it moved")
    parser.add_argument("--num", type=int, default=5, help="subnets")
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parsed(parser, words, tuple(DEVICES))
    options.until = time.monotonic() + 60 * options.minutes
    options.rows = options.out / "precision" / "subnets.csv"
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    try:
        measure(options)
    except OutOfTimeError:
        say("out of time; the same command goes on")
    if rows := pd.DataFrame(read_rows(options.rows)).to_dict("records"):
        table = pd.DataFrame(rows)
        text = page(
            "precision.md",
            num_pictures=int(table["num_pictures"].iloc[0]),
            summary=summary_text(table),
            subnets=subnets_text(table),
        )
        write_text_atomic(options.out / "precision.md", text)


if __name__ == "__main__":
    main()
