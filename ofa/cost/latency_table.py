"""Measured latencies of the parts of a search space on one device, and what they predict for whole subnets."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from ofa.config import ConfigError, Record, check_record, from_mapping
from ofa.cost.correction import Correction
from ofa.cost.cost_model import CostModel, Factor
from ofa.errors import OfaError, shown
from ofa.files import FORMAT, FileFormatError, read_csv, read_json, sha256_of_file, write_csv_atomic, write_json_atomic
from ofa.space import Arch, Population, SearchSpace, SpaceError
from ofa.states import States

BETWEEN_PROCESSES_PERCENT = 0.8  # standard deviation of networks at one speed, by scripts/bench_noise.py
REMEDY = "measure it again with `ofa profile --fresh`"
NUM_PARAMS = "num_params"
LATENCIES = ("latency_ms_p10", "latency_ms_p50", "latency_ms_p90")
FACTS = ("device", "fingerprint", "repeatability_percent", "refused", "held_out")
ENERGY = "energy_mj"  # a column of tables that were measured with `--energy`


class MissingLatencyError(OfaError, LookupError):
    """An architecture needs a part that was not measured."""


class LatencyTableError(FileFormatError):
    """A table is damaged, or holds what cannot be a latency."""


class RefusedTableError(LatencyTableError):
    """A table's measurements do not repeat well enough to be trusted."""


class SlotLike(Protocol):
    """A place in the network, as a supernet describes it: see :class:`TableSlot`."""

    @property
    def name(self) -> str: ...
    @property
    def dims(self) -> tuple[str, ...]: ...
    @property
    def keys(self) -> npt.NDArray[np.object_]: ...


@dataclass(frozen=True)
class TableSlot:
    """A place in the network: its stage is what stands before the dot of its name.

    Args:
        dims: Names of the dims that decide which part stands here.
        keys: Keys of the parts, one axis per dim; the empty string where nothing stands here.
    """

    name: str
    dims: tuple[str, ...]
    keys: npt.NDArray[np.object_]


