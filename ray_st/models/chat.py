"""Texts as chat messages, as a folder with a "message" modality requires.

The setting is the peer's: ``modality_config`` names "message" and the form of its content ("flat" or
"structured"); ``processing_kwargs`` may have more arguments of the template. A text becomes a user message, a
prompt a system message before it. What the template puts after the text survives truncation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

MESSAGE = "message"
_FORMATS = ("flat", "structured")
_SIZES = ("padding", "truncation", "max_length", "return_tensors")
_TASK = re.compile(r"\btask\b")
# They have no token in common, so that a common end of their renderings comes from the template.
_FILLERS = ("0", "1 2 3 4")


@dataclass(frozen=True)
class ChatTemplate:
    """How to render texts before they are tokenized.

    Args:
        text: The Jinja template.
        structured: Whether a message's content is a list of typed parts; otherwise it is the text itself.
        options: More arguments of the template.
        keeps_end: Whether the template's tokens after a text overwrite the end of a truncated one.
        system: Content of a system message before the text; None for no such message.
    """

    text: str
    structured: bool
    options: Mapping[str, Any] = field(default_factory=dict)
    keeps_end: bool = True
    system: str | None = None

    def prompted(self, prompt: str | None) -> ChatTemplate:
        """The template with a prompt as system message; None or "" for none."""
        return replace(self, system=prompt or None)

    def render(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Any]) -> list[str]:
        """The rendered texts, including the template's special tokens."""
        if not texts:
            return []
        rendered = tokenizer.apply_chat_template(
            [self._messages(text) for text in texts], chat_template=self.text, tokenize=False, **self.options
        )
        return list(rendered)

    def renderings(self, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """Two renderings that differ only in the text; see :func:`common_end`."""
        return self.render(tokenizer, _FILLERS)

    def _messages(self, text: Any) -> list[dict[str, Any]]:
        return [*self._before(), {"role": "user", "content": self._content(text)}]

    def _before(self) -> list[dict[str, Any]]:
        return [] if self.system is None else [{"role": "system", "content": self._content(self.system)}]

    def _content(self, text: str) -> Any:
        return [{"type": "text", "text": text}] if self.structured else text


def common_end(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """The common suffix of two sequences of token ids; empty if one sequence is the other's suffix."""
    shared = 0
    while shared < min(len(first), len(second)) and first[-1 - shared] == second[-1 - shared]:
        shared += 1
    return list(first[len(first) - shared :]) if shared < min(len(first), len(second)) else []


def chat_template(
    tokenizer: PreTrainedTokenizerBase,
    modality_config: Mapping[str, Any] | None,
    processing_kwargs: Mapping[str, Any] | None,
) -> ChatTemplate | None:
    """The template that the settings ask for; None if texts are used unchanged.

    Args:
        tokenizer: The model's tokenizer, which has the template.
        modality_config: What the model takes, by name.
        processing_kwargs: Arguments of the tokenizer's calls, by name; those under "chat_template" are the
            template's.

    Raises:
        ValueError: If the tokenizer has no template, or the settings ask for something unsupported.
    """
    if modality_config is None or MESSAGE not in modality_config:
        return None
    form = modality_config[MESSAGE].get("format")
    if form not in _FORMATS:
        raise ValueError(
            f"modality_config['message']['format'] must be 'flat' or 'structured'; got {form!r}."
        )
    if not tokenizer.chat_template:
        raise ValueError("modality_config names 'message', but the tokenizer has no chat template.")
    text = tokenizer.get_chat_template()
    if _TASK.search(text):
        raise ValueError("The chat template uses the task of a text, which is not available here.")
    options = dict((processing_kwargs or {}).get("chat_template") or {})
    if sizes := sorted(set(options) & set(_SIZES)):
        raise ValueError(
            f"processing_kwargs['chat_template'] names {sizes[0]!r}; only max_seq_length truncates texts."
        )
    keeps_end = bool(options.pop("restore_suffix", True))
    return ChatTemplate(text, form == "structured", options, keeps_end)
