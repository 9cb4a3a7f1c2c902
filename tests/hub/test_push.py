"""What is not pushed, and why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ofa.deploy import BundleError
from ofa.errors import UsageError
from ofa.files import FileFormatError
from ofa.hub import HubError, push
from ofa.training import RunError

from .conftest import LEFT, contents
from .stand_in import Hub


def test_other_folders(hub: Hub, run: Path, tmp_path: Path) -> None:
    (run / "supernet.json").unlink()
    for folder, reason in (
        (tmp_path / "nowhere", "there is no such folder"),
        (LEFT / "elastic", "it holds no bundle.json and no supernet.json"),
        (run, "but checkpoints of a training that has not ended"),
    ):
        with pytest.raises(HubError, match=f"{folder} is neither a run nor a bundle: .*{reason}; name what"):
            push(folder, "me/other")
    assert not hub.requests


def test_a_run_that_is_not_whole(hub: Hub, run: Path) -> None:
    front = run / "search" / "cpu-1t" / "front.csv"
    before = front.read_text()
    front.write_text(before.replace("arch,", "arc,", 1))
    with pytest.raises(HubError, match=rf"{run} is refused: front {front} lacks the columns arch"):
        push(run, "me/flowers")
    front.write_text(before)
    weights = run / "supernet.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(RunError, match=r"is truncated or not the file that supernet.json describes"):
        push(run, "me/flowers")
    (run / "supernet.json").write_text("{}")
    with pytest.raises(FileFormatError, match=r"supernet.json has format None"):
        push(run, "me/flowers")
    assert not hub.requests


@pytest.mark.parametrize("name", ["model.onnx", "samples/000.png", "predict.py", "README.md", "bundle.json"])
def test_a_bundle_that_was_changed(name: str, hub: Hub, bundle: Path) -> None:
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes(content.replace(b"{", b"{ ", 1) if name == "bundle.json" else content + b"\n")
    with pytest.raises(HubError, match=rf"{bundle} is not what bundle.json and SHA256SUMS say \({name}: "):
        push(bundle, "me/small")
    assert not hub.requests


def test_a_bundle_with_something_else_in_it(hub: Hub, bundle: Path) -> None:
    (bundle / "samples" / ".hidden").touch()
    with pytest.raises(HubError, match=r"\(samples/.hidden: not listed\)"):
        push(bundle, "me/small")
    (bundle / "bundle.json").write_text("{}")
    with pytest.raises(BundleError, match="has format None"):
        push(bundle, "me/small")


@pytest.mark.parametrize("license", ["", "MIT License", "mit\nmetrics: [all]", "-"])
def test_a_licence_that_would_break_the_header(license: str, run: Path) -> None:
    with pytest.raises(UsageError, match=r"is nothing that hubs call a licence; give one such as apache-2.0"):
        push(run, "me/flowers", license=license)


def test_a_licence_that_the_hub_does_not_know(hub: Hub, run: Path) -> None:
    with pytest.raises(HubError, match=r'does not take me/flowers, .*Invalid metadata in README.md.*"license" must be'):
        push(run, "me/flowers", license="mine")
    assert set(hub.repositories["me/flowers"].files) == {".gitattributes"}


def test_what_is_private_stays_so(hub: Hub, bundle: Path) -> None:
    hub.add("me/open", {}, private=False)
    hub.add("me/closed", {})
    with pytest.raises(HubError, match=r"me/open is public on http.*; say --public, change its settings"):
        push(bundle, "me/open")
    with pytest.raises(HubError, match=r"me/closed is private on http.*; leave --public out, change"):
        push(bundle, "me/closed", public=True)
    assert all(len(each.commits) == 1 for each in hub.repositories.values())
    push(bundle, "me/open", public=True)
    push(bundle, "me/closed")


def test_a_repository_of_something_else_is_left_alone(hub: Hub, run: Path, bundle: Path) -> None:
    hub.add("me/bert", {"README.md": b"# BERT", "config.json": b"{}", "model.safetensors": b""})
    with pytest.raises(HubError, match=r"me/bert holds something else \(config.json, model.safetensors\); it is left"):
        push(run, "me/bert")
    push(run, "me/flowers")
    with pytest.raises(HubError, match="me/flowers holds a run, not a bundle; it is left alone: give another name"):
        push(bundle, "me/flowers")
    hub.add("me/new", {"README.md": b"---\nlicense: mit\n---\n", "LICENSE": b"MIT"})  # as the hub's form makes one
    push(bundle, "me/new")
    assert hub.repositories["me/new"].files["LICENSE"] == b"MIT"


def test_whom_the_hub_does_not_let_in(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HubError, match=r"refuses this for you/flowers \(status 403, .*rights.*\); use a token that"):
        push(run, "you/flowers")
    monkeypatch.setenv("HF_TOKEN", "hf_of_yesterday")
    with pytest.raises(HubError, match=r"status 401, Invalid username.*\); log in again with `hf auth login`, or set"):
        push(run, "me/flowers")
    hub.requests.clear()
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(HubError, match=f"you are not logged in at {hub.url}; run `hf auth login`, or set HF_TOKEN"):
        push(run, "me/flowers")
    assert not hub.requests and not hub.repositories


def test_somebody_else_pushes_meanwhile(hub: Hub, bundle: Path) -> None:
    there = hub.add("me/small", contents(bundle))
    (bundle / "README.md").read_text()
    hub.before_commit = lambda: there.commit({**there.files, "LICENSE": b"MIT"})
    with pytest.raises(HubError, match=r"status 412, A commit has happened since.*; it has changed meanwhile: do it"):
        push(bundle, "me/small")
    assert set(there.files) == {*contents(bundle), "LICENSE"}


def test_code_is_named_and_not_sent(hub: Hub, run: Path) -> None:
    info = json.loads((run / "supernet.json").read_text())
    info["model"]["name"] = info["recipe"]["model"]["name"] = "/home/ann/nets/mine.py:net"
    info["recipe"]["strategy"]["loss"] = {"name": "nets/loss.py:Loss"}
    (run / "supernet.json").write_text(json.dumps(info))
    shutil.copy(__file__, run / "mine.py")
    pushed = push(run, "me/flowers")
    assert pushed.code == ("/home/ann/nets/mine.py", "nets/loss.py") and "mine.py" in pushed.left_out
    there = hub.repositories["me/flowers"].files
    assert not any(name.endswith(".py") for name in there)
    assert b"Needs code that is not here | `mine.py`, `loss.py`" in there["README.md"]
