"""Embeds the text columns of a batch together, in chunks of rows of similar length."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ray_st.losses.budget import DEFAULT_TOKENS
from ray_st.losses.call_cost import call_tokens as cost_of_call
from ray_st.losses.model_facts import removes_padding, tokenizer_of
from ray_st.util.chunks import Chunk, cheapest_chunks
from ray_st.util.host_facts import HOST_KEYS, PAD_ID, PADDING_SIDE, PAIR_COUNTS, TokenFacts, host_copy
from ray_st.util.tensors import to_device

Chunks: TypeAlias = "list[dict[str, Any]]"
Run: TypeAlias = Callable[[nn.Module, Chunks], Tensor]
"""Runs a model on chunks of rows, one call per chunk, and returns their embeddings concatenated."""

_TOKEN_KEYS = ("input_ids", "attention_mask", "token_type_ids")
_ROUTE_KEYS = ("task", "modality")


def embed_columns(
    model: nn.Module,
    features: Iterable[Mapping[str, Any]],
    token_budget: int = DEFAULT_TOKENS,
    call_tokens: int | None = None,
    rows: int | None = None,
    run: Run | None = None,
) -> list[Tensor]:
    """Embeds all columns of a batch with as little padding as is worth its calls.

    The rows of all columns are sorted by length and cut into chunks; the model runs once per chunk and the
    rows are put back in order. Value and gradient equal those of one call per column for every model whose
    embeddings don't depend on padding; with dropout only the random draws differ. Features that hold anything
    but ``input_ids``, ``attention_mask``, ``token_type_ids``, ``prompt_length`` and what stays on the host
    are embedded one column per call. Columns whose ``task`` or ``modality`` differ take different routes
    through the model, so only columns of one route are embedded together.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d), or with ``scores`` (n, k).
        features: For each column ``input_ids`` (n, t) and ``attention_mask`` (n, t), padded left or right,
            optionally ``token_type_ids`` (n, t) and ``prompt_length``, a number or (n,). If all columns carry
            :data:`ray_st.util.host_facts.HOST_KEYS`, calls of the model get ``token_lengths`` and
            ``padding_side`` of their rows, and nothing waits for the device. Left unchanged.
        token_budget: Most padded tokens per call; a single longer row still gets a call.
        call_tokens: Cost of one more call, in tokens. By default that of
            :func:`ray_st.losses.call_cost.call_tokens`, and on accelerators no more tokens in all than in a
            call for each column; for a model whose ``without_padding`` is true, which removes padding itself,
            only the budget cuts.
        rows: Most rows per call; on accelerators, and for a model that removes padding itself, as many tokens
            as in so many of the longest rows. None for no limit.
        run: Runs the model on the chunks; :func:`run_plainly` by default.

    Returns:
        For each column its embeddings (n, d).

    Raises:
        ValueError: If the model returns neither ``sentence_embedding`` nor ``scores``.
    """
    routes: dict[tuple[Any, ...], dict[int, dict[str, Any]]] = {}
    for place, column in enumerate(features):
        # Counts of pairs are not one a row of the model's inputs: cut with them, they would be wrong.
        own = {key: value for key, value in column.items() if key != PAIR_COUNTS}
        routes.setdefault(tuple(map(column.get, _ROUTE_KEYS)), {})[place] = own
    found: dict[int, Tensor] = {}
    for alike in routes.values():
        columns = list(alike.values())
        embeddings = _embed_alike(model, columns, token_budget, call_tokens, rows, run or run_plainly)
        found.update(zip(alike, embeddings, strict=True))
    return [found[place] for place in sorted(found)]


def _embed_alike(
    model: nn.Module,
    columns: list[dict[str, Any]],
    token_budget: int,
    call_tokens: int | None,
    rows: int | None,
    run: Run,
) -> list[Tensor]:
    """Embeds columns of one route; see :func:`embed_columns`."""
    if not _mergeable(columns):
        return [run(model, _pieces(column, rows)) for column in columns]
    device, packs = columns[0]["input_ids"].device, removes_padding(model)
    most = None
    if call_tokens is None and not packs:
        call_tokens = cost_of_call(model, device)
        if device.type != "cpu":  # where the cost is an estimate
            most = sum(column["input_ids"].numel() for column in columns)
    known = TokenFacts.joined([TokenFacts.carried_by(column) for column in columns])
    facts = known or _read(columns)
    lengths = facts.lengths.clip(min=1)
    if rows is not None and (packs or device.type != "cpu"):
        # As many tokens as in so many rows of the longest take as much memory, in fewer calls. Where padding
        # is removed, calls then have similar numbers of tokens; oneDNN keeps data for each different one.
        token_budget, rows = min(token_budget, rows * int(lengths.max())), None
    chunks = plan_chunks(lengths, token_budget, call_tokens, rows, most)
    order = np.concatenate([chunk for chunk, _ in chunks])
    # Chunks permute the rows; argsort inverts the permutation. One copy brings both to the device.
    there, back = to_device(torch.from_numpy(np.stack([order, np.argsort(order)])), device)
    pad_id = _pad_id(model) if facts.pad_id is None else facts.pad_id
    merged = _merge(columns, facts.left, pad_id, there)
    route = {key: columns[0][key] for key in _ROUTE_KEYS if key in columns[0]}
    embeddings = run(model, [chunk | route for chunk in _cut(merged, chunks, facts, known is not None)])
    sizes = [len(column["input_ids"]) for column in columns]
    return list(embeddings.index_select(0, back).split(sizes))


def run_plainly(model: nn.Module, chunks: Chunks) -> Tensor:
    """Calls the model once per chunk.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        chunks: Features of each chunk.
    """
    return torch.cat([call(model, chunk) for chunk in chunks])


def plan_chunks(
    lengths: NDArray[np.int64],
    token_budget: int = DEFAULT_TOKENS,
    call_tokens: int | None = 0,
    rows: int | None = None,
    most_tokens: int | None = None,
) -> list[Chunk]:
    """Cuts rows into chunks of similar length.

    If padding costs anything, the cuts are those of :func:`ray_st.util.chunks.cheapest_chunks`, and chunks
    over the budget are cut into even pieces. Otherwise only the budget cuts.

    Args:
        lengths: Tokens of each row, at least 1 (n,).
        token_budget: Most tokens per chunk, including padding if it costs anything; a single longer row is a
            chunk of its own.
        call_tokens: Cost of one more chunk, in tokens; None if padding is free.
        rows: Most rows per chunk; None for no limit.
        most_tokens: Most tokens in all, if padding costs anything; None for no limit.

    Returns:
        For each chunk its row numbers (k,) and its width in tokens.
    """
    most = rows or len(lengths)
    if call_tokens is None:
        return _filled(lengths, token_budget, most)
    chunks = []
    for chosen, width in cheapest_chunks(lengths, call_tokens, most_tokens):
        pieces = np.array_split(chosen, -(-len(chosen) // max(1, min(token_budget // width, most))))
        chunks += [(piece, int(lengths[piece[-1]])) for piece in pieces]
    return chunks


def _filled(lengths: NDArray[np.int64], token_budget: int, rows: int) -> list[Chunk]:
    """Rows sorted by length, in the largest chunks within the budget of real tokens and the limit of rows."""
    order = np.argsort(lengths, kind="stable")
    ends = np.concatenate([[0], np.cumsum(lengths[order])])
    chunks, start = [], 0
    while start < len(order):
        fitting = int(np.searchsorted(ends, ends[start] + token_budget, side="right")) - 1
        stop = max(start + 1, min(fitting, start + rows))
        chunks.append((order[start:stop], int(lengths[order[stop - 1]])))
        start = stop
    return chunks


def _mergeable(columns: Sequence[Mapping[str, Any]]) -> bool:
    # All features must be the same to be merged, but for those that may be missing in some columns.
    optional = {*_ROUTE_KEYS, *HOST_KEYS, "prompt_length"}
    keys = [set(column) - optional for column in columns]
    return (
        bool(columns)
        and all(mine <= set(_TOKEN_KEYS) and mine == keys[0] for mine in keys)
        and {"input_ids", "attention_mask"} <= keys[0]
        and all(column[key].ndim == 2 for column in columns for key in keys[0])
        and all(column["input_ids"].numel() for column in columns)
    )


def _pieces(column: dict[str, Any], rows: int | None) -> Chunks:
    """A column of other features, cut into pieces if each of its tensors has one entry per row."""
    route = {key: column[key] for key in (*_ROUTE_KEYS, PADDING_SIDE, PAD_ID) if key in column}
    parts = {key: value for key, value in column.items() if key not in route}
    tensors = [value for value in parts.values() if isinstance(value, Tensor)]
    sizes = {len(value) if value.ndim else 0 for value in tensors}
    if rows is None or len(sizes) != 1 or len(tensors) != len(parts):
        return [column]
    starts = range(0, sizes.pop(), rows)
    return [{key: value[start : start + rows] for key, value in parts.items()} | route for start in starts]


def first_row(chunk: dict[str, Any]) -> dict[str, Any]:
    """The features of a chunk's first row; the chunk itself if it cannot be cut."""
    return _pieces(chunk, 1)[0]


