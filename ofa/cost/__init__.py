"""What an architecture costs: sums of factors, latency tables. No torch here."""

from ofa.cost.cost_model import (
    CostModel,
    Factor,
    bytes_on,
    file_bytes,
    macs,
    model_bytes,
    params,
    peak_activation_bytes,
)
from ofa.cost.fit import FitError, fit_latency
from ofa.cost.latency_table import LatencyTable, LatencyTableError, MissingLatencyError, RefusedTableError

__all__ = [
    "CostModel",
    "Factor",
    "FitError",
    "LatencyTable",
    "LatencyTableError",
    "MissingLatencyError",
    "RefusedTableError",
    "bytes_on",
    "file_bytes",
    "fit_latency",
    "macs",
    "model_bytes",
    "params",
    "peak_activation_bytes",
]
