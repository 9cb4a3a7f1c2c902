"""A device is data: runtime, precision, batch, threads and host, one YAML file each in ``devices/``."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ofa.config import ConfigError, from_mapping, read_yaml, to_plain
from ofa.errors import OfaError, unknown_name_message
from ofa.hardware.runtimes import RUNTIMES
from ofa.hardware.transports import Host, Local


class UnknownDeviceError(OfaError, LookupError):
    """No device has this name."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """A target to measure on and deploy to.

    Args:
        name: That of the YAML file; latency tables and results are filed under it.
        runtime: A name of :data:`ofa.hardware.runtimes.RUNTIMES`.
        batch: Images in one call.
        threads: Threads that compute one call.
        host: Where it is measured: ``local``, or a transport with its settings.
        cool_below_c: Wait, five minutes at most, until the machine is cooler than so many degrees Celsius.

    Raises:
        ConfigError: If a value is not among the choices, or if the runtime cannot compute in the precision.
    """

    name: str
    runtime: str
    precision: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"
    batch: int = 1
    threads: int = 1
    host: Host = field(default_factory=Local)
    cool_below_c: float | None = None
    description: str = ""

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES:
            raise ConfigError(unknown_name_message("runtime", self.runtime, RUNTIMES))
        precisions = RUNTIMES[self.runtime]().precisions
        if self.precision not in precisions:
            choices = ", ".join(precisions)
            raise ConfigError(
                f"precision cannot be {self.precision!r} with runtime {self.runtime!r}; choices: {choices}"
            )
        for key in ("batch", "threads"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key} must be at least 1, not {getattr(self, key)}")

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = to_plain(self)
        return plain


HERE = Device(name="here", runtime="onnxruntime")
"""This process."""


def list_devices() -> dict[str, Path]:
    """The YAML file of each device: those of ``devices/`` in the current directory, then those that ``ofa`` brings."""
    folders = [Path("devices"), Path(__file__).parents[2] / "devices", Path(sys.prefix) / "share" / "ofa" / "devices"]
    paths = [path for folder in reversed(folders) for path in sorted(folder.glob("*.yaml"))]
    return {path.stem: path for path in paths}


def load_device(name_or_path: str | Path) -> Device:
    """Read a device by name, or from a YAML file.

    Raises:
        UnknownDeviceError: If the name is unknown; it lists the known ones.
        ConfigError: If the file is missing or malformed, or if a key or value is not among the known ones.
    """
    path = Path(name_or_path)
    if path.suffix != ".yaml":
        known = list_devices()
        if str(name_or_path) not in known:
            message = unknown_name_message("device", str(name_or_path), sorted(known))
            raise UnknownDeviceError(f"{message}; or give the path of a .yaml file")
        path = known[str(name_or_path)]
    return from_mapping(Device, {"name": path.stem, **read_yaml(path, kind="device")}, where=f"device {path}")
