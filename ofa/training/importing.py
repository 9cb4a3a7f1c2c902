"""Runs of supernets that others trained: search, export and deploy take them as they take our own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ofa.config import apply_overrides
from ofa.errors import UsageError
from ofa.files import resolved, sha256_of_file, write_csv_atomic
from ofa.progress import Progress, notice
from ofa.supernet import sort_channels
from ofa.supernet.model_sources import code_sha256
from ofa.supernet.presets import PRESETS
from ofa.supernet.published import PUBLISHED, Published
from ofa.supernet.weights import read_weights
from ofa.training.evaluation import SubnetEvaluator
from ofa.training.preflight import check_recipe
from ofa.training.pretrained import as_pretrained
from ofa.training.recipe import Recipe
from ofa.training.run import Run, RunError, build_supernet

PHASE = "imported"


def published_recipe(
    project: str, file: str, overrides: Sequence[str], *, data_root: str | None = None
) -> tuple[Recipe, dict[str, Any]]:
    """What a run of a published file is, and what its card says of where it came from.

    Raises:
        WeightsError: If the file is no network of it.
    """
    published = PUBLISHED[project]
    preset = published.preset_of(read_weights(file))
    model: dict[str, Any] = {"name": preset, "weights": f"{project}:{file}"}
    if preset not in PRESETS:
        model["sort_channels"] = "l1"  # a plain network's, of which a narrow subnet takes the first
    elif "kernel" in PRESETS[preset][1]:
        model["kernel_transforms"] = True
    name = f"{project} {published.networks[preset]}"
    return _recipe(model, overrides, name=name, data_root=data_root), _origin(published, preset, file)


def library_recipe(
    name: str, overrides: Sequence[str], *, data_root: str | None = None
) -> tuple[Recipe, dict[str, Any]]:
    """A model of timm or torchvision with its own weights, or those of ``model.weights=FILE``."""
    given = apply_overrides({}, overrides).get("model", {})
    model = {"name": name, "pretrained": "weights" not in given, "sort_channels": "l1"}
    return _recipe(model, overrides, name=name, data_root=data_root), {
        "project": name.partition(":")[0] if ":" in name else "timm"
    }


def _recipe(model: Mapping[str, Any], overrides: Sequence[str], *, name: str, data_root: str | None) -> Recipe:
    values = {"name": name, "model": model, "data": {"name": "imagenet", "root": data_root}}
    return Recipe.from_json(apply_overrides(values, overrides), where="imported run")


def _origin(published: Published, preset: str, file: str) -> dict[str, Any]:
    """Licence and source of weights, and what was published of networks made of them."""
    stated = published.accuracies.get(preset)
    return {
        "project": published.project,
        "network": published.networks[preset],
        "licence": published.licence,
        "file_sha256": sha256_of_file(file),
        **({} if stated is None else {"published": stated}),
    }


def import_run(recipe: Recipe, origin: Mapping[str, Any], out: Path | str, *, progress: Progress | None = None) -> Run:
    """Leave a run folder as training does, of weights that are trained already.

    Args:
        origin: Where they came from, for the cards of bundles.

    Raises:
        RunError: If something is at ``out``.
        UsageError: If the recipe names no pictures.
        DataError, WeightsError: If data or weights cannot be used.
    """
    out = resolved(out)
    if out.exists():
        raise RunError(f"{out} is there already; give another --out, or remove it")
    if recipe.data.root is None and recipe.data.name != "digits":
        raise UsageError(
            "an imported supernet needs pictures, for its statistics and to be judged by: --data-root FOLDER, "
            "ImageNet's validation pictures or any in folders that are called as its classes, n01440764"
        )
    if recipe.model.sort_channels == "activations":
        raise UsageError("model.sort_channels is activations, which is for training; give l1 or none here")
    code = code_sha256(recipe.model.name, is_trusted=True)  # whoever imports a file of code runs it
    outline = check_recipe(recipe)
    task, data_config = recipe.task, as_pretrained(recipe.data, recipe.model)
    data = task.load(data_config, inputs=outline.inputs, sizes=outline.largest_sizes, progress=progress)
    supernet = build_supernet(recipe.model, num_classes=task.num_classes(data), inputs=task.inputs()).eval()
    if recipe.model.sort_channels != "none":
        sort_channels(supernet)
    _warn_of_few_classes(supernet.model, data, progress)
    notice(progress, "judging the largest and the smallest subnet")
    bounds = [supernet.space.largest(), supernet.space.smallest()]
    found = SubnetEvaluator(supernet, data, task).values(bounds, progress=progress)
    columns = [task.metric.of(which) for which in ("largest", "smallest")]
    row = {"epoch": 0, "step": 0, "phase": PHASE, **dict(zip(columns, found, strict=True))}
    write_csv_atomic(out / "metrics.csv", pd.DataFrame([row]))
    return Run.save(out, recipe=recipe, supernet=supernet, data=data, code_sha256=code, origin=origin)


def _warn_of_few_classes(model: nn.Module, data: Any, progress: Progress | None) -> None:
    """Say so where the pictures for statistics are not what the network was trained on."""
    labels = data.source.labels[data.splits.calibration]
    found, num = len(np.unique(labels)), len(data.source.classes)
    if 2 * found < num and any(isinstance(module, _BatchNorm) for module in model.modules()):
        notice(
            progress,
            f"statistics of batch normalisation come from {len(labels)} pictures of {found} of {num} classes: a "
            "network that was trained on all of them then fails on most; give pictures of many classes, or fine-tune",
        )
