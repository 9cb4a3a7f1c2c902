from __future__ import annotations

import dataclasses
import json
import re
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ofa.cost import LatencyTable, MissingLatencyError, RefusedTableError
from ofa.cost.energy import energy_mj
from ofa.errors import UsageError
from ofa.hardware import energy, load_device, profile
from ofa.hardware import profiler as module
from ofa.hardware.timing import TimedBlock, TimingResult
from ofa.hardware.transports import Local, Ssh
from ofa.space import Arch, Dim, SearchSpace, SpaceError

from .fakes import FakeSupernet

ARGUMENTS = {"num_fit": 3, "num_held_out": 4, "rounds": 2}
SCALE, OFFSET_MS, CALL_MS = 0.9, 0.02, 0.005


@pytest.fixture
def measured(monkeypatch):
    """Replaces the measurement by arithmetic, with a planted correction; gives its settings and a log."""
    log = []
    settings = {"log": log, "noise": 0.0, "rng": np.random.default_rng(0), "scatter": 0.0, "fail_after": None}

    def part_ms(key):
        kind, *words = key.split("_")
        return CALL_MS + 0.01 * int(words[-1][1:]) * {"stem": 1, "head": 0.5}.get(kind, int(words[0][-1]))

    def latency_ms(supernet, name):
        if name == module.CALL:
            return CALL_MS
        if not name.startswith("{"):
            return part_ms(name)
        arch = next(a for a in supernet.space.to_archs(every(supernet.space)) if a.to_json() == name)
        genes = supernet.space.to_population(arch)[0]
        keys = [s.keys[tuple(genes[supernet.space.column(dim)] for dim in s.dims)] for s in supernet.slots]
        return CALL_MS + sum((part_ms(key) - CALL_MS) * SCALE + OFFSET_MS for key in keys if key)

    def measure(host, job):
        blocks = list(job.done)
        finished = {(block.name, block.number) for block in blocks}
        for number in range(max(job.num_blocks.values())):
            for name in job.models:
                if (name, number) in finished or number >= job.num_blocks[name]:
                    continue
                if settings["fail_after"] is not None and len(log) >= settings["fail_after"]:
                    raise KeyboardInterrupt
                own = settings["scatter"] * (len(log) % 3 - 1) if name.startswith("{") else 0.0
                factor = 1 + own + settings["noise"] * abs(settings["rng"].standard_normal())
                ns = round(latency_ms(settings["supernet"], name) * 1e6 * factor)
                blocks.append(TimedBlock(name, number, (ns,) * 5, at_s=0.01 * len(blocks)))
                log.append((name, number))
                job.on_block(blocks[-1])
        return TimingResult(blocks=blocks)

    monkeypatch.setattr(Local, "time", measure)
    return settings


def every(space):
    return np.unique(space.sample_population(500, np.random.default_rng(0)), axis=0)


def call(tmp_path, supernet, seed=0, **changes):
    return profile(
        supernet,
        load_device("cpu-1t"),
        csv_path=tmp_path / "cpu-1t" / "fake.csv",
        rng=np.random.default_rng(seed),
        **{**ARGUMENTS, **changes},
    )


def test_a_real_measurement_from_end_to_end(tmp_path):
    supernet, steps = FakeSupernet(), []
    table = call(tmp_path, supernet, block_seconds=0.001, force=True, progress=lambda *step: steps.append(step))
    loaded = LatencyTable.load(tmp_path / "cpu-1t" / "fake.csv")
    population = every(supernet.space)
    np.testing.assert_array_equal(loaded.predict_ms(population), table.predict_ms(population))
    assert (table.predict_ms(population) > 0).all()
    assert len(table.entries) == 8
    assert set(supernet.num_exports.values()) == {1}
    assert table.held_out["num"] == 4
    assert not list(tmp_path.glob("**/*.partial*"))
    exported = [step for step in steps if step[2].startswith("exporting")]
    assert exported == [(done, 15, "exporting for cpu-1t") for done in range(1, 16)]
    assert steps[15:31] == [(done, 32, "measuring on cpu-1t") for done in range(1, 17)]


