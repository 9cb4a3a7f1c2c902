"""What large jobs cost: short measurements of what grows, and from them and earlier ones a reckoning on paper.

    python scripts/plan_scaling.py [SECTION ...] --data FOLDER [--out docs]

Leaves ``scaling.md`` in ``--out``, its own rows in ``--out``/results/scaling/*.csv; reads the rows of ``make gpu``,
``bench_scale.py`` and ``bench_noise.py`` beside them. ``--data`` holds ``clothing-small-224.tar``.

- decoding: pictures of ImageNet's size a second that one core decodes, crops and augments.
- ranks: training by 1, 2 and 4 processes (gloo, one thread each): losses beside those of one, bytes reduced for a step.
- hosts: one profile beside ten of machines that only wait, each of which answers as a real one would.
- search: seconds against evaluations and population, all at predicted cost.
- bundles: seconds of ``ofa deploy`` against the number of bundles.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from bench_helper import page, parsed, parser_of, read_rows, say, table_text
from bench_scale import photographs
from PIL import Image
from safetensors.torch import load_file

from ofa import workflow
from ofa.cost import macs, params
from ofa.data import DataConfig
from ofa.data.crops import cropped
from ofa.data.image_data import look_of
from ofa.data.readers.source import EncodedImages
from ofa.data.timm_policy import TimmPolicy
from ofa.files import write_csv_atomic, write_text_atomic
from ofa.hardware import Device, profile
from ofa.hardware.fingerprint import fingerprint
from ofa.hardware.fleet import on_each
from ofa.hardware.runner import Job
from ofa.hardware.timing import TimedBlock, TimingResult
from ofa.hardware.transports import Host
from ofa.progress import Progress
from ofa.search.methods.nsga2 import nsga2
from ofa.search.problem import Problem
from ofa.setting import Setting
from ofa.space import Population
from ofa.supernet import create_supernet

SECTIONS = ("decoding", "ranks", "hosts", "search", "bundles")
SPACE = "ofa_mobilenetv3_w1.0"
IMAGENET_IMAGES, IMAGENET_BYTES = 1_281_167, 147.9e9
GPU_BATCH = 256  # of the measured steps
CARDS_OF_A_NODE, LINK_BYTES, NETWORK_BYTES = (
    8,
    450e9,
    50e9,
)  # a second and card: NVLink of an H100, 400 Gbit/s between nodes
POLICIES = ("none", "timm:original", "timm:rand-m9-mstd0.5-inc1")
NUM_RANKS, NUM_RANDOM, NUM_STEPS = (1, 2, 4), (1, 4), 3
NUM_HOSTS = (1, 10)
SEARCHES = ((200, 50), (200, 500), (200, 5_000), (10_000, 20), (100_000, 5))
NUM_BUNDLES = (1, 4)
NUM_DEVICES, NUM_BUDGETS = 1_000, 10

Rows = list[dict[str, Any]]


def decoding(options: argparse.Namespace) -> Rows:
    """Medians of three rounds, in turn."""
    files = sorted(photographs(options).rglob("*.jpg"))[::64]
    encoded = []
    for path in files:
        buffer = io.BytesIO()
        picture = Image.open(path).convert("RGB").resize((500, 375), Image.Resampling.BICUBIC)
        picture.save(buffer, format="JPEG", quality=95)
        encoded.append((buffer.getvalue(), path.name))
    images, look = EncodedImages(encoded), look_of(DataConfig(interpolation="bilinear"), 3, grey=False)
    rng, found = np.random.default_rng(0), []
    for _ in range(3):
        for policy in POLICIES:
            change = TimmPolicy(policy.removeprefix("timm:")) if policy != "none" else None
            numbers, started = rng.random((500, 4)), time.perf_counter()
            for index, own in enumerate(numbers):
                pixels = cropped(images, index % len(images), own, size=(224, 224), look=look, least=0.08)
                if change is not None:
                    change.change(pixels[None].copy(), np.array([index]))
            found.append((policy, len(numbers) / (time.perf_counter() - started)))
    medians = pd.DataFrame(found, columns=["policy", "images_per_second"]).groupby("policy", sort=False).median()
    return medians.round(1).reset_index().to_dict("records")


# -- ranks -------------------------------------------------------------------------------------------------------------

COUNTING = """\
import json, os, sys
import torch.distributed as dist
from ofa.cli import main
really, calls = dist.all_reduce, []
def counted(tensor, *args, **kwargs):
    calls.append(tensor.numel() * tensor.element_size())
    return really(tensor, *args, **kwargs)
