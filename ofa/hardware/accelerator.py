"""Clock and temperature of what computes beside the processor: an NVIDIA card, or the GPU of a Jetson board."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ofa.hardware.timing import read_number

DEVFREQ = Path("/sys/class/devfreq")
THERMAL = Path("/sys/class/thermal")
JETSON_GPU = re.compile(
    r"\.(gpu|g[a-z]\d+b)$"
)  # 17000000.gpu; by its chip on older systems: 17000000.ga10b, 57000000.gm20b


@dataclass(frozen=True)
class Accelerator:
    """What can be read of it: in MHz and in degrees Celsius; ``None`` where it does not tell."""

    clock_mhz: Callable[[], float | None]
    temperature_c: Callable[[], float | None]


NONE = Accelerator(lambda: None, lambda: None)


def find_accelerator(devfreq: Path = DEVFREQ, thermal: Path = THERMAL) -> Accelerator:
    """That of this machine: the board's own, or else the first NVIDIA card, if ``nvidia-ml-py`` is there."""
    own = [folder for folder in sorted(devfreq.glob("*")) if JETSON_GPU.search(folder.name)]
    if own:
        zones = [zone for zone in sorted(thermal.glob("thermal_zone*")) if _is_of_gpu(zone)]
        return Accelerator(
            lambda: _scaled(own[0] / "cur_freq", 1e-6),
            lambda: _scaled(zones[0] / "temp", 1e-3) if zones else None,
        )
    try:
        pynvml = importlib.import_module("pynvml")
    except ImportError:
        return NONE
    return _card(pynvml)


def _card(pynvml: Any) -> Accelerator:
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    except pynvml.NVMLError:  # no driver, no card
        return NONE

    def read(name: str, which: int) -> float | None:
        try:
            return float(getattr(pynvml, name)(handle, which))
        except pynvml.NVMLError:
            return None

    return Accelerator(
        lambda: read("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_SM),
        lambda: read("nvmlDeviceGetTemperature", pynvml.NVML_TEMPERATURE_GPU),
    )


def _is_of_gpu(zone: Path) -> bool:
    try:
        return (zone / "type").read_text().lower().startswith("gpu")
    except OSError:
        return False


def _scaled(path: Path, factor: float) -> float | None:
    value = read_number(path)
    return None if value is None else value * factor
