"""Texts from the table to the bundle: a tiny BERT, a few dozen made-up sentences."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import ofa.hardware
from ofa import workflow
from ofa.config import ConfigError
from ofa.data import DataError
from ofa.deploy import (
    BundleError,
    ElasticError,
    ExportOptions,
    Latency,
    TargetError,
    make_artefact,
    read_bundle,
    verify_bundle,
    write_elastic,
)
from ofa.deploy.artefact import bundle_artefact, judge_artefact
from ofa.errors import UsageError
from ofa.hardware import Device, load_device
from ofa.report import write_report
from ofa.setting import Setting
from ofa.tasks import TextClassification
from ofa.tasks.task import Exhibit
from ofa.training import Run, RunError, SubnetEvaluator, load_recipe, train
from ofa.training.finetuning import finetuning_recipe
from ofa.training.preflight import check_recipe, draws_of
from ofa.training.trainer import StoppedError, _Trainer

transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")

WORDS = {
    "good": ("fine", "warm", "funny", "moving", "a joy"),
    "bad": ("dull", "cold", "clumsy", "empty", "a bore"),
}
TINY = {"vocab_size": 160, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
DEVICE = Device(name="cpu-1t", setting=Setting(runtime="onnxruntime"))


def sentences(num: int = 120) -> list[tuple[str, str]]:
    """Every class has words of its own; some sentences are longer than others."""
    rows = []
    for row in range(num):
        label = ("good", "bad")[row % 2]
        word = WORDS[label][row // 2 % 5]
        rows.append((f"number {row} is {word}" + " and goes on and on" * (row % 7 == 0), label))
    return rows


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of sentences and a folder with a configuration."""
    place = tmp_path_factory.mktemp("texts")
    pd.DataFrame(sentences(), columns=["text", "label"]).to_csv(place / "all.csv", index=False)
    transformers.BertConfig(**TINY, max_position_embeddings=24).save_pretrained(place / "tiny")
    return place


def words(place: Path, *more: str) -> list[str]:
    return [
        f"model.name=transformers:{place / 'tiny'}",
        f"data.root={place / 'all.csv'}",
        "data.search_share=24",
        "data.test_share=24",
        "model.tokens=[6, 12]",
        "task.max_tokens=12",
        "task.vocab_size=150",
        "train.epochs=12",
        "train.batch_size=24",
        "train.learning_rate=0.01",
        "strategy.loss.label_weight=0",
        "train.warmup_epochs=1",
        "train.eval_every_epochs=0",
        "train.device=cpu",
        *more,
    ]


@pytest.fixture(scope="module")
def run(place: Path) -> Run:
    """A trained run; not to be changed."""
    return train(load_recipe("text", words(place)), place / "run")


# -- training ----------------------------------------------------------------------------------------------------------


def test_it_learns_what_words_mean(run: Run, evaluator: SubnetEvaluator) -> None:
    assert run.info["data"]["classes"] == ["bad", "good"] and run.num_classes == 2
    assert {dim.kind for dim in evaluator.supernet.dims} == {"depth", "heads", "mlp_ratio", "width"}
    assert run.space["tokens"].values == (6, 12)
    metrics = pd.read_csv(run.path / "metrics.csv")
    assert metrics["loss_largest"].iloc[-1] < metrics["loss_largest"].iloc[0]
    largest, smallest = evaluator.values([run.space.largest(), run.space.smallest()])
    assert (largest, smallest) == (metrics["largest_top1_percent"].iloc[-1], metrics["smallest_top1_percent"].iloc[-1])
    assert largest > 90


def test_a_run_needs_nothing_but_its_data(run: Run, evaluator: SubnetEvaluator, place: Path, tmp_path: Path) -> None:
    again = Run.open(Path(shutil.copytree(run.path, tmp_path / "run")))
    recipe = dict(again.info["recipe"], model={**again.info["recipe"]["model"], "name": "transformers:gone"})
    gone = Run(again.path, {**again.info, "recipe": recipe})
    for name, tensor in gone.supernet().state_dict().items():
        assert torch.equal(tensor, evaluator.supernet.state_dict()[name]), name
    assert str(place) not in (run.path / "config.json").read_text()
    data = again.data()
    assert data.vocabulary.to_text() == evaluator.data.vocabulary.to_text() == run.info["data"]["tokenizer"]
    assert np.array_equal(data.ids, evaluator.data.ids)
    assert again.outline().space == run.space
    assert run.space_name.startswith("transformers-tiny-") and str(run.path.parent) not in run.space_name


