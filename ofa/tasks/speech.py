"""Speech: one of several classes, words or voices, for each recording."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from ofa.config import ConfigError, Record, check_record
from ofa.data import DataConfig, DataError
from ofa.data.readers import read_sound_source
from ofa.data.readers.sounds import SUFFIX, SoundSource, read_sounds
from ofa.data.sound import SMALLEST, mel_filters, num_samples, read_wav, spectrum_basis, to_input
from ofa.data.sound_data import Look, SoundData, check_sound_config, load_sounds
from ofa.errors import UsageError, unknown_name_message
from ofa.inputs import InputSpec, tensors_in
from ofa.progress import Progress
from ofa.tasks import predict_sound
from ofa.tasks.class_task import ClassTask
from ofa.tasks.one_output import OneOutput
from ofa.tasks.task import Array, Batches, Card, Samples, Sizes

BATCH_SIZE = 256
MAX_SAMPLES = 1 << 24


@dataclass(frozen=True, kw_only=True)
class SoundPreprocessing:
    """From a recording to the network's input, followed by ``predict.py``.

    Args:
        rate: Samples in a second.
        window, hop: Samples of a frame, and from one frame to the next.
        mean, std: Of the logarithm of each band's energy.
        input_size: Bands and frames; or samples, which the network makes these of itself.
        steps: The same in words.
    """

    rate: int
    window: int
    hop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: tuple[int, ...]
    dtype: Literal["float32"]
    steps: tuple[str, ...]

    def __post_init__(self) -> None:
        if min(self.rate, self.window, self.hop) < 1 or self.window < 4 or max(self.rate, self.window) > MAX_SAMPLES:
            raise ConfigError("rate, window and hop must be numbers of samples, window at least 4")
        if not 1 <= len(self.mean) == len(self.std) <= 1024 or not np.isfinite([*self.mean, *self.std]).all():
            raise ConfigError("mean and std must be finite numbers, one for each band")
        if 0 in self.std:
            raise ConfigError("std must not be 0")
        fits = len(self.input_size) == 1 or (len(self.input_size) == 2 and self.input_size[0] == len(self.mean))
        if not fits or not 1 <= min(self.input_size) <= max(self.input_size) <= MAX_SAMPLES:
            raise ConfigError(f"input_size must be bands and frames, or samples, not {list(self.input_size)}")


STEPS = (
    "read the file, the mean of its channels, from -1 to 1; it has 'rate' samples a second",
    "keep as many of the first samples as the input needs, (frames - 1) * 'hop' + 'window', or fill up with silence",
    "weigh each 'window' of samples, 'hop' apart, with a Hann window, and take the energies of its spectrum",
    "sum them within triangles evenly spaced on the mel scale from 20 Hz to half the rate, one for each of 'mean'",
    f"take the logarithm, of {SMALLEST:g} at least, subtract 'mean' and divide by 'std', per band, as 'dtype'",
)


@dataclass(frozen=True, kw_only=True)
class Speech(ClassTask):
    """Bands of energies over time ``(N, num_bands, frames)`` in, logits ``(N, num_classes)`` out.

    Targets are class indices ``(N,)``. Of what a model gives the first tensor counts.

    Args:
        rate: Samples in a second, of all recordings.
        num_bands: Bands on the mel scale.
        seconds: The most that models are given of a recording; ``model.seconds`` says what else.
        window_ms, hop_ms: Length of a frame, and from one to the next.
        in_graph: Exported networks take samples and make bands of them themselves.
        shift_seconds: By which training recordings begin later or earlier, at most.
        hidden_bands, hidden_share: Bands, and the share of the frames, that are hidden in training, at most.
    """

    rate: int = 16_000
    num_bands: int = 40
    seconds: float = 1.0
    window_ms: float = 25.0
    hop_ms: float = 10.0
    in_graph: bool = False
    shift_seconds: float = 0.1
    hidden_bands: int = 8
    hidden_share: float = 0.2

    preprocessing = SoundPreprocessing
    sample_suffix = SUFFIX
    sample = counted = "recording"
    is_open: ClassVar[bool] = False
    """Whether there may be classes in the test set that are nowhere else."""

    def __post_init__(self) -> None:
        for name in ("rate", "num_bands", "seconds", "window_ms", "hop_ms"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"task.{name} must be above 0, not {getattr(self, name)}")
        if not 0 <= self.hidden_share < 1 or not 0 <= self.hidden_bands < self.num_bands or self.shift_seconds < 0:
            raise ConfigError(
                "task.hidden_share must be below 1, hidden_bands below num_bands, shift_seconds not negative"
            )
        if self.hop < 1 or self.window < 4:
            raise ConfigError(
                f"frames of {self.window} samples, {self.hop} apart, are too short; raise window_ms, hop_ms"
            )

    @property
    def window(self) -> int:
        return round(self.window_ms * self.rate / 1000)

    @property
    def hop(self) -> int:
        return round(self.hop_ms * self.rate / 1000)

    @property
    def frames_per_second(self) -> float:
        return self.rate / self.hop

    def num_frames(self, seconds: float) -> int:
        return max(1, round(seconds * self.frames_per_second))

    def check_settings(self, data: DataConfig, *, pretrained: bool) -> None:
        check_sound_config(data)

    # -- models ------------------------------------------------------------------------------------------------------

    def inputs(self) -> InputSpec:
        return InputSpec.bands(self.num_bands, self.num_frames(self.seconds), self.frames_per_second)

    def check_outputs(self, output_type: str, shapes: Sequence[Sequence[int]], num_classes: int) -> None:
        if not shapes or tuple(shapes[0][1:]) != (num_classes,):
            raise ConfigError(
                f"it gives a {output_type} whose first tensor has shape {tuple(shapes[0][1:]) if shapes else ()}, but "
                f"task {self.name!r} takes ({num_classes},) for one recording; let its function take num_classes"
            )

    def outputs(self, given: Any, targets: Any) -> Tensor:
        return tensors_in(given)[0]

    # -- data --------------------------------------------------------------------------------------------------------

    def load(
        self, config: DataConfig, *, inputs: InputSpec, sizes: Sizes, progress: Progress | None = None
    ) -> SoundData:
        return self._load(config, sizes, progress=progress)

    def reload(
        self, config: DataConfig, stored: Mapping[str, Any], *, sizes: Sizes, progress: Progress | None = None
    ) -> SoundData:
        facts = check_record(_Facts, stored, where="data of the run", remedy="train it again")
        look = Look(rate=self.rate, window=self.window, hop=self.hop, mean=facts.mean, std=facts.std)
        return self._load(config, sizes, look=look, splits=facts.splits, progress=progress)

    def source(self, config: DataConfig) -> SoundSource:
        """The data set before it is split."""
        return read_sound_source(config)

    def _load(self, config: DataConfig, sizes: Sizes, **settings: Any) -> SoundData:
        frames: dict[str, Any] = {
            "num_bands": self.num_bands,
            "rate": self.rate,
            "window": self.window,
            "hop": self.hop,
        }
        return load_sounds(
            config,
            source=self.source(config),
            is_open=self.is_open,
            num_frames=self.num_frames(sizes["seconds"]),
            **frames,
            **settings,
        )

    def facts(self, data: SoundData) -> dict[str, Any]:
        return {
            "classes": list(data.classes),
            "num_train": len(data.splits.train),
            "mean": list(data.look.mean),
            "std": list(data.look.std),
            "splits": data.splits.to_json(),
        }

    def batches(
        self, data: SoundData, split: str, *, batch_size: int, sizes: Sizes, device: torch.device | str | None = None
    ) -> Batches:
        frames = self.num_frames(sizes["seconds"])
        return data.batches(split, batch_size=batch_size, num_frames=frames, device=device)

    def train_batches(self, data: SoundData, **settings: Any) -> Batches:
        shift = round(self.shift_seconds * self.frames_per_second)
        masked = self.hidden_bands, round(self.hidden_share * data.num_frames)
        return data.train_batches(shift=shift, masked=masked, **settings)

    # -- what is shipped ---------------------------------------------------------------------------------------------

    def feed(self, data: SoundData, sizes: Sizes, *, from_pixels: bool = False) -> SoundFeed:
        if from_pixels:
            raise UsageError(
                f"{self.name} takes sound, which has no pixels; task.in_graph=true puts bands into the file"
            )
        return SoundFeed(data, self.num_frames(sizes["seconds"]), self.in_graph)

    def reader(self, bundle: Path, spec: SoundPreprocessing) -> Callable[..., Array]:
        return partial(self.read_input, spec=spec)

    def read_input(self, file: Path, spec: SoundPreprocessing, *, stored: bool = False) -> Array:
        try:
            if not file.is_file():  # a pipe, say, which would be waited for
                raise ValueError("it is no regular file")
            return to_input(*read_wav(file), dataclasses.asdict(spec))
        except (OSError, ValueError) as error:
            remedy = "export it again" if stored else "take it out"
            raise DataError(f"{file} is no recording that can be read: {error}; {remedy}") from None

    def labelled(self, folder: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
        """Recordings of a table, or each in a folder that is called as its class."""
        source = read_sounds(DataConfig(name="sounds", root=str(folder)))
        for name in source.classes:
            if name not in classes:
                raise DataError(f"{folder}: {unknown_name_message('class', name, classes)}")
        files = [file for file, _ in source.samples.files]
        return [(file, classes.index(source.classes[label])) for file, label in zip(files, source.labels, strict=True)]

    @property
    def predict_script(self) -> Path:
        return Path(predict_sound.__file__)

    def card(self, info: Mapping[str, Any]) -> Card:
        spec = info["preprocessing"]
        size = spec["input_size"]
        num = size[0] if len(size) == 1 else num_samples(spec, size[1])
        what, made_of = "A classifier of recordings", f"the first {num / spec['rate']:.3g} s of a recording"
        card = self.card_of(info, what=what, input=made_of, pipeline_tag="audio-classification")
        return dataclasses.replace(card, library="")


@dataclass(frozen=True, kw_only=True)
class _Facts(Record):
    """What a run keeps of its recordings."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    splits: dict[str, Any]


