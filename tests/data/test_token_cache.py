"""Encoded blocks in a folder: keys, damage, writers at once, size; no Ray."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
from transformers import BertTokenizer

from ray_st.data.column_spec import ColumnSpec
from ray_st.data.encoding import FAULT, Encoding, encode_block, ids_of
from ray_st.data.located import FILE, READ_FAULT
from ray_st.data.sources import ROW
from ray_st.data.token_cache import BlockEncoder, CacheUse, TokenCache, block_key
from ray_st.models.chat import ChatTemplate
from ray_st.models.tokenizer import PhraseTokenizer, WhitespaceTokenizer
from ray_st.models.tokens import PieceEncoder, TokenEncoder, WordEncoder
from ray_st.util.states import UnknownState, state_of

ROOM = 10**9
PAIRS = ColumnSpec(("q", "a"), "label")
ROWS = {"q": ["why", "how", "when"], "a": ["so", "thus", "then"], "label": [1.0, 0.5, 0.0]}


class Letters:
    """An encoder that tells its state, and counts the texts that it was given."""

    def __init__(self, first: int = 1) -> None:
        self.first, self.texts = first, 0

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        self.texts += len(texts)
        return [np.array([self.first, *map(ord, text)], dtype=np.int32) for text in texts]

    def state(self) -> str:
        return f"letters {self.first}"


@pytest.fixture
def cache(tmp_path: Path) -> TokenCache:
    made = TokenCache(str(tmp_path / "cache"), ROOM)
    made.make()
    return made


def files(cache: TokenCache) -> list[Path]:
    return sorted(Path(cache.path).iterdir())


def block(**columns: Any) -> pa.Table:
    return pa.table({**ROWS, **columns})


def encoder(cache: TokenCache | None, encoding: Encoding | None = None) -> BlockEncoder:
    return BlockEncoder.of(encoding or Encoding(PAIRS, Letters()), cache, "rows")


def key_of(rows: pa.Table, **options: Any) -> str:
    encoding = Encoding(**{"columns": PAIRS, "encoder": Letters(), **options})
    return block_key(rows, encoding.columns.names, encoding.state())


# ---- hit and miss ----


def test_rows_are_encoded_once(cache: TokenCache) -> None:
    letters = Letters()
    cached = encoder(cache, Encoding(PAIRS, letters, prompts={"q": "query: "}))
    first = cached(block())
    second = cached(block())
    assert letters.texts == 6
    plain = encode_block(block(), cached.encoding)
    assert first.equals(plain)
    assert second.equals(plain)
    assert second.schema.equals(plain.schema)
    (entry,) = files(cache)
    assert cached.use([first]) == CacheUse(encoded=3, keys=(entry.stem,))
    assert cached.use([second]) == CacheUse(read=3, keys=(entry.stem,))
    # Ray may split an encoded block.
    assert cached.use([second.slice(0, 1), second.slice(1)]).read == 3


def test_faults_are_kept_without_their_places(cache: TokenCache) -> None:
    letters = Letters()
    cached = encoder(cache, Encoding(PAIRS, letters))

    def located(file: str, start: int, fault: str | None) -> pa.Table:
        return block(
            q=["why", None, "when"],
            **{
                ROW: [start, start + 1, start + 2],
                FILE: pa.array([file] * 3).dictionary_encode(),
                READ_FAULT: pa.array([None, None, fault], pa.string()),
            },
        )

    for file, start in (("one.csv", 0), ("two.csv", 90)):
        found = cached(located(file, start, None))
        assert found[FAULT].to_pylist() == [
            None,
            f"{file}, row {start + 1}, column 'q': expected a text, found None (NoneType)",
            None,
        ]
        assert found.equals(encode_block(located(file, start, None), cached.encoding))
    assert letters.texts == 6 * 3
    assert len(files(cache)) == 1
    assert cached(located("one.csv", 0, "a bad line"))[FAULT][2].as_py() == "a bad line"
    assert len(files(cache)) == 2


def test_without_a_cache_and_without_rows(cache: TokenCache) -> None:
    rows = block()
    assert encoder(None).use([encoder(None)(rows)]) == CacheUse()
    empty = encoder(cache)(rows.slice(0, 0))
    assert encoder(cache).use([empty]) == CacheUse()
    assert files(cache) == []


# ---- keys ----


def test_a_key_is_that_of_the_values_alone() -> None:
    rows = pa.table({"q": [*"abcdefg", None, "h"], "a": list("uvwxyzzzz"), "label": [*range(8), None]})
    key = key_of(rows)
    parts = pa.concat_tables([rows.slice(0, 3), rows.slice(3, 0), rows.slice(3)])
    assert key_of(parts) == key
    longer = pa.concat_tables([rows.slice(5), rows, rows.slice(0, 2)])
    assert key_of(longer.slice(4, 9)) == key
    for kind in (pa.large_string(), pa.string_view()):
        assert key_of(rows.set_column(0, "q", rows["q"].cast(kind))) == key
    assert key_of(rows.set_column(0, "q", rows["q"].dictionary_encode())) == key
    assert key_of(rows.append_column("extra", rows["q"])) == key


@pytest.mark.parametrize(
    "change",
    [
        {"rows": block(q=["why", "how", "When"])},
        {"rows": block(q=["whyh", "ow", "when"])},
        {"rows": block(a=ROWS["q"], q=ROWS["a"])},
        {"rows": block(label=[1.0, 0.5, 0.25])},
        {"rows": block(label=[1, 0, 0])},
        {"rows": block().slice(0, 2)},
        {"encoder": Letters(2)},
        {"columns": ColumnSpec(("q", "a"))},
        {"columns": ColumnSpec(("a", "q"), "label")},
        {"prompts": {"q": "query: "}},
        {"keep_texts": True},
        {"columns": ColumnSpec(("q", "a"), "label", lists=("a",))},
    ],
)
def test_another_row_or_encoding_has_another_key(change: dict[str, Any]) -> None:
    rows = change.pop("rows", block())
    assert key_of(rows, **change) != key_of(block())


# ---- what encoders tell of themselves ----


def words(*more: str) -> BertTokenizer:
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "weather", *more]
    return BertTokenizer(vocab={word: place for place, word in enumerate(names)})


def test_equal_tokenizers_have_equal_states_whatever_they_were_last_asked() -> None:
    one, other = TokenEncoder(words(), 16), TokenEncoder(words(), 16)
    other(["good weather"])
    other.tokenizer(["good"], truncation=True, max_length=3, padding="max_length")
    assert one.state() == other.state()


@pytest.mark.parametrize(
    "other",
    [
        TokenEncoder(words("bad"), 16),
        TokenEncoder(words(), 17),
        TokenEncoder(words(), None),
        TokenEncoder(words(), 16, do_lower_case=True),
        TokenEncoder(words(), 16, chat=ChatTemplate("{{ messages[0].content }}", structured=False)),
    ],
)
def test_other_tokenizers_and_settings_have_other_states(other: TokenEncoder) -> None:
    assert other.state() != TokenEncoder(words(), 16).state()


def test_settings_of_the_tokenizer_are_in_the_state() -> None:
    state = TokenEncoder(words(), 16).state()
    for name, value in (("truncation_side", "left"), ("split_special_tokens", True)):
        changed = words()
        setattr(changed, name, value)
        assert TokenEncoder(changed, 16).state() != state
    added = words()
    added.add_tokens(["sunny"])
    assert TokenEncoder(added, 16).state() != state


def test_states_of_other_encoders() -> None:
    def pieces(length: int) -> PieceEncoder:
        made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "good": 1}, unk_token="[UNK]"))
        made.enable_truncation(length)
        return PieceEncoder(made)

    assert pieces(4).state() == pieces(4).state() != pieces(5).state()
    split = WordEncoder(WhitespaceTokenizer(["good"], stop_words=[]), 4)
    assert split.state() == WordEncoder(WhitespaceTokenizer(["good"], stop_words=[]), 4).state()
    assert split.state() != WordEncoder(WhitespaceTokenizer(["good"], stop_words=["a"]), 4).state()
    assert state_of(None) == ""


class Shouting(TokenEncoder):
    """A user's encoder, which may do anything."""


