from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ofa.files import FileFormatError
from ofa.report import write_report
from ofa.report.numbers import fixed, fixed_range, ms, pretty_count, si
from ofa.report.page import flatten
from ofa.report.palette import PALETTE

SECTIONS = {"picks", "tradeoff", "architectures", "prediction", "training", "making"}
CHARTS = {"front_cpu-1t", "progress_cpu-1t", "prediction_cpu-1t", "loss", "accuracy"}
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """What a browser would see: text outside scripts, ids, links, open elements; fails on unbalanced ones."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.stack: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.text = ""
        self.packed = ""
        self.feed(self.source)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] in ("script", "style"):
            tag, attributes = self.elements[-1]
            if tag == "script" and attributes.get("id") == "data":
                self.packed += data
            return
        self.text += data
        if "td" in self.stack or "th" in self.stack:
            self.cells[-1] += data

    @property
    def headings(self) -> set[str]:
        return {attributes["id"] or "" for tag, attributes in self.elements if tag == "h2"}

    @property
    def data(self) -> dict[str, Any]:
        """What the page's scripts work with."""
        unpacked: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(self.packed)))
        return unpacked

    @property
    def charts(self) -> set[str]:
        """Charts that have a place in the page."""
        return {a["data-chart"] or "" for _, a in self.elements if "data-chart" in a}

    def count(self, tag: str, css_class: str) -> int:
        return sum(t == tag and css_class in (a.get("class") or "").split() for t, a in self.elements)


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_page_is_complete_self_contained_and_small(run_dir: Path) -> None:
    path = write_report(run_dir)
    assert path == run_dir / "report.html"
    page = Page(path)
    assert page.headings == SECTIONS | {"explore"}
    assert page.charts == set(page.data["charts"]) == CHARTS
    assert page.count("svg", "architecture") - page.count("svg", "sample") == 3
    assert page.count("p", "missing") == 2  # what is said without JavaScript, and to old browsers
    assert path.stat().st_size < 500_000


def test_nothing_is_loaded_from_elsewhere(run_dir: Path) -> None:
    page = Page(write_report(run_dir))
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "data", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith("data:"), (tag, name, value)
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'") and "http" not in policy
    style = page.source[page.source.index("<style>") : page.source.index("</style>")]
    assert "url(" not in style and "@import" not in style


def test_only_the_pages_own_script_may_run(run_dir: Path) -> None:
    page = Page(write_report(run_dir))
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    script = page.source.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy is not None and f"script-src 'sha256-{digest}'" in policy


def test_every_chart_says_what_it_shows(three_devices: Path, tmp_path: Path) -> None:
    data = Page(write_report(three_devices, out=tmp_path / "page.html")).data
    every = [*data["charts"].values(), *(device["chart"] for device in data["explorer"])]
    assert len(every) == 1 + 3 * 3 + 2 + 3
    for chart in every:
        assert chart["label"] and chart["x"]["title"] and chart["y"]["title"]
        for series in chart["series"]:
            assert len(series["x"]) == len(series["y"]) and len(series["notes"]) in (0, len(series["x"]))
            assert series["role"].replace("-", "_") in PALETTE


def test_the_picks_table_holds_the_numbers_of_the_files(run_dir: Path) -> None:
    page = Page(write_report(run_dir))
    for pick in json.loads((run_dir / "search/cpu-1t/selected.json").read_text())["picks"]:
        bundles = [json.loads(path.read_text()) for path in run_dir.glob("*/*/bundle.json")]
        latency_ms = next((b["latency_ms"] for b in bundles if b["budget_ms"] == pick["budget_ms"]), pick["latency_ms"])
        row = page.cells.index(f"{pick['budget_ms']:g} ms")
        cells = page.cells[row : row + 10]
        assert float(cells[1]) == pytest.approx(pick["predicted_latency_ms"], abs=0.006)
        assert float(cells[2]) == pytest.approx(latency_ms["p50"], abs=0.006)
        assert float(cells[3]) == pytest.approx(latency_ms["p90"], abs=0.006)
        assert float(cells[4].removesuffix(" M")) == pytest.approx(pick["macs"] / 1e6, rel=0.01)
        assert float(cells[5].removesuffix(" M")) == pytest.approx(pick["params"] / 1e6, rel=0.01)
        assert float(cells[6]) == pytest.approx(pick["measured_top1_percent"], abs=0.06)
        assert cells[7] == "–"  # an earlier version promised nothing
        assert cells[9] == "✓ yes"
    assert [cells for cells in page.cells if re.fullmatch(r"9\d\.\d 9\d\.\d–9\d\.\d", cells)], "no test accuracy"


