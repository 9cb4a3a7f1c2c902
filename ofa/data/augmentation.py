"""Random changes to training images, a batch at a time, on the device where the batch lies.

Shapes: ``n`` images, ``C`` channels, ``H`` x ``W`` pixels. All but :func:`erase` and :func:`mix` take and give uint8
``(n, C, H, W)``. Numbers are drawn with numpy on the host, so every device gets the same ones.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ofa.data.boxes import shifted, windowed
from ofa.data.config import DataConfig
from ofa.data.draws import Draws, Floats
from ofa.data.timm_policy import TimmPolicy, seeded

Boxes: TypeAlias = tuple[Floats, Floats, Floats, Floats]

CROP_ASPECTS = (3 / 4, 4 / 3)
ERASED_AREAS = (0.02, 1 / 3)
ERASED_ASPECTS = (0.3, 1 / 0.3)


class Numbers(NamedTuple):
    """The first that is drawn for a batch: what decides on what worker processes may do to pictures as they are.

    Args:
        crop: For the random crop of each image, from 0 to below 1, ``(n, 4)``.
        seeds: For timm's policy, ``(n,)``.
    """

    crop: Floats | None
    seeds: npt.NDArray[np.int64] | None

    @classmethod
    def draw(cls, draws: Draws, config: DataConfig) -> Numbers:
        crop = draws.uniform(4) if config.crop_scale < 1 else None
        return cls(crop, draws.integers(0, 2**32 - 1) if config.timm_policy is not None else None)


def augment(
    pixels: Tensor,
    config: DataConfig,
    draws: Draws,
    *,
    num_masks: int = 0,
    objects: Tensor | None = None,
    is_cropped: bool = False,
    policy: TimmPolicy | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Crop, shift and flip, then auto-augment, as far as ``config`` says.

    Args:
        num_masks: The last so many channels hold indices: they move along with the others, and nothing is mixed there.
        objects: ``(n, M, 5)``, see :mod:`ofa.data.boxes`; they move along too.
        is_cropped: They are random crops already, of the same numbers, and changed by the policy.
        policy: timm's, if ``config`` names one.
    """
    numbers = Numbers.draw(draws, config)
    if numbers.crop is not None:
        window = boxes_of(numbers.crop, areas=(config.crop_scale, 1.0), aspects=CROP_ASPECTS)
        pixels = pixels if is_cropped else crop(pixels, window, num_masks=num_masks)
        if objects is not None:
            top, left, height, width = (_on(objects.device, side.astype(np.float32))[:, None] for side in window)
            objects = windowed(objects, left, top, width, height)
    if config.crop_padding or config.horizontal_flip:
        pixels, objects = shift_and_flip(pixels, config, draws, objects)
    if numbers.seeds is not None:
        if policy is not None and not is_cropped:
            pixels = policy.changed(pixels, numbers.seeds)
    elif config.auto_augment != "none":
        from ofa.data.auto_augment import auto_augment  # torchvision takes a second to import

        pixels = auto_augment(pixels, config, draws)
    return pixels, objects


