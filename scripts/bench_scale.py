"""Data sets that do not fit into memory: how fast pictures come, what that takes, and what crops of the originals give.

    python scripts/bench_scale.py [SECTION ...] --data FOLDER [--minutes 25] [--out docs/results]

Leaves ``scale.md`` in ``--out``, its rows in ``--out``/scale/*.csv. Works for ``--minutes``; the same command goes on.
``--data`` holds ``clothing-small-224.tar``.

- make: 200,000 JPEG files of 224 to 500 pixels, fifty times 4,000 random parts of photographs of clothing, in shards.
- rate: random crops a second that worker processes hand to someone who only takes them, beside decoding, cropping and
  resizing alone in one process.
- memory: what all processes hold, over an epoch.
- killed: training on the shards, killed in the middle of an epoch and resumed, beside one that was not disturbed.
- search: the same search by this process, by two worker processes, one of which is killed, and on a Ray cluster of two.
- crops: accuracy with random crops out of the originals and out of the stored pictures, ``lcnet_050`` at 96 pixels,
  three seeds.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from bench_helper import (
    OutOfTimeError,
    add_row,
    known,
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
from PIL import Image
from safetensors.torch import load_file

from ofa import engine
from ofa.cost import macs
from ofa.data import DataConfig
from ofa.data.crops import cropped
from ofa.data.decoding import Decoding, Wanted, Workers
from ofa.data.image_data import look_of
from ofa.data.readers import read_source
from ofa.data.readers.source import FileImages, Source
from ofa.data.shards import write_shards
from ofa.files import write_text_atomic
from ofa.search import search as search_space
from ofa.search.evaluation_cache import ROUND, Scores
from ofa.training import Run, SubnetEvaluator
from ofa.training.elsewhere import RunSource, race_by

SECTIONS = ("make", "rate", "memory", "killed", "search", "crops")
NUM_IMAGES, NUM_PARTS, NUM_CLASSES = 200_000, 4_000, 100
SIZE, LEAST, BATCH = 224, 0.35, 64
NUM_ALONE, NUM_BATCHES, REPEATS = 1_500, 40, 3
WORKERS = (1, 2)
SEEDS = (0, 1, 2)
CROP_EPOCHS = 40
NUM_EVALUATIONS = 24


@dataclass(frozen=True, eq=False)
class Parts(FileImages):
    """Random parts of some photographs, as JPEG files, each of them many times."""

    photographs: Sequence[Image.Image]

    def __len__(self) -> int:
        return NUM_IMAGES

    def file(self, index: int) -> bytes:
        return self._parts[index % NUM_PARTS]

    @cached_property
    def _parts(self) -> list[bytes]:
        return [self._part(index) for index in range(NUM_PARTS)]

    def _part(self, index: int) -> bytes:
        rng = np.random.default_rng([7, index])
        photograph = self.photographs[index % len(self.photographs)]
        width, height = rng.integers(224, 501, size=2).tolist()
        left, top = (int(rng.integers(0, side // 3)) for side in photograph.size)
        part = photograph.crop((left, top, left + photograph.width * 2 // 3, top + photograph.height * 2 // 3))
        buffer = io.BytesIO()
        part.resize((width, height), Image.Resampling.BILINEAR).save(buffer, format="JPEG", quality=88)
        return buffer.getvalue()

    def name(self, index: int) -> str:
        return f"{index:06}.jpg"

    def num_bytes(self, index: int) -> int:
        return len(self.file(index))


def shards(options: argparse.Namespace) -> Path:
    return options.work / "shards"


def make(options: argparse.Namespace) -> None:
    if (shards(options) / "dataset.json").exists():
        return
    files = sorted(photographs(options).rglob("*.jpg"))[::16]
    images = Parts([Image.open(file).convert("RGB") for file in files])
    classes = tuple(f"class {number:02}" for number in range(NUM_CLASSES))
    source = Source(classes, np.arange(NUM_IMAGES) % NUM_CLASSES, images)
    started = time.monotonic()

    def progress(done: int, total: int, what: str) -> None:
        speed = done / (time.monotonic() - started)
        say(f"{what}: {done}/{total}, {speed:.0f} a second")
        if time.monotonic() > options.until:
            raise OutOfTimeError

    write_shards(source, shards(options), progress=progress)


def rows_path(options: argparse.Namespace, name: str) -> Path:
    return options.out / "scale" / f"{name}.csv"


def decoding_of(source: Source) -> Decoding:
    look = look_of(DataConfig(interpolation="bilinear"), 3, grey=False)
    return Decoding(source, [(SIZE, SIZE)], look, LEAST)


def rate(options: argparse.Namespace) -> None:
    """Alone and through worker processes in turn, so that both meet the same machine."""
    source = read_source(DataConfig(name="shards", root=str(shards(options))))
    decoding, rng = decoding_of(source), np.random.default_rng(0)
    torch.set_num_threads(1)
    for repeat in range(REPEATS):
        rows, numbers = rng.integers(0, NUM_IMAGES, NUM_ALONE), rng.random((NUM_ALONE, 4))
        started = time.perf_counter()
        for row, own in zip(rows.tolist(), numbers, strict=True):
            cropped(source.images, row, own, size=(SIZE, SIZE), look=decoding.look, least=LEAST)
        alone = NUM_ALONE / (time.perf_counter() - started)
        add_row(rows_path(options, "rate"), {"repeat": repeat, "workers": 0, "images_per_second": round(alone, 1)})
        for num in WORKERS:
            order = [
                Wanted(rng.integers(0, NUM_IMAGES, BATCH), rng.random((BATCH, 4)))
                for _ in range((num + 1) * NUM_BATCHES)
            ]
            batches = Workers(decoding, num).decode(order)
            for _ in range(4 * num):  # until all of them are at work; whoever only takes leaves nothing to wait
                next(batches)
            started, taken = time.perf_counter(), 0
            for batch in batches:
                taken += len(batch)
            found = taken / (time.perf_counter() - started)
            add_row(
                rows_path(options, "rate"), {"repeat": repeat, "workers": num, "images_per_second": round(found, 1)}
            )
            say(f"{num} workers: {found:.0f} images/s, {found / num / alone:.2f} of {alone:.0f} alone, for each")


def held_bytes() -> int:
    """Of this process and those that it started, what they share counted once."""
    own = os.getpid()
    pids = [own, *map(int, Path(f"/proc/{own}/task/{own}/children").read_text().split())]
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def memory(options: argparse.Namespace) -> None:
    source = read_source(DataConfig(name="shards", root=str(shards(options))))
    rows = np.random.default_rng(0).permutation(NUM_IMAGES)
    numbers = np.random.default_rng(1).random((NUM_IMAGES, 4))
    order = (Wanted(rows[at : at + BATCH], numbers[at : at + BATCH]) for at in range(0, NUM_IMAGES, BATCH))
    every, started, taken = NUM_IMAGES // 20, time.perf_counter(), 0
    for batch in Workers(decoding_of(source), max(WORKERS)).decode(order):
        before, taken = taken, taken + len(batch)
        if before // every != taken // every or before == 0:
            seconds = time.perf_counter() - started
            row = {"images": taken, "seconds": round(seconds, 1), "mb": round(held_bytes() / 1e6, 1)}
            add_row(rows_path(options, "memory"), row)
            say(f"{taken} images, {taken / seconds:.0f}/s: {row['mb']} MB")


def killed(options: argparse.Namespace) -> None:
    words = [
        *("train", "plain", "data.name=shards", f"data.root={shards(options)}", "data.limit=4000"),
        *("data.search_share=500", "data.test_share=500", "data.crop_scale=0.35", "data.crop_padding=0"),
        *("model.name=lcnet_050", "model.resolution=[64]", "train.epochs=2", "train.batch_size=50"),
        *("train.checkpoint_minutes=0.05", "train.eval_every_epochs=0", "train.threads=1"),
    ]
    for name in ("whole", "killed"):
        out = options.work / name
        command = [sys.executable, "-m", "ofa", *words, "--out", str(out), "--resume"]
        if name == "killed" and not (out / "supernet.json").exists():
            with subprocess.Popen(command) as process:
                while process.poll() is None and not list((out / "checkpoints").glob("step-*")):
                    time.sleep(0.1)
                time.sleep(2)
                process.send_signal(signal.SIGKILL)
            step = sorted((out / "checkpoints").glob("step-*"))[-1].stem
            add_row(rows_path(options, "killed"), {"killed_after": step, "steps_of_an_epoch": 80})
        subprocess.run(command, check=True)
    one, other = (load_file(options.work / name / "supernet.safetensors") for name in ("whole", "killed"))
    same = all(torch.equal(one[key], other[key]) for key in one)
    add_row(rows_path(options, "killed"), {"same_weights": same})
    say(f"same weights: {same}")


def search(options: argparse.Namespace) -> None:
    """One thread for each worker, and for the search that is done here."""
    folder = options.work / "search"
    if not (folder / "supernet.json").exists():
        words = [*("data.name=folder", f"data.root={photographs(options)}", "model.resolution=[64,80,96]")]
        words += ["train.epochs=0.05", "train.warmup_epochs=0", "data.search_share=300", "train.threads=1"]
        command = [sys.executable, "-m", "ofa", "train", "bignas", *words, "--out", str(folder)]
        subprocess.run(command, check=True)
    torch.set_num_threads(1)
    run = Run.open(folder)
    judge = SubnetEvaluator(run.supernet(), run.data(), run.task)
    cost, first, firsts = macs(judge.supernet), None, 1.0
    for name, workers, ray in (("here", 1, None), ("processes", 2, None), ("killed", 2, None), ("ray", 2, "local")):
        with engine.opened(workers, ray) as where:
            race = race_by(where, RunSource(folder.resolve()), judge)
            archs = run.space.to_archs(run.space.sample_population(8, np.random.default_rng(9)))
            race(archs, np.zeros(8))  # by when all have loaded what they need
            scores = Scores(judge.metric, race, len(judge.data.splits.search))
            if name == "killed":
                threading.Timer(5, kill_a_worker).start()
            started = time.perf_counter()
            found = search_space(
                run.space,
                lambda population, scores=scores: np.column_stack(  # type: ignore[misc]
                    [judge.metric.error(scores(run.space.to_archs(population))), cost.predict(population)]
                ),
                num_evaluations=NUM_EVALUATIONS,
                method="nsga2",
                objectives=(judge.metric.error_name, "macs"),
                free={"macs": cost.predict},
                chunk_size=ROUND,
            )
            seconds = time.perf_counter() - started
        first, firsts = (found, seconds) if first is None else (first, firsts)
        row = {"where": name, "workers": workers, "seconds": round(seconds, 2), "faster": round(firsts / seconds, 2)}
        add_row(rows_path(options, "search"), row | {"same": found.equals(first)})
        say(str(row | {"same": found.equals(first)}))


def kill_a_worker() -> None:
    own = os.getpid()
    for pid in map(int, Path(f"/proc/{own}/task/{own}/children").read_text().split()):
        if b"LokyProcess" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
            return


def crops(options: argparse.Namespace) -> None:
    for seed, crop_from in itertools.product(SEEDS, ("original", "stored")):
        key = {"seed": seed, "crop_from": crop_from}
        if known(rows_path(options, "crops"), **key) is not None:
            continue
        words = [
            *("model.name=lcnet_050", "model.resolution=[96]", f"train.epochs={CROP_EPOCHS}", "train.threads=1"),
            *("data.crop_scale=0.2", f"data.crop_from={crop_from}", "data.crop_padding=0", "data.horizontal_flip=true"),
            *("data.name=folder", f"data.root={photographs(options)}", "data.search_share=0.1"),
            *("train.eval_every_epochs=0", f"train.seed={seed}"),
        ]
        run = trained(options, f"crops-{crop_from}-{seed}", "plain", words)
        (score,) = SubnetEvaluator(run.supernet(), run.data(), run.task).values([run.space.largest()], split="test")
        row = {**key, "top1_percent": round(float(score), 2), "seconds": seconds_of(run)}
        add_row(rows_path(options, "crops"), row)


def search_text(options: argparse.Namespace) -> str:
    rows = read_rows(options.out / "scale" / "search.csv")
    if not rows:
        return "Not measured yet."
    names = {
        "here": "this process",
        "processes": "two processes",
        "killed": "two processes, one killed after five seconds",
        "ray": "Ray, two workers",
    }
    cells = [
        [names[row["where"]], f"{row['seconds']:.1f}", f"{row['faster']:.2f}", "yes" if row["same"] else "NO"]
        for row in rows
    ]
    return table_text(["subnets are evaluated by", "s", "times as fast", "same evaluations and front"], cells)


def rate_text(options: argparse.Namespace) -> str:
    rows = pd.DataFrame(read_rows(options.out / "scale" / "rate.csv"))
    if rows.empty:
        return "Not measured yet."
    best = rows.groupby("workers")["images_per_second"].median()
    cells = [
        ["one process alone" if num == 0 else num, f"{speed:.0f}", "" if num == 0 else f"{speed / num / best[0]:.2f}"]
        for num, speed in best.items()
    ]
    return table_text(["worker processes", "images/s", "of one alone, for each"], cells)


def memory_text(options: argparse.Namespace) -> str:
    rows = pd.DataFrame(read_rows(options.out / "scale" / "memory.csv"))
    if rows.empty:
        return "Not measured yet."
    shown = rows.iloc[:: max(1, len(rows) // 6)]
    return table_text(
        ["images", "MB"],
        [[f"{images:,.0f}", f"{mb:.0f}"] for images, mb in zip(shown["images"], shown["mb"], strict=True)],
    )


def crops_text(options: argparse.Namespace) -> str:
    rows = pd.DataFrame(read_rows(options.out / "scale" / "crops.csv"))
    if rows.empty:
        return "Not measured yet."
    cells = [
        [
            f"`{name}`",
            f"{own['top1_percent'].mean():.2f}",
            ", ".join(map(str, own["top1_percent"])),
            f"{own['seconds'].mean():.0f}",
        ]
        for name, own in rows.groupby("crop_from")
    ]
    return table_text(["`data.crop_from`", "top-1 (%)", "each", "s of training"], cells)


def killed_text(options: argparse.Namespace) -> str:
    rows = read_rows(options.out / "scale" / "killed.csv")
    same = [row["same_weights"] for row in rows if row.get("same_weights") == row.get("same_weights")]
    steps = [row["killed_after"] for row in rows if isinstance(row.get("killed_after"), str)]
    if not same:
        return "Not measured yet."
    verdict = "the same weights, bit for bit" if str(same[-1]) == "True" else "OTHER WEIGHTS"
    return f"Killed with signal 9 behind {steps[-1]} of epochs of 80 steps and resumed: {verdict}."


def main(words: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__, SECTIONS)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--work", type=Path, default=Path("runs/scale"), help="where shards and runs are kept")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parsed(parser, words, SECTIONS)
    options.until = time.monotonic() + 60 * options.minutes
    options.work.mkdir(parents=True, exist_ok=True)
    try:
        for name in options.sections if options.minutes else []:
            globals()[name](options)
    except OutOfTimeError:
        say("out of time; the same command goes on")
    texts = {name: globals()[f"{name}_text"](options) for name in SECTIONS if name != "make"}
    write_text_atomic(
        options.out / "scale.md",
        page("scale.md", size=SIZE, least=LEAST, epochs=CROP_EPOCHS, evaluations=NUM_EVALUATIONS, **texts),
    )


if __name__ == "__main__":
    main()
