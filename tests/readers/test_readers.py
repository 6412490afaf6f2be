"""Readers of text files: the same examples as the peer's, and errors that say where."""

from __future__ import annotations

import csv
import gzip
import math
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from ray_st import InputExample, readers
from ray_st.readers.input_example import as_columns

STS = 'a\tb\tc\td\t2.5\tone dog\ttwo "dogs\nmain\tx\ty\t1\t5.0\tÄpfel\tobst\n'
TRIPLETS = "anchor\tpositive\tnegative\nq\tp\tn\textra\nq2\tp2\tn2\n"
LABELS = "sport\tthe ball\npolitics\tthe vote\nsport\tthe goal\n"


def write(path: Path, text: str) -> Path:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8", newline="")
    return path


def shown(examples: list[Any]) -> list[Any]:
    """What examples hold; the peer keeps line ends in some texts."""
    return [(example.guid, [text.strip() for text in example.texts], example.label) for example in examples]


def test_an_example() -> None:
    example = InputExample(texts=["a", "b"], label=0.5)
    assert (example.guid, example.texts, example.label) == ("", ["a", "b"], 0.5)
    assert repr(example) == "InputExample(guid='', texts=['a', 'b'], label=0.5)"
    assert InputExample().label == 0
    assert InputExample("id", ["a"]) != InputExample("id", ["a"])  # labels may be arrays


def test_examples_as_a_dataset() -> None:
    examples = [InputExample(texts=["a", "b"], label=0.5), InputExample(texts=["c", "d"], label=1.0)]
    dataset = Dataset.from_dict(as_columns(examples))
    assert dataset.column_names == ["sentence_0", "sentence_1", "label"]
    assert dataset[1] == {"sentence_0": "c", "sentence_1": "d", "label": 1.0}
    assert list(as_columns(examples, label=False)) == ["sentence_0", "sentence_1"]
    with pytest.raises(ValueError, match="Example 2 has 1 texts, the first has 2"):
        as_columns([*examples, InputExample(texts=["e"])])


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)  # the peer's
@pytest.mark.parametrize("most", [0, 1])
@pytest.mark.parametrize("name", ["file.tsv", "file.tsv.gz"])
@pytest.mark.parametrize(
    ("kind", "options", "text"),
    [
        ("STSBenchmarkDataReader", {}, STS),
        ("STSBenchmarkDataReader", {"normalize_scores": False}, STS),
        ("STSDataReader", {"s1_col_idx": 5, "s2_col_idx": 6, "score_col_idx": 4, "max_score": 10}, STS),
        ("STSDataReader", {"delimiter": ",", "quoting": csv.QUOTE_MINIMAL}, '"a, b",c,1\nd,"e ""f""",4\n'),
        ("TripletReader", {"has_header": True}, TRIPLETS),
        ("TripletReader", {"s1_col_idx": 2, "s3_col_idx": 0}, TRIPLETS),
        ("LabelSentenceReader", {}, LABELS),
        ("LabelSentenceReader", {"label_col_idx": 1, "sentence_col_idx": 0}, LABELS),
    ],
)
def test_as_the_peer(
    peer: Any, tmp_path: Path, kind: str, options: dict[str, Any], text: str, name: str, most: int
) -> None:
    from sentence_transformers.sentence_transformer import readers as theirs

    write(tmp_path / "file.tsv", text)
    write(tmp_path / "file.tsv.gz", text)
    found = getattr(readers, kind)(str(tmp_path), **options).get_examples(name, most)
    expected = getattr(theirs, kind)(str(tmp_path), **options).get_examples("file.tsv", most)
    assert [row[1:] for row in shown(found)] == [row[1:] for row in shown(expected)]
    assert [row[0] for row in shown(found)] == [row[0].replace("file.tsv", name) for row in shown(expected)]
    assert all(type(example) is InputExample for example in found)


