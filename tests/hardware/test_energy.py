from __future__ import annotations

import sys
import time
import types
from pathlib import Path

import pytest

from ofa.hardware import energy
from ofa.hardware.energy import (
    EnergyError,
    NvmlCounter,
    RaplCounter,
    TegraCounter,
    energies_in,
    find_counter,
    joules_of_run,
)

# As boards printed them, from public logs; temperatures and cores are shortened.
LINES = {
    "Nano": (
        "RAM 1655/3956MB (lfb 311x4MB) SWAP 0/1978MB (cached 0MB) IRAM 0/252kB(lfb 252kB) CPU [12%@102,10%@102] "
        "EMC_FREQ 3%@1600 GR3D_FREQ 0%@76 APE 25 PLL@36.5C CPU@39C PMIC@50C GPU@37C AO@47.5C thermal@38C "
        "POM_5V_IN 2132/2132 POM_5V_GPU 78/78 POM_5V_CPU 275/275",
        2.132,
    ),
    "TX2": (
        "Tdiode@36C PMIC@100C thermal@35.5C VDD_IN 2003/2658 VDD_CPU 320/518 VDD_GPU 400/735 VDD_SOC 400/415 "
        "VDD_WIFI 0/0 VDD_DDR 240/348",
        2.003,
    ),
    "AGX Xavier": (
        "RAM 1903/15692MB (lfb 3251x4MB) CPU [1%@1190,1%@1190] EMC_FREQ 0% GR3D_FREQ 0% AO@32.5C GPU@32C CPU@33.5C "
        "PMIC@100C GPU 0/0 CPU 216/216 SOC 864/864 CV 0/0 VDDRQ 144/144 SYS5V 1889/1889",
        3.113,
    ),
    "Orin Nano": (
        "07-14-2025 10:29:36 RAM 2147/7620MB (lfb 2x4MB) SWAP 1476/3810MB (cached 1MB) CPU [0%@729,0%@729] "
        "GR3D_FREQ 0% cpu@47.687C gpu@48.625C tj@48.625C VDD_IN 4556mW/4556mW VDD_CPU_GPU_CV 483mW/483mW "
        "VDD_SOC 1451mW/1451mW",
        4.556,
    ),
    "AGX Orin": (
        "10-16-2023 10:59:22 RAM 1205/30623MB (lfb 6429x4MB) SWAP 0/15311MB (cached 0MB) CPU [0%@729,0%@729] "
        "EMC_FREQ 0%@204 GR3D_FREQ 0%@114 NVJPG1 729 VIC_FREQ 729 APE 233 CPU@43.5C GPU@38.156C "
        "VDD_GPU_SOC 4788mW/4788mW VDD_CPU_CV 798mW/798mW VIN_SYS_5V0 3842mW/3842mW NC 0mW/0mW "
        "VDDQ_VDD2_1V8AO 707mW/707mW NC 0mW/0mW",
        9.428,
    ),
    "AGX Orin, JetPack 7": (
        "07-25-2026 09:08:28 RAM 20642/62817MB (lfb 1x2MB) CPU [23%@2201,10%@2201] GR3D_FREQ 12%@[1300,1300] "
        "NVENC0 off APE 174 cpu@52.968C/52.968C VDD_GPU_SOC 5139mW/5139mW/5139mW VDD_CPU_CV 3268mW/3268mW/3268mW "
        "VIN_SYS_5V0 5500mW/5500mW/5500mW",
        13.907,
    ),
    "no power": ("RAM 1205/30623MB (lfb 6429x4MB) SWAP 0/15311MB (cached 0MB) CPU [0%@729] GR3D_FREQ 0%@114", None),
}


@pytest.mark.parametrize("board", LINES)
def test_lines_of_tegrastats(board):
    line, watts = LINES[board]
    assert energy.read_tegra_watts(line) == watts


def tegrastats(folder, line, *, ends=False):
    program = folder / "tegrastats"
    program.write_text(
        f"#!{sys.executable}\nimport sys, time\nassert sys.argv[1:] == ['--interval', '100']\n"
        f"while True:\n    print({line!r}, flush=True)\n    {'sys.exit(3)' if ends else 'time.sleep(0.01)'}\n"
    )
    program.chmod(0o755)
    return str(program)


def test_tegrastats_sums_power_over_time(tmp_path):
    counter = TegraCounter(tegrastats(tmp_path, LINES["Orin Nano"][0]))
    start, before = time.monotonic(), counter.read_joules()
    time.sleep(0.5)
    watts = (counter.read_joules() - before) / (time.monotonic() - start)
    counter.close()
    assert watts == pytest.approx(4.556, rel=0.3)


def test_tegrastats_without_power_or_that_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "TEGRA_WAIT_SECONDS", 0.2)
    with pytest.raises(EnergyError, match=r"tegrastats prints no power in 0.2 s; see what `sudo .*tegrastats` prints"):
        TegraCounter(tegrastats(tmp_path, LINES["no power"][0]))
    monkeypatch.setattr(energy, "TEGRA_WAIT_SECONDS", 60.0)
    counter = TegraCounter(tegrastats(tmp_path, LINES["Nano"][0], ends=True))
    counter._process.wait()
    with pytest.raises(EnergyError, match="ended with exit status 3"):
        counter.read_joules()
    counter.close()


