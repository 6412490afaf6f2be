"""A folder of encoded blocks, so that the same rows are tokenized once, whichever run reads them.

An entry is a file named after its key, a hash of the block's rows and of all that determines what they are
encoded to. So an entry never becomes outdated, and runs with different tokenizers, prompts or columns can
share a folder. A file gets its name when it is complete (it is written under another name, then moved), so
the name takes the place of a manifest. Its last bytes are a hash of its key and its content: an entry that
was damaged, or renamed, is made again. Several runs may write at once; those who write the same entry write
the same content, and one of them stays.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import xxhash

from ray_st.data.encoding import Encoding, encode_block, encode_rows, with_locations
from ray_st.data.located import READ_FAULT
from ray_st.util.arrow import is_text
from ray_st.util.atomic import is_unfinished, replacing_in
from ray_st.util.states import UnknownState

FORMAT = 1
"""Part of each key. Raise it if the same rows and encoding give something else than before."""

FOLDER = "token-cache"
"""Name of the folder in that of a run."""

_SUFFIX = ".arrow"
_ABANDONED = timedelta(days=1)
_USE = b"ray_st.token_cache"  # metadata of an encoded block
_FIRST_UNFIT = 1 << 16


@dataclass(frozen=True)
class CacheUse:
    """What a cache was used for.

    Args:
        read: Number of rows whose encoded form was read.
        encoded: Number of rows that were encoded.
        damaged: Number of damaged entries that were made again.
        keys: The entries, in the order of the rows.
        faults: Why entries could not be read or written; or why the cache is not used.
    """

    read: int = 0
    encoded: int = 0
    damaged: int = 0
    keys: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()

    @classmethod
    def joined(cls, uses: Iterable[CacheUse]) -> CacheUse:
        """All of these together, in order."""
        every = list(uses)
        return cls(
            sum(use.read for use in every),
            sum(use.encoded for use in every),
            sum(use.damaged for use in every),
            tuple(key for use in every for key in use.keys),
            tuple(fault for use in every for fault in use.faults),
        )

    def described(self, path: str) -> str:
        """A line about it.

        Args:
            path: The cache's folder.
        """
        if self.faults and not self.keys:
            return f"token cache: not used: {self.faults[0]}"
        parts = [f"token cache: {self.read:,} rows read from {path}, {self.encoded:,} encoded"]
        if self.damaged:
            parts.append(f"{self.damaged:,} damaged entries were made again")
        if self.faults:
            parts.append(f"{len(self.faults):,} time(s) without it: {self.faults[0]}")
        return "; ".join(parts)


def _use_of(block: pa.Table) -> CacheUse:
    noted = (block.schema.metadata or {}).get(_USE)
    if noted is None:
        return CacheUse()
    use, rows = json.loads(noted), len(block)
    return CacheUse(
        read=rows * use["hit"],
        encoded=rows * (not use["hit"]),
        damaged=use["damaged"],
        keys=(use["key"],),
        faults=tuple(use["faults"]),
    )


@dataclass(frozen=True)
class TokenCache:
    """A folder of encoded blocks.

    While rows are encoded the folder may grow to twice its size; then :meth:`trim` removes the oldest
    entries. A run whose entry is removed while it looks for it encodes the rows again.

    Args:
        path: The folder's path on its file system.
        max_bytes: Its size.
        filesystem: The file system; local by default.
    """

    path: str
    max_bytes: int
    filesystem: pafs.FileSystem = field(default_factory=pafs.LocalFileSystem)

    def make(self) -> None:
        """Creates the folder.

        Raises:
            OSError: If it cannot be created.
        """
        self.filesystem.create_dir(self.path, recursive=True)

    def read(self, key: str) -> pa.Table | None:
        """The table of an entry; None if there is none.

        Args:
            key: The entry's.

        Raises:
            DamagedEntry: If it is not what was written under this key.
            OSError: If it cannot be read.
        """
        try:
            with self.filesystem.open_input_file(self._file(key)) as stream:
                content = stream.read_buffer()
        except FileNotFoundError:
            return None
        end = len(content) - xxhash.xxh3_128().digest_size
        if end < 0 or content.slice(end).to_pybytes() != _seal(key, content.slice(0, end)):
            raise DamagedEntry(self._file(key))
        return _wide(pa.ipc.open_stream(content.slice(0, end)).read_all())

    def write(self, key: str, table: pa.Table) -> None:
        """Writes an entry; replaces one of this key.

        Args:
            key: The entry's.
            table: Its content.

        Raises:
            OSError: If it cannot be written, or the folder holds twice its size already.
        """
        held = sum(entry.size for entry in self._entries())
        if held >= 2 * self.max_bytes:
            raise OSError(f"the folder holds {held:,} bytes, twice its size, {self.max_bytes:,}")
        sink = pa.BufferOutputStream()
        narrow = _narrow(table)
        with pa.ipc.new_stream(sink, narrow.schema) as writer:
            writer.write_table(narrow)
        content = sink.getvalue()
        with replacing_in(self.filesystem, self._file(key)) as stream:
            stream.write(content)
            stream.write(_seal(key, content))

    def trim(self, used: Sequence[str]) -> int:
        """Removes the oldest entries until the rest fits, and what killed writers left a day ago.

        Entries that were just used go last, and of these the last rows first: data that is larger than the
        cache finds its first rows next time.

        Args:
            used: Keys of the entries that were just used, in the order of their rows.

        Returns:
            The number of entries that were removed.

        Raises:
            OSError: If the folder cannot be listed, or a file not removed.
        """
        order = {f"{key}{_SUFFIX}": place for place, key in enumerate(used)}
        entries = sorted(
            self._entries(),
            key=lambda entry: (
                (1, -order[entry.base_name]) if entry.base_name in order else (0, _age(entry).timestamp())
            ),
        )
        excess = sum(entry.size for entry in entries) - self.max_bytes
        removed = 0
        while excess > 0:
            excess -= entries[removed].size
            self._remove(entries[removed])
            removed += 1
        for left in self._files():
            if is_unfinished(left.base_name) and datetime.now(timezone.utc) - _age(left) > _ABANDONED:
                self._remove(left)
        return removed

    def held(self, keys: Iterable[str]) -> tuple[int, int]:
        """How many of some entries the folder holds, and their bytes.

        Args:
            keys: The entries' keys.
        """
        wanted = {f"{key}{_SUFFIX}" for key in keys}
        sizes = [entry.size for entry in self._entries() if entry.base_name in wanted]
        return len(sizes), sum(sizes)

    def finish(self, use: CacheUse) -> str:
        """Trims the folder after rows were encoded; returns a line about what it was used for.

        Args:
            use: What that was.
        """
        try:
            self.trim(use.keys)
        except OSError as error:
            use = dataclasses.replace(use, faults=(*use.faults, str(error)))
        return use.described(self.path)

    def _file(self, key: str) -> str:
        return f"{self.path}/{key}{_SUFFIX}"

    def _files(self) -> list[pafs.FileInfo]:
        found = self.filesystem.get_file_info(pafs.FileSelector(self.path, allow_not_found=True))
        return [entry for entry in found if entry.is_file]

    def _entries(self) -> list[pafs.FileInfo]:
        return [
            file
            for file in self._files()
            if file.extension == _SUFFIX[1:] and not is_unfinished(file.base_name)
        ]

    def _remove(self, file: pafs.FileInfo) -> None:
        with suppress(FileNotFoundError):  # another driver trims, too
            self.filesystem.delete_file(file.path)


class DamagedEntry(ValueError):
    """An entry's content is not what was written under its key."""


