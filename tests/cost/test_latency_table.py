from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from ofa.cost import LatencyTable, LatencyTableError, MissingLatencyError, RefusedTableError
from ofa.cost.correction import Correction
from ofa.cost.latency_table import TableSlot
from ofa.files import FileFormatError
from ofa.space import Dim, SearchSpace

SPACE = SearchSpace(
    (
        Dim("resolution", (20, 24)),
        Dim("stage1.depth", (1, 2)),
        Dim("stage1.block0.kernel", (3, 5)),
        Dim("stage1.block1.kernel", (3, 5), requires=("stage1.depth", (2,))),
    )
)
SLOTS = (
    TableSlot("stem", ("resolution",), np.array(["stem_r20", "stem_r24"], dtype=object)),
    TableSlot(
        "stage1.block0",
        ("resolution", "stage1.block0.kernel"),
        np.array([["k3_r20", "k5_r20"], ["k3_r24", "k5_r24"]], dtype=object),
    ),
    TableSlot(
        "stage1.block1",
        ("resolution", "stage1.depth", "stage1.block1.kernel"),
        np.array([[["", ""], ["k3_r20", "k5_r20"]], [["", ""], ["k3_r24", "k5_r24"]]], dtype=object),
    ),
)
MS = {"stem_r20": 0.11, "stem_r24": 0.21, "k3_r20": 0.31, "k5_r20": 0.41, "k3_r24": 0.51, "k5_r24": 0.61}
CORRECTION = Correction(0.01, {"stem": 1.0, "stage1": 0.9}, {"stem": 0.002, "stage1": 0.003}, ridge=0.1, num_fit=30)


def make_table(ms=MS, **changes):
    entries = pd.DataFrame({"key": list(ms), "latency_ms_p10": list(ms.values())})
    entries = entries.assign(
        latency_ms_p50=entries["latency_ms_p10"] + 0.01, latency_ms_p90=entries["latency_ms_p10"] + 0.02, num_runs=99
    )
    defaults = {
        "space": SPACE,
        "slots": SLOTS,
        "entries": entries,
        "correction": CORRECTION,
        "device": "cpu-1t",
        "fingerprint": {"id": "0123456789ab", "cpu": "Example"},
        "held_out": {"num": 50, "mape_percent": 1.0},
        "repeatability_percent": 0.5,
    }
    return LatencyTable(**{**defaults, **changes})


def test_a_slower_machine_takes_so_many_times_as_long():
    table = make_table()
    archs = SPACE.sample_population(50, np.random.default_rng(0))
    np.testing.assert_allclose(table.times(1.37).predict_ms(archs), 1.37 * table.predict_ms(archs))


def by_hand(arch, ms=MS):
    """The sum of parts, corrected, for one architecture."""
    resolution = arch["resolution"]
    total = 0.01 + (ms[f"stem_r{resolution}"] - 0.01) + 0.002
    for block in range(arch["stage1.depth"]):
        kernel = arch[f"stage1.block{block}.kernel"]
        total += (ms[f"k{kernel}_r{resolution}"] - 0.01) * 0.9 + 0.003
    return total


@pytest.fixture
def csv_path(tmp_path):
    path = tmp_path / "cpu-1t" / "space_w1.0.csv"
    make_table().save(path)
    return path


def test_prediction_equals_the_sum_by_hand():
    population = SPACE.sample_population(40, np.random.default_rng(0))
    expected = [by_hand(arch) for arch in SPACE.to_archs(population)]
    np.testing.assert_allclose(make_table().predict_ms(population), expected)


def test_save_and_load_round_trip(csv_path):
    table, loaded = make_table(), LatencyTable.load(csv_path)
    population = SPACE.sample_population(40, np.random.default_rng(0))
    np.testing.assert_array_equal(loaded.predict_ms(population), table.predict_ms(population))
    pd.testing.assert_frame_equal(loaded.entries, table.entries, check_dtype=False)
    for name in ("space", "correction", "device", "fingerprint", "held_out", "repeatability_percent", "refused"):
        assert getattr(loaded, name) == getattr(table, name)
    assert csv_path.with_name("space_w1.0.json").exists()


def test_stage_sums():
    archs = SPACE.to_population([SPACE.largest(), SPACE.smallest()])
    table = make_table()
    stage_ms, num_parts = table.stage_sums(archs)
    assert table.stages == ["stem", "stage1"]
    np.testing.assert_allclose(stage_ms, [[0.2, 1.2], [0.1, 0.3]])
    np.testing.assert_array_equal(num_parts, [[1, 2], [1, 1]])


def test_a_missing_entry_is_named_and_only_hurts_architectures_that_need_it():
    table = make_table({key: ms for key, ms in MS.items() if key != "k5_r24"})
    assert table.predict_ms(SPACE.smallest()).shape == (1,)
    with pytest.raises(MissingLatencyError) as caught:
        table.predict_ms([SPACE.smallest(), SPACE.largest()])
    assert str(caught.value) == (
        "no latency for block 'k5_r24' on device 'cpu-1t' (5 blocks measured); "
        "run `ofa profile --device devices/cpu-1t.yaml`"
    )


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_what_cannot_be_a_latency_is_refused(value):
    with pytest.raises(LatencyTableError, match=r"block 'k3_r20' has latency_ms_p10 .*not a latency"):
        make_table({**MS, "k3_r20": value})


