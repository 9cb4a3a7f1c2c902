"""Settings for all tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# One thread: tests run beside each other, and sums come out in the same order everywhere.
torch.set_num_threads(1)

# A first example may import, compile or warm something up; no test is judged by its duration.
settings.register_profile("ofa", deadline=None)
settings.load_profile("ofa")


LONG = (
    "training/test_trainer.py",
    "test_cli.py",
    "hardware/transports/test_ssh.py",
    "hardware/transports/test_slurm.py",
    "supernet/test_families.py",
    "training/test_accumulate.py",
    "test_damaged.py",
    "supernet/test_parts.py",
    "training/test_killed.py",
    "search/test_driver.py",
    "test_finetune.py",
)
"""Files that take a minute or so: they begin first, so that no worker is left with one of them while others rest."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONG))


@pytest.fixture(scope="session", autouse=True)
def no_list_of_the_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests train with goes on no list of the user's, nor into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture
def cuda() -> str:
    """For tests marked `gpu`."""
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    return "cuda"


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def torch_device(request: pytest.FixtureRequest) -> str:
    """Each in turn; the default tests are those on the CPU, `make gpu` runs the others."""
    name: str = request.param
    return str(request.getfixturevalue("cuda")) if name == "cuda" else name


@pytest.fixture
def full_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions without cuDNN, which would round to TF32; torch's other products do not."""
    monkeypatch.setattr(torch.backends.cudnn, "enabled", False)


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets; the test is skipped where there is none."""
    default = Path(__file__).parents[1].parent / "shared" / "data"
    root = Path(os.environ.get("OFA_TEST_DATA", default))
    if not root.is_dir():
        pytest.skip(f"no real data in {root}; set OFA_TEST_DATA to a folder that has it")
    return root


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB; skipped where none can be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
