"""A hub on the loopback, and what a user has: a run with all that lies in one, and a bundle."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from ofa.deploy.checked_folder import sums_text

from .stand_in import TOKEN, Hub, listening

LEFT = Path(__file__).parents[1] / "fixtures" / "0.1.0"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub where the user is ``me``."""
    with listening() as made:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", made.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", made.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        close_session()
        yield made
        close_session()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder that may be spoilt."""
    folder = Path(shutil.copytree(LEFT / "run", tmp_path / "runs" / "flowers"))
    shutil.copytree(LEFT / "latency_tables", folder / "latency_tables")
    for name in ("checkpoints/step-8.safetensors", "tensorboard/events", "bundles/small/bundle", "search/notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("not to be sent")
    for name in ("report.html", ".lock"):
        (folder / name).write_text("not to be sent")
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle that may be spoilt."""
    for name, content in BUNDLE.items():
        path = tmp_path / "bundles" / "small" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "bundles" / "small"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def resealed(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """A bundle whose lists say what its files are now."""
    info = json.loads(files["bundle.json"])
    others = {name: content for name, content in sorted(files.items()) if name not in ("bundle.json", "SHA256SUMS")}
    sums = {name: sha256(content).hexdigest() for name, content in others.items()}
    info["files"] = {name: {"sha256": sums[name], "bytes": len(content)} for name, content in others.items()}
    text = json.dumps(info).encode()
    listed = sums_text({**sums, "bundle.json": sha256(text).hexdigest()}).encode()
    return {**others, "bundle.json": text, "SHA256SUMS": listed}


def small_bundle(num: int = 2) -> dict[str, bytes]:
    """What an earlier version left, with fewer samples."""
    files = contents(LEFT / "bundle")
    info, outputs = json.loads(files["bundle.json"]), io.BytesIO()
    np.save(outputs, np.load(io.BytesIO(files["samples/outputs.npy"]))[:num])
    info["sample_labels"] = info["sample_labels"][:num]
    kept = {name: content for name, content in files.items() if not name.endswith(".png") or int(name[8:11]) < num}
    return resealed({**kept, "samples/outputs.npy": outputs.getvalue(), "bundle.json": json.dumps(info).encode()})


BUNDLE, RUN = small_bundle(), contents(LEFT / "run")
