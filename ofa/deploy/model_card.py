"""The model card: README.md of a bundle, with the header that model hubs read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml


def model_card(info: Mapping[str, Any]) -> str:
    """Markdown with a YAML header, made of what ``bundle.json`` says; the licence is left to whoever publishes it."""
    provenance, top1, latency = info["provenance"], info["top1_percent"], info["latency_ms"]
    model, data = provenance.get("model", "subnet"), provenance.get("data", {}).get("name", "unknown")
    header = {
        "library_name": "onnx",
        "pipeline_tag": "image-classification",
        "tags": ["onnx", "onnxruntime", "image-classification", "once-for-all", "neural-architecture-search", "timm"],
        "metrics": ["accuracy"],
        "model-index": [
            {
                "name": f"{model}-{info['device']}-{info['budget_ms']:g}ms",
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {"name": data, "type": data, "split": top1["split"]},
                        "metrics": [{"type": "accuracy", "value": round(top1["value"] / 100, 6), "name": "Top-1"}],
                    }
                ],
            }
        ],
    }
    color, size = info["preprocessing"]["color"], info["preprocessing"]["input_size"][-1]
    arch = "\n".join(f"| {name} | {value} |" for name, value in info["arch"].items())
    return f"""---
# license: (yours to choose)
{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---
# {model} within {info["budget_ms"]:g} ms on {info["device"]}

An image classifier with {len(info["classes"])} classes: the subnet of a once-for-all supernet ({model}, trained on {data})
that was chosen for device `{info["device"]}` and a budget of {info["budget_ms"]:g} ms per image.

| | |
|---|---|
| Top-1 accuracy | {top1["value"]:.2f} % (95 % interval {top1["low"]:.2f} to {top1["high"]:.2f}), {top1["num_images"]} images, {top1["split"]} split |
| Latency | {latency["p50"]:.3f} ms median, {latency["p10"]:.3f} to {latency["p90"]:.3f} ms (p10 to p90), measured on {info["fingerprint"].get("cpu", info["device"])} |
| Input | `images`, float32, 1 × {" × ".join(map(str, info["preprocessing"]["input_size"]))}, from a {color} picture of {size} × {size} pixels |
| Output | `logits`, float32, 1 × {len(info["classes"])} |
| Agrees with torch to | {info["parity"]["max_abs_difference"]:.2g} (largest difference of logits, {info["parity"]["num_images"]} images) |

## Use

    python predict.py samples/000.png

It needs onnxruntime, numpy and Pillow. `bundle.json` says how a picture becomes the input (`preprocessing`), what the
classes are, and where the model came from (`provenance`).

## Check

`sha256sum -c SHA256SUMS` checks the files. `ofa verify .` (package `ofa-toolkit`) checks them too, runs the model on the
pictures in `samples/`, compares the logits with those that torch gave, and measures latency with `--device`.

## Architecture

| dim | value |
|---|---|
{arch}
"""  # noqa: E501
