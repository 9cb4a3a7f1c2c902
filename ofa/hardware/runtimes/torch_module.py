"""torch itself: eager and compiled, on the CPU and on CUDA."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ofa.hardware.runtimes.session import Array, Arrays, Input, Model, ModelError, Run, random_inputs
from ofa.optional import NotInstalledError, package_versions, require
from ofa.setting import Setting

if TYPE_CHECKING:
    from torch import Tensor, nn

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
NUM_WARM_UP = 3  # runs before a CUDA graph is captured, which allocate and tune


@dataclass(frozen=True)
class ShapedModule:
    """A module in eval mode, and the shape of its input with the batch."""

    module: nn.Module
    input_shape: tuple[int, ...]


class TorchEager:
    """A module as it is, channels-last."""

    format: str = "module"
    precisions: tuple[str, ...] = ("fp32",)
    on_cpu: bool = True
    accelerator = "cpu"

    def prepare(self, model: Model, setting: Setting) -> TorchSession:
        """Take a :class:`ShapedModule`; it is left as it is, a copy of it is moved and converted."""
        if not isinstance(model, ShapedModule):
            raise ModelError(
                f"runtime {setting.runtime!r} runs torch modules, not files; choose a device of another runtime"
            )
        torch = require("torch", "torch")
        self._check(torch)
        dtype = getattr(torch, DTYPES[setting.precision])
        module = copy.deepcopy(model.module).eval().to(self.accelerator, dtype)
        module.to(memory_format=torch.channels_last)
        shape = (setting.batch, *model.input_shape[1:])
        return TorchSession(self._callable(torch, module), shape, dtype, self.accelerator, setting.threads)

    def versions(self) -> dict[str, str]:
        torch = require("torch", "torch")
        self._check(torch)
        found = package_versions("torch", extra="torch")
        if self.accelerator == "cuda":
            found |= {"cuda": str(torch.version.cuda), "gpu": torch.cuda.get_device_name()}
        return found

    def _check(self, torch: Any) -> None:
        if self.accelerator == "cuda" and not torch.cuda.is_available():
            raise NotInstalledError("torch sees no CUDA GPU on this machine; choose a device of the CPU")

    def _callable(self, torch: Any, module: nn.Module) -> Callable[[Tensor], Any]:
        return module


class TorchGraph(TorchEager):
    """An exported graph, which takes inputs of one shape and type: what a file that is made of it should compute."""

    def prepare(self, model: Model, setting: Setting) -> TorchSession:
        torch = require("torch", "torch")
        assert callable(model)
        return TorchSession(model, (), None, self.accelerator, torch.get_num_threads())


class TorchCompiled(TorchEager):
    """Compiled by Inductor; a minute of compiling for a whole network."""

    def _callable(self, torch: Any, module: nn.Module) -> Callable[[Tensor], Any]:
        torch.compiler.reset()  # one recompilation limit per model, not for all models of a table
        compiled: Callable[[Tensor], Any] = torch.compile(module, dynamic=False)
        return compiled


class TorchCuda(TorchEager):
    """On an NVIDIA GPU, launched kernel by kernel."""

    precisions = ("fp32", "fp16", "bf16")
    on_cpu = False
    accelerator = "cuda"


class TorchCudaGraph(TorchCuda):
    """On an NVIDIA GPU, all kernels launched at once as a CUDA graph.

    The graphs of one runtime compute in the same memory, as a table's hundreds would not fit beside each other: what
    one gives is good until another runs.
    """

    def __init__(self) -> None:
        self._graphs: list[Any] = []  # the first captured, whose memory all take

    def _callable(self, torch: Any, module: nn.Module) -> Callable[[Tensor], Any]:
        return _Captured(torch, module, self._graphs)


class _Captured:
    """A module whose kernels are captured at its first call; an input is copied to where they read, once."""

    def __init__(self, torch: Any, module: nn.Module, graphs: list[Any]) -> None:
        self._torch, self._module, self._graphs = torch, module, graphs
        self._graph: Any = None
        self._copied: Tensor | None = None

    def __call__(self, images: Tensor) -> Any:
        if self._graph is None:
            self._capture(images)
        if self._copied is not images:
            self._input.copy_(images)
            self._copied = images
        self._graph.replay()
        return self._output

    def _capture(self, images: Tensor) -> None:
        cuda = self._torch.cuda
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):
            for _ in range(NUM_WARM_UP):
                self._module(images)
        cuda.current_stream().wait_stream(side)
        self._input, graph = images.clone(), cuda.CUDAGraph()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The CUDA Graph is empty")  # that of a model that does nothing
            with cuda.graph(graph, pool=self._graphs[0].pool() if self._graphs else None):
                self._output = self._module(self._input)
        self._graph = graph
        if not self._graphs:
            self._graphs.append(graph)


class TorchSession:
    """A module on its accelerator."""

    def __init__(
        self, function: Callable[[Tensor], Any], shape: tuple[int, ...], dtype: Any, accelerator: str, threads: int
    ) -> None:
        self._function, self._shape, self._dtype = function, shape, dtype
        self._accelerator, self._threads = accelerator, threads

    def random_inputs(self, rng: np.random.Generator) -> dict[str, Array]:
        return random_inputs([Input("input", self._shape, "float32")], self._shape[0], rng)

    def run(self, inputs: Arrays) -> list[Array]:
        output: Any = self.prepared(inputs)()  # type: ignore[operator]
        outputs = output if isinstance(output, (list, tuple)) else [output]
        return [tensor.float().cpu().numpy() for tensor in outputs]

    def prepared(self, inputs: Arrays) -> Run:
        torch = require("torch", "torch")
        torch.set_num_threads(self._threads)
        (array,) = inputs.values()
        layout = torch.channels_last if array.ndim == 4 else torch.contiguous_format
        images = torch.from_numpy(array).to(device=self._accelerator, dtype=self._dtype, memory_format=layout)
        inference = torch.inference_mode()(self._function)
        if self._accelerator == "cpu":
            return partial(inference, images)

        def run() -> Any:
            output = inference(images)
            torch.cuda.synchronize()
            return output

        return run
