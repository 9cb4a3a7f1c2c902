"""One fixed subnet: plain training, the baseline."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ofa.config import ConfigError
from ofa.space import Arch, SearchSpace
from ofa.training.samplers.sampler import Draw, Sampler, Step


@dataclass(frozen=True, kw_only=True)
class Single(Sampler):
    """The same subnet at every step.

    Args:
        bound: ``largest`` or ``smallest``, unless ``arch`` says which.
        arch: Its dims and values.
    """

    bound: str = "largest"
    arch: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.bound not in ("largest", "smallest"):
            raise ConfigError(f"bound must be largest or smallest, not {self.bound!r}; give any other subnet as arch")

    def chosen(self, space: SearchSpace) -> Arch:
        """The subnet; :class:`~ofa.space.SpaceError` if ``arch`` is not of the space."""
        if self.arch:
            return space.arch(self.arch)
        return space.largest() if self.bound == "largest" else space.smallest()

    def describe(self) -> str:
        return "One given subnet." if self.arch else f"The {self.bound} subnet only."

    def draw(self, step: Step) -> list[Draw]:
        arch = self.chosen(step.space)
        return [Draw(arch, "largest" if arch == step.space.largest() else "random")]
