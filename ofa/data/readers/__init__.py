"""One file per kind of data set; a new one is a file here and a line in ``READERS``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ofa.data.config import DataConfig, DataError
from ofa.data.readers.digits import read_digits
from ofa.data.readers.folder import read_folder
from ofa.data.readers.idx import read_idx
from ofa.data.readers.imagenet import read_imagenet
from ofa.data.readers.manifest import is_manifest, read_manifest
from ofa.data.readers.parquet import read_parquet
from ofa.data.readers.shards import are_shards, read_shards
from ofa.data.readers.sounds import SoundSource, read_sounds
from ofa.data.readers.source import Source
from ofa.data.readers.texts import TextSource, read_texts
from ofa.data.readers.timm_dataset import read_timm
from ofa.errors import unknown_name_message

READERS: dict[str, Callable[[DataConfig], Source]] = {
    "digits": read_digits,
    "folder": read_folder,
    "idx": read_idx,
    "imagenet": read_imagenet,
    "manifest": read_manifest,
    "parquet": read_parquet,
    "shards": read_shards,
}

TEXT_READERS: dict[str, Callable[[DataConfig], TextSource]] = {"texts": read_texts}
SOUND_READERS: dict[str, Callable[[DataConfig], SoundSource]] = {"sounds": read_sounds}


def read_text_source(config: DataConfig) -> TextSource:
    """Read texts and labels; :class:`DataError` if the name is none of :data:`TEXT_READERS`."""
    if config.name not in TEXT_READERS:
        raise DataError(f"{unknown_name_message('data set of texts', config.name, TEXT_READERS)}; set data.name")
    return TEXT_READERS[config.name](config)


def read_sound_source(config: DataConfig) -> SoundSource:
    """Read labels and find recordings; :class:`DataError` if the name is none of :data:`SOUND_READERS`."""
    if config.name not in SOUND_READERS:
        raise DataError(f"{unknown_name_message('data set of recordings', config.name, SOUND_READERS)}; set data.name")
    return SOUND_READERS[config.name](config)


def read_source(config: DataConfig) -> Source:
    """Read labels and find the images; names with a prefix, as in ``torch/cifar10``, go to timm.

    Raises:
        DataError: If the name is unknown, or the reader finds something wrong.
    """
    if config.name in READERS:
        return READERS[config.name](config)
    if "/" in config.name:
        return read_timm(config)
    for what, readers in (("texts", TEXT_READERS), ("recordings", SOUND_READERS)):
        if config.name in readers:
            raise DataError(f"data set {config.name!r} holds {what}, not images; name a task of {what}, or other data")
    known = unknown_name_message("data set", config.name, READERS)
    raise DataError(f"{known}, and timm's with their prefix, such as torch/cifar10")


def guess_reader(root: Path) -> str:
    """Which of our readers a file or folder is for, by its name and by what lies at its top.

    Raises:
        DataError: If there is neither.
    """
    if not root.exists():
        raise DataError(f"there is no {root}; give a folder of pictures, a .csv, .parquet or .tar file, or data.name=…")
    if root.is_dir():
        if are_shards(root):
            return "shards"
        patterns = {"parquet": ("*.parquet", "*/*.parquet"), "idx": ("*-idx?-ubyte*", "*.idx?-ubyte*")}
        found = (name for name, each in patterns.items() if any(any(root.glob(pattern)) for pattern in each))
        return next(found, "folder")
    if root.suffix.lower() == ".tar":
        return "shards"
    return "parquet" if root.suffix.lower() == ".parquet" and not is_manifest(root) else "manifest"
