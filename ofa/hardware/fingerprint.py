"""On what machine and with what software something was measured."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ofa.hardware.accelerator import NONE, Accelerator
from ofa.hardware.runtimes import RUNTIMES
from ofa.hardware.timing import CLOCK_FREQUENCY, TEMPERATURE, read_number
from ofa.setting import Setting

GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def fingerprint(setting: Setting) -> dict[str, Any]:
    """What decides the speed on this machine.

    Measurements compare only if their ``id`` is the same: it covers everything but ``conditions``, which change from
    minute to minute, and the kernel's version.
    """
    stable = {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "machine": platform.machine(),
        "system": platform.system(),
        "governor": _read(GOVERNOR),
        "runtime": {"name": setting.runtime, **RUNTIMES[setting.runtime]().versions()},
        "precision": setting.precision,
        "batch": setting.batch,
        "threads": setting.threads,
        **({"cold": True} if setting.cold else {}),
    }
    return identified(stable, kernel=platform.release(), conditions=conditions())


def identified(stable: Mapping[str, Any], *, kernel: str, conditions: Mapping[str, Any]) -> dict[str, Any]:
    """A fingerprint, whose ``id`` covers what is stable."""
    digest = hashlib.sha256(json.dumps(stable, sort_keys=True).encode()).hexdigest()[:12]
    return {"id": digest, **stable, "kernel": kernel, "conditions": conditions}


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """In what two fingerprints differ, in words; nothing if they are of one machine."""
    if there.get("id") == here["id"]:
        return ""
    names = [name for name in here if name not in ("id", "kernel", "conditions") and there.get(name) != here[name]]
    return "; ".join(f"{name} {there.get(name)} there, {here[name]} here" for name in names) or "of another kind"


def conditions(accelerator: Accelerator = NONE) -> dict[str, float | None]:
    """Load, clock and temperature at this moment; ``None`` where this machine does not tell.

    Args:
        accelerator: What computes; clock and temperature are its own where it tells them.
    """
    clock_khz, millidegrees = read_number(CLOCK_FREQUENCY), read_number(TEMPERATURE)
    own_mhz, own_c = accelerator.clock_mhz(), accelerator.temperature_c()
    return {
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "clock_mhz": own_mhz or (clock_khz / 1000 if clock_khz else None),
        "temperature_c": own_c or (millidegrees / 1000 if millidegrees else None),
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU's own name; that of its family where the system tells no more."""
    for line in (_read(cpuinfo) or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    brand = ""
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        brand = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return brand or platform.processor() or platform.machine()


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # not Linux, a container without it, or not ours to read
        return None
