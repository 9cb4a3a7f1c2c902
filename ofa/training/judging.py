"""A run that is judged by something else than the one whose weights it has."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pandas as pd

from ofa.errors import UsageError
from ofa.files import read_csv, write_csv_atomic, write_json_atomic
from ofa.metrics import name_in_file
from ofa.progress import Progress
from ofa.training.evaluation import SubnetEvaluator
from ofa.training.recipe import Recipe
from ofa.training.run import REMEDY, Run, RunError

LEFT = ("supernet.json", "metrics.csv", "report.html", "mlflow.json")


def judged_by(run: Run, by: str, *, out: Path, data_root: str | None = None, progress: Progress | None = None) -> Run:
    """A new run folder with the weights of another; its task is judged ``by`` something else.

    Raises:
        UsageError: If the task has no ``judge_by``.
        ConfigError: If it is not judged by that.
        RunError: If the folder is there already.
    """
    if not hasattr(run.task, "judge_by"):
        raise UsageError(f"task {run.task.name} is judged by {run.task.metric.title}, and by nothing else")
    if out.exists():
        raise RunError(f"{out} is there already; give another --out, or remove it")
    plain = run.recipe.to_json()
    plain["task"] = {**plain.get("task", {"name": run.task.name}), "judge_by": by}
    recipe = Recipe.from_json(plain, where="the run's recipe")
    data = run.data(root=data_root, progress=progress)
    supernet = run.supernet()
    bounds = [supernet.space.largest(), supernet.space.smallest()]
    found = SubnetEvaluator(supernet, data, recipe.task).values(bounds, split="search")

    columns = [recipe.task.metric.of(which) for which in ("largest", "smallest")]
    rows = read_csv(run.path / "metrics.csv", numbers=(), remedy=REMEDY).tail(1)
    kept = [name for name in rows.columns if not name.startswith(("largest_", "smallest_"))]
    info = {key: value for key, value in run.info.items() if key != "metric"}
    info |= {**name_in_file(recipe.task.metric), "recipe": recipe.to_json()}
    info["data"] = {**run.info["data"], **recipe.task.facts(data)}
    out.mkdir(parents=True)
    for file in run.path.iterdir():
        if file.is_file() and file.name not in LEFT:
            shutil.copy2(file, out / file.name)
    write_csv_atomic(
        out / "metrics.csv", pd.concat([rows[kept], pd.DataFrame([found], columns=columns, index=rows.index)], axis=1)
    )
    write_json_atomic(out / "supernet.json", info, indent=None)
    return dataclasses.replace(run, path=out, info=info)
