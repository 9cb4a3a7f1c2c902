"""Recordings as bands of energies in memory, and the batches made of them.

Shapes: ``n`` recordings, ``M`` bands, ``F`` frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ofa.data.config import DataConfig, DataError
from ofa.data.draws import Draws
from ofa.data.order import at_least_one, train_order
from ofa.data.readers import SOUND_READERS, read_sound_source
from ofa.data.readers.sounds import SoundSource
from ofa.data.settle import settle
from ofa.data.sound import fitted, log_mel, num_samples
from ofa.data.splits import Splits
from ofa.progress import Progress, notice

KEYS = (
    *("name", "root", "calibration_share", "search_share", "test_share", "seed", "balance", "limit"),
    *("path_column", "label_column", "split_column", "group_column"),
)
"""Of :class:`~ofa.data.DataConfig`: those that say something of recordings."""

SoundBatch = tuple[Tensor, Tensor]
Bands = npt.NDArray[np.float32]


def check_sound_config(config: DataConfig) -> None:
    """:class:`DataError` if the data is no recordings, or if something is asked of pictures."""
    config.check_kind("recordings", SOUND_READERS, KEYS)


@dataclass(frozen=True, kw_only=True)
class Look:
    """How samples become bands.

    Args:
        rate: Samples in a second.
        window, hop: Samples of a frame, and from one frame to the next.
        mean, std: Of each band.
    """

    rate: int
    window: int
    hop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class SoundData:
    """A data set of recordings, split and ready to give batches; made by :func:`load_sounds`.

    Args:
        bands: Of every recording, normalised, float32 ``(N, M, F)``.
    """

    config: DataConfig
    source: SoundSource
    splits: Splits
    look: Look
    bands: Bands

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is an index into them."""
        return self.source.classes

    @property
    def num_frames(self) -> int:
        """The most that can be asked for."""
        return int(self.bands.shape[2])

    def batches(
        self, split: str, *, batch_size: int, num_frames: int | None = None, device: torch.device | str | None = None
    ) -> Iterator[SoundBatch]:
        """Give every recording of a split once, always in the same order.

        Args:
            num_frames: The first so many of each; all by default.

        Yields:
            Bands, float32 ``(n, M, num_frames)``, and labels, int64 ``(n,)``; the last batch may be smaller.
        """
        order = torch.arange(len(self.splits[split])).split(at_least_one(batch_size))
        return self._finished(split, order, num_frames, device)

    def train_batches(
        self,
        *,
        epoch: int,
        batch_size: int,
        seed: int,
        shift: int = 0,
        masked: tuple[int, int] = (0, 0),
        device: torch.device | str | None = None,
        start: int = 0,
        shard: tuple[int, int] = (0, 1),
    ) -> Iterator[SoundBatch]:
        """Give full batches of the training recordings in an order that seed and epoch decide; see :func:`train_order`.

        Args:
            shift: Frames by which recordings begin later or earlier, at most.
            masked: Bands and frames that are hidden, at most (SpecAugment, arXiv:1904.08779, one of each).
        """
        order, draws = train_order(
            self.source.labels[self.splits.train],
            balance=self.config.balance,
            epoch=epoch,
            batch_size=batch_size,
            seed=seed,
            start=start,
            shard=shard,
            what=self.source.what,
        )

        def vary(bands: Bands, index: int) -> Bands:
            own = draws(index)
            return hidden(shifted(bands, shift, own), masked, own)

        return self._finished("train", order, None, device, vary)

    def _finished(
        self,
        split: str,
        order: Sequence[Tensor],
        num_frames: int | None,
        device: torch.device | str | None,
        vary: Callable[[Bands, int], Bands] | None = None,
    ) -> Iterator[SoundBatch]:
        if num_frames is not None and not 1 <= num_frames <= self.num_frames:
            raise DataError(
                f"num_frames is {num_frames}, but recordings are kept with {self.num_frames}; load them with as many"
            )
        rows, labels = self.splits[split], torch.from_numpy(self.source.labels)
        for index, positions in enumerate(order):
            chosen = rows[positions.numpy()]
            bands = self.bands[chosen, :, :num_frames]
            bands = bands if vary is None else vary(bands, index)
            yield torch.from_numpy(np.ascontiguousarray(bands)).to(device), labels[torch.from_numpy(chosen)].to(device)


