from __future__ import annotations

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import ModelProto, TensorProto
from torch import nn

from ofa.formats.calibration import QuantizationError
from ofa.formats.onnx import export_for_timing
from ofa.formats.onnx_int8 import activation_ranges, nodes_by_place, quantize_qdq
from ofa.hardware import load_device, measure
from ofa.hardware.timed_models import export_model
from ofa.precision import split_precision, standing_slots
from ofa.precision.quantized_subnets import MixedPrecisionEvaluator, mixed_onnx_for_timing
from ofa.space import Arch
from ofa.training import SubnetEvaluator
from tests.precision.helpers import join_precision


@pytest.fixture(scope="module")
def mixed(evaluator: SubnetEvaluator) -> MixedPrecisionEvaluator:
    return MixedPrecisionEvaluator(evaluator, num_calibration_images=48)


def arch_of(mixed: MixedPrecisionEvaluator, *int8: str, plain: Arch | None = None) -> Arch:
    """The smallest subnet with these slots in INT8, or ``all`` of them."""
    supernet = mixed.evaluator.supernet
    plain = plain or supernet.space.smallest()
    standing = set(standing_slots(supernet.space, supernet.slots, plain))
    float_slots = set() if int8 == ("all",) else standing - set(int8)
    return join_precision(mixed.space, supernet.slots, plain, float_slots)


def quantized_convolutions(model: bytes) -> set[str]:
    """Modules of the convolutions and matrices whose input and weight are both of eight bits, as timm calls them."""
    graph = onnx.load_from_string(model).graph
    written_by = {name: node for node in graph.node for name in node.output}
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    found = set()
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        data, weight = (written_by.get(name) for name in node.input[:2])
        if weight is not None and weight.op_type == "DequantizeLinear":
            assert types[weight.input[0]] == TensorProto.INT8
            assert data is not None and data.op_type == "DequantizeLinear"
            assert written_by[data.input[0]].op_type == "QuantizeLinear"
            found.add(node.name.split("/")[-2] if "blocks" not in node.name else node.name.split("/")[4])
    return found


BLOCKS = {"stage0.block0": "blocks.0.0", "stage1.block0": "blocks.1.0", "stage2.block0": "blocks.2.0"}
BLOCKS |= {"stage3.block0": "blocks.3.0", "stage4.block0": "blocks.4.0", "stage5.block0": "blocks.5.0"}
MODULES = {name: {path} for name, path in BLOCKS.items()}
MODULES |= {"stem": {"conv_stem"}, "head": {"conv_head", "classifier"}}


@pytest.mark.parametrize(
    "int8",
    [
        ("stem",),
        ("stage2.block0",),
        ("head", "stage1.block0"),
        ("stage0.block0", "stage3.block0", "stage5.block0"),
        tuple(name for name in MODULES if name != "stage4.block0"),
        tuple(MODULES),
        (),
    ],
    ids=len,
)
def test_exactly_the_chosen_blocks_are_quantized(mixed: MixedPrecisionEvaluator, int8: tuple[str, ...]) -> None:
    arch = arch_of(mixed, *int8)
    wanted = set().union(*(MODULES[name] for name in int8))
    assert quantized_convolutions(mixed.onnx(arch)) == wanted
    assert quantized_convolutions(mixed_onnx_for_timing(mixed.evaluator.supernet, mixed.space, arch)) == wanted


def test_one_precision_throughout_is_the_graph_that_a_device_measures(mixed: MixedPrecisionEvaluator) -> None:
    supernet = mixed.evaluator.supernet
    plain = supernet.space.sample(np.random.default_rng(0))
    module, shape = supernet.extract(plain), supernet.input_shape(plain)
    for int8, device in ((("all",), "cpu-int8-1t"), ((), "cpu-1t")):
        model = mixed_onnx_for_timing(supernet, mixed.space, arch_of(mixed, *int8, plain=plain))
        assert model == export_model(module, shape, load_device(device).setting)


def test_fp32_throughout_is_as_accurate_as_in_torch(mixed: MixedPrecisionEvaluator) -> None:
    space = mixed.evaluator.supernet.space
    plain = [space.smallest(), space.sample(np.random.default_rng(1))]
    steps: list[tuple[int, int, str]] = []
    found = mixed.values([arch_of(mixed, plain=arch) for arch in plain], progress=lambda *step: steps.append(step))
    one_image = 100 / len(mixed.evaluator.data.splits.search)
    np.testing.assert_allclose(found[:, 0], mixed.evaluator.values(plain), atol=1.01 * one_image)
    assert [step[:2] for step in steps] == [(1, 2), (2, 2)]


