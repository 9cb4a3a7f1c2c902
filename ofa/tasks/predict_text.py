"""Classify texts with the model beside this file: python predict.py "a text"|FILE.txt ... [--csv FILE]

A file holds one text. Needs the model's runtime (`runtime` in bundle.json), numpy and tokenizers.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ofa.tasks.predict_loaders import in_batches, opened, probabilities_of, tell

Encode = Callable[[str], Sequence[int]]


def text_of(given: str) -> str:
    """What a file holds, where a file is named."""
    if not given.endswith(".txt"):
        return given
    try:
        return Path(given).read_bytes().decode()
    except (OSError, ValueError) as error:
        sys.exit(f"{given} is no text that can be read ({error}); check the path, or give the text itself")


def input_of(text: str, spec: Mapping[str, Any], encode: Encode) -> np.ndarray:
    """Ids of the first tokens, filled up."""
    (num,) = spec["input_size"]
    ids = np.full(num, spec["pad_id"], dtype=spec["dtype"])
    found = encode(text)[:num]
    ids[: len(found)] = found
    return ids


def main() -> None:
    import tokenizers

    parser = argparse.ArgumentParser(description="Classify texts with the model beside this file.")
    parser.add_argument("texts", nargs="+", metavar="TEXT|FILE.txt", help="a text, or a file that holds one")
    parser.add_argument("--csv", metavar="FILE", help="write text, class and the probability of every class instead")
    given = parser.parse_args()
    folder = Path(__file__).parent
    info, run = opened(folder)
    spec = info["preprocessing"]
    texts = [text_of(each) for each in given.texts]
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / spec["tokenizer"]))
    logits = in_batches(info, run, texts, lambda text: input_of(text, spec, lambda text: tokenizer.encode(text).ids))
    found = zip(given.texts, (probabilities_of(info, each) for each in logits), strict=True)
    tell("text", found, info["classes"], given.csv)


if __name__ == "__main__":
    main()
