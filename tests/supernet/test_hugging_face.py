"""Classifiers of texts from transformers: from scratch, from a folder, with its weights."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ofa.inputs import Inputs, InputSpec
from ofa.space import SpaceError
from ofa.supernet import create_supernet, sort_channels
from ofa.supernet.hugging_face import TextModelError
from ofa.supernet.model_sources import name_in_files, public_name
from ofa.supernet.presets import create_model
from ofa.supernet.weights import WeightsError

transformers = pytest.importorskip("transformers")

TINY = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def tokens(num: int = 12, batch: int = 3) -> Inputs:
    """Texts of different lengths, one without padding."""
    ids = torch.randint(1, 50, (batch, num), generator=torch.Generator().manual_seed(0))
    for row in range(1, batch):
        ids[row, num - 3 * row :] = 0
    return Inputs(input_ids=ids, attention_mask=(ids != 0).long())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A configuration with the weights of an encoder alone, as sentence encoders are published."""
    config = transformers.BertConfig(**TINY, max_position_embeddings=24)
    torch.manual_seed(0)
    encoder = transformers.BertModel(config)
    config.save_pretrained(tmp_path / "tiny")
    save_file(encoder.state_dict(), tmp_path / "tiny" / "model.safetensors")
    return tmp_path / "tiny"


def test_a_small_bert_is_elastic_in_all_that_it_has() -> None:
    supernet = create_supernet(
        "transformers:bert", num_classes=2, depth=["50%", "100%"], width=["50%", "100%"], tokens=[8, 16]
    ).eval()
    assert {dim.kind for dim in supernet.dims} == {"depth", "heads", "mlp_ratio", "width"}
    assert supernet.space["tokens"].values == (8, 16)
    inputs = tokens(16)
    with torch.no_grad():
        whole = inputs.call(supernet.model)[0]
        torch.testing.assert_close(supernet(**inputs.kwargs, arch=supernet.space.largest())[0], whole)
        for arch in supernet.space.to_archs(supernet.space.sample_population(3, np.random.default_rng(0))):
            active = supernet(**inputs.kwargs, arch=arch)[0]
            sized = supernet.inputs.resize(inputs, supernet.inputs.sizes(arch))
            torch.testing.assert_close(sized.call(supernet.extract(arch))[0], active)


def test_it_is_looked_at_without_values() -> None:
    with torch.device("meta"):
        outline = create_supernet("transformers:bert", num_classes=2)
    assert not outline.analysis.trace.has_values
    assert outline.space["tokens"].values == (64,)


def test_one_from_a_function_of_the_users_too(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from transformers import BertConfig, BertForSequenceClassification\n"
        "def net(num_classes):\n"
        f"    return BertForSequenceClassification(BertConfig(**{TINY}, num_labels=num_classes))\n"
    )
    with torch.device("meta"):
        outline = create_supernet(f"{tmp_path / 'net.py'}:net", num_classes=2, inputs=InputSpec.texts(8))
    assert not outline.analysis.trace.has_values and outline.space["tokens"].values == (8,)


def test_values_count_where_there_are_some() -> None:
    """A mask is left out where it says nothing, as transformers does, and never where there is padding."""
    create_model("transformers:bert", num_classes=2)
    mask = transformers.masking_utils.ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]
    ones = torch.ones(1, 4, dtype=torch.int64)
    settings = {"batch_size": 1, "q_length": 4, "kv_length": 4, "allow_is_bidirectional_skip": True}
    settings["mask_function"] = transformers.masking_utils.bidirectional_mask_function
    assert mask(attention_mask=ones, **settings) is None
    assert mask(attention_mask=ones.tril(-1), **settings) is not None
    assert mask(attention_mask=ones.to("meta"), device="meta", **settings).shape == (1, 1, 4, 4)


def test_masks_that_are_wrapped_already(monkeypatch: pytest.MonkeyPatch) -> None:
    """As some versions of transformers do, which warn of arguments so."""
    masking = transformers.masking_utils
    decorated = functools.wraps(masking.sdpa_mask)(lambda *args, **settings: masking.sdpa_mask(*args, **settings))
    monkeypatch.setitem(masking.AttentionMaskInterface._global_mapping, "sdpa", decorated)
    assert not create_supernet("transformers:bert", num_classes=2).analysis.trace.has_values


def test_padding_changes_nothing() -> None:
    model = create_model("transformers:bert", num_classes=2).eval()
    ids = torch.randint(1, 50, (1, 5))
    with torch.no_grad():
        short = model(input_ids=ids, attention_mask=torch.ones_like(ids))[0]
        padded = torch.nn.functional.pad(ids, (0, 4))
        torch.testing.assert_close(model(input_ids=padded, attention_mask=(padded != 0).long())[0], short)


