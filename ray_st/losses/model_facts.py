"""What losses ask of a model beyond embeddings. Any module may be a model, so any answer may be missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Tokenizer(Protocol):
    """What losses need of a tokenizer of transformers."""

    pad_token_id: int | None

    def batch_decode(self, sequences: Tensor, *, skip_special_tokens: bool) -> list[str]:
        """Texts of token ids (n, t)."""


def tokenizer_of(model: object) -> Tokenizer | None:
    """The model's tokenizer."""
    match model:
        case object(tokenizer=tokenizer) if tokenizer is not None:
            return tokenizer
    return None


def vocabularies(model: object) -> list[dict[str, int]]:
    """The vocabularies of the model's tokenizers: several where a Router has one for each route."""
    match model:
        case object(tokenizers=[_, _, *_] as tokenizers):
            return [tokenizer.get_vocab() for tokenizer in tokenizers]
        case object(tokenizer=object(get_vocab=get_vocab)) if callable(get_vocab):
            return [get_vocab()]
    return []


def max_seq_length(model: object) -> int | None:
    """Most tokens of a text; None for no limit."""
    match model:
        case object(max_seq_length=int(most)):
            return most or None
    return None


def removes_padding(model: object) -> bool:
    """Whether the model computes without padding, so that padding costs nothing."""
    match model:
        case object(without_padding=removes) if removes:
            return True
    return False


def takes_host_facts(model: object) -> bool:
    """Whether the model's features may hold what :mod:`ray_st.util.host_facts` describes.

    The models of :mod:`ray_st.models` take what they know; others may pass all features on to an encoder.
    """
    match model:
        case object(token_encoder=ask) if callable(ask):
            return True
    return False


def embedding_dimension(model: object) -> int | None:
    """Dimension of the embeddings."""
    match model:
        case object(get_embedding_dimension=ask) if callable(ask):
            return ask()
    return None


def number_of_labels(model: object) -> int | None:
    """Number of scores that a model of pairs gives for each; None for other models."""
    match model:
        case object(num_labels=int(number)):
            return number
    return None


def first_encoder(model: nn.Module) -> PreTrainedModel | None:
    """The encoder of transformers in the model's first module."""
    match next(model.children(), None):
        case object(auto_model=encoder) if encoder is not None:
            return encoder
    return None


def config_size(model: object, name: str) -> int | None:
    """A size in the model's configuration, by the name that transformers gives it."""
    size = config_setting(model, name)
    return size if isinstance(size, int) else None


def config_setting(model: object, name: str) -> object:
    """A setting in the model's configuration, by the name that transformers gives it; None if it has none."""
    match model:
        case object(config=config) if config is not None:
            return getattr(config, name, None)
    return None


def model_name(model: object) -> str:
    """What to call a model in a model card: the name under which it was loaded, or else its class."""
    match model:
        case object(model_card_data=object(model_id=name)) if name:
            return str(name)
        case object(model_card_data=object(base_model=name)) if name:
            return str(name)
        case object(model_card_data=object(model_name=name)) if name:
            return str(name)
    return type(model).__name__


def function_name(function: object) -> str:
    """What to call a function, partial or module in a model card: its name, or else its class."""
    match function:
        case object(__name__=str(name)):
            return name
    return type(function).__name__
