"""At which speed latencies are stated: what is asked for, what the table knows, what the machine is now."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import ofa.hardware
from ofa import LatencyTable, workflow
from ofa.deploy import read_candidates
from ofa.deploy.walk_down import read_speed
from ofa.errors import UsageError
from ofa.hardware.transports import Local
from ofa.states import Speed, States

LEFT = Path(__file__).parent / "fixtures" / "0.1.0"
STATES = States("two speeds", 0.1, 0.1, 0.137, slow_share=0.3, slope=1.0)


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run and a table of this machine, which has two speeds; it is slow now, and every subnet takes 0.02 ms."""
    folder = Path(shutil.copytree(LEFT, tmp_path / "left"))
    (path,) = (folder / "latency_tables" / "cpu-1t").glob("*.json")
    table = json.loads(path.read_text())
    table["fingerprint"] = Local().fingerprint(ofa.hardware.load_device("cpu-1t").setting)
    table["details"]["states"] = STATES.to_json()
    path.write_text(json.dumps(table))

    def measure(models: Mapping[str, Any], device: object, *, speed: Speed, **settings: Any) -> pd.DataFrame:
        factor = speed.factor / STATES.times_as_long("slow")
        columns = {f"latency_ms_p{p}": 0.02 * factor * (1 + p / 1000) for p in (10, 50, 90, 99)}
        table = pd.DataFrame(columns, index=list(models))
        table.attrs["times_as_long"] = 1 / factor
        return table

    monkeypatch.setattr("ofa.hardware.measure", measure)
    return folder


def search(left: Path, said: list[str], **asked: Any) -> tuple[dict[str, Any], pd.DataFrame]:
    out = left / "-".join(map(str, asked.values()))
    workflow.search(
        left / "run",
        ["cpu-1t"],
        [1.0],
        tables=left / "latency_tables",
        out=out,
        num_evaluations=2,
        progress=lambda done, total, what: said.append(what),
        **asked,
    )
    return json.loads((out / "cpu-1t/selected.json").read_text()), pd.read_csv(out / "cpu-1t/front.csv")


def test_figures_are_stated_at_the_speed_that_is_asked_for(left: Path) -> None:
    said: list[str] = []
    slow, slow_front = search(left, said, state="slow")
    fast, fast_front = search(left, said, state="fast", percentile=90)
    both = slow_front.drop_duplicates("arch").merge(fast_front.drop_duplicates("arch"), on="arch")
    assert len(both) >= 2
    np.testing.assert_allclose(both["predicted_latency_ms_x"] / both["predicted_latency_ms_y"], 1.37, rtol=1e-3)
    np.testing.assert_allclose(slow_front["measured_latency_ms"].dropna(), 0.02 * 1.05)
    np.testing.assert_allclose(fast_front["latency_ms_p90"].dropna(), 0.02 / 1.37 * 1.09)
    assert slow["speed"] == {"state": "slow", "percentile": 50, "states": STATES.to_json()}
    folder = left / "fast-90" / "cpu-1t"
    assert read_speed(folder) == Speed(state="fast", percentile=90, states=STATES)
    assert read_candidates(folder, 1.0)[0]["latency_ms"] == pytest.approx(0.02 / 1.37 * 1.09)
    note = "cpu-1t is 1.37 times slower than when its table was made; figures are for its {} speed then"
    assert {note.format("slow"), note.format("fast")} <= set(said)
    assert fast["facts"]["settings"]["state"] == "fast" and "state" not in slow["facts"]["settings"]


def test_on_another_machine_what_is_measured_counts(left: Path) -> None:
    (path,) = (left / "latency_tables" / "cpu-1t").glob("*.json")
    table = json.loads(path.read_text())
    table["fingerprint"]["id"] = "of another"
    path.write_text(json.dumps(table))
    selected, _ = search(left, [], state="slow", any_machine=True)
    assert selected["speed"]["states"] is None


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"state": "slwo"}, "--state: unknown state 'slwo'; did you mean 'slow'"),
        ({"percentile": 95}, "--percentile must be one of 50, 90, 99, not 95"),
    ],
)
def test_what_is_no_speed_is_refused(left: Path, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        workflow.search(left / "run", ["cpu-1t"], [1.0], **asked)


def test_tables_of_one_machine_are_stated_at_the_speed_of_one(left: Path) -> None:
    """The second table was made while the machine was slower: its anchor took 0.12 ms."""
    path = left / "latency_tables" / "cpu-1t" / "test_efficientnet-772d37.csv"
    table = LatencyTable.load(path)
    later = LatencyTable.load(path)
    later.details["states"] |= {"fast_ms": 0.12, "typical_ms": 0.12, "slow_ms": 0.12, "kind": "steady"}
    speed = Speed(state="typical", states=STATES)
    arch = table.space.smallest()
    stated = workflow._at_speed(later, speed).predict_ms(arch)
    np.testing.assert_allclose(stated, table.predict_ms(arch) * 0.1 / 0.12)
