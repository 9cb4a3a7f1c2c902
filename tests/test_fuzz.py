"""Files that are not ours: whatever is in them, readers say what is wrong by an error of ours, and come to an end.

Random text is refused by the first check. So every input begins as a file that an earlier version left, and is damaged:
values, keys, cells and bytes are taken out, doubled, or exchanged for what no file should hold. ``OFA_FUZZ=20000``
draws so many inputs in all, others each time; without it they are the same few thousand.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import hashlib
import io
import json
import os
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from ofa.cost import LatencyTable
from ofa.cost.fit import read_latencies
from ofa.data import DataConfig
from ofa.data.readers import read_source, read_text_source
from ofa.data.readers.source import ArrayImages, Source
from ofa.data.shards import write_shards
from ofa.data.vocabulary import Vocabulary
from ofa.deploy import read_bundle, read_candidates, verify_bundle
from ofa.deploy.elastic_format import read_elastic
from ofa.errors import OfaError
from ofa.files import read_json
from ofa.hardware import load_device
from ofa.hardware.journal import Journal
from ofa.hardware.timing import TimedBlock
from ofa.metrics import TOP1
from ofa.report import write_report
from ofa.search.answer import answer
from ofa.search.evaluation_cache import EvaluationCache
from ofa.space import SearchSpace
from ofa.supernet.elasticize import check_choices
from ofa.supernet.weights import load_weights
from ofa.training import Recipe, Run, load_recipe
from ofa.training.checkpoint import load_checkpoint, save_checkpoint
from ofa.trust import check_trusted, trust, trust_list
from ofa.workflow import _read_front

LEFT = Path(__file__).parent / "fixtures" / "0.1.0"
TABLE = "test_efficientnet-772d37"
BUDGET_MS = 0.08
NUM_INPUTS = int(os.environ.get("OFA_FUZZ", 2400))
MAX_SECONDS = 10

# -- what no file should hold ------------------------------------------------------------------------------------------

STRANGE: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e-300, 1e308, float("nan"), float("inf"), -float("inf")),
    *(1 << 15, 1 << 31, 1 << 63, -(1 << 63), 10**30, 10**400),
    *(
        "",
        " ",
        "0",
        "1e999",
        "nan",
        "x" * 5000,
        "\0",
        "\ud800",
        "\x1b[2J",
        "../../x",
        "/etc/passwd",
        "é",
        "[/red]",
        "%s{}",
    ),
    *([], {}, [[]], [{}], {"": None}, {"a": {"b": []}}, [None, "x", 1.5], ["x"] * 300, [0] * 300),
]
FRAGMENTS = [
    *(b"", b"\0", b"\xff\xfe", b"\n", b",", b'"', b"'", b"{", b"}", b"[", b"]", b":", b"\\ud800", b"NaN", b"-Infinity"),
    *(b"9" * 5000, b"0x" + b"f" * 5000, b"1:" * 3000 + b"1", b"[" * 3000, b'{"a":' * 3000, b"- " * 3000, b"1e999"),
    *(b"!!int x", b"!!int ''", b"!!timestamp x", b"!!bool x", b"!!set {a}", b"!!python/object:os.system x", b"&a [*a]"),
    *(
        b"2001-99-99",
        b"? [1]\n: 2\n",
        b"<<: 1",
        b"=",
        b"'\\0'",
        b'"\\0"',
        b'"\\uD800"',
        b"\xe2\x80\xa8",
        b"#",
        b"%",
        b"|",
    ),
]
values = st.sampled_from(STRANGE) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
values = values.map(copy.deepcopy)  # they are damaged further


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in plain data, with each of its keys."""
    entries = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in entries:
        yield data, key
        yield from places(value)


def damaged_values(draw: Callable[[Any], Any], data: Any) -> Any:
    """Plain data with a few values taken out, doubled, nested, or exchanged."""
    data = copy.deepcopy(data)
    for _ in range(draw(st.integers(0, 3))):
        found = list(places(data))
        if not found or draw(st.integers(0, 30)) == 0:
            return draw(values)
        # Half of them near the top: what is deep is mostly alike.
        near = [(each, key) for each, key in found if each is data]
        some = near if near and draw(st.booleans()) else found
        where, key = some[draw(st.integers(0, len(some) - 1))]
        how = draw(st.sampled_from(["value", "value", "value", "drop", "nest", "double", "rename"]))
        if how == "value":
            where[key] = draw(values)
        elif how == "nest":
            where[key] = [where[key]] if draw(st.booleans()) else {"x": where[key]}
        elif how == "double" and isinstance(where, list):
            where.append(where[key])
        elif how == "rename" and isinstance(where, dict):
            where[draw(st.sampled_from(["x", "", *map(str, where)]))] = where.pop(key)
        else:
            del where[key]
    return data


