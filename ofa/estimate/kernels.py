"""What a runtime really executes of a network: its kernels, after all fusions, with the shapes that they work on.

The runtime itself is asked: it writes the graph as it has optimised it, and of one run which kernels ran on which
shapes. (nn-Meter, MobiSys 2021, finds the fusions of a runtime by test cases and cuts networks by these rules.)
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ofa.errors import OfaError
from ofa.hardware.runtimes import RUNTIMES, Model
from ofa.hardware.runtimes.onnxruntime import OnnxRuntime
from ofa.setting import Setting

Shape = tuple[int, ...]

ATTRIBUTES = (
    *("activation", "axis", "dilations", "group", "kernel_shape", "mode"),
    *("perm", "steps", "strides", "transA", "transB"),
)
CONVOLUTIONS = ("Conv", "FusedConv")
PRODUCTS = ("Gemm", "FusedGemm", "MatMul", "FusedMatMul")
COSTLY_ACTIVATIONS = ("Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Gelu", "QuickGelu", "Elu")
NUM_BYTES = {"float": 4, "float16": 2, "double": 8, "int64": 8, "uint64": 8, "bool": 1, "int8": 1, "uint8": 1}
FLAG_WEIGHT = 3.0  # of yes and no among features, as a difference of sizes in powers of 2
SUFFIX = "_kernel_time"  # of an event's name, behind the node's


class KernelError(OfaError, ValueError):
    """The kernels of a network cannot be told, or not on this runtime."""


@dataclass(frozen=True)
class Value:
    """A tensor that a kernel reads or writes.

    Args:
        dtype: As ONNX Runtime calls it: ``float``, ``int64``.
        is_weight: Whether it is the same in every run.
    """

    shape: Shape
    dtype: str = "float"
    is_weight: bool = False

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.size * NUM_BYTES.get(self.dtype, 4)

    def __str__(self) -> str:
        kind = "" if self.dtype == "float" else f"{self.dtype}:"
        return f"{kind}{'x'.join(map(str, self.shape)) or 'scalar'}{'*' if self.is_weight else ''}"

    @classmethod
    def parse(cls, text: str) -> Value:
        """What :meth:`__str__` wrote; :class:`ValueError` if it cannot be."""
        found = re.fullmatch(r"(?:(\w+):)?(scalar|\d+(?:x\d+)*)(\*?)", text)
        if found is None:
            raise ValueError(f"{text!r} is no shape")
        shape = () if found[2] == "scalar" else tuple(map(int, found[2].split("x")))
        return cls(shape, found[1] or "float", bool(found[3]))


@dataclass(frozen=True)
class Kernel:
    """One kernel: what it is, what it reads and writes.

    Args:
        op: Type of the node, behind its domain where that is not ONNX's own: ``nchwc.Conv``.
        attributes: Those of :data:`ATTRIBUTES` that it has, as text, in the order of their names.
    """

    op: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    attributes: tuple[tuple[str, str], ...] = ()

    @cached_property
    def _attribute(self) -> dict[str, str]:
        return dict(self.attributes)

    def whole_numbers(self, name: str, default: Sequence[int]) -> list[int]:
        text = self._attribute.get(name)
        return list(default) if text is None else [int(word) for word in text.split(",") if word]

    @property
    def name(self) -> str:
        """Without its domain."""
        return self.op.rpartition(".")[2]

    @property
    def is_convolution(self) -> bool:
        return self.name in CONVOLUTIONS and len(self.inputs) > 1 and len(self.inputs[1].shape) == 4

    @property
    def is_product(self) -> bool:
        return self.name in PRODUCTS and len(self.inputs) > 1

    @property
    def group(self) -> int:
        return self.whole_numbers("group", [1])[0]

    @property
    def kind(self) -> str:
        """What is predicted together."""
        if self.name == "Slice" and any(step != 1 for step in self.whole_numbers("steps", [])):
            return f"{self.op} with steps"
        if mode := self._attribute.get("mode"):
            return f"{self.op} {mode}"
        if not self.is_convolution:
            is_constant = self.name == "MatMul" and self.inputs[1].is_weight
            return f"{self.op} by weights" if is_constant else self.op
        group, (out, _, *kernel) = self.group, self.inputs[1].shape
        if group > 1:
            return f"{self.op} {'depthwise' if group >= out else 'grouped'}"
        return f"{self.op} {'pointwise' if kernel == [1, 1] else 'spatial'}"

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates, of what the runtime computes: padded channels count."""
        if self.is_convolution:
            return self.outputs[0].size * math.prod(self.inputs[1].shape[1:])
        if self.is_product:
            return self.outputs[0].size * self._product[2]
        return MACS[self.name](self) if self.name in MACS else 0

    @property
    def _product(self) -> tuple[int, int, int, int]:
        """Batch, rows, inner and columns of a matrix product."""
        first, last = self.inputs[0].shape, self.outputs[0].shape
        is_transposed = self.whole_numbers("transA", [0])[0] == 1 and len(first) > 1
        inner = first[-2 if is_transposed else -1]
        rows = last[-2] if len(last) > 1 else 1
        return math.prod(last[:-2]), rows, inner, last[-1] if last else 1

    @property
    def input_bytes(self) -> int:
        return sum(value.num_bytes for value in self.inputs if not value.is_weight)

    @property
    def weight_bytes(self) -> int:
        return sum(value.num_bytes for value in self.inputs if value.is_weight)

    @property
    def output_bytes(self) -> int:
        return sum(value.num_bytes for value in self.outputs)

    @cached_property
    def features(self) -> tuple[float, ...]:
        """What its time depends on, mostly as logarithms to the base of 2; of one length for all of a kind."""
        sizes = [self.macs + 1, self.input_bytes + 1, self.weight_bytes + 1, self.output_bytes + 1]
        flags: list[int] = [self._attribute.get("activation", "") in COSTLY_ACTIVATIONS, len(self.inputs) > 3]
        if self.is_convolution:
            out, within, height, width = self.inputs[1].shape
            strides = self.whole_numbers("strides", [1, 1])
            sizes += [out, within, self.group, height, width, strides[0], *self._picture]
        elif self.is_product:
            sizes += self._product
            flags += [self.whole_numbers(name, [0])[0] for name in ("transA", "transB")]
        else:
            ends = [values[0].shape[-1] if values and values[0].shape else 1 for values in (self.inputs, self.outputs)]
            sizes += [*ends, self._run, self._reduced]
            flags = [min(len(self.inputs), 4), min(len(self.outputs), 4)]
        return (*(math.log2(max(size, 1)) for size in sizes), *(FLAG_WEIGHT * flag for flag in flags))

    @property
    def _picture(self) -> Shape:
        return self.outputs[0].shape[2:4]

    @property
    def _reduced(self) -> int:
        """How many elements that lie together become one."""
        if not self.outputs or not self.inputs or not self.name.startswith("Reduce"):
            return 1
        before, after = self.inputs[0].shape, self.outputs[0].shape
        if len(before) != len(after):
            return 1 if before[-1:] == after[-1:] else before[-1]
        kept = next((axis for axis in reversed(range(len(before))) if before[axis] == after[axis]), -1)
        return math.prod(before[kept + 1 :])

    @property
    def _run(self) -> int:
        """How many elements lie together, where it goes through memory: before one is skipped, or another repeated."""
        if not self.outputs or not self.inputs:
            return 1
        out = self.outputs[0].shape
        if perm := self.whole_numbers("perm", []):
            kept = [axis for axis in range(len(perm)) if perm[axis:] == list(range(axis, len(perm)))]
            return math.prod(out[kept[0] :]) if kept else 1
        others = [value.shape for value in self.inputs if value.dtype == self.inputs[0].dtype]
        other = min(others, key=math.prod)
        run = 1
        is_repeated = bool(other) and other[-1] == 1
        for theirs, ours in zip(reversed(other), reversed(out), strict=False):
            if (theirs == 1) != is_repeated:
                break
            run *= ours
            if theirs not in (ours, 1):
                break
        return run


