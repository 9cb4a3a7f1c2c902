"""What a figure of merit is called and how it is read: name, unit, direction, interval. Tasks compute it.

Files and columns are named after the metric: ``measured_top1_percent``, ``top1_interval_percent``. Nothing but a
:class:`Metric` knows these names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from ofa.config import ConfigError, from_mapping
from ofa.errors import UsageError, shown, unknown_name_message

MAX_TITLE = 100
Z_95 = NormalDist().inv_cdf(0.975)
Values = TypeVar("Values", float, npt.NDArray[np.float64])


@dataclass(frozen=True, kw_only=True)
class Score:
    """What was measured: a value with its 95 % interval, and the number of samples behind it."""

    value: float
    low: float
    high: float
    num_images: int


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure of merit of a subnet.

    Args:
        quantity, unit: As in names of columns: ``top1`` and ``percent`` make ``top1_percent``.
        title: In words, within a sentence: ``top-1 accuracy``.
        symbol: What stands behind a number.
        perfect: The value that a search strives for; errors are distances from it.
        interval_by: ``share``: the value is a percentage of samples, whose interval follows from their number (Wilson);
            subnets can be raced by it. ``bootstrap``: the task draws samples again; nothing is known before the end.

    Raises:
        UsageError: If quantity and unit make no name of a column.
    """

    quantity: str
    unit: str
    title: str
    symbol: str
    higher_is_better: bool = True
    perfect: float = 100.0
    interval_by: Literal["share", "bootstrap"] = "share"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z]\w*", self.name, flags=re.ASCII):
            raise UsageError(f"quantity and unit of a metric are small letters, digits and _, not {shown(self.name)}")
        if not (self.title + self.symbol).isprintable() or len(self.title + self.symbol) > MAX_TITLE:
            raise UsageError(f"title and symbol of a metric are a line of at most {MAX_TITLE} characters together")

    @property
    def name(self) -> str:
        return "_".join(filter(None, (self.quantity, self.unit)))

    @property
    def label(self) -> str:
        """The title as a heading."""
        return self.title[:1].upper() + self.title[1:]

    def of(self, what: str) -> str:
        """Name of a column or key: ``measured_top1_percent`` for ``measured``."""
        return f"{what}_{self.name}"

    @property
    def interval_key(self) -> str:
        return "_".join(filter(None, (self.quantity, "interval", self.unit)))

    @property
    def error_name(self) -> str:
        """Of what a search minimises: ``top1_error_percent``."""
        return "_".join(filter(None, (self.quantity, "error", self.unit)))

    @property
    def columns(self) -> tuple[str, ...]:
        """What is kept of an evaluated subnet; the interval too where it does not follow from the number of samples."""
        return (self.name, "num_images", *(() if self.interval_by == "share" else ("low", "high")))

    def row(self, score: Score) -> tuple[float, ...]:
        """A score in the order of :attr:`columns`."""
        return (score.value, score.num_images, *(() if self.interval_by == "share" else (score.low, score.high)))

    # -- direction ---------------------------------------------------------------------------------------------------

    @property
    def sign(self) -> int:
        """What values are multiplied by so that more is better."""
        return 1 if self.higher_is_better else -1

    def error(self, value: Values) -> Values:
        """What a search minimises: the distance from perfection."""
        return self.perfect - value if self.higher_is_better else value - self.perfect

    def value(self, error: Values) -> Values:
        """The inverse of :meth:`error`."""
        return self.perfect - error if self.higher_is_better else self.perfect + error

    # -- how sure a value is -----------------------------------------------------------------------------------------

    def interval(self, row: Mapping[Any, Any]) -> tuple[float, float]:
        """95 % interval of a row that has :attr:`columns`."""
        if self.interval_by == "bootstrap":
            return float(row["low"]), float(row["high"])
        num_images = int(row["num_images"])
        return wilson_interval(round(row[self.name] / 100 * num_images), num_images)

    def variances(self, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """How far values may be from the truth, by the samples that they were measured on: squares, shape ``(N,)``.

        Args:
            rows: Shape ``(N, len(columns))``, in the order of :attr:`columns`.

        References:
            Agresti and Coull 1998: a share with one more right and one more wrong, so that none is sure of 100 %.
        """
        if self.interval_by == "bootstrap":
            return np.asarray(((rows[:, 3] - rows[:, 2]) / (2 * Z_95)) ** 2)
        num_images = rows[:, 1]
        share = (rows[:, 0] / 100 * num_images + 1) / (num_images + 2)
        return np.asarray(100**2 * share * (1 - share) / num_images)

    def is_hopeless(self, value: float, num_images: int, floor: float) -> bool:
        """Whether what was found on so many samples is surely (99.9 %, one-sided) worse than ``floor``."""
        if self.interval_by != "share":
            return False
        low, high = wilson_interval(round(value / 100 * num_images), num_images, confidence=0.998)
        return high < floor if self.higher_is_better else low > floor

    @property
    def worst(self) -> float:
        """A floor that nothing is below."""
        return 0.0 if self.higher_is_better else np.inf

    def text(self, value: float, *, digits: int = 1) -> str:
        """``97.5 %``"""
        return f"{self.number(value, digits=digits)} {self.symbol}".strip()

    def number(self, value: float | None, *, digits: int = 1) -> str:
        """``97.5``; of what is no share three digits more, all that say something: ``0.3142``; a dash for ``None``."""
        if value is None:
            return "–"
        if self.symbol == "%":
            return f"{value:.{digits}f}"
        return f"{value:.0f}" if abs(value) >= 10 ** (digits + 3) else f"{value:#.{digits + 3}g}".rstrip(".")

    def interval_text(self, score: Score) -> str:
        """``97.5 % (95.3 to 98.7)``"""
        return f"{self.text(score.value)} ({self.number(score.low)} to {self.number(score.high)})"


TOP1 = Metric(quantity="top1", unit="percent", title="top-1 accuracy", symbol="%")

BALANCED = replace(TOP1, quantity="balanced_accuracy", title="balanced accuracy", interval_by="bootstrap")
WORST_CLASS = replace(
    TOP1, quantity="worst_class_accuracy", title="accuracy of the worst class", interval_by="bootstrap"
)

MIOU = replace(TOP1, quantity="miou", title="mean intersection over union", interval_by="bootstrap")

MEAN_AVERAGE_PRECISION = replace(
    TOP1, quantity="mean_average_precision", title="mean average precision", interval_by="bootstrap"
)
MAP = replace(TOP1, quantity="map", title="mean average precision at overlaps of 0.50 to 0.95", interval_by="bootstrap")
MEAN_OF_HEADS = replace(TOP1, quantity="mean_of_heads", title="mean of the heads' metrics", interval_by="bootstrap")
EQUAL_ERROR_RATE = Metric(
    quantity="equal_error_rate",
    unit="percent",
    title="equal error rate",
    symbol="%",
    higher_is_better=False,
    perfect=0.0,
    interval_by="bootstrap",
)
MEAN_ABSOLUTE_ERROR = Metric(
    quantity="mean_absolute_error",
    unit="",
    title="mean absolute error",
    symbol="",
    higher_is_better=False,
    perfect=0.0,
    interval_by="bootstrap",
)

PSNR = Metric(
    quantity="psnr",
    unit="db",
    title="peak signal-to-noise ratio",
    symbol="dB",
    perfect=60.0,  # what rounding to 8 bits leaves is 58.9
    interval_by="bootstrap",
)

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        *(TOP1, BALANCED, WORST_CLASS, MIOU, MEAN_AVERAGE_PRECISION, MAP, EQUAL_ERROR_RATE, MEAN_ABSOLUTE_ERROR),
        *(MEAN_OF_HEADS, PSNR),
    )
}
"""Those that a file may name; another one it says in full."""


