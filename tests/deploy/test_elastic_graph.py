"""Graphs that take their weights from a file, run by ONNX Runtime and compared with numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ofa.deploy import elastic_graph
from ofa.deploy.elastic_format import WEIGHTS, ElasticError
from ofa.deploy.elastic_graph import (
    Reference,
    Stored,
    Weight,
    common_tail,
    find_references,
    parse_graph,
    refer_to_weights,
    split,
)

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((1, 16)).astype(np.float32)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def graph_of(*constants: tuple[str, np.ndarray], outputs: str = "y") -> onnx.ModelProto:
    """Adds up its constants' products with the input: ``y = sum(x @ constant)``."""
    nodes = [helper.make_node("MatMul", ["x", name], [f"{name}/product"]) for name, _ in constants]
    nodes.append(helper.make_node("Sum", [f"{name}/product" for name, _ in constants], [outputs]))
    return model_of(nodes, *constants)


def model_of(nodes: list[onnx.NodeProto], *constants: tuple[str, np.ndarray]) -> onnx.ModelProto:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, None]) for name in ("x", "y")]
    initializers = [numpy_helper.from_array(array, name) for name, array in constants]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def store(folder: Path, **tensors: np.ndarray) -> dict[str, Stored]:
    """A weights file: what stands before a tensor does not matter."""
    stored, data = {}, b"header"
    for name, array in tensors.items():
        stored[name] = Stored(array.shape, len(data), array.nbytes)
        data += array.tobytes()
    (folder / WEIGHTS).write_bytes(data)
    return stored


def run(model: onnx.ModelProto, folder: Path, x: np.ndarray = IMAGES, name: str = "x") -> np.ndarray:
    path = folder / "graph.onnx"
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(path, full_check=True)
    result: np.ndarray = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {name: x})[0]
    return result


def whole(array: np.ndarray) -> tuple[tuple[tuple[int, int], ...], ...]:
    return tuple(((0, size),) for size in array.shape)


def test_slices_runs_transposes_and_factors(tmp_path: Path) -> None:
    base, scale = floats(40, 48), floats(16, 1)
    expected = {
        "plain": base[:16, :20],
        "runs": base[4:20][:, [0, 1, 2, 3, *range(20, 36)]],
        "turned": base[5:25, 3:19].T,
        "scaled": base[:16, 8:28] * scale,
    }
    references = {
        "plain": Reference("w", (((0, 16),), ((0, 20),))),
        "runs": Reference("w", (((4, 16),), ((0, 4), (20, 16)))),
        "turned": Reference("w", (((5, 20),), ((3, 16),)), transposed=True),
        "scaled": Reference("w", (((0, 16),), ((8, 20),)), scale=scale),
    }
    model = graph_of(*expected.items())
    before = run(model, tmp_path)
    refer_to_weights(model, references, store(tmp_path, other=floats(3), w=base))
    assert len(model.SerializeToString()) < base.nbytes / 2
    np.testing.assert_allclose(run(model, tmp_path), before, rtol=1e-5)
    np.testing.assert_allclose(before, sum(IMAGES @ each for each in expected.values()), rtol=1e-5)


def test_a_whole_tensor_needs_no_node(tmp_path: Path) -> None:
    base = floats(16, 40)
    model = graph_of(("w", base))
    refer_to_weights(model, {"w": Reference("w", whole(base))}, store(tmp_path, w=base))
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Sum"]
    np.testing.assert_allclose(run(model, tmp_path), IMAGES @ base, rtol=1e-5)


def test_references_are_found() -> None:
    base = floats(64, 32)
    values = base[:40, :16]
    factors = floats(40, 1)
    weights = {"scaled": Weight("w", (((0, 40),), ((0, 16),)), values), "v": Weight("v", whole(base), base)}
    constants = {
        "scaled": values * factors,  # by its name
        "val_7": np.ascontiguousarray(base.T),  # by its values
        "v": base,
        "strange": floats(40, 16),
        "bias": floats(512),  # a vector, so the subnet's own
        "small": floats(4, 4),
    }
    references, others = find_references(graph_of(*constants.items()), weights)
    assert set(others) == {"strange"} and set(references) == {"scaled", "val_7", "v"}
    assert (references["val_7"].key, references["val_7"].transposed) == ("v", True)
    assert (references["v"].transposed, references["v"].scale) == (False, None)
    np.testing.assert_allclose(references["scaled"].scale, factors, rtol=1e-6)


def test_what_only_nearly_fits_is_no_reference() -> None:
    values = floats(40, 16)
    wrong = values * floats(40, 1)
    wrong[3, 5] *= 1 + 1e-5
    references, others = find_references(graph_of(("w", wrong)), {"w": Weight("w", whole(values), values)})
    assert not references and set(others) == {"w"}


def test_channels_of_zeros_have_a_factor_too() -> None:
    values = floats(40, 16)
    values[7] = 0
    references, _ = find_references(graph_of(("w", 2 * values)), {"w": Weight("w", whole(values), values)})
    assert references["w"].scale is not None and np.isfinite(references["w"].scale).all()


# -- reading what may not be trusted -----------------------------------------------------------------------------------


def referring(tmp_path: Path) -> onnx.ModelProto:
    base = floats(16, 40)
    model = graph_of(("w", base))
    refer_to_weights(model, {"w": Reference("w", whole(base))}, store(tmp_path, w=base))
    return model


