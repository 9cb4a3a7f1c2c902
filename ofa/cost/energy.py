"""Energy of whole subnets from that of their parts: it adds up as latency does, and is kept in the latency table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ofa.cost.correction import Correction, Floats, fit_correction
from ofa.cost.cost_model import CostModel
from ofa.cost.held_out import held_out_errors
from ofa.cost.latency_table import ENERGY, LATENCIES, LatencyTable
from ofa.errors import UsageError
from ofa.space import Population


def energy_mj(table: LatencyTable) -> CostModel:
    """Millijoules of one image, as a sum of factors; all that the counter saw, what the machine takes anyway included.

    Raises:
        UsageError: If energy was not measured with the table.
    """
    if "energy" not in table.details or ENERGY not in table.entries:
        raise UsageError(
            f"the latency table of device {table.device!r} holds no energy; measure it with `ofa profile --energy`"
        )
    model = _as_latencies(table, Correction(**table.details["energy"]["correction"])).cost_model
    model.name = ENERGY
    return model


def with_energy(
    table: LatencyTable,
    measured_mj: Floats,
    population: Population,
    *,
    num_fit: int,
    call_mj: float,
    facts: Mapping[str, Any],
) -> LatencyTable:
    """A table with a correction of its energies, and the errors that they make.

    Args:
        table: Has a column of the parts' energies.
        measured_mj: Of whole subnets, shape ``(N,)``.
        population: The subnets, shape ``(N, D)``; the first ``num_fit`` fit the correction, the others judge it.
        call_mj: Of the empty graph.
        facts: What else is to be said of the measurement.
    """
    fit, held_out = slice(num_fit), slice(num_fit, None)
    stage_mj, stage_parts = _as_latencies(table, Correction(call_mj)).stage_sums(population)
    correction = fit_correction(
        table.stages, stage_mj[fit], stage_parts[fit], measured_mj[fit], call_overhead_ms=call_mj
    )
    predicted_mj = _as_latencies(table, correction).cost_model.predict(population[held_out])
    errors = held_out_errors(predicted_mj, measured_mj[held_out], baselines={}, fit_ms=measured_mj[fit])
    told = {name: errors[name] for name in ("mape_percent", "spearman")}
    energy = {**facts, "correction": dataclasses.asdict(correction), **told}
    return dataclasses.replace(table, details={**table.details, "energy": energy})


def _as_latencies(table: LatencyTable, correction: Correction) -> LatencyTable:
    """The table with millijoules in the place of milliseconds."""
    entries = table.entries.assign(**dict.fromkeys(LATENCIES, table.entries[ENERGY]))
    return dataclasses.replace(table, entries=entries, correction=correction)
