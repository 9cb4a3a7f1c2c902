"""Images in memory, or decoded as needed, and the batches made of them.

Shapes: ``N`` images, ``C`` stored channels (1 for grey, else 3), ``S`` pixels a side. Batches always have 3 channels,
because that is what timm's models take.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ofa.data.config import DataConfig, DataError
from ofa.data.preprocessing import to_pixels
from ofa.data.readers import Source, read_source
from ofa.data.splits import SPLITS, Indices, Splits, make_splits

Progress: TypeAlias = Callable[[int, int, str], None]

MEMORY_LIMIT_BYTES = 2 * 10**9
NUM_IMAGES_FOR_STATISTICS = 10_000
CHUNK = 256


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageData:
    """A data set, split and ready to give batches; made by :func:`load_data`.

    Args:
        image_size: Pixels a side that images are stored at: the supernet's largest resolution.
        mean: Per channel, of pixels in 0..1.
        std: Likewise.
        pixels: For each split a uint8 tensor ``(n, C, S, S)``, or ``None``: decode as needed.
        num_workers: Processes that decode as needed.
    """

    config: DataConfig
    source: Source
    splits: Splits
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixels: Mapping[str, Tensor] | None
    num_workers: int

    channels = 3

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is an index into them."""
        return self.source.classes

    @property
    def num_classes(self) -> int:
        """Number of classes found in the data."""
        return len(self.classes)

    def labels(self, split: str) -> Tensor:
        """Class indices of a split, in the order of its batches, int64 ``(n,)``."""
        return torch.from_numpy(self.source.labels[self.splits[split]])

    def batches(
        self, split: str, *, batch_size: int, image_size: int | None = None, device: torch.device | str | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Give every image of a split once, always in the same order, as it is.

        Args:
            image_size: Pixels a side, at most the stored size, which is the default.

        Yields:
            Normalised images, float32 ``(n, 3, image_size, image_size)``, and labels, int64 ``(n,)``; the last batch
            may be smaller.
        """
        order = torch.arange(len(self.splits[split])).split(_at_least_one(batch_size))
        return self._finished(split, order, image_size, device)

    def train_batches(
        self,
        *,
        epoch: int,
        batch_size: int,
        seed: int,
        image_size: int | None = None,
        device: torch.device | str | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Give the training images in an order, and with shifts and flips, that ``(seed, epoch)`` decide.

        Yields:
            As :meth:`batches`, but ``len(splits.train) // batch_size`` full batches only.

        Raises:
            DataError: If there are fewer training images than ``batch_size``.
        """
        num = len(self.splits.train)
        if num < _at_least_one(batch_size):
            raise DataError(f"batch_size is {batch_size}, but there are only {num} training images; lower it")
        rng = np.random.default_rng([seed, epoch])
        order = torch.from_numpy(rng.permutation(num)[: num // batch_size * batch_size])
        return self._finished("train", order.split(batch_size), image_size, device, rng)

    def resize_steps(self, image_size: int | None = None) -> list[int]:
        """Sizes that an image takes on its way to ``image_size``: the stored one, and a smaller one if asked for."""
        if image_size is None or image_size == self.image_size:
            return [self.image_size]
        if not 1 <= image_size < self.image_size:
            raise DataError(
                f"image_size is {image_size}, but the data is stored at {self.image_size}; load it at that size"
            )
        return [self.image_size, image_size]

    def _finished(
        self,
        split: str,
        order: Sequence[Tensor],
        image_size: int | None,
        device: torch.device | str | None,
        rng: np.random.Generator | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Check the size now; then decode or look up, augment if there is an ``rng``, and normalise, batch by batch."""
        sizes = self.resize_steps(image_size)
        labels = self.labels(split)
        mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (self.mean, self.std))

        def finish() -> Iterator[tuple[Tensor, Tensor]]:
            for positions, pixels in zip(order, self._pixels(split, order, sizes), strict=True):
                if rng is not None:
                    pixels = augment(pixels, self.config, rng)
                images = pixels.to(device).expand(-1, self.channels, -1, -1).float()
                # Divided, not multiplied by the inverse: the rounding that a deployed model's numpy input has.
                yield images.div_(255).sub_(mean).div_(std), labels[positions].to(device)

        return finish()

    def _pixels(self, split: str, order: Sequence[Tensor], sizes: Sequence[int]) -> Iterator[Tensor]:
        """uint8 ``(n, C, S, S)`` for each batch of positions in ``order``."""
        if self.pixels is None:
            yield from _decoded(
                self.source, [self.splits[split][batch.numpy()] for batch in order], sizes, self.num_workers
            )
            return
        for batch in order:
            stored = self.pixels[split][batch]
            yield stored if len(sizes) == 1 else _resize(stored, sizes[-1])


def load_data(
    config: DataConfig,
    *,
    image_size: int,
    splits: Mapping[str, Any] | None = None,
    memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
    num_workers: int = 2,
    progress: Progress | None = None,
) -> ImageData:
    """Read, split and decode a data set.

    Args:
        image_size: The largest resolution that will be asked for.
        splits: What :meth:`Splits.to_json` gave, to use the splits of an earlier run.
        memory_limit_bytes: Above it, images are decoded for each batch by ``num_workers`` processes.
        progress: Called with (done, total, what).

    Raises:
        DataError: If data is missing or broken, or is not the data that ``splits`` were made for.
    """
    _at_least_one(image_size, "image_size")
    source = read_source(config)
    if splits is None:
        parts = make_splits(source.labels, source.classes, num_test=source.num_test, config=config)
    else:
        parts = Splits.from_json(splits, source.labels)
    channels = 1 if source.grey else 3
    num_bytes = sum(len(parts[split]) for split in SPLITS) * channels * image_size**2
    pixels = _decode_all(source, parts, image_size, progress) if num_bytes <= memory_limit_bytes else None
    mean, std = config.mean, config.std
    if mean is None or std is None:
        rng = np.random.default_rng(config.seed)
        sample = rng.permutation(len(parts.train))[:NUM_IMAGES_FOR_STATISTICS]
        if pixels is None:
            chunks = np.array_split(parts.train[sample], -(-len(sample) // CHUNK))
            found = statistics(_decoded(source, chunks, [image_size], num_workers))
        else:
            found = statistics(iter(pixels["train"][torch.from_numpy(sample)].split(CHUNK)))
        mean, std = mean or found[0], std or found[1]
    return ImageData(
        config=config,
        source=source,
        splits=parts,
        image_size=image_size,
        mean=mean,
        std=std,
        pixels=pixels,
        num_workers=num_workers,
    )


def statistics(batches: Iterator[Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of pixels in 0..1 for each of 3 channels, from uint8 ``(n, C, S, S)`` batches.

    Raises:
        DataError: If all pixels of a channel are equal.
    """
    # Counts of the 256 values are exact, however many pixels there are.
    counts = sum(
        np.stack([np.bincount(channel.reshape(-1), minlength=256) for channel in batch.numpy().swapaxes(0, 1)])
        for batch in batches
    )
    values = np.arange(256) / 255
    weights = counts / np.sum(counts, axis=1, keepdims=True)
    mean = weights @ values
    std = np.sqrt((weights * (values - mean[:, None]) ** 2).sum(axis=1))
    if (std == 0).any():
        raise DataError(
            f"all pixels of the training images have the same value ({mean[std == 0][0]:.3f}); check the images"
        )
    repeats = 3 // len(mean)
    return tuple(mean.tolist()) * repeats, tuple(std.tolist()) * repeats


def augment(pixels: Tensor, config: DataConfig, rng: np.random.Generator) -> Tensor:
    """Shift each image at random, repeating its edge, and mirror it at random; ``(n, C, S, S)`` as given."""
    num, channels, size, _ = pixels.shape
    padding = round(config.crop_padding * size)
    shifts = torch.from_numpy(rng.integers(-padding, padding, size=(2, num, 1), endpoint=True))
    rows, columns = (torch.arange(size) + shifts).clamp_(0, size - 1)
    if config.horizontal_flip:
        flipped = torch.from_numpy(rng.random(num) < 0.5)
        columns = torch.where(flipped[:, None], columns.flip(1), columns)
    # One gather crops and flips.
    return pixels[
        torch.arange(num)[:, None, None, None],
        torch.arange(channels)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


class _Batches(Dataset[Tensor | DataError]):
    """Batches decoded by worker processes; ``dataset[indices]`` is uint8 ``(n, C, S, S)``."""

    def __init__(self, source: Source, sizes: Sequence[int]) -> None:
        self.source = source
        self.sizes = sizes

    def __getitem__(self, indices: Indices) -> Tensor | DataError:
        try:
            return torch.from_numpy(_decode(self.source, indices, self.sizes))
        except DataError as error:
            # A worker's exception would arrive with its traceback in the message.
            return error


def _decoded(source: Source, batches: Sequence[Indices], sizes: Sequence[int], num_workers: int) -> Iterator[Tensor]:
    loader = DataLoader(
        _Batches(source, sizes),
        sampler=batches,  # with batch_size=None an item of the sampler is a batch
        batch_size=None,
        num_workers=num_workers,
        generator=torch.Generator(),  # otherwise the global one is advanced
    )
    for batch in loader:
        if isinstance(batch, DataError):
            raise batch
        yield batch


def _decode(source: Source, indices: Indices, sizes: Sequence[int]) -> npt.NDArray[np.uint8]:
    pixels = np.empty((len(indices), 1 if source.grey else 3, sizes[-1], sizes[-1]), dtype=np.uint8)
    for row, index in enumerate(indices):
        pixels[row] = to_pixels(source.images[index], sizes, grey=source.grey)
    return pixels


def _decode_all(source: Source, splits: Splits, image_size: int, progress: Progress | None) -> dict[str, Tensor]:
    # Threads, because Pillow lets go of the interpreter while it decodes and resizes.
    indices = np.concatenate([splits[split] for split in SPLITS])
    pixels = np.empty((len(indices), 1 if source.grey else 3, image_size, image_size), dtype=np.uint8)
    starts = range(0, len(indices), CHUNK)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        chunks = pool.map(lambda start: _decode(source, indices[start : start + CHUNK], [image_size]), starts)
        for start, chunk in zip(starts, chunks, strict=True):
            pixels[start : start + len(chunk)] = chunk
            if progress is not None:
                progress(start + len(chunk), len(indices), "decoding images")
    sizes = [len(splits[split]) for split in SPLITS]
    return dict(zip(SPLITS, torch.from_numpy(pixels).split(sizes), strict=True))


def _resize(pixels: Tensor, size: int) -> Tensor:
    """Resize stored images as a deployed model's caller would, with Pillow; ``(n, C, size, size)``."""
    grey = pixels.shape[1] == 1
    images = pixels[:, 0].numpy() if grey else pixels.permute(0, 2, 3, 1).contiguous().numpy()
    return torch.from_numpy(np.stack([to_pixels(Image.fromarray(image), [size], grey=grey) for image in images]))


def _at_least_one(value: int, name: str = "batch_size") -> int:
    if value < 1:
        raise DataError(f"{name} is {value}; give at least 1")
    return value
