"""Gradients averaged over processes, in buckets that leave while a step's last backward pass still goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, distributed, nn

from ofa.training.gradients import Gradients

BUCKET_BYTES = 25_000_000
Send: TypeAlias = Callable[[Tensor], Any]
"""Begins to sum a tensor over the processes, in place; what it gives has ``wait()``."""


def send(tensor: Tensor) -> Any:
    return distributed.all_reduce(tensor, async_op=True)


@dataclass(frozen=True)
class _Bucket:
    """Gradients of some parameters on their way, in one tensor."""

    gradients: Gradients
    flat: Tensor
    work: Any

    @classmethod
    def of(cls, gradients: Gradients, send: Send) -> _Bucket | None:
        """``None`` where there are none."""
        pieces = [gradient.reshape(-1).float() for gradient in gradients if gradient is not None]
        if not pieces:
            return None
        flat = torch.cat(pieces)
        return cls(gradients, flat, send(flat))

    def averaged(self, num_processes: int) -> Gradients:
        self.work.wait()
        sizes = [0 if gradient is None else gradient.numel() for gradient in self.gradients]
        return [
            # In the gradient's own layout: fused optimisers step through memory, not through indices.
            None if gradient is None else torch.empty_like(gradient).copy_(part.view(gradient.shape))
            for gradient, part in zip(self.gradients, self.flat.div_(num_processes).split(sizes), strict=True)
        ]


class Reduction:
    """Averages the gradients of a step over processes, each of them once, however many subnets the step has.

    A parameter that no subnet of a step used has no gradient in any process, since all draw the same subnets. Buckets
    hold neighbouring parameters, the last of the model first, for a backward pass comes to these first; they leave in
    that order in all processes, each as soon as nothing more will be added to it.

    Args:
        parameters: What is trained.
        send: For tests.

    References:
        Li et al., PyTorch Distributed, arXiv:2006.15704, sec. 3.2: buckets, their size, overlap. Here the gradients of
        several backward passes add up first, so that only the last one overlaps.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        *,
        num_processes: int,
        bucket_bytes: int = BUCKET_BYTES,
        send: Send = send,
    ) -> None:
        self._parameters, self._num_processes, self._send = parameters, num_processes, send
        self._members: list[list[int]] = [[]]
        num_bytes = 0
        for index in reversed(range(len(parameters))):
            num_bytes += 4 * parameters[index].numel()
            if num_bytes > bucket_bytes and self._members[-1]:
                self._members.append([])
                num_bytes = 4 * parameters[index].numel()
            self._members[-1].append(index)
        self._bucket_of = {index: number for number, members in enumerate(self._members) for index in members}
        self._apart: list[list[_Bucket | None]] = []
        self._awaited: list[set[int]] | None = None
        self._restart()
        for index, parameter in enumerate(parameters):
            parameter.register_post_accumulate_grad_hook(partial(self._arrived, index))

    def _restart(self) -> None:
        self._sent: list[_Bucket | None] = []
        self._again: set[int] = set()

    def send_apart(self, gradients: Gradients) -> None:
        """A set of gradients, one for each parameter or ``None``, that is complete and not to be added to others."""
        self._apart.append(
            [_Bucket.of([gradients[index] for index in members], self._send) for members in self._members]
        )

    @contextmanager
    def last_pass(self, loss: Tensor) -> Iterator[None]:
        """Inside, ``loss.backward()`` is the last that adds to the gradients of this step."""
        self._awaited = [set[int]() for _ in self._members]
        leaves = {id(leaf) for leaf in _leaves(loss)}
        for index, parameter in enumerate(self._parameters):
            if id(parameter) in leaves:
                self._awaited[self._bucket_of[index]].add(index)
        try:
            self._send_complete()
            yield
        finally:
            self._awaited = None

    def _arrived(self, index: int, _: Tensor) -> None:
        if self._awaited is None:
            return
        number = self._bucket_of[index]
        self._awaited[number].discard(index)
        if number < len(self._sent):  # the graph did not show it: that of torch.utils.checkpoint, for one
            self._again.add(number)
        self._send_complete()

    def _send_complete(self) -> None:
        while self._awaited and len(self._sent) < len(self._members) and not self._awaited[len(self._sent)]:
            self._sent.append(self._gathered(len(self._sent)))

    def _gathered(self, number: int) -> _Bucket | None:
        return _Bucket.of([self._parameters[index].grad for index in self._members[number]], self._send)

    def finish(self, numbers: Tensor) -> tuple[list[Gradients], Tensor]:
        """Wait for everything.

        Args:
            numbers: ``(K,)``; losses and flags that all processes must agree on.

        Returns:
            Averages of the sets that were sent apart and, last, of the parameters' gradients; and of the numbers.
        """
        while len(self._sent) < len(self._members):
            self._sent.append(self._gathered(len(self._sent)))
        for number in sorted(self._again):
            if (early := self._sent[number]) is not None:
                early.work.wait()
            self._sent[number] = self._gathered(number)
        numbers = numbers.float()
        told = self._send(numbers)
        found = [self._averaged(buckets) for buckets in (*self._apart, self._sent)]
        told.wait()
        self._apart = []
        self._restart()
        return found, numbers.div_(self._num_processes)

    def _averaged(self, buckets: Sequence[_Bucket | None]) -> Gradients:
        averaged: Gradients = [None] * len(self._parameters)
        for members, bucket in zip(self._members, buckets, strict=True):
            if bucket is not None:
                for index, gradient in zip(members, bucket.averaged(self._num_processes), strict=True):
                    averaged[index] = gradient
        return averaged


def _leaves(loss: Tensor) -> Iterator[Tensor]:
    """What a backward pass from here adds gradients to."""
    waiting, seen = [loss.grad_fn], set[Any]()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        waiting += [before for before, _ in node.next_functions]
