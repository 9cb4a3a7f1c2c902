"""Energies of models on this machine, in turn as their latencies are, where it has a counter that can be read.

- RAPL: Intel and AMD processors under Linux; all packages, so keep the rest of the machine quiet.
- NVML: NVIDIA cards since Volta, through the ``nvidia-ml-py`` package.
- tegrastats: Jetson boards; a power now and then, summed up over time.
"""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from ofa.errors import OfaError, UsageError
from ofa.files import parse_json
from ofa.hardware.device import Device
from ofa.hardware.runtimes import RUNTIMES, Model
from ofa.hardware.runtimes.session import Burst
from ofa.hardware.transports import Local

STEPS = 20  # of the counter in one measurement: it is exact to a twentieth
MIN_SECONDS = 0.05

POWERCAP = Path("/sys/class/powercap")
TEGRA_INTERVAL_MS = 100
TEGRA_WAIT_SECONDS = 5.0
# What a board takes: its input where it is measured (Nano, TX2, Xavier NX, Orin Nano and NX), else the sum of the rails
# that hang side by side on it (AGX Orin, AGX Xavier); further rails are parts of these.
TEGRA_INPUTS = (
    ("VDD_IN",),
    ("POM_5V_IN",),
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
)
TEGRA_RAIL = re.compile(r"\b([A-Z]\w*) (\d+)(?:mW)?/\d+(?:mW)?\b(?![MkG]B)")  # now/average, in milliwatts


class EnergyError(OfaError, OSError):
    """A counter is there but cannot be used."""


class EnergyCounter(Protocol):
    """Joules since some moment in the past."""

    name: str
    step_seconds: float
    """How often it moves, at the least."""

    def read_joules(self) -> float: ...
    def close(self) -> None: ...


class RaplCounter:
    """All packages of the processors.

    Each counts up to its ``max_energy_range_uj`` and begins anew: half an hour at 100 W. Read it more often than that.

    Args:
        packages: Folders such as ``/sys/class/powercap/intel-rapl:0``.

    Raises:
        EnergyError: If they may not be read; since Linux 5.10 only root may.
    """

    name = "rapl"
    step_seconds = 0.001

    def __init__(self, packages: Iterable[Path]) -> None:
        self._packages = list(packages)
        self._ranges_uj = [int((folder / "max_energy_range_uj").read_text()) for folder in self._packages]
        self._last_uj = self._read_uj()
        self._total_uj = 0

    def _read_uj(self) -> list[int]:
        paths = [folder / "energy_uj" for folder in self._packages]
        try:
            return [int(path.read_text()) for path in paths]
        except PermissionError as error:
            files = " ".join(map(str, paths))
            raise EnergyError(f"{error.filename} may not be read; allow it with `sudo chmod a+r {files}`") from None

    def read_joules(self) -> float:
        now_uj = self._read_uj()
        for now, last, size in zip(now_uj, self._last_uj, self._ranges_uj, strict=True):
            self._total_uj += now - last + (size if now < last else 0)
        self._last_uj = now_uj
        return self._total_uj / 1e6

    def close(self) -> None:
        pass