def test_what_a_pick_promises_and_why_it_is_the_pick(run_dir: Path) -> None:
    path = run_dir / "search/cpu-1t/selected.json"
    picks = json.loads(path.read_text())["picks"]
    choice = {"dim": "stage1.depth", "value": 3, "instead": 2, "change": -1.25, "change_latency_ms": -0.5}
    picks[0] |= {
        "promised_top1_percent": 91.23,
        "promised_interval": [89.04, 93.42],
        "choices": [choice | {"gain_per_ms": 2.5}] * 4 + [choice | {"gain_per_ms": None}] * 4,
        "class_losses": [{"class": "<shoe>", "pick": 80.0, "largest": 91.5}],
    }
    picks[1] |= {"arch": picks[0]["arch"]}
    edit_json(path, picks=picks)
    page = Page(write_report(run_dir))
    assert "91.2 89.0–93.4" in page.cells
    row = page.cells.index("stage1.depth 3")
    assert page.cells[row : row + 5] == ["stage1.depth 3", "2", "-1.25", "-0.500", "2.50"]
    assert page.cells.count("stage1.depth 3") == 5
    assert "<shoe> 80.0 % instead of 91.5 %." in " ".join(page.text.split())
    assert f"{picks[0]['budget_ms']:g} to {picks[1]['budget_ms']:g} ms have the same subnet" in page.text


def test_a_run_among_the_tables_is_no_table(one_device: Path, tmp_path: Path) -> None:
    alone = write_report(one_device, out=tmp_path / "alone.html").read_bytes()
    beside = write_report(one_device, tables_dir=one_device.parent, out=tmp_path / "beside.html").read_bytes()
    assert beside == alone


def test_a_pick_that_misses_its_budget_is_said_to(run_dir: Path) -> None:
    path = run_dir / "search/cpu-1t/selected.json"
    picks = json.loads(path.read_text())["picks"]
    picks[2]["latency_ms"]["p50"] = picks[2]["budget_ms"] + 0.01
    edit_json(path, picks=picks)
    page = Page(write_report(run_dir))
    assert "2 of 3" in page.text
    assert page.cells.count("✗ no") == 1


def test_the_front_shows_every_evaluated_subnet(run_dir: Path) -> None:
    chart = Page(write_report(run_dir)).data["charts"]["front_cpu-1t"]
    num = {series["name"]: len(series["x"]) for series in chart["series"]}
    assert num["Random subnets"] == 300
    assert num["Found by the search"] == 30
    assert num["Picks"] == 3
    assert 0 < num["Pareto front"] < 330
    assert len(chart["guides"]) == 3


@pytest.mark.parametrize(
    ("paths", "command", "charts"),
    [
        (["search/cpu-1t/selected.json"], "ofa search --run", CHARTS - {"progress_cpu-1t"}),
        (["search/cpu-1t/front.csv"], "ofa search --run", CHARTS - {"front_cpu-1t", "progress_cpu-1t"}),
        (["metrics.csv"], "ofa train RECIPE", CHARTS - {"loss", "accuracy"}),
        (["latency_tables"], "ofa profile --run", CHARTS),
        (["bundles", "deploy"], "ofa export --run", CHARTS),
    ],
)
def test_what_is_missing_is_left_out_with_the_command_that_makes_it(
    run_dir: Path, paths: list[str], command: str, charts: set[str]
) -> None:
    for target in (run_dir / path for path in paths):
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    page = Page(write_report(run_dir))
    assert page.headings >= SECTIONS
    assert page.count("p", "missing") >= 3
    assert command in page.text
    assert page.charts == charts


