"""The model card: README.md of a bundle, with the header that model hubs read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jinja2
import yaml

from ofa.tasks import Task

LIBRARIES = {"onnxruntime-cuda": "onnxruntime-gpu", "litert": "ai-edge-litert", "executorch": "executorch and torch"}


def model_card(info: Mapping[str, Any], task: Task, *, output_shape: Sequence[int], sizes: Mapping[str, int]) -> str:
    """Markdown with a YAML header, made of what ``bundle.json`` says; the licence is left to whoever publishes it.

    Args:
        output_shape: Without the batch.
        sizes: Bytes of each file of the model.
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
    files = ", ".join(f"`{name}` ({num_bytes / 1e6:.2f} MB)" for name, num_bytes in sizes.items())
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ofa.deploy"), trim_blocks=True, keep_trailing_newline=True, autoescape=False
    )
    return environment.get_template("model_card.md.j2").render(
        header=yaml.safe_dump(header, sort_keys=False, allow_unicode=True),
        info=info,
        model=model,
        data=data,
        card=card,
        metric=metric,
        score=score,
        network=network,
        spec=info["preprocessing"],
        input_shape=_shape(network, info["preprocessing"]["input_size"]),
        output_shape=_shape(network, output_shape),
        sample=f"samples/000{task.sample_suffix}",
        per=partial(_per, network["batch"] or 1),
        files=files,
        library=LIBRARIES.get(network["runtime"], network["runtime"]),
    )


def _shape(network: Mapping[str, Any], of_one: Sequence[int]) -> str:
    return " × ".join(map(str, [network["batch"] or "any", *of_one]))


def _per(batch: int, milliseconds: float) -> str:
    """What a time is of: latencies and budgets are those of one call."""
    return "per image" if batch == 1 else f"per batch of {batch} ({milliseconds / batch:.3g} ms per image)"