def test_int8_accuracy_is_that_of_the_quantized_file(mixed: MixedPrecisionEvaluator) -> None:
    """Judged here one image at a time by the file for batch 1, by hand."""
    import onnxruntime

    for arch in (arch_of(mixed, "all"), arch_of(mixed, "stage1.block0", "stage4.block0")):
        session = onnxruntime.InferenceSession(mixed.onnx(arch), providers=["CPUExecutionProvider"])
        right = []
        for inputs, labels in mixed.evaluator.batches("search", arch):
            (images,) = inputs.tensors
            logits = [session.run(None, {"images": image[None].contiguous().numpy()})[0] for image in images]
            right += (np.concatenate(logits).argmax(axis=1) == labels.numpy()).tolist()
        assert mixed.values([arch])[0, 0] == pytest.approx(100 * np.mean(right), abs=101 / len(right))


def test_int8_logits_resemble_those_of_fp32_and_its_file_is_smaller(mixed: MixedPrecisionEvaluator) -> None:
    import onnxruntime

    plain = mixed.evaluator.supernet.space.largest()
    ((images,), _), *_ = ((inputs.tensors, labels) for inputs, labels in mixed.evaluator.batches("search", plain))
    models = [mixed.onnx(arch_of(mixed, *int8, plain=plain), batch=len(images)) for int8 in ((), ("all",))]
    logits = []
    for model in models:
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        logits.append(session.run(None, {"images": images.contiguous().numpy()})[0])
    errors = np.abs(logits[0] - logits[1])
    assert errors.max() > 0
    assert np.corrcoef(logits[0].ravel(), logits[1].ravel())[0, 1] > 0.95
    assert len(models[1]) < 0.6 * len(models[0])


def test_the_more_blocks_in_int8_the_smaller_the_file(mixed: MixedPrecisionEvaluator) -> None:
    plain = mixed.evaluator.supernet.space.largest()
    choices = [(), ("stage4.block1",), ("stage4.block0", "stage4.block1", "stage4.block2"), ("all",)]
    num_bytes = [len(mixed.onnx(arch_of(mixed, *int8, plain=plain))) for int8 in choices]
    assert num_bytes == sorted(num_bytes, reverse=True)


@pytest.mark.parametrize("int8", [(), ("stem",), ("all",)])
def test_the_ir_version_is_the_lowest_that_the_opset_permits(
    mixed: MixedPrecisionEvaluator, int8: tuple[str, ...]
) -> None:
    model = onnx.load_from_string(mixed.onnx(arch_of(mixed, *int8)))
    assert (model.opset_import[0].version, model.ir_version) == (17, 8)


def test_precision_of_the_whole_network(mixed: MixedPrecisionEvaluator) -> None:
    whole = MixedPrecisionEvaluator(mixed.evaluator, per="network", num_calibration_images=48)
    plain = dict(mixed.evaluator.supernet.space.smallest())
    archs = [whole.space.arch({**plain, "precision": precision}) for precision in ("int8", "fp32")]
    assert [whole.onnx(arch) for arch in archs] == [mixed.onnx(arch_of(mixed, *int8)) for int8 in (("all",), ())]


def test_mixed_graphs_can_be_timed_on_one_device(mixed: MixedPrecisionEvaluator) -> None:
    supernet = mixed.evaluator.supernet
    models = {
        name: mixed_onnx_for_timing(supernet, mixed.space, arch_of(mixed, *int8))
        for name, int8 in {"mixed": ("stage1.block0",), "int8": ("all",)}.items()
    }
    table = measure(models, load_device("cpu-1t"), rng=np.random.default_rng(0), rounds=2, block_seconds=0.001)
    assert list(table.index) == ["mixed", "int8"]


# -- ofa.formats.onnx_int8 ---------------------------------------------------------------------------------------------


def small_graph(*, batch: int = 2) -> ModelProto:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    return onnx.load_from_string(export_for_timing(module, (3, 8, 8), batch))


