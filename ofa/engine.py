"""Where work runs: here, in worker processes, or on a Ray cluster. It knows nothing of networks.

Results come in the order of what was asked, whoever is done first, and the work of a worker that dies is done again by
another: what comes out does not depend on how many work, but for what depends on the number of threads of each.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, TypeVar

from ofa.errors import UsageError
from ofa.optional import extra, require
from ofa.system import tied

T = TypeVar("T")
R = TypeVar("R")

MAX_LOSSES = 3
"""Workers that may die over one piece of work."""
LOCAL = "local"
SHARES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LOKY_MAX_CPU_COUNT")
"""What tells a worker how many of the cores are its own."""


class WorkersLostError(UsageError):
    """Workers died again and again over the same piece of work."""

    def __init__(self) -> None:
        super().__init__(
            f"{MAX_LOSSES} worker processes died over the same work, as they do where memory runs out; give fewer with "
            "--workers, or evaluate here, with none"
        )


class Engine(Protocol):
    """Something that makes calls."""

    @property
    def num_workers(self) -> int:
        """Calls that are made at a time."""
        ...

    def map(self, call: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """What a call gives for each item, in their order; call, items and results can be pickled.

        Raises:
            WorkersLostError: If workers die over an item again and again.
        """
        ...


class Here:
    """In this process, one call after another."""

    num_workers = 1

    def map(self, call: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        return map(call, items)


class Processes:
    """In processes of this machine, which share its cores and end with this one.

    Args:
        num: Of them.
    """

    def __init__(self, num: int) -> None:
        self.num_workers = check_workers(num)
        self._executor: Any = None
        self._num_started = 0

    def map(self, call: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        own = partial(tied, os.getpid(), call)
        futures: dict[int, Future[R]] = {}
        losses = 0
        try:
            for index in range(len(items)):
                while True:
                    try:
                        for other in range(index, len(items)) if index not in futures else ():
                            if other not in futures:
                                futures[other] = self._started(len(items)).submit(own, items[other])
                        found = futures.pop(index).result()
                        break
                    except BrokenProcessPool:  # one died, and what the others were at is lost with it
                        self.close()
                        losses += 1
                        if losses >= MAX_LOSSES:
                            raise WorkersLostError from None
                        whole = (each for each in futures.items() if each[1].done() and not each[1].exception())
                        futures = dict(whole)
                yield found
                losses = 0
        finally:
            for future in futures.values():
                future.cancel()

    def _started(self, num_items: int) -> Any:
        """The processes, which stay, and keep what they have loaded, until this is closed or more are of use."""
        num = min(self.num_workers, num_items)
        if num > self._num_started:
            self.close()
        if self._executor is None:
            from joblib import cpu_count
            from joblib.externals.loky import ProcessPoolExecutor

            threads = str(max(1, cpu_count() // num))
            self._executor = ProcessPoolExecutor(num, timeout=None, env=dict.fromkeys(SHARES, threads))
            self._num_started = num
        return self._executor

    def close(self) -> None:
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True, kill_workers=True)


class Ray:
    """On the cores of a Ray cluster, whose machines have this package and see the same folders.

    Args:
        address: Of the cluster's head, ``auto``, or ``local``: on this machine, started and stopped with this.
        num_workers: Cores to use; without any all that the cluster has.
    """

    def __init__(self, address: str, num_workers: int | None = None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_task_oom_retries", str(MAX_LOSSES - 1))  # without end, where memory runs out
        self._ray: Any = require("ray", extra("ray"))
        self._here = os.getcwd()
        own = {"num_cpus": num_workers, "include_dashboard": False} if address == LOCAL else {}
        try:
            self._ray.init(address=address, **own, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"no Ray cluster answers at {address!r} ({error}); start one (`ray start --head`), or give --ray local"
            ) from None
        self.num_workers = num_workers or max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def map(self, call: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        ray = self._ray
        here = self._here

        def made(item: T) -> R:
            return _at(here, call, item)

        remote = ray.remote(num_cpus=1, max_retries=MAX_LOSSES - 1)(made)
        waiting: list[Any] = []
        for index in range(len(items)):
            waiting += [remote.remote(item) for item in items[index + len(waiting) : index + self.num_workers]]
            try:
                yield ray.get(waiting.pop(0))
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError:
                raise WorkersLostError from None

    def close(self) -> None:
        self._ray.shutdown()


def _at(folder: str, call: Callable[[T], R], item: T) -> R:
    """A call that finds the files that the one who asked for it would find."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise UsageError(
            f"a machine of the cluster does not see {folder} ({error}); begin in a folder that all of them see"
        ) from None
    return call(item)


def check_workers(num: int) -> int:
    """The number; :class:`UsageError` if it makes no sense."""
    if num < 1:
        raise UsageError(f"--workers must be at least 1, not {num}")
    return num


@contextmanager
def opened(workers: int | None, ray: str | None = None) -> Iterator[Engine]:
    """Where to work, for as long as the block lasts.

    Args:
        workers: Processes of this machine, or cores of the cluster; ``None`` is this process, or all of the cluster.
        ray: Address of a Ray cluster, or ``local``.
    """
    if workers is not None:
        check_workers(workers)
    if ray is None and workers in (None, 1):
        yield Here()
        return
    where = Processes(workers or 1) if ray is None else Ray(ray, workers)
    try:
        yield where
    finally:
        where.close()