def test_the_planted_correction_is_recovered_and_the_files_say_all(tmp_path, measured):
    measured["supernet"] = FakeSupernet()
    table = call(tmp_path, measured["supernet"], num_fit=8)
    assert table.held_out["mape_percent"] < 0.5
    assert table.held_out["spearman"] == pytest.approx(1.0)
    assert {"macs_only_spearman", "depth_only_spearman", "macs_only_mape_percent"} <= set(table.held_out)
    assert table.correction.call_overhead_ms == CALL_MS
    assert table.correction.num_fit == 8
    assert (table.repeatability_percent, table.refused) == (0.0, False)
    assert table.details["blocks_of_a_model"] == [2, 2]
    assert table.interval_percent < 2
    predicted_ms, (low_ms, high_ms) = (
        table.predict_ms(every(table.space)),
        table.predict_interval_ms(every(table.space)).T,
    )
    np.testing.assert_allclose(high_ms / predicted_ms - 1, table.interval_percent / 100)
    np.testing.assert_allclose(1 - low_ms / predicted_ms, table.interval_percent / 100)
    assert list(table.entries.columns) == [
        *("key", "latency_ms_p10", "latency_ms_p50", "latency_ms_p90", "num_runs"),
        *("kind", "resolution", "num_params", "kernel", "precision"),
    ]
    csv = (tmp_path / "cpu-1t" / "fake.csv").read_text().splitlines()
    num_params = sum(each.numel() for each in measured["supernet"].part("block_k3_r8").module.parameters())
    assert f"block_k3_r8,0.245,0.245,0.245,10,block,8,{num_params},3,fp32" in csv


def test_without_fit_the_table_is_the_plain_sum(tmp_path, measured):
    measured["supernet"] = FakeSupernet()
    table = call(tmp_path, measured["supernet"], num_fit=0)
    assert table.predict_ms(table.space.smallest()) == pytest.approx(CALL_MS + 0.08 + 0.24 + 0.04)


def test_a_profile_that_was_interrupted_measures_nothing_twice(tmp_path, measured):
    supernet = measured["supernet"] = FakeSupernet()
    for fail_after in (1, 9, 20):
        measured["fail_after"] = fail_after
        with pytest.raises(KeyboardInterrupt):
            call(tmp_path, supernet)
        assert list(tmp_path.glob("cpu-1t/*")) == [tmp_path / "cpu-1t" / "fake.csv.partial"]
    measured["fail_after"] = None
    table = call(tmp_path, supernet)
    assert len(measured["log"]) == len(set(measured["log"])) == 2 * (1 + 8 + 7)
    assert len(table.entries) == 8
    assert [path.name for path in sorted(tmp_path.glob("cpu-1t/*"))] == ["fake.csv", "fake.json", "fake.subnets.csv"]


@pytest.mark.parametrize("name", ["fake.subnets.csv", "fake.csv", "fake.json"])
@pytest.mark.parametrize("known", [False, True])
def test_killed_before_any_of_the_files_is_written_nothing_is_lost(name, known, tmp_path, measured, monkeypatch):
    supernet = measured["supernet"] = FakeSupernet()
    if known:  # a table is there, and is completed
        call(tmp_path, supernet, resolutions=[8], num_fit=1, num_held_out=2)
    replace = Path.replace

    def stop(path, target):
        if target.name == name:
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", stop)
        call(tmp_path, supernet)
    before = len(measured["log"])
    table = call(tmp_path, supernet)
    assert len(table.entries) == 8
    assert len(measured["log"]) == before or (known and name == "fake.json")
    assert [path.name for path in sorted(tmp_path.glob("cpu-1t/*"))] == ["fake.csv", "fake.json", "fake.subnets.csv"]


def test_damaged_lines_of_the_journal_are_said_and_measured_again(tmp_path, measured):
    supernet = measured["supernet"] = FakeSupernet()
    measured["fail_after"] = 9
    with pytest.raises(KeyboardInterrupt):
        call(tmp_path, supernet)
    (journal,) = tmp_path.glob("cpu-1t/*/blocks.jsonl")
    lines = journal.read_text().split("\n")
    journal.write_text("\n".join([*lines[:3], lines[3][:-9], *lines[4:]]))
    measured["fail_after"], steps = None, []
    call(tmp_path, supernet, progress=lambda *step: steps.append(step[2]))
    assert "measuring on cpu-1t (1 damaged lines of the journal again)" in steps
    assert len(measured["log"]) == 2 * (1 + 8 + 7) + 1 and len(set(measured["log"])) == 2 * (1 + 8 + 7)