def _read(columns: Sequence[Mapping[str, Any]]) -> TokenFacts:
    """What columns that carry no facts, or have tokens anywhere, show to the host."""
    masks = [host_copy(column["attention_mask"]) for column in columns]
    # A row padded left begins with padding and ends with a token.
    left = any(bool((mask[:, 0] < mask[:, -1]).any()) for mask in masks)
    lengths = np.concatenate([_reach(mask, left) for mask in masks])
    # The batch itself shows the id of padding, whichever tokenizer made it.
    pairs = zip(columns, masks, strict=True)
    padding = (host_copy(column["input_ids"])[mask == 0] for column, mask in pairs if not mask.all())
    found = next(padding, None)
    return TokenFacts(lengths, left, None if found is None else int(found[0]))


def _reach(mask: Tensor, left: bool) -> NDArray[np.int64]:
    """Tokens from the outer end to the last real one, so that gaps in a mask stay inside."""
    real = (mask.flip(1) if left else mask) != 0
    reach: NDArray[np.int64] = (real * torch.arange(1, mask.shape[1] + 1)).amax(1).numpy()
    return reach


def _pad_id(model: nn.Module) -> int:
    match tokenizer_of(model):  # a StaticEmbedding's tokenizer has no padding
        case object(pad_token_id=int(pad_id)):
            return pad_id
    return 0


