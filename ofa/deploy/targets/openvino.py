"""OpenVINO IR: a graph in XML and its weights beside it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from ofa.deploy.targets.onnx_int8 import onnx_for
from ofa.deploy.targets.target import Exported, Network
from ofa.hardware.runtimes.openvino import EXTRA
from ofa.optional import require
from ofa.setting import Setting


@dataclass(frozen=True)
class OpenVinoIr:
    """Made of the ONNX graph, in INT8 of the one with Q/DQ nodes: one quantizer for all runtimes, and the network that
    latency tables are measured with. Weights keep their precision (OpenVINO would store them in fp16). The steps are
    those of OpenVINO's own converter, which also reports its use over the network.
    """

    runtimes = ("openvino",)
    precisions = ("fp32", "int8")
    files = ("model.xml", "model.bin")
    free_batch = True

    def export(self, network: Network, setting: Setting) -> Exported:
        openvino = require("openvino", EXTRA)
        transformations = require("openvino._offline_transformations", EXTRA)
        exported = onnx_for(network, setting)
        (model,) = exported.files.values()
        with tempfile.TemporaryDirectory() as folder:
            graph = openvino.Core().read_model(model)
            transformations.apply_moc_transformations(graph, False)  # constants are folded, INT8 weights stay 8 bits
            graph.set_friendly_name("subnet")
            for number, node in enumerate(graph.get_ordered_ops()):
                if node.get_type_name() not in ("Parameter", "Result"):  # their own names count within the process
                    node.set_friendly_name(f"{node.get_type_name()}_{number}")
            openvino.save_model(graph, str(Path(folder) / self.files[0]), compress_to_fp16=False)
            files = {name: (Path(folder) / name).read_bytes() for name in self.files}
        return Exported(files=files, reference=exported.reference, quantization=exported.quantization)
