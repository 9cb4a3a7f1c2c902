"""The texts of a run's splits as an exported network takes them.

Shapes: N texts of T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ofa.config import ConfigError
from ofa.data.text_data import TextData
from ofa.data.vocabulary import FILE
from ofa.inputs import tensors_in
from ofa.tasks.task import Samples

BATCH_SIZE = 256
MAX_TOKENS = 1 << 16

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class TextPreprocessing:
    """From a text to the network's input, followed by ``predict.py``.

    Args:
        tokenizer: File of the bundle, of the ``tokenizers`` library.
        pad_id: What fills the end of short texts.
        input_size: How many tokens the network takes.
        steps: The same in words.
    """

    tokenizer: Literal["tokenizer.json"]
    pad_id: int
    input_size: tuple[int, ...]
    dtype: Literal["int64"]
    steps: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.input_size) != 1 or not 1 <= self.input_size[0] <= MAX_TOKENS:
            raise ConfigError(f"input_size must be a number of tokens from 1 to {MAX_TOKENS}, not {self.input_size}")
        if self.pad_id < 0:
            raise ConfigError(f"pad_id must be 0 or more, not {self.pad_id}")


STEPS = (
    "encode the text with 'tokenizer', a file of the library tokenizers, with the marks that it adds",
    "keep the first tokens, as many as 'input_size' says",
    "fill the rest with 'pad_id', as 'dtype'; the network tells from it what is padding",
)


@dataclass(frozen=True)
class TextFeed:
    """At one number of tokens: ids ``(N, T)`` int64, from which the network tells itself what is padding."""

    data: TextData
    num_tokens: int
    input: ClassVar[str] = "input_ids"
    output: ClassVar[str] = "logits"
    dtype: ClassVar[torch.dtype] = torch.int64

    @property
    def preprocessing(self) -> TextPreprocessing:
        """What a bundle says of its input."""
        return TextPreprocessing(
            tokenizer=FILE,
            pad_id=self.data.vocabulary.pad_id,
            input_size=(self.num_tokens,),
            dtype="int64",
            steps=STEPS,
        )

    def wrap(self, network: nn.Module) -> nn.Module:
        """A network that takes ids alone, of one that takes ``attention_mask`` besides."""
        return FromIds(network, self.data.vocabulary.pad_id)

    def batches(self, split: str) -> Iterator[tuple[Ids, npt.NDArray[np.int64]]]:
        """Inputs and labels of a split."""
        for inputs, labels in self.data.batches(split, batch_size=BATCH_SIZE, num_tokens=self.num_tokens):
            yield inputs["input_ids"].numpy(), labels.numpy()

    def first(self, split: str, num: int) -> Ids:
        """The first inputs of a split, at most so many."""
        inputs, _ = next(self.data.batches(split, batch_size=num, num_tokens=self.num_tokens))
        return np.ascontiguousarray(inputs["input_ids"].numpy())

    def samples(self, num: int) -> Samples:
        """The first test texts as files, and their labels."""
        rows = [int(row) for row in self.data.splits.test[:num]]
        texts = [self.data.source.samples[row].encode() for row in rows]
        return Samples(texts, tuple(int(self.data.source.labels[row]) for row in rows))


class FromIds(nn.Module):
    """A classifier of texts that finds out itself what is padding.

    Shape:
        - ids: ``(N, T)`` int64
        - output: logits ``(N, num_classes)``, the first tensor of what the module gives

    Args:
        module: Takes ``input_ids`` and ``attention_mask``.
    """

    def __init__(self, module: nn.Module, pad_id: int) -> None:
        super().__init__()
        self.module, self.pad_id = module, pad_id
        self.eval()

    def forward(self, input_ids: Tensor) -> Tensor:
        mask = (input_ids != self.pad_id).to(torch.int64)
        given: Any = self.module(input_ids=input_ids, attention_mask=mask)
        return tensors_in(given)[0]
