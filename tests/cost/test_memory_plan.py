from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.cost.memory_plan import MemoryPlanError, Tensor, plan_memory, plan_onnx


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
def test_few_tensors_are_placed_nearly_as_well_as_can_be(found):
    """Some order of placing each as low as it goes gives the best placement; brute force tries them all."""
    tensors = [Tensor(str(i), size, first, first + length) for i, (size, first, length) in enumerate(found)]
    best = min(arena_of_order(tensors, order) for order in itertools.permutations(range(len(tensors))))
    assert best <= plan_memory(tensors).arena_bytes <= 1.5 * best


def test_what_sticks_out_is_placed_first():
    """By size alone, d finds its place between a (at 0) and c (at 8) taken, and lies on top of c."""
    tensors = [Tensor("a", 8, 0, 1), Tensor("b", 8, 3, 4), Tensor("c", 8, 2, 4), Tensor("d", 4, 1, 2)]
    assert arena_of_order(tensors, range(4)) == 20
    plan = plan_memory(tensors)
    assert plan.arena_bytes == plan.lower_bound_bytes == 16


def arena_of_order(tensors, order):
    taken = []
    for index in order:
        tensor = tensors[index]
        beside = [(x, t) for x, t in taken if t.first <= tensor.last and tensor.first <= t.last]
        candidates = [0, *(x + t.num_bytes for x, t in beside)]
        offset = min(x for x in candidates if all(x + tensor.num_bytes <= y or y + t.num_bytes <= x for y, t in beside))
        taken.append((offset, tensor))
    return max(x + t.num_bytes for x, t in taken)


def graph(nodes, shape, weights=(), constants=None, out_shape=None):
    info = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
        for name, dims in (("input", shape), ("output", out_shape or shape))
    ]
    tensors = [onnx.numpy_helper.from_array(np.ones(size, dtype=np.float32), name) for name, size in weights]
    tensors += [onnx.numpy_helper.from_array(np.array(value), name) for name, value in (constants or {}).items()]
    model = helper.make_model(helper.make_graph(nodes, "test", info[:1], info[1:], tensors))
    model.opset_import[0].version, model.ir_version = 17, 8
    onnx.checker.check_model(model)
    return model


def conv(read, write, *, weight, **attributes):
    return helper.make_node("Conv", [read, weight], [write], **attributes)


def node(op_type, reads, write, **attributes):
    return helper.make_node(op_type, reads.split(), write.split(), **attributes)


IMAGE = [1, 2, 4, 4]
WIDE, NARROW = ("w1", (8, 2, 1, 1)), ("w2", (2, 8, 1, 1))


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


def elements_alive(model):
    """Per step."""
    return plan_onnx(model, bytes_per_element=1).alive_bytes


def test_normalisation_and_activation_write_over_the_convolution():
    nodes = [
        conv("input", "wide", weight="w1"),
        node("BatchNormalization", "wide s s s s", "normal"),
        node("HardSwish", "normal", "act"),
        conv("act", "output", weight="w2"),
    ]
    assert elements_alive(graph(nodes, IMAGE, [WIDE, NARROW, ("s", (8,))])) == (32, 160, 128, 128, 160)


def test_an_activation_whose_operand_is_needed_later_takes_room():
    """Before activation, a shortcut waits: 32 input, then 32 for the activated one."""
    nodes = [
        node("Relu", "input", "act"),
        conv("act", "wide", weight="w1"),
        node("Relu", "wide", "act2"),
        conv("act2", "narrow", weight="w2"),
        node("Add", "narrow input", "output"),
    ]
    assert elements_alive(graph(nodes, IMAGE, [WIDE, NARROW])) == (32, 64, 192, 160, 192, 64)


@pytest.mark.parametrize("spelling", ["swish", "gelu"])
def test_an_activation_in_several_operators_takes_no_room(spelling):
    """x * sigmoid(x), and x * (erf(x / c) + 1): what stands between is computed where it is read."""
    factor = {
        "swish": [node("Sigmoid", "wide", "factor")],
        "gelu": [node("Div", "wide c", "a"), node("Erf", "a", "b"), node("Add", "b c", "factor")],
    }[spelling]
    nodes = [
        conv("input", "wide", weight="w1"),
        *factor,
        node("Mul", "wide factor", "act"),
        conv("act", "output", weight="w2"),
    ]
    model = graph(nodes, IMAGE, [WIDE, NARROW], {"c": np.float32(1)})
    assert elements_alive(model) == (32, 160, *[128] * len(factor), 128, 160)


def test_a_gate_by_hand():
    """Squeeze and excite: the wide tensor waits for 8 means and 8 factors, and is then written over."""
    nodes = [
        conv("input", "wide", weight="w1"),
        node("GlobalAveragePool", "wide", "means"),
        conv("means", "logits", weight="w3"),
        node("HardSigmoid", "logits", "gates"),
        node("Mul", "wide gates", "gated"),
        conv("gated", "output", weight="w2"),
    ]
    model = graph(nodes, IMAGE, [WIDE, NARROW, ("w3", (8, 8, 1, 1))])
    assert elements_alive(model) == (32, 160, 136, 144, 136, 136, 160)


def test_transposes_copy_and_reshapes_do_not():
    nodes = [
        node("Reshape", "input shape", "tokens"),
        node("Transpose", "tokens", "turned", perm=[0, 2, 1]),
        node("Transpose", "turned", "back", perm=[0, 2, 1]),
        node("Reshape", "back image", "output"),
    ]
    constants = {"shape": [1, 2, 16], "image": IMAGE}
    assert elements_alive(graph(nodes, IMAGE, constants=constants)) == (32, 32, 64, 64, 32)


def test_parts_and_what_is_put_together_take_room():
    nodes = [
        node("Split", "input", "a b", axis=1),
        node("Relu", "a", "c"),
        node("Concat", "b c", "output", axis=1),
    ]
    # The activation of one half is read by what is not elementwise, and written over that half.
    assert elements_alive(graph(nodes, IMAGE)) == (32, 64, 32, 64)


def test_shapes_that_the_graph_computes_are_followed():
    """As exporters write a class token: expanded to the batch, which is read from the image at run time."""
    nodes = [
        node("Shape", "input", "dims"),
        node("Gather", "dims zero", "batch"),
        node("Concat", "batch ones", "wanted", axis=0),
        node("Clip", "wanted  ", "at_least"),
        node("Expand", "token at_least", "tokens"),
        node("Concat", "tokens input", "output", axis=1),
    ]
    model = graph(nodes, IMAGE, [("token", (1, 1, 4, 4))], {"zero": [0], "ones": [1, 1, 1]}, [1, 3, 4, 4])
    assert elements_alive(model) == (32, 32 + 48)  # the token is a weight


def test_weights_of_a_large_model_are_not_activations():
    model = graph([node("MatMul", "input w", "output")], [1, 2000], [("w", (2000, 2000))])
    plan = plan_onnx(model)
    assert [tensor.name for tensor in plan.tensors] == ["input", "output"]
    assert plan.arena_bytes == 4 * 4000
