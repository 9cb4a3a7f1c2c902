"""Pictures of objects, each with a class and a box: Pascal VOC's XML, COCO's JSON, YOLO's text files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from ofa.config import ConfigError, read_yaml
from ofa.data.boxes import padded
from ofa.data.config import DataConfig, DataError
from ofa.data.picture import EXTENSIONS
from ofa.data.readers.source import EncodedImages, Source, require_root, size_of
from ofa.data.readers.split_names import files_by_name, split_named, split_of_path
from ofa.errors import shown, unknown_name_message

LISTED = 5
NO_AREA = "boxes without area"
CROWDS = "boxes of crowds"


class Thing(NamedTuple):
    """An object: name of its class, and left, top, right and bottom as shares of the picture's sides."""

    name: str
    box: tuple[float, float, float, float]


class Seen(NamedTuple):
    """A picture and what is in it."""

    split: str
    picture: Path
    things: list[Thing]

    size: tuple[float, float] | None = None
    """Width and height, where they are said."""


Read = Callable[[Path, Sequence[str], Counter[str]], Iterator[Seen]]
"""Of the root, names of classes for data that has none, and what was left out, which is counted there."""


def read_boxes(config: DataConfig, names: Sequence[str] = (), *, is_trained: bool = True) -> Source:
    """Read pictures with boxes.

    ``test`` is the test set; ``val`` is where there is no ``test``, otherwise its pictures join the training pictures,
    out of which the other splits are carved. Boxes are cut off at the picture's edge; those without area are left out.

    Args:
        names: Of the classes, in order; without any, those that are there, in alphabetical order.
        is_trained: There must be pictures to train on; otherwise all are taken alike.

    Raises:
        DataError: If something is missing or malformed; it names the file.
    """
    check_name(config)
    holds, reader = READERS[config.name]
    root, left_out = require_root(config, holds), Counter[str]()
    found = list(reader(root, names, left_out))
    splits = {each.split for each in found} if is_trained else ()
    test = next((split for split in ("test", "val") if split in splits), None)
    found.sort(key=lambda each: each.split == test)  # in the order of files otherwise
    num_test = sum(each.split == test for each in found)
    if num_test == len(found):
        raise DataError(f"found no pictures with boxes to train on in {root}; it should be {holds}")
    present = sorted({thing.name for each in found for thing in each.things})
    if not present:
        raise DataError(f"the pictures in {root} have no boxes; there is nothing to find")
    classes = tuple(names) or tuple(present)
    if strangers := [name for name in present if name not in classes]:
        raise DataError(f"{root}: {unknown_name_message('class', strangers[0], classes)}; name all in task.names")
    objects = [_objects(each, classes, left_out) for each in found]
    images = EncodedImages([(each.picture, _name(each.picture, root)) for each in found])
    _check_sizes(found, images)
    ignored = tuple(f"{num} {what}" for what, num in sorted(left_out.items()) if num)
    return Source(
        classes,
        np.zeros(len(found), dtype=np.int64),
        images,
        num_test=num_test,
        ignored=ignored,
        objects=padded(objects),
    )


def check_name(config: DataConfig) -> None:
    """:class:`DataError` unless the data is of a form that has boxes."""
    if config.name not in READERS:
        raise DataError(unknown_name_message("data set with boxes", config.name, READERS) + "; set data.name")


def _check_sizes(found: Sequence[Seen], images: EncodedImages) -> None:
    """:class:`DataError` if boxes were drawn on a picture of another size; broken ones are looked at elsewhere."""
    for row, each in enumerate(found):
        try:
            size = size_of(images, row)
        except DataError:
            continue
        if each.size is not None and each.size != size:
            raise DataError(
                f"{each.picture} has {size[0]} x {size[1]} pixels, upright, but its boxes were drawn on "
                f"{each.size[0]:g} x {each.size[1]:g}; they must be of one size"
            )


def _objects(seen: Seen, classes: Sequence[str], left_out: Counter[str]) -> list[list[float]]:
    rows = []
    for name, box in seen.things:
        left, top, right, bottom = np.clip(box, 0, 1).tolist()
        if right > left and bottom > top:
            rows.append([classes.index(name), left, top, right, bottom])
        else:
            left_out[NO_AREA] += 1
    return rows


def _name(picture: Path, root: Path) -> str:
    return picture.relative_to(root).as_posix() if picture.is_relative_to(root) else picture.name


def _number(text: Any, what: str, file: Path) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError, OverflowError):
        value = np.nan
    if not np.isfinite(value):
        raise DataError(f"{file}: {what} is {shown(str(text))}, which is no number; mend or remove the file")
    return value


def _shares(box: Sequence[float], size: Sequence[float], file: Path) -> tuple[float, float, float, float]:
    (left, top, right, bottom), (width, height) = box, size
    if not (width >= 1 and height >= 1):
        raise DataError(f"{file}: the picture has {width:g} x {height:g} pixels; write its width and height there")
    return left / width, top / height, right / width, bottom / height


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read ({error}); write it again, or remove it") from None


