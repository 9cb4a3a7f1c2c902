"""OpenVINO IR: a graph in XML and its weights beside it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ofa.optional import extra, require

EXTRA = extra("openvino")
FILES = ("model.xml", "model.bin")


def to_openvino(model: bytes) -> dict[str, bytes]:
    """An ONNX graph as OpenVINO IR: contents of its files, by :data:`FILES`.

    In INT8 it is made of the graph with Q/DQ nodes: one quantizer for all runtimes, and the network that latency tables
    are measured with. Weights keep their precision (OpenVINO would store them in fp16). The steps are those of
    OpenVINO's own converter, which also reports its use over the network.

    Raises:
        NotInstalledError: If OpenVINO is not there.
    """
    openvino = require("openvino", EXTRA)
    transformations = require("openvino._offline_transformations", EXTRA)
    with tempfile.TemporaryDirectory() as folder:
        graph = openvino.Core().read_model(model)
        transformations.apply_moc_transformations(graph, False)  # constants are folded, INT8 weights stay 8 bits
        graph.set_friendly_name("subnet")
        for number, node in enumerate(graph.get_ordered_ops()):
            if node.get_type_name() not in ("Parameter", "Result"):  # their own names count within the process
                node.set_friendly_name(f"{node.get_type_name()}_{number}")
        openvino.save_model(graph, str(Path(folder) / FILES[0]), compress_to_fp16=False)
        return {name: (Path(folder) / name).read_bytes() for name in FILES}
