"""Latency of any network on a device whose kernels were measured, with how sure that is and what it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ofa.estimate.kernels import Kernel, Kernels
from ofa.estimate.operators import OperatorTable

MAX_UNSEEN_PERCENT = 5.0


@dataclass(frozen=True)
class KernelCost:
    """What all kernels of one kind and one shape take in a network.

    Args:
        count: How many there are.
        latency_ms: Of all of them.
        is_known: Whether such kernels were measured.
    """

    kernel: Kernel
    count: int
    latency_ms: float
    is_known: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kernel.kind,
            "inputs": [str(value) for value in self.kernel.inputs],
            "outputs": [str(value) for value in self.kernel.outputs],
            "count": self.count,
            "macs": self.kernel.macs * self.count,
            "latency_ms": round(self.latency_ms, 6),
            "is_known": self.is_known,
        }


@dataclass(frozen=True)
class Estimate:
    """A network's latency.

    Args:
        latency_ms: At the typical speed of the machine when its operators were measured.
        interval_ms: Where 90 of 100 networks are that get this estimate.
        unseen_percent: Of its multiply-accumulates, in kernels of kinds or sizes that were never measured; of its
            latency, if it has none.
        costs: Of its kernels, the largest first; what they lack to the latency is the call, and weights on their way.
    """

    latency_ms: float
    interval_ms: tuple[float, float]
    macs: int
    unseen_percent: float
    costs: Sequence[KernelCost]

    @property
    def unseen_kinds(self) -> list[str]:
        """Of kernels that were never measured, the most expensive first: they are taken for what others take."""
        return list(dict.fromkeys(cost.kernel.kind for cost in self.costs if not cost.is_known))

    @property
    def ok(self) -> bool:
        """Whether nearly all of it is known."""
        return self.unseen_percent <= MAX_UNSEEN_PERCENT

    def to_json(self) -> dict[str, Any]:
        return {
            "latency_ms": round(self.latency_ms, 6),
            "interval_ms": [round(value, 6) for value in self.interval_ms],
            "macs": self.macs,
            "unseen_percent": round(self.unseen_percent, 3),
            "unseen_kinds": self.unseen_kinds,
            "kernels": [cost.to_json() for cost in self.costs],
        }


def estimate(kernels: Kernels, table: OperatorTable) -> Estimate:
    """What a network with these kernels takes."""
    posterior, each = table.posterior, list(kernels)
    total_ms, share = posterior.predict_ms(kernels), table.interval(kernels)
    costs = [
        KernelCost(kernel, kernels[kernel], float(ms) * kernels[kernel], posterior.is_known(kernel))
        for kernel, ms in zip(each, posterior.kernel_ms(each), strict=True)
    ]
    macs = np.array([cost.kernel.macs * cost.count for cost in costs], dtype=float)
    weights = macs if macs.any() else np.array([cost.latency_ms for cost in costs])
    unseen = float(weights @ [not cost.is_known for cost in costs] / max(weights.sum(), 1e-12))
    return Estimate(
        latency_ms=total_ms,
        interval_ms=(total_ms * max(0.0, 1 - share), total_ms * (1 + share)),
        macs=int(macs.sum()),
        unseen_percent=100 * unseen,
        costs=sorted(costs, key=lambda cost: -cost.latency_ms),
    )
