from __future__ import annotations

import sys
import time
import types

import pytest

from ofa.hardware import energy
from ofa.hardware.energy import EnergyError, NvmlCounter, RaplCounter, TegraCounter, find_counter, measure_energy

# Lines as boards print them: Orin, Xavier NX, Nano.
ORIN = (
    "RAM 2871/30536MB (lfb 5786x4MB) SWAP 0/15268MB (cached 0MB) CPU [2%@729,0%@729,off,off] EMC_FREQ 0% GR3D_FREQ 0% "
    "CPU@46.343C SOC2@42.5C VDD_GPU_SOC 2394mW/2394mW VDD_CPU_CV 399mW/399mW VIN_SYS_5V0 3023mW/3023mW"
)
NX = "RAM 1903/7772MB CPU [3%@1190,off] GR3D_FREQ 0% GPU@34C VDD_IN 3312mW/3401mW VDD_CPU_GPU_CV 490mW/500mW"
NANO = "RAM 1415/3964MB CPU [6%@102,3%@102] PLL@26C GPU@27.5C POM_5V_IN 1022/1127 POM_5V_GPU 0/0 POM_5V_CPU 122/170"


def rapl(folder, energy_uj, range_uj=1_000_000):
    (folder / "intel-rapl:0").mkdir(parents=True, exist_ok=True)
    (folder / "intel-rapl:0" / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "intel-rapl:0" / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return folder / "intel-rapl:0"


def test_rapl_counts_on_where_it_begins_anew(tmp_path):
    counter = RaplCounter(rapl(tmp_path, 900_000))
    before = counter.read_joules()
    rapl(tmp_path, 100_000)
    assert counter.read_joules() - before == pytest.approx(0.2)
    rapl(tmp_path, 300_000)
    assert counter.read_joules() - before == pytest.approx(0.4)


def test_rapl_that_may_not_be_read_says_how(tmp_path, monkeypatch):
    counter = RaplCounter(rapl(tmp_path, 1))

    def refuse(path, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "read_text", refuse)
    with pytest.raises(EnergyError, match=r"energy_uj is not readable; allow it with: sudo chmod a\+r"):
        counter.read_joules()


@pytest.mark.parametrize(("line", "watts"), [(ORIN, 3.023), (NX, 3.312), (NANO, 1.022), ("no power here", None)])
def test_lines_of_tegrastats(line, watts):
    assert energy.read_tegra_watts(line) == watts


def test_tegrastats_sums_power_over_time(tmp_path):
    program = tmp_path / "tegrastats"
    script = (
        f"import sys, time\nassert sys.argv[1:] == ['--interval', '100']\nwhile True:\n    print({NX!r}, flush=True)\n"
    )
    program.write_text(f"#!{sys.executable}\n{script}    time.sleep(0.01)\n")
    program.chmod(0o755)
    counter = TegraCounter(str(program))
    deadline = time.monotonic() + 10
    while counter.read_joules() == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    start, before = time.monotonic(), counter.read_joules()
    time.sleep(0.5)
    watts = (counter.read_joules() - before) / (time.monotonic() - start)
    counter.close()
    assert watts == pytest.approx(3.312, rel=0.3)


def fake_pynvml(millijoules):
    module = types.ModuleType("pynvml")
    module.nvmlInit = lambda: None
    module.nvmlDeviceGetHandleByIndex = lambda index: f"card {index}"
    module.nvmlDeviceGetTotalEnergyConsumption = lambda handle: next(millijoules)
    return module


def test_nvml_counts_millijoules():
    counter = NvmlCounter(fake_pynvml(iter([2500])))
    assert counter.read_joules() == 2.5


def test_the_counter_that_is_there_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(energy.shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "pynvml", None)  # cannot be imported
    assert find_counter(tmp_path) is None
    rapl(tmp_path, 5)
    assert find_counter(tmp_path).name == "rapl"
    monkeypatch.setitem(sys.modules, "pynvml", fake_pynvml(iter([1])))
    assert find_counter(tmp_path).name == "nvml"


def test_energy_of_a_run_is_what_the_counter_saw():
    class Counter:
        """Ten watts idle, and one joule per run."""

        name, num_runs = "fake", 0

        def read_joules(self):
            return 10 * time.monotonic() + self.num_runs

    counter = Counter()

    def run():
        counter.num_runs += 1
        time.sleep(0.005)

    found = measure_energy(run, counter, seconds=0.2, idle_seconds=0.1)
    assert found.idle_watts == pytest.approx(10, rel=0.05)
    assert found.joules_above_idle_per_run == pytest.approx(1, rel=0.05)
    assert found.joules_per_run > found.joules_above_idle_per_run
    assert found.num_runs >= 2