@dataclass(frozen=True)
class SoundFeed:
    """At one length: bands ``(N, M, F)``, or the samples that they are made of, ``(N, T)``, float32."""

    data: SoundData
    num_frames: int
    in_graph: bool = False
    output: ClassVar[str] = "logits"
    number: ClassVar[int] = 0
    """Of the tensor that is shipped, of those that networks give."""
    dtype: ClassVar[torch.dtype] = torch.float32

    @property
    def input(self) -> str:
        return "samples" if self.in_graph else "bands"

    @property
    def preprocessing(self) -> SoundPreprocessing:
        """What a bundle says of its input."""
        look = dataclasses.asdict(self.data.look)
        size = (num_samples(look, self.num_frames),) if self.in_graph else (len(look["mean"]), self.num_frames)
        steps = STEPS[:2] if self.in_graph else STEPS
        return SoundPreprocessing(**look, input_size=size, dtype="float32", steps=steps)

    def wrap(self, network: nn.Module) -> nn.Module:
        network = OneOutput(network, self.number)
        return FromSamples(network, self.data.look) if self.in_graph else network

    def batches(self, split: str) -> Iterator[tuple[Array, npt.NDArray[np.int64]]]:
        """Inputs and labels of a split."""
        rows = self.data.splits[split]
        for start in range(0, len(rows), BATCH_SIZE):
            chosen = rows[start : start + BATCH_SIZE]
            yield self._inputs(chosen), self.data.source.labels[chosen]

    def first(self, split: str, num: int) -> Array:
        """The first inputs of a split, at most so many."""
        return self._inputs(self.data.splits[split][:num])

    def samples(self, num: int) -> Samples:
        """The first test recordings as files, and their labels."""
        rows = [int(row) for row in self.data.splits.test[:num]]
        files = [self.data.source.samples.files[row][0].read_bytes() for row in rows]
        return Samples(files, tuple(int(self.data.source.labels[row]) for row in rows))

    def _inputs(self, rows: npt.NDArray[np.int64]) -> Array:
        if not self.in_graph:
            return np.ascontiguousarray(self.data.bands[rows, :, : self.num_frames])
        spec = dataclasses.asdict(self.preprocessing)
        return np.stack([to_input(*self.data.source.samples[int(row)], spec) for row in rows])


class FromSamples(nn.Module):
    """A network behind its own bands: ``(N, T)`` samples from -1 to 1 in.

    The spectrum is a convolution with cosines and sines, which every runtime has.
    """

    def __init__(self, module: nn.Module, look: Look) -> None:
        super().__init__()
        self.module, self.hop = module, look.hop
        basis = spectrum_basis(look.window)
        filters = mel_filters(look.rate, look.window, len(look.mean))
        self.basis = nn.Buffer(torch.from_numpy(basis.reshape(-1, 1, look.window)).float())
        self.filters = nn.Buffer(torch.from_numpy(filters).float())
        self.mean, self.std = (nn.Buffer(torch.tensor(each)[:, None]) for each in (look.mean, look.std))
        self.eval()

    def forward(self, samples: Tensor) -> Tensor:
        spectrum = functional.conv1d(samples[:, None], self.basis, stride=self.hop)
        cosines, sines = spectrum.chunk(2, dim=1)
        energies = torch.matmul(self.filters, cosines * cosines + sines * sines)
        bands = (energies.clamp(min=SMALLEST).log() - self.mean) / self.std
        found: Tensor = self.module(bands)
        return found
