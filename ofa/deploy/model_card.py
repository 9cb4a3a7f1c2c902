"""The model card: README.md of a bundle, with the header that model hubs read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jinja2
import yaml

from ofa.config import from_mapping
from ofa.deploy.targets.network import Quantization
from ofa.formats.onnx import versions_text
from ofa.states import Speed
from ofa.tasks import Task

LIBRARIES = {"onnxruntime-cuda": "onnxruntime-gpu", "litert": "ai-edge-litert", "executorch": "executorch and torch"}


FORMATS = {
    "openvino": "OpenVINO IR",
    "executorch": "ExecuTorch program, for XNNPACK",
    "litert": "LiteRT (TensorFlow Lite)",
    "tensorrt": "TensorRT engine",
}
PRECISIONS = {
    "fp32": "fp32",
    "fp16": "fp16 inside; input and output are as below",
    "int8": "int8 weights per channel and activations per tensor; input and output are as below",
}


def model_card(
    info: Mapping[str, Any], task: Task, *, output_shape: Sequence[int], model_files: Mapping[str, bytes]
) -> str:
    """Markdown with a YAML header, made of what ``bundle.json`` says; the licence is left to whoever publishes it.

    Args:
        output_shape: Without the batch.
        model_files: Contents of each file of the model.
    """
    network = info["model"]
    card, metric, score = task.card(info), task.metric, info[task.metric.name]
    provenance, budget = info["provenance"], info["budget_ms"]
    model, data = provenance.get("model", "subnet"), provenance.get("data", {}).get("name", "unknown")
    header = {
        "library_name": network["target"].partition("-")[0],
        "pipeline_tag": card.pipeline_tag,
        "tags": [
            network["target"],
            network["runtime"],
            network["precision"],
            card.pipeline_tag,
            "once-for-all",
            "neural-architecture-search",
            *([] if ":" in model else ["timm"]),
        ],
        "metrics": [card.metric],
        "model-index": [
            {
                "name": f"{model}-{info['device']}" + ("" if budget is None else f"-{budget:g}ms"),
                "results": [
                    {
                        "task": {"type": card.pipeline_tag},
                        "dataset": {"name": data, "type": data, "split": score["split"]},
                        "metrics": [{"type": card.metric, "value": card.metric_value, "name": card.metric_title}],
                    }
                ],
            }
        ],
    }
    quantization = network.get("quantization")
    files = ", ".join(f"`{name}` ({len(data) / 1e6:.2f} MB)" for name, data in model_files.items())
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ofa.deploy"), trim_blocks=True, keep_trailing_newline=True, autoescape=False
    )
    return environment.get_template("model_card.md.j2").render(
        header=yaml.safe_dump(header, sort_keys=False, allow_unicode=True),
        info=info,
        model=model,
        data=data,
        origin=provenance.get("origin"),
        card=card,
        metric=metric,
        score=score,
        network=network,
        speed=from_mapping(Speed, info.get("speed", {}), where="speed"),
        spec=info["preprocessing"],
        input_shape=_shape(network, info["preprocessing"]["input_size"]),
        output_shape=_shape(network, output_shape),
        task=task,
        sample_file=" ".join(f"samples/{row:03}{task.sample_suffix}" for row in range(task.num_needed)),
        per=partial(_per, network["batch"] or 1, task.counted),
        files=files,
        format=_format(network["target"], model_files),
        precision=PRECISIONS[network["precision"]],
        kernels=quantization and from_mapping(Quantization, quantization, where="quantization").kernels,
        library=LIBRARIES.get(network["runtime"], network["runtime"]),
    )


def _format(target: str, model_files: Mapping[str, bytes]) -> str:
    """What a runtime must know to read the files: of ONNX the versions."""
    graphs = [f"ONNX, {versions_text(data)}" for name, data in model_files.items() if name.endswith(".onnx")]
    return ", ".join(graphs if target.startswith("onnx") else [FORMATS.get(target, target), *graphs])


def _shape(network: Mapping[str, Any], of_one: Sequence[int]) -> str:
    return " × ".join(map(str, [network["batch"] or "any", *of_one]))


def _per(batch: int, sample: str, milliseconds: float) -> str:
    """What a time is of: latencies and budgets are those of one call."""
    return f"per {sample}" if batch == 1 else f"per batch of {batch} ({milliseconds / batch:.3g} ms per {sample})"
