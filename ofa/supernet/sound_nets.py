"""Networks for bands of energies over time: a small one for single words, and one for voices."""

from __future__ import annotations

import torch
from torch import Tensor, nn

NUM_BANDS = 40


class KeywordNet(nn.Module):
    """Inverted bottlenecks along time, and their mean.

    Shape:
        - bands: ``(N, num_bands, F)``
        - output: logits ``(N, num_classes)``

    References:
        Majumdar and Ginsburg, MatchboxNet, arXiv:2004.08531: separable convolutions along time with shortcuts. Here
        they are MobileNetV2's inverted bottlenecks (Sandler et al., arXiv:1801.04381), whose inner channels vary.
    """

    def __init__(
        self,
        num_classes: int = 12,
        in_chans: int = NUM_BANDS,
        *,
        num_blocks: int = 6,
        num_channels: int = 48,
        expand: int = 4,
        kernel: int = 9,
    ) -> None:
        super().__init__()
        del in_chans  # of pictures
        self.stem = _norm_act(nn.Conv1d(NUM_BANDS, num_channels, 5, stride=2, padding=2, bias=False))
        self.blocks = nn.Sequential(*(_Bottleneck(num_channels, expand, kernel) for _ in range(num_blocks)))
        self.head = _norm_act(nn.Conv1d(num_channels, 2 * num_channels, 1, bias=False))
        self.classifier = nn.Linear(2 * num_channels, num_classes)

    def forward(self, bands: Tensor) -> Tensor:
        return self.classifier(self.head(self.blocks(self.stem(bands))).mean(dim=2))


class _Bottleneck(nn.Module):
    def __init__(self, num_channels: int, expand: int, kernel: int) -> None:
        super().__init__()
        hidden = expand * num_channels
        self.up = _norm_act(nn.Conv1d(num_channels, hidden, 1, bias=False))
        self.along = _norm_act(nn.Conv1d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden, bias=False))
        self.down = nn.Sequential(nn.Conv1d(hidden, num_channels, 1, bias=False), nn.BatchNorm1d(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.along(self.up(x)))


def _norm_act(convolution: nn.Conv1d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm1d(convolution.out_channels), nn.ReLU())


class EcapaTdnn(nn.Module):
    """Convolutions along time that look ever farther, all of which the attentive statistics see.

    Shape:
        - bands: ``(N, num_bands, F)``
        - output: logits ``(N, num_classes)``, and the features that they are made of ``(N, num_features)``

    References:
        Desplanques et al., ECAPA-TDNN, arXiv:2005.07143, fig. 2: squeeze-excitation, Res2Net convolutions of eight
        groups, aggregation of all blocks, statistics weighted by attention. Its networks have 512 or 1,024 channels.
    """

    def __init__(
        self,
        num_classes: int = 12,
        in_chans: int = NUM_BANDS,
        *,
        num_channels: int = 128,
        num_groups: int = 8,
        num_features: int = 128,
    ) -> None:
        super().__init__()
        del in_chans  # of pictures
        self.stem = _Tdnn(NUM_BANDS, num_channels, 5)
        self.blocks = nn.ModuleList(_SeRes2Block(num_channels, num_groups, dilation) for dilation in (2, 3, 4))
        self.aggregate = nn.Sequential(nn.Conv1d(3 * num_channels, 3 * num_channels, 1), nn.ReLU())
        self.pool = _AttentiveStatistics(3 * num_channels)
        self.features = nn.Sequential(
            nn.BatchNorm1d(6 * num_channels), nn.Linear(6 * num_channels, num_features), nn.BatchNorm1d(num_features)
        )
        self.classifier = nn.Linear(num_features, num_classes)

    def forward(self, bands: Tensor) -> tuple[Tensor, Tensor]:
        x, seen = self.stem(bands), []
        for block in self.blocks:
            x = block(x)
            seen.append(x)
        features = self.features(self.pool(self.aggregate(torch.cat(seen, dim=1))))
        return self.classifier(features), features


class _Tdnn(nn.Module):
    def __init__(self, num_in: int, num_out: int, kernel: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(num_in, num_out, kernel, dilation=dilation, padding=dilation * (kernel // 2))
        self.act, self.norm = nn.ReLU(), nn.BatchNorm1d(num_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.act(self.conv(x)))


class _Res2(nn.Module):
    """Groups of channels, each of which sees what the one before found."""

    def __init__(self, num_channels: int, num_groups: int, dilation: int) -> None:
        super().__init__()
        width = num_channels // num_groups
        self.num_groups = num_groups
        self.convs = nn.ModuleList(_Tdnn(width, width, 3, dilation) for _ in range(num_groups - 1))

    def forward(self, x: Tensor) -> Tensor:
        first, *others = x.chunk(self.num_groups, dim=1)
        found = [first]
        for number, (conv, group) in enumerate(zip(self.convs, others, strict=True)):
            found.append(conv(group + found[-1] if number else group))
        return torch.cat(found, dim=1)


class _SeRes2Block(nn.Module):
    def __init__(self, num_channels: int, num_groups: int, dilation: int) -> None:
        super().__init__()
        self.before = _Tdnn(num_channels, num_channels)
        self.res2 = _Res2(num_channels, num_groups, dilation)
        self.after = _Tdnn(num_channels, num_channels)
        self.squeeze, self.excite = nn.Conv1d(num_channels, 32, 1), nn.Conv1d(32, num_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = self.after(self.res2(self.before(x)))
        gate = self.excite(self.squeeze(found.mean(dim=2, keepdim=True)).relu()).sigmoid()
        return x + found * gate


class _AttentiveStatistics(nn.Module):
    """Weighted mean and standard deviation over time, of each channel."""

    def __init__(self, num_channels: int, num_hidden: int = 32) -> None:
        super().__init__()
        self.hidden, self.weights = _Tdnn(num_channels, num_hidden), nn.Conv1d(num_hidden, num_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.weights(self.hidden(x).tanh()).softmax(dim=2)
        mean = (x * weights).sum(dim=2)
        spread = ((x * x * weights).sum(dim=2) - mean * mean).clamp(min=1e-6).sqrt()
        return torch.cat([mean, spread], dim=1)