def metric_of(info: Mapping[str, Any]) -> Metric:
    """The metric that a file goes by; files that name none are of top-1 accuracy.

    Raises:
        UsageError: If it is not known here, nor said in full.
    """
    name = info.get("metric", TOP1.name)
    if isinstance(name, Mapping):
        try:
            return from_mapping(Metric, name, where="metric")
        except ConfigError as error:
            raise UsageError(str(error)) from None
    if not isinstance(name, str) or name not in METRICS:
        raise UsageError(unknown_name_message("metric", name, METRICS))
    return METRICS[name]


def name_in_file(metric: Metric) -> dict[str, Any]:
    """What a file says of its metric, for :func:`metric_of`: nothing where it is top-1 accuracy, as of old.

    One that is a task's of the user's is said in full, so that files are read without that code.
    """
    if metric == TOP1:
        return {}
    return {"metric": metric.name if METRICS.get(metric.name) == metric else asdict(metric)}


def wilson_interval(num_right: int, num_images: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a share, by Wilson's score; it holds for few images and near 100 % too.

    Returns:
        Lower and upper bound, in percent.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, weight = num_right / num_images, z**2 / num_images
    middle = (share + weight / 2) / (1 + weight)
    reach = (weight * share * (1 - share) + weight**2 / 4) ** 0.5 / (1 + weight)
    return 100 * max(middle - reach, 0.0), 100 * min(middle + reach, 1.0)
