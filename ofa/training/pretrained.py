"""Pictures as pretrained weights saw them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import timm

from ofa.data import DataConfig
from ofa.files import read_json
from ofa.supernet.published import published_weights
from ofa.training.recipe import ModelConfig

FITS = {"center": "crop", "squash": "squash", "border": "letterbox"}
"""timm's names of what becomes of a picture's proportions."""
RUN_FILE = "supernet.json"
DETECTOR = "fcos"


def as_pretrained(data: DataConfig, model: ModelConfig) -> DataConfig:
    """What is left open of how pictures become inputs, settled as the model's weights were trained.

    Weights of a run of ours: as in that run. Weights of a timm or torchvision model, fetched or from a file: mean, std,
    interpolation and crop of its ``pretrained_cfg`` or ``transforms``; of published ones, of its own evaluation. Of
    stitched anchors the first decides.
    """
    file = next(filter(None, (model.weights, *model.anchor_weights)), None)
    if not (model.pretrained or file or model.grow_from):
        return data
    run, name = _run_of(model.grow_from, file), (model.anchors or (model.name,))[0]
    found = _of_project(file) if file else {}
    found = found or (_of_library(name) if run is None else _of_run(run))
    for name in ("mean", "std"):
        values = found.get(name, ())
        if values and len(values) != model.in_chans:
            found[name] = (sum(values) / len(values),)  # of a grey picture, for one
    return dataclasses.replace(
        data, **{name: value for name, value in found.items() if getattr(data, name) is None and value is not None}
    )


def _of_project(weights: str) -> dict[str, Any]:
    found = published_weights(weights)
    return {} if found is None else dict(found[0].pictures)


def _run_of(grow_from: str | None, weights: str | None) -> Path | None:
    """The run folder that the weights are from, if they are from one."""
    if grow_from is not None:
        return Path(grow_from)
    folder = Path(weights or "").parent
    return folder if weights is not None and (folder / RUN_FILE).is_file() else None


def _of_run(run: Path) -> dict[str, Any]:
    stored = read_json(run / RUN_FILE, kind="run folder", remedy="name other weights").get("data", {})
    found = {name: stored.get(name) for name in ("mean", "std", "fit", "crop_pct", "interpolation")}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def _of_library(name: str) -> dict[str, Any]:
    source, _, own = name.partition(":")
    if source == "torchvision" and own:
        import torchvision

        made = torchvision.models.get_model_weights(own).DEFAULT.transforms()
        if not hasattr(made, "mean"):  # of a detector, whose weights are not taken
            return {}
        return {
            "mean": tuple(made.mean),
            "std": tuple(made.std),
            "interpolation": made.interpolation.value,
            # Segmentation sees the whole picture.
            "crop_pct": min(1.0, made.crop_size[0] / made.resize_size[0]) if hasattr(made, "crop_size") else None,
        }
    name = own if source == DETECTOR else name
    config = timm.get_pretrained_cfg(name, allow_unregistered=True) if timm.is_model(name) else None
    if config is None:
        return {}
    if source == DETECTOR:  # which sees the whole picture
        return {"mean": config.mean, "std": config.std, "interpolation": config.interpolation}
    fit = FITS[config.crop_mode]
    return {
        "mean": config.mean,
        "std": config.std,
        "interpolation": config.interpolation,
        "fit": fit,
        "crop_pct": None if fit == "letterbox" else config.crop_pct,
    }
