"""What networks learn and are judged by. A new task is a file here and a line in :data:`TASKS`."""

from ofa.config import registry
from ofa.tasks.classification import Classification
from ofa.tasks.losses import LOSSES, Loss
from ofa.tasks.task import Batches, Feed, Scorer, Sizes, Task, TaskData, mean_of

TASKS: dict[str, type[Task]] = registry(Task, {"classification": Classification})

__all__ = [
    "LOSSES",
    "TASKS",
    "Batches",
    "Classification",
    "Feed",
    "Loss",
    "Scorer",
    "Sizes",
    "Task",
    "TaskData",
    "mean_of",
]
