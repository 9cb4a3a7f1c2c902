"""Every block of the registry, as it is drawn."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ofa.estimate.kernels import read_kernels
from ofa.estimate.samples import (
    BLOCKS,
    MAX_PARAMS,
    MULTIPLES,
    Choice,
    Span,
    build,
    draw,
    draw_near,
    is_small,
    parse,
)
from ofa.hardware.timed_models import export_model
from ofa.setting import Setting

SETTING = Setting(runtime="onnxruntime")


def small(block: str, rng: np.random.Generator) -> str:
    while True:
        sample = draw(rng, {name: float(name == block) for name in BLOCKS})
        module, shape = build(sample) if is_small(sample) else (None, ())
        if module is not None and np.prod(shape) < 1 << 18 and sum(p.numel() for p in module.parameters()) < 1 << 20:
            return sample


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_runs_and_its_kernels_are_told(block: str) -> None:
    sample = small(block, np.random.default_rng(1))
    before = torch.get_rng_state()
    module, shape = build(sample)
    assert torch.equal(before, torch.get_rng_state())
    assert not module.training
    kernels = read_kernels(export_model(module, shape, SETTING), SETTING)
    assert kernels
    for kernel in kernels:
        assert all(np.isfinite(kernel.features))


WITH_OPERATIONS = {name: each.ranges["op"] for name, each in BLOCKS.items() if "op" in each.ranges}
OPERATIONS = [(block, op) for block, choice in WITH_OPERATIONS.items() for op in dict.fromkeys(choice.values)]


@pytest.mark.parametrize(("block", "op"), OPERATIONS)
def test_every_operation_runs(block: str, op: str) -> None:
    """Also on sizes that two does not divide."""
    drawn = {name: 1 if name == "within" else 2 for name in BLOCKS[block].ranges}
    drawn |= {name: 9 for name in ("channels", "size", "rows", "tokens") if name in drawn}
    module, shape = build(f"{block} {json.dumps({**drawn, 'op': op})}")
    assert read_kernels(export_model(module, shape, SETTING), SETTING)


def test_the_same_name_gives_the_same_network() -> None:
    sample = small("convolution", np.random.default_rng(3))
    first, second = (dict(build(sample)[0].state_dict()) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_is_drawn_follows_from_the_generator() -> None:
    assert [draw(np.random.default_rng(5)) for _ in range(2)] == [draw(np.random.default_rng(5))] * 2


def test_near_samples_have_the_same_choices_and_similar_numbers() -> None:
    rng = np.random.default_rng(0)
    sample = small("inverted", rng)
    block, values = parse(sample)
    for _ in range(20):
        other, near = parse(draw_near(sample, rng))
        assert other == block and near["activation"] == values["activation"]
        assert values["channels"] / 2 - 16 < near["channels"] < 2 * values["channels"] + 16


def test_spans_are_mostly_multiples_and_even_on_a_logarithmic_scale() -> None:
    rng, span = np.random.default_rng(0), Span(8, 1024)
    drawn = np.array([span.draw(rng) for _ in range(2000)])
    assert drawn.min() >= 8 and drawn.max() <= 1024
    assert (drawn % MULTIPLES[1] == 0).mean() > 0.7
    assert 0.4 < (drawn < 90).mean() < 0.6  # half of them below the geometric mean


def test_choices_step_to_their_neighbours() -> None:
    choice, rng = Choice((3, 3, 5, 7)), np.random.default_rng(0)
    assert {choice.near(3, rng) for _ in range(50)} == {3, 5}
    assert {choice.near(5, rng) for _ in range(50)} == {3, 5, 7}


def test_large_samples_are_told_without_their_weights() -> None:
    values = '{"rows":1,"channels":3072,"out":3072,"activation":"relu","bias":1,"depth":1}'
    assert MAX_PARAMS < 3072**2 and not is_small(f"linear {values}")
    assert is_small(f"linear {values.replace('3072', '64')}")


def test_an_unknown_block_is_named() -> None:
    with pytest.raises(KeyError, match="did you mean 'linear'"):
        parse("linaer {}")
