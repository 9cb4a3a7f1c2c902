"""A user's file of networks, as ``model.name=…/networks.py:…`` takes them. It imports nothing of ours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 5, padding=2, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Net(nn.Module):
    def __init__(self, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_chans, 16, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(*(Block(16, 64) for _ in range(3)))
        self.drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.blocks(self.stem(x)).mean((2, 3))))


def net(num_classes: int) -> nn.Module:
    return Net(num_classes)


def net_with_everything(**settings: Any) -> nn.Module:
    return Net(**settings)


def of_ten_classes() -> nn.Module:
    return Net(10)


def reads_values(num_classes: int) -> nn.Module:
    """As many networks do for their drop rates, which the meta device cannot."""
    rates = [rate.item() for rate in torch.linspace(0, 0.1, 3)]
    return Net(num_classes, drop_rate=rates[-1])


def no_module(num_classes: int) -> int:
    return num_classes


def fails(num_classes: int) -> nn.Module:
    raise RuntimeError(f"no network of {num_classes} classes today")


def asks_for_more(num_classes: int, width: int) -> nn.Module:
    raise AssertionError
