"""Limits in bytes are of what leaves for the device: an INT8 file is not judged by what it would be in fp32."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ofa import Run, workflow
from ofa.cost import peak_activation_bytes
from ofa.formats.onnx import to_bytes, to_onnx
from ofa.formats.onnx_int8 import quantize_qdq
from ofa.search.problem import InfeasibleError

LEFT = Path(__file__).parent / "fixtures" / "0.1.0"
INT8 = "cpu-int8-1t"


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """The table of the fixture, for both devices: what it says does not matter here."""
    folder = tmp_path / "tables"
    for name in ("cpu-1t", INT8):
        shutil.copytree(LEFT / "latency_tables" / "cpu-1t", folder / name)
    return folder


def search(devices: list[str], tables: Path, out: Path, *limits: str) -> workflow.Searched:
    return workflow.search(
        LEFT / "run",
        devices,
        [1000.0],
        tables=tables,
        out=out,
        num_evaluations=3,
        method="random",
        predictor="ridge",
        limits=limits,
        any_machine=True,
    )


def file_bytes(run: Run, arch: Mapping[str, Any]) -> dict[str, int]:
    """Of what is exported in each precision."""
    supernet = run.supernet()
    model = to_onnx(supernet.extract(arch), supernet.input_shape(arch))
    return {"int8": len(to_bytes(quantize_qdq(model))), "fp32": len(to_bytes(model))}


@pytest.fixture(scope="module")
def run() -> Run:
    return Run.open(LEFT / "run")


@pytest.fixture(scope="module")
def limit(run: Run) -> int:
    """What the smallest subnet keeps in INT8, and none in fp32."""
    smallest = file_bytes(run, run.space.smallest())
    return sum(smallest.values()) // 2


@pytest.mark.slow
def test_an_int8_device_is_limited_by_its_own_file(run: Run, limit: int, tables: Path, tmp_path: Path) -> None:
    with pytest.raises(InfeasibleError, match=f"no architecture has model_bytes <= {limit}"):
        search(["cpu-1t"], tables, tmp_path / "fp32", f"model_bytes={limit}")
    limits = (f"model_bytes={limit}", "peak_activation_bytes=100%")
    found = search([INT8], tables, tmp_path / "int8", *limits)
    front = pd.read_csv(tmp_path / "int8" / INT8 / "front.csv")
    assert front["model_bytes"].max() <= limit
    (pick,) = found.selected[INT8]["picks"]
    assert pick["model_bytes"] == pytest.approx(file_bytes(run, pick["arch"])["int8"], rel=0.05)
    archs = [run.space.arch(json.loads(text)) for text in front["arch"]]
    assert (front["peak_activation_bytes"] * 4 == peak_activation_bytes(run.supernet()).predict(archs)).all()

    again = search([INT8], tables, tmp_path / "int8", *limits)
    assert not again.is_new and again.selected[INT8]["picks"][0]["model_bytes"] == pick["model_bytes"]


def test_a_limit_holds_on_every_device(limit: int, tables: Path, tmp_path: Path) -> None:
    with pytest.raises(InfeasibleError, match=f"no architecture has model_bytes <= {limit}"):
        search(["cpu-1t", INT8], tables, tmp_path / "both", f"model_bytes={limit}")


@pytest.mark.slow
def test_an_answer_in_other_bytes_is_none(tables: Path, tmp_path: Path) -> None:
    """A search of an earlier version, whose limit was of fp32."""
    search([INT8], tables, tmp_path / "out", "model_bytes=100%")
    file = tmp_path / "out" / INT8 / "selected.json"
    selected = json.loads(file.read_text())
    del selected["facts"]["settings"]["bytes"]
    file.write_text(json.dumps(selected))
    assert search([INT8], tables, tmp_path / "out", "model_bytes=100%").is_new