def shift_and_flip(
    pixels: Tensor, config: DataConfig, draws: Draws, objects: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Shift each image at random, repeating its edge, and mirror it at random."""
    channels, height, width = pixels.shape[1:]
    padding = round(config.crop_padding * height)
    down, right = draws.integers(-padding, padding, 2, 1).swapaxes(0, 1)
    rows = (np.arange(height) + down).clip(0, height - 1)
    columns = (np.arange(width) + right).clip(0, width - 1)
    is_mirrored = draws.uniform(1) < 0.5 if config.horizontal_flip else np.zeros((len(rows), 1), dtype=bool)
    columns = np.where(is_mirrored, columns[:, ::-1], columns)
    if objects is not None:
        across, along = (_on(objects.device, -shift.astype(np.float32)) for shift in (right / width, down / height))
        objects = shifted(objects, across, along, _on(objects.device, is_mirrored))
    # Indices into flat images, because indexing with one tensor per dimension takes five times as long.
    indices = (_on(pixels.device, rows)[:, :, None] * width + _on(pixels.device, columns)[:, None, :]).flatten(1)
    return pixels.flatten(2).gather(2, indices[:, None].expand(-1, channels, -1)).view_as(pixels), objects


def boxes_of(numbers: Floats, *, areas: tuple[float, float], aspects: tuple[float, float]) -> Boxes:
    """A random box in each image: top, left, height and width as shares of the image's sides, each ``(n,)``.

    Area and logarithm of the aspect (width by height) are uniform. Where torchvision and timm draw both again until the
    box fits into the image, here both are drawn from those that fit, so that each image takes four numbers.

    Args:
        numbers: From 0 to below 1, ``(n, 4)``.
    """
    area, aspect, top, left = numbers.T
    roomiest = min(1.0, aspects[1], 1 / aspects[0])
    low, high = (min(each, roomiest) for each in areas)
    area = low + (high - low) * area
    lowest, highest = np.log(np.maximum(aspects[0], area)), np.log(np.minimum(aspects[1], 1 / area))
    aspect = np.exp(lowest + (highest - lowest) * aspect)
    height, width = np.sqrt(area / aspect).clip(max=1), np.sqrt(area * aspect).clip(max=1)
    return (1 - height) * top, (1 - width) * left, height, width


def crop(pixels: Tensor, boxes: Boxes, *, num_masks: int = 0) -> Tensor:
    """Cut a box out of each image and enlarge it, bilinearly, to the image's size; of masks each pixel the nearest.

    References:
        Szegedy et al., Going deeper with convolutions, arXiv:1409.4842, sec. 6. Here boxes begin between pixels too.
    """
    down, across = (_centres(num) for num in pixels.shape[2:])
    top, left, height, width = (share[:, None] for share in boxes)
    # grid_sample counts from -1 to 1.
    rows = _on(pixels.device, (2 * (top + height * down) - 1).astype(np.float32))
    columns = _on(pixels.device, (2 * (left + width * across) - 1).astype(np.float32))
    grid = torch.stack(
        [columns[:, None, :].expand(-1, len(down), -1), rows[:, :, None].expand(-1, -1, len(across))], dim=3
    )
    # A crop is never larger than its image, so nothing shrinks and no filter against aliases is needed.
    num = pixels.shape[1] - num_masks
    parts = {"bilinear": pixels[:, :num], "nearest": pixels[:, num:]}
    found = [
        torch.nn.functional.grid_sample(part.float(), grid, mode=mode, padding_mode="border", align_corners=False)
        for mode, part in parts.items()
        if part.shape[1]
    ]
    return torch.cat(found, dim=1).round_().to(torch.uint8)


def erase(images: Tensor, config: DataConfig, draws: Draws) -> Tensor:
    """Put the mean into a random box of some images, in place; float ``(n, C, H, W)``, normalised: the mean is 0.

    References:
        Zhong et al., Random erasing data augmentation, arXiv:1708.04896, sec. 3. The areas and aspects are those of
        timm's ``RandomErasing``, and so is the mean as filling, which the paper calls RE-M; see :func:`boxes_of` for
        boxes that do not fit.
    """
    if not config.random_erasing:
        return images
    chosen = draws.uniform(1) < config.random_erasing
    boxes = boxes_of(draws.uniform(4), areas=ERASED_AREAS, aspects=ERASED_ASPECTS)
    top, left, height, width = (share[:, None] for share in boxes)
    down, across = (_centres(num) for num in images.shape[2:])
    rows = _on(images.device, (top <= down) & (down < top + height) & chosen)
    columns = _on(images.device, (left <= across) & (across < left + width))
    return images.masked_fill_((rows[:, :, None] & columns[:, None, :])[:, None], 0)


def mix(images: Tensor, labels: Tensor, num_classes: int, config: DataConfig, *, seed: int) -> tuple[Tensor, Tensor]:
    """Mix the first image with the last, the second with the last but one, ..., in place, all in one proportion.

    Args:
        images: Normalised, float32 ``(n, C, H, W)``, ``n`` even.
        labels: int64 ``(n,)``.
        seed: Decides the proportion, the place of CutMix's box and, if both are on, which of the two it is.

    Returns:
        The images, and the share of each class in them, float32 ``(n, num_classes)``; rows sum to 1.

    References:
        Zhang et al., mixup, arXiv:1710.09412; Yun et al., CutMix, arXiv:1905.04899; timm's implementation, which draws
        one proportion for the batch. It can smooth labels too; that is left to the loss here.
    """
    from timm.data.mixup import Mixup  # timm takes seconds to import

    mixup = Mixup(config.mixup, config.cutmix, label_smoothing=0.0, num_classes=num_classes)
    with seeded(seed):
        mixed: tuple[Tensor, Tensor] = mixup(images, labels)
    return mixed


def _centres(num: int) -> Floats:
    """Of so many pixels in a row, as shares of its length."""
    return (np.arange(num) + 0.5) / num


def _on(device: torch.device, numbers: npt.NDArray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(numbers)).to(device, non_blocking=True)
