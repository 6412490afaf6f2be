"""The laws of datasets and loaders of examples."""

from __future__ import annotations

import gzip
import itertools
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ray_st import InputExample, datasets
from ray_st.datasets import (
    DenoisingAutoEncoderDataset,
    NoDuplicatesDataLoader,
    ParallelSentencesDataset,
    SentenceLabelDataset,
    SentencesDataset,
)

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def labelled(**counts: int) -> list[InputExample]:
    return [
        InputExample(texts=[f"{label} {number}"], label=label)
        for label, count in counts.items()
        for number in range(count)
    ]


def as_it_is(batch: list[InputExample]) -> list[InputExample]:
    return batch


class Counting:
    """A teacher whose vector of a text is its length; it remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, sentences: list[str], **options: Any) -> np.ndarray:
        assert options == {"batch_size": 4, "show_progress_bar": False, "convert_to_numpy": True}
        self.asked += sentences
        return np.array([[len(text)] for text in sentences], dtype=np.float32)


def test_a_list_as_a_dataset() -> None:
    examples = labelled(a=5)
    dataset = SentencesDataset(examples, None)
    assert len(dataset) == 5
    assert [
        row for batch in DataLoader(dataset, batch_size=2, collate_fn=as_it_is) for row in batch
    ] == examples


# ---- labels in runs


@pytest.mark.parametrize("n", [1, 2, 3])
def test_without_replacement_each_example_comes_once_at_most_in_runs(n: int) -> None:
    examples = labelled(a=7, b=4, c=3, d=2, e=1)
    dataset = SentenceLabelDataset(examples, n, seed=3)
    for _ in range(3):
        rows = list(dataset)
        runs = [rows[start : start + n] for start in range(0, len(rows), n)]
        assert len(rows) == len(dataset) == sum(count // n * n for count in (7, 4, 3, 2, 1))
        assert len({id(row) for row in rows}) == len(rows)
        assert all(len({row.label for row in run}) == 1 for run in runs)
        first = [run[0].label for run in runs[: sum(count >= n for count in (7, 4, 3, 2, 1))]]
        assert len(set(first)) == len(first)  # each label had its turn before one has a second


def test_with_replacement_an_epoch_is_as_long_as_there_are_examples() -> None:
    examples = labelled(a=7, b=4, c=1)
    dataset = SentenceLabelDataset(examples, 2, with_replacement=True)
    rows = list(dataset)
    assert len(rows) == len(dataset) == 12
    runs = list(zip(rows[::2], rows[1::2], strict=True))
    assert all(one.label == two.label and one is not two for one, two in runs)
    assert Counter(one.label for one, _ in runs) == {"a": 3, "b": 3}


def test_epochs_differ_and_seeds_decide() -> None:
    examples = labelled(a=20, b=20)
    one, same, other = (SentenceLabelDataset(examples, seed=seed) for seed in (1, 1, 2))
    epochs = [list(one), list(one)]
    assert epochs[0] != epochs[1]
    assert [list(same), list(same)] == epochs
    assert list(other) != epochs[0]


def test_worker_processes_share_the_runs() -> None:
    examples = labelled(a=9, b=8, c=6)
    loader = DataLoader(SentenceLabelDataset(examples, 2), batch_size=4, num_workers=2, collate_fn=as_it_is)
    torch.manual_seed(0)
    texts = [row.texts[0] for batch in loader for row in batch]
    assert len(texts) == len(set(texts)) == 8 + 8 + 6


def test_labels_without_enough_examples() -> None:
    with pytest.raises(ValueError, match="No label has 3 examples; found 2 labels among 4"):
        SentenceLabelDataset(labelled(a=2, b=2), 3)
    with pytest.raises(ValueError, match="at least 1; got 0"):
        SentenceLabelDataset(labelled(a=2), 0)


# ---- noise

TEXTS = [
    "Don't panic: the well-known answer (42.0) isn't wrong, is it?",
    "Ein Mann isst, was er will; das „Brot“ bleibt.",
    "one",
    "一二三",
]


@pytest.mark.parametrize("text", TEXTS)
def test_nothing_is_lost_without_noise(text: str) -> None:
    assert DenoisingAutoEncoderDataset.delete(text, del_ratio=0) == text
    assert DenoisingAutoEncoderDataset.delete(f"  {text}\n", 0.0) == text


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("ratio", [0.3, 0.6, 1.0])
def test_words_left_keep_their_order_and_one_always_stays(text: str, ratio: float) -> None:
    for seed in range(50):
        noisy = DenoisingAutoEncoderDataset.delete(text, ratio, np.random.default_rng(seed))
        assert noisy
        assert noisy == noisy.strip()
        letters = iter(text)
        assert all(letter in letters for letter in noisy if letter != " ")  # a subsequence
        if ratio == 1.0:
            assert len(noisy.split()) == 1


def test_the_ratio_is_kept() -> None:
    text = " ".join(WORDS * 200)
    for ratio in (0.2, 0.6):
        left = DenoisingAutoEncoderDataset.delete(text, ratio, np.random.default_rng(0)).split()
        assert len(left) / 2000 == pytest.approx(1 - ratio, abs=0.05)


def test_text_without_words_and_wrong_ratios() -> None:
    assert DenoisingAutoEncoderDataset.delete("") == ""
    assert DenoisingAutoEncoderDataset.delete("  ") == "  "
    with pytest.raises(ValueError, match=r"from 0 to 1; got 1\.5"):
        DenoisingAutoEncoderDataset.delete("a", 1.5)


def test_noise_depends_on_seed_row_and_visit_alone() -> None:
    sentences = [" ".join(WORDS)] * 4
    one, two, other = (DenoisingAutoEncoderDataset(sentences, seed=seed) for seed in (1, 1, 2))
    first = [one[row].texts for row in (0, 1, 2, 3, 0)]
    assert [two[row].texts for row in (3, 2, 1, 0, 0)] == [first[row] for row in (3, 2, 1, 0, 4)]
    assert len({noisy for noisy, _ in first}) > 3
    assert {clean for _, clean in first} == set(sentences)
    assert [other[row].texts for row in range(4)] != first[:4]


def test_noise_of_worker_processes_changes_from_epoch_to_epoch() -> None:
    dataset = DenoisingAutoEncoderDataset([" ".join(WORDS)] * 8)
    loader = DataLoader(dataset, batch_size=4, num_workers=2, collate_fn=as_it_is)

    def epoch() -> list[list[str] | None]:
        return [row.texts for batch in loader for row in batch]

    torch.manual_seed(0)
    epochs = [epoch(), epoch()]
    assert epochs[0] != epochs[1]
    torch.manual_seed(0)
    assert [epoch(), epoch()] == epochs


def test_noise_of_ones_own() -> None:
    dataset = DenoisingAutoEncoderDataset(["abc", "de"], str.upper)
    assert [dataset[row].texts for row in range(len(dataset))] == [["ABC", "abc"], ["DE", "de"]]


# ---- no text twice in a batch


def texts_of(batch: list[InputExample]) -> list[str]:
    return [text for row in batch for text in {text.strip().lower() for text in row.texts or []}]


def crowd(rows: int, values: int, seed: int = 0) -> list[InputExample]:
    chance = random.Random(seed)
    return [
        InputExample(texts=[f" Query {chance.randrange(values)}", f"text {chance.randrange(rows)}"])
        for _ in range(rows)
    ]


@pytest.mark.parametrize("values", [8, 20, 1000])
def test_no_text_comes_twice_in_a_batch(values: int) -> None:
    examples = crowd(500, values)
    given = list(examples)
    loader = NoDuplicatesDataLoader(examples, 8)
    for _ in range(2):
        expected = len(loader)
        batches = list(loader)
        assert len(batches) == expected
        sizes = [len(batch) for batch in batches]
        assert max(sizes) <= 8
        assert 8 not in sizes[sizes.count(8) :]
        if values > 8:
            assert sizes.count(8) > 0.9 * 500 // 8
        assert all(len(set(texts_of(batch))) == len(texts_of(batch)) for batch in batches)
        rows = [id(row) for batch in batches for row in batch]
        assert sorted(rows) == sorted(map(id, examples))
    assert examples == given  # the peer shuffles the caller's list


def test_only_full_batches_if_wished() -> None:
    loader = NoDuplicatesDataLoader(crowd(300, 60), 16, drop_last=True)
    batches = list(loader)
    assert len(batches) > 14
    assert all(len(batch) == len(set(texts_of(batch))) // 2 == 16 for batch in batches)


def test_without_repeats_there_are_as_many_batches_as_the_peers(peer: Any) -> None:
    from sentence_transformers.sentence_transformer.datasets import NoDuplicatesDataLoader as Theirs

    examples = labelled(a=50)
    ours, theirs = NoDuplicatesDataLoader(examples, 8, drop_last=True), Theirs(list(examples), 8)
    assert len(ours) == len(theirs) == 6
    ours.collate_fn = theirs.collate_fn = len  # type: ignore[assignment]
    assert list(ours) == list(theirs) == [8] * 6


def test_order_is_decided_by_seed_and_epoch() -> None:
    examples = crowd(100, 50)
    one, two = (NoDuplicatesDataLoader(examples, 8, seed=5) for _ in range(2))
    epochs = [list(one), list(one)]
    assert epochs[0] != epochs[1]
    two.set_epoch(1)
    assert list(two) == epochs[1]


def test_examples_with_unlike_numbers_of_texts() -> None:
    examples = [
        InputExample(texts=["a", "b", "c"]),
        InputExample(texts=["c"]),
        InputExample(texts=["d", "d"]),
    ]
    batches = list(NoDuplicatesDataLoader(examples, 2))
    assert sorted(map(len, batches)) == [1, 2]
    assert all(len(set(texts_of(batch))) == len(texts_of(batch)) for batch in batches)


def test_what_the_peer_hangs_on() -> None:
    same = [InputExample(texts=["the same", f"{number}"]) for number in range(100)]
    assert len(list(NoDuplicatesDataLoader(same, 2))) == 100
    with pytest.raises(ValueError, match="No full batch of 2 without a repeated text can be made of 100"):
        NoDuplicatesDataLoader(same, 2, drop_last=True)
    with pytest.raises(ValueError, match="of 0 examples"):
        NoDuplicatesDataLoader([], 2)
    with pytest.raises(ValueError, match="Example 1 has no texts"):
        NoDuplicatesDataLoader([InputExample(texts=["a"]), InputExample()], 2)


def test_time_grows_with_the_number_of_examples_alone() -> None:
    start = time.process_time()
    loader = NoDuplicatesDataLoader(crowd(40_000, 64), 64)
    assert sum(len(batch) for batch in loader) == 40_000
    assert time.process_time() - start < 30  # the peer looks at every example for each place in a batch


# ---- translations

ROWS = [["hello", "hallo", "hola"], ["good", "gut", "gut"], ["hello", "salut"], ["bread", "Brot", ""]]


def pairs(dataset: Any, count: int) -> Counter[tuple[str, float]]:
    return Counter((row.texts[0], float(row.label[0])) for row in itertools.islice(_endless(dataset), count))


def _endless(dataset: Any) -> Any:
    while True:
        yield dataset[0]


def test_each_translation_has_the_vector_of_its_source() -> None:
    teacher = Counting()
    dataset = ParallelSentencesDataset(None, teacher, batch_size=4)
    dataset.add_dataset(ROWS, weight=3)
    expected = {"hello": 5, "hallo": 5, "hola": 5, "salut": 5, "good": 4, "gut": 4, "bread": 5, "Brot": 5}
    assert len(dataset) == 8
    assert {row.texts[0]: row.label[0] for row in dataset} == expected
    list(dataset)
    assert sorted(teacher.asked) == ["bread", "good", "hello"]


def test_a_round_is_the_peers(peer: Any) -> None:
    from sentence_transformers.sentence_transformer.datasets import ParallelSentencesDataset as Theirs

    ours, theirs = (kind(None, Counting(), batch_size=4) for kind in (ParallelSentencesDataset, Theirs))
    for dataset in (ours, theirs):
        dataset.add_dataset(ROWS[:3], weight=2)
        dataset.add_dataset([["sun", "Sonne"], ["moon", "Mond"]], weight=4)
    assert len(ours) == len(theirs)
    assert pairs(ours, 14) == pairs(
        theirs, 14
    )  # a round: both sources of one set, and those of the other twice


def test_without_a_cache_the_teacher_is_asked_each_round() -> None:
    teacher = Counting()
    dataset = ParallelSentencesDataset(None, teacher, 4, use_embedding_cache=False)
    dataset.add_dataset([["a", "b"]], weight=1)
    pairs(dataset, 6)
    assert teacher.asked == ["a"] * 3


@pytest.mark.parametrize("name", ["file.tsv", "file.tsv.gz"])
def test_files_with_limits(tmp_path: Path, name: str) -> None:
    text = b"hello\thallo\nfar too long\tzu lang\n\nsun\tSonne\nmoon\tMond\n"
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    dataset = ParallelSentencesDataset(None, Counting(), 4)
    dataset.load_data(str(tmp_path / name), weight=2, max_sentences=2, max_sentence_length=8)
    assert {row.texts[0] for row in dataset} == {"hello", "hallo", "sun", "Sonne"}


def test_seeds_decide_the_order() -> None:
    def order(seed: int) -> list[str]:
        dataset = ParallelSentencesDataset(None, Counting(), 4, seed=seed)
        dataset.add_dataset([[word, word.upper()] for word in WORDS], weight=10)
        return [row.texts[0] for row in dataset]

    assert order(1) == order(1) != order(2)


def test_it_works_in_a_loader(tiny_model: Any) -> None:
    dataset = ParallelSentencesDataset(None, tiny_model)
    dataset.add_dataset(ROWS)
    loader = DataLoader(dataset, batch_size=4, shuffle=True, collate_fn=as_it_is)
    assert [len(batch) for batch in loader] == [4, 4]


def test_rows_that_cannot_be_used(tmp_path: Path) -> None:
    dataset = ParallelSentencesDataset(None, Counting(), 4)
    (tmp_path / "file").write_text("a\tb\n\n\tc\n")
    with pytest.raises(ValueError, match="file, line 3: expected a sentence in the first column"):
        dataset.load_data(tmp_path / "file")
    with pytest.raises(ValueError, match="parallel_sentences, row 1: expected a sentence"):
        dataset.add_dataset([["a"], []])
    with pytest.raises(ValueError, match="no row with sentences of at most 2 characters"):
        dataset.add_dataset([["long", "lang"]], max_sentence_length=2)
    with pytest.raises(ValueError, match="weight must be at least 1; got 0"):
        dataset.add_dataset(ROWS, weight=0)
    with pytest.raises(IndexError, match="There are 0 sentences; got the index 0"):
        dataset[0]


def test_the_list_of_names() -> None:
    assert datasets.__all__ == [
        "DenoisingAutoEncoderDataset",
        "NoDuplicatesDataLoader",
        "ParallelSentencesDataset",
        "SentenceLabelDataset",
        "SentencesDataset",
    ]
