"""A device is data: runtime, precision, batch, threads and host, one YAML file each in ``devices/``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ofa.config import ConfigError, from_mapping, read_yaml, to_plain
from ofa.errors import OfaError, unknown_name_message
from ofa.files import check_file_name
from ofa.hardware.runtimes import RUNTIMES
from ofa.hardware.transports import Host, Local
from ofa.setting import Setting


class UnknownDeviceError(OfaError, LookupError):
    """No device has this name."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """A target to measure on and deploy to: what networks run in, and where.

    Args:
        name: That of the YAML file; latency tables and results are filed under it.
        host: Where it is measured: ``local``, or a transport with its settings.

    Raises:
        ConfigError: If a value is not among the choices, or if the runtime cannot compute in the precision.
        UsageError: If no file can be called so.
    """

    name: str
    setting: Setting
    host: Host = field(default_factory=Local)
    description: str = ""

    def __post_init__(self) -> None:
        setting = self.setting
        check_file_name("name", self.name)
        if setting.runtime not in RUNTIMES:
            raise ConfigError(unknown_name_message("runtime", setting.runtime, RUNTIMES))
        precisions = RUNTIMES[setting.runtime]().precisions
        if setting.precision not in precisions:
            choices = ", ".join(precisions)
            raise ConfigError(
                f"precision cannot be {setting.precision!r} with runtime {setting.runtime!r}; choices: {choices}"
            )
        for key in ("batch", "threads"):
            if getattr(setting, key) < 1:
                raise ConfigError(f"{key} must be at least 1, not {getattr(setting, key)}")
        if setting.cold and not (RUNTIMES[setting.runtime]().on_cpu and self.host.takes_settings):
            raise ConfigError(f"cold is for runtimes that our own process runs on a CPU, not {setting.runtime!r} there")

    @property
    def can_be_cold(self) -> bool:
        """Whether calls can be timed after others used the caches, and are not anyway."""
        return RUNTIMES[self.setting.runtime]().on_cpu and not self.setting.cold and self.host.takes_settings

    def to_json(self) -> dict[str, Any]:
        """Flat, as the YAML file is."""
        setting = to_plain(self.setting)
        cooling = {key: setting.pop(key) for key in ("cool_below_c", "cold")}
        host = {"host": to_plain(self.host)}
        return {"name": self.name, **setting, **host, **cooling, "description": self.description}


def list_devices() -> dict[str, Path]:
    """The YAML file of each device: those of ``devices/`` in the current directory, then those that ``ofa`` brings."""
    package = Path(__file__).parents[1]
    # In the package where that is installed, beside it in a clone.
    own = package / "devices" if (package / "devices").is_dir() else package.parent / "devices"
    paths = [path for folder in (own, Path("devices")) for path in sorted(folder.glob("*.yaml"))]
    return {path.stem: path for path in paths}


def load_device(name_or_path: str | Path) -> Device:
    """Read a device by name, or from a YAML file.

    Raises:
        UnknownDeviceError: If the name is unknown; it lists the known ones.
        ConfigError: If the file is missing or malformed, or if a key or value is not among the known ones.
    """
    path = Path(name_or_path)
    if path.suffix != ".yaml":
        devices = list_devices()
        if str(name_or_path) not in devices:
            message = unknown_name_message("device", str(name_or_path), sorted(devices))
            raise UnknownDeviceError(f"{message}; or give the path of a .yaml file")
        path = devices[str(name_or_path)]
    where = f"device {path}"
    values: dict[str, Any] = {"name": path.stem, **read_yaml(path, kind="device")}
    own: dict[str, Any] = {key: values.pop(key) for key in ("name", "host", "description") if key in values}
    known = [field.name for field in dataclasses.fields(Setting)]
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: {unknown_name_message('key', key, [*known, 'host', 'description'])}")
    setting = from_mapping(Setting, values, where=where)
    return from_mapping(Device, {**own, "setting": setting}, where=where)
