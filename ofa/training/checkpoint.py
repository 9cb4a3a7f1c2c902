"""Checkpoints: safetensors files with a checksum inside, written atomically; nothing in them is ever unpickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ofa.files import FORMAT, FileFormatError, atomic_path


def save_checkpoint(path: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
    """Write groups of named tensors and JSON data.

    Args:
        tensors: Group name (``model``, ``ema``) -> tensor name -> tensor.
        state: JSON data, kept in the file's header.
    """
    flat = {
        f"{group}/{name}": t.detach().cpu().contiguous()
        for group, named in tensors.items()
        for name, t in named.items()
    }
    text = json.dumps({"format": FORMAT, **state})
    with atomic_path(path, sum(tensor.nbytes for tensor in flat.values())) as temporary:
        # One entry: with several, safetensors writes them in any order.
        safetensors.torch.save_file(flat, temporary, {"state": f"{_digest(flat, text)} {text}"})


def _digest(tensors: Mapping[str, Tensor], state: str) -> str:
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_checkpoint(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The inverse of :func:`save_checkpoint`.

    Raises:
        FileFormatError: If the file is missing, truncated, damaged or of another format.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            digest, _, text = (file.metadata() or {}).get("state", "").partition(" ")
            state = json.loads(text or "{}")
            flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise FileFormatError(f"no checkpoint at {path}") from None
    except (OSError, safetensors.SafetensorError, ValueError, RecursionError) as error:
        raise FileFormatError(_damaged(path, str(error))) from None
    if not isinstance(state, dict) or state.pop("format", None) != FORMAT:
        raise FileFormatError(f"checkpoint {path} is of another format; train again, or use the version that wrote it")
    if digest != _digest(flat, text):
        raise FileFormatError(_damaged(path, "its checksum does not match its contents"))
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in flat.items():
        group, _, rest = name.partition("/")
        groups.setdefault(group, {})[rest] = tensor
    return groups, state


def _damaged(path: Path, reason: str) -> str:
    return f"checkpoint {path} is truncated or damaged ({reason}); delete it to use the one before"


def optimizer_tensors(state_dict: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimiser's ``state_dict`` into tensors (``index/name``) and JSON data."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for index, entries in state_dict["state"].items():
        for name, value in entries.items():
            (tensors if isinstance(value, Tensor) else numbers)[f"{index}/{name}"] = value
    return tensors, {"param_groups": state_dict["param_groups"], "numbers": numbers}


def optimizer_state_dict(tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`optimizer_tensors`."""
    state: dict[int, dict[str, Any]] = {}
    for path, value in {**data["numbers"], **tensors}.items():
        index, _, name = path.partition("/")
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": data["param_groups"]}


def checkpoints_in(folder: Path) -> list[Path]:
    """Checkpoints of a run, oldest first."""
    return sorted(folder.glob("step-*.safetensors"))