def stage_of(slot: SlotLike) -> str:
    """``stage2`` for ``stage2.block0``."""
    return slot.name.split(".")[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class LatencyTable:
    """A latency table: a CSV file of entries, and beside it a JSON file with all else that prediction needs.

    Args:
        entries: One row per part: ``key``, ``latency_ms_p10``, ``_p50``, ``_p90``, ``num_runs``, ``num_params`` and
            what the key says; ``energy_mj`` of one image where energy was measured, see :mod:`ofa.cost.energy`.
        device: Name of the device.
        fingerprint: On what machine and with what software it was measured.
        held_out: Errors on subnets that were not used to build the table.
        repeatability_percent: By how much two measurements of one subnet differ.
        refused: Whether the measurements repeat too badly to be trusted.
        details: Further facts about the measurement.

    Raises:
        LatencyTableError: If an entry is missing, negative or not a number, or if a key stands twice.
    """

    space: SearchSpace
    slots: Sequence[SlotLike]
    entries: pd.DataFrame
    correction: Correction
    device: str
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    held_out: Mapping[str, Any] = field(default_factory=dict)
    repeatability_percent: float | None = None
    refused: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"latency table of device {self.device!r}"
        for column in ("key", *LATENCIES):
            if column not in self.entries:
                raise LatencyTableError(f"{where} has no column {column!r}; {REMEDY}")
        repeated = self.entries["key"][self.entries["key"].duplicated()]
        if len(repeated):
            raise LatencyTableError(f"{where} has block {repeated.iloc[0]!r} twice; {REMEDY}")
        for column in LATENCIES:
            values = pd.to_numeric(self.entries[column], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
            wrong = ~(np.isfinite(values) & (values >= 0))
            if wrong.any():
                row = int(np.flatnonzero(wrong)[0])
                key, value = self.entries["key"].iloc[row], self.entries[column].iloc[row]
                raise LatencyTableError(f"{where}: block {key!r} has {column} {value}, not a latency; {REMEDY}")

    @cached_property
    def interval_percent(self) -> float:
        """By how many percent a subnet may be slower or faster than predicted, see :func:`interval_percent`."""
        return interval_percent(*(self.held_out.get(key, ()) for key in ("predicted_ms", "measured_ms")))

    def predict_interval_ms(self, archs: Population) -> npt.NDArray[np.float64]:
        """Between which milliseconds 90 of 100 such subnets are, shape ``(N, 2)``."""
        return self.predict_ms(archs)[:, None] * (1 + np.array([-1, 1]) * self.interval_percent / 100)

    @property
    def measured_keys(self) -> set[str]:
        """Keys of the entries that were measured, not interpolated."""
        return set(self.entries["key"][self.entries["num_runs"] > 0])

    # -- prediction --------------------------------------------------------------------------------------------------

    @cached_property
    def _part_ms(self) -> dict[str, float]:
        return dict(zip(self.entries["key"], self.entries["latency_ms_p10"].astype(float), strict=True))

    @cached_property
    def _part_params(self) -> dict[str, float]:
        """Of all parts, or of none: tables of old do not say them, and may have been completed since."""
        values = pd.to_numeric(self.entries.get(NUM_PARAMS, pd.Series(dtype=float)), errors="coerce")
        if len(values) < len(self.entries) or values.isna().any():
            return {}
        return dict(zip(self.entries["key"], values.astype(float), strict=True))

    def in_network_ms(self, slot: SlotLike) -> npt.NDArray[np.float64]:
        """What a slot's parts add to a network, in the shape of ``slot.keys``; not-a-number where unknown or empty."""
        num_params = _slot_values(slot, self._part_params, 0.0)
        return self.correction.part_in_network_ms(stage_of(slot), _slot_values(slot, self._part_ms), num_params)

    @cached_property
    def cost_model(self) -> CostModel:
        """The table as a sum of factors, correction included; not-a-number where a part was not measured."""
        overhead = Factor((), np.array(self.correction.call_overhead_ms))
        factors = [_factor(slot, self.in_network_ms(slot)) for slot in self.slots]
        return CostModel(self.space, [overhead, *factors], name="latency")

    def times(self, factor: float) -> LatencyTable:
        """The same table of a machine on which everything takes ``factor`` times as long."""
        latencies = [name for name in LATENCIES if name in self.entries]
        offset_ms = {stage: ms * factor for stage, ms in self.correction.offset_ms.items()}
        return dataclasses.replace(
            self,
            entries=self.entries.assign(**{name: self.entries[name] * factor for name in latencies}),
            correction=dataclasses.replace(
                self.correction,
                call_overhead_ms=self.correction.call_overhead_ms * factor,
                offset_ms=offset_ms,
                ms_per_param=self.correction.ms_per_param * factor,
            ),
        )

    def stage_sums(self, archs: Population) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """What a correction is fitted on: the latency of each stage's parts less the call overhead, and their number.

        Args:
            archs: ``N`` architectures, shape ``(N, D)``.

        Returns:
            Two arrays of shape ``(N, S)``, the ``S`` stages in the order of :attr:`stages`.
        """
        ms, num_parts = [], []
        for stage in self.stages:
            slots = [slot for slot in self.slots if stage_of(slot) == stage]
            overhead_ms = self.correction.call_overhead_ms
            alone = [_factor(slot, _slot_values(slot, self._part_ms) - overhead_ms) for slot in slots]
            present = [_factor(slot, np.ones(slot.keys.shape)) for slot in slots]
            ms.append(CostModel(self.space, alone, name="latency").predict(archs))
            num_parts.append(CostModel(self.space, present, name="parts").predict(archs))
        return np.stack(ms, axis=1), np.stack(num_parts, axis=1)

    def num_params(self, archs: Population) -> npt.NDArray[np.float64]:
        """Parameters of all parts of each architecture, shape ``(N,)``; zeros where the table does not say them."""
        factors = [_factor(slot, _slot_values(slot, self._part_params, 0.0)) for slot in self.slots]
        return CostModel(self.space, factors, name="params").predict(archs)

    @property
    def stages(self) -> list[str]:
        """Names of the stages, in the order of the network."""
        return list(dict.fromkeys(stage_of(slot) for slot in self.slots))

    def predict_ms(self, archs: Arch | Sequence[Arch] | Population) -> npt.NDArray[np.float64]:
        """Predicted latencies (medians) in milliseconds, shape ``(N,)``.

        Args:
            archs: One architecture, a list of them, or a population ``(N, D)``.

        Raises:
            SpaceError: If they do not fit the space.
            MissingLatencyError: If one of them holds a part that was not measured; it names the part.
        """
        predicted = self.cost_model.predict(archs)
        if np.isnan(predicted).any():
            genes = self.space.to_population(archs)[np.isnan(predicted)][0]
            keys = (slot.keys[tuple(genes[self.space.column(dim)] for dim in slot.dims)] for slot in self.slots)
            key = next(key for key in keys if key and key not in self._part_ms)
            raise MissingLatencyError(
                f"no latency for block {key!r} on device {self.device!r} ({len(self._part_ms)} blocks measured); "
                f"run `ofa profile --device devices/{self.device}.yaml`"
            )
        return predicted

    # -- files -------------------------------------------------------------------------------------------------------

    def save(self, csv_path: Path | str) -> None:
        """Write the entries to ``csv_path`` and all else to the ``.json`` beside it."""
        csv_path = Path(csv_path)
        write_csv_atomic(csv_path, self.entries)
        keys = list(dict.fromkeys(key for slot in self.slots for key in slot.keys.ravel().tolist() if key))
        number = {"": -1, **{key: index for index, key in enumerate(keys)}}
        data = {
            "format": FORMAT,
            **{name: getattr(self, name) for name in FACTS},
            "correction": dataclasses.asdict(self.correction),
            "details": self.details,
            "csv": {"num_rows": len(self.entries), "sha256": sha256_of_file(csv_path)},
            "space": self.space.to_json(),
            "keys": keys,
            "slots": [
                # One line of text per slot, so that a difference between two tables can be read.
                {
                    "name": slot.name,
                    "dims": list(slot.dims),
                    "key_numbers": " ".join(str(number[key]) for key in slot.keys.ravel().tolist()),
                }
                for slot in self.slots
            ],
        }
        write_json_atomic(csv_path.with_suffix(".json"), data)

    @classmethod
    def load(cls, csv_path: Path | str, *, force: bool = False) -> LatencyTable:
        """Read a table.

        Args:
            force: Take a refused table too.

        Raises:
            FileFormatError: If one of the two files is missing, truncated, changed, or of another format.
            RefusedTableError: If the measurements do not repeat well enough, and ``force`` is not set.
        """
        csv_path = Path(csv_path)
        if not csv_path.is_file():
            raise LatencyTableError(f"no latency table at {csv_path}; {REMEDY}")
        path = csv_path.with_suffix(".json")
        record = check_table(read_json(path, kind="latency table", remedy=REMEDY), where=f"latency table {path}")
        try:
            space = SearchSpace.from_json(record.space)
            keys = np.array([*record.keys, ""], dtype=np.object_)  # number -1 is the last: nothing
            slots = tuple(_read_slot(slot, keys, space) for slot in record.slots)
        except SpaceError as error:
            raise LatencyTableError(f"latency table {path}: {error}; {REMEDY}") from None
        table = cls(
            space=space,
            slots=slots,
            entries=_read_entries(csv_path, record.csv),
            correction=record.correction,
            details=record.details,
            **{name: getattr(record, name) for name in FACTS},
        )
        if table.refused and not force:
            raise RefusedTableError(
                f"latency table {csv_path} is refused: a subnet may be {table.interval_percent:.0f} % slower or faster "
                "than it predicts; measure again on a quieter machine with `ofa profile`, or accept it with "
                "`ofa profile --force`"
            )
        return table


def interval_percent(predicted_ms: Sequence[float], measured_ms: Sequence[float]) -> float:
    """By how many percent a subnet may be slower or faster than predicted, in 90 of 100 cases.

    From the errors on held-out subnets, taken as normal with unknown spread (Student's t), and from what one process
    differs by from the next, which the subnets of one profile do not tell; infinite without any.
    """
    from scipy.stats import t as student  # here, as it takes long to load

    if not len(measured_ms):
        return math.inf
    square = float(np.mean((np.divide(measured_ms, predicted_ms) - 1) ** 2))
    error = (square + (BETWEEN_PROCESSES_PERCENT / 100) ** 2) ** 0.5
    return 100 * error * float(student.ppf(0.95, len(measured_ms)))


def _slot_values(slot: SlotLike, values: Mapping[str, float], other: float = np.nan) -> npt.NDArray[np.float64]:
    """Values of a slot's parts, in the shape of ``slot.keys``; ``other`` where unknown or empty."""
    return np.array([values.get(key, other) for key in slot.keys.ravel().tolist()]).reshape(slot.keys.shape)


def _factor(slot: SlotLike, values: npt.NDArray[np.float64]) -> Factor:
    """Values of a slot's parts as a factor: 0 where nothing stands."""
    return Factor(slot.dims, np.where(slot.keys == "", 0.0, values))


@dataclass(frozen=True, kw_only=True)
class _CsvRecord(Record):
    num_rows: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class _SlotRecord(Record):
    name: str
    dims: tuple[str, ...]
    key_numbers: str


@dataclass(frozen=True, kw_only=True)
class _HeldOut(Record):
    """What the page shows of ``held_out``; a table lacks what was not measured or is not defined."""

    num: int = 0
    spearman: float | None = None
    mape_percent: float | None = None
    worst_percent: float | None = None
    within_5_percent: float | None = None
    within_10_percent: float | None = None
    bias_percent: float = 0.0
    macs_only_spearman: float | None = None
    macs_only_mape_percent: float | None = None
    depth_only_spearman: float | None = None
    depth_only_mape_percent: float | None = None
    predicted_ms: tuple[float, ...] = ()
    measured_ms: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.predicted_ms) != len(self.measured_ms) or not all(ms > 0 for ms in self.measured_ms):
            raise ConfigError("measured_ms must be latencies, as many as predicted_ms")


@dataclass(frozen=True, kw_only=True)
class _Course(Record):
    """What the page shows of how a table was measured, see :meth:`ofa.hardware.timing.TimingResult.course`."""

    seconds: tuple[float, ...]
    anchor_ms: tuple[float, ...]
    repeated: tuple[bool, ...]

    def __post_init__(self) -> None:
        is_whole = len(self.seconds) == len(self.anchor_ms) == len(self.repeated)
        if not is_whole or not all(ms > 0 for ms in self.anchor_ms):
            raise ConfigError("anchor_ms must be latencies, as many as seconds and repeated")


@dataclass(frozen=True, kw_only=True)
class TableRecord(Record):
    """The JSON file of a table, see :meth:`LatencyTable.save`."""

    device: str
    fingerprint: dict[str, Any]
    repeatability_percent: float | None
    refused: bool
    held_out: dict[str, Any]
    correction: Correction
    details: dict[str, Any]
    csv: _CsvRecord
    space: Any
    keys: tuple[str, ...]
    slots: tuple[_SlotRecord, ...]

    def __post_init__(self) -> None:
        from_mapping(_HeldOut, self.held_out, where="held_out")
        for key, kind in (("course", _Course), ("states", States)):
            if key in self.details:
                from_mapping(kind, self.details[key], where=key)


def check_table(data: Mapping[str, Any], *, where: str) -> TableRecord:
    """The content of a table's JSON file; :class:`FileFormatError` if it is not what it should be."""
    return check_record(TableRecord, data, where=where, remedy=REMEDY)


def _read_slot(record: _SlotRecord, keys: npt.NDArray[np.object_], space: SearchSpace) -> TableSlot:
    shape = tuple(len(space[dim].values) for dim in record.dims)
    numbers = [int(word) if _NUMBER.fullmatch(word) else len(keys) for word in record.key_numbers.split()]
    if len(numbers) != math.prod(shape) or not all(-1 <= number < len(keys) - 1 for number in numbers):
        raise LatencyTableError(f"slot {shown(record.name)} of the latency table does not fit its space; {REMEDY}")
    return TableSlot(record.name, record.dims, keys[numbers].reshape(shape))


_NUMBER = re.compile(r"-1|[0-9]{1,9}")


def _read_entries(csv_path: Path, expected: _CsvRecord) -> pd.DataFrame:
    num_rows = max(csv_path.read_bytes().count(b"\n") - 1, 0)
    if num_rows != expected.num_rows:
        raise LatencyTableError(
            f"latency table {csv_path} is truncated or extended: {num_rows} rows, not {expected.num_rows}; {REMEDY}"
        )
    if sha256_of_file(csv_path) != expected.sha256:
        raise LatencyTableError(f"latency table {csv_path} was changed after it was measured; {REMEDY}")
    return read_csv(csv_path, text=["key"], numbers=["num_runs"], kind="latency table", remedy=REMEDY)