def shifted(bands: Bands, most: int, draws: Draws) -> Bands:
    """Each recording later or earlier by up to so many frames, its first or last frame repeated."""
    if not most:
        return bands
    frames = (np.arange(bands.shape[2]) - draws.integers(-most, most, 1)).clip(0, bands.shape[2] - 1)
    return np.take_along_axis(bands, frames[:, None, :], axis=2)


def hidden(bands: Bands, most: tuple[int, int], draws: Draws) -> Bands:
    """A run of bands and a run of frames of each recording at their mean, which is 0."""
    for axis, length in zip((1, 2), most, strict=True):
        if not length:
            continue
        size = bands.shape[axis]
        widths, starts = draws.integers(0, min(length, size), 1), draws.uniform(1)
        begins = (starts * (size - widths + 1)).astype(np.int64)
        inside = (np.arange(size) >= begins) & (np.arange(size) < begins + widths)
        bands = np.where(np.expand_dims(inside, 3 - axis), np.float32(0), bands)
    return bands


def load_sounds(
    config: DataConfig,
    *,
    num_frames: int,
    num_bands: int,
    rate: int,
    window: int,
    hop: int,
    source: SoundSource | None = None,
    is_open: bool = False,
    look: Look | None = None,
    splits: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> SoundData:
    """Read and split a data set of recordings.

    Args:
        num_frames: The most that will be asked for of a recording.
        source: What was read already.
        is_open: See :func:`ofa.data.splits.make_splits`.
        look: That of an earlier run; otherwise means and standard deviations are those of the training split.
        splits: What :meth:`Splits.to_json` gave, to use the splits of an earlier run.
        progress: Called with (done, total, what).

    Raises:
        DataError: If data is missing or broken, or is not the data that ``splits`` were made for.
    """
    check_sound_config(config)
    source = source or read_sound_source(config)
    parts = settle(source, config, splits, progress, is_open=is_open)
    plain = {"rate": rate, "window": window, "hop": hop, "mean": [0.0] * num_bands, "std": [1.0] * num_bands}
    num, lengths = num_samples(plain, at_least_one(num_frames, "num_frames")), np.zeros(len(source.samples))

    def read(index: int) -> Bands:
        samples, own_rate = source.samples[index]
        if own_rate != rate:
            raise DataError(
                f"{source.samples.name(index)} has {own_rate} samples a second, not {rate}; convert it, or set "
                "task.rate"
            )
        lengths[index] = len(samples)
        return log_mel(fitted(samples, num), plain)

    bands = np.empty((len(lengths), num_bands, num_frames), np.float32)
    with ThreadPoolExecutor(2) as pool:
        for index, found in enumerate(pool.map(read, range(len(lengths)))):
            bands[index] = found
            if progress is not None:
                progress(index + 1, len(lengths), "reading recordings")
    if look is None:
        train = bands[parts.train]
        mean, std = train.mean(axis=(0, 2), dtype=np.float64), train.std(axis=(0, 2), dtype=np.float64)
        if (std == 0).any():
            raise DataError(f"band {int(std.argmin())} of all recordings is silent; lower task.num_bands")
        look = Look(rate=rate, window=window, hop=hop, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
    if splits is None:
        share = 100 * float((lengths > num).mean())
        notice(progress, f"{share:.2g} % of the recordings are cut to {num / rate:.3g} s")
    bands -= np.array(look.mean, np.float32)[:, None]
    bands /= np.array(look.std, np.float32)[:, None]
    return SoundData(config=config, source=source, splits=parts, look=look, bands=bands)