def damaged_cells(draw: Callable[[Any], Any], text: str) -> str:
    """A CSV file with a few cells, rows and columns taken out, doubled, or exchanged."""
    rows = list(csv.reader(io.StringIO(text)))
    for _ in range(draw(st.integers(0, 3))):
        row = draw(st.integers(0, max(len(rows) - 1, 0)))
        how = draw(st.sampled_from(["cell", "cell", "cell", "row", "double", "column", "longer", "header"]))
        if not rows or not rows[row]:
            break
        column = draw(st.integers(0, len(rows[row]) - 1))
        cell = str(draw(values)).replace("\ud800", "?")
        if how == "cell":
            rows[row][column] = cell
        elif how == "row":
            del rows[row]
        elif how == "double":
            rows.append(list(rows[row]))
        elif how == "column":
            rows = [each[:column] + each[column + 1 :] for each in rows]
        elif how == "longer":
            rows[row].append(cell)
        else:
            del rows[1:]
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(rows)
    return written.getvalue()


def damaged_bytes(draw: Callable[[Any], Any], content: bytes) -> bytes:
    """A file cut, overwritten, doubled, or in another encoding; most often left as it is."""
    how = draw(st.sampled_from(["none"] * 6 + ["cut", "insert", "insert", "flip", "double", "utf-16", "bom"]))
    place = draw(st.integers(0, len(content)))
    if how == "cut":
        return content[:place]
    if how == "insert":
        end = place + draw(st.integers(0, 20))
        return content[:place] + draw(st.sampled_from(FRAGMENTS)) + content[end:]
    if how == "flip":
        return content[:place] + bytes([draw(st.integers(0, 255))]) + content[place + 1 :]
    if how == "double":
        return content[:place] + content[place // 2 :]
    if how == "utf-16":
        return content.decode("utf-8", "replace").encode("utf-16")
    return b"\xef\xbb\xbf" + content if how == "bom" else content


def as_json(draw: Callable[[Any], Any], content: bytes) -> bytes:
    return damaged_bytes(draw, json.dumps(damaged_values(draw, json.loads(content))).encode())


def as_lines(draw: Callable[[Any], Any], content: bytes) -> bytes:
    """Lines of JSON, of which one is damaged."""
    lines = content.splitlines()
    number = draw(st.integers(0, len(lines) - 1))
    lines[number] = json.dumps(damaged_values(draw, json.loads(lines[number]))).encode()
    return damaged_bytes(draw, b"\n".join(lines) + b"\n")


def as_yaml(draw: Callable[[Any], Any], content: bytes) -> bytes:
    data = damaged_values(draw, yaml.safe_load(content))
    text = json.dumps(data) if draw(st.booleans()) else yaml.safe_dump(data, allow_unicode=True)
    return damaged_bytes(draw, text.encode("utf-8", "replace"))


def as_csv(draw: Callable[[Any], Any], content: bytes) -> bytes:
    return damaged_bytes(draw, damaged_cells(draw, content.decode()).encode())


def as_safetensors(draw: Callable[[Any], Any], content: bytes) -> bytes:
    """A damaged header of the right length."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = as_json(draw, content[8:end])
    length = len(header).to_bytes(8, "little") if draw(st.booleans()) else draw(st.binary(min_size=8, max_size=8))
    return length + header + content[end:]


def as_bytes(draw: Callable[[Any], Any], content: bytes) -> bytes:
    return damaged_bytes(draw, content)


# -- who reads them ----------------------------------------------------------------------------------------------------


def use_space(space: SearchSpace) -> None:
    """What is asked of a space that was accepted."""
    assert space.num_archs >= 1 and len(space.fingerprint) == 12
    archs = [space.largest(), space.smallest(), space.sample(np.random.default_rng(0))]
    assert space.to_archs(space.to_population(archs)) == archs
    assert SearchSpace.from_json(json.loads(json.dumps(space.to_json()))) == space


def read_space(file: Path) -> None:
    use_space(SearchSpace.from_json(read_json(file, kind="space", remedy="").get("space")))  # type: ignore[arg-type]


def read_table(file: Path) -> None:
    table = LatencyTable.load(file.with_suffix(".csv"), force=True)
    table.predict_ms(table.space.largest())
    assert table.stages == table.stages


def read_table_csv(file: Path) -> None:
    """Whoever damages a table also makes its checksum."""
    info, content = file.with_suffix(".json"), file.read_bytes()
    data = json.loads((LEFT / "latency_tables/cpu-1t" / info.name).read_text())
    data["csv"] = {"num_rows": max(content.count(b"\n") - 1, 0), "sha256": hashlib.sha256(content).hexdigest()}
    info.write_text(json.dumps(data))
    read_table(file)


def read_journal(file: Path) -> None:
    header = json.loads(JOURNAL.splitlines()[0])
    del header["format"]
    journal = Journal(file, header)
    journal.append(BLOCK)
    journal.close()
    again = Journal(file, header)  # what is kept is read again
    again.close()
    assert again.blocks[-1] == BLOCK and again.blocks == journal.blocks


def read_run(file: Path) -> None:
    run = Run.open(file.parent)
    use_space(run.space)
    assert run.recipe == run.recipe and run.space_name and run.weights_sha256 and run.task
    run.to_json()


def read_data(file: Path) -> None:
    Run.open(file.parent).data()


def read_search(file: Path) -> None:
    """The files of a search, by all who read them."""
    for budget in (BUDGET_MS, 0.05):
        read_candidates(file.parent, budget)
    facts = json.loads((LEFT / "run/search/cpu-1t/selected.json").read_text())["facts"]
    answer(file.parent, [BUDGET_MS], facts=facts, costs=["macs", "params"])
    _read_front(file.parent / "front.csv", Run.open(LEFT / "run"))


def read_evaluations(file: Path) -> None:
    cache = EvaluationCache(file, values=TOP1.columns, weights_sha256="0", split="search")
    assert all(np.isfinite(each).all() for each in cache.known.values())


def read_report(file: Path) -> None:
    run = next(folder for folder in file.parents if (folder / "supernet.json").exists())
    write_report(run, tables_dir=run / "none")


def read_trust(file: Path) -> None:
    check_trusted(file.parents[2] / "recipe.yaml", recorded=None, where="run folder", remedy="trust it")


def read_weights(file: Path) -> None:
    load_weights(nn.Linear(2, 3), file)


def read_table_of_texts(file: Path) -> None:
    source = read_text_source(DataConfig(name="texts", root=str(file)))
    assert len(source.samples) == len(source.labels) and source.labels.max() < len(source.classes)


def read_shards(file: Path) -> None:
    source = read_source(DataConfig(name="shards", root=str(file if file.suffix == ".tar" else file.parent)))
    assert len(source.images) == len(source.labels) and source.labels.max() < len(source.classes)
    for row in range(min(len(source.labels), 5)):
        assert source.images[row].size


def read_tokenizer(file: Path) -> None:
    pytest.importorskip("tokenizers")
    vocabulary = Vocabulary.of_file(file)
    assert vocabulary.size > 0 and Vocabulary(vocabulary.to_text()).pad_id == vocabulary.pad_id
    assert vocabulary.encode(["a text", "☃"], 4)[0].shape == (2, 4)


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Args:
        file: That is damaged, in a folder that :func:`left` fills.
        damage: Makes other bytes of its content.
        read: Reads it.
        weight: Its share of the inputs.
    """

    file: str
    damage: Callable[[Callable[[Any], Any], bytes], bytes]
    read: Callable[[Path], object]
    weight: float = 1.0


KINDS = {
    "recipe": Kind("recipe.yaml", as_yaml, load_recipe, 2),
    "device": Kind("phone.yaml", as_yaml, load_device),
    "space": Kind("space.json", as_json, read_space, 3),
    "table": Kind(f"run/latency_tables/cpu-1t/{TABLE}.json", as_json, read_table),
    "table's entries": Kind(f"run/latency_tables/cpu-1t/{TABLE}.csv", as_csv, read_table_csv),
    "journal": Kind("journal.jsonl", as_lines, read_journal, 2),
    "run": Kind("run/supernet.json", as_json, read_run, 2),
    "run's data": Kind("run/supernet.json", as_json, read_data, 0.3),
    "metrics": Kind("run/metrics.csv", as_csv, lambda file: Run.open(file.parent).to_json()),
    "picks": Kind("run/search/cpu-1t/selected.json", as_json, read_search),
    "front": Kind("run/search/cpu-1t/front.csv", as_csv, read_search),
    "latencies": Kind("latencies.csv", as_csv, lambda file: read_latencies(file, Run.open(LEFT / "run").space)),
    "evaluations": Kind("run/search/evaluations.csv", as_csv, read_evaluations),
    "bundle": Kind("run/bundles/a/bundle.json", as_json, lambda file: read_bundle(file.parent), 2),
    "verified bundle": Kind("run/bundles/a/bundle.json", as_json, lambda file: verify_bundle(file.parent), 0.2),
    "elastic artefact": Kind("elastic/elastic.json", as_json, lambda file: read_elastic(file.parent), 2),
    "shard": Kind("others/train.tar", as_bytes, read_shards, 2),
    "shards": Kind("shards/dataset.json", as_json, read_shards, 2),
    "shards' index": Kind("shards/index.parquet", as_bytes, read_shards, 0.3),
    "texts": Kind("texts.csv", as_csv, read_table_of_texts),
    "tokenizer": Kind("tokenizer.json", as_json, read_tokenizer),
    "trust list": Kind("config/ofa/trusted.json", as_json, read_trust),
    "weights": Kind("weights.safetensors", as_safetensors, read_weights),
    "weights of torch": Kind("weights.pth", as_bytes, read_weights),
    "checkpoint": Kind("step-1.safetensors", as_safetensors, load_checkpoint),
    **{
        f"page with its {name}": Kind(file, damage, read_report, 0.15)
        for name, file, damage in [
            ("run", "run/supernet.json", as_json),
            ("metrics", "run/metrics.csv", as_csv),
            ("picks", "run/search/cpu-1t/selected.json", as_json),
            ("front", "run/search/cpu-1t/front.csv", as_csv),
            ("table", f"run/latency_tables/cpu-1t/{TABLE}.json", as_json),
            ("bundle", "run/bundles/a/bundle.json", as_json),
        ]
    },
}
BLOCK = TimedBlock("block", 1, (1000, 1010), (), 900.0)
JOURNAL = "".join(
    json.dumps(each) + "\n"
    for each in [
        {"format": 2, "fingerprint": "x"},
        *(["a", n, [1000, 1010], ["load"] * (n % 2), 900.5] for n in range(4)),
    ]
)


TOKENIZER = json.dumps(
    {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0},
        "padding": None,
        "added_tokens": [
            {"id": 0, "content": "[PAD]", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
            | {"special": True}
        ],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {"[PAD]": 0, "[UNK]": 1, "a": 2, "text": 3}, "unk_token": "[UNK]"},
    }
)


