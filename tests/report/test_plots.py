from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from ofa.files import FileFormatError
from ofa.report import write_front_png


def test_a_png_is_drawn_without_touching_the_global_backend(run_dir: Path, tmp_path: Path) -> None:
    pyplot_before = "matplotlib.pyplot" in sys.modules
    path = write_front_png(run_dir, tmp_path / "plots" / "front.png")
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    assert path.stat().st_size > 10_000
    assert ("matplotlib.pyplot" in sys.modules) == pyplot_before


def test_a_device_without_a_front_is_an_error(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"no front of device 'pi4'.*ofa search.*--device pi4"):
        write_front_png(run_dir, tmp_path / "front.png", device="pi4")
    shutil.rmtree(run_dir / "search")
    with pytest.raises(FileFormatError, match=r"ofa search .*--device NAME"):
        write_front_png(run_dir, tmp_path / "front.png")
