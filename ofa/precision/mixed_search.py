"""Architecture and precision searched together for one device: SimQ-NAS with real quantized graphs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ofa.cost import CostModel, LatencyTable
from ofa.errors import UsageError
from ofa.files import atomic_path
from ofa.hardware import Device, measure
from ofa.precision.mixed_latency import MixedLatency
from ofa.precision.mixed_space import Per
from ofa.precision.quantized_subnets import MixedPrecisionEvaluator, mixed_onnx_for_timing
from ofa.progress import Progress, only_notices
from ofa.search.evaluation_cache import EvaluationCache, Scores
from ofa.search.run import SearchResult, Target, TargetSearch
from ofa.space import Arch
from ofa.states import Speed
from ofa.training import SubnetEvaluator

NUM_MIXED = 32


def search_mixed(
    evaluator: SubnetEvaluator,
    device: Device,
    *,
    fp32: LatencyTable,
    int8: LatencyTable,
    speed: Speed,
    per: Per,
    costs: Mapping[str, CostModel],
    budgets_ms: Sequence[float],
    out_dir: Path,
    weights_sha256: str,
    seed: int,
    progress: Progress | None,
    **settings: Any,
) -> SearchResult:
    """Search architecture and precision together; leaves the picks as ONNX files beside the search's own.

    Accuracies are those of quantized graphs that ONNX Runtime runs. Where precision is of blocks, some networks that
    mix precisions are measured first, to learn what changing between them costs.

    Args:
        device: Runs both fp32 and INT8 graphs: one with the runtime ``onnxruntime``.
        fp32: Its table in fp32.
        int8: The table of the same runtime in INT8, stated at the same speed.
        speed: Which that is.
        settings: Further arguments of :class:`ofa.search.run.TargetSearch`.

    Raises:
        ValueError: If the tables do not belong together.
        InfeasibleBudgetError: See :class:`ofa.search.run.TargetSearch`.
    """
    if len(evaluator.supernet.inputs.example.tensors) > 1:
        raise UsageError(
            f"--precision searches networks that take one image, not those of {evaluator.task.name}; search in fp32, "
            "and export for a device in INT8"
        )
    mixed = MixedPrecisionEvaluator(evaluator, per=per)
    latency = MixedLatency(
        fp32=fp32, int8=int8, per=per, num_elements=lambda key: math.prod(evaluator.supernet.part(key).input_shape)
    )
    if per == "block":
        path = out_dir / "mixed_latencies.csv"
        latency = _with_boundaries(latency, mixed, device, path, seed, speed, progress)
    num_images = len(evaluator.data.splits.search)

    def measure_ms(archs: list[Arch]) -> pd.DataFrame:
        models = {str(number): mixed.onnx(arch) for number, arch in enumerate(archs)}
        rng, notices = np.random.default_rng(seed), only_notices(progress)
        return measure(models, device, rng=rng, speed=speed, progress=notices)

    cache = EvaluationCache(
        out_dir / "evaluations.csv",
        values=evaluator.metric.columns,
        weights_sha256=weights_sha256,
        split="search, quantized",
    )
    results = TargetSearch(
        space=mixed.space,
        scores=Scores(evaluator.metric, lambda archs, floors: mixed.values(archs), num_images, cache),
        targets=[Target(device.name, latency.predict_ms, measure_ms, speed=speed, cost_model=latency.cost_model)],
        costs={
            key: CostModel(mixed.space, cost.factors, name=cost.name, reduce=cost.reduce) for key, cost in costs.items()
        },
        budgets_ms=budgets_ms,
        out_dir=out_dir,
        seed=seed,
        progress=progress,
        **settings,
    ).run()
    result = results[device.name]
    for pick in result.selected["picks"]:
        with atomic_path(out_dir / device.name / f"{pick['budget_ms']:g}ms.onnx") as path:
            path.write_bytes(mixed.onnx(mixed.space.arch(pick["arch"])))
    return result


def _with_boundaries(
    latency: MixedLatency,
    mixed: MixedPrecisionEvaluator,
    device: Device,
    path: Path,
    seed: int,
    speed: Speed,
    progress: Progress | None,
) -> MixedLatency:
    """Measured once: a search that is repeated must find the same predictions to find the same subnets."""
    population = latency.space.sample_population(NUM_MIXED, np.random.default_rng([seed, 2]))
    archs = latency.space.to_archs(population)
    machine = str(latency.fp32.fingerprint.get("id"))
    known = EvaluationCache(path, values=("latency_ms",), device=device.name, machine=machine, state=speed.state)
    if not all(arch in known for arch in archs):  # they are measured against each other
        supernet = mixed.evaluator.supernet
        models = {str(number): mixed_onnx_for_timing(supernet, mixed.space, arch) for number, arch in enumerate(archs)}
        table = measure(models, device, rng=np.random.default_rng(seed), speed=speed, progress=progress)
        known.add(archs, table["latency_ms_p50"].to_numpy())
    return latency.fit(population, known.get(archs)[:, 0])