def fill(folder: Path) -> None:
    """A file of every kind, of two devices where that matters."""
    shutil.copytree(LEFT / "run", folder / "run")
    shutil.copytree(LEFT / "elastic", folder / "elastic")
    shutil.copytree(LEFT / "bundle", folder / "run/bundles/a")
    for device in ("cpu-1t", "cpu-2t"):
        shutil.copytree(LEFT / "latency_tables/cpu-1t", folder / "run/latency_tables" / device)
        shutil.copytree(LEFT / "run/search/cpu-1t", folder / "run/search" / device, dirs_exist_ok=True)
    run = json.loads((folder / "run/supernet.json").read_text())
    more = [
        {"name": "stage9.depth", "values": [1, 2]},
        {"name": "stage9.block1.kernel", "values": [3, 5, 7], "requires": ["stage9.depth", [2]]},
        {"name": "stage9.tail", "values": ["a", "b"], "follows": "resolution"},
    ]
    (folder / "space.json").write_text(json.dumps({"format": 1, "space": run["space"] + more}))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(run["recipe"]))
    (folder / "phone.yaml").write_text(
        "runtime: executorch\nprecision: fp32\nbatch: 1\nthreads: 1\ncool_below_c: 40\ndescription: a phone\n"
        "host: {name: adb, program: executor_runner, cpu_mask: f0, libraries: [a.so]}\n"
    )
    (folder / "journal.jsonl").write_text(JOURNAL)
    archs = [pick["arch"] for pick in json.loads((folder / "run/search/cpu-1t/selected.json").read_text())["picks"]]
    with (folder / "latencies.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("arch", "latency_ms"), *((json.dumps(arch), 1.5) for arch in archs)])
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 5), np.uint8)
    write_shards(Source(("a", "b"), np.arange(6) % 2, ArrayImages(pixels)), folder / "shards")
    (folder / "others").mkdir()
    shutil.copy(folder / "shards" / "train-000000.tar", folder / "others" / "train.tar")
    (folder / "texts.csv").write_text("text,label\na text,b\nanother,c\n" * 3)
    (folder / "tokenizer.json").write_text(TOKENIZER)
    trust(folder / "recipe.yaml")
    tensors = nn.Linear(2, 3).state_dict()
    safetensors.torch.save_file(tensors, folder / "weights.safetensors")
    torch.save({"state_dict": tensors}, folder / "weights.pth")
    save_checkpoint(folder / "step-1.safetensors", {"model": tensors}, {"step": 1, "rng": [1, 2]})


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    fill(tmp_path)
    assert trust_list().is_file()
    return tmp_path