def _age(file: pafs.FileInfo) -> datetime:
    return file.mtime or datetime.fromtimestamp(0, timezone.utc)


def _seal(key: str, content: pa.Buffer) -> bytes:
    hashed = xxhash.xxh3_128(key.encode())
    hashed.update(content)
    return hashed.digest()


# ---- 16 bits on disk, 32 in memory ----


def _narrow(table: pa.Table) -> pa.Table:
    """Token ids in 16 bits in the columns that allow it; only files hold them so."""
    return _with_ids(table, pa.int32(), pa.uint16())


def _wide(table: pa.Table) -> pa.Table:
    """Token ids in 32 bits, which all readers expect."""
    return _with_ids(table, pa.uint16(), pa.int32())


def _with_ids(table: pa.Table, old: pa.DataType, new: pa.DataType) -> pa.Table:
    for place, column in enumerate(table.schema):
        if column.type != pa.large_list(old) or not column.name.startswith("ids:"):
            continue
        (array,) = table[place].chunks
        values = array.values
        if len(values) and not 0 <= pc.min(values).as_py() <= pc.max(values).as_py() < _FIRST_UNFIT:
            continue
        cast = pa.LargeListArray.from_arrays(array.offsets, values.cast(new))
        table = table.set_column(place, column.name, cast)
    return table