def test_activation_ranges_are_those_of_onnx_runtimes_calibrater(tmp_path) -> None:
    from onnxruntime.quantization.calibrate import CalibrationDataReader, create_calibrator

    batches = list(np.random.default_rng(0).normal(size=(3, 2, 3, 8, 8)).astype(np.float32))
    graph = small_graph()
    before = graph.SerializeToString(deterministic=True)
    found = activation_ranges(graph, batches)
    assert graph.SerializeToString(deterministic=True) == before

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(batches)

        def get_next(self):
            images = next(self.batches, None)
            return None if images is None else {"images": images}

    onnx.save(onnx.shape_inference.infer_shapes(graph), tmp_path / "model.onnx")
    calibrator = create_calibrator(tmp_path / "model.onnx", augmented_model_path=str(tmp_path / "augmented.onnx"))
    calibrator.collect_data(Reader())
    expected = {name: data.range_value for name, data in calibrator.compute_data().items()}
    assert set(expected) <= set(found)
    for name, (low, high) in expected.items():
        np.testing.assert_allclose(found[name], (low.item(), high.item()), rtol=1e-5)


def test_calibration_needs_images_and_finite_tensors() -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        activation_ranges(small_graph(), [])
    images = np.full((2, 3, 8, 8), np.inf, dtype=np.float32)
    with pytest.raises(QuantizationError, match="tensor 'images' reaches from inf"):
        activation_ranges(small_graph(), [images])


def test_a_node_that_is_not_there_cannot_stay_in_fp32() -> None:
    with pytest.raises(QuantizationError, match="no node '/module/9/Conv'"):
        quantize_qdq(small_graph(), float_nodes=["/module/9/Conv"])


def test_places_of_nodes_need_the_names_of_modules() -> None:
    with pytest.raises(QuantizationError, match=r"/Conv', says .* modules blocks\.0; export it by tracing"):
        nodes_by_place(small_graph(), {"stage0.block0": "blocks.0"}, {"stem"})


@pytest.mark.parametrize(
    ("name", "blocks", "entries"),
    [
        ("resnet18", [f"layer{i}.{j}" for i in range(1, 5) for j in range(2)], 0),
        ("convnext_atto", [f"stages.{i}.blocks.{j}" for i, num in enumerate((2, 2, 6, 2)) for j in range(num)], 3),
    ],
)
def test_every_node_has_its_place(name: str, blocks: list[str], entries: int) -> None:
    """Other families name and nest their modules in other ways."""
    model = timm.create_model(name, num_classes=3).eval()
    graph = onnx.load_from_string(export_for_timing(model, (3, 32, 32)))
    stages = list(dict.fromkeys(path.rpartition(".")[0] for path in blocks))
    names = {f"stage{stages.index(path.rpartition('.')[0])}.block{path.split('.')[-1]}": path for path in blocks}
    places = {*names, "stem", "head", *(f"stage{stage}.entry" for stage in range(1, entries + 1))}
    found = nodes_by_place(graph, names, places)
    assert set(found) == places
    of_node = {node: place for place, nodes in found.items() for node in nodes}
    outside = {"conv1": "stem", "stem": "stem", "head": "head", "fc": "head"}
    for node in graph.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            inside = [place for place, path in names.items() if f"/{_words(path)}/" in node.name]
            word = node.name.split("/")[2]
            expected = inside or [outside[word] if word in outside else f"{stage_of(node.name)}.entry"]
            assert [of_node[node.name]] == expected


def stage_of(node: str) -> str:
    """``stage2`` for ``/module/stages/stages.2/downsample/...``."""
    return f"stage{node.split('/')[3].removeprefix('stages.')}"


def _words(path: str) -> str:
    """``layer1/layer1.0`` for ``layer1.0``, ``stages/stages.0/blocks/blocks.1`` for ``stages.0.blocks.1``."""
    atoms = path.split(".")
    return "/".join(
        word for name, number in zip(atoms[::2], atoms[1::2], strict=True) for word in (name, f"{name}.{number}")
    )


def test_float_slots_of_an_architecture(mixed: MixedPrecisionEvaluator) -> None:
    slots = mixed.evaluator.supernet.slots
    plain, precisions = split_precision(mixed.space, slots, arch_of(mixed, "stem", "head"))
    assert plain == mixed.evaluator.supernet.space.smallest()
    fp32, int8 = dict.fromkeys(BLOCKS, "fp32"), {"stem": "int8", "head": "int8"}
    assert precisions == fp32 | int8
