"""Recipes: everything that a training run is, in one YAML file."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ofa.config import ConfigError, apply_overrides, from_mapping, keys_of, read_yaml, to_plain
from ofa.data import DataConfig
from ofa.data.timm_policy import TimmPolicy
from ofa.errors import unknown_name_message
from ofa.supernet.dims import DIM_KINDS
from ofa.supernet.model_sources import anchors_of, stitched_name
from ofa.tasks import Classification, Task
from ofa.tasks.own_code import trust_classes_of
from ofa.training.strategy import Strategy

RECIPES_DIR = Path(__file__).parent / "recipes"
DEFAULT_MODEL = "ofa_mobilenetv3_tiny"


Values = dict[str, Any] | tuple[int | float | str, ...] | None


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What becomes elastic: a model by name, and the arguments of :func:`ofa.elasticize`.

    Args:
        name: A preset, a timm model, ``torchvision:NAME``, ``transformers:FOLDER`` with a ``config.json``,
            ``transformers:bert`` (a small one), or ``path/file.py:function``, which is executed; paths are relative to
            the current folder.
        anchors: Two models or more of one family, by such names, the smallest first, that are stitched
            (:mod:`ofa.supernet.stitching`); ``name`` then follows from them.
        in_chans: Channels of the pictures: 1 is grey, 3 red, green and blue; with 2 and 4 alpha is one of them.
        input_size: Height and width that the model is made for, if not its own; ``resolution`` is the height, and the
            width keeps its proportion to it.
        pretrained: Begin from timm's or torchvision's weights, or those in the folder.
        weights: Begin from a file with the model's parameter names instead, ``.safetensors`` or a checkpoint of
            ``torch.save``; a classifier for other classes is left out.
        anchor_weights: Such a file for each of the anchors.
        grow_from: Begin from a run folder of a smaller supernet instead, see :func:`ofa.supernet.grow`.
        growth: With it: ``preserving`` what was learnt, or the blocks of deeper stages ``linear`` in their position.
        sort_channels: Put important channels and heads first before training: by ``l1`` norms of the weights, or by
            ``activations`` on 512 training images.
        kernel_transforms: A learned matrix between kernel sizes, instead of a crop alone (Once-for-All, sec. 3.3).
        dims: What was given under the names of :data:`~ofa.supernet.dims.DIM_KINDS`, which stand among the other keys:
            lists of values or shares (``"75%"``), or mappings from stages to lists; see
            :class:`~ofa.supernet.choices.Choices`.
        resolution, tokens, seconds: Lists of values or shares: sizes of pictures, lengths of texts and recordings.
        divisor: Channels are rounded to multiples of it; 8 leaves it to a preset that has its own.
        subnet: An architecture, which alone is then in the space: `ofa finetune` says which.
        coupled: Kinds of dims that follow the depth of their stage, see :func:`ofa.elasticize`.
        drop_rate, drop_path_rate: Dropout before the classifier and stochastic depth, of the largest subnet only (see
            ``strategy.drop``).
        zero_init: The last normalisation of every block with a shortcut begins at 0, so that the block begins as the
            identity (BigNAS, arXiv:2003.11142, sec. 3.2).
    """

    name: str = DEFAULT_MODEL
    anchors: tuple[str, ...] | None = None
    in_chans: int = 3
    input_size: tuple[int, ...] | None = None
    pretrained: bool = False
    weights: str | None = None
    anchor_weights: tuple[str, ...] = ()
    grow_from: str | None = None
    growth: Literal["preserving", "linear"] = "preserving"
    sort_channels: Literal["none", "l1", "activations"] = "none"
    kernel_transforms: bool = False
    dims: dict[str, Values] = field(default_factory=dict, metadata=keys_of(DIM_KINDS))
    resolution: tuple[int | str, ...] | None = None
    tokens: tuple[int | str, ...] | None = None
    seconds: tuple[float | str, ...] | None = None
    divisor: int = 8
    subnet: dict[str, Any] = field(default_factory=dict)
    coupled: tuple[str, ...] = ()
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    zero_init: bool = False

    def __post_init__(self) -> None:
        self._settle_anchors()
        for name in ("drop_rate", "drop_path_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"model.{name} must be from 0 to below 1, not {getattr(self, name)}")
        if self.in_chans < 1:
            raise ConfigError(f"model.in_chans must be at least 1, not {self.in_chans}")
        if self.input_size is not None and (len(self.input_size) != 2 or min(self.input_size) < 1):
            raise ConfigError(f"model.input_size must be height and width in pixels, not {list(self.input_size)}")
        if self.grow_from is None and self.growth != "preserving":
            raise ConfigError(f"model.growth={self.growth} needs a run to grow from; give model.grow_from")
        if self.grow_from is not None:
            own = ModelConfig()
            for name in ("pretrained", "weights", "sort_channels", "zero_init", "subnet"):
                if getattr(self, name) != getattr(own, name):
                    raise ConfigError(f"model.grow_from brings weights, which model.{name} would change; leave one out")

    def _settle_anchors(self) -> None:
        """Let name and anchors say the same."""
        anchors = anchors_of(self.name) if self.anchors is None else self.anchors
        if self.anchors is not None and not (self.name == DEFAULT_MODEL or anchors_of(self.name)):
            raise ConfigError(f"model.name={self.name} and model.anchors do not go together; leave one of them out")
        if self.anchors is not None and len(anchors) < 2:
            raise ConfigError(f"model.anchors must be two models or more, the smallest first, not {list(anchors)}")
        if self.anchor_weights and len(self.anchor_weights) != len(anchors):
            raise ConfigError(
                f"model.anchor_weights has {len(self.anchor_weights)} files for {len(anchors)} anchors; give one for "
                "each"
            )
        if anchors:
            object.__setattr__(self, "anchors", tuple(anchors))
            object.__setattr__(self, "name", stitched_name(anchors))

    def choices(self) -> dict[str, Any]:
        """The arguments that were given; the others are left to the preset."""
        axes = {"resolution": self.resolution, "tokens": self.tokens, "seconds": self.seconds}
        return {
            **self.dims,
            **{name: sizes for name, sizes in axes.items() if sizes is not None},
            **({} if self.divisor == ModelConfig.divisor else {"divisor": self.divisor}),
            "kernel_transforms": self.kernel_transforms,
            "coupled": self.coupled,
        }

    def untrained(self) -> ModelConfig:
        begins: dict[str, Any] = {"pretrained": False, "weights": None, "anchor_weights": ()}
        return dataclasses.replace(self, **begins, grow_from=None, growth="preserving")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how fast, and on what the shared weights are trained.

    Args:
        epochs: Passes over the training split; a fraction ends the last one early.
        batch_size: Images per step, over all processes; every subnet of a step sees all of them.
        accumulate: Compute each step in so many parts, one after another, which takes the memory of a batch of
            ``batch_size / accumulate``. Gradients are those of the whole batch, but for batch normalisation, whose
            statistics are then those of a part. A run may go on (``--resume``) with another number.
        optimizer: Any name that timm's ``create_optimizer_v2`` takes; momentum is 0.9, in ``sgd`` Nesterov's.
        learning_rate: Peak, after warm-up; the schedule decides what follows.
        warmup_epochs: Linear warm-up of the run's learning-rate curve; phases with a curve of their own have their own.
        weight_decay: Not applied to biases and normalisation. It acts once per step, so that it regularises the largest
            subnet, to which all weights belong, and not the others once more.
        clip_grad_norm: Largest norm of the gradient summed over the step's subnets; 0 is no limit.
        ema_decay: Decay of an exponential moving average of the weights, which is then what the run leaves; 0 is none.
        average_epochs: The run leaves the mean of the weights at the end of this many last epochs (model soups,
            arXiv:2203.05482, along one run); 0 is the last weights. With ``ema_decay`` it is the mean of the averages.
        eval_every_epochs: How often the bounds of the space are evaluated; 0 is only at the end.
        precision: As Lightning Fabric names it: ``32-true``, ``bf16-mixed``, ``16-mixed``.
        compile: ``torch.compile`` the largest and the smallest subnet, which are the same at every step.
        sync_batch_norm: Of several processes, batch normalisation takes its statistics from the images of all; without,
            from those of each. It costs a message per layer and pass.
        device: Where training computes; ``auto`` takes a GPU if there is one.
        seed: Decides initial weights, the order of images and the subnets.
        keep_checkpoints: How many of the latest are kept.
        checkpoint_minutes: A checkpoint at least this often, besides the one after every epoch.
        max_hours: End within so many hours, from reading the data on: the speed of the first steps tells, once, how
            many steps fit, and schedule and learning rate then run their course over these. A pause before ``--resume``
            does not count.
        threads: That torch computes with on the CPU, in each process; not given or 0 is its default, or one where the
            machine is busy. A run may go on (``--resume``) with another number.
        mlflow: Tracking server (``http://HOST:5000``) or folder of MLflow's that is to have the curves too, beside
            TensorBoard. A run may go on (``--resume``) with another.
    """

    epochs: float = 30
    batch_size: int = 64
    accumulate: int = 1
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    warmup_epochs: float = 2
    weight_decay: float = 1e-4
    clip_grad_norm: float = 0.0
    ema_decay: float = 0.0
    average_epochs: int = 0
    eval_every_epochs: int = 5
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    compile: bool = False
    sync_batch_norm: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0
    keep_checkpoints: int = 2
    checkpoint_minutes: float = 10.0
    max_hours: float | None = None
    threads: int | None = None
    mlflow: str | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ConfigError(f"train.{name} must be at least 1, not {getattr(self, name)}")
        for name in ("warmup_epochs", "weight_decay", "clip_grad_norm", "average_epochs", "eval_every_epochs", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"train.{name} must not be negative, but is {getattr(self, name)}")
        for name in ("epochs", "learning_rate", "checkpoint_minutes"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"train.{name} must be a number above 0, not {getattr(self, name)}")
        if self.threads is not None and self.threads < 0:
            raise ConfigError(f"train.threads must be 0 or more, not {self.threads}")
        if self.max_hours is not None and self.max_hours <= 0:
            raise ConfigError(f"train.max_hours must be above 0, not {self.max_hours}")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"train.ema_decay must be from 0 to below 1, not {self.ema_decay}")
        if self.compile and self.sync_batch_norm:
            raise ConfigError("train.compile and train.sync_batch_norm do not go together; leave one of them out")
        if self.mlflow is not None and re.search(r"//[^/]*:[^/]*@", self.mlflow):
            raise ConfigError(
                "train.mlflow holds a password, which the run would keep; give it in MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD"
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run: task × model × data × strategy × training. :func:`load_recipe` reads one."""

    name: str = "custom"
    description: str = ""
    task: Task = field(default_factory=Classification)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    strategy: Strategy = field(default_factory=Strategy)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if self.data.timm_policy is not None:
            TimmPolicy(self.data.timm_policy)  # which asks timm
        self.task.check_settings(self.data, pretrained=self.model.pretrained)
        self.task.check_loss(self.strategy.loss)

    def to_json(self) -> dict[str, Any]:
        """The recipe as plain data; a task that is the default is left out, as before there were others."""
        plain: dict[str, Any] = to_plain(self)
        if self.task == Classification():
            del plain["task"]
        return plain

    @classmethod
    def from_json(cls, values: dict[str, Any], *, where: str) -> Recipe:
        return from_mapping(cls, values, where=where)


def list_recipes() -> list[str]:
    return sorted(path.stem for path in RECIPES_DIR.glob("*.yaml"))


def load_recipe(
    name_or_path: str | Path, overrides: Sequence[str] = (), *, model: Mapping[str, Any] | None = None
) -> Recipe:
    """Read a packaged recipe by name, or a YAML file by path, with ``section.key=value`` words laid over it.

    Args:
        model: In place of the recipe's own, before words are laid over it.

    Raises:
        ConfigError: If there is no such recipe, or a key or value is wrong.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = RECIPES_DIR / f"{name_or_path}.yaml"
        if not path.is_file():
            raise ConfigError(unknown_name_message("recipe", str(name_or_path), list_recipes()) + ", or a .yaml file")
    values = {"name": path.stem, "task": Classification().name, **read_yaml(path, kind="recipe")}
    values = apply_overrides(values if model is None else {**values, "model": dict(model)}, overrides)
    trust_classes_of(values)  # whoever trains with a file of code runs it
    return Recipe.from_json(values, where=f"recipe {path.name}")
