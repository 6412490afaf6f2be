"""Modules in a row, and questions that concern the row as a whole."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ray_st.models.asym import Asym
from ray_st.models.module import (
    Features,
    HasLengthLimit,
    HasTokenEncoder,
    TakesTokenizeKwargs,
    auto_model_of,
    dimension_after,
    folder_kwargs,
    known_to,
    run_modules,
    set_folder_kwargs,
    skips_padding,
)
from ray_st.models.pooling import Pooling
from ray_st.models.text_encoding import check_inputs_of, with_its_prompt
from ray_st.models.tokens import TokenEncoder

logger = logging.getLogger(__name__)


class Stack(nn.Sequential):
    """Modules that pass features on; the first one tokenizes texts.

    Subclasses decide how it is made and what it is used for.
    """

    def forward(self, features: Features, **options: object) -> Features:  # type: ignore[override]
        """The features with ``sentence_embedding`` (n, d), after all modules.

        Args:
            features: ``input_ids`` and ``attention_mask`` (n, t) and whatever else :meth:`tokenize` returns;
                left unchanged.
            **options: Passed to the modules that take them; see :meth:`get_model_kwargs`.
        """
        return run_modules(self, features, options)

    def get_model_kwargs(self) -> list[str]:
        """Names of the keyword arguments that :meth:`forward` passes on.

        A module lists its own in ``forward_kwargs``; ``modules.json`` may add to them.
        """
        return sorted(set().union(*map(known_to, self)))

    @property
    def module_kwargs(self) -> dict[str, list[str]]:
        """The keyword arguments that ``modules.json`` lists for each module, by the module's name."""
        return {name: folder_kwargs(module) for name, module in self.named_children()}

    @module_kwargs.setter
    def module_kwargs(self, value: Mapping[str, Sequence[str]]) -> None:
        for name, module in self.named_children():
            set_folder_kwargs(module, value.get(name, ()))

    @property
    def first(self) -> Any:
        """The first module, which tokenizes texts."""
        return self[0]

    def _first_module(self) -> Any:
        """The first module; older scripts use this name."""
        return self[0]

    def _last_module(self) -> Any:
        """The last module."""
        return self[-1]

    def check_inputs(self, texts: Sequence[Any]) -> None:
        """Raises for inputs that the first module does not take: for most, anything but strings.

        Raises:
            ValueError: Naming what was found.
        """
        check_inputs_of(self.first, texts)

    def tokenize(self, texts: Sequence[str], **options: object) -> dict[str, Tensor]:
        """The padded batch of some texts, as :meth:`forward` takes it.

        Args:
            texts: n texts, or other inputs that the first module takes.
            **options: Passed to the first module if it takes them, such as the ``task`` of
                :class:`ray_st.models.Asym`.
        """
        self.check_inputs(texts)
        known = self.first.tokenize_kwargs if isinstance(self.first, TakesTokenizeKwargs) else ()
        return self.first.tokenize(texts, **{name: options[name] for name in known if name in options})

    def preprocess(
        self, inputs: Sequence[str], prompt: str | None = None, *, task: str | None = None, **options: object
    ) -> dict[str, Any]:
        """The later name of :meth:`tokenize`, which can put a prompt before each text.

        Args:
            inputs: As for :meth:`tokenize`.
            prompt: Put before each text; None or "" for none.
            task: As for :meth:`tokenize`.
            **options: As for :meth:`tokenize`.
        """
        self.check_inputs(inputs)
        encoder, texts = with_its_prompt(self, inputs, prompt)
        if task is not None:
            options["task"] = task
        made: dict[str, Any] = (
            self.tokenize(texts, **options) if encoder is None else encoder.pad(encoder(texts))
        )
        counts = encoder or self.route_encoder(task)
        if prompt and counts is not None and counts.chat is None:
            made["prompt_length"] = counts.prompt_length(prompt)
        return made

    def token_encoder(self) -> TokenEncoder | None:
        """The picklable part that turns texts into token ids.

        None if the first module takes no token ids, or a subclass overrides ``tokenize``.
        """
        return self._encoder_of(self.first)

    def route_encoder(self, task: str | None) -> TokenEncoder | None:
        """The picklable part that turns the texts of a task into token ids.

        If the first module is a :class:`ray_st.models.Router`, the one of the row that these texts take;
        otherwise the same for all tasks.

        Args:
            task: What the texts are; None for the default row.
        """
        first = self.first
        return self._encoder_of(first.text_row(task)[0] if isinstance(first, Asym) else first)

    def _encoder_of(self, module: nn.Module) -> TokenEncoder | None:
        own = type(self).tokenize is not Stack.tokenize
        return None if own or not isinstance(module, HasTokenEncoder) else module.token_encoder()

    @property
    def without_padding(self) -> bool:
        """Whether padding in a batch costs next to nothing; see :class:`ray_st.models.Transformer`."""
        return skips_padding(self.first)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the first module."""
        return self.first.tokenizer

    @tokenizer.setter
    def tokenizer(self, value: object) -> None:
        self.first.tokenizer = value

    @property
    def max_seq_length(self) -> int | None:
        """Longest sequence in tokens; longer texts are truncated. None if there is no limit."""
        return self.first.max_seq_length if isinstance(self.first, HasLengthLimit) else None

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        self.first.max_seq_length = value

    def get_max_seq_length(self) -> int | None:
        """The same as :attr:`max_seq_length`."""
        return self.max_seq_length

    @property
    def tokenizers(self) -> list[Any]:
        """The tokenizers in use: one, or with a :class:`ray_st.models.Router` those of its rows."""
        return self.first.tokenizers if isinstance(self.first, Asym) else [self.tokenizer]

    def get_embedding_dimension(self) -> int | None:
        """Dimension of the embedding after the last module that knows it; None if none does."""
        return dimension_after(self)

    def get_sentence_embedding_dimension(self) -> int | None:
        """The same as :meth:`get_embedding_dimension`."""
        return self.get_embedding_dimension()

    @property
    def device(self) -> torch.device:
        """Where the weights are; the CPU for a model without any."""
        first = next(self.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    @property
    def dtype(self) -> torch.dtype | None:
        """Type of the weights; None for a model without any."""
        first = next(self.parameters(), None)
        return None if first is None else first.dtype

    @property
    def config(self) -> PreTrainedConfig | None:
        """Configuration of the first module's encoder, for programs that expect a model to have one."""
        return getattr(auto_model_of(self.first), "config", None)

    def share_dtype(self) -> None:
        """Converts later modules to the first one's dtype, which a folder or a keyword may have set."""
        first = next(self.first.parameters(), None)
        if first is not None:
            for module in list(self)[1:]:
                module.to(first.dtype)

    def set_pooling_include_prompt(self, include_prompt: bool) -> None:
        """Sets whether tokens of the prompt count in pooling."""
        for module in self:
            if isinstance(module, Pooling):
                module.include_prompt = include_prompt

    def evaluate(self, evaluator: Callable[..., Any], output_path: str | Path | None = None) -> Any:
        """What an evaluator returns for this model.

        Args:
            evaluator: Called with the model and the path.
            output_path: Folder for its files; created if it does not exist.
        """
        if output_path is not None:
            Path(output_path).mkdir(parents=True, exist_ok=True)
        return evaluator(self, None if output_path is None else str(output_path))

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **options: object
    ) -> None:
        """Makes encoders recompute their activations in the backward pass, to save memory.

        Encoders that cannot (``MPNetModel`` is one) keep them, with a warning; so does a model without any
        encoder.

        Args:
            activation_checkpointing_kwargs: Passed to torch's checkpoint function.
            **options: Passed to the encoders' method of this name.
        """
        for encoder in self._encoders():
            if encoder.supports_gradient_checkpointing:
                # Earlier releases of transformers 5 have the older name only.
                older = encoder.gradient_checkpointing_enable
                enable = getattr(encoder, "activation_checkpointing_enable", older)
                enable(activation_checkpointing_kwargs, **options)
        if note := self.kept_activations:
            logger.warning("%s", note)

    @property
    def kept_activations(self) -> str:
        """Which encoders cannot recompute their activations, as a note to the user; empty if all can."""
        encoders = self._encoders()
        kept = [part for part in encoders if not part.supports_gradient_checkpointing]
        kinds = sorted({type(part).__name__ for part in (kept if encoders else [self.first])})
        if not kinds:
            return ""
        listed = " and ".join(kinds)
        return f"gradient checkpointing has no effect on {listed}, which cannot compute activations again"

    def _encoders(self) -> list[PreTrainedModel]:
        """The encoders of transformers in all modules, without those inside of others."""
        found: dict[str, PreTrainedModel] = {}
        for place, part in self.named_modules():
            if isinstance(part, PreTrainedModel) and not any(
                place.startswith(f"{outer}.") for outer in found
            ):
                found[place] = part
        return list(found.values())

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **options: object
    ) -> None:
        """The older name of :meth:`activation_checkpointing_enable`."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **options)


def best_device() -> torch.device:
    """A GPU if there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