# -- Pascal VOC --------------------------------------------------------------------------------------------------------

VOC_HOLDS = (
    "a folder with Annotations/NAME.xml, JPEGImages/NAME.jpg and, optionally, ImageSets/Main/train.txt, val.txt and "
    "test.txt; or with NAME.xml beside NAME.jpg, in train/, val/ and test/"
)


def _voc(root: Path, names: Sequence[str], left_out: Counter[str]) -> Iterator[Seen]:
    files = sorted(path for path in root.rglob("*.xml") if not path.name.startswith("."))
    if not files:
        raise DataError(f"found no .xml files in {root}; it should be {VOC_HOLDS}")
    listed = {folder: _image_sets(folder.parent) for folder in {file.parent for file in files}}
    for file in files:
        known = listed[file.parent]
        split = known.get(file.stem) if known else split_of_path(file.relative_to(root))
        if split is None:
            left_out["pictures that ImageSets/Main does not list"] += 1
            continue
        things, size = _things_of_xml(file)
        yield Seen(split, _picture_of(file), things, size)


def _image_sets(root: Path) -> dict[str, str]:
    """Split of each picture that is listed, by name without extension."""
    found: dict[str, str] = {}
    for path in sorted(root.glob("ImageSets/Main/*.txt")):
        if (split := split_named("train" if path.stem == "trainval" else path.stem)) is None:
            continue
        for line in _text(path).splitlines():
            if line.strip() and found.get(name := line.split()[0], "train") == "train":
                found[name] = split
    return found


def _picture_of(file: Path) -> Path:
    """The picture that a file of boxes belongs to: beside it, or in a folder beside its own."""
    folders = [file.parent, *(file.parent.parent / name for name in ("JPEGImages", "images"))]
    for folder in folders:
        for suffix in EXTENSIONS:
            for picture in (folder / (file.stem + suffix), folder / (file.stem + suffix.upper())):
                if picture.is_file():
                    return picture
    raise DataError(
        f"{file} has no picture {file.stem}.* in {', '.join(map(str, folders))}; add it, or remove this file"
    )


def _things_of_xml(file: Path) -> tuple[list[Thing], tuple[float, float]]:
    try:
        root = ElementTree.parse(file).getroot()
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        raise DataError(f"{file} cannot be read ({error}); write it again, or remove it and its picture") from None
    size = tuple(_number(root.findtext(f"size/{side}"), f"size/{side}", file) for side in ("width", "height"))
    things = []
    for each in root.findall("object"):
        name = (each.findtext("name") or "").strip()
        if not name:
            raise DataError(f"{file} has an object without a name; name it, or remove it")
        sides = [_number(each.findtext(f"bndbox/{side}"), side, file) for side in ("xmin", "ymin", "xmax", "ymax")]
        things.append(Thing(name, _shares(sides, size, file)))
    return things, size  # type: ignore[return-value]


# -- COCO --------------------------------------------------------------------------------------------------------------

COCO_HOLDS = (
    "a .json file, or a folder with annotations/instances_train*.json and train*/, or with "
    "train/_annotations.coco.json beside its pictures"
)


def _coco(root: Path, names: Sequence[str], left_out: Counter[str]) -> Iterator[Seen]:
    if root.is_file():
        files = [root]
    else:
        files = sorted(path for path in root.rglob("*.json") if not path.name.startswith("."))
        files = [path for path in files if "instances" in path.name] or files
    if not files:
        raise DataError(f"found no .json file in {root}; it should be {COCO_HOLDS}")
    base = root.parent if root.is_file() else root
    for file in files:
        split = _split_in(file.stem) or _split_of_places(file.relative_to(base))
        yield from _of_json(file, base, split, left_out)


def _split_of_places(path: Path) -> str:
    """The split that a folder on the way to a file means, as ``train2017``; ``train`` if none does."""
    return next(filter(None, map(_split_in, path.parts[:-1])), "train")


def _split_in(stem: str) -> str | None:
    """``train`` of ``instances_train2017``."""
    words = (word.rstrip("0123456789") for word in stem.replace("-", "_").split("_"))
    return next(filter(None, map(split_named, words)), None)


