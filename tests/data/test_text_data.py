"""Texts: tables of them, vocabularies, batches."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from ofa.data import DataConfig, DataError
from ofa.data.readers import read_source, read_text_source
from ofa.data.summary import describe
from ofa.data.text_data import TextData, load_texts
from ofa.data.vocabulary import Vocabulary

tokenizers = pytest.importorskip("tokenizers")

GOOD, BAD = ("a fine film", "warm and funny", "what a joy", "moving"), ("a dull film", "cold", "what a bore", "so long")


def lines(num: int = 40) -> list[tuple[str, str]]:
    """Sentences that differ, and what is thought of them."""
    return [(f'{(GOOD, BAD)[row % 2][row // 2 % 4]}, said "{row}"', ("good", "bad")[row % 2]) for row in range(num)]


def write(path: Path, rows: list[tuple[str, str]], *, header: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows, columns=["text", "label"])
    if path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".csv":
        table.to_csv(path, index=False, header=header)
    else:
        head = ["text\tlabel"] if header else []
        path.write_text("\n".join([*head, *("\t".join(row) for row in rows)]) + "\n", encoding="utf-8")
    return path


def config(root: Path, **settings: Any) -> DataConfig:
    return DataConfig(name="texts", root=str(root), **settings)


def load(root: Path, *, num_tokens: int = 8, **settings: Any) -> TextData:
    return load_texts(config(root, **settings), num_tokens=num_tokens, vocab_size=120)


# -- tables ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".parquet"])
def test_a_file_of_any_kind(tmp_path: Path, suffix: str) -> None:
    source = read_text_source(config(write(tmp_path / f"all{suffix}", lines())))
    assert [source.samples[row] for row in range(len(source.samples))] == [text for text, _ in lines()]
    assert [source.classes[label] for label in source.labels] == [label for _, label in lines()]
    assert source.samples.name(3) == f"row 3 of all{suffix}" and source.num_test == 0


@pytest.mark.parametrize("suffix", [".tsv", ".csv"])
def test_columns_by_number(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"all{suffix}", lines(6), header=False)
    source = read_text_source(config(path, text_column=0, label_column=1))
    assert [source.samples[row] for row in range(6)] == [text for text, _ in lines(6)]
    with pytest.raises(DataError, match=r"unknown column '2'.*set data.label_column"):
        read_text_source(config(path, text_column=0, label_column=2))


@pytest.mark.parametrize("suffix", [".tsv", ".parquet"])
def test_files_called_after_splits(tmp_path: Path, suffix: str) -> None:
    """With a test set of its own, what is called dev joins the rest."""
    for name, rows in (("train", lines(20)), ("dev-0", lines(26)[20:]), ("test", lines(36)[26:])):
        write(tmp_path / f"{name}{suffix}", rows)
    source = read_text_source(config(tmp_path))
    assert len(source.labels) == 36 and source.num_test == 10
    assert source.samples[20] == lines(26)[20][0] and source.samples.name(26) == f"row 0 of test{suffix}"


def test_a_column_of_splits_and_one_of_groups(tmp_path: Path) -> None:
    table = pd.DataFrame(lines(8), columns=["sentence", "label"])
    table["split"], table["author"] = ["train"] * 5 + ["test"] * 3, [f"author{row // 2}" for row in range(8)]
    table.to_csv(tmp_path / "all.csv", index=False)
    source = read_text_source(config(tmp_path / "all.csv", text_column="sentence", group_column="author"))
    assert source.num_test == 3 and source.groups is not None and source.groups[2] == "author1"


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("text\tlabel\na\tb\tc\n", {}, r"line 2 of .* has 3 fields, the first line names 2; leave tabs out of texts"),
        ("a\tb\nc\n", {"text_column": 0, "label_column": 1}, "line 2 of .* has 1 fields, the first line has 2"),
        ("text\tlabel\n\tb\n", {}, "line 2 of .* has no 'text'"),
        ("words\tlabel\na\tb\n", {}, "unknown column 'text'.*set data.text_column"),
        ("text\tlabel\n", {}, "has no rows"),
        ("text\tlabel\na\tb\nc\tb\n", {}, "a single class, b"),
    ],
)
def test_tables_that_are_broken(tmp_path: Path, text: str, settings: dict[str, Any], message: str) -> None:
    (tmp_path / "all.tsv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_text_source(config(tmp_path / "all.tsv", **settings))


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no files of texts"):
        read_text_source(config(tmp_path))
    write(tmp_path / "train.tsv", lines())
    write(tmp_path / "test.csv", lines())
    with pytest.raises(DataError, match=r"files of several kinds, .tsv and .csv"):
        read_text_source(config(tmp_path))
    (tmp_path / "notes.txt").write_text("no")
    with pytest.raises(DataError, match="of no known kind"):
        read_text_source(config(tmp_path / "notes.txt"))


def test_texts_are_no_images_and_images_no_texts(tmp_path: Path) -> None:
    path = write(tmp_path / "all.tsv", lines())
    with pytest.raises(DataError, match="data set 'texts' holds texts, not images"):
        read_source(config(path))
    with pytest.raises(DataError, match=r"unknown data set of texts 'folder'.*set data.name=texts"):
        load_texts(DataConfig(name="folder", root=str(tmp_path)), num_tokens=8)
    for setting in ({"mixup": 0.2}, {"auto_augment": "rand_augment"}, {"skip_broken": True}, {"mean": (0.5,)}):
        (name,) = setting
        with pytest.raises(DataError, match=f"data.{name} is for pictures"):
            load_texts(config(path, **setting), num_tokens=8)


# -- vocabularies ------------------------------------------------------------------------------------------------------


def test_a_vocabulary_is_the_same_in_every_process() -> None:
    """Hashes are seeded anew in each."""
    script = (
        "from ofa.data.vocabulary import Vocabulary; import hashlib; "
        f"print(hashlib.sha256(Vocabulary.trained({[text for text, _ in lines(200)]!r}, 150).to_text().encode())"
        ".hexdigest())"
    )
    found = {
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(found) == 1


def test_a_vocabulary_of_texts() -> None:
    vocabulary = Vocabulary.trained([text for text, _ in lines(200)], 150)
    assert vocabulary.size <= 150 and vocabulary.pad_id == 0 and vocabulary.special_ids == (0, 1, 2, 3, 4)
    ids, num_cut = vocabulary.encode(["A fine film", "a fine, fine, fine film"], 6)
    assert num_cut == 1 and ids[0, 0] == ids[1, 0] == 2 and ids[0, -1] == 0 and 3 in ids[0] and 3 not in ids[1]
    decoded = tokenizers.Tokenizer.from_str(vocabulary.to_text()).decode(ids[0].tolist())
    assert decoded == "a fine film"
    assert vocabulary.encode(["☃"], 3)[0].tolist() == [[2, 1, 3]]


def test_a_vocabulary_must_hold_all_letters() -> None:
    with pytest.raises(DataError, match=r"20 tokens cannot hold the 8 letters that occur, .* task.vocab_size to 21"):
        Vocabulary.trained(["abcd efgh"], 20)


def test_what_a_file_says_of_cutting_and_padding_is_left_out(tmp_path: Path) -> None:
    made = tokenizers.Tokenizer.from_str(Vocabulary.trained([text for text, _ in lines(50)], 120).to_text())
    made.enable_padding(length=32, pad_id=0, pad_token="[PAD]")
    made.enable_truncation(4)
    made.save(str(tmp_path / "tokenizer.json"))
    for place in (tmp_path, tmp_path / "tokenizer.json"):
        vocabulary = Vocabulary.of_file(place)
        assert np.count_nonzero(vocabulary.encode(["a fine film and more of it"], 12)[0]) > 6
        again = Vocabulary(vocabulary.to_text())
        assert again.to_text() == vocabulary.to_text() and again.pad_id == 0


def test_tokenizers_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no .*tokenizer.json; give a tokenizer.json or a folder"):
        Vocabulary.of_file(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="is no tokenizer that `tokenizers` reads"):
        Vocabulary.of_file(tmp_path)
    bare = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    (tmp_path / "tokenizer.json").write_text(bare.to_str())
    with pytest.raises(DataError, match="has no token for padding"):
        Vocabulary.of_file(tmp_path)


# -- batches -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> TextData:
    return load(write(tmp_path / "all.tsv", lines(60)), search_share=10, test_share=10)


def test_batches_of_any_length_begin_alike(data: TextData) -> None:
    (whole, labels), (few, same) = (next(data.batches("test", batch_size=10, num_tokens=n)) for n in (None, 5))
    assert whole["input_ids"].shape == whole["attention_mask"].shape == (10, 8)
    assert torch.equal(whole["input_ids"][:, :5], few["input_ids"]) and torch.equal(labels, same)
    assert torch.equal(whole["attention_mask"], (whole["input_ids"] != data.vocabulary.pad_id).long())
    assert whole["input_ids"].dtype == labels.dtype == torch.int64
    texts = [data.source.samples[int(row)] for row in data.splits.test]
    assert np.array_equal(data.vocabulary.encode(texts, 8)[0], whole["input_ids"].numpy())
    with pytest.raises(DataError, match="num_tokens is 9, but texts are kept with 8"):
        next(data.batches("test", batch_size=10, num_tokens=9))


def ids_of(batches: Any) -> list[np.ndarray]:
    return [inputs["input_ids"].numpy() for inputs, _ in batches]


def test_an_epoch_goes_on_where_it_stopped_and_is_shared(data: TextData) -> None:
    settings = {"epoch": 1, "batch_size": 8, "seed": 3, "word_dropout": 0.3}
    whole = ids_of(data.train_batches(**settings))
    assert len(whole) == 5
    for before, after in zip(whole[2:], ids_of(data.train_batches(**settings, start=2)), strict=True):
        assert np.array_equal(before, after)
    shards = [ids_of(data.train_batches(**settings, shard=(rank, 2))) for rank in (0, 1)]
    for together, even, odd in zip(whole, *shards, strict=True):
        assert np.array_equal(together[0::2], even) and np.array_equal(together[1::2], odd)
    assert not np.array_equal(whole[0], ids_of(data.train_batches(**{**settings, "epoch": 2}))[0])


def test_texts_of_a_batch_are_about_as_long(tmp_path: Path) -> None:
    """Then little of it is padding, which is left out; the texts of an epoch are the same."""
    rows = [(" ".join(["fine"] * (1 + row * 7 % 40)), ("good", "bad")[row % 2]) for row in range(400)]
    data = load(write(tmp_path / "all.tsv", rows), num_tokens=48)
    settings = {"epoch": 1, "batch_size": 8, "seed": 3}
    plain, trimmed = (list(data.train_batches(**settings, is_trimmed=each)) for each in (False, True))
    longest = [int(inputs["attention_mask"].sum(1).max()) for inputs, _ in trimmed]
    assert [inputs["input_ids"].shape[1] for inputs, _ in trimmed] == [-(-each // 8) * 8 for each in longest]
    shares = [
        np.mean([float(inputs["attention_mask"].float().mean()) for inputs, _ in each]) for each in (plain, trimmed)
    ]
    assert shares[0] < 0.5 and shares[1] > 0.75 and longest != sorted(longest)
    lengths = [
        sorted(torch.cat([inputs["attention_mask"].sum(1) for inputs, _ in each]).tolist()) for each in (plain, trimmed)
    ]
    assert lengths[0] == lengths[1]
    again = list(data.train_batches(**settings, is_trimmed=True, start=3, shard=(1, 2)))
    for (whole, _), (shard, _) in zip(trimmed[3:], again, strict=True):
        width = shard["input_ids"].shape[1]
        assert (
            torch.equal(whole["input_ids"][1::2, :width], shard["input_ids"])
            and not whole["input_ids"][1::2, width:].any()
        )


def test_word_dropout_hides_words_and_nothing_else(data: TextData) -> None:
    settings = {"epoch": 0, "batch_size": 40, "seed": 0}
    ((plain, labels),) = data.train_batches(**settings)
    ((hidden, same),) = data.train_batches(**settings, word_dropout=0.5)
    before, after = plain["input_ids"].numpy(), hidden["input_ids"].numpy()
    changed = before != after
    words = ~np.isin(before, data.vocabulary.special_ids)
    assert torch.equal(labels, same) and set(after[changed]) == {data.vocabulary.blank_id} == {4}
    assert not (changed & ~words).any() and 0.35 < changed.sum() / words.sum() < 0.65
    assert torch.equal(plain["attention_mask"], hidden["attention_mask"])


def test_too_few_texts(data: TextData) -> None:
    with pytest.raises(DataError, match="only 40 training texts"):
        data.train_batches(epoch=0, batch_size=64, seed=0)


# -- the same data -----------------------------------------------------------------------------------------------------


def test_people_are_told(tmp_path: Path) -> None:
    told: list[str] = []
    path = write(tmp_path / "all.tsv", lines(60))
    data = load_texts(config(path), num_tokens=5, vocab_size=120, progress=lambda done, total, what: told.append(what))
    text = "\n".join(told)
    assert "60 texts of 2 classes: bad, good" in text and "of the texts are cut to 5" in text
    assert describe(data.source, data.splits).splitlines()[0] in text


def test_data_that_changed_is_refused(tmp_path: Path) -> None:
    rows = lines(60)
    path = write(tmp_path / "all.tsv", rows)
    stored = json.loads(json.dumps(load(path).splits.to_json()))
    again = load_texts(config(path), num_tokens=8, vocab_size=120, splits=stored)
    assert again.splits.to_json() == stored
    write(path, [*rows[:7], ("another text", rows[7][1]), *rows[8:]])
    with pytest.raises(DataError, match=r"the data is not what the run was made with: row 7 of all.tsv is no longer"):
        load_texts(config(path), num_tokens=8, vocab_size=120, splits=stored)
    write(path, rows[:-1])
    with pytest.raises(DataError, match="1 of the run's 60 samples is missing"):
        load_texts(config(path), num_tokens=8, vocab_size=120, splits=stored)


def test_a_class_needs_texts_for_every_split(tmp_path: Path) -> None:
    path = write(tmp_path / "all.tsv", [*lines(60), ("nothing to say", "neutral")])
    with pytest.raises(DataError, match="class 'neutral' has 1 texts to be split into train, search, test"):
        load(path)
