"""From a file of sound to what networks take: a part of the programs that bundles bring along; numpy and no more."""

import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

SMALLEST = 1e-6
"""Of energies, before their logarithm is taken."""


def read_wav(path: str | Path) -> tuple[np.ndarray, int]:
    """Samples from -1 to 1, float32 ``(T,)``, the mean of all channels, and how many there are in a second.

    Raises:
        ValueError: If it is no WAV file of whole numbers.
    """
    try:
        with wave.open(str(path), "rb") as file:
            channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
            data = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise ValueError(f"it is no WAV file of whole numbers ({error})") from None
    values: np.ndarray
    if width == 1:
        values = np.frombuffer(data, np.uint8).astype(np.float32) - 128
    elif width == 3:
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data[: len(padded) * 3], np.uint8).reshape(-1, 3)
        values = padded.view("<i4")[:, 0].astype(np.float32) / 256
    else:
        values = np.frombuffer(data[: len(data) // width * width], f"<i{width}").astype(np.float32)
    frames = len(values) // channels
    return values[: frames * channels].reshape(frames, channels).mean(axis=1) / 2.0 ** (8 * width - 1), rate


def fitted(samples: np.ndarray, num: int) -> np.ndarray:
    """So many samples: the first ones, or all of them and silence."""
    return np.pad(samples[:num], (0, max(num - len(samples), 0))).astype(np.float32)


def num_samples(spec: Mapping[str, Any], num_frames: int) -> int:
    """That so many frames are made of."""
    return (num_frames - 1) * int(spec["hop"]) + int(spec["window"])


def spectrum_basis(window: int) -> np.ndarray:
    """Cosines and sines of all frequencies, within a Hann window, float64 ``(2, window // 2 + 1, window)``."""
    times = np.arange(window)
    angles = 2 * np.pi * np.outer(np.arange(window // 2 + 1), times) / window
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * times / window)
    return np.stack([np.cos(angles) * hann, np.sin(angles) * hann])


def mel_filters(rate: int, window: int, num_mels: int) -> np.ndarray:
    """Triangles, evenly spaced on the mel scale from 20 Hz to half the rate: ``(num_mels, window // 2 + 1)``."""

    def mel(hertz: float) -> float:
        return 2595 * np.log10(1 + hertz / 700)

    edges = 700 * (10 ** (np.linspace(mel(20), mel(rate / 2), num_mels + 2) / 2595) - 1)
    hertz = np.arange(window // 2 + 1) * rate / window
    rising = (hertz - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - hertz) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(rising, falling))


def log_mel(samples: np.ndarray, spec: Mapping[str, Any]) -> np.ndarray:
    """Logarithms of energies in bands, normalised, float32 ``(num_mels, frames)``."""
    rate, window, hop = int(spec["rate"]), int(spec["window"]), int(spec["hop"])
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), window)[::hop]
    cosines, sines = np.tensordot(spectrum_basis(window), frames, axes=(2, 1))
    energies = mel_filters(rate, window, len(spec["mean"])) @ (cosines**2 + sines**2)
    logs = np.log(np.maximum(energies, SMALLEST))
    mean, std = (np.asarray(spec[name], np.float64)[:, None] for name in ("mean", "std"))
    return ((logs - mean) / std).astype(np.float32)


def to_input(samples: np.ndarray, rate: int, spec: Mapping[str, Any]) -> np.ndarray:
    """What the network is given, of samples as :func:`read_wav` reads them.

    Raises:
        ValueError: If they are of another rate.
    """
    if rate != spec["rate"]:
        raise ValueError(f"it has {rate} samples a second, not {spec['rate']}; convert it")
    shape = spec["input_size"]
    if len(shape) == 1:
        return fitted(samples, shape[0])
    return log_mel(fitted(samples, num_samples(spec, shape[1])), spec)