dist.all_reduce = counted
out = sys.argv.pop(1)
try:
    main()
finally:
    if os.environ.get("RANK", "0") == "0":
        open(out, "w").write(json.dumps(calls))
"""


def ranks(options: argparse.Namespace) -> Rows:
    """`vit_tiny`, which has no batch statistics, on digits: three steps."""
    words = ["data.name=digits", f"data.limit={8 * NUM_STEPS}", "model.name=vit_tiny_patch16_224"]
    words += ["model.resolution=[32]", "model.input_size=[32,32]", "model.drop_rate=0"]
    words += [
        "train.epochs=1",
        "train.batch_size=8",
        "train.warmup_epochs=0",
        "train.optimizer=adamw",
        "train.learning_rate=0.0003",
        "train.threads=1",
    ]
    rows, first = Rows(), dict[int, pd.DataFrame]()
    script = options.work / "counting.py"
    script.write_text(COUNTING)
    for num_random in NUM_RANDOM:
        for num in NUM_RANKS:
            out, counts = options.work / f"ranks-{num}-{num_random}", options.work / "calls.json"
            shutil.rmtree(out, ignore_errors=True)
            start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num}"]
            sampler = f"strategy.sampler={{name: sandwich, num_random: {num_random}}}"
            command = [*start, str(script), str(counts), "train", "bignas", *words, sampler, "--out", str(out)]
            subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
            found = pd.read_csv(out / "metrics.csv")[["loss_largest", "loss_random", "loss_smallest"]]
            first.setdefault(num_random, found)
            large = [num_bytes for num_bytes in json.loads(counts.read_text()) if num_bytes > 1000]
            weights = load_file(out / "supernet.safetensors")
            row = {
                "processes": num,
                "subnets": num_random + 2,
                "loss_difference": f"{float((found / first[num_random] - 1).abs().to_numpy().max()):.0e}",
                "reductions": len(large),
                "mb": round(sum(large) / NUM_STEPS / 1e6, 4),
                "gradients_mb": round(sum(each.numel() * 4 for each in weights.values()) / 1e6, 4),
            }
            rows.append(row)
            say(str(row))
    return rows


# -- hosts -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Waiting(Host):
    """A machine that takes its time and computes nothing."""

    number: int

    @property
    def machine(self) -> object:
        return self.number

    def fingerprint(self, setting: Setting) -> dict[str, Any]:
        return {**fingerprint(setting), "id": f"waiting {self.number}"}

    def time(self, job: Job) -> TimingResult:
        rng, blocks = np.random.default_rng(self.number), list(job.done)
        numbers = {name: sum(block.name == name for block in blocks) for name in job.models}
        for name, wanted in job.num_blocks.items():
            base_ns = 1000 + 20 * Path(job.models[name]).stat().st_size ** 0.8 if name != "(call)" else 1000
            for number in range(numbers[name], wanted):
                time.sleep(1.2 * job.block_seconds)
                durations = (base_ns * rng.normal(1, 0.01, 10)).astype(int).tolist()
                blocks.append(TimedBlock(name, number, tuple(durations), at_s=time.time()))
                job.on_block(blocks[-1])
        return TimingResult(blocks=blocks)


def hosts(options: argparse.Namespace) -> Rows:
    supernet, rows = create_supernet(SPACE).eval(), []
    here = Device(name="here", setting=Setting(runtime="onnxruntime"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def measure(device: Device, progress: Progress | None) -> object:
            return profile(
                supernet,
                device,
                csv_path=folder / device.name / "table.csv",
                rng=np.random.default_rng(0),
                resolutions=[224],
                max_minutes=0.01,
                fresh=True,
                force=True,
                models_dir=folder / "models",
            )

        for num in (0, *NUM_HOSTS):  # first one for what is exported once, whatever follows
            devices = [replace(here, name=f"{num}-{number}", host=Waiting(number)) for number in range(max(num, 1))]
            started = time.perf_counter()
            found = on_each(devices, measure)
            if errors := [each for each in found if isinstance(each, Exception)]:
                raise errors[0]
            rows.append({"hosts": num, "seconds": round(time.perf_counter() - started, 2)})
            say(str(rows[-1]))
    return rows[1:]


# -- search and bundles ------------------------------------------------------------------------------------------------


def search(options: argparse.Namespace) -> Rows:
    """Objectives that are free, as accuracy by a predictor and latency by a table are."""
    supernet, rows = create_supernet(SPACE), []
    by_macs, by_params = macs(supernet), params(supernet)

    def evaluate(population: Population) -> np.ndarray:
        cost, size = by_macs.predict(population), by_params.predict(population)
        return np.column_stack([-np.log(cost) - 0.1 * np.log(size), cost])

    problem = Problem(supernet.space, 2, {1: by_macs.predict})
    for size, generations in SEARCHES:
        started = time.perf_counter()
        nsga2(
            problem,
            evaluate,
            rng=np.random.default_rng(0),
            population_size=size,
            num_generations=generations,
        )
        seconds = time.perf_counter() - started
        rows.append({"population": size, "evaluations": size * generations, "seconds": round(seconds, 2)})
        say(str(rows[-1]))
    return rows


def bundles(options: argparse.Namespace) -> Rows:
    run, tables, rows = options.work / "digits", options.work / "tables", list[dict[str, Any]]()
    if not (tables / "cpu-1t").exists():
        workflow.train("demo", ["train.epochs=1", "train.warmup_epochs=0"], out=run, resume=True)
        workflow.profile(str(run), ["cpu-1t"], out=tables, force=True)
    for num in NUM_BUNDLES:
        budgets_ms = workflow.demo_budgets(run, "cpu-1t", tables=tables, num=num)
        found = options.work / f"search-{num}"
        workflow.search(run, ["cpu-1t"], budgets_ms, tables=tables, out=found, num_evaluations=20)
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as name:
            workflow.deploy(run, ["cpu-1t"], budgets_ms, search_dir=found, out=Path(name) / "bundles")
        rows.append({"bundles": len(budgets_ms), "seconds": round(time.perf_counter() - started, 2)})
        say(str(rows[-1]))
    return rows


# -- on paper ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """What the reckoning rests on.

    Args:
        step_s: Of a card for a batch of 256: of the sandwich, and of the largest, a random and the smallest subnet.
        launch_s: Of a subnet of a batch so small that only launching its kernels counts, forward and backward.
        decoded: Images a second and core, by policy.
        table_s: One table of all resolutions, exports included.
        export_s: Of these, once for all devices of a runtime.
    """

    step_s: dict[str, float]
    launch_s: float
    gib: float
    decoded: dict[str, float]
    table_s: float
    gradient_bytes: float


def measured(options: argparse.Namespace) -> Measured:
    rows = read_rows(options.out / "results/gpu/h100-80gb-hbm3.csv", value=str)
    gpu = {(row["part"], row["what"]): row["value"] for row in rows}
    step_s = {
        name: float(gpu["throughput", f"step, {name}"]) / 1000
        for name in ("sandwich", "largest", "random", "random 2", "smallest")
    }
    forward_ms = [float(gpu["elastic", f"latency, {name}"]) for name in ("small", "middle", "large")]
    tables = pd.DataFrame(read_rows(options.out / "results/noise/profiles.csv"))
    decoded = {row["policy"]: row["images_per_second"] for row in rows_of(options, "decoding")}
    supernet = create_supernet(SPACE)
    return Measured(
        step_s=step_s,
        launch_s=3 * float(np.mean(forward_ms)) / 1000,
        gib=float(gpu["throughput", "sandwich, peak memory"]),
        decoded=decoded,
        table_s=float(tables["seconds"].median()),
        gradient_bytes=4.0 * sum(parameter.numel() for parameter in supernet.parameters()),
    )


@dataclass(frozen=True)
class Training:
    """A recipe: epochs at a step's cost, of how many subnets."""

    recipe: str
    batch: int
    policy: str
    phases: Sequence[tuple[float, float, int]]
    """Epochs, seconds of a step of 256 images on a card, networks that run one after another."""