def _merge(columns: Sequence[Mapping[str, Any]], left: bool, pad_id: int, order: Tensor) -> dict[str, Tensor]:
    """The rows of all columns as one batch, in this order (n,)."""
    width = max(column["input_ids"].shape[1] for column in columns)

    def widen(rows: Tensor, fill: int) -> Tensor:
        missing = width - rows.shape[1]
        return F.pad(rows, (missing, 0) if left else (0, missing), value=fill)

    merged = {
        key: torch.cat([widen(column[key], pad_id if key == "input_ids" else 0) for column in columns])
        for key in _TOKEN_KEYS
        if key in columns[0]
    }
    if any("prompt_length" in column for column in columns):
        merged["prompt_length"] = torch.cat([_prompt_lengths(column) for column in columns])
    return {key: tensor.index_select(0, order) for key, tensor in merged.items()}


def _prompt_lengths(column: Mapping[str, Any]) -> Tensor:
    ids, given = column["input_ids"], column.get("prompt_length", 0)
    if isinstance(given, int):
        return ids.new_full((len(ids),), given, dtype=torch.long)
    lengths = torch.as_tensor(given, dtype=torch.long, device=ids.device)
    return lengths.reshape(-1).expand(len(ids))


def _cut(
    merged: Mapping[str, Tensor], chunks: Sequence[Chunk], facts: TokenFacts, carries: bool
) -> Iterator[dict[str, Any]]:
    """The features of each chunk of rows that were merged in the order of the chunks."""
    stop = 0
    for chosen, width in chunks:
        start, stop = stop, stop + len(chosen)
        columns = slice(-width, None) if facts.left else slice(width)
        rows = {key: tensor[start:stop] for key, tensor in merged.items()}
        features = {key: part if part.ndim == 1 else part[:, columns] for key, part in rows.items()}
        own = TokenFacts(facts.lengths[chosen], facts.left, None)
        yield {**features, **own.carried} if carries else features


def call(model: nn.Module, features: dict[str, Any]) -> Tensor:
    """The model's embeddings (n, d) of features."""
    return embedding_of(model(features))


def embedding_of(output: Mapping[str, Any]) -> Tensor:
    """The embeddings (n, d) in a model's output, or the scores (n, k) of a model of pairs.

    Raises:
        ValueError: If there are neither.
    """
    if "scores" in output:  # first: a model of pairs may make them from an embedding
        return output["scores"]
    if "sentence_embedding" not in output:
        raise ValueError(
            f"The model must give 'sentence_embedding', or 'scores' if it is a model of pairs; found "
            f"{sorted(output)}. Add a Pooling module to it."
        )
    return output["sentence_embedding"]
