"""``data.html``: what is in a data set and what is wrong with it, with pictures, in one page that needs no network."""

from __future__ import annotations

import base64
from pathlib import Path

from ofa.data.check import DataCheck
from ofa.files import write_text_atomic
from ofa.report.numbers import pretty_count
from ofa.report.page import template_environment
from ofa.report.palette import PALETTE

MAX_ROWS = 100
"""Of a table: what is beyond is in the CSV files."""


def write_data_page(check: DataCheck, path: Path) -> Path:
    """Write the page."""
    environment = template_environment()
    environment.filters["number"] = lambda value: pretty_count(int(value)) if value >= 100 else f"{value:.3g}"
    rows_of = check.images.loc[list(check.thumbnails), "class"]
    groups = list(check.duplicates.groupby("group"))
    across, labels = set(check.groups_across("split")), set(check.groups_across("class"))
    groups.sort(key=lambda each: (each[0] not in across | labels, each[0]))
    write_text_atomic(
        path,
        environment.get_template("data.html.j2").render(
            check=check,
            palette=PALETTE,
            name=Path(check.config.root).resolve().name if check.config.root else check.config.name,
            counts=check.counts(),
            broken=check.broken.head(MAX_ROWS).to_dict("records"),
            groups=[(number, rows.to_dict("records")) for number, rows in groups[:MAX_ROWS]],
            num_groups=len(groups),
            across=across,
            labels=labels,
            sheets={name: list(rows.index) for name, rows in rows_of.groupby(rows_of, sort=False)},
            names=check.images["image"],
            sources={
                row: f"data:image/webp;base64,{base64.b64encode(each).decode()}"
                for row, each in check.thumbnails.items()
            },
        ),
    )
    return path
