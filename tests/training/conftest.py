from __future__ import annotations

from pathlib import Path

import pytest

from ofa.training import Recipe, Run, load_recipe, train

# A few seconds: 96 images, two epochs of three steps.
TINY = (
    "train.epochs=2",
    "train.batch_size=32",
    "train.warmup_epochs=1",
    "train.eval_every_epochs=0",
    "train.device=cpu",
    "train.ema_decay=0.9",
    "strategy.sampler.num_random=1",
    "data.limit=96",
    "data.search_share=32",
    "data.calibration_share=64",
    "model.depth=[1, 3]",
    "model.resolution=[16, 20]",
)


def tiny_recipe(*overrides: str) -> Recipe:
    return load_recipe("demo", (*TINY, *overrides))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run; not to be changed by tests."""
    out: Path = tmp_path_factory.mktemp("runs") / "trained"
    return train(tiny_recipe(), out)
