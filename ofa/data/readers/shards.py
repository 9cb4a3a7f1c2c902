"""Tar files of many pictures, as WebDataset and `ofa data shard` write them.

Pictures are read at random out of the files, by offset and size: order, splits and going on in the middle of an epoch
are those of any other data set, and nothing is unpacked. Nothing in them is executed or unpickled.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ofa.data.config import DataConfig, DataError
from ofa.data.picture import EXTENSIONS
from ofa.data.readers.source import FileImages, Source, encode_labels, require_root
from ofa.data.readers.split_names import SPLIT_NAMES, split_named
from ofa.data.readers.table import as_numbers
from ofa.data.user_cache import user_cache
from ofa.errors import shown
from ofa.files import FORMAT, FileFormatError, atomic_path, parse_json, read_json

if TYPE_CHECKING:
    import pandas as pd

HOLDS = "a folder with train*.tar and, optionally, val*.tar and test*.tar, each picture with .cls or .json beside it"
CLASSES = "classes.txt"
DESCRIPTION, INDEX, PLAN = "dataset.json", "index.parquet", "plan.json"
COLUMNS = ["name", "offset", "size", "label", "group"]
MAX_FACT_BYTES, MAX_DIGITS = 1 << 20, 18


def read_shards(config: DataConfig) -> Source:
    """Read where each picture lies in tar files, and its label.

    ``val*`` and ``test*`` serve as ``val/`` and ``test/`` do in a folder tree. Classes are called as `ofa data shard`
    wrote them down, or as the lines of ``classes.txt``, or as their labels.

    Raises:
        DataError: If there is none to train on, or one is truncated, no tar file, or without labels.
    """
    root = require_root(config, HOLDS)
    said = described(root) if root.is_dir() else None
    if said is None:
        by_split = _by_split(root)
        files = [path for paths in by_split.values() for path in paths]
        tables = dict(zip(files, index_of(files, config), strict=True))
        names = _classes_in(root)
    else:
        description, known = said
        tables = {root / file: table for file, table in known.items()}
        by_split = {split: [] for split in SPLIT_NAMES}
        for shard in description["shards"]:
            by_split[shard["split"]].append(root / shard["file"])
        names = tuple(map(str, description["classes"]))
    return _source_of(by_split, tables, names, has_groups=config.group_column is not None, root=root)


def are_shards(folder: Path) -> bool:
    """Whether a folder holds tar files called after splits and no folders, or what `ofa data shard` writes."""
    if (folder / PLAN).is_file() or ((folder / INDEX).is_file() and (folder / DESCRIPTION).is_file()):
        return True
    shards = [path for path in folder.glob("*.tar") if _split_of(path) is not None]
    return bool(shards) and not any(path.is_dir() for path in folder.iterdir())


def _split_of(path: Path) -> str | None:
    return next(filter(None, map(split_named, re.split(r"[^A-Za-z]+", path.stem))), None)


def _by_split(root: Path) -> dict[str, list[Path]]:
    """Tar files, by the first word of their names that means a split."""
    paths = [root] if root.is_file() else sorted(root.glob("*.tar"))
    found: dict[str, list[Path]] = {split: [] for split in SPLIT_NAMES}
    for path in paths:
        split = _split_of(path)
        if split is None and root.is_dir():
            raise DataError(f"{path} is of no split by its name; call it train, validation or test, or move it")
        found[split or "train"].append(path)
    if not found["train"]:
        raise DataError(f"found no train*.tar in {root}; it should be {HOLDS}")
    return found


def _classes_in(root: Path) -> tuple[str, ...]:
    path = (root if root.is_dir() else root.parent) / CLASSES
    try:
        return tuple(path.read_text(encoding="utf-8-sig").splitlines()) if path.is_file() else ()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8 ({error}); write it so") from None


def _source_of(
    by_split: Mapping[str, Sequence[Path]],
    tables: Mapping[Path, pd.DataFrame],
    names: Sequence[str],
    *,
    has_groups: bool,
    root: Path,
) -> Source:
    import pandas as pd
    import pyarrow as pa

    test_split = "test" if by_split["test"] else "val"
    ordered = [path for split in SPLIT_NAMES if split != test_split for path in by_split[split]]
    test = list(by_split[test_split])
    paths = (*ordered, *test)
    numbered = [tables[path].assign(shard=number) for number, path in enumerate(paths)]
    rows = pd.concat(numbered, ignore_index=True)
    num_test = sum(len(tables[path]) for path in test)
    if num_test == len(rows):
        raise DataError(f"found no images to train on in {root}; it should be {HOLDS}")
    values: Any = rows["label"].to_numpy(dtype=str)
    distinct = np.unique(values).tolist()
    if as_numbers(distinct) is not distinct and max(map(len, distinct)) <= MAX_DIGITS:
        values = values.astype(np.int64)
    classes, labels = encode_labels(values[: len(rows) - num_test], values[len(rows) - num_test :])
    if names and values.dtype.kind == "i":
        if not 0 <= int(values.min()) <= int(values.max()) < len(names):
            raise DataError(f"{root} has label {values.max()}, but names {len(names)} classes; name all of them")
        classes = tuple(names[int(number)] for number in classes)
    images = ShardImages(
        paths,
        rows["shard"].to_numpy(np.int32),
        rows["offset"].to_numpy(np.int64),
        rows["size"].to_numpy(np.int64),
        pa.array(rows["name"].tolist(), pa.string()),
    )
    groups = rows["group"].to_numpy(dtype=str) if has_groups else None
    return Source(classes, labels, images, num_test=num_test, groups=groups)


def index_of(shards: Sequence[Path], config: DataConfig) -> list[pd.DataFrame]:
    """Of each shard a table of its pictures: ``name``, ``offset``, ``size``, ``label``, ``group``.

    It is kept in the user's cache, so that the same files are gone through once.

    Raises:
        DataError: If one is not a tar file, is truncated, or has a picture without a label.
    """
    import pandas as pd

    state = hashlib.sha256(f"{FORMAT} {config.label_column} {config.group_column}".encode())
    for path in shards:
        found = path.stat()
        state.update(f"{path.absolute()} {found.st_size} {found.st_mtime_ns}\n".encode(errors="surrogateescape"))
    memory = user_cache() / f"shards-{state.hexdigest()}.parquet"
    with suppress(Exception):  # whatever is wrong with it, it is made anew
        known = pd.read_parquet(memory)
        return [known.loc[known["shard"] == number, COLUMNS] for number in range(len(shards))]
    tables = []
    for path in shards:
        tables.append(pd.DataFrame(_pictures_in(path, config), columns=COLUMNS))
    with suppress(OSError, ValueError), atomic_path(memory) as temporary:  # nothing depends on it
        pd.concat(table.assign(shard=number) for number, table in enumerate(tables)).to_parquet(temporary, index=False)
    return tables


def _pictures_in(path: Path, config: DataConfig) -> Iterator[tuple[str, int, int, Any, Any]]:
    num_bytes = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar, path.open("rb") as file:
            for key, parts in samples_in(tar):
                if any(member.offset_data + member.size > num_bytes for member in parts.values()):
                    raise DataError(f"{path} is truncated in {shown(key)}; get it again")
                pictures = [suffix for suffix in parts if suffix in EXTENSIONS]
                if not pictures:
                    continue
                if len(pictures) > 1:
                    raise DataError(f"{path}: {shown(key)} has several pictures, {', '.join(pictures)}; one is wanted")
                label, group = _facts_of(key, parts, file, path, config)
                member = parts[pictures[0]]
                name = f"{path.name}/{member.name}".encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                yield name, member.offset_data, member.size, label, group
    except DataError:
        raise
    except (tarfile.TarError, EOFError, OSError, OverflowError, ValueError) as error:
        raise DataError(f"{path} is truncated or not a plain tar file ({error}); get it again, or unzip it") from None


def samples_in(tar: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Files behind each other whose names differ after the first dot only, by what follows the last.

    Raises:
        DataError: If two of them end alike.
        TarError: If the file does not end as tar files do.
    """
    key, parts = "", dict[str, tarfile.TarInfo]()
    for member in tar:
        tar.members = []  # type: ignore[attr-defined]  # which would grow with the file
        if not member.isreg():
            continue
        folder, _, name = member.name.rpartition("/")
        stem, _, rest = name.partition(".")
        if not stem:  # hidden, as what some systems put beside each file
            continue
        own = f"{folder}/{stem}" if folder else stem
        if own != key and parts:
            yield key, parts
            parts = {}
        key, suffix = own, f".{rest.rpartition('.')[2].lower()}"
        if suffix in parts:
            raise DataError(f"{shown(own)} has {shown(parts[suffix].name)} and {shown(member.name)}; keep one of them")
        parts[suffix] = member
    if parts:
        yield key, parts
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    end = tar.fileobj.read(tarfile.BLOCKSIZE)
    if len(end) < tarfile.BLOCKSIZE or any(end):
        raise tarfile.ReadError(f"behind {key!r} there is neither a file nor the end of all")