def test_a_resumed_run_is_the_same(place: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("text", words(place))
    keep_time = _Trainer._keep_time

    def stop(self: _Trainer, done: int) -> None:
        keep_time(self, done)
        if done == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(_Trainer, "_keep_time", stop)
        with pytest.raises(StoppedError):
            train(recipe, tmp_path / "run")
    resumed = train(recipe, tmp_path / "run", resume=True)
    assert resumed.weights_sha256 == run.weights_sha256


def test_a_tokenizer_of_a_run_a_bundle_or_a_file(place: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(run.info["data"]["tokenizer"])
    for tokenizer in (run.path, tmp_path, tmp_path / "tokenizer.json"):
        recipe = load_recipe("text", words(place, f"task.tokenizer={tokenizer}"))
        spec = recipe.task.inputs()
        assert spec is not None
        data = recipe.task.load(recipe.data, inputs=spec, sizes={"tokens": 12})
        assert recipe.task.facts(data)["tokenizer"] == run.info["data"]["tokenizer"]


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        (["data.mixup=0.2"], DataError, "data.mixup is for pictures, but the data is texts"),
        (["data.name=digits"], DataError, "unknown data set of texts 'digits'"),
        (
            ["model.pretrained=true"],
            ConfigError,
            "know the words of their own tokenizer only; name it",
        ),
        (["task.word_dropout=1"], ConfigError, "task.word_dropout must be a share from 0 to below 1, not 1"),
        (["task.max_tokens=0"], ConfigError, "task.max_tokens must be at least 1"),
    ],
)
def test_recipes_that_do_not_fit(place: Path, more: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_recipe("text", words(place, *more))


def test_a_model_must_know_all_tokens(place: Path, tmp_path: Path) -> None:
    config = transformers.BertConfig(**{**TINY, "vocab_size": 100}, max_position_embeddings=24)
    config.save_pretrained(tmp_path / "few")
    recipe = load_recipe("text", words(place, f"model.name=transformers:{tmp_path / 'few'}"))
    with pytest.raises(ConfigError, match=r"does not fit the data: it knows 100 tokens, but the tokenizer has 150"):
        train(recipe, tmp_path / "run")


def test_a_model_must_give_logits(place: Path, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.embed, self.up, self.down = nn.Embedding(200, 32), nn.Linear(32, 64), nn.Linear(64, 32)\n"
        "    def forward(self, input_ids, attention_mask):\n"
        "        x = self.embed(input_ids)\n"
        "        return x + self.down(self.up(x).relu())\n"
        "def net(num_classes):\n"
        "    return Net()\n"
    )
    more = [f"model.name={tmp_path / 'net.py'}:net", "model.depth=null", "model.width=null"]
    recipe = load_recipe("text", words(place, *more))
    with pytest.raises(ConfigError, match=r"whose first tensor has shape \(12, 32\), but task 'text_classification'"):
        train(recipe, tmp_path / "run")


def test_a_model_may_look_at_padding_if_it_is_always_there(place: Path, tmp_path: Path) -> None:
    """Batches are trimmed else, and no bundle's are."""
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.embed, self.up, self.down = nn.Embedding(200, 32), nn.Linear(32, 64), nn.Linear(64, 2)\n"
        "    def forward(self, input_ids, attention_mask):\n"
        "        return self.down(self.up(self.embed(input_ids).mean(1)).relu())\n"
        "def net(num_classes):\n"
        "    return Net()\n"
    )
    more = [f"model.name={tmp_path / 'net.py'}:net", "model.depth=null", "model.width=null", "train.epochs=0.5"]
    with pytest.raises(ConfigError, match=r"its answer depends on how much padding .* use task.trim_padding=false"):
        train(load_recipe("text", words(place, *more)), tmp_path / "run")
    run = train(load_recipe("text", words(place, *more, "task.trim_padding=false")), tmp_path / "run")
    data = run.data()
    widths = {inputs["input_ids"].shape[1] for inputs, _ in run.task.train_batches(data, epoch=0, batch_size=8, seed=0)}
    assert (
        widths
        == {12}
        == {
            inputs["input_ids"].shape[1]
            for inputs, _ in run.task.batches(data, "test", batch_size=4, sizes={"tokens": 12})
        }
    )


def test_data_that_changed_is_refused(run: Run, tmp_path: Path) -> None:
    rows = [*sentences()[:-1], ("another text", "bad")]
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(tmp_path / "all.csv", index=False)
    with pytest.raises(DataError, match=r"row 119 of all.csv is no longer what it was"):
        run.data(root=str(tmp_path / "all.csv"))


