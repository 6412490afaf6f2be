"""Packs rows into batches so that no value occurs twice in a batch, in time linear in the number of rows.

Most values of real data occur once, and their rows can go anywhere. The others are dealt like cards: rows
sorted by their most frequent value go to batches 0, 1, 2, … in turn, so rows that share this value land in
different batches. A row that still collides on another value tries random batches; what remains after a few
tries is packed by the same rule into batches of its own. Rows of unique values then fill up the batches from
the front.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ray_st.data.keys import Hashes
from ray_st.data.plan import Indices, Plan

_TRIES = 12


@dataclass(frozen=True)
class Repeats:
    """The values that occur in more than one row.

    Args:
        rows: (r,) indices of rows with at least one repeated value.
        values: (r, columns) code of each value, in ``[0, len(counts))``; -1 for a value that occurs in one
            row only or already occurs in an earlier column of the same row.
        counts: (values,) number of rows in which a value occurs.
        free: (f,) the other rows.
    """

    rows: Indices
    values: Indices
    counts: Indices
    free: Indices


def find_repeats(hashes: Hashes) -> Repeats:
    """Finds the repeated values of all rows and columns.

    Args:
        hashes: (rows, columns) hash of each value.
    """
    rows, columns = hashes.shape
    suspects = np.flatnonzero(_may_repeat(hashes).any(axis=1))
    codes, counts = _codes(hashes[suspects])
    # A text that occurs twice in a row counts once: a row cannot collide with itself.
    for column in range(1, columns):
        same = (codes[:, :column] == codes[:, column : column + 1]).any(axis=1)
        np.subtract.at(counts, codes[same, column], 1)
        codes[same, column] = -1
    repeated = counts > 1
    renumber = np.where(repeated, np.cumsum(repeated) - 1, -1)
    codes = np.where(codes >= 0, renumber[codes], -1)
    bound = (codes >= 0).any(axis=1)
    free = np.ones(rows, dtype=bool)
    free[suspects[bound]] = False
    return Repeats(suspects[bound], codes[bound], counts[repeated], np.flatnonzero(free))


def _may_repeat(hashes: Hashes) -> npt.NDArray[np.bool_]:
    """Marks values that may occur more than once; few unique values are marked.

    Sorting alone is much cheaper than numbering values, and in most data few values repeat.
    """
    ordered = np.sort(hashes, axis=None)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(repeated):
        return np.zeros(hashes.shape, dtype=bool)
    table = np.zeros(1 << (8 * len(repeated)).bit_length(), dtype=bool)
    last_bits = np.uint64(len(table) - 1)
    table[repeated & last_bits] = True
    return table[hashes & last_bits]


def _codes(hashes: Hashes) -> tuple[Indices, Indices]:
    """The rank of each value among the distinct values, and how often each distinct value occurs."""
    _, codes, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    return codes.reshape(hashes.shape).astype(np.int64), counts


def pack_without_repeats(repeats: Repeats, batch_size: int, rng: np.random.Generator) -> Plan:
    """Batches in which no value occurs twice; every row is in exactly one batch.

    Args:
        repeats: The repeated values of the rows, from :func:`find_repeats`.
        batch_size: Maximum rows in a batch. If repeats force smaller batches, they come at the end of the
            plan.
        rng: Draws the order.
    """
    total = len(repeats.rows) + len(repeats.free)
    batch_of = np.empty(len(repeats.rows), dtype=np.int64)
    waiting = np.arange(len(repeats.rows))
    steps = -(-total // batch_size)
    first = 0
    while len(waiting):
        values = repeats.values[waiting]
        # A value that occurs in n rows needs n batches.
        steps = max(steps, first + _most_frequent(values, len(repeats.counts)))
        batches = steps - first
        placed, chosen = _deal(values, repeats.counts, batches, batch_size, rng)
        batch_of[waiting[placed]] = chosen[placed] + first
        waiting = waiting[~placed]
        first = steps
        steps += -(-len(waiting) // batch_size)
    return _fill_up(repeats, batch_of, max(first, steps), batch_size, rng)


def _most_frequent(values: Indices, size: int) -> int:
    return int(np.bincount(values[values >= 0], minlength=size).max())


def _deal(
    values: Indices, counts: Indices, batches: int, batch_size: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.bool_], Indices]:
    """Chooses a batch for each row; also returns which rows found one."""
    rows = len(values)
    # The value of each row that is most likely to collide.
    main = np.take_along_axis(
        values, np.where(values >= 0, counts[values], 0).argmax(axis=1)[:, None], axis=1
    )[:, 0]
    trying = rng.permutation(rows)
    # Dealt in turn, consecutive rows go to different batches: rows of one value are made consecutive, values
    # and the rows of each in random order.
    order = trying[_stable_argsort(rng.permutation(len(counts))[main[trying]])]
    batch_of = np.empty(rows, dtype=np.int64)
    batch_of[order] = (np.arange(rows) + rng.integers(batches)) % batches
    taken = np.zeros(0, dtype=np.int64)
    filled = np.zeros(batches, dtype=np.int64)
    placed = np.zeros(rows, dtype=bool)
    for _ in range(_TRIES):
        fits = _without_conflict(batch_of[trying], values[trying], len(counts), taken)
        fits &= _within_capacity(batch_of[trying], fits, batch_size - filled)
        accepted = trying[fits]
        placed[accepted] = True
        filled += np.bincount(batch_of[accepted], minlength=batches)
        taken = np.concatenate([taken, _pairs(batch_of[accepted], values[accepted], len(counts))])
        taken.sort()
        trying = trying[~fits]
        room = np.flatnonzero(filled < batch_size)
        if len(trying) == 0 or len(room) == 0:
            break
        batch_of[trying] = rng.choice(room, len(trying))
    return placed, batch_of


def _pairs(batch_of: Indices, values: Indices, size: int) -> Indices:
    """One integer for each (batch, value) pair that rows occupy."""
    pairs = batch_of[:, None] * size + values
    return pairs[values >= 0]


def _without_conflict(batch_of: Indices, values: Indices, size: int, taken: Indices) -> npt.NDArray[np.bool_]:
    """Rows none of whose values is already in their batch, through ``taken`` or an earlier row."""
    rows = np.nonzero(values >= 0)[0]
    pairs = _pairs(batch_of, values, size)
    order = _stable_argsort(pairs)
    pairs = pairs[order]
    later = np.zeros(len(pairs), dtype=bool)
    later[1:] = pairs[1:] == pairs[:-1]
    if len(taken):
        later |= taken[np.minimum(np.searchsorted(taken, pairs), len(taken) - 1)] == pairs
    fits = np.ones(len(values), dtype=bool)
    fits[rows[order[later]]] = False
    return fits


def _within_capacity(
    batch_of: Indices, wanted: npt.NDArray[np.bool_], room: Indices
) -> npt.NDArray[np.bool_]:
    """The first wanted rows of each batch, up to its remaining capacity."""
    rows = np.flatnonzero(wanted)
    asked = np.bincount(batch_of[rows], minlength=len(room))
    if (asked <= room).all():
        return wanted
    order = _stable_argsort(batch_of[rows])
    batches = batch_of[rows][order]
    turn = np.arange(len(rows)) - (np.cumsum(asked) - asked)[batches]
    fits = np.zeros(len(batch_of), dtype=bool)
    fits[rows[order]] = turn < room[batches]
    return fits


def _stable_argsort(numbers: Indices) -> Indices:
    """Stable argsort of integers >= 0.

    Several times faster than numpy's if number and position together fit into 63 bits.
    """
    bits = len(numbers).bit_length()
    if int(numbers.max(initial=0)).bit_length() + bits > 63:
        return np.argsort(numbers, kind="stable")
    packed = (numbers << bits) | np.arange(len(numbers))
    packed.sort()
    return packed & ((1 << bits) - 1)


def _fill_up(
    repeats: Repeats, batch_of: Indices, steps: int, batch_size: int, rng: np.random.Generator
) -> Plan:
    """Puts the rows of unique values into free slots, from the front.

    Then orders rows by batch, full batches first.
    """
    room = batch_size - np.bincount(batch_of, minlength=steps)
    # Not ``permutation(repeats.free)``: numpy shuffles even an empty array in place, which fails on read-only
    # shared memory.
    free = repeats.free[rng.permutation(len(repeats.free))]
    used = int(np.searchsorted(np.cumsum(room), len(free))) + 1
    seats = np.repeat(np.arange(steps)[:used], room[:used])[: len(free)]
    rows = np.concatenate([repeats.rows, free])
    batches = np.concatenate([batch_of, seats])
    sizes = np.bincount(batches, minlength=steps)
    by_fullness = np.argsort(sizes < batch_size, kind="stable")
    place = np.empty(steps, dtype=np.int64)
    place[by_fullness] = np.arange(steps)
    shuffled = rng.permutation(len(rows))
    order = shuffled[_stable_argsort(place[batches[shuffled]])]
    sizes = sizes[by_fullness]
    return Plan.of_sizes(rows[order], sizes[sizes > 0])
