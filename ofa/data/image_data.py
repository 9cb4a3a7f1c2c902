"""Images in memory, or decoded as needed, and the batches made of them.

Shapes: ``N`` images, ``C`` stored channels (1 where all are grey), ``H`` x ``W`` pixels. Batches have the channels that
the model takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ofa.data.augmentation import Numbers, augment, erase, mix
from ofa.data.boxes import Objects, windowed
from ofa.data.broken import NotingImages, find_broken, leave_out, refuse_broken
from ofa.data.config import DataConfig, DataError
from ofa.data.decoding import (
    CHUNK,
    Decoding,
    Pixels,
    Size,
    Wanted,
    Workers,
    decode_all,
    default_num_workers,
    kept_in_memory,
    pixels_of,
    resized,
)
from ofa.data.draws import Draws
from ofa.data.masks import Mask, framed, targets_of
from ofa.data.order import at_least_one, train_order
from ofa.data.picture import seen
from ofa.data.readers import Source, read_source
from ofa.data.readers.source import FileImages, Labelled, size_of
from ofa.data.settle import settle
from ofa.data.splits import SPLITS, Splits
from ofa.data.summary import describe
from ofa.data.timm_policy import TimmPolicy
from ofa.progress import Progress, notice

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
MEMORY_LIMIT_BYTES = 2 * 10**9
NUM_IMAGES_FOR_STATISTICS = 10_000


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageData:
    """A data set, split and ready to give batches; made by :func:`load_data`.

    Args:
        image_size: Height that images are stored at: the supernet's largest resolution.
        channels: Of the batches.
        proportions: Height and width of the model's own input; the width of images follows from their height.
        look: How a picture becomes pixels: keywords of :func:`ofa.data.picture.to_pixels`.
        mean: Per channel, of pixels in 0..1.
        std: Likewise.
        pixels: For each split a uint8 tensor ``(n, C, H, W)``, masks being the last channel where there are some; what
            is not there is decoded as needed.
        num_workers: Processes that decode as needed, at most one a core.
        crops_originals: Random crops of training images are taken out of the pictures as they are, not as stored.
        num_broken: Images that were left out of the splits because they cannot be read.
        scale: Of targets that are numbers: batches have them less the first, divided by the second.
    """

    config: DataConfig
    source: Source
    splits: Splits
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixels: Mapping[str, Tensor]
    num_workers: int
    look: Mapping[str, Any]
    crops_originals: bool = False
    channels: int = 3
    proportions: tuple[int, int] = (1, 1)
    num_broken: int = 0
    scale: tuple[float, float] = (0.0, 1.0)
    _moved: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False)
    _workers: dict[tuple[Sequence[Size], bool], Workers] = field(default_factory=dict, init=False, repr=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is an index into them."""
        return self.source.classes

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def labels(self, split: str) -> Tensor:
        """What is right for a split, in the order of its batches: class indices, int64 ``(n,)``, or float32 targets.

        Of pictures of objects ``(n, M, 5)``, see :mod:`ofa.data.boxes`.
        """
        rows = self.splits[split]
        if self.source.objects is not None:
            return torch.from_numpy(self.source.objects[rows])
        if self.source.targets is None:
            return torch.from_numpy(self.source.labels[rows])
        middle, spread = self.scale
        return torch.from_numpy(((self.source.targets[rows] - middle) / spread).astype(np.float32))

    def batches(
        self, split: str, *, batch_size: int, image_size: int | None = None, device: torch.device | str | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Give every image of a split once, always in the same order, as it is.

        Args:
            image_size: Height, at most the stored one, which is the default.

        Yields:
            Normalised images, float32 ``(n, channels, image_size, W)``, and labels, int64 ``(n,)``; or, of the stored
            size, masks, int64 ``(n, H, W)``, or the images themselves from 0 to 1, ``(n, channels, H, W)``, where these
            are what is learnt. The last batch may be smaller.
        """
        order = torch.arange(len(self.splits[split])).split(at_least_one(batch_size))
        return self._finished(split, order, image_size, device)

    def train_batches(
        self,
        *,
        epoch: int,
        batch_size: int,
        seed: int,
        image_size: int | None = None,
        device: torch.device | str | None = None,
        start: int = 0,
        shard: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Give the training images in an order that ``(seed, epoch)`` decide, varied as the config says.

        What a batch holds depends on seed, epoch and its index alone, not on the batches before it.

        Args:
            start: Index of the first batch to give, to go on in the middle of an epoch; nothing is decoded before it.
            shard: ``(rank, num_shards)``: of each batch give only the rows ``rank::num_shards``, exactly as they are in
                the whole one; but mixup and CutMix mix the images of a shard among themselves.

        Yields:
            As :meth:`batches`, but ``len(splits.train) // batch_size`` full batches only. With mixup or CutMix the
            shares of the classes, float32 ``(n, num_classes)``, stand in place of the labels.

        Raises:
            DataError: If there are fewer training images than ``batch_size``, or ``batch_size``, ``start`` and
                ``shard`` do not go together.
        """
        order, draws = train_order(
            self.source.labels[self.splits.train],
            balance=self.config.balance,
            epoch=epoch,
            batch_size=batch_size,
            seed=seed,
            start=start,
            shard=shard,
            near=self._near,
        )
        num_shards = shard[1]
        if self.config.mixes and batch_size // num_shards % 2:
            raise DataError(
                f"mixup and cutmix need pairs, but a batch_size of {batch_size} over {num_shards} "
                f"{'shard' if num_shards == 1 else 'shards'} leaves {batch_size // num_shards} images in each; "
                f"give a multiple of {2 * num_shards}"
            )
        return self._finished("train", order, image_size, device, draws)

    @property
    def _near(self) -> npt.NDArray[np.int64] | None:
        """Which training images are best read together."""
        images = self.source.images
        near = images.near if isinstance(images, FileImages) else None
        is_read = "train" not in self.pixels or self.crops_originals
        return near[self.splits.train] if near is not None and is_read else None

    def resize_steps(self, image_size: int | None = None) -> list[Size]:
        """Sizes that an image takes on its way to ``image_size``: the stored one, and a smaller one if asked for."""
        stored = _size(self.image_size, self.proportions)
        if image_size is None or image_size == self.image_size:
            return [stored]
        if not 1 <= image_size < self.image_size:
            raise DataError(
                f"image_size is {image_size}, but the data is stored at {self.image_size}; load it at that size"
            )
        return [stored, _size(image_size, self.proportions)]

    def pixels_of(self, index: int, sizes: Sequence[Size]) -> Pixels:
        """An image of the source as uint8 ``(C, H, W)``, brought to each size in turn."""
        return pixels_of(self.source, index, sizes, self.look)[: len(self.look["color"])]

    def mask_of(self, index: int) -> Mask:
        """A mask of the source at the stored size, uint8 ``(H, W)``."""
        assert self.source.masks is not None
        fit, crop_pct = self.look["fit"], self.look["crop_pct"]
        return framed(self.source.masks.mask(index), self.resize_steps()[0], fit=fit, crop_pct=crop_pct)

    def _finished(
        self,
        split: str,
        order: Sequence[Tensor],
        image_size: int | None,
        device: torch.device | str | None,
        draws: Callable[[int], Draws] | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Check the size now; then decode or look up, vary if there are ``draws``, and normalise, batch by batch."""
        sizes = self.resize_steps(image_size)
        mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (self.mean, self.std))
        device = mean.device  # with its index, if there are several of a kind
        labels = self.labels(split).to(device)
        masked, is_target = self.source.masks is not None, self.source.is_target
        # Masks stay at the stored size, whatever the images are brought to: all subnets are judged by the same.
        read = sizes[:1] if masked or is_target else sizes

        def finish() -> Iterator[tuple[Tensor, Tensor]]:
            batches = zip(order, self._pixels(split, order, read, device, draws), strict=True)
            for index, (positions, pixels) in enumerate(batches):
                drawn = draws(index) if draws is not None else None
                targets = labels[positions.to(device)]
                if drawn is not None:
                    objects = None if self.source.objects is None else targets
                    pixels, objects = augment(
                        pixels,
                        self.config,
                        drawn,
                        num_masks=int(masked),
                        objects=objects,
                        is_cropped=self.crops_originals,
                        policy=self._policy,
                    )
                    targets = targets if objects is None else objects
                targets = targets_of(pixels[:, -1]) if masked else targets
                pixels = pixels[:, :-1] if masked else pixels
                if is_target:
                    targets = pixels.expand(-1, self.channels, -1, -1).float().div(255)
                if len(read) < len(sizes):
                    pixels = resized(pixels.cpu(), sizes[-1], self.look).to(device)
                images = pixels.expand(-1, self.channels, -1, -1).float()
                # Divided, not multiplied by the inverse: the rounding that a deployed model's numpy input has.
                images.div_(255).sub_(mean).div_(std)
                if drawn is not None:
                    images = erase(images, self.config, drawn)
                    if self.config.mixes:
                        seed = int(drawn.rng.integers(2**32))
                        images, targets = mix(images, targets, self.num_classes, self.config, seed=seed)
                yield images, targets

        return finish()

    def _pixels(
        self,
        split: str,
        order: Sequence[Tensor],
        sizes: Sequence[Size],
        device: torch.device,
        draws: Callable[[int], Draws] | None,
    ) -> Iterator[Tensor]:
        """uint8 ``(n, C, H, W)`` on ``device`` for each batch of positions in ``order``."""
        crops = self.crops_originals and draws is not None
        if split not in self.pixels or crops:
            rows = self.splits[split]
            wanted = (
                Wanted(rows[batch.numpy()], *(Numbers.draw(draws(index), self.config) if draws and crops else ()))
                for index, batch in enumerate(order)
            )
            for pixels in self._workers_for(tuple(sizes), device, stay=draws is not None).decode(wanted):
                yield pixels.to(device, non_blocking=True)
        elif len(sizes) > 1:
            for batch in order:
                yield resized(self.pixels[split][batch], sizes[-1], self.look).to(device)
        else:
            stored = self._train_pixels_on(device) if split == "train" else self.pixels[split]
            for batch in order:
                yield stored[batch.to(stored.device)].to(device)

    def _workers_for(self, sizes: Sequence[Size], device: torch.device, *, stay: bool) -> Workers:
        """Processes that decode, the same ones for every epoch if they are to stay."""
        pin_memory = device.type == "cuda"  # only then can a copy run beside other work
        key = (sizes, pin_memory)
        if key in self._workers and stay:
            return self._workers[key]
        decoding = Decoding(self.source, sizes, self.look, self.config.crop_scale, self._policy)
        workers = Workers(decoding, self.num_workers, pin_memory=pin_memory)
        return self._workers.setdefault(key, workers) if stay else workers

    @cached_property
    def _policy(self) -> TimmPolicy | None:
        text, mean = self.config.timm_policy, self.mean if len(self.mean) == 3 else self.mean[:1] * 3
        return None if text is None else TimmPolicy(text, tuple(min(255, round(255 * each)) for each in mean))

    def _train_pixels_on(self, device: torch.device) -> Tensor:
        """The training split, moved to the device once: as bytes it is small, and every epoch needs it."""
        if device not in self._moved:
            self._moved[device] = self.pixels["train"].to(device)
        return self._moved[device]


class _Split(Protocol):
    @property
    def source(self) -> Labelled: ...

    @property
    def splits(self) -> Splits: ...


def summary(data: _Split) -> str:
    """What a data set is, in three lines for people."""
    return describe(data.source, data.splits)


def load_data(
    config: DataConfig,
    *,
    image_size: int,
    source: Source | None = None,
    channels: int = 3,
    proportions: tuple[int, int] = (1, 1),
    splits: Mapping[str, Any] | None = None,
    memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> ImageData:
    """Read, split and decode a data set.

    Args:
        image_size: The largest resolution that will be asked for.
        source: What was read already; it may have masks, which then are the targets.
        channels: What the model takes: 1 is grey, 3 red, green and blue, and with 2 or 4 alpha besides.
        proportions: Height and width of the model's own input, if it is not square.
        splits: What :meth:`Splits.to_json` gave, to use the splits of an earlier run.
        memory_limit_bytes: What does not fit into it is decoded for each batch by worker processes.
        num_workers: In place of ``data.num_workers``.
        progress: Called with (done, total, what).

    Raises:
        DataError: If data is missing or broken, or is not the data that ``splits`` were made for.
    """
    at_least_one(image_size, "image_size")
    num_workers = config.num_workers if num_workers is None else num_workers
    num_workers = default_num_workers() if num_workers is None else num_workers
    source = source or read_source(config)
    parts = settle(source, config, splits, progress)
    decoding = Decoding(source, [_size(image_size, proportions)], look_of(config, channels, grey=source.grey))
    kept = kept_in_memory(parts, prod(decoding.shape), memory_limit_bytes)
    noting = NotingImages(source.images)
    noted = replace(source, images=noting)  # type: ignore[arg-type]  # it is decoded only
    pixels, broken = decode_all(replace(decoding, source=noted), parts, kept, progress), noting.broken
    # Stored splits hold no image that could not be read when they were made.
    if splits is None and (others := [parts[split] for split in parts.distinct if split not in pixels]):
        broken |= find_broken(source, np.concatenate(others), progress=progress)
    if splits is not None or not config.skip_broken:
        remedy = "replace or remove them" + ("" if splits else ", or leave them out with data.skip_broken=true")
        refuse_broken(source, broken, remedy=remedy)
    elif broken:
        whole = {split: torch.from_numpy(~np.isin(parts[split], list(broken))) for split in SPLITS}
        pixels = {split: own[whole[split]] for split, own in pixels.items()}
        parts = leave_out(parts, list(broken), source)
        notice(progress, f"{len(broken)} of {len(source.labels)} images cannot be read and are left out")
    if source.objects is not None:
        source = replace(source, objects=_framed_objects(source, parts, decoding))
    mean, std = config.mean, config.std
    if mean is None or std is None:
        stored = len(decoding.look["color"])
        rng = np.random.default_rng(config.seed)
        sample = rng.permutation(len(parts.train))[:NUM_IMAGES_FOR_STATISTICS]
        if "train" not in pixels:
            chunks = np.array_split(np.sort(parts.train[sample]), -(-len(sample) // CHUNK))  # as they lie there
            batches = Workers(decoding, num_workers).decode(map(Wanted, chunks))
        else:
            batches = iter(pixels["train"][torch.from_numpy(sample)].split(CHUNK))
        found = statistics((batch[:, :stored] for batch in batches), channels)
        mean, std = mean or found[0], std or found[1]
    return ImageData(
        config=config,
        source=source,
        splits=parts,
        image_size=image_size,
        mean=_per_channel("mean", mean, channels),
        std=_per_channel("std", std, channels),
        pixels=pixels,
        num_workers=num_workers,
        look=decoding.look,
        crops_originals=_crops_originals(config, source, in_memory="train" in pixels),
        channels=channels,
        proportions=proportions,
        num_broken=len(broken),
    )


def _crops_originals(config: DataConfig, source: Source, *, in_memory: bool) -> bool:
    """Whether random crops are taken out of the pictures themselves."""
    moves = source.masks is not None or source.objects is not None or source.is_target
    if config.crop_from == "original" and moves:
        raise DataError("data.crop_from=original is for tasks whose targets do not move along; leave it out")
    left_open = config.crop_from is None and config.fit != "letterbox"
    wanted = config.crop_from == "original" or (left_open and not in_memory and not moves)
    return wanted and config.crop_scale < 1


def _framed_objects(source: Source, splits: Splits, decoding: Decoding) -> Objects:
    """Objects as shares of what is seen of their pictures, of those in splits."""
    look = decoding.look
    assert source.objects is not None
    if look["fit"] == "squash" and look["crop_pct"] == 1:
        return source.objects
    sizes = [(1, 1)] * len(source.images)
    for index in np.concatenate([splits[split] for split in splits.distinct]):
        sizes[index] = size_of(source.images, index)
    windows = np.array([seen(size, decoding.sizes[0], look["fit"], look["crop_pct"]) for size in sizes])
    shares = (windows / np.tile(sizes, 2)).astype(np.float32)
    return windowed(torch.from_numpy(source.objects), *torch.from_numpy(shares).T[..., None]).numpy()


def look_of(config: DataConfig, channels: int, *, grey: bool) -> dict[str, Any]:
    """How a picture becomes pixels for a model that takes so many channels: keywords of ``to_pixels``."""
    if channels not in MODES:
        raise DataError(f"the model takes {channels} channels, but pictures have 1 to {max(MODES)}; set model.in_chans")
    if channels not in (1, 3) and config.auto_augment != "none":
        raise DataError(f"auto_augment {config.auto_augment} is for grey and RGB pictures; the model takes {channels}")
    return {
        "color": "L" if grey and channels == 3 else MODES[channels],
        "fit": config.fit or "crop",
        "crop_pct": config.crop_pct or 1.0,
        "ground": config.ground,
        "white": config.white,
        "interpolation": config.interpolation or "bicubic",
    }


def _per_channel(name: str, values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) != channels and len(set(values)) > 1:
        raise DataError(f"{name} is {values}, but the model takes {channels} channels; give one number for each")
    return values if len(values) == channels else values[:1] * channels


def _size(height: int, proportions: tuple[int, int]) -> Size:
    return height, max(1, round(height * proportions[1] / proportions[0]))


def statistics(batches: Iterator[Tensor], channels: int = 3) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of pixels in 0..1 for each channel, from uint8 ``(n, C, H, W)`` batches.

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
    repeats = channels // len(mean)
    return tuple(mean.tolist()) * repeats, tuple(std.tolist()) * repeats
