"""Artefacts in an old ONNX Runtime, each in an environment of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ofa.deploy import ExportOptions, export_bundle, write_elastic
from ofa.deploy.elastic_write import ElasticOptions
from ofa.hardware import Device
from ofa.setting import Setting
from ofa.training import SubnetEvaluator

from .conftest import RUN_INFO, latency

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_onnxruntime.py"


@pytest.mark.slow
def test_what_leaves_runs_in_onnxruntime_1_16(
    evaluator: SubnetEvaluator, candidates: list[dict[str, Any]], tmp_path: Path
) -> None:
    python = shutil.which("python3.11") or ""
    download = [python, "-m", "pip", "download", "--no-deps", f"--dest={tmp_path / 'wheels'}", "onnxruntime==1.16.3"]
    if not python or subprocess.run(download, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs Python 3.11 and a registry of packages")
    for precision in ("fp32", "fp16", "int8"):
        export_bundle(
            evaluator,
            candidates[2:],
            out=tmp_path / precision,
            device=Device(name="here", setting=Setting(runtime="onnxruntime", precision=precision)),
            budget_ms=4.2,
            measure=lambda files, speed: [latency(1.0) for _ in files],
            run_info=RUN_INFO,
            options=ExportOptions(dynamic_batch=precision == "fp16"),
        )
    quick = ElasticOptions(runtimes=("onnxruntime",), rounds=2, block_seconds=0.001)
    archs = [each["arch"] for each in candidates[2:]]
    write_elastic(evaluator, archs, tmp_path / "elastic", rng=np.random.default_rng(0), options=quick)
    bundles = [str(tmp_path / name) for name in ("fp32", "fp16", "int8", "elastic")]
    options = ["--versions", "1.16", "--out", str(tmp_path / "found.csv"), "--python", python]
    command = [sys.executable, str(SCRIPT), *bundles, *options, "--environments", str(tmp_path / "environments")]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    table = pd.read_csv(tmp_path / "found.csv")
    assert table["onnxruntime"].str.startswith("1.16.").all() and table["holds"].all()
    assert table["precision"].tolist() == ["fp32", "fp16", "int8", "fp32", "fp32"]
    assert (table["ir_version"] == 8).all() and (table["max_abs_difference"] <= table["allowed"]).all()
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout == ""  # nothing is made twice
