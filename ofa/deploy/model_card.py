"""The model card: README.md of a bundle, with the header that model hubs read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from ofa.tasks import Task

LIBRARIES = {"onnxruntime-cuda": "onnxruntime-gpu", "litert": "ai-edge-litert", "executorch": "executorch and torch"}


def model_card(info: Mapping[str, Any], task: Task, sizes: Mapping[str, int]) -> str:
    """Markdown with a YAML header, made of what ``bundle.json`` says; the licence is left to whoever publishes it.

    Args:
        sizes: Bytes of each file of the model.
    """
    network = info["model"]
    card, metric, score = task.card(info), task.metric, info[task.metric.name]
    provenance, latency = info["provenance"], info["latency_ms"]
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
                "name": f"{model}-{info['device']}-{info['budget_ms']:g}ms",
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
    color, size = info["preprocessing"]["color"], info["preprocessing"]["input_size"][-1]
    batch, layout = network["batch"] or "any", info["preprocessing"]["layout"]
    shape = " × ".join(map(str, [batch, *info["preprocessing"]["input_size"]]))
    files = ", ".join(f"`{name}` ({num_bytes / 1e6:.2f} MB)" for name, num_bytes in sizes.items())
    library = LIBRARIES.get(network["runtime"], network["runtime"])
    arch = "\n".join(f"| {name} | {value} |" for name, value in info["arch"].items())
    return f"""---
# license: (yours to choose)
{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---
# {model} within {info["budget_ms"]:g} ms on {info["device"]}

{card.what}: the subnet of a once-for-all supernet ({model}, trained on {data})
that was chosen for device `{info["device"]}` and a budget of {info["budget_ms"]:g} ms per image.

| | |
|---|---|
| {metric.label} | {metric.text(score["value"], digits=2)} (95 % interval {score["low"]:.2f} to {score["high"]:.2f}), {score["num_images"]} images, {score["split"]} split |
| Latency | {latency["p50"]:.3f} ms median, {latency["p10"]:.3f} to {latency["p90"]:.3f} ms (p10 to p90), measured on {info["fingerprint"].get("cpu", info["device"])} |
| Model | {files}; {network["num_params"] / 1e6:.3f} M parameters, {network["precision"]} for {network["runtime"]} |
| Input | `{network["input"]}`, {info["preprocessing"]["dtype"]}, {layout} {shape}, from a {color} picture of {size} × {size} pixels |
| Output | {network["output"]}, float32, {batch} × {len(info["classes"])} |{_quantization(network["quantization"])}
| Agrees with its reference ({info["parity"]["reference"]}) to | {info["parity"]["max_abs_difference"]:.2g} (largest difference of outputs, {info["parity"]["num_images"]} images) |

## Use

    python predict.py samples/000.png

It needs {library}, numpy and Pillow. `bundle.json` says how a picture becomes the input (`preprocessing`), what the
classes are, and where the model came from (`provenance`).

## Check

`sha256sum -c SHA256SUMS` checks the files. `ofa verify .` (package `ofa-toolkit`) checks them too, runs the model on the
pictures in `samples/`, compares what it gives with what it should, and measures latency with `--device`.

## Architecture

| dim | value |
|---|---|
{arch}
"""  # noqa: E501


def _quantization(quantization: Mapping[str, Any] | None) -> str:
    if quantization is None:
        return ""
    num, num_float = quantization["num_nodes"], len(quantization["float_nodes"])
    return (
        f"\n| INT8 | {num - num_float} of {num} convolutions and products; costs {quantization['loss_points']:.2f} "
        f"points of accuracy on the search split; {quantization['num_calibration_images']} calibration images |"
    )
