"""Where the figures of each epoch go, beside ``metrics.csv``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from torch.utils.tensorboard import SummaryWriter

from ofa.progress import Progress
from ofa.training.mlflow import MLflow
from ofa.training.recipe import Recipe

Figures: TypeAlias = Mapping[str, float]
"""The numbers of one epoch by name, ``epoch`` (from 1) among them."""


class Curves(Protocol):
    """A place that shows figures over epochs."""

    def opened(self, before: Sequence[Figures]) -> AbstractContextManager[Callable[[Figures], None]]:
        """What takes the figures of each epoch that ends, until the block does.

        Args:
            before: Of the epochs that a checkpoint brought.
        """
        ...


def curves_of(recipe: Recipe, out: Path, *, resumes: bool, progress: Progress | None = None) -> list[Curves]:
    """The places that a recipe asks for.

    Args:
        resumes: A checkpoint is there.

    Raises:
        NotInstalledError, UsageError: See :class:`~ofa.training.mlflow.MLflow`.
    """
    places: list[Curves] = [TensorBoard(out / "tensorboard")]
    if recipe.train.mlflow:
        places.append(MLflow(recipe.train.mlflow, recipe, out, resumes=resumes, progress=progress))
    return places


@contextmanager
def drawn(places: Sequence[Curves], rows: Sequence[Mapping[str, Any]]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """What takes a row of ``metrics.csv`` to all places, until the block ends.

    Args:
        rows: What a checkpoint brought.
    """
    with ExitStack() as stack:
        takers = [stack.enter_context(place.opened([_figures(row) for row in rows])) for place in places]

        def add(row: Mapping[str, Any]) -> None:
            for take in takers:
                take(_figures(row))

        yield add


def _figures(row: Mapping[str, Any]) -> Figures:
    return {name: value for name, value in row.items() if isinstance(value, int | float)}


class TensorBoard:
    """Event files in a folder. A resumed run hides the epochs that a killed one wrote and a checkpoint lacks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def opened(self, before: Sequence[Figures]) -> Iterator[Callable[[Figures], None]]:
        with SummaryWriter(str(self.folder), purge_step=len(before)) as writer:

            def take(figures: Figures) -> None:
                for name, value in figures.items():
                    if name != "epoch":
                        writer.add_scalar(name, value, int(figures["epoch"]) - 1)
                writer.flush()

            yield take
