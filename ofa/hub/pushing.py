"""From a folder to a repository, in one commit."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ofa.errors import UsageError, shown
from ofa.files import write_json_atomic
from ofa.hub.client import SECONDS, HubError, check_login, check_repo, files_in, some, talking
from ofa.hub.transfer import (
    BUNDLE,
    CARD,
    KNOWN_BY,
    OF_ANY,
    OF_RUN,
    OWN_CARD,
    RUN,
    Transfer,
    amount,
    files_of_bundle,
    is_part,
    kind_of,
    names_in,
    said_of,
)
from ofa.progress import Progress, notice

if TYPE_CHECKING:
    from huggingface_hub import HfApi

LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")


@dataclass(frozen=True)
class _Parts:
    """What is sent: name in the repository -> file, the card besides; and the code that is named."""

    files: dict[str, Path]
    card: str
    code: tuple[str, ...] = ()


def push(
    folder: Path | str,
    repo: str,
    *,
    public: bool = False,
    license: str | None = None,
    progress: Progress | None = None,
) -> Transfer:
    """Send a run or bundle; of the files that such a folder can have, the repository then holds those that it has.

    Args:
        repo: ``OWNER/NAME``; made if there is none.
        public: Whether everybody may see it; a repository that is there must be so already.
        license: What hubs call it, for the card.

    Raises:
        UsageError: If ``repo`` or ``license`` is no such name.
        HubError: If the folder is neither, or not whole, or if the hub does not take it.
    """
    check_repo(repo)
    if license is not None and not LICENSE.fullmatch(license):
        raise UsageError(f"--license {shown(license)} is nothing that hubs call a licence; give one such as apache-2.0")
    folder = Path(folder)
    kind = _kind_here(folder)
    check_login()
    with tempfile.TemporaryDirectory() as staged:
        parts = _parts_of_bundle(folder) if kind == BUNDLE else _parts_of_run(folder, Path(staged), repo)
        card = _licensed(parts.card, license).encode()
        sizes = {CARD: len(card), **{name: path.stat().st_size for name, path in parts.files.items()}}
        with talking(repo, progress=progress) as api:
            from huggingface_hub import CommitOperationAdd, CommitOperationDelete

            head, there = _prepare(api, repo, kind, public=public)
            notice(progress, f"sending {amount(sizes)} to {repo}, {'for all to see' if public else 'private'}")
            operations: list[Any] = [CommitOperationAdd(CARD, card)]
            operations += [CommitOperationAdd(name, str(path)) for name, path in parts.files.items()]
            operations += [CommitOperationDelete(name) for name in there if name not in sizes and is_part(kind, name)]
            message = f"{kind} {folder.resolve().name}"
            commit = api.create_commit(repo, operations, commit_message=message, parent_commit=head)
    return Transfer(
        kind=kind,
        path=folder,
        url=f"{api.endpoint}/{repo}",
        revision=str(commit.oid),
        files=sizes,
        left_out=_left_out(folder, [CARD, *parts.files] if kind == BUNDLE else parts.files),
        code=parts.code,
    )


def _kind_here(folder: Path) -> str:
    kind = kind_of(name for name in KNOWN_BY.values() if (folder / name).is_file())
    if kind is not None:
        return kind
    holds = f"it holds no {' and no '.join(KNOWN_BY.values())}" if folder.is_dir() else "there is no such folder"
    if (folder / "checkpoints").is_dir():
        holds += ", but checkpoints of a training that has not ended"
    raise HubError(f"{folder} is neither a run nor a bundle: {holds}; name what `ofa train` or `ofa export` left")


def _parts_of_bundle(folder: Path) -> _Parts:
    files = files_of_bundle(folder)
    if CARD not in files:
        raise HubError(f"{folder} has no {CARD}; export it again")
    card = files.pop(CARD)
    return _Parts({**files, OWN_CARD: card}, card.read_text(encoding="utf-8"))


def _parts_of_run(folder: Path, staged: Path, repo: str) -> _Parts:
    """All but the weights are copies, read as whoever pulls them will, and name no folder of this machine."""
    from ofa.report.run_card import run_card
    from ofa.report.run_files import read_run
    from ofa.training.run import Run, portable

    run = Run.open(folder)
    weights = run.check_weights()
    files = {name: staged / name for name in names_in(folder) if OF_RUN.fullmatch(name)} | {weights.name: weights}
    for name, copy in files.items():
        if copy != weights:
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, copy)
    if (info := portable(run.info)) != run.info:
        write_json_atomic(staged / KNOWN_BY[RUN], info, indent=None)
    with said_of(staged, str(folder)):
        return _Parts(files, run_card(read_run(staged), repo=repo, code=run.code), run.code)


def _licensed(card: str, license: str | None) -> str:
    """A card whose header names the licence, which ours leave open."""
    if license is None:
        return card
    rest = re.sub("# license: .*\n", "", card.removeprefix("---\n"), count=1)
    return f"---\nlicense: {license}\n{rest}"


def _prepare(api: HfApi, repo: str, kind: str, *, public: bool) -> tuple[str | None, list[str]]:
    """The latest commit and the files of a repository that the folder may go to; it is made if there is none."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.repo_info(repo, timeout=SECONDS)
    except RepositoryNotFoundError:
        api.create_repo(repo, private=not public)
        return None, []
    if bool(info.private) == public:
        seen, remedy = ("private", "leave --public out") if public else ("public", "say --public")
        raise HubError(f"{repo} is {seen} on {api.endpoint}; {remedy}, change its settings there, or give another name")
    names = list(files_in(api, repo, info.sha))
    holds = kind_of(names)
    if holds is None and (strange := [name for name in names if name not in OF_ANY]):
        raise HubError(f"{repo} holds something else ({some(strange)}); it is left alone: give another name")
    if holds not in (None, kind):
        raise HubError(f"{repo} holds a {holds}, not a {kind}; it is left alone: give another name")
    return info.sha, names


def _left_out(folder: Path, sent: Collection[str]) -> tuple[str, ...]:
    """What else lies in a folder; folders as such, where nothing of them was sent."""
    tops = {name.partition("/")[0] for name in sent}
    left: dict[str, None] = {}
    for name in names_in(folder):
        top, below, _ = name.partition("/")
        if name not in sent:
            left[name if not below or top in tops else f"{top}/"] = None
    return tuple(left)
