"""From pictures to pixels: in threads for what stays in memory, in worker processes for what is decoded as needed.

Shapes: ``N`` images, ``C`` stored channels (1 where all are grey), ``H`` x ``W`` pixels.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from joblib import cpu_count
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ofa.data.config import DataError
from ofa.data.crops import cropped
from ofa.data.draws import Floats
from ofa.data.masks import check_size, framed
from ofa.data.picture import to_pixels, upright
from ofa.data.readers import Source
from ofa.data.readers.source import DECODING_ERRORS
from ofa.data.splits import Indices, Splits
from ofa.data.timm_policy import TimmPolicy
from ofa.progress import Progress

CHUNK = 256
MAX_WORKERS = 16
PREFETCHED = 4
"""Batches that a worker process has ready at most."""

Size: TypeAlias = tuple[int, int]
"""Height and width."""
Pixels: TypeAlias = npt.NDArray[np.uint8]


class Wanted(NamedTuple):
    """Images of a batch, by their indices in the source.

    Args:
        crop: Random parts of them, by these numbers ``(n, 4)``.
        seeds: Of timm's policy, ``(n,)``.
    """

    indices: Indices
    crop: Floats | None = None
    seeds: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Decoding(Dataset[Tensor | DataError]):
    """Batches decoded by worker processes; ``dataset[wanted]`` is uint8 ``(n, C, H, W)``.

    Args:
        sizes: Heights and widths that an image is brought to in turn.
        look: How a picture becomes pixels: keywords of :func:`ofa.data.picture.to_pixels`.
        crop_scale: Share of a picture's area that a random part of it has at least.
        policy: What changes these parts.
    """

    source: Source
    sizes: Sequence[Size]
    look: Mapping[str, Any]
    crop_scale: float = 1.0
    policy: TimmPolicy | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image, with its mask if there is one."""
        return len(self.look["color"]) + (self.source.masks is not None), *self.sizes[-1]

    def decode(self, wanted: Wanted) -> Tensor:
        found = _empty(len(wanted.indices), *self.shape)
        rows = found.numpy()
        for row, index in enumerate(wanted.indices):
            if wanted.crop is None:
                rows[row] = pixels_of(self.source, index, self.sizes, self.look)
            else:
                numbers, size = wanted.crop[row], self.sizes[-1]
                images, least = self.source.images, self.crop_scale
                rows[row] = cropped(images, index, numbers, size=size, look=self.look, least=least)
        if self.policy is not None and wanted.seeds is not None:
            self.policy.change(rows, wanted.seeds)
        return found

    def __getitem__(self, wanted: Wanted) -> Tensor | DataError:
        try:
            return self.decode(wanted)
        except DataError as error:
            # A worker's exception would arrive with its traceback in the message.
            return error


def _empty(*shape: int) -> Tensor:
    """Bytes to be filled; in a worker process in memory that it shares with who takes them, to be copied no more."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    return torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(prod(shape))).view(shape)


def pixels_of(source: Source, index: int, sizes: Sequence[Size], look: Mapping[str, Any]) -> Pixels:
    """An image, uint8 ``(C, H, W)``, with its mask, if there is one, as the last channel."""
    picture = source.images[index]
    try:
        pixels = to_pixels(picture, sizes, **look).transpose(2, 0, 1)
    except DECODING_ERRORS as error:
        raise DataError(f"{source.images.name(index)} cannot be used: {error}") from error
    if source.masks is None:
        return pixels
    mask = source.masks.mask(index)
    if picture.size != (1, 1):  # one that stands for a broken one
        check_size(mask, upright(picture), source.masks.name(index))
    return np.concatenate([pixels, framed(mask, sizes[0], fit=look["fit"], crop_pct=look["crop_pct"])[None]])


def _leave_signals(worker: int) -> None:
    """To the process that trains, which ends its workers when all is saved."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)


class _Order:
    """What is to be decoded next; apart from who holds the processes, which end as soon as nobody does."""

    batches: Iterable[Wanted] = ()

    def __iter__(self) -> Iterator[Wanted]:
        return iter(self.batches)


