"""What a run without values counts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ofa.inputs import InputSpec
from ofa.supernet.channels import sizes_at, trace


class Rows(nn.Module):
    """An LSTM over the pixels of each row, then halves of one weight, each a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 5, batch_first=True, bidirectional=True)
        self.weight = nn.Parameter(torch.zeros(8, 10))

    def forward(self, images: Tensor) -> Tensor:
        rows, _ = self.lstm(images[0].permute(1, 2, 0))
        first, second = self.weight.split(4)
        return (nn.functional.linear(rows, first) + nn.functional.linear(rows, second)).mean((0, 1))[None]


def test_steps_with_one_weight_are_one_product_at_every_resolution() -> None:
    found = trace(Rows(), InputSpec.images(3, 6).example)
    # From the input and from the state before, in both directions: 4 gates of 5; and the halves.
    macs = {6: [36 * 3 * 20, 36 * 5 * 20] * 2 + [36 * 40] * 2, 4: [16 * 3 * 20, 16 * 5 * 20] * 2 + [16 * 40] * 2}
    assert sorted(contraction.macs for contraction in found.contractions) == sorted(macs[6])
    for resolution, expected in macs.items():
        assert sorted(sizes_at(Rows(), InputSpec.images(3, resolution).example).macs) == sorted(expected)


class ChannelAttention(nn.Module):
    """A gate for each channel, of its neighbours' means."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.gate = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        return (x * self.gate(x.mean((2, 3))[:, None])[0, 0, :, None, None].sigmoid()).mean((2, 3))


def test_a_convolution_that_slides_over_channels_costs_in_proportion_to_them() -> None:
    found, sizes = (run(ChannelAttention(), InputSpec.images(3, 4).example) for run in (trace, sizes_at))
    assert [contraction.macs for contraction in found.contractions] == sizes.macs == [16 * 3 * 8, 3 * 8]
    (labels,) = found.contractions[1].labels
    assert labels.size == 8
