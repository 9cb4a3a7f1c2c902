"""The card of a run: README.md of the repository that it is pushed to, with the header that model hubs read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

import jinja2
import yaml

from ofa.metrics import BALANCED, MAP, MEAN_ABSOLUTE_ERROR, MIOU, TOP1, WORST_CLASS
from ofa.report.numbers import ms, pretty_count, si
from ofa.report.run_files import RunFiles
from ofa.supernet.model_sources import public_name

HUB_METRICS = {
    **{metric.name: "accuracy" for metric in (TOP1, BALANCED, WORST_CLASS)},
    MIOU.name: "mean_iou",
    MAP.name: "mean_average_precision",
    MEAN_ABSOLUTE_ERROR.name: "mae",
}
"""What hubs call a metric, where that is not its quantity."""


def run_card(run: RunFiles, *, repo: str, code: Sequence[str] = ()) -> str:
    """Markdown with a YAML header; the licence is left to whoever publishes it.

    Args:
        repo: ``OWNER/NAME`` on the hub.
        code: Files that the run names, and that are no part of it.
    """
    model, metric = public_name(run.supernet["model"]["name"]), run.metric
    header = {
        "library_name": "ofa-toolkit",
        "tags": [
            "once-for-all",
            "neural-architecture-search",
            "supernet",
            *([] if ":" in model else ["timm"]),
        ],
        "metrics": [HUB_METRICS.get(metric.name, metric.quantity)],
    }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ofa.report"), trim_blocks=True, keep_trailing_newline=True, autoescape=False
    )
    environment.filters |= {"count": pretty_count, "si": si, "ms": ms}
    return environment.get_template("run_card.md.j2").render(
        header=yaml.safe_dump(header, sort_keys=False, allow_unicode=True),
        run=run,
        model=model,
        metric=metric,
        versions=run.supernet.get("versions", {}),
        picks=[(device.name, pick) for device in run.devices for pick in device.picks],
        code=[PurePosixPath(name).name for name in code],
        repo=repo,
        folder=f"runs/{repo.rpartition('/')[2]}",
    )
