"""From the latencies of parts to that of a network: a small structured correction.

A part that is measured on its own pays for one call of the runtime, which a network pays once, and it converts its
input and output to and from the runtime's inner layout, which its neighbours in a network save. The first is measured
(an empty graph) and subtracted. The second is fitted on a few dozen whole subnets: for each stage a scale, and an
offset for each part that the stage holds.

A part on its own also keeps its weights in a core's caches from run to run, where those of a network follow each other
through them. Convolutions hardly feel it; of transformers of few tokens and wide layers it is a fifth of the latency,
so where it tells, a term for each parameter is fitted as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RIDGES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)  # the strongest pull first
GOOD_ENOUGH = 1.1


@dataclass(frozen=True)
class Correction:
    """``call_overhead_ms + sum over parts of (part - call_overhead_ms) * scale + offset_ms + params * ms_per_param``.

    Args:
        call_overhead_ms: Latency of an empty graph.
        scale: Per stage; 1 where nothing is known.
        offset_ms: Per stage, for each of its parts; 0 where nothing is known.
        ridge: The strength of the pull towards scale 1 and offset 0; ``None`` if nothing was fitted.
        num_fit: Number of whole subnets behind it.
        ms_per_param: For each parameter of a part, what its weights take on their way through the caches.
    """

    call_overhead_ms: float
    scale: Mapping[str, float] = field(default_factory=dict)
    offset_ms: Mapping[str, float] = field(default_factory=dict)
    ridge: float | None = None
    num_fit: int = 0
    ms_per_param: float = 0.0

    def part_in_network_ms(self, stage: str, part_ms: Floats, num_params: Floats | float = 0.0) -> Floats:
        """What parts that took ``part_ms`` on their own add to a network; never less than nothing."""
        alone = part_ms - self.call_overhead_ms
        corrected: Floats = alone * self.scale.get(stage, 1.0) + self.offset_ms.get(stage, 0.0)
        return np.maximum(corrected + num_params * self.ms_per_param, 0.0)


def fit_correction(
    stages: Sequence[str],
    stage_ms: Floats,
    stage_parts: Floats,
    measured_ms: Floats,
    *,
    call_overhead_ms: float,
    num_params: Floats | None = None,
) -> Correction:
    """Fit the correction on whole subnets, by ridge regression on relative errors.

    The ridge pulls towards the physical prior (scale 1, offset 0). Its leave-one-out error decides how strongly: as
    strongly as possible within a tenth of the least error, because stages that hardly vary (the stem) would otherwise
    be given large scales that cancel each other.

    Args:
        stages: Names of the ``S`` stages.
        stage_ms: Sum over each stage's parts of their own latency less the call overhead, shape ``(N, S)``.
        stage_parts: Number of parts in each stage, shape ``(N, S)``.
        measured_ms: Latencies of the whole subnets, shape ``(N,)``.
        num_params: Parameters of each subnet's parts, shape ``(N,)``. They are left out of the fit unless it errs by
            more than a tenth more without them.
    """
    num_fit = len(measured_ms)
    if num_fit == 0:
        return Correction(call_overhead_ms)
    # Offsets count in mean parts of the stage, so that one ridge strength suits scales and offsets.
    mean_part_ms = stage_ms.sum(axis=0) / np.maximum(stage_parts.sum(axis=0), 1)
    features = np.hstack([stage_ms, stage_parts * mean_part_ms]) / measured_ms[:, None]
    target = 1 - (call_overhead_ms + stage_ms.sum(axis=1)) / measured_ms
    num, ms_per_param, sets = len(stages), 0.0, [features]
    if num_params is not None and num_params.any():
        ms_per_param = float(stage_ms.sum() / num_params.sum())
        sets.append(np.hstack([features, (num_params * ms_per_param / measured_ms)[:, None]]))
    fits = [(strength, *_ridge(each, target, strength)) for each in sets for strength in RIDGES]
    # No stage makes a network faster, and no weights do.
    physical = [fit for fit in fits if (fit[1][:num] > -1).all() and (fit[1][2 * num :] >= 0).all()]
    limit = GOOD_ENOUGH * min(error for _, _, error in physical)
    ridge, coefficients, _ = next(fit for fit in physical if fit[2] <= limit)
    scale, offset, weights = np.split(coefficients, [num, 2 * num])
    return Correction(
        call_overhead_ms,
        dict(zip(stages, (1 + scale).tolist(), strict=True)),
        dict(zip(stages, (offset * mean_part_ms).tolist(), strict=True)),
        ridge=ridge,
        num_fit=num_fit,
        ms_per_param=float(weights.sum()) * ms_per_param,
    )


def _ridge(features: Floats, target: Floats, strength: float) -> tuple[Floats, float]:
    """Coefficients, and their leave-one-out error in closed form."""
    solver = np.linalg.solve(features.T @ features + strength * np.eye(features.shape[1]), features.T)
    residuals = (target - features @ (solver @ target)) / (1 - np.einsum("ij,ji->i", features, solver))
    return solver @ target, float(np.sqrt((residuals**2).mean()))
