"""Models of torchvision, and of functions in files of the user's."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.error import URLError

import joblib
import pytest
import torch
import torchvision
from torch import Tensor, nn

from ofa.hardware.timed_models import export_model
from ofa.setting import Setting
from ofa.supernet import create_supernet
from ofa.supernet.inspect import inspect
from ofa.supernet.model_sources import (
    ModelCodeError,
    UnknownModelError,
    is_source,
    name_in_files,
    public_name,
)
from ofa.supernet.presets import create_model
from ofa.supernet.weights import WeightsError
from tests.supernet.helpers import create_without_weights, make_images, randomise

NETWORKS = Path(__file__).parent / "networks.py"


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["torchvision:mobilenet_v3_small", f"{NETWORKS}:net"])
def test_a_model_from_elsewhere_becomes_a_supernet(name: str) -> None:
    with torch.random.fork_rng():
        supernet = create_supernet(name, num_classes=7, resolution=[16, 32])
    randomise(supernet.model, size=32)
    assert {dim.kind for dim in supernet.dims} >= {"kernel", "expand"}
    for arch in (supernet.space.largest(), supernet.space.smallest()):
        given = make_images(supernet, arch)
        logits = supernet(given, arch)
        assert logits.shape == (2, 7)
        torch.testing.assert_close(supernet.extract(arch)(given), logits)
        if arch == supernet.space.largest():
            torch.testing.assert_close(supernet.model(given), logits)


@pytest.mark.parametrize("name", ["torchvision:resnet18", f"{NETWORKS}:net"])
def test_it_is_inspected_without_weights(name: str) -> None:
    supernet = create_without_weights(name, num_classes=7)
    assert all(parameter.is_meta for parameter in supernet.model.parameters())
    model = create_model(name, num_classes=7)
    assert inspect(supernet).largest.params == sum(parameter.numel() for parameter in model.parameters())


def test_unknown_sources_and_models_name_the_nearest() -> None:
    with pytest.raises(UnknownModelError, match="unknown model of torchvision 'resnet19'; did you mean 'resnet1"):
        create_model("torchvision:resnet19")
    with pytest.raises(UnknownModelError, match="unknown source 'torchvison'; did you mean 'torchvision'"):
        create_model("torchvison:resnet18")
    assert [is_source(name) for name in ("resnet18.a1_in1k", "a.py:b")] == [False, True]


# -- torchvision -------------------------------------------------------------------------------------------------------


def test_settings_reach_torchvision_or_are_refused() -> None:
    with torch.device("meta"):
        model = create_model("torchvision:efficientnet_b0", drop_rate=0.4, drop_path_rate=0.3)
        assert 0.4 in {module.p for module in model.modules() if isinstance(module, nn.Dropout)}
        rates = [each.p for each in model.modules() if isinstance(each, torchvision.ops.StochasticDepth)]
        assert 0.25 < max(rates) < 0.3
        for settings, message in (
            ({"drop_rate": 0.1}, "torchvision cannot build 'resnet18' with num_classes=1000, dropout=0.1: .*'dropout'"),
            ({"in_chans": 1}, "its images have 3 channels, not in_chans=1"),
        ):
            with pytest.raises(UnknownModelError, match=message):
                create_model("torchvision:resnet18", **settings)  # type: ignore[arg-type]


def test_torchvision_gives_one_output_in_training(images: Tensor) -> None:
    with torch.random.fork_rng():
        model = create_model("torchvision:googlenet", num_classes=3).train()
    assert model(torch.cat([images, images])).shape == (4, 3)


def test_weights_of_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = torchvision.models.MobileNet_V3_Small_Weights
    with torch.random.fork_rng():
        published = torchvision.models.mobilenet_v3_small().state_dict()
    monkeypatch.setattr(kind, "get_state_dict", lambda *_, **__: published)
    same = create_model("torchvision:mobilenet_v3_small", pretrained=True, needs_classifier=True).state_dict()
    assert all(map(torch.equal, published.values(), same.values()))
    other = create_model("torchvision:mobilenet_v3_small", num_classes=7, pretrained=True).state_dict()
    misfits = [name for name, tensor in published.items() if not torch.equal(tensor, other[name])]
    assert misfits == ["classifier.3.weight", "classifier.3.bias"]
    with pytest.raises(WeightsError, match=r"'classifier.3.bias' is \(7,\) in the model and \(1000,\)"):
        create_model("torchvision:mobilenet_v3_small", num_classes=7, pretrained=True, needs_classifier=True)

    def refuse(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(kind, "get_state_dict", refuse)
    with pytest.raises(WeightsError, match=r"cannot be fetched .*no network.*put the file mobilenet_v3_small-\w+.pth"):
        create_model("torchvision:mobilenet_v3_small", pretrained=True)


# -- a file ------------------------------------------------------------------------------------------------------------


def test_settings_reach_the_function_or_are_refused() -> None:
    model = create_model(f"{NETWORKS}:net_with_everything", num_classes=3, in_chans=1, drop_rate=0.2)
    assert (model.stem.in_channels, model.head.out_features, model.drop.p) == (1, 3, 0.2)  # type: ignore[union-attr]
    assert create_supernet(f"{NETWORKS}:Net", in_chans=1).input_shape({"resolution": 32}) == (1, 32, 32)  # type: ignore[arg-type]
    assert create_model(f"{NETWORKS}:of_ten_classes", num_classes=3).head.out_features == 10  # type: ignore[union-attr]
    for name, settings, message in (
        ("net", {"in_chans": 1}, "net in .*networks.py has no argument in_chans, so in_chans=1 cannot be had"),
        ("net", {"drop_rate": 0.1}, "no argument drop_rate"),
        ("Net", {"pretrained": True}, "no argument pretrained"),
        ("asks_for_more", {}, r"cannot be called as asks_for_more\(num_classes=1000\): .*'width'"),
    ):
        with pytest.raises(ModelCodeError, match=message):
            create_model(f"{NETWORKS}:{name}", **settings)  # type: ignore[arg-type]


def test_a_path_is_relative_to_the_current_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(NETWORKS.parent)
    before = list(sys.path)
    assert type(create_model("networks.py:net")) is type(create_model(f"{NETWORKS}:net"))
    assert sys.path == before
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownModelError, match=f"there is no file networks.py in {tmp_path}"):
        create_model("networks.py:net")


def test_what_is_wrong_with_a_file_is_said_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    for text, function, error, message in (
        ("", "", UnknownModelError, "must say which function of the file makes it"),
        (
            "def make():\n    pass\n",
            "mke",
            UnknownModelError,
            "unknown function of .*mine.py 'mke'; did you mean 'make'",
        ),
        ("x = 1\nx y\n", "make", ModelCodeError, r"mine.py:2: the file raises SyntaxError: invalid syntax"),
        ("\n\nimport nowhere_to_be_found\n", "make", ModelCodeError, "mine.py:3: .*ModuleNotFoundError.*PYTHONPATH"),
        ("def make(n):\n    pass\n", "make", ModelCodeError, r"cannot be called as make\(\): .*'n'"),
        ("def make():\n    return 3\n", "make", ModelCodeError, "gave 3 of type int, not a torch.nn.Module"),
    ):
        file.write_text(text)
        with pytest.raises(error, match=message):
            create_model(f"{file}:{function}" if function else str(file))
    with pytest.raises(
        ModelCodeError, match=r"networks.py:\d+: fails\(num_classes=3\) raises RuntimeError: no network of 3"
    ):
        create_model(f"{NETWORKS}:fails", num_classes=3)
    assert list(tmp_path.iterdir()) == [file]  # nothing compiled lies beside it


def test_code_that_reads_values_is_inspected_too() -> None:
    state = torch.get_rng_state()
    supernet = create_without_weights(f"{NETWORKS}:reads_values", num_classes=3)
    assert all(parameter.is_meta for parameter in supernet.model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_other_processes_get_the_model() -> None:
    supernet = create_supernet(f"{NETWORKS}:net", num_classes=3, resolution=[16]).eval()
    module = supernet.extract(supernet.space.smallest())
    model = (module, (3, 16, 16), Setting(runtime="onnxruntime"))
    (there,) = joblib.Parallel(n_jobs=2)([joblib.delayed(export_model)(*model)])
    assert isinstance(there, bytes)


def test_names(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("a")
    assert name_in_files("resnet18.a1_in1k") == "resnet18.a1_in1k"
    assert name_in_files("torchvision:resnet18") == "torchvision-resnet18"
    assert name_in_files(f"{file}:make") == "make-ca9781"  # sha256 of "a"
    assert name_in_files("gone/mine.py:make", "123456789") == "make-123456"
    assert public_name(f"{file}:make") == "mine.py:make"
    assert public_name("torchvision:resnet18") == "torchvision:resnet18"
