"""Pictures with masks that can be told from them: two shapes on a ground, each class in a colour of its own."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

NAMES = ("ground", "square", "stripe")
LEVELS = (30, 120, 210)
VOID = 9
HEIGHT, WIDTH = 24, 32

NETWORK = '''
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.expand, self.expand_norm = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.mix = nn.Conv2d(4 * width, 4 * width, 3, padding=1, groups=4 * width, bias=False)
        self.mix_norm = nn.BatchNorm2d(4 * width)
        self.project, self.project_norm = nn.Conv2d(4 * width, width, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x):
        y = functional.relu(self.expand_norm(self.expand(x)))
        y = functional.relu(self.mix_norm(self.mix(y)))
        return x + self.project_norm(self.project(y))


class Net(nn.Module):
    """As torchvision's: a dictionary with masks of the pictures' size."""

    def __init__(self, num_classes):
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 16, 3, padding=1, stride=2, bias=False), nn.BatchNorm2d(16)
        self.blocks = nn.Sequential(Block(16), Block(16))
        self.head = nn.Conv2d(16, num_classes, 1)

    def forward(self, x):
        features = self.blocks(functional.relu(self.stem_norm(self.stem(x))))
        logits = functional.interpolate(self.head(features), size=x.shape[-2:], mode="bilinear", align_corners=False)
        return {"out": logits}


def net(num_classes):
    return Net(num_classes)
'''


def picture(rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """A picture and its mask, a column of which belongs to no class."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    top, left = rng.integers(0, HEIGHT - 10), rng.integers(0, WIDTH - 12)
    mask[top : top + 10, left : left + 10] = 1
    row = rng.integers(0, HEIGHT - 4)
    mask[row : row + 4] = 2
    grey = np.array(LEVELS)[mask] + rng.integers(-6, 7, mask.shape)
    mask[:, -1] = VOID
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB"), Image.fromarray(mask)


def write_folder(root: Path, num: int = 40, *, splits: tuple[str, ...] = ("",), seed: int = 0) -> Path:
    """``images/`` and ``labels/``, in a folder of each split."""
    rng = np.random.default_rng(seed)
    for split in splits:
        for name in ("images", "labels"):
            (root / split / name).mkdir(parents=True)
        for number in range(num):
            image, mask = picture(rng)
            image.save(root / split / "images" / f"{number:03}.png")
            mask.save(root / split / "labels" / f"{number:03}.png")
    return root


def write_parquet(path: Path, num: int = 12) -> Path:
    rng = np.random.default_rng(0)
    rows = [tuple(encoded(each) for each in picture(rng)) for _ in range(num)]
    pd.DataFrame(rows, columns=["image", "mask"]).to_parquet(path)
    return path


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
