"""What tests of tasks have in common."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from sklearn.datasets import load_digits

from ofa.data.config import DataConfig
from ofa.data.readers.digits import read_digits
from ofa.deploy import ExportOptions, Latency
from ofa.deploy.artefact import bundle_artefact, judge_artefact, make_artefact
from ofa.hardware import Device
from ofa.setting import Setting
from ofa.training import Run, SubnetEvaluator

DEVICE = Device(name="cpu-1t", setting=Setting(runtime="onnxruntime"))
QUICK = (
    "model.name=ofa_mobilenetv3_tiny",
    "model.resolution=[12, 16]",
    "train.batch_size=32",
    "train.warmup_epochs=1",
    "train.eval_every_epochs=0",
    "train.learning_rate=0.002",
    "strategy.sampler.num_random=1",
    "train.device=cpu",
)


def write_digits(folder: Path, num: int, label: Callable[[int], str]) -> Path:
    """Pictures of digits, and a table that says something of each."""
    images, digits = read_digits(DataConfig()).images, load_digits().target
    (folder / "pictures").mkdir(parents=True)
    with (folder / "all.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label"])
        for index in range(num):
            images[index].resize((16, 16)).save(folder / "pictures" / f"{index:04}.png")
            table.writerow([f"pictures/{index:04}.png", label(int(digits[index]))])
    return folder / "all.csv"


def check_schema(bundle: Path) -> None:
    """That the schema in the docs takes ``bundle.json``."""
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(__file__).parents[2] / "docs" / "bundle.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(json.loads((bundle / "bundle.json").read_text(encoding="utf-8")), schema)


def make_bundle(evaluator: SubnetEvaluator, run: Run, out: Path, *, device: Device = DEVICE, **options: object) -> Path:
    """Of the smallest subnet."""
    artefact = make_artefact(evaluator, run.space.smallest(), device, options=ExportOptions(**options))  # type: ignore[arg-type]
    bundle_artefact(
        evaluator,
        artefact,
        out,
        device=device,
        score=judge_artefact(evaluator, artefact, device),
        latency_ms=Latency(p10=1.0, p50=1.0, p90=1.0),
        budget_ms=2.0,
        run_info=run.info,
        overwrite=True,
    )
    return out