def test_a_run_that_was_only_just_begun(run_dir: Path) -> None:
    for path in ("search", "bundles", "deploy", "latency_tables"):
        shutil.rmtree(run_dir / path)
    (run_dir / "metrics.csv").unlink()
    page = Page(write_report(run_dir))
    assert page.charts == set()
    assert page.data == {"explorer": [], "drawings": [], "charts": {}}
    assert page.headings == SECTIONS
    assert "mobilenetv3_large_100" in page.text
    assert "40 epochs, 128 images a step, adamw, learning rate 0.002." in page.text


def test_several_devices_stand_beside_each_other(three_devices: Path, tmp_path: Path) -> None:
    page = Page(write_report(three_devices, out=tmp_path / "page.html"))
    assert {"fronts", "front_cpu-1t", "front_cpu-2t", "front_phone", "prediction_phone"} <= page.charts
    assert page.count("svg", "architecture") - page.count("svg", "sample") == 9
    assert page.headings == SECTIONS | {"explore", "cross"}
    assert "9 of 9" in page.text
    assert [device["name"] for device in page.data["explorer"]] == ["cpu-1t", "cpu-2t", "phone"]


def test_the_fleet_is_explored_and_exported_for_each_device(three_devices: Path, tmp_path: Path) -> None:
    run = shutil.copytree(three_devices, tmp_path / "a run")
    shutil.copytree(run / "search/phone", run / "search/fleet")
    edit_json(run / "search/fleet/selected.json", device="fleet")
    page = Page(write_report(run))
    fleet = next(device for device in page.data["explorer"] if device["name"] == "fleet")
    commands = [parts[0] + "2" + parts[1] + "2" + parts[2] for parts in fleet["commands"]]
    assert [shlex.split(command)[4:] for command in commands] == [
        ["--device", name, "--search", f"{run}/search/fleet", "--budget-ms", "2", "--out", f"{run}/bundles/{name}-2ms"]
        for name in ("cpu-1t", "cpu-2t", "phone")
    ]
    assert shlex.split(commands[0])[:4] == ["ofa", "export", "--run", str(run)]
    assert "--fleet --budget-ms" in page.text and "--device fleet" not in page.text
    assert "fleet" not in {series["name"] for series in page.data["charts"]["fronts"]["series"]}  # it is no device


