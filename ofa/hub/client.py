"""Talking to a hub by its library: what that raises, in our words, and what a repository is and holds."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING

from ofa.errors import OfaError, UsageError, shown
from ofa.progress import Progress, notice

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

MAX_FILES = 4096
MAX_SAID = 300
SECONDS = 30.0
"""That the first answer may take."""

REMEDIES = {
    401: "log in again with `hf auth login`, or set HF_TOKEN",
    403: "use a token that may, or another OWNER",
    412: "it has changed meanwhile: do it again",
}
"""Status of an answer -> what to do about it."""


class HubError(OfaError, ValueError):
    """Nothing was pushed or pulled; the message says why."""


def check_repo(repo: str) -> None:
    """:class:`UsageError` unless a repository can be called so."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
        is_name = repo.count("/") == 1
    except HFValidationError:
        is_name = False
    if not is_name:
        raise UsageError(f"{shown(repo)} names no repository; say OWNER/NAME, in letters, digits, '-', '_' and '.'")


def check_login() -> None:
    """:class:`HubError` unless there is a token to send."""
    from huggingface_hub import constants, get_token

    if get_token() is None:
        raise HubError(f"you are not logged in at {constants.ENDPOINT}; run `hf auth login`, or set HF_TOKEN")


def files_in(api: HfApi, repo: str, revision: str | None) -> dict[str, int]:
    """Files of a repository with their sizes in bytes."""
    entries = list(islice(api.list_repo_tree(repo, recursive=True, revision=revision), MAX_FILES + 1))
    if len(entries) > MAX_FILES:
        raise HubError(f"{repo} holds more than {MAX_FILES} files, which no run or bundle has; give another name")
    return {str(entry.path): int(entry.size) for entry in entries if hasattr(entry, "size")}


@contextmanager
def talking(repo: str, revision: str | None = None, *, progress: Progress | None = None) -> Iterator[HfApi]:
    """A client; what it raises in the block becomes a :class:`HubError`.

    Args:
        progress: Told what the library warns of; its own bars are off.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    api = HfApi()
    try:
        with _quiet(progress):
            yield api
    except OfaError:
        raise
    except OfflineModeIsEnabled as error:
        raise HubError(f"{repo} is at {api.endpoint}, where HF_HUB_OFFLINE forbids to go; unset it") from error
    except HfHubHTTPError as error:
        raise HubError(_refusal(error, repo, revision, api.endpoint)) from error
    except HTTPError as error:
        said = f"{type(error).__name__}: {_cut(error)}"
        raise HubError(f"{api.endpoint} cannot be reached ({said}); check the network, and HF_ENDPOINT") from error
    except OSError as error:
        if error.errno is not None:  # of this machine
            raise
        raise HubError(f"{repo}: the transfer broke off ({_cut(error)}); try again") from error
    except RuntimeError as error:  # an upload's, which may hold what went wrong
        cause = error.__cause__ or error
        said = f"{repo}: the transfer broke off ({_cut(cause)}); try again"
        if isinstance(cause, HfHubHTTPError):
            said = _refusal(cause, repo, revision, api.endpoint)
        raise HubError(said) from error
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:  # an answer that is none
        said = f"{type(error).__name__}: {_cut(error)}"
        raise HubError(f"{api.endpoint} does not take {repo}, or is no hub ({said}); check HF_ENDPOINT") from error


def _refusal(error: HfHubHTTPError, repo: str, revision: str | None, endpoint: str) -> str:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return f"{repo} is for those whom its owner lets in; ask at {endpoint}/{repo}, and log in with `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return f"no repository {repo} at {endpoint} that you may see; check the name, or log in with `hf auth login`"
    if isinstance(error, RevisionNotFoundError):
        return f"{repo} has no revision {shown(revision)}; give a branch, tag or commit of it"
    status = error.response.status_code
    said = f", {_cut(error.server_message)}" if error.server_message else ""
    return f"{endpoint} refuses this for {repo} (status {status}{said}); {REMEDIES.get(status, 'try again later')}"


@contextmanager
def _quiet(progress: Progress | None) -> Iterator[None]:
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")  # but for what is meant for users
        warnings.simplefilter("always", UserWarning)
        has_bars = not are_progress_bars_disabled()
        disable_progress_bars()
        try:
            yield
        finally:
            if has_bars:
                enable_progress_bars()
    for each in caught:
        notice(progress, _cut(each.message))


def _cut(said: object) -> str:
    text = " ".join(str(said).split())
    return text if len(text) <= MAX_SAID else f"{text[:MAX_SAID]}…"


def some(names: Iterable[str]) -> str:
    """The first few, for messages."""
    listed = list(names)
    few = ", ".join(listed[:3])
    return few if len(listed) <= 3 else f"{few} and {len(listed) - 3} more"
