"""From texts to embeddings in batches of similar length.

Many texts are cut into windows by their length in characters, and each window into batches by its texts'
length in tokens, so that the device need not wait until all are tokenized. The batches are a function of the
texts' lengths alone. A team of several processes shares out the same batches and gets bitwise the same
embeddings as one process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ray_st.models.module import ChecksInputs, UsesChat
from ray_st.util.ahead import one_ahead
from ray_st.util.host_facts import host_copy, with_host_facts, without_host_facts
from ray_st.util.search.quantize import PRECISIONS, quantize_embeddings
from ray_st.util.team import Team, dealt_indices, share_out
from ray_st.util.tensors import (
    Arriving,
    batch_to_device,
    normalize_embeddings,
    to_device,
    to_numpy,
    truncate_embeddings,
)
from ray_st.util.value_checks import lone_surrogate

if TYPE_CHECKING:
    from ray_st.models.stack import Stack
    from ray_st.models.tokens import TokenEncoder
    from ray_st.models.whole_model import WholeModel


WINDOW_BATCHES = 128
"""Batches of a window.

So many that texts of similar length in tokens find each other although windows are cut by characters: of
100,000 sentences from documentation, in batches of 32, padding adds 1.0 % to the tokens; 1.9 % with 64
batches, 6.8 % with 16, 0.1 % if all are one window. So few that the first batch of 32 waits for 4,096 texts.
"""


@dataclass(frozen=True)
class EncodeOptions:
    """What to compute, and the form in which to return it.

    Args:
        prompt: Put before each text; None or "" for none.
        batch_size: Texts in one batch.
        show_progress_bar: Whether to show one.
        output_value: "sentence_embedding", "token_embeddings" (one tensor (t, d) per text, without padding),
            or None for a dict of all features per text.
        precision: "float32", "int8", "uint8", "binary" or "ubinary".
        form: "numpy" (an array), "tensor" (a tensor on the model's device) or "list" (of tensors).
        normalize: Whether to scale embeddings to unit length.
        truncate_dim: Dimensions to keep; None keeps all.
        options: Passed to the model's ``tokenize`` and ``forward``, such as the ``task``.

    Raises:
        ValueError: If a value is none of those listed.
    """

    prompt: str | None = None
    batch_size: int = 32
    show_progress_bar: bool = False
    output_value: str | None = "sentence_embedding"
    precision: str = "float32"
    form: str = "numpy"
    normalize: bool = False
    truncate_dim: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {self.batch_size}.")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {self.precision!r}.")
        if self.output_value not in ("sentence_embedding", "token_embeddings", None):
            raise ValueError(
                "output_value must be 'sentence_embedding', 'token_embeddings' or None; got "
                f"{self.output_value!r}."
            )


def check_inputs_of(module: nn.Module, inputs: Sequence[Any]) -> None:
    """Raises for inputs that a first module does not take: anything but strings, unless it says otherwise.

    Raises:
        ValueError: Naming the first such entry and its index.
    """
    if isinstance(module, ChecksInputs):
        module.check_inputs(inputs)
    else:
        check_texts(inputs)


def check_texts(texts: Sequence[object]) -> None:
    """Raises for entries that are not text, before the tokenizer sees them.

    Raises:
        ValueError: Naming the first entry that is not a string or not Unicode, and its index.
    """
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"Texts must be strings; entry {place} is {type(text).__name__}: {text!r:.80}.")
        check_unicode(text, place)


def check_unicode(text: str, place: int) -> None:
    """Raises for a text with half of a surrogate pair, which no tokenizer takes.

    Args:
        text: The text.
        place: Its index among the inputs.

    Raises:
        ValueError: Naming the index and the character.
    """
    half = lone_surrogate(text)
    if half is not None:
        raise ValueError(f"Texts must be Unicode; in entry {place}, {text!a:.80}, {half}.")


def chosen_prompt(prompt: str | None, name: str | None, prompts: Mapping[str, str]) -> str | None:
    """The text to put before others.

    Args:
        prompt: The text itself, which overrides the name; None for the named one.
        name: The name; None for no prompt.
        prompts: The model's prompts by name.

    Raises:
        ValueError: If there is no prompt of this name.
    """
    if prompt is not None or name is None:
        return prompt
    if name not in prompts:
        raise ValueError(f"There is no prompt named {name!r}; the model's prompts are {sorted(prompts)}.")
    return prompts[name]


def with_prompt(texts: Sequence[Any], prompt: str | None) -> list[Any]:
    """The texts with a prompt before each, also within ``{task: text}`` dicts; images are left unchanged."""

    def put(value: object) -> Any:
        if isinstance(value, Mapping):
            return {task: put(text) for task, text in value.items()}
        return f"{prompt}{value}" if isinstance(value, str) else value

    return [put(text) for text in texts] if prompt else list(texts)


def size_of(value: object) -> int:
    """What texts and pairs are sorted by if there are no token ids: characters. Images come last."""
    if isinstance(value, Mapping):
        return sum(map(size_of, value.values()))
    if isinstance(value, tuple):
        return sum(map(size_of, value))
    return len(value) if isinstance(value, str) else 0


def length_batches(lengths: Sequence[int], batch_size: int) -> list[np.ndarray]:
    """Indices of texts in batches of similar length, the longest first; equal lengths keep their order.

    Args:
        lengths: Length of each text.
        batch_size: Texts in one batch; the last may have fewer.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def length_windows(texts: Sequence[Any], batch_size: int) -> list[np.ndarray]:
    """Indices of texts in windows of whole batches and of similar length in characters, the longest first.

    Texts that fit into one window keep their order.

    Args:
        texts: n texts, or ``{task: text}`` dicts.
        batch_size: Texts in one batch; the last may have fewer.
    """
    rows = WINDOW_BATCHES * batch_size
    if len(texts) <= rows:
        return [np.arange(len(texts))]
    return length_batches([size_of(text) for text in texts], rows)


def encode_texts(model: Stack, texts: Sequence[str], request: EncodeOptions, team: Team) -> Any:
    """The embeddings of some texts, in their order.

    Args:
        model: The model; in evaluation mode during the call.
        texts: n texts.
        request: What to compute, and in which form.
        team: The processes that share the batches; all must encode the same texts, and all get all
            embeddings.

    Returns:
        (n, d) as an array or a tensor, a list of n tensors (d,), or a list of n values of another output.
    """
    model.check_inputs(texts)

    def embed(features: dict[str, Any], rows: int) -> Any:
        return _pick(model(features, **request.options), rows, request)

    plan = _plan(model, texts, request)
    results, order = run_batches(model, plan, embed, team, request.show_progress_bar)
    return joined(results, order, model, request)


@dataclass(frozen=True)
class Batch:
    """Texts that are computed at once.

    Args:
        rows: Their indices.
        features: Makes their features.
    """

    rows: np.ndarray
    features: Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class BatchPlan:
    """The batches of some texts: a function of the texts alone, so that processes can share them.

    Args:
        windows: Indices of the texts in each window.
        batch_size: Texts in one batch; the last of a window may have fewer.
        prepare: Makes the batches of a window; called in a thread while the one before is computed.
    """

    windows: Sequence[np.ndarray]
    batch_size: int
    prepare: Callable[[np.ndarray], list[Batch]]

    @property
    def batches(self) -> int:
        """Number of batches in all windows."""
        return sum(math.ceil(len(window) / self.batch_size) for window in self.windows)


def run_batches(
    model: WholeModel,
    plan: BatchPlan,
    compute: Callable[[dict[str, Any], int], Any],
    team: Team,
    show_progress_bar: bool,
) -> tuple[list[Any], np.ndarray]:
    """What a model computes for all batches, in their order.

    Args:
        model: The model; in evaluation mode during the call.
        plan: The batches.
        compute: Called with the features of a batch on the model's device, and its number of texts. May
            return an :class:`Arriving`, which is awaited while the device computes the next batch.
        team: The processes that share the batches; all must have the same plan, and all get all results.
        show_progress_bar: Whether to show one.

    Returns:
        The result of each batch, and the indices of the texts in the order of the batches (n,).
    """
    mine = dealt_indices(team.rank, team.size, plan.batches)
    order: list[np.ndarray] = []
    with (
        tqdm(total=len(mine), desc="Batches", disable=not show_progress_bar) as bar,
        _evaluating(model),
        one_ahead(plan.prepare, plan.windows) as prepared,
    ):

        def run(batch: Batch) -> Any:
            result = compute(batch_to_device(batch.features(), model.device), len(batch.rows))
            bar.update()
            return result

        found = _arrived(map(run, _own(prepared, frozenset(mine), order)))
        results = share_out(team, range(plan.batches), lambda _: next(found))
        next(found, None)  # a process without any batch needs the order of the others', too
    return results, np.concatenate([np.empty(0, dtype=np.int64), *order])


def _own(
    windows: Iterable[Sequence[Batch]], mine: Container[int], order: list[np.ndarray]
) -> Iterator[Batch]:
    """The batches that this process computes; the indices of all batches' texts are added to ``order``."""
    for batch in chain.from_iterable(windows):
        order.append(batch.rows)
        if len(order) - 1 in mine:
            yield batch


def _arrived(results: Iterator[Any]) -> Iterator[Any]:
    """The results, each of which arrives while the device computes the next one."""
    before = next(results, None)
    while before is not None:
        following = next(results, None)
        yield before.wait() if isinstance(before, Arriving) else before
        before = following


def with_its_prompt(
    model: Stack, texts: Sequence[Any], prompt: str | None
) -> tuple[TokenEncoder | None, list[Any]]:
    """The model's token encoder, if any, and the texts; the prompt is in the chat template or in the texts.

    Raises:
        ValueError: If there is a prompt and a module behind a router uses a chat template.
    """
    encoder = model.token_encoder()
    if encoder is not None and encoder.chat is not None:
        return replace(encoder, chat=encoder.chat.prompted(prompt)), list(texts)
    if prompt and any(isinstance(part, UsesChat) and part.chat is not None for part in model.modules()):
        raise ValueError("A prompt for a chat template is not passed on by a router; put it into the texts.")
    return encoder, with_prompt(texts, prompt)


def _plan(model: Stack, texts: Sequence[Any], request: EncodeOptions) -> BatchPlan:
    encoder, texts = with_its_prompt(model, texts, request.prompt)
    if encoder is None:
        return untokenized_plan(partial(model.tokenize, **request.options), texts, request.batch_size)
    # The prompt of a chat is among the template's own tokens, which count.
    counted = request.prompt if encoder.chat is None else None
    extra = {"prompt_length": encoder.prompt_length(counted)} if counted else {}
    return tokenized_plan(encoder, texts, request.batch_size, extra)


def untokenized_plan(
    tokenize: Callable[[list[Any]], Mapping[str, Any]], texts: Sequence[Any], batch_size: int
) -> BatchPlan:
    """Batches of texts that are tokenized only when their batch is computed.

    Args:
        tokenize: Makes the features of some texts.
        texts: n texts.
        batch_size: Texts in one batch.
    """

    def features(rows: np.ndarray) -> dict[str, Any]:
        return dict(tokenize([texts[row] for row in rows]))

    def prepare(_: np.ndarray) -> list[Batch]:
        batches = length_batches([size_of(text) for text in texts], batch_size)
        return [Batch(rows, partial(features, rows)) for rows in batches]

    return BatchPlan([np.arange(len(texts))], batch_size, prepare)


def tokenized_plan(
    encoder: TokenEncoder, texts: Sequence[Any], batch_size: int, extra: Mapping[str, int]
) -> BatchPlan:
    """Batches of texts of similar length in tokens, which are tokenized a window at a time.

    Args:
        encoder: The model's token encoder.
        texts: n texts, or what else the encoder takes.
        batch_size: Texts in one batch.
        extra: Features to add to each batch.
    """
    windows = length_windows(texts, batch_size)
    return BatchPlan(windows, batch_size, partial(_tokenized, encoder, texts, batch_size, extra))


def _tokenized(
    encoder: TokenEncoder,
    texts: Sequence[Any],
    batch_size: int,
    extra: Mapping[str, int],
    window: np.ndarray,
) -> list[Batch]:
    ids = encoder([texts[row] for row in window])

    def features(places: np.ndarray) -> dict[str, Any]:
        return {**with_host_facts(encoder.pad([ids[place] for place in places])), **extra}

    batches = length_batches([len(row) for row in ids], batch_size)
    return [Batch(window[places], partial(features, places)) for places in batches]


def _pick(features: dict[str, Any], rows: int, request: EncodeOptions) -> Any:
    if request.truncate_dim is not None:
        full = features["sentence_embedding"]
        features["sentence_embedding"] = truncate_embeddings(full, request.truncate_dim)
    if request.output_value is None:
        shown = without_host_facts(features)
        return [{name: _row(value, row, rows) for name, value in shown.items()} for row in range(rows)]
    if request.output_value == "token_embeddings":
        places = (mask.nonzero()[:, 0] for mask in host_copy(features["attention_mask"]))
        pairs = zip(features["token_embeddings"], places, strict=True)
        return [vectors.index_select(0, to_device(place, vectors.device)) for vectors, place in pairs]
    embeddings = features["sentence_embedding"]
    embeddings = normalize_embeddings(embeddings) if request.normalize else embeddings
    return Arriving(embeddings) if request.form == "numpy" else embeddings


def _row(value: object, row: int, rows: int) -> object:
    return value[row] if isinstance(value, Tensor) and value.dim() > 0 and len(value) == rows else value


def joined(results: Sequence[Any], order: np.ndarray, model: Stack, request: EncodeOptions) -> Any:
    """The results of all batches in the order of the texts, and in the requested form.

    Args:
        results: For each batch its embeddings (k, d), or a list of k values of another output.
        order: Indices of the texts in the order of the batches (n,).
        model: The model, for the dimension and device of an empty result.
        request: What was computed, and the form.
    """
    back = np.argsort(order)
    if request.output_value != "sentence_embedding":
        flat = [value for batch in results for value in batch]
        return [flat[index] for index in back]
    if results:
        embeddings = torch.cat(list(results))
        embeddings = embeddings[to_device(torch.from_numpy(back), embeddings.device)]
    else:
        dimension = request.truncate_dim or model.get_embedding_dimension() or 0
        embeddings = torch.empty(0, dimension, device=model.device)
    if request.precision != "float32" and len(embeddings):  # ranges of integers depend on all embeddings
        embeddings = torch.from_numpy(quantize_embeddings(embeddings, request.precision))
    if request.form == "numpy":
        return to_numpy(embeddings)
    return embeddings if request.form == "tensor" else list(embeddings)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
