"""A run that a test file trains once, in its ``work`` folder, and what is made of it; not to be changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from ofa.training import Run, SubnetEvaluator

from .helpers import make_bundle


@pytest.fixture(scope="module")
def run(work: Path) -> Run:
    return Run.open(work / "run")


@pytest.fixture(scope="module")
def evaluator(run: Run) -> SubnetEvaluator:
    return SubnetEvaluator(run.supernet(), run.data(), run.task)


@pytest.fixture(scope="module")
def bundle(run: Run, evaluator: SubnetEvaluator, work: Path) -> Path:
    return make_bundle(evaluator, run, work / "bundle")
