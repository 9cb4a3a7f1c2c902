"""One exported bundle of a small random subnet on real digits; exporting costs seconds, so tests share it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ofa.data import DataConfig, load_data
from ofa.deploy import ExportResult, Latency, export_bundle
from ofa.hardware import Device
from ofa.setting import Setting
from ofa.states import Speed
from ofa.supernet import create_supernet
from ofa.training import SubnetEvaluator

DEVICE = Device(name="cpu-1t", setting=Setting(runtime="onnxruntime"))
RUN_INFO: dict[str, Any] = {
    "model": {"name": "ofa_mobilenetv3_tiny"},
    "recipe": {"data": {"name": "digits", "root": "/somewhere/private"}},
    "data": {"name": "digits", "num_train": 1000, "splits": {"train": [1, 2, 3]}},
    "weights_sha256": "0" * 64,
    "versions": {"torch": "2.11"},
}


@pytest.fixture(scope="session")
def evaluator() -> SubnetEvaluator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        supernet = create_supernet("ofa_mobilenetv3_tiny", num_classes=10).eval()
    return SubnetEvaluator(supernet, load_data(DataConfig(name="digits"), image_size=32))


class Stopwatch:
    """Plays back latencies instead of measuring."""

    def __init__(self, *p50: float, times_as_long: float = 1.0) -> None:
        self.p50, self.times_as_long = list(p50), times_as_long

    def __call__(self, models: Sequence[Path], speed: Speed | None = None) -> list[Latency]:
        assert all(model.is_file() for model in models)
        self.asked = speed
        return [replace(latency(self.p50.pop(0)), times_as_long=self.times_as_long) for _ in models]


def latency(p50: float) -> Latency:
    """A distribution around a median, in milliseconds."""
    quantiles = tuple(p50 * (0.9 + 0.01 * step) for step in range(21))
    return Latency(p10=p50 * 0.9, p50=p50, p90=p50 * 1.1, num_runs=100, repeatability_percent=0.5, quantiles=quantiles)


@pytest.fixture(scope="session")
def candidates(evaluator: SubnetEvaluator) -> list[dict[str, Any]]:
    """Four subnets, believed to take 4, 3.9, 2 and 1 ms."""
    archs = evaluator.supernet.space.to_archs(evaluator.supernet.space.sample_population(4, np.random.default_rng(3)))
    return [{"arch": dict(arch), "latency_ms": ms} for arch, ms in zip(archs, (4.0, 3.9, 2.0, 1.0), strict=True)]


@pytest.fixture(scope="session")
def exported(
    evaluator: SubnetEvaluator, candidates: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> ExportResult:
    """Within 4.2 ms: the first takes 5 and misses, the second is skipped for that, the third takes 2.5 and holds."""
    return export_bundle(
        evaluator,
        candidates,
        out=tmp_path_factory.mktemp("exported") / "bundle",
        device=DEVICE,
        budget_ms=4.2,
        measure=Stopwatch(5.0, 2.5),
        run_info=RUN_INFO,
    )


@pytest.fixture(scope="session")
def check_sums() -> Callable[[Path], object]:
    """Checks the ``SHA256SUMS`` of a folder with a program of the system: GNU's, or the one that macOS has."""
    program = ["sha256sum"] if shutil.which("sha256sum") else ["shasum", "-a", "256"]
    command = [*program, "--check", "--strict", "--quiet", "SHA256SUMS"]
    return lambda folder: subprocess.run(command, cwd=folder, check=True)


@pytest.fixture
def bundle(exported: ExportResult, tmp_path: Path) -> Path:
    """A copy of the bundle, to do anything with."""
    return Path(shutil.copytree(exported.path, tmp_path / "bundle"))