def test_a_finished_run_is_not_overwritten(place: Path, run: Run) -> None:
    for word in ("data.seed=1", "task.word_dropout=0.2"):
        with pytest.raises(RunError, match=f"different: {word.partition('=')[0]}"):
            train(load_recipe("text", words(place, word)), run.path, resume=True)


def test_one_subnet_is_trained_further(run: Run, tmp_path: Path) -> None:
    """On the run's splits, by the run's tokenizer, taught by its largest subnet."""
    recipe = finetuning_recipe(run, run.space.smallest(), ["train.epochs=1"])
    tuned = train(recipe, tmp_path / "tuned", splits_of=run)
    assert tuned.space.num_archs == 1 and tuned.space.largest() == run.space.smallest()
    for key in ("tokenizer", "splits"):
        assert tuned.info["data"][key] == run.info["data"][key]
    assert tuned.data().num_tokens == 12


def test_all_subnets_of_a_step_may_read_as_many_tokens(place: Path) -> None:
    recipe = load_recipe("text", words(place, "strategy.resolution=per_batch"))
    outline = check_recipe(recipe)
    schedule = recipe.strategy.schedule
    (stretch,) = schedule.plan(outline.space, 10)
    assert {len({draw.arch["tokens"] for draw in draws_of(recipe, stretch)})} == {1}


@pytest.mark.slow
def test_the_whole_way(run: Run, place: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run.path, tmp_path / "run"))
    device, supernet = load_device("cpu-1t"), run.supernet()
    csv = tmp_path / "tables" / "cpu-1t" / f"{run.space_name}.csv"
    quick = {"num_fit": 3, "num_held_out": 2, "rounds": 2, "block_seconds": 0.001}
    ofa.hardware.profile(supernet, device, csv_path=csv, rng=np.random.default_rng(0), force=True, **quick)
    assert supernet.measurable_share == 1
    searched = workflow.search(folder, ["cpu-1t"], [50.0], tables=tmp_path / "tables", num_evaluations=6)
    (pick,) = searched.selected["cpu-1t"]["picks"]
    assert pick["measured_top1_percent"] > 60
    result = workflow.export(folder, "cpu-1t", 50.0, folder / "bundles" / "50ms")
    assert workflow.verify(result.path, device="cpu-1t", images=place / "all.csv").ok
    (page,) = workflow.report(folder)
    assert "What it says of texts" in page.read_text()


# -- bundles -----------------------------------------------------------------------------------------------------------


def make(evaluator: SubnetEvaluator, run: Run, out: Path, device: Device, **options: Any) -> Path:
    artefact = make_artefact(evaluator, run.space.smallest(), device, options=ExportOptions(**options))
    bundle_artefact(
        evaluator,
        artefact,
        out,
        device=device,
        score=judge_artefact(evaluator, artefact, device),
        latency_ms=Latency(p10=1.0, p50=1.0, p90=1.0),
        budget_ms=2.0,
        run_info=run.info,
        overwrite=True,
    )
    return out


@pytest.fixture(scope="module")
def bundle(evaluator: SubnetEvaluator, run: Run, place: Path) -> Path:
    """Of the smallest subnet, in floating point; not to be changed."""
    return make(evaluator, run, place / "bundle", DEVICE)


def test_a_bundle_holds_what_it_needs(bundle: Path, run: Run, evaluator: SubnetEvaluator, place: Path) -> None:
    info = read_bundle(bundle)
    assert info.task == TextClassification(tokenizer="tokenizer.json", max_tokens=12, vocab_size=150, word_dropout=0.1)
    assert (info.model.input, info.preprocessing.input_size, info.preprocessing.dtype) == ("input_ids", (6,), "int64")
    assert info.classes == ("bad", "good") and len(info.sample_labels) == 24
    assert (bundle / "tokenizer.json").read_text() == run.info["data"]["tokenizer"]
    expected = evaluator.values([run.space.smallest()], split="test")[0]
    assert info.score.value == pytest.approx(expected, abs=5)
    for name in ("bundle.json", "README.md"):
        assert str(place) not in (bundle / name).read_text()
    card = (bundle / "README.md").read_text()
    assert "A classifier of texts with 2 classes" in card and "numpy and tokenizers" in card and "24 texts" in card
    assert "text-classification" in card and "- timm" not in card