class NvmlCounter:
    """One NVIDIA card.

    Args:
        pynvml: The module of that name.
    """

    name = "nvml"
    step_seconds = 0.1

    def __init__(self, pynvml: Any, index: int = 0) -> None:
        self._pynvml = pynvml
        pynvml.nvmlInit()
        self._handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        self.read_joules()  # older cards do not count

    def read_joules(self) -> float:
        return float(self._pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3  # millijoules

    def close(self) -> None:
        self._pynvml.nvmlShutdown()


class TegraCounter:
    """A Jetson board: each power that tegrastats prints counts for the time since the one before.

    Args:
        program: Path of tegrastats.

    Raises:
        EnergyError: If it prints no power that we know.
    """

    name = "tegrastats"
    step_seconds = TEGRA_INTERVAL_MS / 1000

    def __init__(self, program: str) -> None:
        command = [program, "--interval", str(TEGRA_INTERVAL_MS)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        self._lines = self._process.stdout
        self._joules = 0.0
        self._has_read = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        if not self._has_read.wait(TEGRA_WAIT_SECONDS):
            self.close()
            raise EnergyError(
                f"{program} prints no power in {TEGRA_WAIT_SECONDS:g} s; see what `sudo {program}` prints"
            )

    def _follow(self) -> None:
        before: float | None = None
        for line in self._lines:
            watts, now = read_tegra_watts(line), time.monotonic()
            if watts is None:
                continue
            if before is not None:
                self._joules += watts * (now - before)
            before = now
            self._has_read.set()

    def read_joules(self) -> float:
        if self._process.poll() is not None:
            raise EnergyError(f"tegrastats ended with exit status {self._process.returncode}; is another one running?")
        return self._joules

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._thread.join()
        self._lines.close()


def read_tegra_watts(line: str) -> float | None:
    """Power of the board in one line of tegrastats; ``None`` if it does not tell."""
    milliwatts = {rail: int(now) for rail, now in TEGRA_RAIL.findall(line)}
    for rails in TEGRA_INPUTS:
        if all(rail in milliwatts for rail in rails):
            return sum(milliwatts[rail] for rail in rails) / 1e3
    return None


def find_counter(powercap: Path = POWERCAP) -> EnergyCounter:
    """The counter of this machine: the board's, or else the card's, or else the processor's.

    Raises:
        EnergyError: If there is none, or one that may not be read.
    """
    program = shutil.which("tegrastats")
    if program is not None:
        return TegraCounter(program)
    card = _find_card()
    if card is not None:
        return card
    zones = sorted(powercap.glob("intel-rapl:*"))  # AMD's stand there too
    packages = [zone for zone in zones if (zone / "name").read_text().startswith("package")]
    if not packages:
        raise EnergyError(
            "no energy counter can be read on this machine: no tegrastats (Jetson), no NVIDIA card that counts (with "
            f"nvidia-ml-py), no {powercap}/intel-rapl:* (Intel, AMD); measure on a machine that has one, or leave "
            "energy out"
        )
    return RaplCounter(packages)


def _find_card() -> NvmlCounter | None:
    try:
        pynvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        return NvmlCounter(pynvml)
    except pynvml.NVMLError_NoPermission as error:
        raise EnergyError(f"the energy of the NVIDIA card may not be read ({error}); run as root") from None
    except pynvml.NVMLError:  # no driver, no card, or one that does not count
        return None


def joules_of_run(run: Callable[[], object], counter: EnergyCounter, seconds: float) -> float:
    """What one run takes, of as many as last so many seconds; :class:`EnergyError` if the counter does not move."""
    num_runs = 0
    start, before = time.monotonic(), counter.read_joules()
    while num_runs == 0 or time.monotonic() < start + seconds:
        run()
        num_runs += 1
    passed, joules = time.monotonic() - start, counter.read_joules() - before
    if joules <= 0:
        raise EnergyError(f"counter {counter.name} did not move in {passed:.1f} s; measure for longer")
    return joules / num_runs


def counter_for(device: Device) -> EnergyCounter:
    """What counts the energy of a device.

    Raises:
        UsageError: If it is another machine.
        EnergyError: If there is no counter here, or one that may not be read.
    """
    if not isinstance(device.host, Local):
        raise UsageError(
            f"device {device.name} is reached by {device.host.name}, but energy is measured on this machine only; run "
            "there, or leave energy out"
        )
    return find_counter()


def energies_in(path: Path, names: Iterable[str]) -> dict[str, list[float]]:
    """What :func:`measure_energies` has left of some models; lines that are none are passed over."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] if path.exists() else []
    found: dict[str, list[float]] = {name: [] for name in names}
    for line in lines:
        with suppress(ValueError):
            match parse_json(line):
                case [str(name), int(energy_mj) | float(energy_mj)] if name in found and energy_mj > 0:
                    found[name].append(energy_mj)
    return found


def measure_energies(
    models: Mapping[str, Model],
    device: Device,
    *,
    rng: np.random.Generator,
    rounds: int,
    path: Path,
    step: Callable[[], None],
) -> pd.DataFrame:
    """Millijoules of one image, a row per round and a column per model; ``attrs["counter"]`` says what counted them.

    All models in turn, in a new random order each round.

    Args:
        path: File that keeps what was measured; a second call goes on there.
        step: Called after each measurement.

    Raises:
        UsageError: See :func:`counter_for`.
        EnergyError: So too; or if the counter does not move, or if the models run in a program of its own.
    """
    found = energies_in(path, models)
    setting, runtime = device.setting, RUNTIMES[device.setting.runtime]()
    runs = {}
    for name, model in models.items():
        session = runtime.prepare(model, setting)
        runs[name] = session.prepared(session.random_inputs(rng))
    with closing(counter_for(device)) as counter, path.open("a", encoding="utf-8") as file:
        for number in range(rounds):
            waiting = [name for name in models if len(found[name]) <= number]
            for index in rng.permutation(len(waiting)):
                name = waiting[index]
                run = runs[name]
                if isinstance(run, Burst):
                    raise EnergyError(f"{setting.runtime} runs models in a program of its own; leave energy out")
                run()  # the first one loads and allocates
                joules = joules_of_run(run, counter, max(STEPS * counter.step_seconds, MIN_SECONDS))
                found[name].append(round(1000 * joules / setting.batch, 6))
                file.write(json.dumps([name, found[name][-1]]) + "\n")
                file.flush()
                step()
    result = pd.DataFrame({name: values[:rounds] for name, values in found.items()})
    result.attrs["counter"] = counter.name
    return result
