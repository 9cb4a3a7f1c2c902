"""What a user is told when a hub cannot be reached, or answers otherwise than hoped for."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from ofa.hub import HubError, pull, push
from ofa.hub.client import talking

from .conftest import BUNDLE
from .stand_in import TOKEN, Answer, Hub


def test_who_is_not_there(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for token in (TOKEN, "hf_of_yesterday"):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(HubError, match=f"no repository you/none at {hub.url} that you may see; check the name, or"):
            pull("you/none", tmp_path / "out")
    hub.add("you/theirs", BUNDLE)
    with pytest.raises(HubError, match=r"no repository you/theirs at .* that you may see"):  # private, and not for us
        pull("you/theirs", tmp_path / "out")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(HubError, match="you/theirs has no revision 'v2'; give a branch, tag or commit of it"):
        pull("you/theirs", tmp_path / "out", revision="v2")


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (Answer(403, X_Error_Code="GatedRepo"), "you/small is for those whom its owner lets in; ask at .*/you/small"),
        (Answer(401, {"error": "expired"}), r"\(status 401, expired\); log in again with `hf auth login`"),
        (Answer(429, {"error": "slow down"}), r"\(status 429, slow down\); try again later"),
        (Answer(500, b"x" * 1000), r"\(status 500, x{300}…\); try again later"),
        (Answer(200, b"<html>Welcome</html>"), "is no hub .*JSONDecodeError.*; check HF_ENDPOINT"),
        (Answer(200, {}), r"is no hub \(KeyError: 'id'\); check HF_ENDPOINT"),
        (Answer(200, []), "is no hub .*; check HF_ENDPOINT"),
    ],
    ids=str,
)
def test_other_answers(answer: Answer, match: str, hub: Hub, tmp_path: Path) -> None:
    hub.add("you/small", BUNDLE, private=False)
    hub.answers["/api/models/you/small"] = answer
    with pytest.raises(HubError, match=match):
        pull("you/small", tmp_path / "out")


def test_a_transfer_that_breaks_off(hub: Hub, tmp_path: Path) -> None:
    hub.add("you/small", BUNDLE, private=False)
    for answer in (Answer(403, {"error": "not this one"}), Answer(200, b"", X_Repo_Commit="0" * 40)):  # without ETag
        hub.answers["/you/small/resolve"] = answer
        with pytest.raises(HubError, match="you/small"):
            pull("you/small", tmp_path / "new" / "out")
        assert not (tmp_path / "new").exists()


def test_an_upload_that_breaks_off(hub: Hub, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    hub.large = (".onnx",)
    hub.answers["/objects"] = Answer(403, {"error": "quota"})
    with pytest.raises(HubError, match=r"refuses this for me/small \(status 403, quota\); use a token that may"):
        push(bundle, "me/small")
    assert set(hub.repositories["me/small"].files) == {".gitattributes"}


def test_offline(hub: Hub, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for call in (lambda: pull("me/small", tmp_path / "out"), lambda: push(bundle, "me/small")):
        with pytest.raises(HubError, match=f"me/small is at {hub.url}, where HF_HUB_OFFLINE forbids to go; unset it"):
            call()
    assert not hub.requests


def test_nobody_listens(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # discard
    with pytest.raises(HubError, match=r"127.0.0.1:9 cannot be reached \(ConnectError: .*\); check the network"):
        pull("me/small", tmp_path / "out")


def test_what_this_machine_refuses_is_not_the_hubs_fault() -> None:
    with pytest.raises(PermissionError), talking("me/small"):
        raise PermissionError(errno.EACCES, "Permission denied", "here")


def test_the_endpoint_is_the_environments_and_mistakes_load_nothing_heavy(hub: Hub, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom ofa import workflow\nfrom ofa.errors import OfaError\n"
        "for call in (lambda: workflow.pull('you/none', out='out'), lambda: workflow.push('.', 'me/x'),\n"
        "             lambda: workflow.pull('you', out='out'), lambda: workflow.pull('you/none', out='.')):\n"
        "    try:\n        call()\n    except OfaError as error:\n        print(error)\n"
        "print(*sorted({'torch', 'pandas', 'numpy', 'timm', 'onnx'} & set(sys.modules)))\n"
    )
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    environment = {**os.environ, **own, "PYTHONPATH": str(Path(__file__).parents[2])}
    (tmp_path / "mine").touch()
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True)
    unknown, neither, no_name, taken, heavy = done.stdout.split("\n")[:5]
    assert unknown.startswith(f"no repository you/none at {hub.url}") and "is neither a run nor" in neither
    assert "names no repository" in no_name and "is there already" in taken and heavy == ""
