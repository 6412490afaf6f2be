"""From texts to embeddings in batches of similar length.

The batches are a function of the texts' lengths alone. Who runs them is exchangeable: a team of several processes
deals out the same batches and gets the same embeddings, to the last bit, as one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ray_st.util.search.quantize import PRECISIONS, quantize_embeddings
from ray_st.util.team import Team, hand, share_out
from ray_st.util.tensors import batch_to_device, normalize_embeddings, to_numpy, truncate_embeddings
from ray_st.util.unicode import lone_surrogate

if TYPE_CHECKING:
    from ray_st.models.stack import Stack
    from ray_st.models.tokens import TokenEncoder


@dataclass(frozen=True)
class Wish:
    """What is to be computed and in which form.

    Args:
        prompt: Put before each text; None or "" for none.
        batch_size: Texts in one batch.
        show_progress_bar: Whether to show one.
        output_value: "sentence_embedding", "token_embeddings" (one tensor (t, d) a text, without padding), or None
            for a dict of all features a text.
        precision: "float32", "int8", "uint8", "binary" or "ubinary".
        form: "numpy" (an array), "tensor" (a tensor on the model's device) or "list" (of tensors).
        normalize: Whether embeddings are scaled to unit length.
        truncate_dim: Dimensions to keep; None keeps all.
        options: Passed on to the model's ``tokenize`` and ``forward``, such as the ``task``.

    Raises:
        ValueError: If a value is none of those named.
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
                f"output_value must be 'sentence_embedding', 'token_embeddings' or None; got {self.output_value!r}."
            )


def check_texts(texts: Sequence[Any]) -> None:
    """Refuses what is not text before the tokenizer sees it.

    Raises:
        ValueError: Naming the first entry that is no string, or no Unicode, and its place.
    """
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"Texts must be strings; entry {place} is {type(text).__name__}: {text!r:.80}.")
        check_unicode(text, place)


def check_unicode(text: str, place: int) -> None:
    """Refuses a text with half of a surrogate pair, which no tokenizer takes.

    Args:
        text: The text.
        place: Which of the inputs it is.

    Raises:
        ValueError: Naming the place and the character.
    """
    half = lone_surrogate(text)
    if half is not None:
        raise ValueError(f"Texts must be Unicode; in entry {place}, {text!a:.80}, {half}.")


