from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d

from ofa.hardware.runtimes import RUNTIMES, NotInstalledError
from ofa.hardware.timed_models import anchor_model, empty_model, export_all, export_model
from ofa.setting import Setting

pytestmark = pytest.mark.alone

SETTING = Setting(runtime="onnxruntime")


@pytest.fixture(params=sorted(RUNTIMES))
def setting(request):
    """A setting of each runtime that is there."""
    setting = dataclasses.replace(SETTING, runtime=request.param)
    try:
        RUNTIMES[request.param]().versions()
    except NotInstalledError as error:
        pytest.skip(str(error))
    return setting


def run(model, setting, images):
    session = RUNTIMES[setting.runtime]().prepare(model, setting)
    (name,) = session.random_inputs(np.random.default_rng(0))
    return session.run({name: images})[0]


def test_the_empty_model_returns_its_input(setting):
    images = np.arange(192, dtype=np.float32).reshape(1, 3, 8, 8)
    np.testing.assert_array_equal(run(empty_model(setting), setting, images), images)


def test_the_anchor_leaves_the_seed_alone_and_computes_bottlenecks(setting):
    """Channels are all alike, so each layer is a sum over a window, times the channels that it reads."""
    state = torch.random.get_rng_state()
    output = run(anchor_model(setting), setting, np.ones((1, 24, 48, 48), dtype=np.float32))
    assert torch.equal(torch.random.get_rng_state(), state)
    image = torch.ones(1, 1, 48, 48)
    for width, hidden, kernel, stride in ((24, 96, 3, 2), (48, 192, 5, 2), (96, 480, 3, 2), (160, 960, 5, 1)):
        for channels, window, step in ((width, 1, 1), (1, kernel, 1), (hidden, 1, 1), (width, 3, stride)):
            if (width, step, window) == (160, 1, 3):
                continue  # no more to reduce
            window_sum = avg_pool2d(image, window, step, padding=window // 2) * window**2
            image = 0.01 * channels * window_sum + 0.01
    np.testing.assert_allclose(output, image.numpy().repeat(160, axis=1), rtol=1e-3)


def test_the_anchor_is_always_the_same():
    assert anchor_model(SETTING) == anchor_model(SETTING)


def test_the_batch_is_the_devices():
    graph = onnx.load_from_string(
        export_model(nn.Conv2d(3, 4, 3).eval(), (3, 6, 6), dataclasses.replace(SETTING, batch=5))
    )
    assert [size.dim_value for size in graph.graph.input[0].type.tensor_type.shape.dim] == [5, 3, 6, 6]


def test_int8_graphs_hold_int8_weights():
    setting = dataclasses.replace(SETTING, precision="int8")
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval()
    graph = onnx.load_from_string(export_model(module, (3, 12, 12), setting)).graph
    weights = [
        tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 4
    ]
    assert [list(weight.dims) for weight in weights] == [[8, 3, 3, 3], [8, 8, 3, 3]]
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in graph.node}


def test_equal_biases_are_quantized_too():
    """The exporter writes them once, behind an Identity."""
    from ofa.formats.onnx_int8 import own_initializers

    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval()
    nn.init.zeros_(module[0].bias), nn.init.zeros_(module[2].bias)
    graph = onnx.load_from_string(export_model(module, (3, 12, 12), SETTING))
    own_initializers(graph)
    assert "Identity" not in {node.op_type for node in graph.graph.node}
    names = {tensor.name for tensor in graph.graph.initializer}
    assert all(set(node.input[1:]) <= names for node in graph.graph.node if node.op_type == "Conv")
    int8 = onnx.load_from_string(
        export_model(module, (3, 12, 12), dataclasses.replace(SETTING, precision="int8"))
    ).graph
    biases = [
        tensor for tensor in int8.initializer if tensor.data_type == onnx.TensorProto.INT32 and len(tensor.dims) == 1
    ]
    assert len([tensor for tensor in biases if tensor.dims == [8]]) >= 2


def test_half_precision_is_in_the_graph():
    module = nn.Conv2d(3, 4, 3).eval()
    from ofa.formats.onnx import export_for_timing

    graph = onnx.load_from_string(export_for_timing(module, (3, 6, 6), dtype=torch.float16)).graph
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    assert module.weight.dtype == torch.float32


def test_files_are_made_once(tmp_path):
    made = []

    def source():
        made.append(1)
        return nn.Conv2d(3, 4, 3).eval(), (3, 6, 6)

    steps = []
    for _ in range(2):
        models = export_all({"a": source, "b": source}, SETTING, tmp_path, step=lambda: steps.append(1))
    assert (len(made), len(steps)) == (2, 4)
    assert list(models) == ["a", "b"]
    assert len({path.name for path in models.values()}) == 2
    export_all({"a": source}, dataclasses.replace(SETTING, batch=2), tmp_path, step=lambda: None)
    assert len(made) == 3


def test_folded_batch_norms_compute_the_same():
    import timm

    from ofa.formats.folding import fold_bn

    model = timm.create_model("mobilenetv3_small_050", num_classes=10).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    folded = fold_bn(model, images)
    assert not [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(folded(images), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_a_batch_norm_that_two_convolutions_share_stays():
    from ofa.formats.folding import fold_bn

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.norm = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            return self.norm(self.first(x)) + self.norm(self.second(x))

    module, images = Shared().eval(), torch.ones(1, 3, 2, 2)
    folded = fold_bn(module, images)
    assert isinstance(folded.norm, nn.BatchNorm2d)
    torch.testing.assert_close(folded(images), module(images))
