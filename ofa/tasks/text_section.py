"""What a run's page shows of texts: what they are, and what each bundle says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from ofa.tasks.task import Exhibit, Section

MAX_TEXTS, MAX_CHARACTERS = 24, 240


class _Said(NamedTuple):
    text: str
    truth: str
    answer: str
    percent: float


def section_of_texts(bundles: Sequence[Exhibit]) -> Section | None:
    """A row a text, those first that most bundles get wrong; of the samples that all of them bring along.

    Bundles whose samples cannot be read are left out.
    """
    known = {bundle.name: said for bundle in bundles if (said := _said(bundle.folder, bundle.info))}
    if not known:
        return None
    texts = [text for text in next(iter(known.values())) if all(text in said for said in known.values())]

    def num_wrong(text: str) -> int:
        return sum(said[text].truth != said[text].answer for said in known.values())

    texts.sort(key=num_wrong, reverse=True)
    first = next(iter(known.values()))
    shares = [np.mean([said[text].truth == said[text].answer for text in texts]) for said in known.values()]
    return Section(
        title="What it says of texts",
        head=("Text of the test split", "Is", *known),
        rows=[
            [_cut(text), first[text].truth, *(_cell(said[text]) for said in known.values())]
            for text in texts[:MAX_TEXTS]
        ],
        note=f"The first {len(texts)} texts of the test split, those first that most bundles get wrong; right are "
        + ", ".join(f"{100 * share:.0f} % ({name})" for name, share in zip(known, shares, strict=True))
        + ". Beside an answer is how sure the network is of it.",
    )


def _said(folder: Path, info: Mapping[str, Any]) -> dict[str, _Said]:
    """By text; nothing where a bundle is not as it should be."""
    try:
        outputs = np.load(folder / "samples" / "outputs.npy", allow_pickle=False).astype(np.float64)
        classes, labels = list(map(str, info["classes"])), list(info["sample_labels"])
        files = [folder / "samples" / f"{index:03}.txt" for index in range(len(labels))]
        texts = [file.read_bytes().decode() for file in files]
        shares = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        return {
            text: _Said(text, classes[label], classes[int(row.argmax())], 100 * float(row.max()))
            for text, label, row in zip(texts, labels, shares, strict=True)
        }
    except (OSError, ValueError, LookupError, TypeError, EOFError):
        return {}


def _cell(said: _Said) -> str:
    is_right = said.answer == said.truth
    return Markup('<span class="{}">{} {}</span> <span class="interval">{} %</span>').format(
        "holds" if is_right else "missed", "✓" if is_right else "✗", said.answer, f"{said.percent:.0f}"
    )


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"
