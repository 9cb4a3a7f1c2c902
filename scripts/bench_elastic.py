"""Measure what elasticity costs: training through the supernet against training the extracted subnet.

    python scripts/bench_elastic.py [--model ofa_mobilenetv3_w1.0] [--out docs/results/elastic.md]

A step is forward, loss and backward of one batch, gradients set to ``None`` before it, outside of the timing. In the
supernet it includes building the subnet; the other network was extracted before. Both steps are timed in pairs, one
right after the other, in alternating order, the subnets of each round shuffled. Wall time is what a user waits for;
CPU time (of all threads) does not count what other processes took from this one, so it tells more on a busy machine.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import timm
import torch
from bench_helper import median_and_range, page, parsed, parser_of, table_text
from torch import nn
from torch.nn.functional import cross_entropy

import ofa
from ofa.cost import macs, params
from ofa.files import write_text_atomic
from ofa.supernet import create_supernet, elasticize

NUM_EXTRACTED = 40


@dataclass(frozen=True)
class Step:
    """Forward and backward of a network, with the module whose gradients it leaves."""

    run: Callable[[], torch.Tensor]
    owner: nn.Module


def timed(action: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds of wall and of CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return 1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu)


def paired_steps(
    supernet: ofa.Supernet, archs: Sequence[ofa.Arch], *, batch: int, rounds: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Milliseconds, shape ``(archs, rounds, 2, 2)``: active or extracted, wall or CPU."""
    resolution = int(archs[0]["resolution"])
    channels = supernet.input_shape(archs[0])[0]
    images = torch.randn(batch, channels, resolution, resolution).to(memory_format=torch.channels_last)
    with torch.no_grad():
        num_classes = supernet(images[:2], archs[0]).shape[-1]
    labels = torch.randint(num_classes, (batch,))
    pairs = []
    for arch in archs:
        extracted = supernet.extract(arch).train().to(memory_format=torch.channels_last)
        active = Step(lambda arch=arch: cross_entropy(supernet(images, arch), labels), supernet)  # type: ignore[misc]
        pairs.append((active, Step(lambda own=extracted: cross_entropy(own(images), labels), extracted)))  # type: ignore[misc]
    times = np.zeros((len(archs), rounds, 2, 2))
    for turn in range(-1, rounds):  # the first does not count
        for number in rng.permutation(len(archs)):
            order = (0, 1) if (turn + number) % 2 else (1, 0)
            for which in order:
                step = pairs[number][which]
                measured = timed(lambda step=step: step.run().backward())  # type: ignore[misc]
                step.owner.zero_grad()
                if turn >= 0:
                    times[number, turn, which] = measured
    return times


def step_rows(times: npt.NDArray[np.float64], what: str) -> list[list[str]]:
    """Ratios and times of paired steps."""
    low = np.percentile(times, 10, axis=1)
    of_low = low[:, 0] / low[:, 1]
    of_pairs = np.median(times[:, :, 0] / times[:, :, 1], axis=1)
    return [
        [f"{what}: active / extracted, ratio of 10th percentiles", *ratios(of_low), "at most 1.03"],
        [f"{what}: active / extracted, median of paired ratios", *ratios(of_pairs), ""],
        [f"{what}: active", *milliseconds(times[:, :, 0].reshape(-1, 2)), ""],
        [f"{what}: extracted", *milliseconds(times[:, :, 1].reshape(-1, 2)), ""],
    ]


def ratios(values: npt.NDArray[np.float64]) -> list[str]:
    """Median and range over subnets, of each clock."""
    return [median_and_range(column) for column in values.T]


def milliseconds(values: Sequence[tuple[float, float]] | npt.NDArray[np.float64]) -> list[str]:
    """Median and 10th percentile of each clock."""
    return [f"{np.median(column):.1f} ms (p10 {np.percentile(column, 10):.1f})" for column in np.asarray(values).T]


def bench(supernet: ofa.Supernet, *, resolution: int, batch: int, subnets: int, rounds: int) -> list[list[str]]:
    rng = np.random.default_rng(0)
    space = supernet.space
    nearest = min(space["resolution"].values, key=lambda size: abs(int(size) - resolution))
    archs = [space.arch(dict(space.sample(rng)) | {"resolution": nearest}) for _ in range(subnets)]
    many = [space.sample(rng) for _ in range(NUM_EXTRACTED)]
    extraction = f"extraction, {NUM_EXTRACTED} random subnets"
    others = [[extraction, *milliseconds(each(supernet.extract, many)), "under 20 ms"]]
    supernet.to(memory_format=torch.channels_last)
    others.append([f"{extraction}, channels-last weights", *milliseconds(each(supernet.extract, many)), ""])
    for mode in ("train", "eval"):
        supernet.train(mode == "train")
        others.append([f"building the active subnet, {mode} mode", *milliseconds(each(supernet.subnet, many)), ""])
    times = paired_steps(supernet.train(), archs, batch=batch, rounds=rounds, rng=rng)
    return step_rows(times, f"step, batch {batch}, {nearest} px") + others


def each(action: Callable[[ofa.Arch], object], archs: Sequence[ofa.Arch]) -> list[tuple[float, float]]:
    """Times of one run per subnet, after one that does not count."""
    action(archs[0])
    return [timed(lambda arch=arch: action(arch)) for arch in archs]  # type: ignore[misc]


def conversion(name: str, *, repeats: int = 5) -> list[list[str]]:
    """Rows for making a timm model elastic and pricing what came out, each time from the start."""
    times: dict[str, list[tuple[float, float]]] = {
        "timm.create_model": [],
        "ofa.elasticize of it": [],
        "pricing it": [],
    }
    for _ in range(repeats):
        found: list[nn.Module] = []
        times["timm.create_model"].append(timed(lambda found=found: found.append(timm.create_model(name))))  # type: ignore[misc]
        times["ofa.elasticize of it"].append(timed(lambda found=found: found.append(elasticize(found[0]))))  # type: ignore[misc]
        supernet = found[1]
        assert isinstance(supernet, ofa.Supernet)
        times["pricing it"].append(timed(lambda supernet=supernet: (macs(supernet), params(supernet))))  # type: ignore[misc]
    return [[f"{name}: {what}", *milliseconds(measured), ""] for what, measured in times.items()]


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--model", default="ofa_mobilenetv3_w1.0", help="a preset or a timm model")
    parser.add_argument("--convert", default="mobilenetv3_large_100", help="timm model whose conversion is timed")
    parser.add_argument("--resolution", type=int, default=128, help="pixels; the nearest that the supernet has")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--subnets", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=7, help="pairs of steps per subnet")
    parser.add_argument("--out", type=Path, help="write the page there too")
    arguments = parsed(parser, None)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    load = os.getloadavg()[0]
    supernet = create_supernet(arguments.model)
    rows = bench(
        supernet,
        resolution=arguments.resolution,
        batch=arguments.batch,
        subnets=arguments.subnets,
        rounds=arguments.rounds,
    )
    rows += conversion(arguments.convert)
    text = page(
        "elastic.md",
        command=f"python {' '.join(sys.argv)}",
        arguments=arguments,
        load=load,
        table=table_text(["what", "wall time", "CPU time of all threads", "target"], rows),
    )
    print(text)
    if arguments.out:
        write_text_atomic(arguments.out, text)


if __name__ == "__main__":
    main()
