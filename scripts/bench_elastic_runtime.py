"""Measure what switching costs and saves: one elastic artefact against as many separate networks.

    python scripts/bench_elastic_runtime.py [--preset ofa_mobilenetv3_w1.0] [--run RUN] [--out FILE.csv]

Subnets from the smallest to the largest, in between spread over MACs, all at one resolution; without a run the weights
are untrained, which changes no time and no size. One thread. Latencies are CPU time of that thread, which does all the
work, low percentiles of alternating blocks, so that a busy machine disturbs them little; memory is that of a fresh
process per variant, what it grew by from before the networks were loaded until each had run once.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import torch

import ofa
from ofa.cost import macs
from ofa.data import DataConfig, load_data
from ofa.deploy.elastic_format import ElasticInfo, read_elastic
from ofa.deploy.elastic_runtime import ElasticRuntime, RuntimeName, give_back_memory
from ofa.deploy.elastic_write import ElasticOptions, write_elastic
from ofa.files import write_csv_atomic
from ofa.formats.onnx import export_onnx
from ofa.hardware.fingerprint import cpu_model
from ofa.hardware.runtimes import RUNTIMES
from ofa.setting import Setting
from ofa.training import SubnetEvaluator
from ofa.training.recipe import ModelConfig
from ofa.training.run import Run

RUNTIME_NAMES: tuple[RuntimeName, ...] = ("onnxruntime", "torch")
VARIANTS = {
    "onnxruntime": ("separate", "elastic", "elastic, 1 loaded"),
    "torch": ("separate", "elastic", "elastic, 1 loaded"),
}

Call = Callable[[np.ndarray], object]


# -- what is compared --------------------------------------------------------------------------------------------------


def evaluator_of(arguments: argparse.Namespace) -> tuple[SubnetEvaluator, ModelConfig, int]:
    """Also the resolution. Without a run: digits, blown up, and a thousand classes, as the space was published."""
    if arguments.run is not None:
        run = Run.open(arguments.run)
        data, supernet, model = run.data(), run.supernet(), run.recipe.model
    else:
        torch.manual_seed(0)
        model = ModelConfig(name=arguments.preset)
        supernet = ofa.create_supernet(arguments.preset).eval()
        data = load_data(DataConfig(name="digits", limit=64), image_size=max(supernet.space["resolution"].values))
        source = dataclasses.replace(data.source, classes=tuple(str(number) for number in range(1000)))
        data = dataclasses.replace(data, source=source)
    resolutions = [int(value) for value in supernet.space["resolution"].values]
    resolution = min(resolutions, key=lambda value: abs(value - arguments.resolution))
    return SubnetEvaluator(supernet, data, batch_size=32, num_calibration_images=64), model, resolution


def family(supernet: ofa.Supernet, num: int, resolution: int, rng: np.random.Generator) -> list[ofa.Arch]:
    """Subnets that are spread evenly over MACs."""
    space = supernet.space
    some = [space.arch({**arch, "resolution": resolution}) for arch in (space.sample(rng) for _ in range(200))]
    bounds = [space.arch({**arch, "resolution": resolution}) for arch in (space.smallest(), space.largest())]
    counted = dict(zip([*some, *bounds], macs(supernet).predict([*some, *bounds]), strict=True))
    wanted = np.linspace(counted[bounds[0]], counted[bounds[1]], num)[1:-1]
    between = [min(some, key=lambda arch: abs(counted[arch] - count)) for count in wanted]
    return [bounds[0], *dict.fromkeys(between), bounds[1]]


def separate_path(work: Path, runtime: str, name: str) -> Path:
    return work / f"{name}.{'onnx' if runtime == 'onnxruntime' else 'pt'}"


def prepare(arguments: argparse.Namespace, work: Path) -> ElasticInfo:
    """Write the artefact and the separate networks, unless they are there."""
    if (work / "done").is_file():
        return read_elastic(work / "elastic")
    evaluator, model, resolution = evaluator_of(arguments)
    rng = np.random.default_rng(0)
    archs = family(evaluator.supernet, arguments.num_subnets, resolution, rng)
    info = write_elastic(
        evaluator,
        archs,
        work / "elastic",
        rng=rng,
        model=model,
        options=ElasticOptions(rounds=2),
        overwrite=True,
        progress=lambda done, num, what: print(f"{done + 1}/{num} {what}", file=sys.stderr),
    )
    (images,) = next(iter(evaluator.batches("calibration", {"resolution": resolution})))[0].rows(slice(32)).tensors
    images = images.contiguous()
    np.save(work / "images.npy", images.numpy())
    for subnet in info.subnets:
        module = evaluator.calibrated(subnet.arch).cpu().eval()
        export_onnx(
            module, evaluator.supernet.input_shape(subnet.arch), separate_path(work, "onnxruntime", subnet.name)
        )
        torch.save(module, separate_path(work, "torch", subnet.name))
        with torch.inference_mode():
            np.save(work / f"{subnet.name}.npy", module(images).numpy())
    (work / "done").touch()
    return info


def open_separate(work: Path, runtime: str, name: str) -> Call:
    """A network by itself, as the toolkit runs one."""
    path = separate_path(work, runtime, name)
    if runtime == "onnxruntime":
        session = RUNTIMES[runtime]().prepare(path, Setting(runtime=runtime))
        return lambda images: session.run({"images": images})
    module = torch.load(path, weights_only=False)  # of this script's own making

    def run(images: np.ndarray) -> object:
        with torch.inference_mode():
            return module(torch.from_numpy(images).to(memory_format=torch.channels_last)).numpy()

    return run


# -- memory ------------------------------------------------------------------------------------------------------------


def memory_mib() -> float:
    """Of this process, in its share: pages that several mappings hold count once."""
    gc.collect()
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:"))


def grow(work: Path, runtime: RuntimeName, variant: str, names: Sequence[str]) -> dict[str, float]:
    """By how much a fresh process grows, as it is and once freed memory was returned to the system."""
    torch.set_num_threads(1)
    image = np.load(work / "images.npy")[:1]
    torch.nn.Conv2d(3, 8, 3)(torch.from_numpy(image))  # what torch and its libraries allocate in any case
    give_back_memory()
    before, start = memory_mib(), time.perf_counter()
    if variant == "separate":
        calls = [open_separate(work, runtime, name) for name in names]
    else:
        elastic = ElasticRuntime(work / "elastic", runtime, max_loaded=1 if "loaded" in variant else None)
        calls = [lambda images, name=name: (elastic.use(name), elastic.run(images)) for name in names]  # type: ignore[misc]
    seconds = time.perf_counter() - start
    for call in calls:
        call(image)
    after = memory_mib()
    give_back_memory()
    return {"memory": after - before, "memory that stays": memory_mib() - before, "time to load": seconds}


def memory_rows(work: Path, info: ElasticInfo) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for runtime, variants in VARIANTS.items():
        for variant in variants:
            command = [sys.executable, __file__, "--grow", runtime, variant, "--work", str(work)]
            command += ["--names", *(subnet.name for subnet in info.subnets)]
            found = []
            for _ in range(3):
                output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                found.append(json.loads(output))
            for what in found[0]:
                value, unit = float(np.median([each[what] for each in found])), "s" if what == "time to load" else "MiB"
                rows.append([runtime, f"{what}: {variant}", "", value, unit])
    return rows


# -- time --------------------------------------------------------------------------------------------------------------


def durations_ms(call: Call, image: np.ndarray, num: int) -> list[float]:
    times = []
    for _ in range(num):
        start = time.thread_time_ns()
        call(image)
        times.append((time.thread_time_ns() - start) / 1e6)
    return times


def latency_rows(
    work: Path, info: ElasticInfo, runtime: RuntimeName, *, instances: int, rounds: int
) -> list[list[Any]]:
    """Of each subnet, in the artefact over alone. Where tensors happen to lie is worth 2 %, so each is loaded often."""
    image = np.load(work / "images.npy")[:1]
    ratios: dict[str, list[float]] = {subnet.name: [] for subnet in info.subnets}
    alone_ms: dict[str, list[float]] = {name: [] for name in ratios}
    for instance in range(instances):
        elastic = ElasticRuntime(work / "elastic", runtime)
        for name in ratios:
            elastic.use(name)
            calls = [open_separate(work, runtime, name), elastic.current.run]
            times: list[list[float]] = [[], []]
            num = max(2, int(15 / np.median(durations_ms(calls[0], image, 5))))
            for turn in range(rounds):
                for which in (0, 1) if (turn + instance) % 2 else (1, 0):
                    times[which] += durations_ms(calls[which], image, num + 1)[1:]
            alone, within = (float(np.percentile(each, 10)) for each in times)
            ratios[name].append(within / alone)
            alone_ms[name].append(alone)
    rows: list[list[Any]] = []
    for name, found in ratios.items():
        rows.append([runtime, "latency alone", name, float(np.median(alone_ms[name])), "ms"])
        for what, value in (("", np.median(found)), (", least", min(found)), (", most", max(found))):
            rows.append([runtime, f"latency, elastic over alone{what}", name, 100 * (float(value) - 1), "%"])
    return rows


def switch_rows(work: Path, runtime: RuntimeName, *, num: int, rng: np.random.Generator) -> list[list[Any]]:
    """Time of a switch, and of the first request after one against later ones."""
    image = np.load(work / "images.npy")[:1]
    rows: list[list[Any]] = []
    elastic = ElasticRuntime(work / "elastic", runtime)
    names = [subnet.name for subnet in elastic.subnets]
    order = [names[int(index)] for index in rng.integers(len(names), size=num)]
    rows += percentiles(runtime, "switch", [timed_us(lambda name=name: elastic.use(name)) for name in order], "µs")  # type: ignore[misc]
    lean = ElasticRuntime(work / "elastic", runtime, max_loaded=1)
    changes = [name for name, before in zip(order[1:], order, strict=False) if name != before][:100]
    found = [timed_us(lambda name=name: lean.use(name)) / 1000 for name in changes]  # type: ignore[misc]
    rows += percentiles(runtime, "switch, 1 loaded", found, "ms")
    first: dict[str, list[float]] = {name: [] for name in names}
    later: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(num // 20):
        for index in rng.permutation(len(names)):
            name = names[int(index)]
            elastic.use(name)
            times = durations_ms(elastic.current.run, image, 4)
            first[name].append(times[0])
            later[name] += times[2:]
    for name in names:
        share = float(np.median(first[name]) / np.median(later[name]))
        rows.append([runtime, "first request after a switch over later ones", name, 100 * (share - 1), "%"])
    return rows


def timed_us(action: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    action()
    return (time.perf_counter_ns() - start) / 1000


def percentiles(runtime: str, what: str, values: Sequence[float], unit: str) -> list[list[Any]]:
    return [[runtime, f"{what}, p{p}", "", float(np.percentile(values, p)), unit] for p in (50, 99)]


# -- the rest ----------------------------------------------------------------------------------------------------------


def parity_rows(work: Path, info: ElasticInfo, runtime: RuntimeName) -> list[list[Any]]:
    """Largest difference from the extracted, calibrated subnet, in parts of its largest logit."""
    images, rows = np.load(work / "images.npy"), []
    elastic = ElasticRuntime(work / "elastic", runtime)
    for subnet in info.subnets:
        elastic.use(subnet.name)
        expected = np.load(work / f"{subnet.name}.npy")
        found = np.abs(elastic.run(images) - expected).max() / np.abs(expected).max()
        rows.append([runtime, "largest difference over the largest logit", subnet.name, float(found), ""])
    return rows


def size_rows(work: Path, info: ElasticInfo) -> list[list[Any]]:
    separate = [separate_path(work, "onnxruntime", subnet.name).stat().st_size for subnet in info.subnets]
    elastic = sum(path.stat().st_size for path in (work / "elastic").iterdir())
    return [
        ["", "on disk, separate ONNX files", "", sum(separate) / 1e6, "MB"],
        ["", "on disk, the largest of them", "", max(separate) / 1e6, "MB"],
        ["", "on disk, elastic", "", elastic / 1e6, "MB"],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="ofa_mobilenetv3_w1.0")
    parser.add_argument("--run", type=Path, help="a trained run instead of a preset")
    parser.add_argument("--resolution", type=int, default=160, help="the nearest of the space is taken")
    parser.add_argument("--num-subnets", type=int, default=5)
    parser.add_argument("--instances", type=int, default=8, help="how often each network is loaded to be timed")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--work", type=Path, help="keep the files here, and use those that are")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--grow", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--names", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.grow:
        runtime, variant = arguments.grow
        print(json.dumps(grow(arguments.work, runtime, variant, arguments.names)))
        return
    with tempfile.TemporaryDirectory() as folder:
        work = arguments.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        info = prepare(arguments, work)
        rows = size_rows(work, info)
        for name in RUNTIME_NAMES:
            rows += parity_rows(work, info, name)
        rows += memory_rows(work, info)
        for name in RUNTIME_NAMES:
            rows += switch_rows(work, name, num=2000, rng=np.random.default_rng(0))
            rows += latency_rows(work, info, name, instances=arguments.instances, rounds=arguments.rounds)
    table = pd.DataFrame(rows, columns=["runtime", "what", "subnet", "value", "unit"])
    table["value"] = table["value"].map(lambda value: float(f"{value:.4g}"))
    table.insert(0, "network", f"run {arguments.run.name}" if arguments.run else arguments.preset)
    table.insert(1, "resolution", info.subnets[0].resolution)
    if arguments.out is not None:
        if arguments.out.is_file():
            others = pd.read_csv(arguments.out, keep_default_na=False)
            table = pd.concat([others[others["network"] != table["network"].iloc[0]], table])
        write_csv_atomic(arguments.out, table)
    versions = f"torch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}"
    print(f"{cpu_model()}, {platform.machine()}, 1 thread; {versions}\n")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
