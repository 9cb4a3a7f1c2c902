"""What every reader gives: labelled samples; of images, that are decoded one by one, when asked for."""

from __future__ import annotations

import hashlib
import io
import struct
import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from ofa.data.boxes import NONE
from ofa.data.config import DataConfig, DataError
from ofa.data.picture import FORMATS, open_picture, upright

ORIENTATION = 0x0112  # in EXIF; from 5 on width and height change places
DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


class Samples(Protocol):
    """A sequence of samples of any kind; picklable, because worker processes may read it."""

    def __len__(self) -> int: ...

    def name(self, index: int, /) -> str:
        """What messages call a sample; relative to the root, so that it is the same wherever the data is."""
        ...

    def digest(self, index: int, /) -> bytes:
        """The sha256 of the encoded file or text, or of shape and pixels where there is none; reads it."""
        ...

    def num_bytes(self, index: int, /) -> int | None:
        """How much :meth:`digest` reads; ``None`` if that cannot be known without decoding."""
        ...


SamplesT = TypeVar("SamplesT", bound=Samples)


class Masks(Protocol):
    """Of each of some pictures; picklable."""

    def mask(self, index: int, /) -> npt.NDArray[np.uint8]:
        """Index of a class for each pixel, 255 for none, ``(H, W)``."""
        ...

    def name(self, index: int, /) -> str: ...
    def digest(self, index: int, /) -> bytes: ...
    def num_bytes(self, index: int, /) -> int | None: ...


class Images(Samples, Protocol):
    """A sequence of pictures."""

    def __getitem__(self, index: int, /) -> Image.Image: ...


class Labelled(Protocol):
    """A data set of samples of any kind before it is split, as :class:`Source` is one of images."""

    @property
    def what(self) -> str:
        """What its samples are, for messages: ``images``."""
        ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def strata(self) -> tuple[str, ...]:
        """What labels stand for: splits hold these in proportion."""
        ...

    @property
    def labels(self) -> npt.NDArray[np.int64]: ...

    @property
    def samples(self) -> Samples: ...

    @property
    def num_test(self) -> int: ...

    @property
    def groups(self) -> npt.NDArray[np.generic] | None: ...

    @property
    def ignored(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, eq=False)
class Source:
    """A data set before it is split.

    Args:
        classes: Names.
        labels: Index into ``classes`` of each image, shape ``(N,)``; with masks of pixels all 0.
        images: ``N`` pictures of any size.
        grey: Whether all of them are grey, so that one channel says all.
        num_test: The last so many images are the data set's own test set; 0 if it has none.
        groups: What each image belongs to, such as a patient, shape ``(N,)``, integers or strings: images of one group
            are never in two splits. ``None``: each is on its own.
        ignored: What lies there and was not read, in words for people.
        masks: What each pixel shows, index into ``classes``, where that is what is learnt.
        targets: What is learnt instead of one class, shape ``(N,)`` or ``(N, K)``, see :mod:`ofa.data.answers`; the
            labels are all 0 then.
        is_target: Whether the pictures themselves are what is learnt, from smaller ones; there are no classes then.
        objects: What is where in each picture, ``(N, M, 5)``, see :mod:`ofa.data.boxes`, where that is what is learnt.

    Raises:
        DataError: If there are fewer than two classes to tell apart.
    """

    classes: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    images: Images
    grey: bool = False
    num_test: int = 0
    groups: npt.NDArray[np.generic] | None = None
    ignored: tuple[str, ...] = ()
    masks: Masks | None = None
    targets: npt.NDArray[Any] | None = None
    is_target: bool = False
    objects: npt.NDArray[np.float32] | None = None

    @property
    def strata(self) -> tuple[str, ...]:
        """What labels stand for: splits hold these in proportion."""
        others = (self.masks, self.targets, self.objects)
        return self.classes if all(each is None for each in others) and not self.is_target else ("pictures",)

    @property
    def what(self) -> str:
        return "images" if self.masks is None else "images with masks"

    def __post_init__(self) -> None:
        if self.targets is None and self.objects is None and not self.is_target:
            check_labelled(self)

    @property
    def samples(self) -> Samples:
        if self.masks is not None:
            return _Pairs(self.images, self.masks)
        answers = self.targets if self.objects is None else self.objects
        return self.images if answers is None else _Answered(self.images, answers)


