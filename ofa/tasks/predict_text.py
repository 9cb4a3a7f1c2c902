"""Classify texts with the model beside this file: python predict.py "a text"|FILE.txt ... [--csv FILE]

A file holds one text. Needs the model's runtime (`runtime` in bundle.json), numpy and tokenizers.
"""

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ofa.tasks.predict_loaders import LOADERS, NUM_TOGETHER, Model

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


def probabilities(info: Mapping[str, Any], run: Model, texts: Sequence[str], encode: Encode) -> Iterator[np.ndarray]:
    """Of the classes, for each text; the model gets as many at a time as it takes."""
    model = info["model"]
    num = model["batch"] or NUM_TOGETHER
    for start in range(0, len(texts), num):
        inputs = np.stack([input_of(text, info["preprocessing"], encode) for text in texts[start : start + num]])
        # A last batch that is short is filled up where the model takes full ones only.
        filled = np.resize(inputs, (num, *inputs.shape[1:])) if model["batch"] else inputs
        logits = np.asarray(run(filled)[: len(inputs)], dtype=np.float64)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        yield from shares / shares.sum(axis=1, keepdims=True)


def main() -> None:
    import tokenizers

    parser = argparse.ArgumentParser(description="Classify texts with the model beside this file.")
    parser.add_argument("texts", nargs="+", metavar="TEXT|FILE.txt", help="a text, or a file that holds one")
    parser.add_argument("--csv", metavar="FILE", help="write text, class and the probability of every class instead")
    given = parser.parse_args()
    folder = Path(__file__).parent
    info = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    model, classes = info["model"], info["classes"]
    if model["runtime"] not in LOADERS:
        sys.exit(
            f"{model['files'][0]} is run by {model['runtime']} itself; `preprocessing` in bundle.json says with what"
        )
    texts = [text_of(each) for each in given.texts]
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / info["preprocessing"]["tokenizer"]))
    run = LOADERS[model["runtime"]](folder / model["files"][0], model["input"])
    found = zip(given.texts, probabilities(info, run, texts, lambda text: tokenizer.encode(text).ids), strict=True)
    if given.csv is None:
        for text, row in found:
            print(f"{text}\t{classes[row.argmax()]}\t{row.max():.4f}")
        return
    with open(given.csv, "w", newline="", encoding="utf-8") as out:
        table = csv.writer(out)
        table.writerow(["text", "class", *(f"probability of {name}" for name in classes)])
        table.writerows([text, classes[row.argmax()], *(f"{each:.6f}" for each in row)] for text, row in found)


if __name__ == "__main__":
    main()
