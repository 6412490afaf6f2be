"""Texts as messages of a chat: what a folder with a "message" modality wants every text to be put into.

The setting is the peer's: ``modality_config`` names "message" and says how its template takes content ("flat" or
"structured"); ``processing_kwargs`` may name more arguments of the template. A text becomes one message of the user, a
prompt a message of the system before it. What the template puts behind the text survives truncation.
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
_FILLERS = (
    "0",
    "1 2 3 4",
)  # tokenized differently, so that what two renderings end in alike is the template's


@dataclass(frozen=True)
class ChatTemplate:
    """How texts are rendered before they are tokenized.

    Args:
        text: The Jinja template.
        structured: Whether a message's content is a list of typed parts; else it is the text itself.
        options: More arguments of the template.
        keeps_end: Whether what the template puts behind a text is written over the end of a truncated one.
        system: What a message of the system before the text says; None for no such message.
    """

    text: str
    structured: bool
    options: Mapping[str, Any] = field(default_factory=dict)
    keeps_end: bool = True
    system: str | None = None

    def prompted(self, prompt: str | None) -> ChatTemplate:
        """The template with a prompt in a message of the system; None or "" for none."""
        return replace(self, system=prompt or None)

    def render(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[str]:
        """The texts in their messages, special tokens of the template included."""
        if not texts:
            return []
        rendered = tokenizer.apply_chat_template(
            [self._messages(text) for text in texts], chat_template=self.text, tokenize=False, **self.options
        )
        return list(rendered)

    def renderings(self, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """Two texts rendered that differ in nothing but the text; see :func:`common_end`."""
        return self.render(tokenizer, _FILLERS)

    def _messages(self, text: str) -> list[dict[str, Any]]:
        system = [] if self.system is None else [{"role": "system", "content": self._content(self.system)}]
        return [*system, {"role": "user", "content": self._content(text)}]

    def _content(self, text: str) -> Any:
        return [{"type": "text", "text": text}] if self.structured else text


def common_end(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """The token ids that two sequences end in alike; none where one is all of the other's end."""
    shared = 0
    while shared < min(len(first), len(second)) and first[-1 - shared] == second[-1 - shared]:
        shared += 1
    return list(first[len(first) - shared :]) if shared < min(len(first), len(second)) else []


def chat_template(
    tokenizer: PreTrainedTokenizerBase,
    modality_config: Mapping[str, Any] | None,
    processing_kwargs: Mapping[str, Any] | None,
) -> ChatTemplate | None:
    """The template that settings ask for; None if they want texts as they are.

    Args:
        tokenizer: The model's tokenizer, which has the template.
        modality_config: What the model takes, by name.
        processing_kwargs: Arguments of the tokenizer's calls, by name; those under "chat_template" are the template's.

    Raises:
        ValueError: If the tokenizer has no template, or the settings ask for what is not done here.
    """
    if MESSAGE not in (modality_config or {}):
        return None
    form = modality_config[MESSAGE].get("format")  # type: ignore[index]
    if form not in _FORMATS:
        raise ValueError(
            f"modality_config['message']['format'] must be 'flat' or 'structured'; got {form!r}."
        )
    if not tokenizer.chat_template:
        raise ValueError("modality_config names 'message', but the tokenizer has no chat template.")
    text = tokenizer.get_chat_template()
    if _TASK.search(text):
        raise ValueError("The chat template asks for the task of a text, which is not given here.")
    options = dict((processing_kwargs or {}).get("chat_template") or {})
    if sizes := sorted(set(options) & set(_SIZES)):
        raise ValueError(
            f"processing_kwargs['chat_template'] names {sizes[0]!r}; only max_seq_length cuts texts."
        )
    keeps_end = bool(options.pop("restore_suffix", True))
    return ChatTemplate(text, form == "structured", options, keeps_end)
