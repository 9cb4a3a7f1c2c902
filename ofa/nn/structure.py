"""Cloning a module tree without copying its tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def clone_structure(module: ModuleT, clones: dict[int, nn.Module] | None = None) -> ModuleT:
    """New module objects over the same tensors; ``clones`` is filled with ``id(original) -> clone``.

    What is done to the clone's structure (a shorter ``Sequential``, a sliced weight) leaves the original alone, while
    gradients and in-place updates of tensors reach it. Hooks stay common to both until :func:`own_hooks`. Public dicts
    become the clone's own, without tensors: LeViT, for one, caches attention biases of one shape there. Methods that a
    module keeps as attributes (FasterNet chooses its ``forward`` so) become those of the clone. This takes a few
    microseconds per module, where ``copy.deepcopy`` would also copy the weights.
    """
    clones = {} if clones is None else clones
    methods: list[tuple[dict[str, Any], str, MethodType]] = []

    def clone(original: nn.Module) -> nn.Module:
        if id(original) in clones:  # one module that stands in two places stays one
            return clones[id(original)]
        new = original.__new__(type(original))
        state = original.__dict__.copy()
        state["_parameters"] = original._parameters.copy()
        state["_buffers"] = original._buffers.copy()
        new.__dict__ = state
        clones[id(original)] = new
        for name, value in original.__dict__.items():
            if type(value) is MethodType:
                methods.append((state, name, value))
            elif type(value) is dict and name[0] != "_":
                state[name] = {key: entry for key, entry in value.items() if not isinstance(entry, Tensor)}
        state["_modules"] = {name: child and clone(child) for name, child in original._modules.items()}
        return new

    cloned = clone(module)
    for state, name, method in methods:  # only now, as one may be bound to a module that is cloned later
        if id(method.__self__) in clones:
            state[name] = MethodType(method.__func__, clones[id(method.__self__)])
    return cloned  # type: ignore[return-value]


def ties_of(module: nn.Module) -> list[list[tuple[str, str]]]:
    """Parameters and buffers of a module tree: for each, the path and attribute of every place that holds it."""
    places: dict[int, list[tuple[str, str]]] = {}
    for path, child in module.named_modules():
        for name, tensor in (*child._parameters.items(), *child._buffers.items()):
            if tensor is not None:
                places.setdefault(id(tensor), []).append((path, name))
    return list(places.values())


def without_values(module: ModuleT) -> ModuleT:
    """A clone on the meta device; what is tied stays tied, which ``Module.to`` forgets there."""
    clone = clone_structure(module).to("meta")
    for places in ties_of(module):
        if len(places) > 1:
            held = [(clone.get_submodule(path), name) for path, name in places]
            owner, first = held[0]
            tensors = owner._parameters if first in owner._parameters else owner._buffers
            for other, name in held[1:]:
                (other._parameters if name in other._parameters else other._buffers)[name] = tensors[first]  # type: ignore[assignment]
    own_hooks(clone)
    return clone


def is_identity(module: nn.Module) -> bool:
    """Whether a layer does nothing in eval mode."""
    dropping = ("DropPath", "PatchDropout", "StochasticDepth")
    return isinstance(module, (nn.Dropout, nn.Identity)) or type(module).__name__ in dropping


def digest_of(module: nn.Module, constants: Iterable[tuple[int, ...]] = ()) -> str:
    """Eight digits that differ wherever code or a runtime might see a difference: structure, sizes, simple settings.

    Args:
        constants: Shapes of what else goes into it.
    """
    words = [repr(list(constants))]
    for path, child in module.named_modules():
        if is_identity(child):
            continue
        words.append(f"{path} {type(child).__name__}")
        for name, value in sorted(vars(child).items()):
            simple = isinstance(value, (int, float, str, tuple, list)) and name[0] != "_"
            if simple and name not in ("training", "inplace", "momentum", "drop_prob", "grad_checkpointing"):
                words.append(f"{name}={value!r}")
            elif callable(value) and not isinstance(value, nn.Module):
                words.append(f"{name}={getattr(value, '__name__', type(value).__name__)}")
        tensors = {**child._parameters, **child._buffers}
        words += [f"{name}{tuple(tensor.shape)}" for name, tensor in tensors.items() if tensor is not None]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:8]


def detach_buffers(module: nn.Module) -> None:
    """Give a clone its own copy of every buffer, so that a training-mode forward updates no shared statistics."""
    for child in module.modules():
        for name, buffer in child._buffers.items():
            if buffer is not None:
                child._buffers[name] = buffer.clone()


def own_hooks(module: nn.Module) -> None:
    """Part a clone's hooks from the original's, in place."""
    for child in module.modules():
        own = {name: value for name, value in child.__dict__.items() if "hooks" in name and isinstance(value, dict)}
        child.__dict__.update({name: value.copy() for name, value in own.items()})


def own_tensors(module: nn.Module) -> None:
    """Turn a clone's views into contiguous parameters and buffers of its own, in place; what is shared stays shared."""
    detach_buffers(module)
    copies: dict[int, tuple[Tensor, nn.Parameter]] = {}  # with the original, which else could be another's by then
    for child in module.modules():
        for name, parameter in child._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in copies:
                copy = parameter.detach().clone(memory_format=torch.contiguous_format)
                copies[id(parameter)] = (parameter, nn.Parameter(copy, requires_grad=parameter.requires_grad))
            child._parameters[name] = copies[id(parameter)][1]
        if isinstance(child, nn.RNNBase):
            child.__dict__["_flat_weights"] = [child._parameters[name] for name in child._flat_weights_names]
