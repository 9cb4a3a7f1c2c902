"""Texts as ids of tokens in memory, and the batches made of them.

Shapes: ``n`` texts of ``T`` tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ofa.data.config import DataConfig, DataError
from ofa.data.draws import Draws
from ofa.data.order import at_least_one, train_order
from ofa.data.readers import TEXT_READERS, read_text_source
from ofa.data.readers.texts import TextSource
from ofa.data.settle import settle
from ofa.data.splits import Splits
from ofa.data.vocabulary import Vocabulary
from ofa.progress import Progress, notice

KEYS = (
    *("name", "root", "calibration_share", "search_share", "test_share", "seed", "balance", "limit"),
    *("text_column", "label_column", "split_column", "group_column"),
)
"""Of :class:`~ofa.data.DataConfig`: those that say something of texts."""

MULTIPLE = 8
"""Of which the lengths of batches are, so that there are few."""

TextBatch = tuple[dict[str, Tensor], Tensor]


def check_text_config(config: DataConfig) -> None:
    """:class:`DataError` if the data is no texts, or if something is asked of pictures."""
    config.check_kind("texts", TEXT_READERS, KEYS)


@dataclass(frozen=True, eq=False, kw_only=True)
class TextData:
    """A data set of texts, split and ready to give batches; made by :func:`load_texts`.

    Args:
        ids: Of the tokens of every text of the source, int64 ``(N, num_tokens)``, padded at the end.
        num_cut: Texts that had more tokens.
    """

    config: DataConfig
    source: TextSource
    splits: Splits
    vocabulary: Vocabulary
    ids: npt.NDArray[np.int64]
    num_cut: int = 0

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is an index into them."""
        return self.source.classes

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of every text without the padding."""
        return np.asarray((self.ids != self.vocabulary.pad_id).sum(axis=1), np.int64)

    @property
    def num_tokens(self) -> int:
        """The most tokens that can be asked for."""
        return int(self.ids.shape[1])

    def batches(
        self,
        split: str,
        *,
        batch_size: int,
        num_tokens: int | None = None,
        device: torch.device | str | None = None,
        is_trimmed: bool = False,
    ) -> Iterator[TextBatch]:
        """Give every text of a split once, always in the same order.

        Args:
            num_tokens: The first so many of each text; all by default.
            is_trimmed: Leave out what is padding in all texts of a batch.

        Yields:
            ``input_ids`` and ``attention_mask``, int64 ``(n, num_tokens)``, 0 in the latter for padding; and labels,
            int64 ``(n,)``. The last batch may be smaller.
        """
        order = torch.arange(len(self.splits[split])).split(at_least_one(batch_size))
        return self._finished(split, order, self._checked(num_tokens), device, is_trimmed)

    def train_batches(
        self,
        *,
        epoch: int,
        batch_size: int,
        seed: int,
        word_dropout: float = 0.0,
        is_trimmed: bool = False,
        device: torch.device | str | None = None,
        start: int = 0,
        shard: tuple[int, int] = (0, 1),
    ) -> Iterator[TextBatch]:
        """Give full batches of the training texts in an order that ``(seed, epoch)`` decide; see :func:`train_order`.

        Args:
            word_dropout: Share of the tokens that are hidden.
            is_trimmed: Texts of a batch are about as long, and what is padding in all of them is left out.

        Raises:
            DataError: If there are too few texts, or no token to hide others behind.
        """
        order, draws = train_order(
            self.source.labels[self.splits.train],
            balance=self.config.balance,
            epoch=epoch,
            batch_size=batch_size,
            seed=seed,
            start=start,
            shard=shard,
            lengths=self.lengths[self.splits.train] if is_trimmed else None,
            what=self.source.what,
        )
        if word_dropout and self.vocabulary.blank_id is None:
            raise DataError("the tokenizer has no mask and no unknown token to hide words behind; set word_dropout 0")

        def vary(ids: npt.NDArray[np.int64], index: int) -> npt.NDArray[np.int64]:
            return self._hidden(ids, word_dropout, draws(index)) if word_dropout else ids

        return self._finished("train", order, self.num_tokens, device, is_trimmed, vary)

    def _hidden(self, ids: npt.NDArray[np.int64], share: float, draws: Draws) -> npt.NDArray[np.int64]:
        """Some tokens replaced; none of those that mark a place, and no padding."""
        hides = (draws.uniform(ids.shape[1]) < share) & ~np.isin(ids, self.vocabulary.special_ids)
        return np.where(hides, np.int64(self.vocabulary.blank_id or 0), ids)

    def _finished(
        self,
        split: str,
        order: Sequence[Tensor],
        num_tokens: int,
        device: torch.device | str | None,
        is_trimmed: bool,
        vary: Callable[[npt.NDArray[np.int64], int], npt.NDArray[np.int64]] | None = None,
    ) -> Iterator[TextBatch]:
        rows, labels = self.splits[split], torch.from_numpy(self.source.labels)
        for index, positions in enumerate(order):
            chosen = rows[positions.numpy()]
            found = self.ids[chosen, :num_tokens]
            found = found if vary is None else vary(found, index)
            if is_trimmed:
                found = found[:, : -(-max(int(self.lengths[chosen].max()), 1) // MULTIPLE) * MULTIPLE]
            ids = torch.from_numpy(found).to(device)
            inputs = {"input_ids": ids, "attention_mask": (ids != self.vocabulary.pad_id).to(torch.int64)}
            yield inputs, labels[torch.from_numpy(chosen)].to(device)

    def _checked(self, num_tokens: int | None) -> int:
        if num_tokens is None:
            return self.num_tokens
        if not 1 <= num_tokens <= self.num_tokens:
            raise DataError(
                f"num_tokens is {num_tokens}, but texts are kept with {self.num_tokens} tokens; load them with as many"
            )
        return num_tokens


def load_texts(
    config: DataConfig,
    *,
    num_tokens: int,
    vocabulary: Vocabulary | None = None,
    vocab_size: int = 8000,
    splits: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> TextData:
    """Read and split a data set of texts.

    Args:
        num_tokens: The most that will be asked for of a text.
        vocabulary: If ``None``, one of ``vocab_size`` tokens is made of the training texts.
        splits: What :meth:`Splits.to_json` gave, to use the splits of an earlier run.
        progress: Called with (done, total, what).

    Raises:
        DataError: If data is missing or broken, or is not the data that ``splits`` were made for.
    """
    check_text_config(config)
    at_least_one(num_tokens, "num_tokens")
    source = read_text_source(config)
    parts = settle(source, config, splits, progress)
    if vocabulary is None:
        vocabulary = Vocabulary.trained([source.samples[int(row)] for row in parts.train], vocab_size)
    ids, num_cut = vocabulary.encode([text for text, _ in source.samples.named], num_tokens)
    if splits is None:
        share = 100 * num_cut / len(ids)
        notice(progress, f"{vocabulary.size:,} tokens are known; {share:.2g} % of the texts are cut to {num_tokens}")
    return TextData(config=config, source=source, splits=parts, vocabulary=vocabulary, ids=ids, num_cut=num_cut)
