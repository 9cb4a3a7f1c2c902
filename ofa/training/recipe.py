"""Recipes: everything that a training run is, in one YAML file."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ofa.config import ConfigError, apply_overrides, from_mapping, read_yaml
from ofa.data import DataConfig
from ofa.space import unknown_name_message

RECIPES_DIR = Path(__file__).parent / "recipes"


Values = dict[str, Any] | tuple[int | float | str, ...] | None
CHOICES = ("depth", "kernel", "expand", "mlp_ratio", "heads", "width", "resolution")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What becomes elastic: a preset or a timm model by name, and the arguments of :func:`ofa.elasticize`.

    Args:
        pretrained: Begin from timm's weights.
        weights: Begin from a ``.safetensors`` file with timm's parameter names instead; a classifier for other classes
            is left out.
        sort_channels: Put important channels and heads first before training: by ``l1`` norms of the weights, or by
            ``activations`` on 512 training images.
        depth, kernel, expand, mlp_ratio, heads, width, resolution: Lists of values or shares (``"75%"``), or mappings
            from stages to lists; see :class:`~ofa.supernet.choices.Choices`.
        divisor: Channels are rounded to multiples of it.
    """

    name: str = "ofa_mobilenetv3_tiny"
    pretrained: bool = False
    weights: str | None = None
    sort_channels: Literal["none", "l1", "activations"] = "none"
    kernel_transforms: bool = False
    depth: Values = None
    kernel: Values = None
    expand: Values = None
    mlp_ratio: Values = None
    heads: Values = None
    width: Values = None
    resolution: tuple[int | str, ...] | None = None
    divisor: int = 8

    def choices(self) -> dict[str, Any]:
        """The arguments that were given; the others are left to the preset."""
        given = {name: getattr(self, name) for name in CHOICES}
        return {name: value for name, value in given.items() if value is not None} | {
            "kernel_transforms": self.kernel_transforms,
            "divisor": self.divisor,
        }

    def untrained(self) -> ModelConfig:
        """The same model without weights to begin from."""
        return dataclasses.replace(self, pretrained=False, weights=None)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the shared weights are trained.

    Args:
        epochs: Passes over the training split.
        batch_size: Images per step; every subnet of the sandwich sees all of them.
        optimizer: Any name that timm's ``create_optimizer_v2`` takes; momentum is 0.9, in ``sgd`` Nesterov's.
        learning_rate: Peak, after warm-up; cosine decay to nearly zero follows.
        warmup_epochs: Linear warm-up.
        weight_decay: Not applied to biases and normalisation.
        label_smoothing: For the largest subnet's label loss.
        num_random: Random subnets per step, besides the largest and the smallest.
        distillation: ``in_place``: the largest subnet teaches the others. ``none``: all learn from the labels.
        clip_grad_norm: Largest norm of the gradient summed over the sandwich; 0 is no limit.
        ema_decay: Decay of an exponential moving average of the weights, which is then what the run leaves; 0 is none.
        eval_every_epochs: How often the bounds of the space are evaluated; 0 is only at the end.
        precision: As Lightning Fabric names it: ``32-true``, ``bf16-mixed``, ``16-mixed``.
        device: ``auto``, ``cpu`` or ``cuda``.
        seed: Decides initial weights, the order of images and the subnets.
        keep_checkpoints: How many of the latest are kept.
    """

    epochs: int = 30
    batch_size: int = 64
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    warmup_epochs: int = 2
    weight_decay: float = 1e-4
    label_smoothing: float = 0.1
    num_random: int = 2
    distillation: Literal["in_place", "none"] = "in_place"
    clip_grad_norm: float = 0.0
    ema_decay: float = 0.0
    eval_every_epochs: int = 5
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ConfigError(f"train.{name} must be at least 1, not {getattr(self, name)}")
        for name in ("warmup_epochs", "num_random", "weight_decay", "clip_grad_norm", "eval_every_epochs", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"train.{name} must not be negative, but is {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"train.learning_rate must be a number above 0, not {self.learning_rate}")
        for name in ("ema_decay", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"train.{name} must be from 0 to below 1, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run: model × data × training. :func:`load_recipe` reads one."""

    name: str = "custom"
    description: str = ""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any], *, where: str) -> Recipe:
        return from_mapping(cls, values, where=where)


def list_recipes() -> list[str]:
    """Names of the packaged recipes."""
    return sorted(path.stem for path in RECIPES_DIR.glob("*.yaml"))


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a packaged recipe by name, or a YAML file by path, with ``section.key=value`` words laid over it.

    Raises:
        ConfigError: If there is no such recipe, or a key or value is wrong.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = RECIPES_DIR / f"{name_or_path}.yaml"
        if not path.is_file():
            raise ConfigError(unknown_name_message("recipe", str(name_or_path), list_recipes()) + ", or a .yaml file")
    values = {"name": path.stem, **read_yaml(path, kind="recipe")}
    return Recipe.from_json(apply_overrides(values, overrides), where=f"recipe {path.name}")
