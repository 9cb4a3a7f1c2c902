"""Whether two checkouts compute the same on this machine: trainings, a search, network files, a bundle.

    python scripts/compare_versions.py BEFORE AFTER [--out runs/compare]

In each checkout the same short seeded trainings run (a few minutes on one thread), the demo's run is searched with a
latency table that BEFORE measured, one architecture is exported for three devices and bundled. What a clock, the date
or a version decides is left out. Prints a table; exit status 1 if something differs. What is there already in the
folder is taken as it is.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DEVICES = ("cpu-1t", "cpu-int8-1t", "openvino-1t")
TIMES = ("seconds", "images_per_second")
EASY_MS = "1000"  # a budget that everything keeps, so that no measurement decides what is evaluated
TINY = ("data.name=digits", "train.batch_size=64", "train.precision=32-true")
TRAININGS = {
    "demo": ("demo", "train.epochs=2"),
    "progressive_shrinking": ("progressive_shrinking", "model.name=ofa_mobilenetv3_tiny", "train.epochs=4", *TINY),
    "instatune": (
        "instatune",
        "model.name=mobilenetv3_small_050",
        "model.pretrained=false",
        "model.resolution=[32,48]",
        "train.epochs=1",
        *TINY,
    ),
}

Facts = dict[str, Any]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="checkout")
    parser.add_argument("after", type=Path, nargs="?", help="another one")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="folder for what both leave")
    parser.add_argument("--facts", type=Path, help=argparse.SUPPRESS)  # within a checkout: the table to search with
    options = parser.parse_args(argv)
    out = options.out.resolve()
    if options.facts is not None:
        (out / "facts.json").write_text(json.dumps(facts_of(out, options.facts), indent=1, sort_keys=True))
        return 0
    if options.after is None:
        parser.error("name two checkouts")
    before = facts_in(options.before, out / "before", tables=out / "before" / "tables")
    after = facts_in(options.after, out / "after", tables=out / "before" / "tables")
    return report(before, after)


def facts_in(checkout: Path, out: Path, *, tables: Path) -> Facts:
    """What the code of a checkout computes, in processes of its own."""
    out.mkdir(parents=True, exist_ok=True)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment = {**os.environ, **threads, "PYTHONPATH": str(checkout.resolve())}
    words = [sys.executable, str(Path(__file__).resolve()), ".", "--out", str(out), "--facts", str(tables)]
    subprocess.run(words, cwd=checkout, env=environment, check=True)
    found: Facts = json.loads((out / "facts.json").read_text())
    return found


def report(before: Mapping[str, Any], after: Mapping[str, Any]) -> int:
    """One row for each thing that was compared."""
    different = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    for name in {**before, **after}:
        print(f"{'DIFFERS' if name in different else 'the same':9} {name}")
    for name in different:
        print(f"\n{name}\n  before: {short(before.get(name))}\n  after:  {short(after.get(name))}")
    return int(bool(different))


def short(value: Any, *, most: int = 2000) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= most else f"{text[:most]} ..."


# -- within a checkout -----------------------------------------------------------------------------------------------


def facts_of(out: Path, tables: Path) -> Facts:
    """Name -> digest or values of all that is compared."""
    facts: Facts = {}
    for name, words in TRAININGS.items():
        start = [f"model.weights={random_weights(out)}"] if name == "instatune" else []
        if not (out / name / "supernet.json").exists():
            ofa("train", *words, *start, "train.device=cpu", "train.seed=3", "--out", out / name, "--resume")
        facts |= {f"{name}: {what}": value for what, value in facts_of_run(out / name).items()}
    run = out / "demo"
    if not (tables / "cpu-1t").exists():
        sizes = ("--num-resolutions", 2, "--num-fit", 8, "--num-held-out", 4, "--force")
        ofa("profile", "--run", run, "--device", "cpu-1t", "--out", tables, *sizes)
    if not (run / "search" / "cpu-1t" / "selected.json").exists():
        table = ("--device", "cpu-1t", "--tables", tables, "--any-machine")
        ofa("search", "--run", run, *table, "--budget-ms", EASY_MS, "--num-evaluations", 20)
    facts |= {f"search: {what}": value for what, value in facts_of_search(run / "search").items()}
    facts |= facts_of_files(run, out / "bundle")
    ofa("verify", out / "bundle")
    return facts


def ofa(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "ofa", *map(str, words)], check=True)


def random_weights(out: Path) -> Path:
    """Of the model that InstaTune begins with."""
    import safetensors.torch
    import timm
    import torch

    path = out / "random.safetensors"
    if not path.exists():
        torch.manual_seed(7)
        model = timm.create_model("mobilenetv3_small_050", num_classes=10)
        tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        safetensors.torch.save_file(tensors, path)
    return path


def facts_of_run(run: Path) -> Facts:
    info = json.loads((run / "supernet.json").read_text())
    del info["versions"]
    for model in (info["model"], info["recipe"]["model"]):
        del model["weights"]  # which lie elsewhere
    return {
        "weights": digest((run / "supernet.safetensors").read_bytes()),
        "supernet.json": info,
        "metrics": [
            {key: value for key, value in row.items() if key not in TIMES} for row in rows(run / "metrics.csv")
        ],
    }


def facts_of_search(folder: Path) -> Facts:
    front = rows(folder / "cpu-1t" / "front.csv")
    selected = json.loads((folder / "cpu-1t" / "selected.json").read_text())
    predicted = [name for name in front[0] if "latency_ms" not in name or name.startswith("predicted")]
    return {
        "evaluations": sorted((folder / "evaluations.csv").read_text().splitlines()),
        "columns of the front": list(front[0]),
        "predicted columns": sorted([row[name] for name in predicted] for row in front if row["origin"] != "pick"),
        "keys": [sorted(selected), sorted(selected["picks"][0])],
        "predictor": selected["predictor"],
        "hypervolume": [selected["hypervolume"], selected["hypervolume_curve"]],
    }


def facts_of_files(run_path: Path, bundle: Path) -> Facts:
    """Of one architecture."""
    import numpy as np
    import torch

    from ofa.deploy import Latency, export_bundle, make_artefact
    from ofa.hardware import load_device
    from ofa.training import Run, SubnetEvaluator

    torch.set_num_threads(1)
    run = Run.open(run_path)
    evaluator = SubnetEvaluator(run.supernet(), run.data())
    arch = run.space.sample(np.random.default_rng(5))
    facts: Facts = {}
    for name in DEVICES:
        files = make_artefact(evaluator, arch, load_device(name)).files
        facts |= {f"{name}: {file}": digest(content) for file, content in files.items()}
    if not bundle.exists():
        export_bundle(
            evaluator,
            [{"arch": dict(arch), "latency_ms": 1.0}],
            out=bundle,
            device=load_device("cpu-1t"),
            budget_ms=2.0,
            measure=lambda paths, speed: [Latency(p10=0.9, p50=1.0, p90=1.1) for _ in paths],
            run_info=run.info,
        )
    info = json.loads((bundle / "bundle.json").read_text())
    del info["fingerprint"], info["provenance"]["trained_with"], info["provenance"]["exported_with"]
    others = [path for path in sorted(bundle.rglob("*")) if path.is_file() and path.suffix not in (".json", ".py")]
    facts["bundle: bundle.json"] = {**info, "files": sorted(info["files"])}
    facts["bundle: other files"] = {
        path.relative_to(bundle).as_posix(): digest(path.read_bytes()) for path in others if path.name != "SHA256SUMS"
    }
    return facts


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
