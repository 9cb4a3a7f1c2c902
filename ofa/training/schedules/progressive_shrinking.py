"""Progressive shrinking: kernels open first, then depths, then widths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ofa.config import ConfigError
from ofa.space import SearchSpace
from ofa.training.schedules.schedule import Phase, Schedule, open_part

WIDTHS = ("expand", "mlp_ratio", "heads", "width")
PUBLISHED_RATES = {"largest": 0.08125, "kernel": 0.03, "depth": 0.0075, "expand": 0.0075, "first": 0.0025}
"""Learning rates for a batch of 64 images (2.6 for 2,048 of the largest); ``first`` where two values open first."""


@dataclass(frozen=True, kw_only=True)
class ProgressiveShrinking(Schedule):
    """Progressive shrinking: the largest subnet alone, then kernels open, then depths, then widths.

    The published phases in one run, each a share of it in proportion to its published epochs. The largest subnet trains
    alone; a frozen copy of it then teaches. Each phase opens more of the space, begins from the weights of the one
    before, and has a learning-rate curve of its own. Phases of dims that the space does not have are left out.
    Resolution is open all the time.

    Args:
        largest, kernel, depth, expand: Epochs of each, of which only the proportions count: the published 180, 125,
            25 + 125 and 25 + 125. A list of two opens the two largest values first.

    References:
        Cai et al., Once-for-All, arXiv:1908.09791, sec. 3.3 and 4.1, and the authors' published settings. There the
        largest network is trained in a run of its own. Here heads, MLP ratios and stage widths open with the expand
        ratio.
    """

    largest: float = 180
    kernel: float = 125
    depth: tuple[float, ...] = (25, 125)
    expand: tuple[float, ...] = (25, 125)

    def __post_init__(self) -> None:
        for name in ("largest", "kernel"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("depth", "expand"):
            values = getattr(self, name)
            if len(values) not in (1, 2) or min(values) <= 0:
                raise ConfigError(f"{name} must be one or two positive numbers, not {list(values)}")

    def phases(self, space: SearchSpace) -> Sequence[Phase]:
        closed = {kind: 1 for kind in ("kernel", "depth", *WIDTHS)}
        phases = [
            Phase(name="largest", share=self.largest, open=closed, only_largest=True, learning_rate=1, warmup=5 / 180)
        ]

        def add(name: str, kinds: Sequence[str], *, share: float, num_values: int | None, num_random: int) -> None:
            """Open ``num_values`` of these kinds besides what is open already; ``None`` is all."""
            opened = {kind: num for kind, num in phases[-1].open.items() if kind not in kinds}
            opened |= {} if num_values is None else {kind: num_values for kind in kinds}
            if open_part(space, opened) == open_part(space, phases[-1].open):
                if phases[-1].only_largest or phases[-1].name.partition("_")[0] != name:
                    return  # the space has no such dims
                phases.pop()  # or they have but two values, which are open already: this phase is the longer one
            rate, warmup = PUBLISHED_RATES["first" if num_values else name], 0 if num_values else 5 / 125
            phases.append(
                Phase(
                    name=f"{name}_{num_values}" if num_values else name,
                    share=share,
                    open=opened,
                    num_random=num_random,
                    learning_rate=rate / PUBLISHED_RATES["largest"],
                    warmup=warmup,
                    sort_channels=name == "expand" and not phases[-1].name.startswith("expand"),
                    freezes_largest=len(phases) == 1,
                )
            )

        add("kernel", ["kernel"], share=self.kernel, num_values=None, num_random=1)
        for name, kinds, shares, num in (("depth", ["depth"], self.depth, 2), ("expand", WIDTHS, self.expand, 4)):
            for share in shares[:-1]:
                add(name, kinds, share=share, num_values=2, num_random=num)
            add(name, kinds, share=shares[-1], num_values=None, num_random=num)
        return phases
