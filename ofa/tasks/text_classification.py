"""Classification of texts: one of several classes for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ofa.config import ConfigError, Record, check_record
from ofa.data import DataConfig, DataError
from ofa.data.readers.table import csv_lines
from ofa.data.text_data import TextData, check_text_config, load_texts
from ofa.data.vocabulary import FILE, Vocabulary
from ofa.errors import UsageError, unknown_name_message
from ofa.inputs import InputSpec, tensors_in
from ofa.progress import Progress
from ofa.tasks import predict_text
from ofa.tasks.class_task import ClassTask
from ofa.tasks.task import Array, Batches, Card, Exhibit, Section, Sizes
from ofa.tasks.text_feed import TextFeed, TextPreprocessing
from ofa.tasks.text_section import section_of_texts

OWN = "a .tsv or .csv file of texts and their classes: columns 'text' and 'label', or two columns without a first line"
MAX_TEXT_BYTES = 1 << 24


@dataclass(frozen=True, kw_only=True)
class TextClassification(ClassTask):
    """Texts in, as ids of tokens ``(N, tokens)`` with a mask, logits ``(N, num_classes)`` out.

    Targets are class indices ``(N,)``. Of what a model gives the first tensor counts.

    Args:
        tokenizer: A ``tokenizer.json``, a folder that has one, or an earlier run. ``None``: one is made of the training
            texts, which is the same for the same texts.
        vocab_size: Its tokens, at most.
        max_tokens: The most that models are given of a text; ``model.tokens`` says what else.
        word_dropout: Share of the tokens of training texts that are hidden behind the mask.
        trim_padding: Batches are of texts that are about as long, and no longer than these, which saves more than half
            of the time. For models whose answer does not depend on padding, which is checked.
    """

    tokenizer: str | None = None
    vocab_size: int = 8000
    max_tokens: int = 64
    word_dropout: float = 0.0
    trim_padding: bool = True

    preprocessing = TextPreprocessing
    sample_suffix = ".txt"
    sample = counted = "text"
    bundle_files = (FILE,)

    def __post_init__(self) -> None:
        for name in ("vocab_size", "max_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"task.{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.word_dropout < 1:
            raise ConfigError(f"task.word_dropout must be a share from 0 to below 1, not {self.word_dropout}")

    def check_settings(self, data: DataConfig, *, pretrained: bool) -> None:
        check_text_config(data)
        if pretrained and self.tokenizer is None:
            raise ConfigError(
                "pretrained weights know the words of their own tokenizer only; name it, task.tokenizer=FOLDER"
            )

    def shipped(self) -> TextClassification:
        return dataclasses.replace(self, tokenizer=FILE)

    # -- models ------------------------------------------------------------------------------------------------------

    def inputs(self) -> InputSpec:
        return InputSpec.texts(self.max_tokens)

    def check_outputs(self, output_type: str, shapes: Sequence[Sequence[int]], num_classes: int) -> None:
        if not shapes or tuple(shapes[0][1:]) != (num_classes,):
            raise ConfigError(
                f"it gives a {output_type} whose first tensor has shape {tuple(shapes[0][1:]) if shapes else ()}, but "
                f"task {self.name!r} takes ({num_classes},) for one text; let its function take num_classes"
            )

    def check_model(self, model: nn.Module, data: TextData) -> None:
        num, needed = _num_known(model), data.vocabulary.size
        if num is not None and num < needed:
            raise ConfigError(
                f"it knows {num} tokens, but the tokenizer has {needed}; lower task.vocab_size, or name its own "
                "tokenizer as task.tokenizer"
            )
        if self.trim_padding and not self._ignores_padding(model, data):
            raise ConfigError("its answer depends on how much padding follows a text; use task.trim_padding=false")

    @torch.no_grad()
    def _ignores_padding(self, model: nn.Module, data: TextData) -> bool:
        """Of the shortest text; with weights as they are."""
        row = data.splits.train[data.lengths[data.splits.train].argmin()]
        ids = torch.from_numpy(data.ids[row : row + 1])
        mask, shown = (ids != data.vocabulary.pad_id).to(torch.int64), max(int(data.lengths[row]), 1)
        was_training = model.training
        model.eval()
        try:
            short, whole = (
                tensors_in(model(input_ids=ids[:, :num], attention_mask=mask[:, :num]))[0]
                for num in (shown, ids.shape[1])
            )
        except Exception:  # whatever a model raises that takes one length only
            return False
        finally:
            model.train(was_training)
        return torch.allclose(short, whole, atol=1e-3, rtol=1e-3)

    def outputs(self, given: Any, targets: Any) -> Tensor:
        return tensors_in(given)[0]

    # -- data --------------------------------------------------------------------------------------------------------

    def load(
        self,
        config: DataConfig,
        *,
        inputs: InputSpec,
        sizes: Sizes,
        progress: Progress | None = None,
    ) -> TextData:
        vocabulary = None if self.tokenizer is None else Vocabulary.of_file(self.tokenizer)
        return self._load(config, sizes, vocabulary=vocabulary, progress=progress)

    def reload(
        self, config: DataConfig, stored: Mapping[str, Any], *, sizes: Sizes, progress: Progress | None = None
    ) -> TextData:
        facts = check_record(_Facts, stored, where="data of the run", remedy="train it again")
        vocabulary = Vocabulary(facts.tokenizer, where="the tokenizer of the run")
        return self._load(config, sizes, vocabulary=vocabulary, splits=facts.splits, progress=progress)

    def _load(self, config: DataConfig, sizes: Sizes, **settings: Any) -> TextData:
        return load_texts(config, num_tokens=int(sizes["tokens"]), vocab_size=self.vocab_size, **settings)

    def facts(self, data: TextData) -> dict[str, Any]:
        return {
            "classes": list(data.classes),
            "num_train": len(data.splits.train),
            "tokenizer": data.vocabulary.to_text(),
            "splits": data.splits.to_json(),
        }

    def batches(
        self, data: TextData, split: str, *, batch_size: int, sizes: Sizes, device: torch.device | str | None = None
    ) -> Batches:
        settings: dict[str, Any] = {"num_tokens": int(sizes["tokens"]), "is_trimmed": self.trim_padding}
        return data.batches(split, batch_size=batch_size, device=device, **settings)

    def train_batches(self, data: TextData, **settings: Any) -> Batches:
        return data.train_batches(word_dropout=self.word_dropout, is_trimmed=self.trim_padding, **settings)

    # -- what is shipped ---------------------------------------------------------------------------------------------

    def feed(self, data: TextData, sizes: Sizes, *, from_pixels: bool = False) -> TextFeed:
        if from_pixels:
            raise UsageError(f"{self.name} takes texts, which have no pixels; leave --from-pixels out")
        return TextFeed(data, int(sizes["tokens"]))

    def files(self, data: TextData) -> dict[str, bytes]:
        return {FILE: data.vocabulary.to_text().encode()}

    def reader(self, bundle: Path, spec: TextPreprocessing) -> Callable[..., Array]:
        """Also of texts themselves, as :meth:`labelled` gives them."""
        vocabulary = Vocabulary.of_file(bundle / spec.tokenizer)

        def read(sample: Path | str, *, stored: bool = False) -> Array:
            text = sample if isinstance(sample, str) else _read(sample, "export it again" if stored else "take it out")
            return vocabulary.encode([text], spec.input_size[0])[0][0]

        return read

    def read_input(self, file: Path, spec: TextPreprocessing, *, stored: bool = False) -> Array:
        """Of a bundle's sample, above whose folder the tokenizer lies."""
        return self.reader(file.parents[1], spec)(file, stored=stored)

    def labelled(self, folder: Path, classes: Sequence[str]) -> list[tuple[str, int]]:
        """Texts of a table."""
        if not folder.is_file() or folder.suffix.lower() not in (".tsv", ".csv"):
            raise DataError(f"{folder} is no such file; give {OWN}")
        lines = csv_lines(folder, holds=OWN, is_plain=folder.suffix.lower() == ".tsv")
        header = [name.strip() for name in lines[0][1]] if lines else []
        text_at, label_at = 0, 1
        if {"text", "label"} <= set(header):
            text_at, label_at, lines = header.index("text"), header.index("label"), lines[1:]
        found = []
        for number, row in lines:
            if len(row) != len(header) or len(row) < 2:
                raise DataError(f"line {number} of {folder} has {len(row)} fields; give {OWN}")
            if row[label_at] not in classes:
                known = unknown_name_message("class", row[label_at], classes)
                raise DataError(f"line {number} of {folder}: {known}")
            found.append((row[text_at], classes.index(row[label_at])))
        if not found:
            raise DataError(f"{folder} holds no texts; give {OWN}")
        return found

    @property
    def predict_script(self) -> Path:
        return Path(predict_text.__file__)

    def card(self, info: Mapping[str, Any]) -> Card:
        (num,) = info["preprocessing"]["input_size"]
        what, made_of = "A classifier of texts", f"a text, its first {num} tokens"
        card = self.card_of(info, what=what, input=made_of, pipeline_tag="text-classification")
        return dataclasses.replace(card, library="tokenizers")

    def report_section(self, bundles: Sequence[Exhibit]) -> Section | None:
        return section_of_texts(bundles)


@dataclass(frozen=True, kw_only=True)
class _Facts(Record):
    """What a run keeps of its texts."""

    tokenizer: str
    splits: dict[str, Any]


def _num_known(model: Any) -> int | None:
    """Tokens that a model has embeddings for; ``None`` where that does not show."""
    try:
        own = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        own = None
    tables = [own] if isinstance(own, nn.Embedding) else [m for m in model.modules() if isinstance(m, nn.Embedding)]
    return max((table.num_embeddings for table in tables), default=None)


def _read(file: Path, remedy: str) -> str:
    try:
        if not file.is_file():  # a pipe, say, which would be waited for
            raise ValueError("it is no regular file")
        if file.stat().st_size > MAX_TEXT_BYTES:
            raise ValueError(f"it is larger than {MAX_TEXT_BYTES} bytes")
        return file.read_bytes().decode()
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is no text that can be read ({error}); {remedy}") from None
