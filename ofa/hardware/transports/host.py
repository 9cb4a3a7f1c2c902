"""Where a device is: here, or where a transport reaches it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ofa.config import Named
from ofa.errors import OfaError
from ofa.files import sha256_of_file
from ofa.hardware.fingerprint import fingerprint
from ofa.hardware.runner import Job, time_on_device
from ofa.hardware.runtimes import Model, ModelError
from ofa.hardware.runtimes.session import check_exists, naming
from ofa.hardware.timing import TimingResult
from ofa.setting import Setting


class HostError(OfaError, OSError):
    """A machine cannot be reached, or does not answer as it should."""


class Host(Named):
    """A machine that measures; its fields are what a device's YAML says of it.

    Attributes:
        takes_settings: Whether our own runner measures there, which knows all of a :class:`Setting`.
        is_queue: Whether whoever asks waits, or is charged, each time: all blocks are asked for at once.
    """

    takes_settings: ClassVar[bool] = False
    is_queue: ClassVar[bool] = False

    @property
    def machine(self) -> object:
        """What tells it from other machines: two devices of one are never measured at the same time.

        It is what the device's file says, so files of one machine must name it alike.
        """
        raise NotImplementedError

    def fingerprint(self, setting: Setting) -> dict[str, Any]:
        """On what machine and with what software is measured.

        Raises:
            NotInstalledError: If the runtime is not there.
            HostError: If the machine cannot be reached.
        """
        raise NotImplementedError

    def cost_text(self, setting: Setting, num_blocks: Mapping[str, int]) -> str:
        """What a measurement costs, to be said before it; nothing where it takes nobody's machine or money.

        Args:
            num_blocks: Of each model; of none where only the fingerprint is asked for.

        Raises:
            UsageError: If that is more than the device's file allows.
        """
        return ""

    def time(self, job: Job) -> TimingResult:
        """Time models against each other, see :func:`~ofa.hardware.timing.time_models`.

        Raises:
            ModelError: If a model cannot be run there.
            NotInstalledError: If the runtime is not there.
            HostError: If the machine cannot be reached, after several tries.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Local(Host):
    """Measured within this process."""

    takes_settings: ClassVar[bool] = True

    @property
    def machine(self) -> object:
        return "this machine"

    def fingerprint(self, setting: Setting) -> dict[str, Any]:
        return fingerprint(setting)

    def time(self, job: Job) -> TimingResult:
        return time_on_device(job)


def sha256_to_send(name: str, model: Model, suffix: str, *, to: str) -> str:
    """The hash of a model that is sent elsewhere; :class:`ModelError` if it is none that can be."""
    if isinstance(model, bytes):
        return hashlib.sha256(model).hexdigest()
    if not isinstance(model, (str, Path)):
        raise ModelError(f"{name}: only files can be sent to {to}; choose a device of another runtime")
    with naming(name):
        check_exists(model, f"a .{suffix}")
    return sha256_of_file(model)