class Odd:
    """A part of a tokenizer in Python."""

    def normalize(self, text: Any) -> None:
        text.uppercase()


def odd() -> BertTokenizer:
    made = words()
    made.backend_tokenizer.normalizer = tokenizers.normalizers.Normalizer.custom(Odd())
    return made


def dropping() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0}, [], dropout=0.5))


@pytest.mark.parametrize(
    ("encoder", "reason"),
    [
        (lambda texts: [], "<lambda> does not tell"),
        (Shouting(words()), "Shouting does not tell"),
        (TokenEncoder(object()), "object is written in Python"),
        (TokenEncoder(odd()), "a part of the tokenizer cannot be written down"),
        (TokenEncoder(words(), chat=ChatTemplate("{{ strftime_now() }}", False)), "the chat template of"),
        (PieceEncoder(dropping()), "draws tokens at random"),
        (WordEncoder(PhraseTokenizer([])), "PhraseTokenizer does not tell"),
    ],
)
def test_what_cannot_be_told_exactly_is_not_cached(cache: TokenCache, encoder: Any, reason: str) -> None:
    with pytest.raises(UnknownState, match=reason):
        state_of(encoder)
    made = BlockEncoder.of(Encoding(PAIRS, encoder), cache, "train_dataset")
    assert made.cache is None
    assert made.use([]).described(cache.path).startswith("token cache: not used: train_dataset: ")


