"""From a repository to a folder, which stands when all that arrived was found to be whole."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from ofa.files import resolved, sync, workspace
from ofa.hub.client import SECONDS, HubError, check_repo, files_in, some, talking
from ofa.hub.transfer import (
    BUNDLE,
    CARD,
    OF_ANY,
    OWN_CARD,
    Transfer,
    amount,
    files_of_bundle,
    is_part,
    kind_of,
    names_in,
    said_of,
)
from ofa.locks import only_writer
from ofa.progress import Progress, notice
from ofa.system import rename_new

MAX_BYTES, MAX_TEXT_BYTES = 1 << 36, 1 << 30
TEXTS = (".json", ".csv", ".md")


def pull(
    repo: str,
    out: Path | str,
    *,
    revision: str | None = None,
    progress: Progress | None = None,
) -> Transfer:
    """Fetch a run or bundle.

    Args:
        out: Folder to make; nothing, or an empty folder, may be there.
        revision: A branch, tag or commit; the latest by default.

    Raises:
        UsageError: If ``repo`` is no ``OWNER/NAME``.
        HubError: If something is at ``out``, or if the repository is not there, or holds no whole run or bundle.
        LockedError: If somebody else writes to ``out``.
    """
    check_repo(repo)
    _check_destination(out)
    with only_writer(out, command="ofa pull", beside=True) as place, workspace(place) as space:
        new = space / "new"
        with talking(repo, revision, progress=progress) as api:
            commit = str(api.repo_info(repo, revision=revision, timeout=SECONDS).sha)
            there = files_in(api, repo, commit)
        kind, sizes = _choose(repo, there)
        free = shutil.disk_usage(space).free
        if sum(sizes.values()) > free:
            raise HubError(f"{repo} is {amount(sizes)}, {free:,} bytes are free; make space, or give another --out")
        notice(progress, f"fetching {amount(sizes)} of {repo}")
        with talking(repo, revision, progress=progress) as api:
            api.snapshot_download(repo, revision=commit, allow_patterns=list(sizes), local_dir=new)
        shutil.rmtree(new / ".cache", ignore_errors=True)
        if {name: (new / name).stat().st_size for name in names_in(new)} != sizes:
            raise HubError(f"{repo}: what arrived is not what {api.endpoint} lists; try again")
        with said_of(new, repo):
            code = _checked(kind, new)
        _put(new, place)
    return Transfer(
        kind=kind,
        path=place,
        url=f"{api.endpoint}/{repo}",
        revision=commit,
        files=sizes,
        left_out=tuple(name for name in there if name not in {*sizes, *OF_ANY}),
        code=code,
    )


def _check_destination(out: Path | str) -> None:
    place = resolved(out)
    if os.path.lexists(place) and not (place.is_dir() and not any(place.iterdir())):
        raise HubError(f"{place} is there already; give another --out, or remove it")


def _choose(repo: str, there: Mapping[str, int]) -> tuple[str, dict[str, int]]:
    """What a repository holds, and the sizes of the files that are of it."""
    kind = kind_of(there)
    if kind is None:
        raise HubError(f"{repo} holds neither a run nor a bundle (but {some(there) or 'nothing'}); give another name")
    sizes = {name: size for name, size in there.items() if is_part(kind, name)}
    if OWN_CARD in sizes:
        sizes.pop(CARD, None)
    for name, size in sizes.items():
        limit = MAX_TEXT_BYTES if name.endswith(TEXTS) else MAX_BYTES
        if not 0 <= size <= limit:
            raise HubError(f"{repo} is refused: {name} is {size:,} bytes long, above the limit of {limit:,}")
    return kind, sizes


def _checked(kind: str, folder: Path) -> tuple[str, ...]:
    """The code that is named in what arrived; :class:`OfaError` unless it is whole."""
    if kind == BUNDLE:
        if (folder / OWN_CARD).is_file():
            (folder / OWN_CARD).replace(folder / CARD)
        files_of_bundle(folder)
        return ()
    from ofa.report.run_files import read_run
    from ofa.training.run import Run

    run = Run.open(folder)
    run.check_weights()
    read_run(folder)
    return run.code


def _put(new: Path, place: Path) -> None:
    for path in (*new.rglob("*"), new):
        sync(path)
    try:
        if place.is_dir():
            place.rmdir()  # an empty one
        rename_new(new, place)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        raise HubError(f"{place} appeared while this was fetched; it is left alone: give another --out") from None
    sync(place.parent)
