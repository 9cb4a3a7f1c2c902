"""Where work runs: here, in worker processes, or on a Ray cluster. It knows nothing of networks.

Results come in the order of what was asked, whoever is done first, and the work of a worker that dies is done again by
another: what comes out does not depend on where it ran, nor on how many did it.
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
AHEAD = 2
"""Pieces of work, for each worker, that a cluster has at a time."""
LOCAL = "local"


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
        if num < 1:
            raise UsageError(f"--workers must be at least 1, not {num}")
        self.num_workers = num

    def map(self, call: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        own = partial(tied, os.getpid(), call)
        futures: dict[int, Future[R]] = {}
        losses = 0
        try:
            for index in range(len(items)):
                while True:
                    if index not in futures:
                        executor, missing = self._executor(), set(range(index, len(items))) - futures.keys()
                        futures |= {other: executor.submit(own, items[other]) for other in sorted(missing)}
                    try:
                        found = futures.pop(index).result()
                        break
                    except BrokenProcessPool:  # one died, and what the others were at is lost with it
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

    def _executor(self) -> Any:
        from joblib import cpu_count
        from joblib.externals.loky import get_reusable_executor

        threads = str(max(1, cpu_count() // self.num_workers))
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        return get_reusable_executor(max_workers=self.num_workers, env=dict.fromkeys(names, threads))


class Ray:
    """On the cores of a Ray cluster, whose machines have this package and see the same folders.

    Args:
        address: Of the cluster's head, ``auto``, or ``local``: on this machine, started and stopped with this.
        num_workers: Cores to use; without any all that the cluster has.
    """

    def __init__(self, address: str, num_workers: int | None = None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._ray: Any = require("ray", extra("ray"))
        where = {"num_cpus": num_workers, "include_dashboard": False} if address == LOCAL else {"address": address}
        try:
            self._ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"no Ray cluster answers at {address!r} ({error}); start one (`ray start --head`), or give --ray local"
            ) from None
        self.num_workers = num_workers or max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def map(self, call: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        ray = self._ray

        def made(item: T) -> R:
            return call(item)

        remote = ray.remote(num_cpus=1, max_retries=MAX_LOSSES - 1)(made)
        waiting: list[Any] = []
        at_a_time = AHEAD * self.num_workers
        for index in range(len(items)):
            waiting += [remote.remote(item) for item in items[index + len(waiting) : index + at_a_time]]
            try:
                yield ray.get(waiting.pop(0))
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError):
                raise WorkersLostError from None

    def close(self) -> None:
        self._ray.shutdown()


@contextmanager
def opened(workers: int, ray: str | None = None) -> Iterator[Engine]:
    """Where to work, for as long as the block lasts.

    Args:
        workers: Processes of this machine, or cores of the cluster; 1 is this process, or all cores of the cluster.
        ray: Address of a Ray cluster, or ``local``.
    """
    if ray is None:
        yield Here() if workers == 1 else Processes(workers)
        return
    cluster = Ray(ray, workers if workers > 1 else None)
    try:
        yield cluster
    finally:
        cluster.close()