def test_noise_is_measured_away_for_a_while(tmp_path, measured):
    """Blocks are added where they help, as far as the time allows, and nothing is measured twice."""
    supernet = measured["supernet"] = FakeSupernet()
    measured["noise"], steps = 0.15, []
    table = call(tmp_path, supernet, max_minutes=0.04, progress=lambda *step: steps.append(step[2]))
    least, most = table.details["blocks_of_a_model"]
    assert 2 <= least < most
    assert 0 < table.details["minutes"] <= 0.04
    assert len(measured["log"]) == len(set(measured["log"])) > 2 * (1 + 8 + 7)
    assert table.details["outlook"]["noise_percent"] > 0
    assert re.search(r"measuring on cpu-1t: error [0-9.]+ %, [0-9.]+ % after [0-9]+ s more", steps[-1])


def test_a_table_that_predicts_badly_is_refused(tmp_path, measured):
    supernet = measured["supernet"] = FakeSupernet()
    measured["scatter"] = 0.3
    table = call(tmp_path, supernet)
    assert table.refused and table.interval_percent > 10
    with pytest.raises(RefusedTableError, match=rf"may be {table.interval_percent:.0f} % slower or faster"):
        LatencyTable.load(tmp_path / "cpu-1t" / "fake.csv")
    assert not call(tmp_path, supernet, force=True).refused


def test_some_resolutions_only(tmp_path, measured):
    supernet = measured["supernet"] = FakeSupernet()
    table = call(tmp_path, supernet, resolutions=[12], num_fit=2, num_held_out=3)
    assert set(table.entries["resolution"]) == {12}
    assert table.predict_ms(supernet.space.largest()).shape == (1,)
    with pytest.raises(MissingLatencyError, match="'stem_r8'"):
        table.predict_ms(supernet.space.smallest())
    with pytest.raises(SpaceError, match="'resolution' cannot be 13"):
        call(tmp_path, supernet, resolutions=[13])


@pytest.mark.parametrize("resolutions", [None, [12], [12, 8]])
def test_subnets_are_distinct(resolutions):
    space = FakeSupernet().space
    population = module._sample_distinct(space, 5, resolutions, np.random.default_rng(0))
    assert len(np.unique(population, axis=0)) == len(population) == 5
    np.testing.assert_array_equal(space.canonical(population), population)
    assert {arch["resolution"] for arch in space.to_archs(population)} <= set(resolutions or [8, 12])


def test_more_subnets_than_there_are_and_too_few_are_refused(tmp_path):
    with pytest.raises(ValueError, match="60 different subnets, but there are about 12"):
        call(tmp_path, FakeSupernet(), num_fit=30, num_held_out=30)
    with pytest.raises(ValueError, match="at least 2, not 3 and 1"):
        call(tmp_path, FakeSupernet(), num_held_out=1)


def test_a_table_is_completed_not_measured_again(tmp_path, measured):
    supernet = measured["supernet"] = FakeSupernet()
    call(tmp_path, supernet, resolutions=[12], num_fit=2, num_held_out=3)
    measured["log"].clear()
    table = call(tmp_path, supernet, num_fit=8)
    parts = {name for name, _ in measured["log"] if name[0] not in "{("}
    assert parts == {"stem_r8", "block_k3_r8", "block_k5_r8", "head_r8"}
    assert len(table.entries) == 8
    assert table.held_out["mape_percent"] < 0.5
    measured["log"].clear()
    again = call(tmp_path, supernet)
    assert not measured["log"]
    np.testing.assert_array_equal(again.predict_ms(every(supernet.space)), table.predict_ms(every(supernet.space)))
    call(tmp_path, supernet, fresh=True)
    assert {name for name, _ in measured["log"]} >= {"stem_r8", "stem_r12"}


