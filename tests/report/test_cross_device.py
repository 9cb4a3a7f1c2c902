from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ofa.files import FileFormatError
from ofa.report.cross_device import cross_device
from ofa.report.run_files import read_run
from tests.report.conftest import DEVICES, World


def latency_ms(world: World, arch: dict[str, float]) -> float:
    """The sum of parts by hand."""
    blocks = [name.removesuffix(".kernel") for name in arch if name.endswith(".kernel")]
    parts = [world.block_ms(arch["resolution"], arch[f"{b}.kernel"], arch[f"{b}.expand"]) for b in blocks]
    return world.stem_ms(arch["resolution"]) + sum(parts)


def test_each_cell_is_held_against_all_that_was_evaluated(three_devices: Path) -> None:
    found = cross_device(read_run(three_devices))
    assert found is not None
    assert [pick["device"] for pick in found.picks] == list(found.devices) == list(DEVICES)
    fronts = [pd.read_csv(three_devices / "search" / device / "front.csv") for device in DEVICES]
    evaluated = [
        (json.loads(arch), top1) for front in fronts for arch, top1 in front[["arch", "measured_top1_percent"]].values
    ]
    for row, device in enumerate(DEVICES):
        picks = json.loads((three_devices / "search" / device / "selected.json").read_text())["picks"]
        pick = sorted(picks, key=lambda pick: pick["budget_ms"])[1]
        assert found.picks[row]["budget_ms"] == pick["budget_ms"]
        assert found.picks[row]["arch"] == pick["arch"]
        rivals = [arch for arch, top1 in evaluated if top1 >= pick["measured_top1_percent"]]
        for column, other in enumerate(DEVICES.values()):
            own, best = latency_ms(other, pick["arch"]), min(latency_ms(other, arch) for arch in rivals)
            assert found.latency_ms[row, column] == pytest.approx(own)
            assert found.slowdown_percent[row, column] == pytest.approx(100 * (own / best - 1), abs=1e-6)
    assert (found.slowdown_percent >= 0).all()
    # The two CPUs differ by a factor only, so that what suits one suits the other; the phone hates kernels.
    assert found.slowdown_percent[:, 0] == pytest.approx(found.slowdown_percent[:, 1])
    assert found.slowdown_percent[0, 2] > found.slowdown_percent[2, 2]


def test_one_table_or_no_pick_is_nothing_to_compare(run_dir: Path, three_devices: Path, tmp_path: Path) -> None:
    assert cross_device(read_run(run_dir)) is None
    run = shutil.copytree(three_devices, tmp_path / "run")
    shutil.rmtree(run / "search")
    assert cross_device(read_run(run)) is None


def test_a_part_that_was_not_measured_leaves_a_gap(three_devices: Path, tmp_path: Path) -> None:
    run = shutil.copytree(three_devices, tmp_path / "run")
    path = run / "latency_tables/phone/space.json"
    table = json.loads(path.read_text())
    chosen = json.loads((run / "search/cpu-1t/selected.json").read_text())["picks"][1]["arch"]["resolution"]
    table["keys"] = [key.replace(f"r{chosen}", "other") for key in table["keys"]]  # no latencies at this resolution
    path.write_text(json.dumps(table))
    found = cross_device(read_run(run))
    assert found is not None
    assert np.isnan(found.slowdown_percent[:, 2]).tolist() == [p["arch"]["resolution"] == chosen for p in found.picks]
    assert np.isnan(found.slowdown_percent[0, 2])
    assert np.isfinite(found.slowdown_percent[:, :2]).all()


def test_a_damaged_table_is_named(three_devices: Path, tmp_path: Path) -> None:
    run = shutil.copytree(three_devices, tmp_path / "run")
    with (run / "latency_tables/phone/space.csv").open("a") as file:
        file.write("more,1,1,1,1\n")
    with pytest.raises(FileFormatError, match=r"phone/space.csv is truncated or extended.*ofa profile"):
        cross_device(read_run(run))
