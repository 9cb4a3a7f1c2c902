"""A training strategy: schedule × sampler × loss, and a few options that go with any of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from ofa.config import ConfigError
from ofa.tasks import Loss
from ofa.tasks.losses import SoftLabels
from ofa.training.samplers import Draw, Sampler, Step
from ofa.training.samplers.sandwich import Sandwich
from ofa.training.schedules import Phase, Schedule
from ofa.training.schedules.one_stage import OneStage


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """Which subnets train when, and what they learn from.

    Args:
        schedule: Which part of the space trains when.
        sampler: Which subnets of that part train on a mini-batch.
        loss: What a subnet that is taught learns from; the largest learns from the labels.
        resolution: ``per_subnet``: every drawn subnet brings its own, the bounds keep theirs. ``per_batch``: all
            subnets of a step have the same, drawn afresh each step (Once-for-All, BigNAS).
        drop: Dropout and stochastic depth act in the ``largest`` subnet only (BigNAS, sec. 3.3), or in ``all``.
        remove_conflicts: Where the largest subnet's gradient opposes that of the others, the opposing part of it is
            removed (Gong et al., NASViT, ICLR 2022, sec. 3.2; here of the gradient as a whole).
        teacher: Name of any timm model that teaches all subnets, the largest too; trained for the same classes. Or a
            run folder, whose largest subnet teaches.
        teacher_weights: Its ``.safetensors`` file; timm's pretrained weights if there is none.
        teacher_share: Share of the teacher in what the others learn; the largest subnet, where it is drawn, has the
            rest. 1 is the teacher instead of the largest subnet.
    """

    schedule: Schedule = field(default_factory=OneStage)
    sampler: Sampler = field(default_factory=Sandwich)
    loss: Loss = field(default_factory=SoftLabels)
    resolution: Literal["per_subnet", "per_batch"] = "per_subnet"
    drop: Literal["largest", "all"] = "largest"
    remove_conflicts: bool = False
    teacher: str | None = None
    teacher_weights: str | None = None
    teacher_share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.teacher_share <= 1:
            raise ConfigError(f"strategy.teacher_share must be above 0 and at most 1, not {self.teacher_share}")
        if self.teacher_weights and not self.teacher:
            raise ConfigError("strategy.teacher_weights is given, but no strategy.teacher; name its timm model")
        if self.remove_conflicts and not self.sampler.teaches:
            raise ConfigError(
                f"strategy.remove_conflicts needs the largest subnet in every step, but sampler {self.sampler.name} "
                "does not draw it; use strategy.sampler=sandwich"
            )

    def draw(self, phase: Phase, step: Step) -> list[Draw]:
        """The subnets of one step; the largest first where the sampler teaches."""
        if phase.only_largest:
            draws = [Draw(step.space.largest(), "largest")]
        else:
            sampler = self.sampler if phase.num_random is None else self.sampler.with_num_random(phase.num_random)
            draws = sampler.draw(step)
        if self.resolution == "per_batch":
            sizes = {dim.name: dim.values for dim in step.space.dims if "." not in dim.name}
            chosen = {name: values[step.rng.integers(len(values))] for name, values in sizes.items()}
            draws = [dataclasses.replace(draw, arch=step.space.arch({**draw.arch, **chosen})) for draw in draws]
        return draws