def _facts_of(
    key: str, parts: Mapping[str, tarfile.TarInfo], file: IO[bytes], path: Path, config: DataConfig
) -> tuple[Any, Any]:
    """Label and group of a picture: as its ``.cls`` or ``.json`` says, or its folder is called."""

    def content(suffix: str) -> str:
        member = parts[suffix]
        if member.size > MAX_FACT_BYTES:
            raise DataError(f"{path}: {shown(member.name)} has {member.size:,} bytes; labels are shorter")
        file.seek(member.offset_data)
        return file.read(member.size).decode("utf-8", errors="replace").strip()

    said: Any = {}
    if ".json" in parts:
        try:
            said = parse_json(content(".json"))
        except ValueError as error:
            raise DataError(f"{path}: the .json of {shown(key)} cannot be read ({error}); write it again") from None
    said = said if isinstance(said, dict) else {}
    label = said.get(str(config.label_column)) if ".cls" not in parts else content(".cls")
    label = key.rpartition("/")[0].rpartition("/")[2] if label is None else label
    group = "" if config.group_column is None else said.get(config.group_column)
    if label in ("", None) or not isinstance(label, str | int):
        raise DataError(
            f"{path}: {shown(key)} has no label: no .cls, no {config.label_column!r} in a .json, no folder; write one"
        )
    if group is None:
        raise DataError(
            f"{path}: {shown(key)} has no {config.group_column!r} in its .json; leave data.group_column out"
        )
    return str(label), str(group)