def test_pretrained_weights_are_those_of_the_folder(folder: Path) -> None:
    model: Any = create_model(f"transformers:{folder}", num_classes=3, pretrained=True).eval()
    theirs = transformers.BertModel.from_pretrained(folder).eval()
    inputs = tokens(12)
    with torch.no_grad():
        ours = model.bert(**inputs.kwargs).last_hidden_state
        torch.testing.assert_close(ours, theirs(**inputs.kwargs).last_hidden_state)
        assert inputs.call(model)[0].shape == (3, 3)


@pytest.mark.parametrize("how", ["l1", "activations"])
def test_sorting_by_importance_changes_nothing_of_the_whole(folder: Path, how: str) -> None:
    supernet = create_supernet(f"transformers:{folder}", num_classes=3, pretrained=True, inputs=InputSpec.texts(12))
    inputs = tokens(12)
    with torch.no_grad():
        before = inputs.call(supernet.eval().model)[0]
        kept = {name: tensor.clone() for name, tensor in supernet.model.state_dict().items()}
        sort_channels(supernet, inputs=[inputs.kwargs] if how == "activations" else None)
        torch.testing.assert_close(inputs.call(supernet.model)[0], before)
        assert any(not torch.equal(tensor, kept[name]) for name, tensor in supernet.model.state_dict().items())


def test_a_classifier_of_the_folder_is_taken(folder: Path) -> None:
    model = create_model(f"transformers:{folder}", num_classes=3)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    same = create_model(f"transformers:{folder}", num_classes=3, pretrained=True, needs_classifier=True)
    for name, tensor in same.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name])
    other = create_model(f"transformers:{folder}", num_classes=4, pretrained=True)
    assert other.state_dict()["classifier.weight"].shape == (4, 32)
    with pytest.raises(WeightsError, match=r"'classifier.bias' is \(4,\) in the model and \(3,\)"):
        create_model(f"transformers:{folder}", num_classes=4, pretrained=True, needs_classifier=True)


def test_names_tell_no_folders(folder: Path) -> None:
    assert name_in_files(f"transformers:{folder}") == "transformers-tiny"
    assert public_name(f"transformers:{folder}/") == "transformers:tiny"
    assert name_in_files("transformers:bert") == "transformers-bert"


def test_other_families(tmp_path: Path) -> None:
    """They have a mask and classifiers of other names; positions of some begin behind that of padding."""
    for kind in ("DistilBert", "Roberta", "Electra"):
        config = getattr(transformers, f"{kind}Config")(**_tiny_of(kind), max_position_embeddings=24)
        config.save_pretrained(tmp_path / kind)
        supernet = create_supernet(
            f"transformers:{tmp_path / kind}", num_classes=2, inputs=InputSpec.texts(12), drop_rate=0.2
        ).eval()
        assert {"heads", "mlp_ratio"} <= {dim.kind for dim in supernet.dims}, kind
        inputs, arch = tokens(12), supernet.space.smallest()
        with torch.no_grad():
            torch.testing.assert_close(inputs.call(supernet.extract(arch))[0], supernet(**inputs.kwargs, arch=arch)[0])


def _tiny_of(kind: str) -> dict[str, int]:
    if kind == "DistilBert":
        return {"vocab_size": 50, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
    return TINY


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("nowhere", {}, r"unknown model of transformers 'nowhere'.*or a folder with a config.json; there is none in"),
        ("bert", {"pretrained": True}, "transformers:bert has no pretrained weights; use model.pretrained=false"),
        ("bert", {"in_chans": 1}, "takes texts"),
        ("bert", {"drop_path_rate": 0.1}, "no stochastic depth"),
    ],
)
def test_what_cannot_be_had(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TextModelError, match=message):
        create_model(f"transformers:{name}", **settings)


def test_folders_that_do_not_hold_what_they_should(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"no")
    with pytest.raises(WeightsError, match=r"model.safetensors cannot be read"):
        create_model(f"transformers:{folder}", num_classes=2, pretrained=True)
    (folder / "model.safetensors").unlink()
    with pytest.raises(TextModelError, match=r"has no model.safetensors or pytorch_model.bin"):
        create_model(f"transformers:{folder}", num_classes=2, pretrained=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "nothing"}))
    with pytest.raises(TextModelError, match=r"config.json is no configuration that transformers"):
        create_model(f"transformers:{folder}", num_classes=2)


def test_images_have_no_tokens_and_texts_no_resolution() -> None:
    with pytest.raises(SpaceError, match="unknown elastic choice 'tokens'"):
        create_supernet("ofa_mobilenetv3_tiny", tokens=[8])
    with pytest.raises(SpaceError, match="unknown elastic choice 'resolution'"):
        create_supernet("transformers:bert", resolution=[8])