def test_a_page_of_the_largest_run_stays_small(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    front = pd.read_csv(run_dir / "search/cpu-1t/front.csv")
    rng = np.random.default_rng(0)
    many = pd.concat([front] * 8, ignore_index=True)
    many["predicted_latency_ms"] *= rng.uniform(0.9, 1.1, len(many))
    for device in ("cpu-1t", "cpu-2t", "phone"):
        path = run_dir / "search" / device / "front.csv"
        path.parent.mkdir(exist_ok=True)
        many.assign(measured_top1_percent=rng.uniform(90, 95, len(many))).to_csv(path, index=False)
    monkeypatch.setattr("ofa.report.page.MAX_DOWNLOAD_BYTES", 100_000)
    page = Page(write_report(run_dir))
    links = {a["data-name"] for tag, a in page.elements if tag == "a"}
    assert len(page.source) < 1_500_000
    assert links == {"metrics.csv", "latency_table_cpu-1t.csv"}
    assert f"is too large for this page and lies at {run_dir}/search/phone/front.csv" in page.text
    points = page.data["charts"]["front_phone"]["series"][0]["x"]
    assert 1_000 < len(points) <= 2_000 < len(many)


def test_tables_are_taken_from_the_given_folder(run_dir: Path, tmp_path: Path) -> None:
    (run_dir / "latency_tables").rename(tmp_path / "tables")
    out = tmp_path / "elsewhere" / "page.html"
    assert write_report(run_dir, tables_dir=tmp_path / "tables", out=out) == out
    assert "Latency table" in Page(out).text
    assert not (run_dir / "report.html").exists()


def test_a_table_of_another_space_is_not_shown(run_dir: Path) -> None:
    edit_json(run_dir / "latency_tables/cpu-1t/space.json", space=[{"name": "resolution", "values": [32]}])
    assert "No latency table was found for this space" in Page(write_report(run_dir)).text


def test_names_cannot_inject_markup(run_dir: Path) -> None:
    hostile = "</script><script>alert(1)</script><img src=https://example.org/x onerror=alert(2)>\"'&"
    data = {"name": hostile, "classes": [hostile] * 10}
    recipe = {"name": hostile, hostile: hostile}
    edit_json(run_dir / "supernet.json", model={"name": hostile}, data=data, recipe=recipe, versions={hostile: hostile})
    device = "cpu<img src=x>"
    (run_dir / "search/cpu-1t").rename(run_dir / "search" / device)
    edit_json(run_dir / "search" / device / "selected.json", device=device)
    plain = Page(write_report(run_dir))
    assert "img" not in {tag for tag, _ in plain.elements}
    assert hostile in plain.text
    assert sum(tag == "script" for tag, _ in plain.elements) == 2
    assert plain.data["explorer"][0]["name"] == device
    assert not any(name.startswith("on") for _, attributes in plain.elements for name in attributes)


def test_downloads_are_the_files_themselves(run_dir: Path) -> None:
    page = Page(write_report(run_dir))
    links = {a["data-name"]: a["href"] for tag, a in page.elements if tag == "a"}
    assert set(links) == {"metrics.csv", "front_cpu-1t.csv", "latency_table_cpu-1t.csv"}
    uri = links["front_cpu-1t.csv"]
    assert uri is not None
    unpacked = gzip.decompress(base64.b64decode(uri.split(",")[1]))
    assert unpacked == (run_dir / "search/cpu-1t/front.csv").read_bytes()


def test_the_same_run_gives_the_same_page(run_dir: Path) -> None:
    assert write_report(run_dir).read_bytes() == write_report(run_dir).read_bytes()


def test_training_curves_without_accuracies_or_with_one_row_per_epoch(run_dir: Path) -> None:
    (run_dir / "metrics.csv").write_text(
        "epoch,step,loss_largest,loss_random,largest_top1_percent\n1,10,2.0,,\n2,20,1.5,,97.3\n"
    )
    page = Page(write_report(run_dir))
    charts = page.data["charts"]
    assert "97.3 %" in page.text
    assert "accuracy" not in charts
    assert [series["name"] for series in charts["loss"]["series"]] == ["Largest"]
    assert charts["loss"]["x"]["title"] == "Epoch"


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("supernet.json", None, "no run folder at .*ofa train"),
        ("supernet.json", '{"format": 99}', "has format 99"),
        ("search/cpu-1t/selected.json", '{"format": 1, "picks": [', "truncated or not JSON.*ofa search"),
        (
            "search/cpu-1t/selected.json",
            '{"format": 1, "picks": [{"arch": {"depth": 3}}]}',
            "key 'budget_ms' is missing",
        ),
        (
            "search/cpu-1t/selected.json",
            '{"format": 1, "picks": [{"arch": {"depth": 3}, "budget_ms": 1, "measured_latency_ms": 1, '
            '"macs": 1, "params": 1, '
            '"latency_ms": {"p10": 1, "p50": 1, "p90": 1}, "predicted_latency_ms": 1, "measured_top1_percent": 90}]}',
            "does not fit this run's",
        ),
        ("search/cpu-1t/selected.json", '{"format": 1}', "key 'picks' is missing.*ofa search"),
        ("supernet.json", '{"format": 1}', "key 'model' is missing; train again"),
        ("supernet.json", '{"format": 1, "model": "a"}', "model must be a mapping|key .* is missing"),
        ("bundles/cpu-1t-0.8ms/bundle.json", '{"format": 2}', "key 'device' is missing.*ofa export"),
        ("metrics.csv", "epoch,step,loss_largest\n1,one,2\n", "line 2: step is 'one', not a finite number"),
        ("search/cpu-1t/front.csv", "arch,macs\n", "lacks the columns .*predicted_top1_percent, .*ofa search"),
        ("search/cpu-1t/front.csv", "", "not a readable CSV file"),
        ("metrics.csv", "loss\n1\n", "lacks the columns epoch, step"),
        ("bundles/cpu-1t-0.8ms/bundle.json", '{"format": 6}', "has format 6.*ofa export"),
    ],
)
def test_damaged_files_are_named(run_dir: Path, path: str, content: str | None, message: str) -> None:
    (run_dir / path).unlink() if content is None else (run_dir / path).write_text(content)
    with pytest.raises(FileFormatError, match=message) as raised:
        write_report(run_dir)
    assert path in str(raised.value)
    assert not (run_dir / "report.html").exists()


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("arch", "7", "an architecture is a JSON object of numbers and text, not '7'"),
        ("arch", "{", "an architecture is a JSON object"),
        ("arch", "[" * 100_000, "an architecture is a JSON object"),
        ("macs", "many", "line 5: macs is 'many', not a finite number"),
        ("measured_top1_percent", "inf", "line 5: measured_top1_percent is 'inf', not a finite number"),
        ("num_images", "some", "line 5: num_images is 'some', not a finite number"),
    ],
)
def test_cells_of_a_front_that_are_none_are_named(run_dir: Path, column: str, cell: str, message: str) -> None:
    path = run_dir / "search" / "cpu-1t" / "front.csv"
    front = pd.read_csv(path).astype({column: object})
    front.loc[3, column] = cell
    front.to_csv(path, index=False)
    with pytest.raises(FileFormatError, match=message):
        write_report(run_dir)


