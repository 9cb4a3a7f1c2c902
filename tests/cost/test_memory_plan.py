from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from ofa.cost.memory_plan import MemoryPlanError, Tensor, plan_memory, plan_onnx


def test_a_plan_by_hand():
    """b replaces nothing while a and c are there; d fits where a was."""
    tensors = [Tensor("a", 4, 0, 1), Tensor("b", 6, 1, 2), Tensor("c", 2, 1, 3), Tensor("d", 4, 2, 3)]
    plan = plan_memory(tensors)
    assert plan.alive_bytes == (4, 12, 12, 6)
    assert plan.arena_bytes == plan.lower_bound_bytes == 12


def test_alignment_rounds_places_and_sizes():
    plan = plan_memory([Tensor("a", 5, 0, 1), Tensor("b", 3, 0, 1)], alignment=16)
    assert sorted(plan.offsets) == [0, 16]
    assert plan.arena_bytes == 32


def test_nothing_needs_nothing():
    assert plan_memory([]).arena_bytes == 0


spans = st.tuples(st.integers(1, 9), st.integers(0, 5), st.integers(0, 3))


@given(st.lists(spans, max_size=12))
def test_tensors_of_the_same_time_never_overlap(found):
    tensors = [Tensor(str(i), size, first, first + length) for i, (size, first, length) in enumerate(found)]
    plan = plan_memory(tensors)
    for (a, x), (b, y) in itertools.combinations(zip(tensors, plan.offsets, strict=True), 2):
        if a.first <= b.last and b.first <= a.last:
            assert x + a.num_bytes <= y or y + b.num_bytes <= x
    at_least = max((sum(t.num_bytes for t in tensors if t.first <= s <= t.last) for s in range(9)), default=0)
    assert at_least == plan.lower_bound_bytes <= plan.arena_bytes <= sum(t.num_bytes for t in tensors)


@given(st.lists(spans, min_size=1, max_size=5))
def test_it_is_near_the_best_of_all_orders(found):
    """The best placement of few tensors is the best of all orders of placing each as low as it goes."""
    tensors = [Tensor(str(i), size, first, first + length) for i, (size, first, length) in enumerate(found)]
    best = min(arena_of_order(tensors, order) for order in itertools.permutations(range(len(tensors))))
    assert best <= plan_memory(tensors).arena_bytes <= 1.5 * best


def arena_of_order(tensors, order):
    taken = []
    for index in order:
        tensor = tensors[index]
        beside = [(x, t) for x, t in taken if t.first <= tensor.last and tensor.first <= t.last]
        candidates = [0, *(x + t.num_bytes for x, t in beside)]
        offset = min(x for x in candidates if all(x + tensor.num_bytes <= y or y + t.num_bytes <= x for y, t in beside))
        taken.append((offset, tensor))
    return max(x + t.num_bytes for x, t in taken)


def graph(nodes, shape, weights=()):
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("input", "output")]
    tensors = [onnx.numpy_helper.from_array(np.ones(size, dtype=np.float32), name) for name, size in weights]
    model = helper.make_model(helper.make_graph(nodes, "test", info[:1], info[1:], tensors))
    model.opset_import[0].version, model.ir_version = 17, 8
    return model


def test_a_residual_block_by_hand():
    """Input 2 channels of 16, expanded to 8: the input waits, the activation writes over what it is given."""
    nodes = [
        helper.make_node("Conv", ["input", "w1"], ["wide"]),
        helper.make_node("Relu", ["wide"], ["act"]),
        helper.make_node("Conv", ["act", "w2"], ["narrow"]),
        helper.make_node("Add", ["narrow", "input"], ["output"]),
    ]
    model = graph(nodes, [1, 2, 4, 4], [("w1", (8, 2, 1, 1)), ("w2", (2, 8, 1, 1))])
    plan = plan_onnx(model)
    assert plan.arena_bytes == 4 * 16 * (2 + 8 + 2)
    assert plan_onnx(model.SerializeToString(), bytes_per_element=1).arena_bytes == 16 * (2 + 8 + 2)


def test_without_the_shortcut_the_input_goes():
    nodes = [
        helper.make_node("Conv", ["input", "w1"], ["wide"]),
        helper.make_node("Conv", ["wide", "w2"], ["output"]),
    ]
    model = graph(nodes, [1, 2, 4, 4], [("w1", (8, 2, 1, 1)), ("w2", (2, 8, 1, 1))])
    assert plan_onnx(model).arena_bytes == 4 * 16 * 10


def test_a_free_batch_is_refused():
    model = graph([helper.make_node("Conv", ["input", "w"], ["output"])], ["batch", 2, 4, 4], [("w", (2, 2, 1, 1))])
    with pytest.raises(MemoryPlanError, match="no fixed size; export with a fixed batch"):
        plan_onnx(model)
