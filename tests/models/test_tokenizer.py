from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from ray_st.models.folder_files import ModelFolderError, write_json
from ray_st.models.tokenizer import ENGLISH_STOP_WORDS, PhraseTokenizer, WhitespaceTokenizer, WordTokenizer

WORDS = ["pad", "New_York", "new_york_city", "York", "Sun", "sun", "big", "(x)", "don", "a_b__c", "the_end"]
TEXTS = [
    "New York is big, York is big.",
    "new york city! Sun SUN sun; the (x) (sun)",
    "NEW YORK CITY the end THE END don't",
    "",
    "  , . --",
]


def random_texts() -> list[str]:
    pieces = [
        "New",
        "York",
        "new",
        "york",
        "City",
        "city,",
        "the",
        "end.",
        "Sun",
        "SUN",
        "(sun)",
        "big",
        "a_b__c",
        "(x)",
        "don't",
        "--",
    ]
    draw = random.Random(0)
    return [" ".join(draw.choices(pieces, k=12)) for _ in range(50)]


def peers(peer: Any, name: str) -> Any:
    return getattr(importlib.import_module(f"{peer.__name__}.sentence_transformer.modules.tokenizer"), name)


def test_stop_words_are_the_peers(peer: Any) -> None:
    assert list(ENGLISH_STOP_WORDS) == peers(peer, "ENGLISH_STOP_WORDS")


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("stop_words", [None, [], ["sun", "big"]], ids=str)
def test_white_space_as_the_peer(lower: bool, stop_words: list[str] | None, peer: Any) -> None:
    options = {} if stop_words is None else {"stop_words": stop_words}
    mine = WhitespaceTokenizer(WORDS, do_lower_case=lower, **options)
    theirs = peers(peer, "WhitespaceTokenizer")(WORDS, do_lower_case=lower, **options)
    for text in [*TEXTS, *random_texts()]:
        assert mine.tokenize(text) == theirs.tokenize(text)


def test_phrases_as_the_peer(peer: Any) -> None:
    pytest.importorskip("nltk")
    mine, theirs = PhraseTokenizer(WORDS), peers(peer, "PhraseTokenizer")(WORDS)
    assert mine.tokenize("New York is big") == [1, 6]
    for text in [*TEXTS, *random_texts()]:
        assert mine.tokenize(text) == theirs.tokenize(text)


def test_which_words_are_phrases() -> None:
    tokenizer = PhraseTokenizer(WORDS, max_ngram_length=2)
    assert tokenizer.phrases == {"New_York", "the_end"}
    assert tokenizer.phrase_lengths == [2]
    assert not PhraseTokenizer(WORDS, ngram_separator=None).phrases


def test_phrases_without_nltk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nltk", None)
    with pytest.raises(ImportError, match=r"pip install 'ray-st\[phrases\]'"):
        PhraseTokenizer(WORDS).tokenize("sun")


@pytest.mark.parametrize("kind", [WhitespaceTokenizer, PhraseTokenizer])
def test_saved_and_read_here_and_by_the_peer(kind: Any, peer: Any, tmp_path: Path) -> None:
    if kind is PhraseTokenizer:
        pytest.importorskip("nltk")
    theirs = peers(peer, kind.__name__)
    kind(WORDS, stop_words=["big"]).save(tmp_path)
    theirs.load(str(tmp_path)).save(str(tmp_path))
    back = kind.load(tmp_path)
    assert isinstance(back, WordTokenizer)
    assert (back.get_vocab(), back.stop_words) == (WORDS, {"big"})
    assert back.settings() == kind(WORDS, stop_words=["big"]).settings()


def test_what_makes_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must occur once; 'a' occurs more often"):
        WhitespaceTokenizer(["a", "b", "a"])
    with pytest.raises(ModelFolderError, match=r"has no whitespacetokenizer_config\.json, the vocabulary"):
        WhitespaceTokenizer.load(tmp_path)
    write_json(tmp_path / "whitespacetokenizer_config.json", {"words": []})
    with pytest.raises(ModelFolderError, match="is not a valid WhitespaceTokenizer"):
        WhitespaceTokenizer.load(tmp_path)