def test_texts_that_are_not_tokenized_are_not_cached(cache: TokenCache) -> None:
    made = BlockEncoder.of(Encoding(PAIRS, None), cache, "rows")
    assert made(block()).equals(encode_block(block(), made.encoding))
    said = made.use([made(block())]).described("folder")
    assert said == "token cache: not used: rows: texts are not tokenized ahead of training"


# ---- 16 bits ----


@pytest.mark.parametrize(("largest", "kind"), [(65_535, pa.uint16()), (65_536, pa.int32())])
def test_ids_take_16_bits_on_disk_where_all_fit(cache: TokenCache, largest: int, kind: pa.DataType) -> None:
    encoding = Encoding(PAIRS, Letters(largest))
    encoder(cache, encoding)(block())
    (entry,) = files(cache)
    stored = pa.ipc.open_stream(entry.read_bytes()).read_all()
    assert stored[ids_of("q")].type == pa.large_list(kind)
    read = encoder(cache, encoding)(block())
    assert read.equals(encode_block(block(), encoding))
    assert read[ids_of("q")].type == pa.large_list(pa.int32())
    assert read[ids_of("q")][0].as_py() == [largest, *map(ord, "why")]


def test_negative_ids_and_texts_without_ids(cache: TokenCache) -> None:
    for first in (-1, 0):
        encoding = Encoding(PAIRS, Letters(first))
        for _ in range(2):
            assert encoder(cache, encoding)(block()).equals(encode_block(block(), encoding))

    class Nothing(Letters):
        def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
            return [np.array([], dtype=np.int32) for _ in texts]

        def state(self) -> str:
            return "nothing"

    encoding = Encoding(PAIRS, Nothing())
    for _ in range(2):
        assert encoder(cache, encoding)(block()).equals(encode_block(block(), encoding))


# ---- damage ----


def flip(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:7],
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: flip(content, 0),
        lambda content: flip(content, len(content) // 2),
        lambda content: flip(content, len(content) - 1),
        lambda content: content + b"x",
    ],
)
def test_a_damaged_entry_is_made_again(cache: TokenCache, damage: Any) -> None:
    cached = encoder(cache)
    expected = cached(block())
    (entry,) = files(cache)
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    again = cached(block())
    assert again.equals(expected)
    assert cached.use([again]) == CacheUse(encoded=3, damaged=1, keys=(entry.stem,))
    assert entry.read_bytes() == whole
    assert cached.use([cached(block())]).read == 3


def test_an_entry_under_the_name_of_another_is_damaged(cache: TokenCache) -> None:
    cached = encoder(cache)
    cached(block())
    (entry,) = files(cache)
    other = block(q=["x", "y", "z"])
    entry.rename(entry.with_name(f"{block_key(other, PAIRS.names, cached.state)}.arrow"))
    found = cached(other)
    assert cached.use([found]).damaged == 1
    assert found.equals(encode_block(other, cached.encoding))


# ---- several writers, and killed ones ----

WRITER = """
import sys
sys.path[:0] = {path!r}
import pyarrow as pa
from test_token_cache import Letters, PAIRS
from ray_st.data.encoding import Encoding
from ray_st.data.token_cache import BlockEncoder, TokenCache
cached = BlockEncoder.of(Encoding(PAIRS, Letters()), TokenCache({folder!r}, 10**9), "rows")
print("ready", flush=True)
sys.stdin.readline()
for turn in range({turns}):
    for number in range(20):
        texts = [f"text {{number}} {{row}}" for row in range(50)]
        made = cached(pa.table({{"q": texts, "a": texts, "label": [0.0] * 50}}))
        assert cached.use([made]).damaged == 0, number
        assert not cached.use([made]).faults, cached.use([made]).faults
print("done", flush=True)
sys.stdin.readline()
"""