def described(root: Path) -> tuple[dict[str, Any], dict[str, pd.DataFrame]] | None:
    """What :func:`write_shards` says of its shards, and their tables by file; ``None`` if it did not make them.

    Raises:
        DataError: If a shard is missing or not whole.
    """
    import pandas as pd

    if not (root / DESCRIPTION).is_file():
        if (root / PLAN).is_file():
            raise DataError(f"{root} is not finished; the command that began it goes on: ofa data shard … --out {root}")
        return None
    try:
        said = read_json(root / DESCRIPTION, kind="description of shards", remedy="make them again")
        files = {str(each["file"]): int(each["bytes"]) for each in said["shards"]}
        classes, splits = said["classes"], {each["split"] for each in said["shards"]}
        if not isinstance(classes, list) or not files or not {"train"} <= splits <= {"train", "test"}:
            raise ValueError("classes, shards or their splits")
        index = pd.read_parquet(root / INDEX)
        _check_index(index, files)
        tables = {str(file): table[COLUMNS] for file, table in index.groupby("file", sort=False)}
    except FileFormatError as error:
        raise DataError(str(error)) from None
    except (OSError, LookupError, TypeError, ValueError) as error:  # pyarrow's are of these
        raise DataError(f"{root / INDEX} or {DESCRIPTION} is damaged ({error}); make the shards again") from None
    for file, num_bytes in files.items():
        place = root / file
        found = place.stat().st_size if place.is_file() else 0
        if found != num_bytes or file not in tables or "/" in file:
            raise DataError(f"{place} has {found:,} of {num_bytes:,} bytes; copy it again")
    return said, {file: tables[file] for file in files}


def _check_index(index: pd.DataFrame, files: Mapping[str, int]) -> None:
    """:class:`ValueError` unless it says, for each picture, where it lies in its file."""
    import pandas as pd

    for column in ("file", "name", "label", "group"):
        if len(index) and pd.api.types.infer_dtype(index[column], skipna=False) != "string":
            raise ValueError(f"{column} is no text")
    if any(index[column].dtype.kind != "i" for column in ("offset", "size")):
        raise ValueError("offset or size is no number")
    sizes = index["file"].map(files)  # of the shards
    whole = (index["offset"] >= 0) & (index["size"] >= 0) & (index["offset"] <= sizes - index["size"])
    if not whole.all():
        raise ValueError(f"{index['name'][~whole].iloc[0]!r} lies outside its file")


@dataclass(frozen=True, eq=False)
class ShardImages(FileImages):
    """Pictures at known places of some files.

    Args:
        paths: Of the shards.
        shard, offset, size: Which of them, from which byte, and how many, of each picture ``(N,)``.
        names: Of the pictures, as a pyarrow array, which worker processes share as it is.
    """

    paths: tuple[Path, ...]
    shard: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    names: Any

    def __len__(self) -> int:
        return len(self.shard)

    def file(self, index: int) -> bytes:
        path, num = self.paths[self.shard[index]], int(self.size[index])
        with path.open("rb", buffering=0) as file:
            file.seek(int(self.offset[index]))
            found = file.read(num)
        if len(found) != num:
            raise DataError(f"{self.place(index)} is cut off after {len(found)} of {num} bytes; get the shard again")
        return found

    def name(self, index: int) -> str:
        return str(self.names[int(index)].as_py())

    def place(self, index: int) -> str:
        return f"{self.name(index)} in {self.paths[self.shard[index]]}"

    def stamp(self, index: int) -> str:
        found = self.paths[self.shard[index]].stat()
        return f"{found.st_size} {found.st_mtime_ns} {self.offset[index]} {self.size[index]}"

    def num_bytes(self, index: int) -> int:
        return int(self.size[index])
