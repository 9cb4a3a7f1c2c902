"""What travels: which files are of a run or bundle, how it is known, and that it is whole."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ofa.errors import OfaError
from ofa.hub.client import HubError, some

BUNDLE, RUN = "bundle", "run"
KNOWN_BY = {BUNDLE: "bundle.json", RUN: "supernet.json"}
CARD, OWN_CARD = "README.md", "README.bundle.md"
"""In a repository: its page, which the owner may edit there, and a bundle's card as the bundle has it."""
OF_ANY = {".gitattributes", CARD, OWN_CARD, "LICENSE", "LICENSE.md", "LICENSE.txt"}
"""What may lie in any repository, and is no news."""
NAME = r"[\w-][\w.-]*"
OF_RUN = re.compile(
    r"supernet\.(json|safetensors)|config\.json|metrics\.csv|search/evaluations\.csv"
    rf"|search/{NAME}/(front\.csv|selected\.json)|latency_tables/{NAME}/{NAME}\.(csv|json)",
    re.ASCII,
)
"""Files of a run that travel: no checkpoints, and no pages, which may show the user's data."""


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """A run or bundle that was pushed or pulled.

    Args:
        kind: ``run`` or ``bundle``.
        path: Its folder here.
        url: Of the repository.
        revision: The commit there.
        files: Name there -> bytes.
        left_out: What else is in the folder, or in the repository.
        code: Files of code that it names, which are no part of it.
    """

    kind: str
    path: Path
    url: str
    revision: str
    files: dict[str, int]
    left_out: tuple[str, ...]
    code: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def kind_of(names: Iterable[str]) -> str | None:
    """What files of these names are; ``None`` if they are neither."""
    known = set(names)
    return next((kind for kind, name in KNOWN_BY.items() if name in known), None)


def is_part(kind: str, name: str) -> bool:
    """Whether a run or bundle may have such a file."""
    if kind == RUN:
        return OF_RUN.fullmatch(name) is not None
    from ofa.deploy.bundle import FOLDER
    from ofa.deploy.checked_folder import PLAIN_NAME, SUMS

    top = name.partition("/")[0]
    is_known = top in (FOLDER.info, SUMS, OWN_CARD) or FOLDER.belongs(top)
    return is_known and PLAIN_NAME.fullmatch(name) is not None


def names_in(folder: Path) -> list[str]:
    """Files in a folder, but no hidden ones: those are locks, and what is being written."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))


def files_of_bundle(folder: Path) -> dict[str, Path]:
    """All files of a bundle, by name.

    Raises:
        BundleError: If there is no readable ``bundle.json``.
        HubError: If a file is not as listed, missing or added, or ``predict.py`` not the program of this package.
    """
    from ofa.deploy.bundle import INFO, read_bundle
    from ofa.deploy.checked_folder import SUMS
    from ofa.deploy.verify import check_files

    info = read_bundle(folder)
    wrong = [f"{check.name}: {check.found}" for check in check_files(folder, info) if not check.ok]
    if wrong:
        raise HubError(f"{folder} is not what {INFO} and {SUMS} say ({some(wrong)}); get or export it again")
    return {name: folder / name for name in (INFO, SUMS, *info.files)}


@contextmanager
def said_of(folder: Path, place: str) -> Iterator[None]:
    """What is wrong with a folder that nobody has seen is said of the place that it stands for."""
    try:
        yield
    except OfaError as error:
        raise HubError(f"{place} is refused: {str(error).replace(str(folder), place)}") from error


def amount(sizes: Mapping[str, int]) -> str:
    """Of files, for messages."""
    return f"{len(sizes)} files, {sum(sizes.values()) / 1e6:,.2f} MB"