def _of_json(file: Path, base: Path, split: str, left_out: Counter[str]) -> Iterator[Seen]:
    try:
        content = json.loads(_text(file))
        names = {each["id"]: str(each["name"]) for each in content["categories"]}
        images = {each["id"]: each for each in content["images"]}
        sides = ("width", "height")
        sizes = {key: tuple(_number(each.get(side), side, file) for side in sides) for key, each in images.items()}
        things: dict[Any, list[Thing]] = {key: [] for key in images}
        for each in content["annotations"]:
            if each.get("iscrowd"):
                left_out[CROWDS] += 1
                continue
            left, top, width, height = (_number(value, "bbox", file) for value in each["bbox"])
            box = _shares((left, top, left + width, top + height), sizes[each["image_id"]], file)
            things[each["image_id"]].append(Thing(names[each["category_id"]], box))
        wanted = [(key, str(image["file_name"])) for key, image in images.items()]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{file} is no file of COCO's boxes ({type(error).__name__}: {error}); it needs images, categories and "
            "annotations that name them by their id"
        ) from None
    numbered = [folder for folder in sorted(base.iterdir()) if folder.is_dir() and _split_in(folder.name) == split]
    folders = [file.parent, file.parent / "images", *numbered, base / "images", base]
    folders += [folder / "images" for folder in numbered] + sorted(base.glob(f"images/{split}*"))
    for key, name in sorted(wanted, key=lambda each: each[1]):
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise DataError(f"{file} names {shown(name)}, which leads out of the data set; put the picture into it")
        picture = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if picture is None:
            raise DataError(
                f"{file} names {shown(name)}, which is in none of {', '.join(map(str, folders[:LISTED]))}; put the "
                "pictures there"
            )
        yield Seen(split, picture, things[key], sizes[key])  # type: ignore[arg-type]


# -- YOLO --------------------------------------------------------------------------------------------------------------

YOLO_HOLDS = (
    "a folder with images/train/NAME.jpg and labels/train/NAME.txt, or train/images/ and train/labels/, and "
    "data.yaml with the names of the classes (or task.names)"
)


def _yolo(root: Path, names: Sequence[str], left_out: Counter[str]) -> Iterator[Seen]:
    names = _names_of_yolo(root) or names
    folders = [path for depth in ("", "*/", "*/*/") for path in sorted(root.glob(f"{depth}images")) if path.is_dir()]
    if not folders:
        raise DataError(f"found no folder images in {root}; it should be {YOLO_HOLDS}")
    for folder in folders:
        labels = files_by_name(folder.with_name("labels"), (".txt",))
        pictures = files_by_name(folder)
        for name in sorted(labels.keys() - pictures.keys()):
            if Path(name).name != "classes":
                raise DataError(f"{labels[name]} has no picture {name}.* in {folder}; add it, or remove this file")
        for name, picture in sorted(pictures.items()):
            things = _things_of_text(labels[name], names) if name in labels else []
            yield Seen(_split_of_places(picture.relative_to(root)), picture, things)


def _names_of_yolo(root: Path) -> list[str]:
    for path in (*sorted(root.glob("*.yaml")), *sorted(root.glob("*.yml"))):
        try:
            named = read_yaml(path, kind="file of names").get("names")
        except ConfigError as error:
            raise DataError(f"{error}; mend it, or remove it and give task.names") from None
        if isinstance(named, dict):
            named = [named.get(index, named.get(str(index))) for index in range(len(named))]
        if named is None:
            continue
        if not isinstance(named, list) or not all(isinstance(name, str | int) for name in named):
            raise DataError(f"{path}: names must be a list, or a name for each index from 0; write it so")
        return [str(name) for name in named]
    for path in sorted(root.rglob("classes.txt")):
        return [line.strip() for line in _text(path).splitlines() if line.strip()]
    return []


def _things_of_text(file: Path, names: Sequence[str]) -> list[Thing]:
    things = []
    for number, line in enumerate(_text(file).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        index, *numbers = (_number(word, f"line {number}", file) for word in words)
        if index != int(index) or index < 0 or len(numbers) < 4 or (len(numbers) > 4 and len(numbers) % 2):
            raise DataError(
                f"{file}: line {number} is {shown(line)}; it must be the index of a class and the middle, width and "
                "height of a box, or the corners of a polygon, as shares of the picture's sides"
            )
        if names and index >= len(names):
            raise DataError(f"{file}: line {number} has class {int(index)}, but there are {len(names)} names")
        if len(numbers) == 4:
            x, y, width, height = numbers
            box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        else:  # a polygon: the box around it
            box = (min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2]))
        things.append(Thing(names[int(index)] if names else str(int(index)), box))
    return things


READERS: Mapping[str, tuple[str, Read]] = {
    "voc": (VOC_HOLDS, _voc),
    "coco": (COCO_HOLDS, _coco),
    "yolo": (YOLO_HOLDS, _yolo),
}
"""By ``data.name``: what it should be, and what reads it."""


def guess_form(root: Path) -> str:
    """Which of :data:`READERS` data is for, by what lies there; :class:`DataError` if it is for none."""
    if root.suffix.lower() == ".json" or (root.is_dir() and any(root.rglob("*.json"))):
        return "coco"
    if root.is_dir() and any(root.rglob("*.xml")):
        return "voc"
    if root.is_dir() and any(path.is_dir() for path in root.rglob("labels")):
        return "yolo"
    raise DataError(f"{root} has no boxes: .xml files (Pascal VOC), a .json file (COCO), or folders labels (YOLO)")
