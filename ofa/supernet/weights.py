"""Weights that a model begins from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor, nn

from ofa.errors import OfaError


class WeightsError(OfaError, ValueError):
    """Weights cannot be used."""


def load_weights(model: nn.Module, path: str | Path, *, needs_classifier: bool = False) -> None:
    """Load a ``.safetensors`` file with the model's own parameter names, which are timm's for timm's models.

    Raises:
        WeightsError: If the file is missing or damaged, or :func:`fit_weights` refuses.
    """
    remedy = "give a .safetensors file with the names of the model's own parameters"
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise WeightsError(f"weights {path} cannot be read ({error}); {remedy}") from None
    fit_weights(model, tensors, source=f"weights {path}", needs_classifier=needs_classifier)


def fit_weights(model: nn.Module, tensors: Mapping[str, Tensor], *, source: str, needs_classifier: bool) -> None:
    """Load tensors by name.

    Args:
        source: What they are, for messages.
        needs_classifier: Otherwise a classifier for other classes stays untrained.

    Raises:
        WeightsError: If they do not fit the model; it names the first misfit.
    """
    own = model.state_dict()
    heads = set() if needs_classifier else _classifier_names(model)
    fitting = {name: t for name, t in tensors.items() if name in own and own[name].shape == t.shape}
    others = sorted({*own, *tensors} - fitting.keys())
    misfits = [name for name in others if name.rpartition(".")[0] not in heads]
    if misfits:
        first = misfits[0]
        shapes = [tuple(each[first].shape) if first in each else "nothing" for each in (own, tensors)]
        raise WeightsError(
            f"{source} do not fit {type(model).__name__}: {first!r} is {shapes[0]} in the model and {shapes[1]} "
            f"in the file ({len(misfits)} such tensors); give those of this very model"
        )
    model.load_state_dict(fitting, strict=False)


def _classifier_names(model: nn.Module) -> set[str]:
    """Paths of the layers that give the logits: as timm's configuration has them, or else the last with weights."""
    names = (getattr(model, "default_cfg", None) or {}).get("classifier")
    if names is not None:
        return set(names) if isinstance(names, (list, tuple)) else {names}
    if (getter := getattr(model, "get_classifier", None)) is not None:
        heads = getter()
        return {path for path, module in model.named_modules() if module is heads}
    return {name.rpartition(".")[0] for name, _ in list(model.named_parameters())[-1:]}
