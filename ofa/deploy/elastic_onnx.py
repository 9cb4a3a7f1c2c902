"""The subnets of an elastic artefact in ONNX Runtime."""

from __future__ import annotations

import functools
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ofa.deploy.elastic_format import REMEDY, WEIGHTS, Compute, ElasticError, ElasticInfo, Floats, SubnetInfo
from ofa.deploy.elastic_graph import common_tail, parse_graph, split

if TYPE_CHECKING:
    from onnx import ModelProto

EXACT = 1
"""The arena grows by what is asked for, not to twice its size."""


class OnnxSubnets:
    """Makes a session per subnet, and one for the end that all have in common.

    What sessions cannot share: ONNX Runtime multiplies the factors of batch normalisation into the weights and packs
    them for the CPU, so that those of two subnets are different numbers in a different order. Only layers without batch
    normalisation of its own, at the end of the networks, are the same in all.

    All sessions take activations from one memory arena. Each with an arena of its own would keep those of every subnet
    while one runs; without any, memory is asked of the system in each run, which takes 2 to 4 % of a small one.
    """

    def __init__(self, root: Path, info: ElasticInfo, threads: int, device: str) -> None:
        if device != "cpu":
            raise ElasticError(f"onnxruntime runs subnets on the CPU, not on {device!r}; use runtime='torch'")
        self._root, self._info, self._threads = root, info, threads
        models = [self._model(subnet) for subnet in info.subnets]
        length = common_tail(models)
        parts = [split(model, length) if length else (model, None) for model in models]
        self._own = {subnet.name: own for subnet, (own, _) in zip(info.subnets, parts, strict=True)}
        tail = parts[0][1]
        self.tail = None if tail is None else self._session(tail)

    def load(self, subnet: SubnetInfo) -> Compute:
        """Logits ``(N, num_classes)`` of images ``(N, C, H, W)``, one image after the other; several threads may call.

        A larger batch would need graphs of a free batch, and activations of its size; on one core it is hardly faster.
        """
        sessions = [self._session(self._own[subnet.name]), *([] if self.tail is None else [self.tail])]
        steps = [(session, session.get_inputs()[0].name) for session in sessions]

        def one(value: Floats) -> Floats:
            for session, input_name in steps:
                (value,) = session.run(None, {input_name: value})
            return value

        def compute(images: Floats) -> Floats:
            if len(images) == 1:
                return one(images)
            return np.concatenate([one(images[number : number + 1]) for number in range(len(images))])

        return compute

    def _model(self, subnet: SubnetInfo) -> ModelProto:
        path, files = self._root / subnet.graph, self._info.files
        data = path.read_bytes()
        if sha256(data).hexdigest() != files[subnet.graph]["sha256"]:  # since it was found to be as listed
            raise ElasticError(f"{path} has changed; {REMEDY}")
        return parse_graph(data, weights_bytes=files[WEIGHTS]["bytes"], where=str(path))

    def _session(self, model: ModelProto) -> Any:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as errors

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        _make_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
        # Weights are not taken from the arena, which would keep those of sessions that are gone.
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(self._root))
        try:
            return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except (errors.InvalidGraph, errors.InvalidArgument, errors.Fail, errors.NotImplemented) as error:
            raise ElasticError(f"a graph of {self._root} cannot be loaded ({error}); {REMEDY}") from None


@functools.cache
def _make_arena() -> None:
    """The arena for those sessions of this process that ask for it; ONNX Runtime keeps it as long as the process."""
    import onnxruntime

    kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    where = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
    onnxruntime.create_and_register_allocator(where, onnxruntime.OrtArenaCfg({"arena_extend_strategy": EXACT}))