def _lstm(kernel: Kernel) -> int:
    steps, batch, _ = kernel.inputs[0].shape
    return steps * batch * sum(math.prod(value.shape) for value in kernel.inputs[1:3])


def _transposed(kernel: Kernel) -> int:
    return kernel.inputs[0].size * math.prod(kernel.inputs[1].shape[1:])


def _one_dimensional(kernel: Kernel) -> int:
    return kernel.outputs[0].size * math.prod(kernel.inputs[1].shape[1:])


MACS: dict[str, Callable[[Kernel], int]] = {
    "LSTM": _lstm,
    "GRU": _lstm,
    "ConvTranspose": _transposed,
    "Conv": _one_dimensional,
    "FusedConv": _one_dimensional,
}
"""Multiply-accumulates of what is neither a convolution of pictures nor a product; none of what is not here."""

Kernels = Mapping[Kernel, int]
"""The kernels of a network, with how often each runs."""


def check_readable(setting: Setting) -> None:
    """:class:`KernelError` unless the kernels of networks can be told in a setting."""
    if setting.runtime not in READERS:
        raise KernelError(
            f"kernels of runtime {setting.runtime!r} cannot be told; choose a device of {', '.join(READERS)}"
        )


def read_kernels(model: Model, setting: Setting) -> Counter[Kernel]:
    """The kernels of a model in the runtime's format, which is loaded and run once on this machine.

    Raises:
        KernelError: If this runtime does not tell.
        ModelError: If the model cannot be loaded, or a size of its inputs besides the batch is free.
    """
    check_readable(setting)
    return READERS[setting.runtime](model, setting)


