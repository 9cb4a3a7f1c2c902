"""The subnets of an elastic artefact in torch: modules over one set of tensors."""

from __future__ import annotations

import re
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ofa.config import from_mapping
from ofa.deploy.elastic_format import REMEDY, WEIGHTS, Compute, ElasticError, ElasticInfo, Floats, SubnetInfo
from ofa.deploy.elastic_weights import WeightMap, boxes_around
from ofa.nn.structure import clone_structure
from ofa.supernet.model_sources import check_code
from ofa.training.recipe import ModelConfig
from ofa.training.run import build_supernet


class TorchSubnets:
    """All subnets over one set of tensors: weights are views, statistics of batch normalisation each subnet's own.

    A subnet that is loaded holds copies of those slices of convolutions' weights that are not contiguous: torch would
    copy them at every call, which takes 5 to 10 % of a subnet's time. Products of matrices take slices as they are.
    """

    def __init__(self, root: Path, info: ElasticInfo, threads: int, device: str) -> None:
        if info.model is None:
            raise ElasticError(f"{root} does not say what model it is of, so torch cannot build it; use onnxruntime")
        self._threads, self._device = threads, _device(device)
        config = from_mapping(ModelConfig, info.model, where=f"model in {root}").untrained()
        check_code(
            config.name,
            info.provenance.get("code_sha256"),
            where=f"elastic artefact {root}",
            remedy="put it there with ofa.trust.trust(path); or use onnxruntime, which executes nothing",
        )
        supernet = build_supernet(config, num_classes=info.num_outputs or len(info.classes))
        weight_map = WeightMap(supernet)
        structures = {each.name: weight_map.structure(supernet.space.arch(each.arch)) for each in info.subnets}
        parts = {name: weight_map.parts(structure) for name, structure in structures.items()}
        boxes = boxes_around(list(parts.values()))
        try:
            tensors = safetensors.torch.load_file(root / WEIGHTS, device=str(self._device))
            for name, tensor in tensors.items():
                if tensor.ndim == 4:
                    tensors[name] = tensor.contiguous(memory_format=torch.channels_last)
            for name, structure in structures.items():
                for path, part in parts[name].items():
                    own = tensors.get(f"{name}/{path}")
                    tensor = part.within(boxes[path]).take(tensors[path]) if own is None else own
                    _replace(structure, path, nn.Parameter(tensor, requires_grad=False))
                for path, buffer in dict(structure.named_buffers()).items():
                    if (own := tensors.get(f"{name}/{path}")) is not None:
                        if own.shape != buffer.shape:
                            raise RuntimeError(f"{name}/{path} is {tuple(own.shape)}, not {tuple(buffer.shape)}")
                        _replace(structure, path, own)
        except (safetensors.SafetensorError, KeyError, RuntimeError) as error:
            raise ElasticError(f"{root / WEIGHTS} does not fit model {config.name!r} ({error}); {REMEDY}") from None
        # Tensors that are not in the file, such as a grid that a model computes, are still on the CPU.
        self._modules = {name: structure.eval().to(self._device) for name, structure in structures.items()}

    def load(self, subnet: SubnetInfo) -> Compute:
        """Logits ``(N, num_classes)`` of images ``(N, C, H, W)``, all at once."""
        module, threads, device = clone_structure(self._modules[subnet.name]), self._threads, self._device
        for child in module.modules():
            for name, parameter in child._parameters.items():
                if parameter is not None and not _is_quick(parameter):
                    copy = parameter.detach().contiguous(memory_format=torch.channels_last)
                    child._parameters[name] = nn.Parameter(copy, requires_grad=False)

        def compute(images: Floats) -> Floats:
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            with torch.inference_mode():
                batch = torch.from_numpy(images).to(device, memory_format=torch.channels_last)
                logits: Floats = module(batch).cpu().numpy()  # which waits for the device
            return logits

        return compute


def _device(name: str) -> torch.device:
    """:class:`ElasticError` unless torch can compute there."""
    if not re.fullmatch(r"(cpu|cuda)(:[0-9]+)?", name):
        raise ElasticError(f"device must be 'cpu', 'cuda' or 'cuda:1', not {name!r}")
    device, num_gpus = torch.device(name), torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= num_gpus:
        raise ElasticError(f"torch sees {num_gpus} CUDA devices, so none is {name!r}; use device='cpu'")
    return device


def _replace(module: nn.Module, path: str, tensor: Tensor) -> None:
    """Put a tensor where one of the same name is."""
    parent, _, name = path.rpartition(".")
    owner = module.get_submodule(parent)
    (owner._parameters if name in owner._parameters else owner._buffers)[name] = tensor  # type: ignore[assignment]


def _is_quick(weight: Tensor) -> bool:
    """Whether torch takes it as it is at each call."""
    return weight.ndim != 4 or weight.is_contiguous() or weight.is_contiguous(memory_format=torch.channels_last)
