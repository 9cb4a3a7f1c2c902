"""Stitching: two small transformers trained apart, and what lies between them once they are stitched.

    python scripts/bench_stitch.py --data FOLDER [--minutes 25] [--out docs/results]

Leaves ``stitching.md`` in ``--out`` and its rows in ``--out``/stitching/routes.csv. Works for ``--minutes`` and stops
what is being trained then, which is saved; the same command goes on. ``--data`` holds ``cifar10-jpeg75``.
``--train-device cuda`` does it in minutes.

Three networks of scripts/stitch_nets.py are trained alone, each as any network is. The outer two are then stitched:

- alone: the networks, after ``--epochs``; and after ``--stitch-epochs`` more at the learning rate of stitching, as long
  as the anchors are trained again.
- begun: all routes with their layers fitted by least squares, before anything is trained.
- stitched: all routes after ``--stitch-epochs``, the anchors among them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from bench_helper import OutOfTimeError, page, parsed, parser_of, read_rows, say, table_text, trained
from scipy.stats import spearmanr

from ofa.cost import macs
from ofa.files import write_csv_atomic, write_text_atomic
from ofa.space import Arch
from ofa.supernet import Supernet
from ofa.supernet.stitching import Stitched, fit_stitches
from ofa.training import Run, SubnetEvaluator, build_supernet

NETS = Path(__file__).parent / "stitch_nets.py"
ANCHORS, BETWEEN = ("tiny", "small"), "middle"
RATE, STITCH_RATE = 1e-3, 2e-4
NUM_FITTED = 256
ROUTE = "anchors.route"


def settings(options: argparse.Namespace, seed: int) -> tuple[str, ...]:
    """What all runs have in common."""
    return (
        *("data.name=parquet", f"data.root={options.data / 'cifar10-jpeg75'}", f"data.limit={options.limit}"),
        *("data.horizontal_flip=true", "train.optimizer=adamw", "train.weight_decay=0.05", "train.batch_size=128"),
        *(f"train.seed={seed}", f"train.device={options.train_device}", "train.eval_every_epochs=0"),
    )


def alone(options: argparse.Namespace, seed: int, net: str) -> Run:
    """One network, and the same trained further."""
    own = (*settings(options, seed), f"model.name={NETS}:{net}")
    words = (f"train.learning_rate={RATE}", f"train.epochs={options.epochs}", "train.warmup_epochs=2")
    run = trained(options, f"{seed}-{net}", "plain", (*own, *words))
    add_scores(options, run, run.supernet(), [run.space.largest()], seed=seed, what="alone", net=net)
    words = (f"train.learning_rate={STITCH_RATE}", f"train.epochs={options.stitch_epochs}", "train.warmup_epochs=1")
    weights = f"model.weights={run.path / 'supernet.safetensors'}"
    further = trained(options, f"{seed}-{net}-further", "plain", (*own, *words, weights))
    add_scores(options, further, further.supernet(), [run.space.largest()], seed=seed, what="further", net=net)
    return run


def stitched(options: argparse.Namespace, seed: int, anchors: Sequence[Run]) -> None:
    """Both anchors and all that lies between, before and after training."""
    files = ",".join(str(run.path / "supernet.safetensors") for run in anchors)
    run = trained(
        options,
        f"{seed}-stitched",
        "stitch",
        (
            *settings(options, seed),
            f"model.anchors=[{','.join(f'{NETS}:{net}' for net in ANCHORS)}]",
            "model.pretrained=false",
            f"model.anchor_weights=[{files}]",
            *(f"train.learning_rate={STITCH_RATE}", f"train.epochs={options.stitch_epochs}", "train.warmup_epochs=1"),
        ),
    )
    archs = [run.space.arch({**run.space.largest(), ROUTE: route}) for route in run.space[ROUTE].values]
    add_scores(options, run, run.supernet(), archs, seed=seed, what="stitched")
    if not scored(options, seed=seed, what="begun"):
        supernet = build_supernet(run.recipe.model, num_classes=run.num_classes)
        batches = run.task.train_batches(run.data(), epoch=0, batch_size=128, seed=seed, device="cpu")
        assert isinstance(supernet.model, Stitched)
        fit_stitches(supernet.model, (inputs for inputs, _ in itertools.islice(batches, NUM_FITTED // 128)))
        add_scores(options, run, supernet.eval(), archs, seed=seed, what="begun")


# -- rows --------------------------------------------------------------------------------------------------------------


def rows_of(options: argparse.Namespace) -> list[dict[str, Any]]:
    return read_rows(options.out / "stitching" / "routes.csv")


def scored(options: argparse.Namespace, **key: Any) -> bool:
    return any(all(row[name] == value for name, value in key.items()) for row in rows_of(options))


def add_scores(
    options: argparse.Namespace, run: Run, supernet: Supernet, archs: Sequence[Arch], *, net: str = "", **key: Any
) -> None:
    """Accuracies on the test split, of what has none yet."""
    if scored(options, **key, **({"net": net} if net else {})):
        return
    evaluator = SubnetEvaluator(supernet.to(options.train_device), run.data(), run.task)
    found, count = evaluator.values(list(archs), split="test"), macs(supernet).predict(list(archs))
    rows = [
        {
            **key,
            "net": net or arch[ROUTE],
            "macs": int(cost),
            "params": sum(parameter.numel() for parameter in supernet.extract(arch).parameters()),
            "top1_percent": round(float(score), 2),
        }
        for arch, score, cost in zip(archs, found, count, strict=True)
    ]
    write_csv_atomic(options.out / "stitching" / "routes.csv", pd.DataFrame([*rows_of(options), *rows]))


# -- the page ----------------------------------------------------------------------------------------------------------


def anchors_text(rows: pd.DataFrame) -> str:
    cells = []
    for number, net in [(0, ANCHORS[0]), (None, BETWEEN), (1, ANCHORS[1])]:
        own = rows[rows["net"] == net]
        routes = rows[rows["net"] == f"anchor{number}"]
        columns = [own[own["what"] == what] for what in ("alone", "further")]
        columns += [routes[routes["what"] == "stitched"]]
        cells.append([net, f"{own['macs'].min() / 1e6:.1f}", *map(percent, columns)])
    return table_text(["network", "MACs (M)", "trained alone", "trained further", "as an anchor, stitched"], cells)


def percent(rows: pd.DataFrame) -> str:
    return "–" if rows.empty else ", ".join(f"{value:.2f}" for value in rows["top1_percent"])


def routes_text(rows: pd.DataFrame) -> str:
    """Every route, over all seeds."""
    of_routes = rows[rows["what"].isin(["begun", "stitched"])]
    cells = []
    for net, own in of_routes.groupby("net", sort=False):
        both = [own[own["what"] == what] for what in ("begun", "stitched")]
        cells.append((own["macs"].iloc[0], [f"`{net}`", f"{own['macs'].iloc[0] / 1e6:.1f}", *map(percent, both)]))
    cells.sort(key=lambda cell: cell[0])
    return table_text(["route", "MACs (M)", "least squares alone", "trained"], [cell for _, cell in cells])


def facts(rows: pd.DataFrame) -> dict[str, Any]:
    """How stitches lie between their anchors."""
    found: dict[str, Any] = {"num": 0, "above": "–", "share_above": "–", "rank": "–", "least": "–", "between": "–"}
    found |= {"best": "–", "middle": "–"}
    after = rows[rows["what"] == "stitched"]
    differences, ranks, shares = [], [], []
    for seed, own in after.groupby("seed"):
        ends = own[own["net"].isin(["anchor0", "anchor1"])].sort_values("macs")
        stitches = own.drop(ends.index)
        line = np.interp(stitches["macs"], ends["macs"], ends["top1_percent"])
        differences += (stitches["top1_percent"] - line).tolist()
        shares += stitches["top1_percent"].between(*ends["top1_percent"]).tolist()
        of_middle = rows[(rows["net"] == BETWEEN) & (rows["what"] == "further") & (rows["seed"] == seed)].iloc[0]
        as_cheap = stitches[stitches["macs"] <= of_middle["macs"]]
        found |= {"best": f"{as_cheap['top1_percent'].max():.2f}", "middle": f"{of_middle['top1_percent']:.2f}"}
        ranks.append(float(spearmanr(own["macs"], own["top1_percent"]).statistic))
        found["num"] = len(stitches)
    if differences:
        found |= {
            "above": f"{np.mean(differences):+.2f}",
            "least": f"{np.min(differences):+.2f}",
            "share_above": f"{100 * np.mean(np.array(differences) > 0):.0f}",
            "between": f"{100 * np.mean(shares):.0f}",
            "rank": ", ".join(f"{rank:.2f}" for rank in ranks),
        }
    return found


def main(words: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--limit", type=int, default=10_000, help="pictures that are used")
    parser.add_argument("--epochs", type=float, default=14)
    parser.add_argument("--stitch-epochs", type=float, default=6)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0,))
    parser.add_argument("--train-device", default="cpu")
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--work", type=Path, default=Path("runs/stitching"), help="where runs are kept")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parsed(parser, words)
    options.until = time.monotonic() + 60 * options.minutes
    options.work.mkdir(parents=True, exist_ok=True)
    try:
        for seed in options.seeds:
            runs = {net: alone(options, seed, net) for net in (*ANCHORS, BETWEEN)}
            stitched(options, seed, [runs[net] for net in ANCHORS])
    except OutOfTimeError:
        say("out of time; the same command goes on")
    rows = pd.DataFrame(rows_of(options), columns=["seed", "what", "net", "macs", "params", "top1_percent"])
    found = facts(rows)
    text = page("stitching.md", options=options, anchors=anchors_text(rows), routes=routes_text(rows), **found)
    write_text_atomic(options.out / "stitching.md", text)
    say(json.dumps(found))


if __name__ == "__main__":
    main()