def writer(cache: TokenCache, turns: int) -> subprocess.Popen[str]:
    script = WRITER.format(path=[str(Path(__file__).parent)], folder=cache.path, turns=turns)
    return subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_two_processes_fill_one_folder_and_one_is_killed(cache: TokenCache) -> None:
    with writer(cache, 3) as one, writer(cache, 10**9) as other:
        assert [hear(one), hear(other)] == ["ready", "ready"]
        tell(one)
        tell(other)
        assert hear(one) == "done"
        os.kill(other.pid, signal.SIGKILL)
        tell(one)
    assert one.returncode == 0
    cached = encoder(cache)
    for number in range(20):
        texts = [f"text {number} {row}" for row in range(50)]
        rows = pa.table({"q": texts, "a": texts, "label": [0.0] * 50})
        found = cached(rows)
        assert cached.use([found]).read == 50
        assert found.equals(encode_block(rows, cached.encoding))


def test_what_a_killed_writer_left_is_not_read_and_is_removed_a_day_later(cache: TokenCache) -> None:
    cached = encoder(cache)
    cached(block())
    (entry,) = files(cache)
    left = entry.with_name(f".writing-{entry.name}.0123abcd.part")
    left.write_bytes(entry.read_bytes()[:100])
    entry.unlink()
    assert cached.use([cached(block())]) == CacheUse(encoded=3, keys=(entry.stem,))
    assert cache.trim([]) == 0
    assert left.exists()  # it may be somebody's who still writes
    old = time.time() - 2 * 86_400
    os.utime(left, (old, old))
    cache.trim([])
    assert files(cache) == [entry]


# ---- size ----


def filled(cache: TokenCache, count: int) -> list[str]:
    """Entries of equal size, each a minute younger than the one before; their keys."""
    cached = encoder(cache)
    keys = []
    for number in range(count):
        rows = block(q=[f"{number:03}", "how", "when"])
        keys += cached.use([cached(rows)]).keys
        stamp = time.time() - 60 * (count - number)
        os.utime(Path(cache.path) / f"{keys[-1]}.arrow", (stamp, stamp))
    return keys


def bounded(cache: TokenCache, entries: int) -> TokenCache:
    """The same folder with room for some entries."""
    size = files(cache)[0].stat().st_size
    return dataclasses.replace(cache, max_bytes=entries * size)


def test_the_oldest_entries_leave(cache: TokenCache) -> None:
    keys = filled(cache, 5)
    foreign = Path(cache.path) / "README"
    foreign.write_bytes(b"x" * 100_000)
    assert bounded(cache, 5).trim([]) == 0
    assert bounded(cache, 3).trim([]) == 2
    assert {path.stem for path in files(cache)} == {*keys[2:], "README"}


def test_entries_that_were_just_used_leave_last_and_the_last_rows_first(cache: TokenCache) -> None:
    keys = filled(cache, 5)
    small = bounded(cache, 3)
    assert small.trim(keys[:2]) == 2
    assert {path.stem for path in files(cache)} == {keys[0], keys[1], keys[4]}
    assert dataclasses.replace(small, max_bytes=1).trim(keys[:2]) == 3
    keys = filled(cache, 5)
    small.trim(keys)
    assert {path.stem for path in files(cache)} == set(keys[:3])


def test_a_full_folder_is_not_written(cache: TokenCache) -> None:
    filled(cache, 4)
    small = bounded(cache, 2)
    cached = encoder(small)
    use = cached.use([cached(block())])
    assert (use.encoded, len(files(cache))) == (3, 4)
    said = small.finish(use)
    assert "0 rows read" in said
    assert "1 time(s) without it: the folder holds" in said
    assert len(files(cache)) == 2
    assert cached.use([cached(block())]).faults == ()


def test_an_entry_that_vanishes_is_made_again(cache: TokenCache) -> None:
    cached = encoder(cache)
    cached(block())
    for entry in files(cache):
        entry.unlink()
    again = cached(block())
    assert cached.use([again]) == CacheUse(encoded=3, keys=cached.use([again]).keys)


def test_a_folder_that_cannot_be_written_costs_one_line(tmp_path: Path) -> None:
    gone = TokenCache(str(tmp_path / "gone"), ROOM)
    cached = encoder(gone)
    made = [cached(block()), cached(block())]
    assert made[0].equals(encode_block(block(), cached.encoding))
    said = gone.finish(cached.use(made))
    assert "\n" not in said
    assert "6 encoded; 2 time(s) without it: " in said
    assert not (tmp_path / "gone").exists()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        TokenCache(str(tmp_path / "file" / "cache"), ROOM).make()