def test_repeated_keys_and_missing_columns_are_refused():
    entries = make_table().entries
    with pytest.raises(LatencyTableError, match="'stem_r20' twice"):
        make_table(entries=pd.concat([entries, entries[:1]]))
    with pytest.raises(LatencyTableError, match="no column 'latency_ms_p50'"):
        make_table(entries=entries.drop(columns="latency_ms_p50"))


def test_truncated_csv(csv_path):
    text = csv_path.read_text()
    csv_path.write_text(text[: len(text) // 2])
    with pytest.raises(LatencyTableError, match=r"truncated or extended: \d rows, not 6; measure it again"):
        LatencyTable.load(csv_path)


def test_changed_csv(csv_path):
    csv_path.write_text(csv_path.read_text().replace("0.31", "0.13"))
    with pytest.raises(LatencyTableError, match="was changed"):
        LatencyTable.load(csv_path)


def test_missing_files(csv_path):
    csv_path.unlink()
    with pytest.raises(LatencyTableError, match="no latency table at"):
        LatencyTable.load(csv_path)
    csv_path.with_suffix(".json").unlink()
    with pytest.raises(FileFormatError, match="ofa profile"):
        LatencyTable.load(csv_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "format 99"),
        ({"correction": {"offset": 1}}, "offset"),
        ({"space": []}, "a space needs a dim at least; measure it again"),
        ({"space": [{"name": "depth", "values": [1]}]}, "unknown dim 'resolution'.*measure it again"),
        ({"keys": ["stem_r20"]}, "does not fit its space"),
        ({"keys": {}}, "keys must be a list"),
        ({"slots": [5]}, "slots must be a mapping"),
        ({"slots": [{"name": "stem", "dims": ["resolution"], "key_numbers": "0 one"}]}, "does not fit its space"),
        ({"slots": [{"name": "stem", "dims": ["resolution"], "key_numbers": "0 -2"}]}, "does not fit its space"),
        ({"correction": {"call_overhead_ms": 0.1, "scale": {"stem": "x"}}}, "scale.stem must be a finite number"),
        ({"device": None}, "device must be text, not None"),
        ({"refused": "no"}, "refused must be true or false"),
        ({"held_out": {"mape_percent": "x"}}, "mape_percent must be a finite number"),
        ({"held_out": {"predicted_ms": [1.0]}}, "as many as predicted_ms"),
        ({"slots": [{"name": "stem", "dims": ["resolution"], "key_numbers": "0"}]}, "does not fit its space"),
        ({"csv": {}}, "num_rows"),
    ],
)
def test_damaged_json(csv_path, change, message):
    path = csv_path.with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        LatencyTable.load(csv_path)


def test_a_key_of_the_json_that_is_missing(csv_path):
    path = csv_path.with_suffix(".json")
    data = json.loads(path.read_text())
    del data["device"]
    path.write_text(json.dumps(data))
    with pytest.raises(FileFormatError, match="'device' is missing; measure it again"):
        LatencyTable.load(csv_path)


def test_a_refused_table_loads_only_by_force(csv_path):
    held_out = {"num": 4, "predicted_ms": [1.0] * 4, "measured_ms": [1.1, 0.9, 1.1, 0.9]}
    make_table(refused=True, held_out=held_out).save(csv_path)
    # Student's t of four at 95 %: 2.132
    with pytest.raises(RefusedTableError, match=r"may be 21 % slower or faster than it predicts.*--force"):
        LatencyTable.load(csv_path)
    assert LatencyTable.load(csv_path, force=True).refused


def test_parameters_are_known_of_all_parts_or_of_none():
    """A table of old that was completed since has them of the newer parts only."""
    entries, archs = make_table().entries, SPACE.sample_population(5, np.random.default_rng(0))
    num_blocks = 1 + archs[:, SPACE.column("stage1.depth")]
    whole = make_table(entries=entries.assign(num_params=100))
    np.testing.assert_array_equal(whole.num_params(archs), 100 * (1 + num_blocks))
    for known in (entries, entries.assign(num_params=[100, *[None] * (len(entries) - 1)])):
        assert not make_table(entries=known).num_params(archs).any()


def test_weights_that_do_not_stay_in_caches_are_part_of_a_network():
    correction = dataclasses.replace(CORRECTION, ms_per_param=1e-4)
    entries, archs = make_table().entries.assign(num_params=100), SPACE.sample_population(5, np.random.default_rng(0))
    table = make_table(entries=entries, correction=correction)
    more_ms = 1e-4 * table.num_params(archs)
    np.testing.assert_allclose(table.predict_ms(archs), make_table().predict_ms(archs) + more_ms)
    np.testing.assert_allclose(table.times(2).predict_ms(archs), 2 * table.predict_ms(archs))