@contextlib.contextmanager
def only_our_own_errors() -> Iterator[None]:
    """Anything else but an :class:`OfaError` passes on, and so does a time limit."""

    def expire(signum: int, frame: object) -> None:
        raise AssertionError(f"not done in {MAX_SECONDS} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.alarm(MAX_SECONDS)
    try:
        with warnings.catch_warnings(), contextlib.suppress(OfaError):
            warnings.simplefilter("ignore")
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def with_inputs(weight: float) -> settings:
    share = weight / (sum(kind.weight for kind in KINDS.values()) + 5)
    return settings(
        max_examples=max(5, round(share * NUM_INPUTS)),
        phases=[Phase.generate],  # what fails is small enough, and shrinking takes minutes
        derandomize="OFA_FUZZ" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.parametrize("name", KINDS)
def test_damaged_files(name: str, left: Path) -> None:
    kind = KINDS[name]
    file = left / kind.file
    content = file.read_bytes()
    kind.read(file)  # as it is, it is good

    @with_inputs(kind.weight)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        file.write_bytes(kind.damage(data.draw, content))
        with only_our_own_errors():
            kind.read(file)

    check()


WORDS = [
    "train.epochs=3",
    "strategy.sampler=sandwich",
    "strategy.sampler.num_random=3",
    "data.mean=[0.5]",
    "model.depth=[2]",
]


@with_inputs(2)
@given(st.data())
def test_strange_overrides(data: st.DataObject) -> None:
    key, *_ = data.draw(st.sampled_from(WORDS)).partition("=")
    parts = data.draw(st.lists(st.sampled_from([*key.split("."), "", "x", "1"]), min_size=1, max_size=4))
    key = key if data.draw(st.booleans()) else ".".join(parts)
    word = f"{key}=".encode() + damaged_bytes(data.draw, json.dumps(data.draw(values)).encode())
    with only_our_own_errors():
        load_recipe("demo", [data.draw(st.sampled_from(WORDS)), word.decode(errors="replace")])


@with_inputs(2)
@given(st.data())
def test_strange_values(data: st.DataObject) -> None:
    """What Python passes on: keys need not be text there."""
    recipe = damaged_values(data.draw, load_recipe("demo").to_json())
    choices = damaged_values(
        data.draw, {"depth": [1, 2], "expand": ["50%", "100%"], "width": {"stage1": ["75%"], 1: [1]}}
    )
    with only_our_own_errors():
        Recipe.from_json(recipe, where="recipe")
    choices = choices if isinstance(choices, dict) else {"depth": choices}
    with only_our_own_errors():
        check_choices(choices).check_places(["stage1", "stage2"])
    with only_our_own_errors():
        Run.open(LEFT / "run").space.arch(choices)


@with_inputs(1)
@given(st.data())
def test_strange_spaces(data: st.DataObject) -> None:
    """What a program passes on that has read a space by its own means."""
    plain = json.loads((LEFT / "run/supernet.json").read_text())["space"][:3]
    with only_our_own_errors():
        use_space(SearchSpace.from_json(damaged_values(data.draw, plain)))