@dataclass(frozen=True)
class _Pairs:
    """Images with their masks, which tell them from others too."""

    images: Images
    masks: Masks

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return self.images.name(index)

    def digest(self, index: int) -> bytes:
        return hashlib.sha256(self.images.digest(index) + self.masks.digest(index)).digest()

    def num_bytes(self, index: int) -> int | None:
        sizes = [self.images.num_bytes(index), self.masks.num_bytes(index)]
        return None if None in sizes else sum(size for size in sizes if size is not None)


@dataclass(frozen=True, eq=False)
class _Answered:
    """Images with what is learnt of them, which tells them from others too."""

    images: Images
    targets: npt.NDArray[np.generic]

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return self.images.name(index)

    def digest(self, index: int) -> bytes:
        target = self.targets[index]
        target = target[target[:, 0] != NONE] if target.ndim == 2 else target  # objects, without what fills up
        return hashlib.sha256(self.images.digest(index) + digest_of_pixels(target)).digest()

    def num_bytes(self, index: int) -> int | None:
        return self.images.num_bytes(index)


@dataclass(frozen=True, eq=False)
class ClassSource(Generic[SamplesT]):
    """A data set before it is split, with a class for each of its samples; see :class:`Source` for what is what."""

    classes: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    samples: SamplesT
    num_test: int = 0
    groups: npt.NDArray[np.generic] | None = None

    what: ClassVar[str]
    ignored: ClassVar[tuple[str, ...]] = ()

    @property
    def strata(self) -> tuple[str, ...]:
        return self.classes

    def __post_init__(self) -> None:
        check_labelled(self)


def check_labelled(source: Labelled) -> None:
    """:class:`DataError` if there are fewer than two classes."""
    assert len(source.labels) == len(source.samples) > source.num_test
    assert source.groups is None or source.groups.shape == source.labels.shape
    if len(source.classes) < 2:
        raise DataError(
            f"the data has a single class, {', '.join(source.classes)}; there is nothing to tell apart: give more"
        )


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Pictures from a uint8 array ``(N, H, W)``."""

    pixels: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index])

    def name(self, index: int) -> str:
        return f"row {index}"

    def digest(self, index: int) -> bytes:
        return digest_of_pixels(self.pixels[index])

    def num_bytes(self, index: int) -> int:
        return self.pixels[index].nbytes


class FileImages:
    """Base of pictures that are files as cameras write them, wherever these lie; decoded whole when asked for.

    Raises:
        DataError: If a picture is truncated, not one, or too large to be safe.
    """

    def __len__(self) -> int:
        raise NotImplementedError

    def file(self, index: int) -> Path | bytes:
        """A picture's file, or what would be in it."""
        raise NotImplementedError

    def name(self, index: int) -> str:
        raise NotImplementedError

    def stamp(self, index: int) -> str:
        """What tells a file from what it was before, without reading it where that is possible."""
        raise NotImplementedError

    def num_bytes(self, index: int) -> int | None:
        raise NotImplementedError

    def place(self, index: int) -> str:
        """Where a picture is to be found, for messages."""
        return self.name(index)

    @property
    def near(self) -> npt.NDArray[np.int64] | None:
        """Pictures of one number are read together ``(N,)``; ``None``: each by itself."""
        return None

    def read(self, index: int) -> bytes:
        """What is in a picture's file."""
        file = self.file(index)
        return file if isinstance(file, bytes) else file.read_bytes()

    def __getitem__(self, index: int) -> Image.Image:
        try:
            file = self.file(index)
            image: Image.Image = open_picture(io.BytesIO(file) if isinstance(file, bytes) else file)
        except DataError:
            raise
        except DECODING_ERRORS as error:
            raise self.undecodable(index, error) from error
        return image

    def undecodable(self, index: int, error: Exception) -> DataError:
        return DataError(undecodable(self.place(index), error, "replace or remove it"))

    def digest(self, index: int) -> bytes:
        return hashlib.sha256(self.read(index)).digest()


