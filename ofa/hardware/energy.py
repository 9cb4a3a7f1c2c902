"""Energy counters, where the machine has one that can be read.

- RAPL: Intel and AMD processors, ``/sys/class/powercap``; whole package, so keep the rest of the machine quiet.
- NVML: NVIDIA cards, through the ``nvidia-ml-py`` package.
- tegrastats: Jetson boards; a power in milliwatts now and then, summed up over time.

None of them was at hand where this was written: they are tested against files, a module and lines of output that look
like the real ones.
"""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

POWERCAP = Path("/sys/class/powercap")
TEGRA_INTERVAL_MS = 100
# The whole board: Orin and Xavier say VDD_IN or VIN_SYS_5V0, older ones POM_5V_IN.
TEGRA_POWER = re.compile(r"\b(?:VDD_IN|VIN_SYS_5V0|POM_5V_IN) (\d+)(?:mW)?/")


class EnergyError(OSError):
    """A counter is there but cannot be read."""


class EnergyCounter(Protocol):
    """Joules since some moment in the past."""

    @property
    def name(self) -> str: ...

    def read_joules(self) -> float: ...


class RaplCounter:
    """The first package of a processor; it begins anew at ``max_energy_range_uj``, an hour or so apart.

    Args:
        folder: ``/sys/class/powercap/intel-rapl:0``.
    """

    name = "rapl"

    def __init__(self, folder: Path) -> None:
        self._path = folder / "energy_uj"
        self._range_uj = int((folder / "max_energy_range_uj").read_text())
        self._last_uj = self._read_uj()
        self._wrapped_uj = 0

    def _read_uj(self) -> int:
        try:
            return int(self._path.read_text())
        except PermissionError:
            raise EnergyError(f"{self._path} is not readable; allow it with: sudo chmod a+r {self._path}") from None

    def read_joules(self) -> float:
        now_uj = self._read_uj()
        if now_uj < self._last_uj:
            self._wrapped_uj += self._range_uj
        self._last_uj = now_uj
        return (self._wrapped_uj + now_uj) / 1e6


class NvmlCounter:
    """An NVIDIA card of the Volta generation or later."""

    name = "nvml"

    def __init__(self, pynvml: Any, index: int = 0) -> None:
        self._pynvml = pynvml
        pynvml.nvmlInit()
        self._handle = pynvml.nvmlDeviceGetHandleByIndex(index)

    def read_joules(self) -> float:
        return float(self._pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3  # it counts millijoules


class TegraCounter:
    """A Jetson: power times the time since the reading before."""

    name = "tegrastats"

    def __init__(self, program: str) -> None:
        command = [program, "--interval", str(TEGRA_INTERVAL_MS)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._joules, self._last = 0.0, time.monotonic()
        self._thread = threading.Thread(target=self._follow, args=(self._process.stdout,), daemon=True)
        self._thread.start()

    def _follow(self, lines: IO[str]) -> None:
        for line in lines:
            watts, now = read_tegra_watts(line), time.monotonic()
            if watts is not None:
                self._joules += watts * (now - self._last)
            self._last = now

    def read_joules(self) -> float:
        return self._joules

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._thread.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


def read_tegra_watts(line: str) -> float | None:
    """Power of the board in one line of tegrastats; ``None`` if it does not tell."""
    found = TEGRA_POWER.search(line)
    return int(found.group(1)) / 1e3 if found else None


def find_counter(powercap: Path = POWERCAP) -> EnergyCounter | None:
    """The counter of this machine, an accelerator's before the processor's; ``None`` if there is none.

    Raises:
        EnergyError: If there is one that may not be read.
    """
    program = shutil.which("tegrastats")
    if program is not None:
        return TegraCounter(program)
    try:
        pynvml = importlib.import_module("pynvml")
        return NvmlCounter(pynvml)
    except ImportError:
        pass
    except Exception as error:  # NVMLError and its kin are made at run time
        if type(error).__module__ != "pynvml":
            raise
    packages = sorted(powercap.glob("*-rapl:[0-9]"))
    return RaplCounter(packages[0]) if packages else None


@dataclass(frozen=True)
class Energy:
    """What a run takes.

    Args:
        joules_per_run: All that the counter saw, idling included.
        idle_watts: Before the runs.
        num_runs: Behind it.
    """

    joules_per_run: float
    idle_watts: float
    num_runs: int
    seconds: float

    @property
    def joules_above_idle_per_run(self) -> float:
        """What a run takes beside what the machine takes anyway."""
        return self.joules_per_run - self.idle_watts * self.seconds / self.num_runs


def measure_energy(
    run: Callable[[], object], counter: EnergyCounter, *, seconds: float = 5.0, idle_seconds: float = 2.0
) -> Energy:
    """Run something for a while and share the energy among its runs.

    Args:
        run: Runs once and returns when it is finished.
        seconds: At least so long; counters move in steps of milliseconds to a tenth of a second.
    """
    run()
    start, before = time.monotonic(), counter.read_joules()
    time.sleep(idle_seconds)
    idle_watts = (counter.read_joules() - before) / (time.monotonic() - start)
    num_runs, before, start = 0, counter.read_joules(), time.monotonic()
    while True:
        run()
        num_runs += 1
        passed = time.monotonic() - start
        if passed >= seconds:
            break
    return Energy((counter.read_joules() - before) / num_runs, idle_watts, num_runs, passed)
