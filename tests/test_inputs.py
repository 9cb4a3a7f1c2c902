"""What a model takes, and how a batch is brought to a size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ofa.errors import UsageError
from ofa.inputs import IMAGE_AXES, Axis, Inputs, InputSpec, channels_last
from ofa.space import Dim, SearchSpace

SQUARE = InputSpec.images(3, 32)


def test_arguments_may_be_a_tensor_a_tuple_or_a_mapping() -> None:
    a, b = torch.zeros(2, 3), torch.ones(2, 5)
    assert Inputs.of(a).args == (a,)
    assert Inputs.of((a, b)).args == (a, b)
    assert Inputs.of({"x": a, "mask": b}).kwargs == {"x": a, "mask": b}
    given = Inputs(a, mask=[b])
    assert Inputs.of(given) is given
    assert [tuple(tensor.shape) for tensor in given.tensors] == [(2, 3), (2, 5)]
    assert len(given) == 2 and len(given.rows(slice(1))) == 1
    assert repr(given) == "Inputs((2, 3) float32, (2, 5) float32)"


def test_they_are_what_the_model_is_called_with() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor, pair: tuple[Tensor, Tensor], *, scale: float) -> Tensor:
            return scale * (x + pair[0] + pair[1])

    one = torch.ones(2)
    assert Inputs(one, (one, one), scale=2.0).call(Model()).tolist() == [6, 6]
    doubled = Inputs(one, (one, one), scale=2.0).map(lambda tensor: 2 * tensor)
    assert doubled.call(Model()).tolist() == [12, 12]


def test_sizes_of_an_architecture_and_of_a_space() -> None:
    space = SearchSpace((Dim("resolution", (16, 24, 32)), Dim("stage1.depth", (1, 2))))
    assert SQUARE.sizes(space.smallest()) == {"resolution": 16}
    assert SQUARE.largest(space) == {"resolution": 32}
    assert SQUARE.shapes({"resolution": 24}, batch=5) == [(5, 3, 24, 24)]
    (images,) = SQUARE.at({"resolution": 24}).tensors
    assert images.device.type == "meta" and images.shape == (1, 3, 24, 24)


def test_a_rectangle_keeps_its_proportions_and_any_number_of_channels() -> None:
    spec = InputSpec(Inputs(torch.empty(1, 1, 40, 80)), IMAGE_AXES)
    assert spec.shapes({"resolution": 40}) == [(1, 1, 40, 80)]
    assert spec.shapes({"resolution": 20}) == [(1, 1, 20, 40)]
    (resized,) = spec.resize(Inputs(torch.rand(2, 1, 40, 80)), {"resolution": 30}).tensors
    assert resized.shape == (2, 1, 30, 60)


def test_same_size_is_the_same_tensor() -> None:
    given = Inputs(torch.rand(2, 3, 16, 16))
    assert SQUARE.resize(given, {"resolution": 16}) is given


def test_images_are_resized_as_pillow_does() -> None:
    image = np.random.default_rng(0).random((32, 32), dtype=np.float32)
    expected = np.asarray(Image.fromarray(image).resize((20, 20), Image.Resampling.BICUBIC))
    (resized,) = InputSpec.images(1, 32).resize(Inputs(torch.from_numpy(image)[None, None]), {"resolution": 20}).tensors
    torch.testing.assert_close(resized[0, 0], torch.from_numpy(expected.copy()), atol=1e-5, rtol=0)


def test_other_axes_keep_their_beginning_and_do_not_grow() -> None:
    tokens, mask = torch.arange(24).view(2, 12), torch.ones(2, 12)
    spec = InputSpec(Inputs(tokens[:1], mask=mask[:1]), (Axis("tokens", ((0, 1), (1, 1))),))
    shorter = spec.resize(Inputs(tokens, mask=mask), {"tokens": 5})
    assert shorter.args[0].tolist() == [[0, 1, 2, 3, 4], [12, 13, 14, 15, 16]]
    assert shorter.kwargs["mask"].shape == (2, 5)
    with pytest.raises(UsageError, match=r"\(2, 5\) cannot grow to \(2, 12\)"):
        spec.resize(shorter, {"tokens": 12})
    padded = InputSpec(spec.example, (Axis("tokens", ((0, 1), (1, 1)), may_be_shorter=True),))
    assert padded.resize(shorter, {"tokens": 12}) is shorter
    assert padded.resize(shorter, {"tokens": 3}).kwargs["mask"].shape == (2, 3)


def test_channels_last_is_for_images_and_their_networks() -> None:
    images, tokens = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8)
    given = channels_last(Inputs(images, tokens))
    assert given.tensors[0].is_contiguous(memory_format=torch.channels_last)
    assert given.tensors[1].is_contiguous()
    network = channels_last(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv3d(3, 4, 3)))
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert network[1].weight.is_contiguous()
