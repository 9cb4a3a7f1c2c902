"""What was measured of a device's kernels, on disk: samples and whole networks with the kernels that each ran."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ofa.config import Record, check_record, to_plain
from ofa.cost.latency_table import BETWEEN_PROCESSES_PERCENT
from ofa.estimate.fit import Observed, Posterior, Strengths, fit
from ofa.estimate.kernels import Kernel, Kernels, Value
from ofa.files import FORMAT, FileFormatError, read_csv, read_json, sha256_of_file, write_csv_atomic, write_json_atomic

REMEDY = "measure it with `ofa profile --operators --device NAME`"
TEXT = ("network", "role", "op", "outputs")
NUMBERS = ("latency_ms", "error", "count")
FACTS = ("device", "fingerprint", "held_out", "details", "strengths")
WHOLE, SAMPLE = "network", "sample"
FAR_PERCENT = 10.0  # an error beyond is too large: nn-Meter's and ours


@dataclass(frozen=True, kw_only=True, eq=False)
class OperatorTable:
    """Measured networks, from which any other's latency follows.

    Args:
        networks: By name: samples (see :mod:`ofa.estimate.samples`), and whole networks.
        device: Name of the device.
        fingerprint: On what machine and with what software they were measured.
        held_out: Errors of each, predicted without it; see :func:`held_out_errors`.
        details: Further facts about the measurement.
        strengths: Those of an earlier fit, which takes the longest to find.
    """

    networks: Mapping[str, Observed]
    device: str
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    held_out: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    strengths: Strengths | None = None

    @cached_property
    def posterior(self) -> Posterior:
        """What follows from them: seconds of work."""
        return fit(list(self.networks.values()), self.strengths)

    def interval(self, kernels: Kernels) -> float:
        """By which share a network may be slower or faster than predicted, in 90 of 100 cases."""
        from scipy.stats import t as student  # here, as it takes long to load

        num_whole = sum(network.is_whole for network in self.networks.values())
        deviation = math.hypot(self.posterior.deviation(kernels), BETWEEN_PROCESSES_PERCENT / 100)
        return deviation * float(student.ppf(0.95, max(num_whole, 1)))

    def save(self, csv_path: Path) -> None:
        """Write kernels to ``csv_path``, one row for each of a network's, and all else to the ``.json`` beside it."""
        rows = [
            {
                "network": name,
                "role": WHOLE if network.is_whole else SAMPLE,
                "latency_ms": network.latency_ms,
                "error": network.error,
                "count": count,
                **to_texts(kernel),
            }
            for name, network in self.networks.items()
            for kernel, count in network.kernels.items()
        ]
        write_csv_atomic(csv_path, pd.DataFrame(rows))
        facts = {name: to_plain(getattr(self, name)) for name in FACTS}
        csv = {"num_rows": len(rows), "sha256": sha256_of_file(csv_path)}
        write_json_atomic(csv_path.with_suffix(".json"), {"format": FORMAT, **facts, "csv": csv})

    @classmethod
    def load(cls, csv_path: Path) -> OperatorTable:
        """Read what :meth:`save` wrote.

        Raises:
            FileFormatError: If one of the two files is missing, truncated, changed, or of another format.
        """
        path = csv_path.with_suffix(".json")
        data = read_json(path, kind="table of operators", remedy=REMEDY)
        record = check_record(_Record, data, where=f"table of operators {path}", remedy=REMEDY)
        rows = read_csv(csv_path, text=TEXT, numbers=NUMBERS, kind="table of operators", remedy=REMEDY)
        if sha256_of_file(csv_path) != record.csv.get("sha256"):
            raise FileFormatError(f"{csv_path} is not the file that {path} describes; {REMEDY}")
        rows[["inputs", "attributes"]] = rows[["inputs", "attributes"]].astype(object).fillna("")
        try:
            networks = {str(name): _observed(own) for name, own in rows.groupby("network", sort=False)}
        except ValueError as error:
            raise FileFormatError(f"{csv_path}: {error}; {REMEDY}") from None
        return cls(networks=networks, **{name: getattr(record, name) for name in FACTS})


@dataclass(frozen=True, kw_only=True)
class _Record(Record):
    device: str
    fingerprint: Mapping[str, Any]
    held_out: Mapping[str, Any]
    details: Mapping[str, Any]
    strengths: Strengths | None
    csv: Mapping[str, Any]


def _observed(rows: pd.DataFrame) -> Observed:
    first = rows.iloc[0]
    kernels = Counter[Kernel]()
    for row in rows.to_dict("records"):
        kernels[from_texts({str(name): cell for name, cell in row.items()})] += int(row["count"])
    if not first["latency_ms"] > 0:
        raise ValueError(f"latency_ms of {first['network']!r} is {first['latency_ms']}, not above 0")
    return Observed(kernels, float(first["latency_ms"]), float(first["error"]), first["role"] == WHOLE)


def to_texts(kernel: Kernel) -> dict[str, str]:
    """A kernel as cells of a CSV file."""
    return {
        "op": kernel.op,
        "inputs": " ".join(map(str, kernel.inputs)),
        "outputs": " ".join(map(str, kernel.outputs)),
        "attributes": " ".join(f"{name}={value}" for name, value in kernel.attributes),
    }


def from_texts(cells: Mapping[str, Any]) -> Kernel:
    """What :func:`to_texts` wrote; :class:`ValueError` if it cannot be."""
    attributes = [word.split("=", 1) for word in str(cells["attributes"]).split()]
    if any(len(pair) < 2 for pair in attributes):
        raise ValueError(f"attributes {cells['attributes']!r} are none")
    inputs, outputs = (tuple(map(_value, str(cells[name]).split())) for name in ("inputs", "outputs"))
    return Kernel(str(cells["op"]), inputs, outputs, tuple((name, value) for name, value in attributes))


@cache
def _value(text: str) -> Value:
    return Value.parse(text)


def held_out_errors(names: Sequence[str], posterior: Posterior) -> dict[str, Any]:
    """How far off predictions are, each of a network without it; samples by the kind that they mostly consist of.

    Returns:
        ``kinds``: of each kind the number of samples, their median error, and of how many percent it is at most 10 %;
        ``networks``: of each whole network its latency, error in percent, positive where the prediction is too large,
        and the standard deviation that was predicted.
    """
    errors, deviations = posterior.left_out
    by_kind: dict[str, list[float]] = {}
    whole = {}
    for name, network, error, deviation in zip(names, posterior.networks, errors, deviations, strict=True):
        if network.is_whole:
            facts = {
                "latency_ms": network.latency_ms,
                "error_percent": -100 * error,
                "deviation_percent": 100 * deviation,
            }
            whole[name] = {key: round(float(value), 4) for key, value in facts.items()}
            continue
        kernels = list(network.kernels)
        times_ms = posterior.kernel_ms(kernels) * list(network.kernels.values())
        by_kind.setdefault(kernels[int(np.argmax(times_ms))].kind, []).append(100 * abs(float(error)))
    kinds = {
        kind: {
            "num": len(own),
            "median_error_percent": round(float(np.median(own)), 2),
            "within_10_percent": round(100 * float(np.mean(np.array(own) <= FAR_PERCENT)), 1),
        }
        for kind, own in sorted(by_kind.items(), key=lambda item: -len(item[1]))
    }
    return {"kinds": kinds, "networks": whole}