def rapl(root, energy_uj, *, number=0, name=None, range_uj=1_000_000):
    folder = root / f"intel-rapl:{number}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{name or f'package-{number}'}\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return folder


def test_rapl_counts_on_where_it_begins_anew(tmp_path):
    counter = RaplCounter([rapl(tmp_path, 900_000)])
    before = counter.read_joules()
    rapl(tmp_path, 100_000)
    assert counter.read_joules() - before == pytest.approx(0.2)
    rapl(tmp_path, 300_000)
    assert counter.read_joules() - before == pytest.approx(0.4)
    rapl(tmp_path, 200_000)
    assert counter.read_joules() - before == pytest.approx(1.3)


def test_rapl_adds_packages_but_not_their_parts_nor_the_platform(tmp_path, monkeypatch):
    alone(monkeypatch)
    values = {0: "package-0", 1: "package-1", "0:0": "core", "0:1": "dram", 2: "psys"}
    for number, name in values.items():
        rapl(tmp_path, 0, number=number, name=name)
    counter = find_counter(tmp_path)
    assert counter.name == "rapl"
    for number, name in values.items():
        rapl(tmp_path, 100_000, number=number, name=name)
    assert counter.read_joules() == pytest.approx(0.2)


def test_rapl_that_may_not_be_read_says_how(tmp_path, monkeypatch):
    alone(monkeypatch)
    rapl(tmp_path, 1)
    read_text = Path.read_text

    def refuse(path, *args, **kwargs):
        if path.name == "energy_uj":  # as the kernel does; the other files are open to all
            raise PermissionError(13, "Permission denied", str(path))
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(EnergyError, match=r"energy_uj may not be read; allow it with `sudo chmod a\+r .*energy_uj`"):
        find_counter(tmp_path)


def fake_pynvml(energy_mj):
    """What the real module has, as far as it is used; ``energy_mj`` are readings, or an error's name."""
    module = types.ModuleType("pynvml")
    module.NVMLError = type("NVMLError", (Exception,), {})
    for name in ("NoPermission", "NotSupported", "LibraryNotFound"):
        setattr(module, f"NVMLError_{name}", type(f"NVMLError_{name}", (module.NVMLError,), {}))

    def read(handle):
        assert handle == "card 0"
        if isinstance(energy_mj, str):
            raise getattr(module, f"NVMLError_{energy_mj}")(energy_mj)
        return energy_mj.pop(0)

    module.nvmlInit = module.nvmlShutdown = lambda: None
    module.nvmlDeviceGetHandleByIndex = lambda index: f"card {index}"
    module.nvmlDeviceGetTotalEnergyConsumption = read
    return module


def alone(monkeypatch, pynvml=None):
    """Neither tegrastats nor, unless it is given, pynvml."""
    monkeypatch.setattr(energy.shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "pynvml", pynvml)


def test_nvml_counts_millijoules():
    counter = NvmlCounter(fake_pynvml([1000, 2500]))
    assert counter.read_joules() == 2.5


def test_the_counter_that_is_there_is_found(tmp_path, monkeypatch):
    alone(monkeypatch)
    for nothing in (tmp_path, tmp_path / "not Linux"):
        with pytest.raises(EnergyError, match="no energy counter can be read on this machine"):
            find_counter(nothing)
    rapl(tmp_path, 5)
    assert find_counter(tmp_path).name == "rapl"
    alone(monkeypatch, fake_pynvml([1]))
    assert find_counter(tmp_path).name == "nvml"
    for unusable in ("LibraryNotFound", "NotSupported"):
        alone(monkeypatch, fake_pynvml(unusable))
        assert find_counter(tmp_path).name == "rapl"
    alone(monkeypatch, fake_pynvml("NoPermission"))
    with pytest.raises(EnergyError, match=r"NVIDIA card may not be read \(NoPermission\); run as root"):
        find_counter(tmp_path)


def test_energy_of_a_run_is_what_the_counter_saw():
    class Counter:
        """Ten watts idle, and one joule per run."""

        name, num_runs = "fake", 0

        def read_joules(self):
            return 10 * time.monotonic() + self.num_runs

        def close(self):
            pass

    counter = Counter()

    def run():
        counter.num_runs += 1
        time.sleep(0.005)

    start = time.monotonic()
    joules = joules_of_run(run, counter, 0.2)
    seconds = time.monotonic() - start
    assert joules == pytest.approx(1 + 10 * seconds / counter.num_runs, rel=0.05)
    assert seconds >= 0.2
    Counter.read_joules = lambda self: 7.0
    with pytest.raises(EnergyError, match=r"counter fake did not move in 0\.\d s; measure for longer"):
        joules_of_run(run, counter, 0.1)


def test_a_damaged_line_costs_its_own_measurement_only(tmp_path):
    path = tmp_path / "energies.jsonl"
    assert energies_in(path, ["a", "b"]) == {"a": [], "b": []}
    damaged = ["", "[", "5", '["a"]', '["a", NaN]', '["a", "1"]', '["a", -1]', '[["a"], 1]', "[" * 9000]
    lines = ['["a", 1.5]', *damaged, '["b", 2]', '["other", 3]', '["a", 1.25]', '["a", 9']
    path.write_bytes("\n".join(lines).encode() + b"\xff")
    assert energies_in(path, ["a", "b"]) == {"a": [1.5, 1.25], "b": [2]}
