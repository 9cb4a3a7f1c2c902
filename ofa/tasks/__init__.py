"""What networks learn and are judged by. A new task is a file here and a line in :data:`TASKS`."""

from dataclasses import dataclass, field
from typing import Any

from ofa.config import from_mapping, registry
from ofa.tasks.classification import Classification
from ofa.tasks.detection import Detection
from ofa.tasks.losses import LOSSES, Loss
from ofa.tasks.multilabel_classification import MultilabelClassification
from ofa.tasks.regression import Regression
from ofa.tasks.segmentation import Segmentation
from ofa.tasks.several import Several
from ofa.tasks.speaker_verification import SpeakerVerification
from ofa.tasks.speech import Speech
from ofa.tasks.super_resolution import SuperResolution
from ofa.tasks.task import Batches, Feed, Samples, Scorer, Sizes, Task, TaskData, mean_of
from ofa.tasks.text_classification import TextClassification

TASKS: dict[str, type[Task]] = registry(
    Task,  # type: ignore[type-abstract]
    {
        "classification": Classification,
        "detection": Detection,
        "segmentation": Segmentation,
        "regression": Regression,
        "multilabel_classification": MultilabelClassification,
        "super_resolution": SuperResolution,
        "speech": Speech,
        "speaker_verification": SpeakerVerification,
        "text_classification": TextClassification,
        "several": Several,
    },
)


def task_from_json(value: Any, *, where: str) -> Task:
    """The task that a file names, or, where it names none, classification, as before there were others."""
    return from_mapping(_Named, {} if value is None else {"task": value}, where=where).task


@dataclass(frozen=True, kw_only=True)
class _Named:
    task: Task = field(default_factory=Classification)


__all__ = [
    "LOSSES",
    "TASKS",
    "Batches",
    "Classification",
    "Detection",
    "Feed",
    "Loss",
    "MultilabelClassification",
    "Regression",
    "Samples",
    "Scorer",
    "Segmentation",
    "Several",
    "Sizes",
    "SpeakerVerification",
    "Speech",
    "SuperResolution",
    "Task",
    "TaskData",
    "TextClassification",
    "mean_of",
    "task_from_json",
]
