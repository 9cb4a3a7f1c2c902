"""The schema of bundle.json in the docs says what bundles are, and no more."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from ofa.config import ConfigError
from ofa.data import Preprocessing
from ofa.deploy import TARGETS, ExportResult
from ofa.deploy.bundle import FORMATS, BundleInfo, FileScore, Latency, ModelInfo, Parity
from ofa.deploy.targets import Quantization
from ofa.metrics import METRICS
from ofa.tasks import Classification
from ofa.tasks.speech import SoundPreprocessing
from ofa.tasks.text_feed import TextPreprocessing

jsonschema = pytest.importorskip("jsonschema")

SCHEMA: dict[str, Any] = json.loads((Path(__file__).parents[2] / "docs/bundle.schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
DESCRIBED = {
    BundleInfo: SCHEMA["properties"],
    Latency: SCHEMA["properties"]["latency_ms"]["properties"],
    FileScore: SCHEMA["$defs"]["score"]["properties"],
    Parity: SCHEMA["properties"]["parity"]["properties"],
    ModelInfo: SCHEMA["$defs"]["model"]["properties"],
    Quantization: SCHEMA["$defs"]["quantization"]["properties"],
    Preprocessing: SCHEMA["$defs"]["preprocessing"]["properties"],
    TextPreprocessing: SCHEMA["$defs"]["textPreprocessing"]["properties"],
    SoundPreprocessing: SCHEMA["$defs"]["soundPreprocessing"]["properties"],
}


@pytest.fixture
def info(exported: ExportResult) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((exported.path / "bundle.json").read_text(encoding="utf-8"))
    return found


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("described", DESCRIBED, ids=lambda described: described.__name__)
def test_its_keys_are_those_that_are_written(described: type) -> None:
    names = {field.name for field in fields(described)}
    if described is BundleInfo:  # a score is called after its metric
        names = names - {"score"} | {"format"} | {metric for metric in METRICS}
    assert set(DESCRIBED[described]) == names


def test_its_targets_are_those_that_there_are() -> None:
    assert SCHEMA["properties"]["format"] == {"const": FORMATS[-1]}
    forms = {form["properties"]["target"]["const"]: form["properties"] for form in SCHEMA["$defs"]["model"]["oneOf"]}
    assert list(forms) == list(TARGETS)
    for name, target in TARGETS.items():
        form = forms[name]
        assert (form["runtime"]["enum"], form["precision"]["enum"]) == (list(target.runtimes), list(target.precisions))
        assert form["files"]["const"] == list(target.files)


def test_an_exported_bundle_is_valid(info: dict[str, Any]) -> None:
    VALIDATOR.validate(info)


PLACES = [(), *((name,) for name in ("latency_ms", "top1_percent", "parity", "model", "preprocessing", "provenance"))]


@pytest.mark.parametrize("place", PLACES, ids=".".join)
def test_one_without_a_key_is_not(info: dict[str, Any], place: tuple[str, ...]) -> None:
    for name in list(at(info, place)):
        value = at(info, place).pop(name)
        assert not VALIDATOR.is_valid(info), name
        at(info, place)[name] = value
    VALIDATOR.validate(info)


@pytest.mark.parametrize("name", get_args(get_type_hints(Classification)["judge_by"]))
def test_a_score_goes_by_the_name_of_its_metric(exported: ExportResult, name: str) -> None:
    info = dataclasses.replace(exported.info, task=Classification(judge_by=name))  # type: ignore[arg-type]
    written = json.loads(json.dumps({"format": FORMATS[-1], **info.to_json()}))
    VALIDATOR.validate(written)
    assert [key for key in METRICS if key in written] == [name]
    assert ("task" in written) == (name != "top1_percent")
    del written["format"]
    assert BundleInfo.from_json(written, where="here") == info
    with pytest.raises(ConfigError, match="here: unknown key 'score'"):
        BundleInfo.from_json({**written, "score": written[name]}, where="here")


def at(info: dict[str, Any], place: tuple[str, ...]) -> dict[str, Any]:
    for name in place:
        info = info[name]
    return info


def set_to(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(info: dict[str, Any]) -> None:
        at(info, path[:-1])[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        set_to("note", value="an extra key"),
        set_to("latency_ms", "mean", value=1.0),
        set_to("model", "opset", value=18),
        set_to("preprocessing", "crop", value=1.0),
        set_to("format", value=1),
        set_to("budget_ms", value="4.2"),
        set_to("budget_ms", value=0),
        set_to("arch", value=[]),
        set_to("arch", "resolution", value=16.5),
        set_to("classes", value="0123456789"),
        set_to("latency_ms", "p50", value=None),
        set_to("latency_ms", "quantiles", value=[1.0, 2.0]),
        set_to("top1_percent", "value", value=101),
        set_to("parity", "reference", value="itself"),
        set_to("model", "batch", value=0),
        set_to("model", "target", value="tensorrt"),
        set_to("model", "files", value=["model.onnx", "model.bin"]),
        set_to("model", "precision", value="int8"),
        set_to("model", "quantization", value={}),
        set_to("preprocessing", "layout", value="NHWC"),
        set_to("preprocessing", "resize", value=[]),
        set_to("provenance", "weights_sha256", value="0" * 63),
        set_to("sample_labels", value=[0.5]),
        set_to("files", "model.onnx", value="0" * 64),
    ],
)
def test_a_changed_one_is_not(info: dict[str, Any], change: Callable[[dict[str, Any]], None]) -> None:
    change(info)
    assert not VALIDATOR.is_valid(info)