def trainings(known: Measured) -> list[Training]:
    """A forward pass alone is a third of a step. Between the bounds subnets of a phase cost what both do on average."""
    largest, smallest = known.step_s["largest"], known.step_s["smallest"]
    middle = (known.step_s["random"] + known.step_s["random 2"]) / 2
    deep = (largest + middle) / 2
    teacher = largest / 3
    return [
        Training("imagenet_bignas", 2048, "timm:original", [(360, known.step_s["sandwich"], 4)]),
        Training(
            "imagenet_attentive", 2048, "timm:original", [(360, largest + smallest + 2 * middle * (1 + 3 / 3), 10)]
        ),
        Training(
            "imagenet_progressive_shrinking",
            2048,
            "none",
            [
                (180, largest, 1),
                (125, largest + teacher, 2),
                (150, 2 * deep + teacher, 3),
                (150, 4 * middle + teacher, 5),
            ],
        ),
    ]


def planned(training: Training, cards: int, known: Measured) -> list[object]:
    """One row: where the time goes, and what must be there beside the cards."""
    steps_of_epoch, own = IMAGENET_IMAGES / training.batch, training.batch / cards
    seconds, computed = 0.0, 0.0
    bandwidth = LINK_BYTES if cards <= CARDS_OF_A_NODE else NETWORK_BYTES
    reduce_s = 2 * (cards - 1) / cards * known.gradient_bytes / bandwidth
    for epochs, step_s, networks in training.phases:
        arithmetic, launches = step_s * own / GPU_BATCH, known.launch_s * networks
        computed += epochs * steps_of_epoch * arithmetic
        seconds += epochs * steps_of_epoch * (max(arithmetic, launches) + reduce_s)
    epochs = sum(each[0] for each in training.phases)
    rate = epochs * IMAGENET_IMAGES / seconds
    return [
        f"`{training.recipe}`",
        cards,
        f"{seconds / 3600:.1f}",
        f"{computed / seconds:.0%}",
        f"{rate:,.0f}",
        math.ceil(rate / known.decoded[training.policy]),
        f"{rate * IMAGENET_BYTES / IMAGENET_IMAGES / 1e9:.1f}",
        f"{1000 * reduce_s:.2f}",
    ]