def test_a_table_of_another_machine_is_not_completed(tmp_path, measured, monkeypatch):
    supernet = measured["supernet"] = FakeSupernet()
    call(tmp_path, supernet, resolutions=[12], num_fit=2, num_held_out=3)
    device = load_device("cpu-1t")
    other = {**Local().fingerprint(device.setting), "id": "other", "cpu": "Another CPU"}
    monkeypatch.setattr(Local, "fingerprint", lambda host, setting: other)
    with pytest.raises(
        module.AnotherMachineError, match=r"fake\.csv was measured elsewhere.*Another CPU here.*--fresh"
    ):
        call(tmp_path, supernet)
    call(tmp_path, supernet, fresh=True)


def test_a_table_of_another_space_is_not_completed(tmp_path, measured):
    supernet = measured["supernet"] = FakeSupernet()
    call(tmp_path, supernet)
    larger = FakeSupernet()
    larger.space = type(larger.space)((*larger.space.dims, Dim("more", (1, 2))))
    with pytest.raises(ValueError, match=r"is of space .*--out, or replace it with --fresh"):
        call(tmp_path, larger)


def test_the_subnets_that_were_measured_are_kept(tmp_path, measured):
    measured["supernet"] = FakeSupernet()
    table = call(tmp_path, measured["supernet"])
    subnets = pd.read_csv(tmp_path / "cpu-1t" / "fake.subnets.csv")
    assert list(subnets["role"]) == ["fit"] * 3 + ["held out"] * 4
    assert subnets["latency_ms"].tolist()[3:] == table.held_out["measured_ms"]
    archs = [Arch(json.loads(arch)) for arch in subnets["arch"]]
    np.testing.assert_allclose(table.predict_ms(archs)[3:], table.held_out["predicted_ms"], atol=1e-6)


def test_resolutions_between_are_interpolated_and_said_to_be(tmp_path, measured):
    supernet = measured["supernet"] = FakeSupernet(resolutions=(8, 10, 12))
    table = call(tmp_path, supernet, num_resolutions=2, num_fit=8)
    assert not {name for name, _ in measured["log"] if name.endswith("_r10")}
    between = table.entries[table.entries["resolution"] == 10]
    assert set(between["num_runs"]) == {0}
    assert set(between["key"]) == {"stem_r10", "block_k3_r10", "block_k5_r10", "head_r10"}
    assert table.details["measured_resolutions"] == [8, 12]
    entries = table.entries.set_index("key")["latency_ms_p10"]
    share = (100 - 64) / (144 - 64)  # in pixels
    expected = entries["stem_r8"] * (1 - share) + entries["stem_r12"] * share
    assert entries["stem_r10"] == pytest.approx(expected, abs=1e-6)
    assert 10 in {arch["resolution"] for arch in table.space.to_archs(every(supernet.space))}
    assert {"interpolated_num", "interpolated_mape_percent"} <= set(table.held_out)
    measured["log"].clear()
    full = call(tmp_path, supernet)
    assert {name for name, _ in measured["log"] if name[0] not in "{("} == set(between["key"])
    assert (full.entries["num_runs"] > 0).all()
    assert "interpolated_num" not in full.held_out


def test_interpolated_rows_outlive_a_resolution_more(tmp_path, measured):
    supernet = measured["supernet"] = FakeSupernet(resolutions=(8, 9, 10, 12))
    call(tmp_path, supernet, num_resolutions=2)
    table = call(tmp_path, supernet, resolutions=[9], num_fit=0, num_held_out=3)
    runs = table.entries.set_index("key")["num_runs"]
    assert runs["stem_r9"] > 0
    assert runs["stem_r10"] == 0
    assert len(table.entries) == 16


def test_numbers_of_resolutions_that_make_no_sense(tmp_path):
    with pytest.raises(ValueError, match="between 2 and the 2 of this space, not 3"):
        call(tmp_path, FakeSupernet(), num_resolutions=3)


class TimeCounter:
    """Counts 10 watts, whatever runs."""

    name, step_seconds, closed = "fake", 0.0001, False

    def read_joules(self):
        return 10 * time.monotonic()

    def close(self):
        self.closed = True