def _read_of_onnxruntime(model: Model, setting: Setting) -> Counter[Kernel]:
    import onnx

    runtime = RUNTIMES[setting.runtime]()
    assert isinstance(runtime, OnnxRuntime)
    with tempfile.TemporaryDirectory() as folder:
        options = runtime.options(setting)
        options.enable_profiling, options.profile_file_prefix = True, f"{folder}/run"
        options.optimized_model_filepath = f"{folder}/optimised.onnx"
        # Weights beside the graph: shapes are all that is read, and messages of more than 2 GB are none.
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
        session = runtime.load(model, setting, options)
        session.run(session.random_inputs(np.random.default_rng(0)))
        events = json.loads(session.end_profiling().read_text(encoding="utf-8"))
        graph = onnx.load(f"{folder}/optimised.onnx", load_external_data=False).graph
    ran = [event for event in events if event.get("cat") == "Node" and event["name"].endswith(SUFFIX)]
    return Counter(_kernels_of_events(ran, graph))


def _kernels_of_events(events: Sequence[Mapping[str, Any]], graph: Any) -> list[Kernel]:
    """Events tell shapes, but not of weights that the runtime has packed for itself; the graph tells those."""
    import onnx

    weights = {
        each.name: Value(tuple(each.dims), _TYPES.get(each.data_type, "float"), is_weight=True)
        for each in graph.initializer
    }
    steps = _steps(graph)
    by_name: dict[str, list[Any]] = defaultdict(list)
    for node in graph.node:
        by_name[node.name].append(node)
    values: dict[str, Value] = {}
    found = []
    for event in events:
        about = event["args"]
        shown, outputs = (_values(about[f"{name}_type_shape"]) for name in ("input", "output"))
        nodes = by_name.get(event["name"].removesuffix(SUFFIX), [])
        if not nodes:
            found.append(Kernel(about["op_name"], shown, outputs))
            continue
        node = nodes.pop(0) if len(nodes) > 1 else nodes[0]
        values |= zip(filter(None, node.output), outputs, strict=False)
        unnamed = iter([value for value in shown])
        inputs = [weights.get(name) or values.get(name) or next(unnamed, Value(())) for name in node.input if name]
        domain = node.domain.rpartition(".")[2]
        attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        attributes |= {"steps": steps[node.input[4]]} if len(node.input) > 4 and node.input[4] in steps else {}
        found.append(
            Kernel(
                f"{domain}.{node.op_type}" if domain and domain != "onnx" else node.op_type,
                tuple(inputs),
                outputs,
                tuple((name, _text(attributes[name])) for name in ATTRIBUTES if name in attributes),
            )
        )
    return found


def _steps(graph: Any) -> dict[str, list[int]]:
    """Of slices, by the name of the input: these say nothing of them in their shapes."""
    import onnx

    names = {node.input[4] for node in graph.node if node.op_type == "Slice" and len(node.input) > 4}
    return {
        each.name: onnx.numpy_helper.to_array(each).ravel().tolist()
        for each in graph.initializer
        if each.name in names and each.data_location != onnx.TensorProto.EXTERNAL
    }


_TYPES = {1: "float", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "double"}
"""Numbers of ONNX's types."""


def _values(described: Sequence[Mapping[str, Sequence[int]]]) -> tuple[Value, ...]:
    return tuple(Value(tuple(shape), dtype) for each in described for dtype, shape in each.items())


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode()
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


READERS: dict[str, Callable[[Model, Setting], Counter[Kernel]]] = {"onnxruntime": _read_of_onnxruntime}
"""By runtime; a new one is a function and a line."""