def rows_of(options: argparse.Namespace, name: str) -> Rows:
    return read_rows(options.out / "results/scaling" / f"{name}.csv")


def write_page(options: argparse.Namespace) -> None:
    known, tables = measured(options), {name: rows_of(options, name) for name in SECTIONS}
    header = {
        "decoding": {"policy": "`data.auto_augment`", "images_per_second": "images/s of a core"},
        "ranks": {
            "processes": "processes",
            "subnets": "subnets of a step",
            "loss_difference": "losses differ by",
            "reductions": "reductions in three steps",
            "mb": "MB of a step",
            "gradients_mb": "MB of all gradients",
        },
        "hosts": {"hosts": "machines", "seconds": "s"},
        "search": {"population": "population", "evaluations": "evaluations", "seconds": "s"},
        "bundles": {"bundles": "bundles", "seconds": "s"},
    }
    text: dict[str, Any] = {
        name: table_text(
            list(columns.values()),
            [[f"{row[key]:,}" if isinstance(row[key], int) else row[key] for key in columns] for row in tables[name]],
        )
        for name, columns in header.items()
    }
    columns = [
        "recipe",
        "cards",
        "hours",
        "of it arithmetic",
        "images/s",
        "cores that decode",
        "GB/s read",
        "ms of a step that gradients take",
    ]
    plan = table_text(columns, [planned(each, cards, known) for each in trainings(known) for cards in (8, 64)])
    one, ten = (row["seconds"] for row in tables["hosts"])
    front_s = tables["search"][0]["seconds"]
    bundle_s = (tables["bundles"][-1]["seconds"] - tables["bundles"][0]["seconds"]) / (
        tables["bundles"][-1]["bundles"] - tables["bundles"][0]["bundles"]
    )
    write_text_atomic(
        options.out / "scaling.md",
        page(
            "scaling.md",
            **text,
            plan=plan,
            times=f"{ten / one:.2f}",
            known=known,
            devices=f"{NUM_DEVICES:,}",
            budgets=NUM_BUDGETS,
            profile_hours=f"{known.table_s / 3600:.2f}",
            profile_serial_hours=f"{NUM_DEVICES * known.table_s / 3600:.0f}",
            search_seconds=f"{NUM_DEVICES * front_s:.0f}",
            front_s=front_s,
            deploy_hours=f"{NUM_DEVICES * NUM_BUDGETS * bundle_s / 3600:.1f}",
            bundle_s=f"{bundle_s:.1f}",
            gradient_mb=f"{known.gradient_bytes / 1e6:.0f}",
            launch_ms=f"{1000 * known.launch_s:.1f}",
            step_ms=f"{1000 * known.step_s['sandwich']:.0f}",
        ),
    )


def main(words: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__, SECTIONS)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--work", type=Path, default=Path("runs/scaling"))
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--page-only", action="store_true", help="measure nothing")
    options = parsed(parser, words, SECTIONS)
    options.work.mkdir(parents=True, exist_ok=True)
    for name in options.sections if not options.page_only else []:
        measure: Callable[[argparse.Namespace], Rows] = globals()[name]
        write_csv_atomic(options.out / "results/scaling" / f"{name}.csv", pd.DataFrame(measure(options)))
    write_page(options)


if __name__ == "__main__":
    main()
