"""Which samples a data set holds, kept by a run so that it refuses others: name, label and content of each."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from ofa.data.config import DataError
from ofa.data.readers.source import Labelled
from ofa.errors import shown
from ofa.progress import Progress

Content: TypeAlias = Literal["sha256", "num_bytes", "nothing"]
LIMIT_BYTES = 2 * 10**9
CHUNK = 256
REMEDY = "give the run its own data, or start a new run"


@dataclass(frozen=True, eq=False)
class Identity:
    """What tells a data set from another.

    Args:
        content: What is looked at of a sample besides name and label: the ``sha256`` of its bytes where all together
            are at most 2 GB, else their number; nothing where that cannot be known without decoding every picture.
        sha256: Of the names, labels and contents of all samples, in order.
        digests: To tell what changed, uint32 ``(N, 2)``: the first four bytes of the sha256 of each name, and of each
            label with content.
    """

    content: Content
    sha256: str
    digests: npt.NDArray[np.uint32]

    @classmethod
    def of(cls, source: Labelled, content: Content | None = None, progress: Progress | None = None) -> Identity:
        """Look at all samples.

        Args:
            content: By the rule above if ``None``.
            progress: Called with (done, total, what) while contents are read.
        """
        num = len(source.labels)
        if content is None:
            sizes = [source.samples.num_bytes(index) for index in range(num)]
            known = [size for size in sizes if size is not None]
            content = "nothing" if len(known) < num else "sha256" if sum(known) <= LIMIT_BYTES else "num_bytes"
        total, parts = hashlib.sha256(), bytearray()
        for index, (label, found) in enumerate(
            zip(source.labels.tolist(), _contents(source, content, progress), strict=True)
        ):
            name = hashlib.sha256(source.samples.name(index).encode(errors="surrogateescape")).digest()
            rest = hashlib.sha256(f"{label} ".encode() + found).digest()
            total.update(name + rest)
            parts += name[:4] + rest[:4]
        return cls(content, total.hexdigest(), np.frombuffer(bytes(parts), dtype="<u4").reshape(num, 2))

    def to_json(self) -> dict[str, Any]:
        digests = base64.b64encode(self.digests.astype("<u4").tobytes()).decode()
        return {"content": self.content, "sha256": self.sha256, "digests": digests}

    @classmethod
    def from_json(cls, data: Any) -> Identity:
        """The inverse of :meth:`to_json`.

        Raises:
            DataError: If it is damaged.
        """
        try:
            digests = base64.b64decode(data["digests"], validate=True)
            if data["content"] not in get_args(Content) or not isinstance(data["sha256"], str):
                raise ValueError("content or sha256")
            return cls(data["content"], data["sha256"], np.frombuffer(digests, dtype="<u4").reshape(-1, 2))
        except (binascii.Error, LookupError, TypeError, ValueError) as error:
            raise DataError(f"the stored identity of samples is damaged ({shown(error)}); start a new run") from None

    def check(self, source: Labelled, progress: Progress | None = None) -> None:
        """:class:`DataError`, which names the first difference, unless these are the samples."""
        found = Identity.of(source, self.content, progress)
        if found.sha256 != self.sha256:
            raise DataError(f"the data is not what the run was made with: {self._difference(found, source)}; {REMEDY}")

    def _difference(self, found: Identity, source: Labelled) -> str:
        (before, whole), (now, whole_now) = ((each.digests[:, 0], _joined(each.digests)) for each in (self, found))
        new, missing = ~np.isin(now, before), np.flatnonzero(~np.isin(before, now))
        changed = ~new & ~np.isin(whole_now, whole)
        said = []
        for which, what in ((new, "new"), (changed, "no longer what it was (its bytes or its label)")):
            if which.any():
                more = f" (and {which.sum() - 1} more)" if which.sum() > 1 else ""
                said.append(f"{source.samples.name(int(which.argmax()))} is {what}{more}")
        if len(missing) == len(before):
            said.append(f"none of the run's {len(before)} samples is there")
        elif len(missing):
            after = before[missing[0] :]
            follows = np.flatnonzero(np.isin(now, after[np.isin(after, now)][:1]))
            where = f"before {source.samples.name(int(follows[0]))}" if len(follows) else "at the end"
            verb = "is" if len(missing) == 1 else "are"
            said.append(f"{len(missing)} of the run's {len(before)} samples {verb} missing, the first {where}")
        return "; ".join(said) or f"its {len(now)} samples come in another order"


def _contents(source: Labelled, content: Content, progress: Progress | None) -> Iterator[bytes]:
    if content != "sha256":
        for index in range(len(source.labels)):
            yield str(source.samples.num_bytes(index)).encode() if content == "num_bytes" else b""
        return
    chunks = [range(start, min(start + CHUNK, len(source.labels))) for start in range(0, len(source.labels), CHUNK)]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # reading and hashing let go of the interpreter
        for chunk, digests in zip(
            chunks, pool.map(lambda chunk: [source.samples.digest(index) for index in chunk], chunks), strict=True
        ):
            yield from digests
            if progress is not None:
                progress(chunk.stop, len(source.labels), f"reading {source.what}")


def _joined(digests: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
    """Both halves of each row as one number, to be looked up."""
    return digests[:, 0].astype(np.uint64) << np.uint64(32) | digests[:, 1]
