"""The card of a run, as a hub and people read it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from ofa.report.run_card import run_card
from ofa.report.run_files import read_run

from .conftest import BUDGETS_MS, write_run


def test_what_is_known_of_a_run(tmp_path: Path) -> None:
    write_run(tmp_path, devices=("cpu-1t", "phone"))
    run = read_run(tmp_path)
    _, header, text = run_card(run, repo="me/flowers", code=("nets/mine.py",)).split("---\n", 2)
    assert header.startswith("# license: (yours to choose)\n")
    assert yaml.safe_load(header) == {
        "library_name": "ofa-toolkit",
        "tags": ["once-for-all", "neural-architecture-search", "supernet", "timm"],
        "metrics": ["accuracy"],
    }
    lines = text.splitlines()
    assert lines[0] == "# mobilenetv3_large_100: a once-for-all supernet"
    largest, smallest = run.bounds
    bounds = f"{largest:.1f} % of the largest subnet, {smallest:.1f} % of the smallest, on the search split"
    assert f"| Top-1 accuracy | {bounds} |" in lines
    assert "| kernel | 3, 5, 7 |" in lines and "| Needs code that is not here | `mine.py` |" in lines
    assert sum(line.startswith(("| cpu-1t |", "| phone |")) for line in lines) == 2 * len(BUDGETS_MS)
    assert f"| Weights | `supernet.safetensors`, sha256 `{'4f' * 32}` |" in lines
    assert "    ofa pull me/flowers --out runs/flowers" in lines


@pytest.mark.parametrize(("metric", "said"), [("miou_percent", "mean_iou"), ("psnr_db", "psnr")])
def test_what_has_not_been_made_is_left_out(metric: str, said: str, tmp_path: Path) -> None:
    write_run(tmp_path, devices=())
    info = json.loads((tmp_path / "supernet.json").read_text())
    info["model"]["name"] = "/home/ann/mine.py:net"
    (tmp_path / "supernet.json").write_text(json.dumps({**info, "metric": metric}))
    (tmp_path / "metrics.csv").unlink()
    card = run_card(read_run(tmp_path), repo="me/flowers")
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["metrics"] == [said] and "timm" not in header["tags"]
    assert "# mine.py:net: a once-for-all supernet" in card and "/home" not in card
    assert "Picks" not in card and "largest" not in card and "Needs code" not in card
