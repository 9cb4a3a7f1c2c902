"""What comes from a hub is anybody's: what is refused, and what is left out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ofa.hub import HubError, pull
from ofa.training import Run
from ofa.trust import UntrustedCodeError, trusted_files

from .conftest import BUNDLE, RUN, contents, resealed
from .stand_in import Hub


@pytest.fixture
def refused(hub: Hub, tmp_path: Path) -> Callable[..., None]:
    """Whether a repository of such files is refused, and nothing of it is left."""

    def check(files: dict[str, bytes], match: str) -> None:
        hub.add("you/theirs", files, private=False)
        with pytest.raises(HubError, match=match):
            pull("you/theirs", tmp_path / "new" / "out")
        assert not (tmp_path / "new").exists()

    return check


@pytest.mark.parametrize("name", ["model.onnx", "samples/001.png", "bundle.json", "README.md", "predict.py"])
def test_a_bundle_that_was_tampered_with(name: str, refused: Callable[..., None]) -> None:
    changed = BUNDLE[name].replace(b"{", b"{ ", 1) if name == "bundle.json" else BUNDLE[name] + b" "
    say = rf"you/theirs is refused: you/theirs is not what bundle.json and SHA256SUMS say \({name}: "
    refused({**BUNDLE, name: changed}, say)
    refused({key: content for key, content in BUNDLE.items() if key != name}, "you/theirs ")


def test_a_program_that_is_not_ours_though_the_lists_agree(refused: Callable[..., None]) -> None:
    bomb = BUNDLE["predict.py"] + b"\nopen('executed', 'w').close()\n"
    refused(resealed({**BUNDLE, "predict.py": bomb}), r"predict.py: another program\)")
    refused(resealed({**BUNDLE, "samples/more.py": bomb}), r"samples/more.py: no file of a bundle\)")


def test_what_lies_beside_a_bundle_is_left_out_and_what_lies_in_it_is_not(
    hub: Hub, refused: Callable[..., None], tmp_path: Path
) -> None:
    beside = {"setup.py": b"boom", "weights.pkl": b"boom", "figures/a.png": b"", ".hidden/x": b"", "LICENSE": b"MIT"}
    hub.add("you/small", {**BUNDLE, **beside}, private=False)
    pulled = pull("you/small", tmp_path / "small")
    assert pulled.left_out == ("setup.py", "weights.pkl", "figures/a.png", ".hidden/x")
    assert contents(pulled.path) == BUNDLE
    refused({**BUNDLE, "samples/more.png": b"mine"}, r"\(samples/more.png: not listed\)")


def test_what_lies_beside_a_run_is_left_out(hub: Hub, tmp_path: Path) -> None:
    beside = {"mine.py": b"boom", "checkpoints/step-1.safetensors": b"", "search/cpu-1t/run.pkl": b"", "README.md": b""}
    odd = {"search/../../out.json": b"", "search/..": b"", "/search/a/front.csv": b"", "search/a\nb/front.csv": b""}
    hub.add("you/flowers", {**RUN, **beside, **odd}, private=False)
    pulled = pull("you/flowers", tmp_path / "flowers")
    assert set(pulled.left_out) == {*beside, *odd} - {"README.md"}
    assert contents(pulled.path) == RUN
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["flowers"]


def edited(change: Callable[[dict[str, Any]], object]) -> bytes:
    info = json.loads(RUN["supernet.json"])
    change(info)
    return json.dumps(info).encode()


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("supernet.safetensors", RUN["supernet.safetensors"][:-8], "supernet.safetensors is truncated or not the file"),
        ("supernet.json", RUN["supernet.json"][:-9], "run folder you/theirs/supernet.json is truncated or not JSON"),
        ("supernet.json", edited(lambda info: info.pop("space")), "you/theirs/supernet.json lacks space"),
        ("supernet.json", edited(lambda info: info.update(space=[])), "you/theirs is refused: "),
        (
            "supernet.json",
            edited(lambda info: info["recipe"]["model"].update(name="mine.py")),
            "say which function",
        ),
        ("metrics.csv", b"epoch\n", "metrics you/theirs/metrics.csv lacks the columns step"),
        ("search/cpu-1t/front.csv", b"arch\n", "front you/theirs/search/cpu-1t/front.csv lacks the columns"),
        ("search/cpu-1t/selected.json", b"[]", "search result you/theirs/search/cpu-1t/selected.json has format"),
    ],
)
def test_a_run_that_is_not_whole(name: str, content: bytes, match: str, refused: Callable[..., None]) -> None:
    refused({**RUN, name: content}, f"you/theirs is refused: .*{match}" if "refused" not in match else match)


def test_a_run_without_weights(refused: Callable[..., None]) -> None:
    refused({name: RUN[name] for name in RUN if name != "supernet.safetensors"}, "supernet.safetensors is missing")


def test_repositories_of_other_things(refused: Callable[..., None]) -> None:
    refused({}, r"you/theirs holds neither a run nor a bundle \(but nothing\); give another name")
    others = {name: b"" for name in ("config.json", "model.bin", "vocab.txt", "merges.txt", "README.md")}
    refused(others, r"\(but config.json, model.bin, vocab.txt and 2 more\); give another name")


def test_code_that_a_run_names_is_neither_fetched_nor_executed_nor_trusted(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    bomb = b"open('executed', 'w').close()\n"

    def name_code(info: dict[str, Any]) -> None:
        info["model"]["name"] = info["recipe"]["model"]["name"] = "nets.py:net"
        info["recipe"]["task"] = {"name": "tasks/mine.py:Mine"}

    code = {"nets.py": bomb, "tasks/mine.py": bomb}
    hub.add("you/flowers", {**RUN, **code, "supernet.json": edited(name_code)}, private=False)
    monkeypatch.chdir(tmp_path)
    pulled = pull("you/flowers", "flowers")
    assert pulled.code == ("nets.py", "tasks/mine.py") and pulled.left_out == ("nets.py", "tasks/mine.py")
    assert not list(pulled.path.rglob("*.py")) and not trusted_files()
    (tmp_path / "tasks").mkdir()
    for name, content in code.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UntrustedCodeError, match=r"would execute tasks/mine.py \(sha256 .*add --trust-code"):
        Run.open("flowers").supernet()
    assert not Path("executed").exists()


def test_a_bundle_of_a_task_that_nobody_vouched_for(refused: Callable[..., None], tmp_path: Path) -> None:
    info = json.loads(BUNDLE["bundle.json"])
    info["task"] = {"name": f"{tmp_path / 'mine.py'}:Mine"}
    (tmp_path / "mine.py").write_text("open('executed', 'w').close()\n")
    refused({**BUNDLE, "bundle.json": json.dumps(info).encode()}, "would execute .*mine.py .*on your list of trusted")
    assert not Path("executed").exists()


def test_limits(hub: Hub, refused: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    hub.sizes["metrics.csv"] = 1 << 31
    refused(RUN, "metrics.csv is 2,147,483,648 bytes long, above the limit of 1,073,741,824")
    hub.sizes["metrics.csv"] = -1
    refused(RUN, "metrics.csv is -1 bytes long")
    hub.sizes = {"supernet.safetensors": 1 << 35}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1 << 34}))
    refused(RUN, r"you/theirs is \d files, 34,\d+.\d\d MB, 17,179,869,184 bytes are free; make space, or give another")
    monkeypatch.setattr("ofa.hub.client.MAX_FILES", 3)
    refused(RUN, "you/theirs holds more than 3 files, which no run or bundle has")


@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_something_is_there_already(what: str, hub: Hub, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if what == "folder":
        out.mkdir()
        (out / "notes.txt").write_text("mine")
    elif what == "file":
        out.write_text("mine")
    else:
        (tmp_path / "real").mkdir()
        (tmp_path / "real" / "notes.txt").write_text("mine")
        out.symlink_to(tmp_path / "real")
    before = contents(tmp_path)
    with pytest.raises(HubError, match="is there already; give another --out, or remove it"):
        pull("you/small", out)
    assert contents(tmp_path) == before and not hub.requests


def test_an_empty_folder_may_be_there(hub: Hub, tmp_path: Path) -> None:
    hub.add("you/small", BUNDLE, private=False)
    (tmp_path / "out").mkdir()
    assert contents(pull("you/small", tmp_path / "out").path) == BUNDLE


def test_something_appears_meanwhile(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("you/small", BUNDLE, private=False)
    out = tmp_path / "out"

    def appear(kind: str, folder: Path) -> tuple[str, ...]:
        out.mkdir()
        (out / "notes.txt").write_text("mine")
        return ()

    monkeypatch.setattr("ofa.hub.pulling._checked", appear)
    with pytest.raises(HubError, match="out appeared while this was fetched; it is left alone: give another --out"):
        pull("you/small", out)
    assert contents(out) == {"notes.txt": b"mine"}
