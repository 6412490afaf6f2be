"""From pairs of texts to scores, in batches of similar length.

Windows, batches and the sharing of work are those of :mod:`ray_st.models.text_encoding`: batches are a
function of the pairs alone, and a team of several processes gets bitwise the same scores as one process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ray_st.models.activations import Activation
from ray_st.models.process_pool import ScoringPool, by_length, chunk_rows, in_chunks, opened
from ray_st.models.text_encoding import (
    Batch,
    BatchPlan,
    length_batches,
    length_windows,
    run_batches,
    size_of,
    tokenized_plan,
    untokenized_plan,
)
from ray_st.util.host_facts import with_host_facts
from ray_st.util.tensors import Arriving, to_device, to_numpy

if TYPE_CHECKING:
    from ray_st.models.reranker.pair_encoder import Ids, PairEncoder
    from ray_st.models.reranker.pair_inputs import Pair
    from ray_st.models.reranker.scoring_methods import ScoresPairs
    from ray_st.util.team import Team


@dataclass(frozen=True)
class ScoreOptions:
    """What to compute, and the form in which to return it.

    Args:
        prompt: Put before the first text of each pair; None or "" for none.
        batch_size: Pairs in one batch.
        show_progress_bar: Whether to show one.
        activation: Applied to the model's output (n, k); None for the model's own.
        apply_softmax: Whether scores of several labels are scaled to probabilities, after the activation.
        form: "numpy" (an array), "tensor" (a tensor on the model's device) or "list" (of tensors).

    Raises:
        ValueError: If ``batch_size`` is less than 1.
    """

    prompt: str | None = None
    batch_size: int = 32
    show_progress_bar: bool = False
    activation: Activation | None = None
    apply_softmax: bool = False
    form: str = "numpy"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {self.batch_size}.")


def score_pairs(model: ScoresPairs, pairs: Sequence[Pair], request: ScoreOptions, team: Team) -> Any:
    """The scores of some pairs, in their order.

    Args:
        model: The model; in evaluation mode during the call.
        pairs: n pairs.
        request: What to compute, and in which form.
        team: The processes that share the batches; all must score the same pairs, and all get all scores.

    Returns:
        (n,) for one label or (n, k) for several, as an array or a tensor, or a list of n tensors.
    """
    activation = model.activation_fn if request.activation is None else request.activation

    def score(features: dict[str, Any], _: int) -> Tensor | Arriving:
        scores = finished(model(features)["scores"], activation, request.apply_softmax)
        return Arriving(scores) if request.form == "numpy" else scores

    plan = _plan(model, pairs, request)
    results, order = run_batches(model, plan, score, team, request.show_progress_bar)
    return _joined(results, order, model, request)


def finished(logits: Tensor, activation: Activation, apply_softmax: bool) -> Tensor:
    """A batch's scores from the model's output.

    Args:
        logits: The output (n, k). Types of less than 32 bits become float32, in which fewer scores tie.
        activation: Applied to them first.
        apply_softmax: Whether several labels' scores become probabilities.

    Returns:
        (n,) for k = 1, else (n, k).
    """
    wide = not logits.is_floating_point() or torch.finfo(logits.dtype).bits >= 32
    scores = activation(logits if wide else logits.float())
    if logits.shape[-1] == 1 and scores.dim() > 1:
        scores = scores.squeeze(-1)
    return scores.softmax(dim=1) if apply_softmax and scores.dim() > 1 else scores


def score_pairs_pooled(
    model: ScoresPairs,
    pairs: Sequence[Pair],
    request: ScoreOptions,
    pool: ScoringPool | None,
    devices: Sequence[str | torch.device] | None,
    chunk_size: int | None,
) -> Any:
    """The scores of some pairs, in their order, computed by a pool of processes.

    A chunk consists of whole batches of one window of the pairs sorted by length, so that each batch is the
    same as in one process.

    Args:
        model: The model of which the pool holds copies.
        pairs: n pairs, at least one.
        request: What to compute, and in which form.
        pool: The processes; None for a temporary pool.
        devices: A device for each process of the temporary pool.
        chunk_size: Pairs to send at a time; see :func:`ray_st.models.process_pool.encode_pooled`.

    Returns:
        As :func:`score_pairs`, but tensors are in main memory.

    Raises:
        ValueError: If ``chunk_size`` is less than 1.
    """
    windows = _by_length(model, pairs, request)
    options = {
        "prompt": request.prompt,
        "batch_size": request.batch_size,
        "show_progress_bar": False,
        "activation_fn": request.activation,
        "apply_softmax": request.apply_softmax,
        "convert_to_tensor": True,
    }
    with opened(model, pool, devices) as processes:
        size = chunk_rows(len(pairs), processes.size, chunk_size, request.batch_size)
        results = in_chunks(
            lambda chunks: processes.predict(chunks, options), pairs, windows, size, request.show_progress_bar
        )
    return _joined(results, np.concatenate(windows), model, request)


def _joined(results: Sequence[Tensor], order: np.ndarray, model: ScoresPairs, request: ScoreOptions) -> Any:
    """The scores of all batches in the order of the pairs, and in the requested form."""
    if not results:
        return {"numpy": np.array([]), "tensor": torch.empty(0, device=model.device)}.get(request.form, [])
    scores = torch.cat(list(results))
    scores = scores[to_device(torch.from_numpy(np.argsort(order)), scores.device)]
    if request.form == "numpy":
        return to_numpy(scores)
    return scores if request.form == "tensor" else list(scores)


def with_prompt_before(pairs: Sequence[Pair], prompt: str | None) -> list[Pair]:
    """The pairs with a prompt before the first text of each."""
    return [(f"{prompt}{first}", second) for first, second in pairs] if prompt else list(pairs)


def _plan(model: ScoresPairs, pairs: Sequence[Pair], request: ScoreOptions) -> BatchPlan:
    encoder = model.pair_encoder()
    if encoder is not None:
        pairs = with_prompt_before(pairs, request.prompt)
        windows = length_windows(pairs, request.batch_size)
        return BatchPlan(windows, request.batch_size, partial(_tokenized, encoder.whole, pairs, request))
    joint = model.joint_encoder(request.prompt)
    if joint is not None:
        return tokenized_plan(joint, pairs, request.batch_size, {})
    return untokenized_plan(model.tokenize, with_prompt_before(pairs, request.prompt), request.batch_size)


def _by_length(model: ScoresPairs, pairs: Sequence[Pair], request: ScoreOptions) -> list[np.ndarray]:
    """Indices of the pairs of each window, in the order in which ``model.predict`` sorts them."""
    encoder, joint = model.pair_encoder(), model.joint_encoder(request.prompt)
    prompted = with_prompt_before(pairs, request.prompt)
    if encoder is not None:
        whole = encoder.whole

        def lengths(window: np.ndarray) -> Any:
            return whole.lengths(*_ids(whole, [prompted[row] for row in window]))

        return by_length(length_windows(prompted, request.batch_size), lengths)
    if joint is not None:
        texts: Any = pairs
        windows = length_windows(pairs, request.batch_size)
        return by_length(windows, lambda rows: [len(ids) for ids in joint([texts[row] for row in rows])])
    return length_batches([size_of(pair) for pair in prompted], len(pairs))


def _tokenized(
    encoder: PairEncoder, pairs: Sequence[Pair], request: ScoreOptions, window: np.ndarray
) -> list[Batch]:
    queries, documents = _ids(encoder, [pairs[row] for row in window])

    def features(places: np.ndarray) -> dict[str, Any]:
        chosen = [[texts[place] for place in places] for texts in (queries, documents)]
        return with_host_facts(encoder.join(*chosen))

    lengths: NDArray[np.int64] = encoder.lengths(queries, documents)
    batches = length_batches(lengths.tolist(), request.batch_size)
    return [Batch(window[places], partial(features, places)) for places in batches]


def _ids(encoder: PairEncoder, pairs: Sequence[Pair]) -> tuple[list[Ids], list[Ids]]:
    """Token ids of the first and the second texts; a text that occurs several times is tokenized once."""
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    known: Mapping[str, Ids] = dict(zip(texts, encoder(texts), strict=True))
    return [known[first] for first, _ in pairs], [known[second] for _, second in pairs]
