"""A run of MLflow's, on a tracking server or in a folder, that shows what a training run does."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from ofa.config import Record, check_record
from ofa.errors import UsageError
from ofa.files import FORMAT, read_json, write_json_atomic
from ofa.optional import extra, require
from ofa.progress import Progress, notice
from ofa.training.recipe import Recipe
from ofa.training.signals import StoppedError

EXPERIMENT = "ofa"
FILES = ("metrics.csv", "report.html")
"""Of the run folder, what goes to MLflow in the end, where it is there."""
REST_SECONDS = 600.0
"""How long a server that failed is left alone."""
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}
"""MLflow's, where the environment has none; with its own a server that is gone would hold training up for minutes."""


@dataclass(frozen=True, kw_only=True)
class _Kept(Record):
    """What ``mlflow.json`` holds.

    Args:
        num_epochs: That MLflow has.
    """

    uri: str
    run_id: str
    num_epochs: int


class MLflow:
    """Takes recipe, figures and small files to a run of MLflow's; a resumed training goes on in the same one.

    A server that does not answer refuses a training that begins. Later it is left alone for a while, which is said
    once, and training goes on; what it missed is sent when it answers again.

    Args:
        uri: Of the tracking server, or a folder.
        out: The run folder, whose ``mlflow.json`` says which run of MLflow's it is.
        resumes: A checkpoint is there.

    Raises:
        NotInstalledError: If MLflow is not there.
        UsageError: If nothing answers at ``uri``, for a run that is not there yet.
        FileFormatError: If ``mlflow.json`` is damaged.
    """

    def __init__(self, uri: str, recipe: Recipe, out: Path, *, resumes: bool, progress: Progress | None = None) -> None:
        self.uri, self.recipe, self.out, self.progress = uri, recipe, out, progress
        is_folder = uri.startswith("file:") or (":" not in uri and uri != "databricks")
        for name, value in (SETTINGS | ({"MLFLOW_ALLOW_FILE_STORE": "true"} if is_folder else {})).items():
            os.environ.setdefault(name, value)
        self._mlflow: Any = require("mlflow", extra("mlflow"))
        self._address = Path(uri).absolute().as_uri() if is_folder and not uri.startswith("file:") else uri
        self._kept = self._read() if resumes else None
        self._missing: list[Mapping[str, float]] = []
        self._rests_until, self._is_said = 0.0, False
        if self._kept is None:
            with self._answers():
                self._experiment = self._find_experiment()

    @cached_property
    def _client(self) -> Any:
        return self._mlflow.MlflowClient(tracking_uri=self._address)

    @contextmanager
    def _answers(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # MLflow's, or of whatever its store needs
            raise UsageError(
                f"train.mlflow={self.uri}: MLflow cannot keep a run there ({_short(error)}); start the server, correct "
                "the address, or leave train.mlflow out"
            ) from None

    def _find_experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        found = self._client.get_experiment_by_name(name)
        return str(self._client.create_experiment(name) if found is None else found.experiment_id)

    # -- which run it is ---------------------------------------------------------------------------------------------

    def _read(self) -> _Kept | None:
        """The run so far, if it is in the same place."""
        path, remedy = self.out / "mlflow.json", "delete it, and another run of MLflow's begins"
        if not path.exists():
            return None
        found = read_json(path, kind="note of MLflow's run", remedy=remedy)
        kept = check_record(_Kept, found, where=str(path), remedy=remedy)
        return kept if kept.uri == self.uri else None

    def _keep(self, run_id: str, num_epochs: int) -> None:
        self._kept = _Kept(uri=self.uri, run_id=run_id, num_epochs=num_epochs)
        write_json_atomic(self.out / "mlflow.json", {"format": FORMAT, **vars(self._kept)})

    @property
    def _run(self) -> _Kept:
        assert self._kept is not None
        return self._kept

    def _begin(self) -> None:
        run = self._client.create_run(self._experiment, run_name=self.out.name)
        parameters = [self._mlflow.entities.Param(*each) for each in settings_of(self.recipe)]
        self._client.log_batch(run.info.run_id, params=parameters)
        self._keep(run.info.run_id, 0)

    # -- what it is given --------------------------------------------------------------------------------------------

    @contextmanager
    def opened(self, before: Sequence[Mapping[str, float]]) -> Iterator[Callable[[Mapping[str, float]], None]]:
        """See :class:`~ofa.training.curves.Curves`."""
        if self._kept is None:
            with self._answers():
                self._begin()
        else:
            self._try(lambda: self._client.update_run(self._run.run_id, status="RUNNING"))
        self._missing = list(before[self._run.num_epochs :])
        try:
            yield self._take
        except Exception as error:
            status = "KILLED" if isinstance(error, StoppedError) else "FAILED"
            self._try(lambda: self._end(status), at_once=True)
            raise
        self._try(lambda: self._end("FINISHED"), at_once=True)

    def _take(self, figures: Mapping[str, float]) -> None:
        if figures["epoch"] > self._run.num_epochs:  # a killed run may have sent what it did not save
            self._missing.append(figures)
        self._try(self._send)

    def _send(self) -> None:
        while self._missing:
            figures, now = self._missing[0], int(1000 * time.time())
            epoch = int(figures["epoch"])
            values = [(_key(name), value, now, epoch) for name, value in figures.items() if name != "epoch"]
            metrics = [self._mlflow.entities.Metric(*each) for each in values]
            self._client.log_batch(self._run.run_id, metrics=metrics)
            self._missing.pop(0)
            self._keep(self._run.run_id, epoch)

    def _end(self, status: str) -> None:
        self._send()
        run_id = self._run.run_id
        if status == "FINISHED":
            recipe = yaml.safe_dump(_plain(self.recipe), sort_keys=False, allow_unicode=True)
            self._client.log_text(run_id, recipe, "recipe.yaml")
            for name in FILES:
                if (self.out / name).exists():
                    self._client.log_artifact(run_id, str(self.out / name))
        self._client.set_terminated(run_id, status)

    def _try(self, call: Callable[[], object], *, at_once: bool = False) -> None:
        """Make a call that training does not depend on."""
        if time.monotonic() < self._rests_until and not at_once:
            return
        try:
            call()
        except Exception as error:  # as in _answers
            self._rests_until = time.monotonic() + REST_SECONDS
            if not self._is_said:
                self._is_said = True
                said = f"MLflow at {self.uri} does not take what it is given ({_short(error)})"
                notice(self.progress, f"{said}; training goes on, and sends what is missing when it can")


def settings_of(recipe: Recipe) -> list[tuple[str, str]]:
    """Keys and values of a recipe as they are given on the command line; what is not set is left out."""

    def flat(values: Mapping[str, Any], section: str) -> Iterator[tuple[str, str]]:
        for name, value in values.items():
            if isinstance(value, Mapping):
                yield from flat(value, f"{section}{name}.")
            elif value is not None:
                yield _key(section + name), value if isinstance(value, str) else json.dumps(value)

    return list(flat(_plain(recipe), ""))


def _plain(recipe: Recipe) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(recipe.to_json()))
    return plain


def _key(name: str) -> str:
    """A name that MLflow takes."""
    return re.sub(r"[^\w. -]", "_", name, flags=re.ASCII)[:250]


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:150]} ... {text[-150:]}"  # what was asked, and what came of it