class Workers:
    """Processes that decode batch after batch, and stay for the next epoch.

    Args:
        num: Processes, at most one a core; with none, this one decodes.
        pin_memory: Batches lie where they can be copied from while other work goes on.
    """

    def __init__(self, decoding: Decoding, num: int, *, pin_memory: bool = False) -> None:
        self._order = _Order()
        num = min(num, cpu_count())
        self._loader = DataLoader(
            decoding,
            sampler=self._order,  # with batch_size=None an item of the sampler is a batch
            batch_size=None,
            num_workers=num,
            pin_memory=pin_memory,
            persistent_workers=num > 0,
            prefetch_factor=PREFETCHED if num else None,
            worker_init_fn=_leave_signals,
            generator=torch.Generator(),  # otherwise the global one is advanced
        )

    def decode(self, order: Iterable[Wanted]) -> Iterator[Tensor]:
        """uint8 ``(n, C, H, W)`` for each batch; what was begun before is given up."""
        self._order.batches = order
        try:
            for batch in self._loader:
                if isinstance(batch, DataError):
                    raise batch
                yield batch
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):  # what torch says of one that died
                raise
            raise DataError(
                f"a process that decodes pictures died ({error}); where memory is short, or what processes may share "
                "of it (Docker's --shm-size), lower data.num_workers"
            ) from None


def default_num_workers() -> int:
    """A process for each core that is there for this one of the processes that ``torchrun`` started; 16 at most."""
    return max(1, min(MAX_WORKERS, cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def kept_in_memory(splits: Splits, bytes_each: int, limit: int) -> tuple[str, ...]:
    """Splits whose pixels stay in memory: all that share no image or, where that is too much, those that subnets are
    judged by, as many as fit."""
    if sum(len(splits[split]) for split in splits.distinct) * bytes_each <= limit:
        return splits.distinct
    kept = []
    for split in ("calibration", "search", "test"):
        num_bytes = len(splits[split]) * bytes_each
        if num_bytes <= limit:
            kept.append(split)
            limit -= num_bytes
    return tuple(kept)


def decode_all(decoding: Decoding, splits: Splits, kept: Sequence[str], progress: Progress | None) -> dict[str, Tensor]:
    """Pixels of some splits that share no image; those of ``calibration`` too where it is a part of ``train``."""
    if not kept:
        return {}
    # Threads, because Pillow lets go of the interpreter while it decodes and resizes.
    indices = np.concatenate([splits[split] for split in kept])
    pixels = torch.empty((len(indices), *decoding.shape), dtype=torch.uint8)
    order = np.argsort(indices, kind="stable")  # as they lie there
    chunks = [order[start : start + CHUNK] for start in range(0, len(indices), CHUNK)]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        found_chunks = pool.map(lambda chunk: decoding.decode(Wanted(indices[chunk])), chunks)
        for number, (chunk, found_chunk) in enumerate(zip(chunks, found_chunks, strict=True)):
            pixels[torch.from_numpy(chunk)] = found_chunk
            if progress is not None:
                progress(min(len(indices), (number + 1) * CHUNK), len(indices), "decoding images")
    found = dict(zip(kept, pixels.split([len(splits[split]) for split in kept]), strict=True))
    if "train" in found:
        found.setdefault("calibration", found["train"][: len(splits.calibration)])
    return found


def resized(pixels: Tensor, size: Size, look: Mapping[str, Any]) -> Tensor:
    """Stored images resized as a deployed model's caller would, with Pillow; ``(n, C, *size)``."""
    arrays = pixels.permute(0, 2, 3, 1).contiguous().numpy()
    images = (Image.fromarray(array[..., 0] if len(pixels[0]) == 1 else array) for array in arrays)
    steps = [arrays.shape[1:3], size]
    return torch.from_numpy(np.stack([to_pixels(image, steps, **look).transpose(2, 0, 1) for image in images]))