def parse(model: onnx.ModelProto, tmp_path: Path) -> onnx.ModelProto:
    return parse_graph(model.SerializeToString(), weights_bytes=(tmp_path / WEIGHTS).stat().st_size, where="g.onnx")


def test_a_good_graph_passes(tmp_path: Path) -> None:
    model = referring(tmp_path)
    assert parse(model, tmp_path) == model


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("location", "../secret"),
        ("location", "/etc/passwd"),
        ("location", "elastic.json"),
        ("offset", "8"),
        ("offset", "-4"),
        ("offset", "1e3"),
        ("offset", "²"),
        ("length", "2556"),
        ("checksum", "0"),
    ],
)
def test_constants_from_elsewhere_are_refused(tmp_path: Path, key: str, value: str) -> None:
    model = referring(tmp_path)
    entries = {entry.key: entry for entry in model.graph.initializer[0].external_data}
    if key in entries:
        entries[key].value = value
    else:
        model.graph.initializer[0].external_data.add(key=key, value=value)
    with pytest.raises(ElasticError, match=r"constant 'w' is not taken from weights\.safetensors as it should"):
        parse(model, tmp_path)


def test_constants_hidden_in_nodes_and_branches_are_refused(tmp_path: Path) -> None:
    outside = TensorProto(name="hidden", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="../secret")
    constant = helper.make_node("Constant", [], ["c"], value=outside)
    branch = helper.make_graph([constant], "b", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, [1])])
    model = referring(tmp_path)
    model.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=branch, else_branch=branch))
    with pytest.raises(ElasticError, match="constant 'hidden' is not taken from"):
        parse(model, tmp_path)


def test_a_graph_that_runs_in_a_circle_is_refused(tmp_path: Path) -> None:
    model = referring(tmp_path)
    model.graph.node[0].input[0] = model.graph.node[-1].output[0]
    with pytest.raises(ElasticError, match=r"g\.onnx: a node 'MatMul' reads 'y', which nothing before it makes; "):
        parse(model, tmp_path)


def test_operators_from_elsewhere_are_refused(tmp_path: Path) -> None:
    model = referring(tmp_path)
    model.graph.node[0].domain = "com.microsoft"
    with pytest.raises(ElasticError, match="operators that are not ONNX's own"):
        parse(model, tmp_path)


def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    for data in (b"\xff\xff", b"", onnx.ModelProto().SerializeToString()):
        with pytest.raises(ElasticError, match=r"g\.onnx (is not a valid|must have one input)"):
            parse_graph(data, weights_bytes=1, where="g.onnx")


# -- the common end ----------------------------------------------------------------------------------------------------


def chain(seed: int, *, head: np.ndarray, depth: int = 1, activation: str = "Relu") -> onnx.ModelProto:
    """Layers of its own, then an activation, two common layers and an activation."""
    rng = np.random.default_rng(seed)
    own = [(f"own{number}", rng.standard_normal((16, 16)).astype(np.float32)) for number in range(depth)]
    nodes, value = [], "x"
    for name, _ in own:
        nodes.append(helper.make_node("MatMul", [value, name], [f"{name}/{seed}"]))
        value = f"{name}/{seed}"
    nodes += [
        helper.make_node("Sigmoid", [value], ["s"]),
        helper.make_node("MatMul", ["s", "head"], ["h"]),
        helper.make_node(activation, ["h"], ["a"]),
        helper.make_node("MatMul", ["a", "last"], ["y"]),
    ]
    return model_of(nodes, *own, ("head", head), ("last", np.eye(32, dtype=np.float32)))


@pytest.fixture
def small_tails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elastic_graph, "MIN_TAIL_BYTES", 4096)


def test_the_common_end_is_found_and_computes_the_same(tmp_path: Path, small_tails: None) -> None:
    head = floats(16, 32)
    models = [chain(0, head=head), chain(1, head=head, depth=3)]
    expected = [run(model, tmp_path) for model in models]
    length = common_tail(models)
    assert length == 3  # from the first common weights on
    parts = [split(model, length) for model in models]
    assert parts[0][1].graph.node[0].op_type == "MatMul"
    for (own, _), logits in zip(parts, expected, strict=True):
        assert {tensor.name for tensor in own.graph.initializer} <= {"own0", "own1", "own2"}
        value = run(own, tmp_path)
        np.testing.assert_allclose(
            run(parts[0][1], tmp_path, value, parts[0][1].graph.input[0].name), logits, rtol=1e-6
        )


def test_ends_that_differ_are_not_common(small_tails: None) -> None:
    head = floats(16, 32)
    one = chain(0, head=head)
    assert common_tail([one, chain(1, head=floats(16, 32))]) == 1  # the last layer only
    assert common_tail([one, chain(1, head=head, activation="Sigmoid")]) == 1
    assert common_tail([one]) == 0


def test_a_small_end_is_not_worth_a_call() -> None:
    head = floats(16, 32)
    assert common_tail([chain(0, head=head), chain(1, head=head)]) == 0


def test_an_end_that_takes_two_values_is_not_parted(small_tails: None) -> None:
    head = floats(16, 32)
    models = [chain(0, head=head), chain(1, head=head)]
    for model in models:
        model.graph.node[-2].CopyFrom(helper.make_node("PRelu", ["h", "s2"], ["a"]))
        model.graph.node.insert(0, helper.make_node("ReduceSum", ["x"], ["s2"]))
    assert common_tail(models) == 1