@pytest.mark.parametrize("end", ["", ".gz"])
def test_nli_as_the_peer(peer: Any, tmp_path: Path, end: str) -> None:
    from sentence_transformers.sentence_transformer.readers import NLIDataReader

    for suffix in ("", ".gz"):
        write(tmp_path / f"s1.train{suffix}", "a man\na dog\na cat\n")
        write(tmp_path / f"s2.train{suffix}", "a person\nno dog\na pet\n")
        write(tmp_path / f"labels.train{suffix}", "entailment\nCONTRADICTION\nneutral\n")
    reader = readers.NLIDataReader(tmp_path)
    found = reader.get_examples(f"train{end}")
    expected = NLIDataReader(str(tmp_path)).get_examples("train.gz")
    assert [row[1:] for row in shown(found)] == [row[1:] for row in shown(expected)]
    assert reader.get_labels() == NLIDataReader.get_labels()
    assert reader.get_num_labels() == 3
    assert len(reader.get_examples("train", 2)) == 2


def test_paired_files(tmp_path: Path) -> None:
    files = [write(tmp_path / "one", "a\nb\n"), write(tmp_path / "two.gz", "c\nd\n")]
    found = readers.PairedFilesReader(files).get_examples()
    assert shown(found) == [("0", ["a", "c"], 1), ("1", ["b", "d"], 1)]


def test_labels_keep_their_numbers_in_other_files(tmp_path: Path) -> None:
    write(tmp_path / "one", LABELS)
    write(tmp_path / "two", "politics\tthe law\n\nmusic\tthe song\n")
    reader = readers.LabelSentenceReader(tmp_path)
    assert [example.label for example in reader.get_examples("one")] == [0, 1, 0]
    assert [example.label for example in reader.get_examples("two")] == [1, 2]
    assert reader.label_map == {"sport": 0, "politics": 1, "music": 2}


def test_long_texts_and_windows_lines(tmp_path: Path) -> None:
    long = "word " * 50_000
    write(tmp_path / "file", f"\ufeffa\tb\t1\r\n{long}\tc\t2\r\n")
    found = readers.STSDataReader(tmp_path, max_score=2).get_examples("file")
    assert shown(found) == [("file0", ["a", "b"], 0.5), ("file1", [long.strip(), "c"], 1.0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tb\t1\na\tb\n", "file, line 2: expected a column 2, found 2 columns"),
        ("a\tb\t1\n\na\tb\tgood\n", "file, line 3: expected a score from 0 to 5, found 'good'"),
        ("a\tb\tnan\n", "line 1: expected a score from 0 to 5, found 'nan'"),
        ("a\tb\t5.5\n", "line 1: expected a score from 0 to 5, found '5.5'"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path / "file", text)
    with pytest.raises(readers.ReaderError, match=message):
        readers.STSDataReader(tmp_path).get_examples("file")


def test_nli_faults(tmp_path: Path) -> None:
    write(tmp_path / "s1.train", "a\nb\n")
    write(tmp_path / "s2.train", "c\n")
    write(tmp_path / "labels.train", "neutral\n-\n")
    reader = readers.NLIDataReader(tmp_path)
    assert len(reader.get_examples("train", 1)) == 1
    with pytest.raises(readers.ReaderError, match=r"s2\.train: ends before line 2"):
        reader.get_examples("train")
    write(tmp_path / "s2.train", "c\nd\n")
    with pytest.raises(readers.ReaderError, match=r"labels\.train, line 2: expected a label .* found '-'"):
        reader.get_examples("train")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    reader = readers.TripletReader(tmp_path)
    with pytest.raises(readers.ReaderError, match=r"nothing: no such file"):
        reader.get_examples("nothing")
    (tmp_path / "latin").write_bytes("a\tb\tä\n".encode("latin-1"))
    with pytest.raises(readers.ReaderError, match=r"latin: cannot be read as UTF-8"):
        reader.get_examples("latin")
    packed = gzip.compress(b"a\tb\tc\n" * 1000)
    (tmp_path / "cut.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(readers.ReaderError, match=r"cut\.gz: cannot be read"):
        reader.get_examples("cut.gz")
    with pytest.raises(ValueError, match="max_examples must be 0"):
        reader.get_examples("latin", -1)
    with pytest.raises(ValueError, match="max_score must be above"):
        readers.STSDataReader(tmp_path, max_score=math.nan)


def test_the_list_of_names() -> None:
    assert readers.__all__ == [
        "InputExample",
        "LabelSentenceReader",
        "NLIDataReader",
        "PairedFilesReader",
        "ReaderError",
        "STSBenchmarkDataReader",
        "STSDataReader",
        "TripletReader",
        "read_beir",
        "read_flag_embedding",
        "read_tevatron",
    ]