def test_energy_is_measured_with_the_table_and_predicted(tmp_path, measured, monkeypatch):
    measured["supernet"], counter, steps = FakeSupernet(resolutions=(8, 10, 12)), TimeCounter(), []
    monkeypatch.setattr(energy, "find_counter", lambda: counter)
    monkeypatch.setattr(energy, "MIN_SECONDS", 0.002)
    settings = {"num_resolutions": 2, "num_fit": 6, "energy": True, "progress": lambda *step: steps.append(step)}
    table = call(tmp_path, measured["supernet"], **settings)
    assert counter.closed
    assert len([step for step in steps if step[2] == "measuring energy on cpu-1t"]) == 2 * (8 + 10 + 1)
    loaded = LatencyTable.load(tmp_path / "cpu-1t" / "fake.csv")
    assert (loaded.entries["energy_mj"] > 0).all() and len(loaded.entries) == 12
    assert {"counter": "fake"}.items() <= loaded.details["energy"].items()
    assert {"correction", "repeatability_percent", "mape_percent", "spearman"} <= set(loaded.details["energy"])
    model = energy_mj(loaded)
    assert model.name == "energy_mj"
    assert (model.predict(every(measured["supernet"].space)) > 0).all()
    assert (table.entries == loaded.entries)["energy_mj"].all()


def test_a_table_without_energies_is_measured_anew_for_them(tmp_path, measured, monkeypatch):
    measured["supernet"] = FakeSupernet()
    monkeypatch.setattr(energy, "find_counter", TimeCounter)
    monkeypatch.setattr(energy, "MIN_SECONDS", 0.002)
    plain = call(tmp_path, measured["supernet"])
    with pytest.raises(UsageError, match=r"of device 'cpu-1t' holds no energy; measure it with `ofa profile --energy`"):
        energy_mj(plain)
    table = call(tmp_path, measured["supernet"], energy=True)
    assert "energy_mj" in table.entries and energy_mj(table) is not None
    assert "energy_mj" in call(tmp_path, measured["supernet"]).entries


def test_no_counter_is_said_before_anything_is_measured(tmp_path, measured, monkeypatch):
    measured["supernet"] = FakeSupernet()
    find_counter = energy.find_counter
    monkeypatch.setattr(energy, "find_counter", lambda: find_counter(tmp_path))
    monkeypatch.setattr(energy.shutil, "which", lambda name: None)
    monkeypatch.setattr(energy, "_find_card", lambda: None)
    with pytest.raises(energy.EnergyError, match=r"no energy counter .*tegrastats.*NVIDIA.*intel-rapl.*leave"):
        call(tmp_path, measured["supernet"], energy=True)
    assert not measured["supernet"].num_exports
    far = dataclasses.replace(load_device("cpu-1t"), host=Ssh(address="board"))
    with pytest.raises(UsageError, match="device cpu-1t is reached by ssh, but energy is measured on this machine"):
        energy.counter_for(far)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["cuda-torch-b1", "cuda-torch-b64", "cuda-graph-b1", "cuda-graph-b64"])
def test_a_real_measurement_on_a_gpu(name, cuda, tmp_path):
    supernet = FakeSupernet()
    table = profile(
        supernet,
        load_device(name),
        csv_path=tmp_path / "table.csv",
        rng=np.random.default_rng(0),
        block_seconds=0.001,
        force=True,
        **ARGUMENTS,
    )
    assert (table.predict_ms(every(supernet.space)) > 0).all()
    assert len(table.entries) == 8 and table.held_out["num"] == 4
    assert table.fingerprint["runtime"]["gpu"]


def test_a_small_space_is_shared_by_what_fits_and_what_judges() -> None:
    routes = Dim("anchors.route", tuple(map(str, range(24))))
    assert module._num_subnets(SearchSpace((Dim("resolution", (32,)), routes)), None, None, None) == (14, 9)
    assert module._num_subnets(SearchSpace((Dim("resolution", (32,)), routes)), None, 20, None) == (20, 9)
    assert module._num_subnets(SearchSpace((Dim("resolution", tuple(range(9))), routes)), None, None, None) == (36, 24)
    assert module._num_subnets(SearchSpace((Dim("resolution", (32,)),)), None, None, None) == (0, 2)