def test_the_schema_of_bundles_has_them(bundle: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(__file__).parents[2] / "docs" / "bundle.schema.json").read_text())
    info = json.loads((bundle / "bundle.json").read_text())
    jsonschema.validate(info, schema)
    for key, value in (("tokenizer", "../tokenizer.json"), ("input_size", [3, 8, 8])):
        other = {**info, "preprocessing": {**info["preprocessing"], key: value}}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(other, schema)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_size": (0,)}, "input_size must be a number of tokens from 1"),
        ({"input_size": (4, 4)}, "input_size must be a number of tokens"),
        ({"pad_id": -1}, "pad_id must be 0 or more, not -1"),
    ],
)
def test_inputs_that_are_none(bundle: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(read_bundle(bundle).preprocessing, **change)


def test_a_bundle_is_verified(bundle: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.tsv"
    own.write_text("".join(f"{text}\t{label}\n" for text, label in sentences(16)))
    result = verify_bundle(bundle, images=own)
    assert result.ok, result.failed
    checks = {check.name: check for check in result.checks}
    assert checks["parity"].expected.startswith("outputs of 24 sample texts")
    assert checks["accuracy on texts"].found.endswith("of 16")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("own.tsv", "a text\tgreat\n", r"line 1 of .*unknown class 'great'"),
        ("own.csv", "text,label\n", "holds no texts"),
        ("own.csv", "text,label\na\n", "line 2 of .* has 1 fields"),
        ("own.parquet", "", "is no such file; give a .tsv or .csv file"),
    ],
)
def test_texts_of_ones_own_that_are_none(bundle: Path, tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        verify_bundle(bundle, images=tmp_path / name)


def test_columns_of_ones_own_texts_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text('id,label,text\n1,b,"x, y"\n')
    assert TextClassification().labelled(tmp_path / "own.csv", ["a", "b"]) == [("x, y", 1)]


@pytest.mark.parametrize("harm", ["changed", "missing", "added"])
def test_another_tokenizer_is_noticed(
    evaluator: SubnetEvaluator, run: Run, bundle: Path, tmp_path: Path, harm: str
) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    file = copy / "tokenizer.json"
    if harm == "changed":
        file.write_text(file.read_text().replace('"number"', '"NUMBER"'))
    elif harm == "missing":
        file.unlink()
    else:
        (copy / "vocab.txt").write_text("a")
    result = verify_bundle(copy)
    assert not result.ok
    assert {check.name for check in result.failed} == {"vocab.txt" if harm == "added" else "tokenizer.json"}


def test_a_bundle_may_not_point_elsewhere(bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    info = json.loads((copy / "bundle.json").read_text())
    info["preprocessing"]["tokenizer"] = "../tokenizer.json"
    (copy / "bundle.json").write_text(json.dumps(info))
    with pytest.raises(BundleError, match=r"tokenizer cannot be '../tokenizer.json'"):
        read_bundle(copy)


def test_the_program_of_a_bundle_says_what_evaluation_does(bundle: Path, tmp_path: Path) -> None:
    info = read_bundle(bundle)
    names = [str(bundle / name) for name in info.sample_names[:5]]
    texts = [Path(name).read_bytes().decode() for name in names]
    command = [sys.executable, "-I", str(bundle / "predict.py")]
    done = subprocess.run([*command, *names], cwd=tmp_path, capture_output=True, text=True, check=True)
    logits = np.load(bundle / "samples" / "outputs.npy")[:5].astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for line, name, row in zip(done.stdout.splitlines(), names, expected, strict=True):
        assert line == f"{name}\t{info.classes[row.argmax()]}\t{row.max():.4f}"
    subprocess.run([*command, *texts, "--csv", "found.csv"], cwd=tmp_path, capture_output=True, check=True)
    table = pd.read_csv(tmp_path / "found.csv")
    np.testing.assert_allclose(table.iloc[:, 2:], expected, atol=1e-5)
    assert table["text"].tolist() == texts and table.columns[2] == "probability of bad"
    failed = subprocess.run([*command, "none.txt"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert failed.returncode == 1 and "none.txt is no text that can be read" in failed.stderr


@pytest.mark.parametrize("free", [False, True])
def test_int8(evaluator: SubnetEvaluator, run: Run, tmp_path: Path, free: bool) -> None:
    device = Device(name="cpu-int8-1t", setting=Setting(runtime="onnxruntime", precision="int8"))
    bundle = make(evaluator, run, tmp_path / "bundle", device, dynamic_batch=free)
    info = read_bundle(bundle)
    assert info.model.quantization is not None and info.model.quantization.num_nodes > 4
    result = verify_bundle(bundle)
    assert result.ok, result.failed


@pytest.mark.alone
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_openvino(evaluator: SubnetEvaluator, run: Run, tmp_path: Path, precision: Any) -> None:
    pytest.importorskip("openvino")
    device = Device(name="openvino-1t", setting=Setting(runtime="openvino", precision=precision))
    bundle = make(evaluator, run, tmp_path / "bundle", device)
    result = verify_bundle(bundle)
    assert result.ok, result.failed
    names = [str(bundle / name) for name in read_bundle(bundle).sample_names[:4]]
    command = [sys.executable, "-I", str(bundle / "predict.py"), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    logits = np.load(bundle / "samples" / "outputs.npy")[:4]
    said = [line.split("\t")[1] for line in done.stdout.splitlines()]
    assert said == [("bad", "good")[row] for row in logits.argmax(axis=1)]


def test_fp16(evaluator: SubnetEvaluator, run: Run, tmp_path: Path) -> None:
    device = Device(name="cpu-fp16-1t", setting=Setting(runtime="onnxruntime", precision="fp16"))
    result = verify_bundle(make(evaluator, run, tmp_path / "bundle", device))
    assert result.ok, result.failed


@pytest.mark.slow
def test_executorch(evaluator: SubnetEvaluator, run: Run, tmp_path: Path) -> None:
    pytest.importorskip("executorch")
    device = Device(name="executorch-1t", setting=Setting(runtime="executorch"))
    result = verify_bundle(make(evaluator, run, tmp_path / "bundle", device))
    assert result.ok, result.failed


def test_what_takes_no_texts(evaluator: SubnetEvaluator, run: Run, tmp_path: Path) -> None:
    arch = run.space.smallest()
    with pytest.raises(UsageError, match="takes texts, which have no pixels"):
        make_artefact(evaluator, arch, DEVICE, options=ExportOptions(from_pixels=True))
    litert = Device(name="litert-1t", setting=Setting(runtime="litert"))
    with pytest.raises(TargetError, match="target litert takes floats or pixels, not int64 as text_classification"):
        make_artefact(evaluator, arch, litert)
    with pytest.raises(ElasticError, match="export subnets of text_classification one by one"):
        write_elastic(evaluator, {"small": arch}, tmp_path / "elastic", rng=np.random.default_rng(0))


def test_what_a_module_gives_may_be_nested() -> None:
    task, logits = TextClassification(), torch.tensor([[0.0, 1.0], [3.0, 1.0]])
    assert task.outputs({"logits": logits, "states": (torch.zeros(1),)}, None) is logits
    for given in (logits, {"logits": logits}, logits.numpy()):
        scorer = task.scorer(None)
        labels = torch.tensor([1, 1])
        scorer.update(given, labels.numpy() if isinstance(given, np.ndarray) else labels)
        assert scorer.value() == 50


# -- the page of a run -------------------------------------------------------------------------------------------------


def test_the_page_of_a_run_shows_texts(bundle: Path, run: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run.path, tmp_path / "run"))
    assert "What it says of texts" not in write_report(folder).read_text()
    for name in ("good", "damaged"):
        shutil.copytree(bundle, folder / "bundles" / name)
    (folder / "bundles" / "damaged" / "samples" / "outputs.npy").write_bytes(b"no")
    first = folder / "bundles" / "good" / "samples" / "000.txt"
    first.write_text("<b>number one</b> is fine")
    page = write_report(folder).read_text()
    assert "What it says of texts" in page and "cpu-1t, 2 ms" in page and "training texts" in page
    assert "<h1>transformers:tiny</h1>" in page
    assert "&lt;b&gt;number one&lt;/b&gt; is fine" in page and "<b>number" not in page
    assert '<span class="holds">✓ good</span>' in page or '<span class="missed">✗ good</span>' in page


def test_texts_that_most_get_wrong_come_first(tmp_path: Path) -> None:
    logits = np.array([[[3, 0], [0, 3], [3, 0]], [[3, 0], [0, 3], [0, 3]]], dtype=np.float32)
    bundles = []
    for number, outputs in enumerate(logits):
        samples = tmp_path / str(number) / "samples"
        samples.mkdir(parents=True)
        for row, text in enumerate(("right", "right too", "wrong once")):
            (samples / f"{row:03}.txt").write_text(text)
        np.save(samples / "outputs.npy", outputs)
        info = {"classes": ["no", "yes"], "sample_labels": [0, 1, 1]}
        bundles.append(Exhibit(name=f"cpu, {number} ms", folder=samples.parent, info=info))
    section = TextClassification().report_section(bundles)
    assert section is not None and section.head == ("Text of the test split", "Is", "cpu, 0 ms", "cpu, 1 ms")
    assert [row[0] for row in section.rows] == ["wrong once", "right", "right too"]
    assert "✗ no" in section.rows[0][2] and "✓ yes" in section.rows[0][3] and "95 %" in section.rows[0][3]
    assert "67 % (cpu, 0 ms), 100 % (cpu, 1 ms)" in section.note
