"""One fixed subnet: plain training, the baseline."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ofa.config import ConfigError
from ofa.training.samplers.sampler import Draw, Sampler, Step


@dataclass(frozen=True, kw_only=True)
class Single(Sampler):
    """The same subnet at every step.

    Args:
        bound: ``largest`` or ``smallest``, unless ``arch`` says which.
        arch: Its dims and values; :class:`~ofa.space.SpaceError` when it is drawn if it is not of the space.
    """

    bound: str = "largest"
    arch: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.bound not in ("largest", "smallest"):
            raise ConfigError(f"bound must be largest or smallest, not {self.bound!r}; give any other subnet as arch")

    def describe(self) -> str:
        return "One given subnet." if self.arch else f"The {self.bound} subnet only."

    def draw(self, step: Step) -> list[Draw]:
        largest, smallest = step.space.largest(), step.space.smallest()
        bound = largest if self.bound == "largest" else smallest
        arch = step.space.arch(self.arch) if self.arch else bound
        return [Draw(arch, "largest" if arch == largest else "random")]