# ---- keys, and encoding through a cache ----


@dataclass(frozen=True)
class BlockEncoder:
    """Encodes blocks, or reads what a cache has of them.

    Args:
        encoding: How to encode rows.
        cache: The cache; None for none.
        state: A hash of ``encoding.state()``; needed for a cache.
        unused: Why a cache that was given is not used.
    """

    encoding: Encoding
    cache: TokenCache | None = None
    state: str = ""
    unused: str = ""

    @classmethod
    def of(cls, encoding: Encoding, cache: TokenCache | None, label: str) -> BlockEncoder:
        """An encoder that uses a cache if it can know what determines the encoded rows.

        Args:
            encoding: How to encode rows.
            cache: The cache; None for none.
            label: Name of the rows, for the reason why the cache is not used.
        """
        if cache is None:
            return cls(encoding)
        if all(encoding.encoder_of(name) is None for name in encoding.columns.texts):
            return cls(encoding, unused=f"{label}: texts are not tokenized ahead of training")
        try:
            state = encoding.state()
        except UnknownState as error:
            return cls(encoding, unused=f"{label}: {error}")
        return cls(encoding, cache, xxhash.xxh3_128_hexdigest(state.encode()))

    def use(self, blocks: Iterable[pa.Table]) -> CacheUse:
        """What the cache was used for.

        Args:
            blocks: What this encoder returned, or columns of it; Ray may have split some of them.
        """
        use = CacheUse.joined(map(_use_of, blocks))
        return dataclasses.replace(use, faults=(self.unused,)) if self.unused else use

    def __call__(self, block: pa.Table) -> pa.Table:
        """What :func:`encode_block` returns, with a note in the schema's metadata for :class:`CacheUse`."""
        if self.cache is None or not len(block):
            return encode_block(block, self.encoding)
        key = block_key(block, self.encoding.columns.names, self.state)
        faults, damaged = [], 0
        encoded = None
        try:
            encoded = self.cache.read(key)
        except DamagedEntry:
            damaged = 1
        except OSError as error:
            faults.append(str(error))
        hit = encoded is not None
        if encoded is None:
            encoded = encode_rows(block, self.encoding)
            if not faults:  # what cannot be read for now is not replaced
                try:
                    self.cache.write(key, encoded)
                except OSError as error:
                    faults.append(str(error))
        use = {"hit": hit, "damaged": damaged, "key": key, "faults": faults}
        encoded = with_locations(encoded, block)
        return encoded.replace_schema_metadata({_USE: json.dumps(use).encode()})


def block_key(block: pa.Table, columns: Sequence[str], state: str) -> str:
    """The key of the entry of a block.

    How rows are cut into chunks, and which type of strings holds their texts, makes no difference.

    Args:
        block: The rows, as read.
        columns: The columns that are encoded.
        state: A hash of the encoding's state.
    """
    names = list(columns)
    if READ_FAULT in block.column_names and block[READ_FAULT].null_count < len(block):
        names.append(READ_FAULT)  # such a fault names its place, which is known without reading the row
    arrays = [_plain(block[name]) for name in names]
    batch = pa.record_batch(arrays, names=names)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    hashed = xxhash.xxh3_128(f"{FORMAT} {state} ".encode())
    hashed.update(sink.getvalue())
    return hashed.hexdigest()


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece, with one type for all kinds of texts."""
    array = column.combine_chunks()
    if isinstance(array, pa.DictionaryArray):
        array = array.dictionary_decode()
    return array.cast(pa.large_string()) if is_text(array.type) else array
