"""Many devices at once: machines work side by side, devices of one machine one after another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from ofa.errors import OfaError
from ofa.hardware.device import Device
from ofa.hardware.transports import Local
from ofa.progress import Progress, notice

T = TypeVar("T")
SHOWN = 3
LOOK_SECONDS = 0.2


def on_each(
    devices: Sequence[Device], call: Callable[[Device, Progress], T], progress: Progress | None = None
) -> list[T | OfaError | OSError]:
    """What a call gives for each device, or its error, in their order; one that fails does not stop the others.

    Devices of this machine come last and alone: what others want of it, such as exports, would disturb them.

    Args:
        call: Is made in a thread of its own for each other machine.
        progress: Gets one account of all.
    """
    found: dict[str, T | OfaError | OSError] = {}
    account = _Account(len(devices), progress)

    def work(group: Sequence[Device]) -> None:
        for device in group:
            try:
                found[device.name] = call(device, account.of(device.name))
            except (OfaError, OSError) as error:
                found[device.name] = error
                notice(progress, f"{device.name}: {error}")
            except BaseException as error:  # a fault of ours, raised below
                faults.append(error)
                return
            account.finish(device.name)

    faults: list[BaseException] = []
    groups: dict[object, list[Device]] = {}
    for device in devices:
        groups.setdefault(device.host.machine, []).append(device)
    here = groups.pop(Local().machine, [])
    # They end with this process, however it ends; what they measured is kept as it comes.
    threads = [threading.Thread(target=work, args=(group,), daemon=True) for group in groups.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(LOOK_SECONDS)
    work(here)
    if faults:
        raise faults[0]
    return [found[device.name] for device in devices]


class _Account:
    """How far all of them are, in one line."""

    def __init__(self, num: int, progress: Progress | None) -> None:
        self._num, self._progress, self._lock = num, progress, threading.Lock()
        self._steps: dict[str, tuple[int, int]] = {}
        self._done: set[str] = set()

    def of(self, name: str) -> Progress:
        def report(done: int, total: int, what: str) -> None:
            if not total:
                notice(self._progress, f"{name}: {what}")
                return
            with self._lock:
                self._steps[name] = (done, total)
            self._say(what)

        return report

    def finish(self, name: str) -> None:
        with self._lock:
            self._done.add(name)
        self._say("")

    def _say(self, what: str) -> None:
        if self._progress is None:
            return
        with self._lock:
            under_way = {name: steps for name, steps in self._steps.items() if name not in self._done}
            slowest = sorted(under_way, key=lambda name: under_way[name][0] / under_way[name][1])[:SHOWN]
            shares = ", ".join(f"{name} {100 * under_way[name][0] // under_way[name][1]} %" for name in slowest)
            text = what if len(under_way) == 1 and what else f"{self._num} devices: {shares}" if shares else "devices"
            self._progress(len(self._done), self._num, text)
