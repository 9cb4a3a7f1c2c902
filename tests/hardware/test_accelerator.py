from __future__ import annotations

import itertools
import sys
import types

import numpy as np

from ofa.hardware import runner
from ofa.hardware.accelerator import NONE, find_accelerator
from ofa.hardware.fingerprint import conditions
from ofa.hardware.runner import Job, time_on_device
from ofa.setting import Setting

MS = 1_000_000


def fake_pynvml(clocks_mhz=(), *, fails=False):
    """A card of 61 degrees whose clock is read again and again."""

    class NVMLError(Exception):
        pass

    clocks = iter(clocks_mhz)

    def clock(handle, which):
        assert (handle, which) == ("card 0", "sm")
        if fails:
            raise NVMLError
        return next(clocks)

    module = types.ModuleType("pynvml")
    module.NVMLError, module.NVML_CLOCK_SM, module.NVML_TEMPERATURE_GPU = NVMLError, "sm", "gpu"
    module.nvmlInit = lambda: None
    module.nvmlDeviceGetHandleByIndex = lambda index: f"card {index}"
    module.nvmlDeviceGetClockInfo = clock
    module.nvmlDeviceGetTemperature = lambda handle, which: 61
    return module


def test_an_nvidia_card(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", fake_pynvml([1980, 1755]))
    found = find_accelerator(tmp_path)
    assert [found.clock_mhz(), found.clock_mhz(), found.temperature_c()] == [1980, 1755, 61]


def test_a_card_that_does_not_tell(tmp_path, monkeypatch):
    module = fake_pynvml(fails=True)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert find_accelerator(tmp_path).clock_mhz() is None

    def no_driver():
        raise module.NVMLError

    module.nvmlInit = no_driver
    assert find_accelerator(tmp_path) is NONE
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert find_accelerator(tmp_path) is NONE


def test_a_jetson_board(tmp_path):
    for name, hertz in {"13e00000.host1x": 1, "17000000.ga10b": 918_000_000}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "cur_freq").write_text(f"{hertz}\n")
    for number, (kind, millidegrees) in enumerate({"cpu-thermal": 40_000, "gpu-thermal": 51_500}.items()):
        zone = tmp_path / f"thermal_zone{number}"
        zone.mkdir()
        (zone / "type").write_text(f"{kind}\n")
        (zone / "temp").write_text(f"{millidegrees}\n")
    found = find_accelerator(tmp_path, tmp_path)
    assert (found.clock_mhz(), found.temperature_c()) == (918, 51.5)
    assert conditions(found) | {"load": None} == {"load": None, "clock_mhz": 918, "temperature_c": 51.5}
    assert find_accelerator(tmp_path, tmp_path / "none").temperature_c() is None


def test_blocks_in_which_the_clock_of_the_card_changed_do_not_count(tmp_path, monkeypatch):
    """The card slows down in the first block of one model; it is measured again."""
    runs = []
    clocks = (1980.0 if len(runs) < 12 else 1700.0 for _ in itertools.count())
    monkeypatch.setitem(sys.modules, "pynvml", fake_pynvml(clocks))

    class Card:
        on_cpu = False

        def prepare(self, model, setting):
            session = Card()
            session.model = model
            return session

        def random_inputs(self, rng):
            return {}

        def prepared(self, inputs):
            return lambda: runs.append(1) if self.model == b"a" else None

    monkeypatch.setitem(runner.RUNTIMES, "onnxruntime", Card)
    job = Job(
        models={"a": b"a", "b": b""},
        setting=Setting(runtime="onnxruntime"),
        anchor=b"",
        rng=np.random.default_rng(0),
        num_blocks={"a": 2, "b": 2},
        block_seconds=0.0005,
    )
    result = time_on_device(job)
    changed = [(block.name, block.number) for block in result.blocks if "clock changed" in block.causes]
    assert changed == [("a", 0)]
    assert result.conditions[0]["clock_mhz"] == 1980 and result.conditions[1]["clock_mhz"] == 1700
    assert result.conditions[1]["temperature_c"] == 61