def test_picks_of_another_space_are_named(run_dir: Path) -> None:
    path = run_dir / "search" / "cpu-1t" / "selected.json"
    selected = json.loads(path.read_text())
    selected["picks"][0]["arch"] = {"depth": 3}
    path.write_text(json.dumps(selected))
    with pytest.raises(FileFormatError, match=r"selected\.json does not fit this run's search space"):
        write_report(run_dir)


@pytest.mark.parametrize("content", ["{", '{"format": 7}', "[" * 100_000, '{"format": 1, "x": NaN}'])
def test_a_damaged_table_of_something_else_is_left_out_and_said(run_dir: Path, tmp_path: Path, content: str) -> None:
    before = Page(write_report(run_dir))
    (tmp_path / "tables" / "other").mkdir(parents=True)
    (tmp_path / "tables" / "other" / "<b>.json").write_text(content)
    page = Page(write_report(run_dir, tables_dir=tmp_path / "tables"))
    assert "Left out:" in page.text and "<b>.json" in page.text and "Left out:" not in before.text
    assert set(page.data["charts"]) == set(before.data["charts"])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("held_out", 5, "held_out must be a mapping, not 5"),
        (
            "held_out",
            {"predicted_ms": [1.0], "measured_ms": [0.0]},
            "measured_ms must be latencies",
        ),
        ("repeatability_percent", "none", "repeatability_percent must be a finite number, not 'none'"),
    ],
)
def test_a_table_that_says_nonsense_is_left_out(run_dir: Path, key: str, value: object, message: str) -> None:
    path = run_dir / "latency_tables" / "cpu-1t" / "space.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert message in Page(write_report(run_dir)).text


def test_numbers_as_people_read_them() -> None:
    assert [pretty_count(n) for n in (12, 48_000, 21_790_000_000_000_000_000)] == ["12", "48,000", "2.2 × 10¹⁹"]
    assert pretty_count(2 * 10**400) == "2.0 × 10⁴⁰⁰"
    assert [si(n) for n in (950, 12_345, 349e6, 23.46e6, 5.2e9)] == ["950", "12.3 k", "349 M", "23.5 M", "5.20 G"]
    assert [ms(n) for n in (None, 0.0734, 0.74, 1.7, 23.456)] == ["–", "0.0734", "0.740", "1.70", "23.46"]
    assert [fixed(n) for n in (None, 97.44)] == ["–", "97.4"]
    assert [fixed_range(n) for n in ([97.44, 97.36], [90, 95.5, 93])] == ["97.4", "90.0–95.5"]
    assert dict(flatten({"a": 1, "b": {"c": 2, "d": {"e": [3]}}, "f": None})) == {"a": 1, "b.c": 2, "b.d.e": [3]}
