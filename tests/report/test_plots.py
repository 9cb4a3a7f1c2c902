from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from ofa.files import FileFormatError
from ofa.report import write_plots

ONE = {"front_cpu-1t", "progress_cpu-1t", "prediction_cpu-1t", "loss", "accuracy"}


def test_plots_are_a_column_wide_and_leave_the_global_backend_alone(run_dir: Path, tmp_path: Path) -> None:
    pyplot_before = "matplotlib.pyplot" in sys.modules
    (run_dir / "metrics.csv").unlink()
    paths = write_plots(run_dir, tmp_path / "plots")
    assert {path.stem for path in paths} == ONE - {"loss", "accuracy"}
    for path in paths:
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert image.width / image.info["dpi"][0] == pytest.approx(3.4, abs=0.01)
    assert ("matplotlib.pyplot" in sys.modules) == pyplot_before


def test_text_stays_text_and_is_large_enough(three_devices: Path, tmp_path: Path) -> None:
    paths = write_plots(three_devices, tmp_path, format="svg")
    assert {path.stem for path in paths} > ONE | {"fronts", "front_phone", "cross_device"}
    matrix = (tmp_path / "cross_device.svg").read_text()
    assert "picked for" in matrix and "phone" in matrix
    assert "8px" in matrix and not any(f"font: {size}px" in matrix for size in range(1, 8))


def test_what_is_not_there_is_not_drawn_and_files_repeat(run_dir: Path, tmp_path: Path) -> None:
    shutil.rmtree(run_dir / "search")
    shutil.rmtree(run_dir / "latency_tables")
    for format in ("pdf", "svg"):
        paths, again = (write_plots(run_dir, tmp_path / name, format=format) for name in ("one", "two"))
        assert [path.name for path in paths] == [f"loss.{format}", f"accuracy.{format}"]
        assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]


def test_mistakes_are_named(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be written as 'gif'; choose one of png, pdf, svg"):
        write_plots(run_dir, tmp_path, format="gif")
    with pytest.raises(FileFormatError, match=r"no run folder at .*ofa train"):
        write_plots(tmp_path / "nowhere", tmp_path)
