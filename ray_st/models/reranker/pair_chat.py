"""Pairs as chat messages: the first text as the message of a "query", the second as that of a "document".

The roles are the peer's. Most chat templates know neither; those of rerankers do.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ray_st.models.chat import MESSAGE, ChatTemplate, chat_template

logger = logging.getLogger(__name__)

_PROBES = (("alpha", "bravo"), ("charlie", "bravo"), ("alpha", "foxtrot"))
_FILLERS = (("0", "0"), ("1 2 3 4", "1 2 3 4"))


@dataclass(frozen=True)
class PairChat(ChatTemplate):
    """How to render pairs of texts before they are tokenized; a prompt becomes a system message."""

    def renderings(self, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """Two renderings that differ only in the texts of the pair."""
        return self.render(tokenizer, _FILLERS)

    def carries_pairs(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Whether both texts of a pair occur in what the template makes of it."""
        try:
            first, *others = self.render(tokenizer, _PROBES)
        except (TemplateError, ValueError, TypeError):  # templates reject roles that they do not know
            return False
        return all(other != first for other in others)

    def _messages(self, text: Any) -> list[dict[str, Any]]:
        roles = zip(("query", "document"), text, strict=True)
        return [*self._before(), *({"role": role, "content": self._content(part)} for role, part in roles)]


def pair_chat(
    tokenizer: PreTrainedTokenizerBase,
    modality_config: Mapping[str, Any] | None,
    processing_kwargs: Mapping[str, Any] | None,
) -> PairChat | None:
    """The template that pairs are put into; None if they are tokenized as they are.

    Args:
        tokenizer: The model's tokenizer, which has the template.
        modality_config: What the folder's settings say; None if it has none. Pairs then go into the
            tokenizer's template if that carries pairs.
        processing_kwargs: More arguments of the template; see :func:`ray_st.models.chat.chat_template`.

    Raises:
        ValueError: If the settings ask for a template that does not carry pairs, or for something
            unsupported.
    """
    if modality_config is None:
        return _found(tokenizer, processing_kwargs) if tokenizer.chat_template else None
    asked = chat_template(tokenizer, modality_config, processing_kwargs)
    if asked is None:
        return None
    chat = PairChat(**vars(asked))
    if not chat.carries_pairs(tokenizer):
        raise ValueError(
            "The tokenizer's chat template does not carry pairs: of the messages of a 'query' and a "
            "'document' it leaves out at least one. Pass one that renders both, with "
            'tokenizer_kwargs={"chat_template": …}.'
        )
    return chat


def _found(
    tokenizer: PreTrainedTokenizerBase, processing_kwargs: Mapping[str, Any] | None
) -> PairChat | None:
    for form in ("flat", "structured"):
        asked = chat_template(tokenizer, {MESSAGE: {"format": form}}, processing_kwargs)
        assert asked is not None
        chat = PairChat(**vars(asked))
        if chat.carries_pairs(tokenizer):
            return chat
    logger.warning("The tokenizer's chat template does not carry pairs: texts are joined without it.")
    return None