def with_prompt(texts: Sequence[Any], prompt: str | None) -> list[Any]:
    """The texts with a prompt before each, also in dicts of a task and a text; images stay as they are."""

    def put(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {task: put(text) for task, text in value.items()}
        return f"{prompt}{value}" if isinstance(value, str) else value

    return [put(text) for text in texts] if prompt else list(texts)


def size_of(value: Any) -> int:
    """What texts are sorted by where there are no token ids: characters. Images come last."""
    if isinstance(value, Mapping):
        return sum(map(size_of, value.values()))
    return len(value) if isinstance(value, str) else 0


def length_batches(lengths: Sequence[int], batch_size: int) -> list[np.ndarray]:
    """Positions in batches of similar length, the longest first, equal ones in their order.

    Args:
        lengths: Length of each text.
        batch_size: Texts in one batch; the last may have fewer.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def encode_texts(model: Stack, texts: Sequence[str], wish: Wish, team: Team) -> Any:
    """The embeddings of some texts, in their order.

    Args:
        model: The model; it is put into evaluation mode for the time of the call.
        texts: n texts.
        wish: What is to be computed and in which form.
        team: Who shares the batches; all of them must encode the same texts, and all get all embeddings.

    Returns:
        (n, d) as an array or a tensor, a list of n tensors (d,), or a list of n values of another output.
    """
    model.check_inputs(texts)
    batches, features_of = _plan(model, texts, wish)
    mine = len(hand(team.rank, team.size, len(batches)))
    with tqdm(total=mine, desc="Batches", disable=not wish.show_progress_bar) as bar, _evaluating(model):

        def embed(rows: np.ndarray) -> Any:
            features = batch_to_device(features_of(rows), model.device)
            result = _pick(model(features, **wish.options), len(rows), wish)
            bar.update()
            return result

        results = share_out(team, batches, embed)
    order = np.concatenate([np.empty(0, dtype=np.int64), *batches])
    if wish.output_value != "sentence_embedding":
        flat = [value for batch in results for value in batch]
        return [flat[place] for place in np.argsort(order)]
    return deliver(_in_order(results, order, model, wish), wish)


def with_its_prompt(
    model: Stack, texts: Sequence[Any], prompt: str | None
) -> tuple[TokenEncoder | None, list[Any]]:
    """The model's encoder of texts, if it has one, and the texts, with the prompt in the one or in the others.

    Raises:
        ValueError: If there is a prompt and a module behind a router puts texts into the messages of a chat.
    """
    encoder = model.token_encoder()
    if encoder is not None and encoder.chat is not None:
        return replace(encoder, chat=encoder.chat.prompted(prompt)), list(texts)
    if prompt and any(getattr(module, "chat", None) is not None for module in model.modules()):
        raise ValueError("A prompt for a chat template is not passed on by a router; put it into the texts.")
    return encoder, with_prompt(texts, prompt)


def _plan(
    model: Stack, texts: Sequence[Any], wish: Wish
) -> tuple[list[np.ndarray], Callable[[np.ndarray], dict[str, Any]]]:
    """The batches, and how to make the features of one."""
    encoder, texts = with_its_prompt(model, texts, wish.prompt)
    if encoder is None:
        batches = length_batches([size_of(text) for text in texts], wish.batch_size)
        return batches, lambda rows: dict(model.tokenize([texts[row] for row in rows], **wish.options))
    ids = encoder(texts)
    # A chat's prompt stands among the template's own tokens, which count.
    counted = wish.prompt if encoder.chat is None else None
    extra = {"prompt_length": encoder.prompt_length(counted)} if counted else {}
    batches = length_batches([len(row) for row in ids], wish.batch_size)
    return batches, lambda rows: {**encoder.pad([ids[row] for row in rows]), **extra}


def _pick(features: dict[str, Any], rows: int, wish: Wish) -> Any:
    if wish.truncate_dim is not None:
        features["sentence_embedding"] = truncate_embeddings(
            features["sentence_embedding"], wish.truncate_dim
        )
    if wish.output_value is None:
        return [{name: _row(value, row, rows) for name, value in features.items()} for row in range(rows)]
    if wish.output_value == "token_embeddings":
        real = features["attention_mask"].bool()
        return [vectors[mask] for vectors, mask in zip(features["token_embeddings"], real, strict=True)]
    embeddings = features["sentence_embedding"]
    embeddings = normalize_embeddings(embeddings) if wish.normalize else embeddings
    return embeddings.cpu() if wish.form == "numpy" else embeddings


def _row(value: Any, row: int, rows: int) -> Any:
    batched = isinstance(value, Tensor) and value.dim() > 0 and len(value) == rows
    return value[row] if batched else value


def _in_order(results: list[Tensor], order: np.ndarray, model: Stack, wish: Wish) -> Tensor:
    if not results:
        return torch.empty(0, wish.truncate_dim or model.get_embedding_dimension() or 0, device=model.device)
    embeddings = torch.cat(results)
    return embeddings[torch.from_numpy(np.argsort(order)).to(embeddings.device)]


def deliver(embeddings: Tensor, wish: Wish) -> Any:
    """All embeddings of a call (n, d) in the form that was asked for; quantised together, as ranges are those of all."""
    if wish.precision != "float32" and len(embeddings):
        embeddings = torch.from_numpy(quantize_embeddings(embeddings, wish.precision))
    if wish.form == "numpy":
        return to_numpy(embeddings)
    return embeddings if wish.form == "tensor" else list(embeddings)


@contextmanager
def _evaluating(model: Stack) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
