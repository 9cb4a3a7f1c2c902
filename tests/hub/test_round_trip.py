"""What is pushed is what is pulled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants

from ofa import hub as hubs
from ofa.deploy import read_bundle
from ofa.deploy.verify import check_files
from ofa.errors import UsageError
from ofa.hardware import Device
from ofa.hub import HubError
from ofa.setting import Setting
from ofa.training import Run
from ofa.training.run import portable
from ofa.workflow import open_table

from .conftest import contents
from .stand_in import Hub

DEVICE = Device(name="cpu-1t", setting=Setting(runtime="onnxruntime"))
SENT = [
    "README.md",
    "latency_tables/cpu-1t/test_efficientnet-772d37.csv",
    "latency_tables/cpu-1t/test_efficientnet-772d37.json",
    "latency_tables/cpu-1t/test_efficientnet-772d37.subnets.csv",
    "metrics.csv",
    "search/cpu-1t/front.csv",
    "search/cpu-1t/selected.json",
    "search/evaluations.csv",
    "supernet.json",
    "supernet.safetensors",
]


def test_a_run(hub: Hub, run: Path, tmp_path: Path) -> None:
    pushed = hubs.push(run, "me/flowers")
    there = hub.repositories["me/flowers"]
    assert there.private and sorted(there.files) == [".gitattributes", *SENT]
    assert pushed.revision == there.head and len(there.commits) == 2  # what made it, and all of it
    assert {name: len(there.files[name]) for name in SENT} == dict(sorted(pushed.files.items()))
    left = ("bundles/", "checkpoints/", "report.html", "search/notes.txt", "tensorboard/")
    assert (pushed.kind, pushed.left_out, pushed.code) == ("run", left, ())
    assert pushed.url == f"{hub.url}/me/flowers"

    pulled = hubs.pull("me/flowers", tmp_path / "new" / "flowers")
    out = tmp_path / "new" / "flowers"
    assert (pulled.kind, pulled.path, pulled.revision, pulled.left_out) == ("run", out, pushed.revision, ())
    expected = {name: content for name, content in contents(run).items() if name in SENT}
    assert contents(out) == expected
    assert [path.name for path in out.parent.iterdir()] == ["flowers"]


def test_a_pulled_run_is_a_run(hub: Hub, run: Path, tmp_path: Path) -> None:
    hubs.push(run, "me/flowers")
    out = hubs.pull("me/flowers", tmp_path / "flowers").path
    here, there = Run.open(run), Run.open(out)
    assert there.space_name == here.space_name
    weights, again = (each.supernet().model.state_dict() for each in (here, there))
    assert all(torch.equal(tensor, again[name]) for name, tensor in weights.items())
    table = open_table(there, DEVICE, out / "latency_tables", any_machine=True)
    selected = json.loads((out / "search" / "cpu-1t" / "selected.json").read_text())
    pick = selected["picks"][0]
    assert table.predict_ms([there.space.arch(pick["arch"])])[0] <= pick["budget_ms"]


def test_a_bundle(hub: Hub, bundle: Path, tmp_path: Path) -> None:
    pushed = hubs.push(bundle, "me/small", public=True)
    there = hub.repositories["me/small"]
    assert not there.private and (pushed.kind, pushed.left_out) == ("bundle", ())
    assert set(there.files) == {*contents(bundle), "README.bundle.md", ".gitattributes"}
    assert there.files["README.md"] == there.files["README.bundle.md"] == (bundle / "README.md").read_bytes()

    # The owner writes on the page of the repository.
    there.commit({**there.files, "README.md": b"---\nlicense: mit\n---\n# Mine\n", "LICENSE": b"MIT"})
    pulled = hubs.pull("me/small", tmp_path / "small")
    assert (pulled.kind, pulled.revision, pulled.left_out) == ("bundle", there.head, ())
    assert contents(pulled.path) == contents(bundle)
    assert all(check.ok for check in check_files(pulled.path, read_bundle(pulled.path)))


def test_a_bundle_that_was_uploaded_by_other_means(hub: Hub, bundle: Path, tmp_path: Path) -> None:
    hub.add("you/small", {**contents(bundle), ".gitattributes": b""}, private=False)
    assert contents(hubs.pull("you/small", tmp_path / "small").path) == contents(bundle)


def test_large_files_go_their_own_way(hub: Hub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # which is no protocol of HTTP
    hub.large = (".safetensors", ".csv")
    hubs.push(run, "me/flowers")
    assert (run / "supernet.safetensors").read_bytes() in hub.objects.values()
    out = hubs.pull("me/flowers", tmp_path / "flowers").path
    assert contents(out) == {name: content for name, content in contents(run).items() if name in SENT}


def test_pushed_again_the_repository_holds_what_the_folder_holds(hub: Hub, run: Path, tmp_path: Path) -> None:
    first = hubs.push(run, "me/flowers")
    there = hub.repositories["me/flowers"]
    there.commit({**there.files, "LICENSE": b"MIT", "notes/figure.png": b"mine"})
    same = hubs.push(run, "me/flowers")
    assert same.revision == there.head and len(there.commits) == 3

    (run / "search" / "cpu-1t").rename(run / "search" / "board")
    again = hubs.push(run, "me/flowers")
    assert again.revision == there.head and len(there.commits) == 4
    assert "search/board/front.csv" in there.files and "search/cpu-1t/front.csv" not in there.files
    assert there.files["LICENSE"] == b"MIT" and there.files["notes/figure.png"] == b"mine"  # which are not ours

    now = hubs.pull("me/flowers", tmp_path / "now")
    assert (tmp_path / "now" / "search" / "board").is_dir() and now.left_out == ("notes/figure.png",)
    hubs.pull("me/flowers", tmp_path / "then", revision=first.revision)
    assert (tmp_path / "then" / "search" / "cpu-1t").is_dir()


def test_the_card_says_what_hubs_read(hub: Hub, run: Path, bundle: Path) -> None:
    hubs.push(run, "me/flowers")
    hubs.push(bundle, "me/small", license="apache-2.0")
    cards = {name: hub.repositories[name].files["README.md"].decode() for name in ("me/flowers", "me/small")}
    of_run, of_bundle = (yaml.safe_load(card.split("---\n")[1]) for card in cards.values())
    assert (of_run["library_name"], of_run["metrics"]) == ("ofa-toolkit", ["accuracy"]) and "license" not in of_run
    assert {"once-for-all", "supernet", "timm"} <= set(of_run["tags"])
    assert "ofa pull me/flowers --out runs/flowers" in cards["me/flowers"]
    assert of_bundle.pop("license") == "apache-2.0" and "yours to choose" not in cards["me/small"]
    own = (bundle / "README.md").read_text()
    assert of_bundle == yaml.safe_load(own.split("---\n")[1])
    assert hub.repositories["me/small"].files["README.bundle.md"] == own.encode()


def test_what_the_library_warns_of_is_told_once_and_it_draws_nothing(
    hub: Hub, run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    hubs.push(run, "me/flowers", progress=lambda done, total, what: told.append(what))
    hubs.pull("me/flowers", tmp_path / "flowers", progress=lambda done, total, what: told.append(what))
    sent, warning, fetched = told
    assert sent.startswith("sending 10 files, ") and sent.endswith(" to me/flowers, private")
    assert "no license in the card" in warning and fetched.startswith("fetching 9 files, ")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("repo", ["flowers", "me/", "me/a/b", "me/../you", "me/flowers.git", "me/flo wers", ""])
def test_names_that_no_repository_has(repo: str, run: Path, tmp_path: Path) -> None:
    for call in (lambda: hubs.push(run, repo), lambda: hubs.pull(repo, tmp_path / "out")):
        with pytest.raises(UsageError, match="names no repository; say OWNER/NAME"):
            call()


def test_no_folder_of_this_machine_is_named(hub: Hub, run: Path, tmp_path: Path) -> None:
    info = json.loads((run / "supernet.json").read_text())
    info["data"]["root"] = info["recipe"]["data"]["root"] = "/home/ann/secret/photos"
    info["recipe"]["model"]["weights"] = "~/secret/before.safetensors"
    info["recipe"]["strategy"]["teacher"] = "secret/../runs/teacher"
    info["data"]["classes"][0] = "/zero"
    (run / "supernet.json").write_text(json.dumps(info))
    hubs.push(run, "me/flowers")
    sent = json.loads(hub.repositories["me/flowers"].files["supernet.json"])
    assert sent["data"]["root"] == sent["recipe"]["data"]["root"] == "photos"
    assert sent["recipe"]["model"]["weights"] == "before.safetensors"
    assert sent["recipe"]["strategy"]["teacher"] == "secret/../runs/teacher"  # which says nothing of this machine
    assert sent["data"]["classes"] == info["data"]["classes"]
    assert not any(b"/home/ann" in content for content in hub.repositories["me/flowers"].files.values())
    assert Run.open(hubs.pull("me/flowers", tmp_path / "out").path).recipe.data.root == "photos"


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("/home/ann/nets/mine.py:net", "mine.py:net"),
        ("~/nets/mine.py:net", "mine.py:net"),
        ("nets/mine.py:net", "nets/mine.py:net"),
        ("transformers:/home/ann/bert/", "transformers:bert"),
        ("transformers:bert", "transformers:bert"),
        ("smp:unet/tu-resnet18", "smp:unet/tu-resnet18"),
    ],
)
def test_models_keep_their_names(name: str, left: str) -> None:
    info = {"model": {"name": name}, "recipe": {"model": {"name": name}, "task": {"tasks": [name]}}, "data": {}}
    expected = {"model": {"name": left}, "recipe": {"model": {"name": left}, "task": {"tasks": [left]}}, "data": {}}
    assert portable(info) == expected


def test_nothing_is_pulled_by_halves(hub: Hub, run: Path, tmp_path: Path) -> None:
    hubs.push(run, "me/flowers")
    hub.sizes["metrics.csv"] = 3
    with pytest.raises(HubError, match=r"what arrived is not what .* lists; try again"):
        hubs.pull("me/flowers", tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()
