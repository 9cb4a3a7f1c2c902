"""From texts to ids of tokens, by a tokenizer of the ``tokenizers`` library.

Shapes: N texts of T tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ofa.data.config import DataError
from ofa.errors import shown
from ofa.files import read_json
from ofa.optional import extra, require

Ids = npt.NDArray[np.int64]

FILE: Final = "tokenizer.json"
RUN_FILE = "supernet.json"
PADDING = ("[PAD]", "<pad>", "<PAD>")
BLANKS = ("[MASK]", "<mask>", "[UNK]", "<unk>")
"""What may stand in place of a token: the mask, or else what stands for the unknown."""
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""Of a vocabulary of our own, in the order of their ids."""
MAX_CHARACTERS = 1000


class Vocabulary:
    """A tokenizer whose words and rules are all in one text.

    Args:
        text: What ``tokenizer.json`` holds. Whether and where it cuts and pads is left out: that is for
            :meth:`encode`.
        where: What the text is from, for messages.

    Raises:
        DataError: If it is no tokenizer, or has no token for padding.
    """

    def __init__(self, text: str, *, where: str = FILE) -> None:
        tokenizers = _tokenizers()
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises no class of its own
            raise DataError(f"{where} is no tokenizer that `tokenizers` reads ({shown(error)}); get it again") from None
        known = (self._tokenizer.padding or {}).get("pad_token")
        token = next((each for each in (known, *PADDING) if each and self._id(each) is not None), None)
        if token is None:
            raise DataError(f"{where} has no token for padding ({', '.join(PADDING)}); add one")
        self.pad_id = int(self._tokenizer.token_to_id(token))
        self._tokenizer.no_truncation()
        self._tokenizer.enable_padding(pad_id=self.pad_id, pad_token=token)  # what the text tells of padding
        added = self._tokenizer.get_added_tokens_decoder()
        self.special_ids = tuple(sorted({self.pad_id, *(number for number, each in added.items() if each.special)}))

    @classmethod
    def of_file(cls, path: Path | str) -> Vocabulary:
        """That of a ``tokenizer.json``, or of a folder that has one; of a run folder the run's."""
        path = Path(path).expanduser()
        if (path / RUN_FILE).is_file():
            stored = read_json(path / RUN_FILE, kind="run folder", remedy=f"name another {FILE}").get("data", {})
            if not isinstance(stored, dict) or not isinstance(text := stored.get("tokenizer"), str):
                raise DataError(f"run {path} has no tokenizer; name a run of texts, or a {FILE}")
            return cls(text, where=f"the tokenizer of run {path}")
        file = path / FILE if path.is_dir() else path
        if not file.is_file():
            raise DataError(f"there is no {file}; give a {FILE} or a folder that has one, or none to make one")
        try:
            return cls(file.read_text(encoding="utf-8"), where=str(file))
        except UnicodeDecodeError as error:
            raise DataError(f"{file} is no text ({error}); get it again") from None

    @classmethod
    def trained(cls, texts: Sequence[str], size: int) -> Vocabulary:
        """Parts of words in small letters, most of which occur in some texts; the same texts give the same.

        Args:
            size: How many tokens there are at most.

        Raises:
            DataError: If that does not suffice for single letters.

        References:
            Schuster and Nakajima, Japanese and Korean voice search, 2012; here by merging the most frequent pairs.
        """
        tokenizers = _tokenizers()
        whole = _word_pieces(tokenizers, {})
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(whole.normalizer.normalize_str(text))
        usual = sorted((character for character in counts if not character.isspace()), key=lambda c: (-counts[c], c))
        letters = sorted(usual[:MAX_CHARACTERS])
        inner = [f"##{letter}" for letter in letters]
        least = len(SPECIAL) + len(letters) + len(inner)
        if size < least:
            raise DataError(
                f"a vocabulary of {size} tokens cannot hold the {len(letters)} letters that occur, each at the "
                f"beginning of a word and within; set task.vocab_size to {least} at least"
            )
        # The trainer numbers what begins with ## as it comes across it, in the order of a hash: here that is settled.
        trainer = tokenizers.trainers.WordPieceTrainer(
            vocab_size=size,
            special_tokens=[*SPECIAL, *inner],
            initial_alphabet=letters,
            limit_alphabet=len(letters),
            show_progress=False,
        )
        whole.train_from_iterator(texts, trainer)
        return cls(_word_pieces(tokenizers, whole.get_vocab()).to_str())

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def blank_id(self) -> int | None:
        """What stands in place of a token that is hidden, if there is such a token."""
        return next((number for each in BLANKS if (number := self._id(each)) is not None), None)

    def encode(self, texts: Sequence[str], num_tokens: int) -> tuple[Ids, int]:
        """Ids ``(N, num_tokens)`` int64, the first so many of each text, padded at the end; and how many texts are cut.

        What marks the beginning and the end counts as tokens; of a text that is cut the end is not marked.
        """
        ids = np.full((len(texts), num_tokens), self.pad_id, dtype=np.int64)
        num_cut = 0
        for row, text in enumerate(texts):
            found = self._tokenizer.encode(text).ids
            num_cut += len(found) > num_tokens
            ids[row, : len(found)] = found[:num_tokens]
        return ids, num_cut

    def to_text(self) -> str:
        """What :class:`Vocabulary` takes."""
        text: str = self._tokenizer.to_str()
        return text

    def _id(self, token: str) -> int | None:
        found: int | None = self._tokenizer.token_to_id(token)
        return found


def _tokenizers() -> ModuleType:
    return require("tokenizers", extra("text"))


def _word_pieces(tokenizers: ModuleType, words: dict[str, int]) -> Any:
    """BERT's tokenizer with some vocabulary."""
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocab=words, unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.decoder = tokenizers.decoders.WordPiece()
    if words:
        made.add_special_tokens(list(SPECIAL))
        made.post_processor = tokenizers.processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[(token, words[token]) for token in ("[CLS]", "[SEP]")]
        )
    return made