@dataclass(frozen=True, eq=False)
class EncodedImages(FileImages):
    """Pictures from a list of files, or of their bytes, each with its name."""

    encoded: Sequence[tuple[Path | bytes, str]]

    def __len__(self) -> int:
        return len(self.encoded)

    def file(self, index: int) -> Path | bytes:
        return self.encoded[index][0]

    def name(self, index: int) -> str:
        return self.encoded[index][1]

    def place(self, index: int) -> str:
        file, name = self.encoded[index]
        return str(file) if isinstance(file, Path) else name  # all of the path

    def stamp(self, index: int) -> str:
        file = self.file(index)
        if isinstance(file, bytes):
            return hashlib.sha256(file).hexdigest()
        found = file.stat()
        return f"{file.absolute()} {found.st_size} {found.st_mtime_ns}"

    def num_bytes(self, index: int) -> int:
        file = self.file(index)
        return len(file) if isinstance(file, bytes) else file.stat().st_size


def size_of(images: Images, index: int) -> tuple[int, int]:
    """Width and height of a picture when it is upright; of files without decoding them."""
    if not isinstance(images, FileImages):
        return upright(images[index]).size
    file = images.file(index)
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS) as image:
            is_turned = image.format != "TIFF" and orientation(image) in range(5, 9)  # Pillow turns TIFF itself
            return image.size[::-1] if is_turned else image.size
    except DECODING_ERRORS as error:
        raise DataError(undecodable(images.name(index), error, "replace or remove it")) from error


def orientation(image: Image.Image) -> int:
    """As EXIF says; 1 if that is damaged, as :func:`upright` takes it."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except (*DECODING_ERRORS, TypeError, LookupError):  # what is written there is anybody's
        return 1


def undecodable(name: str, error: Exception, remedy: str) -> str:
    """What is wrong with a picture that cannot be read."""
    if isinstance(error, Image.DecompressionBombError):  # Pillow's guard: it might be a trap for memory
        return f"{name} is larger than what is read ({error}); make it smaller"
    return f"{name} is truncated or not an image ({error}); {remedy}"


def digest_of_pixels(pixels: npt.NDArray[np.generic] | np.generic) -> bytes:
    """The sha256 of an array's type, shape and values."""
    return hashlib.sha256(f"{pixels.dtype.str} {pixels.shape} ".encode() + pixels.tobytes()).digest()


def encode_labels(train: npt.ArrayLike, test: npt.ArrayLike) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    """Number the classes found in the labels, in ascending order.

    Names that differ only in how accented letters are encoded (Unicode's NFC and NFD) are the same.

    Returns:
        Class names, and the class index of every training and then every test label.
    """
    train_values = np.asarray(train)
    test_values = np.asarray(test, dtype=train_values.dtype if np.size(test) == 0 else None)
    if train_values.dtype.kind == test_values.dtype.kind == "U":
        spelling = {unicodedata.normalize("NFC", name): name for name in reversed(np.unique(train_values).tolist())}
        train_values, test_values = (_respelt(part, spelling) for part in (train_values, test_values))
    values, labels = np.unique(np.concatenate([train_values, test_values]), return_inverse=True)
    return tuple(str(value) for value in values), labels.astype(np.int64)


def _respelt(names: npt.NDArray[np.str_], spelling: Mapping[str, str]) -> npt.NDArray[np.str_]:
    """Each name as ``spelling`` has its NFC form, if it has it."""
    distinct, index = np.unique(names, return_inverse=True)
    known = [spelling.get(unicodedata.normalize("NFC", name), name) for name in distinct.tolist()]
    return np.array(known, dtype=np.str_)[index]


def require_root(config: DataConfig, holds: str) -> Path:
    """``config.root`` as a path that exists; ``holds`` says what should be there."""
    if config.root is None:
        raise DataError(f"data set {config.name!r} needs a root: {holds}")
    root = Path(config.root).expanduser()
    if "://" in config.root and not root.exists():
        raise DataError(f"{config.root} is not a folder here; get it first: ofa data fetch {config.root} --out FOLDER")
    if not root.exists():
        raise DataError(f"there is no {root}, the root of data set {config.name!r}; it should be {holds}")
    return root
