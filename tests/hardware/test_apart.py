"""A runtime in a process of its own: what it computes comes back, whatever it does otherwise does no harm."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from ofa.hardware.apart import apart
from ofa.hardware.runtimes import ModelError, NotInstalledError
from ofa.setting import Setting
from tests.hardware.misbehaving import Misbehaving

IMAGES = np.arange(6, dtype=np.float32).reshape(2, 3)


def run(word, tmp_path, *, seconds=60.0, times=1):
    (tmp_path / "model.txt").write_text(word)
    with apart(Misbehaving, seconds=seconds) as runtime:
        session = runtime.prepare(tmp_path / "model.txt", Setting(runtime="misbehaving", threads=3))
        return [session.run({"images": IMAGES}) for _ in range(times)]


def test_arrays_go_there_and_back(tmp_path):
    for doubled, is_light, empty, whole in run("fine", tmp_path, times=3):
        assert is_light  # of the runner's bundle, without the packages that take seconds to import
        assert (empty.shape, whole.dtype) == ((0, 3), np.uint8)
        np.testing.assert_array_equal(doubled, 2 * IMAGES)


@pytest.mark.parametrize(
    ("word", "error", "message"),
    [
        ("is not there", NotInstalledError, "it is not there; install it"),
        ("no model", ModelError, "no model for 3 threads"),
        ("raises", ModelError, "x1b"),
        ("crashes", ModelError, "the runtime ended with signal 11: the network makes it crash, or takes more memory"),
        ("leaves", ModelError, "the runtime ended with status 3"),
        ("takes too much", ModelError, "Unable to allocate 32.0 TiB"),
    ],
)
def test_what_goes_wrong_is_told(word, error, message, tmp_path):
    with pytest.raises(error, match=message):
        run(word, tmp_path)


def test_time_and_answers_are_bounded(tmp_path):
    before = time.monotonic()
    with pytest.raises(ModelError, match=r"the network has not come to an end within 2 s"):
        run("hangs", tmp_path, seconds=2.0)
    assert time.monotonic() - before < 60
    with pytest.raises(ModelError, match="an output of 1073741828 bytes is above the limit of 1073741824"):
        run("gives too much", tmp_path)


def test_memory_is_bounded(tmp_path):
    code = "import resource; from ofa.hardware.apart import _limit_memory; _limit_memory(); "
    code += "print(resource.getrlimit(resource.RLIMIT_DATA)[0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
