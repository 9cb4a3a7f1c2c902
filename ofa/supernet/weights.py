"""Weights that a model begins from."""

from __future__ import annotations

import pickle
import struct
from argparse import Namespace
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ofa.errors import OfaError


class WeightsError(OfaError, ValueError):
    """Weights cannot be used."""


WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Keys that checkpoints of torch, timm and Lightning keep weights under; the averaged ones first, which are better."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""What ``DataParallel``, ``torch.compile`` and Lightning put before all names."""

BACKBONES = ("backbone.", "encoder.")
"""What a model may have a classifier without its head under."""

NOT_WEIGHTS = (
    *(
        OSError,
        EOFError,
        RuntimeError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        AssertionError,
        struct.error,
    ),
    *(safetensors.SafetensorError, pickle.UnpicklingError),
)
"""What safetensors and the unpickler of torch make of damaged files."""


def load_weights(
    model: nn.Module, path: str | Path, *, needs_classifier: bool = False, optional: Collection[str] = ()
) -> None:
    """Load a file with the model's own parameter names, which are timm's for timm's models.

    ``.safetensors``, or a checkpoint of ``torch.save`` of which nothing but tensors is read; wrappers and prefixes that
    training programs add are seen through. Where all names are those of the model's backbone, the rest of the model
    stays untrained, and what the file has besides is left.

    Args:
        optional: See :func:`fit_weights`.

    Raises:
        WeightsError: If the file is missing or damaged, or :func:`fit_weights` refuses.
    """
    source, own = f"weights {path}", model.state_dict()
    tensors = _named_as(model, read_weights(path))
    for prefix in BACKBONES:
        inside = {prefix + name: tensor for name, tensor in tensors.items() if prefix + name in own}
        if inside and not own.keys() & tensors.keys():
            tensors, optional = inside, {*optional, *(name for name in own if not name.startswith(prefix))}
    fit_weights(model, tensors, source=source, needs_classifier=needs_classifier, optional=optional)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a file by name, on the CPU; :class:`WeightsError` if it is missing or damaged."""
    try:
        with torch.device("cpu"):  # whatever device the model is being made on
            if Path(path).suffix == ".safetensors":
                return safetensors.torch.load_file(path)
            with torch.serialization.safe_globals([Namespace]):  # the options of a training program, which are let be
                return _unwrapped(torch.load(path, map_location="cpu", weights_only=True))
    except NOT_WEIGHTS as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(
            f"weights {path} cannot be read ({reason}); give a .safetensors file, or a checkpoint of torch.save that "
            "holds tensors, with the names of the model's own parameters"
        ) from None


def _unwrapped(content: Any) -> dict[str, Tensor]:
    """Tensors by name, out of a checkpoint."""
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            return _unwrapped(content[key])
    if not isinstance(content, Mapping):
        raise KeyError(f"it holds a {type(content).__name__}, no tensors by name")
    return {str(name): tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}


def _named_as(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without prefixes that all names have, and the model's do not."""
    own = model.state_dict()
    while not own.keys() & tensors.keys():
        prefix = next((each for each in PREFIXES if tensors and all(name.startswith(each) for name in tensors)), None)
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The first of some tensors that holds a value that is no finite number."""
    return next((name for name, each in tensors.items() if not each.isfinite().all()), None)


def fit_weights(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    source: str,
    needs_classifier: bool,
    optional: Collection[str] = (),
) -> None:
    """Load tensors by name; into a model on the meta device they are only checked.

    Args:
        source: What they are, for messages.
        needs_classifier: Otherwise a classifier for other classes stays untrained.
        optional: Names that stay untrained where there is no tensor for them.

    Raises:
        WeightsError: If they do not fit the model, or are not finite; it names the first misfit.
    """
    own = model.state_dict()
    heads = set() if needs_classifier else _classifier_names(model)
    fitting = {name: t for name, t in tensors.items() if name in own and own[name].shape == t.shape}
    # Older files have no counts of batches, as in torch.
    may_lack = {*optional, *(name for name in own if name.endswith(".num_batches_tracked"))}
    others = sorted({*own, *tensors} - fitting.keys() - (may_lack - tensors.keys()))
    misfits = [name for name in others if name.rpartition(".")[0] not in heads]
    # Another layer that gives as many numbers as classes, here and there, is one of several classifiers.
    classes = {_first_sizes(own, tensors, name) for name in others if name not in misfits} - {None}
    misfits = [name for name in misfits if _first_sizes(own, tensors, name) not in classes]
    if misfits:
        first = misfits[0]
        shapes = [tuple(each[first].shape) if first in each else "nothing" for each in (own, tensors)]
        raise WeightsError(
            f"{source} do not fit {type(model).__name__}: {first!r} is {shapes[0]} in the model and {shapes[1]} "
            f"in the file ({len(misfits)} such tensors); give those of this very model"
        )
    if (bad := not_finite(fitting)) is not None:
        raise WeightsError(f"{source} hold values in {bad!r} that are not finite; whoever trained them diverged")
    if not any(tensor.is_meta for tensor in own.values()):
        model.load_state_dict(fitting, strict=False)


def _first_sizes(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], name: str) -> tuple[int, int] | None:
    """Sizes of the first axis in the model and in the file, if that is all that differs."""
    if name not in own or name not in tensors or own[name].shape[1:] != tensors[name].shape[1:]:
        return None
    return len(own[name]), len(tensors[name])


def _classifier_names(model: nn.Module) -> set[str]:
    """Paths of the layers that give the logits: as timm's configuration has them, or else the last with weights."""
    names = (getattr(model, "default_cfg", None) or {}).get("classifier")
    if names is not None:
        return set(names) if isinstance(names, (list, tuple)) else {names}
    if (getter := getattr(model, "get_classifier", None)) is not None:
        heads = getter()
        return {path for path, module in model.named_modules() if module is heads}
    return {name.rpartition(".")[0] for name, _ in list(model.named_parameters())[-1:]}
