"""Modules in a row, and what one asks of the row as a whole."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ray_st.models.asym import Asym
from ray_st.models.module import Features, folder_kwargs, known_to, run_modules, set_folder_kwargs
from ray_st.models.pooling import Pooling
from ray_st.models.text_encoding import check_texts, with_its_prompt
from ray_st.models.tokens import TokenEncoder

logger = logging.getLogger(__name__)


class Stack(nn.Sequential):
    """Modules that hand features on; the first one takes texts apart.

    Subclasses decide how it is made and what it is used for.
    """

    def forward(self, features: Features, **options: Any) -> Features:  # type: ignore[override]
        """The features with ``sentence_embedding`` (n, d), after all modules.

        Args:
            features: ``input_ids`` and ``attention_mask`` (n, t) and what else :meth:`tokenize` returns; left as
                they are.
            **options: Passed on to those modules that know them; see :meth:`get_model_kwargs`.
        """
        return run_modules(self, features, options)

    def get_model_kwargs(self) -> list[str]:
        """Names of the keyword arguments that :meth:`forward` passes on.

        A module names its own in ``forward_kwargs``; ``modules.json`` may add to them.
        """
        return sorted(set().union(*map(known_to, self)))

    @property
    def module_kwargs(self) -> dict[str, list[str]]:
        """What ``modules.json`` says of the keyword arguments of each module, by its name."""
        return {name: folder_kwargs(module) for name, module in self.named_children()}

    @module_kwargs.setter
    def module_kwargs(self, value: Mapping[str, Sequence[str]]) -> None:
        for name, module in self.named_children():
            set_folder_kwargs(module, value.get(name, ()))

    @property
    def first(self) -> Any:
        """The first module, which takes texts apart."""
        return self[0]

    def _first_module(self) -> Any:
        """The first module; scripts ask for it under this name."""
        return self[0]

    def _last_module(self) -> Any:
        """The last module."""
        return self[-1]

    def check_inputs(self, texts: Sequence[Any]) -> None:
        """Refuses what the first module cannot take: anything but strings for most.

        Raises:
            ValueError: Naming what was found.
        """
        getattr(self.first, "check_inputs", check_texts)(texts)

    def tokenize(self, texts: Sequence[str], **options: Any) -> dict[str, Tensor]:
        """The padded batch of some texts, as :meth:`forward` takes it.

        Args:
            texts: n texts; or other inputs that the first module takes.
            **options: Passed on to the first module as far as it knows them, such as the ``task`` of
                :class:`ray_st.models.Asym`.
        """
        self.check_inputs(texts)
        known = getattr(self.first, "tokenize_kwargs", ())
        return self.first.tokenize(texts, **{name: options[name] for name in known if name in options})

    def preprocess(self, inputs: Sequence[str], prompt: str | None = None, **options: Any) -> dict[str, Any]:
        """The later name of :meth:`tokenize`, which can put a prompt before each text.

        Args:
            inputs: As for :meth:`tokenize`.
            prompt: Put before each text; None or "" for none.
            **options: As for :meth:`tokenize`.
        """
        self.check_inputs(inputs)
        encoder, texts = with_its_prompt(self, inputs, prompt)
        made: dict[str, Any] = (
            self.tokenize(texts, **options) if encoder is None else encoder.pad(encoder(texts))
        )
        counts = encoder or self.route_encoder(options.get("task"))
        if prompt and counts is not None and counts.chat is None:
            made["prompt_length"] = counts.prompt_length(prompt)
        return made

    def token_encoder(self) -> TokenEncoder | None:
        """The part that turns texts into token ids, picklable.

        None if the first module takes no token ids, or a subclass has its own ``tokenize``.
        """
        return self._encoder_of(self.first)

    def route_encoder(self, task: str | None) -> TokenEncoder | None:
        """The part that turns texts of a task into token ids, picklable.

        That of the row which these texts take where the first module is a :class:`ray_st.models.Router`; otherwise the
        same for all tasks.

        Args:
            task: What the texts are; None for the default row.
        """
        first = self.first
        return self._encoder_of(first.text_row(task)[0] if isinstance(first, Asym) else first)

    def _encoder_of(self, module: nn.Module) -> TokenEncoder | None:
        make: Any = getattr(module, "token_encoder", None)
        return make() if make is not None and type(self).tokenize is Stack.tokenize else None

    @property
    def without_padding(self) -> bool:
        """Whether padding in a batch costs next to nothing; see :class:`ray_st.models.Transformer`."""
        return bool(getattr(self.first, "without_padding", False))

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the first module."""
        return self.first.tokenizer

    @tokenizer.setter
    def tokenizer(self, value: Any) -> None:
        self.first.tokenizer = value

    @property
    def tokenizers(self) -> list[Any]:
        """The tokenizers that a text may come to: one, or with a :class:`ray_st.models.Router` those of its rows."""
        return self.first.tokenizers if isinstance(self.first, Asym) else [self.tokenizer]

    @property
    def max_seq_length(self) -> int | None:
        """Longest sequence in tokens; longer ones are truncated. None if there is no limit."""
        return getattr(self.first, "max_seq_length", None)

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        self.first.max_seq_length = value

    def get_max_seq_length(self) -> int | None:
        """The same as :attr:`max_seq_length`."""
        return self.max_seq_length

    def get_embedding_dimension(self) -> int | None:
        """Dimension of the embedding after the last module that knows it; None if none does."""
        for module in reversed(list(self)):
            ask = getattr(module, "get_embedding_dimension", None)
            if ask is not None and (dimension := ask()) is not None:
                return int(dimension)
        return None

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
    def config(self) -> Any:
        """Configuration of the encoder in the first module, for programs that ask a model for it; None without one."""
        return getattr(getattr(self.first, "auto_model", None), "config", None)

    def share_dtype(self) -> None:
        """Gives the later modules the first one's type of weights, which a folder or a keyword may have set."""
        first = next(self.first.parameters(), None)
        if first is not None:
            for module in list(self)[1:]:
                module.to(first.dtype)

    def set_pooling_include_prompt(self, include_prompt: bool) -> None:
        """Says whether tokens of the prompt count in pooling."""
        for module in self:
            if isinstance(module, Pooling):
                module.include_prompt = include_prompt

    def evaluate(self, evaluator: Any, output_path: str | Path | None = None) -> Any:
        """What an evaluator says of this model.

        Args:
            evaluator: Called with the model and the path.
            output_path: Folder for its files; made if it is not there.
        """
        if output_path is not None:
            Path(output_path).mkdir(parents=True, exist_ok=True)
        return evaluator(self, None if output_path is None else str(output_path))

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """Makes encoders compute their activations again in the backward pass, to save memory.

        Encoders that cannot (``MPNetModel`` is one) keep them, with a warning; a model without any does, too.

        Args:
            activation_checkpointing_kwargs: Handed to torch's checkpoint function.
            **options: Handed to the encoders' method of this name.
        """
        encoders = self._encoders()
        for encoder in encoders:
            if encoder.supports_gradient_checkpointing:
                older = (
                    encoder.gradient_checkpointing_enable
                )  # the only name in earlier releases of transformers 5
                enable = getattr(encoder, "activation_checkpointing_enable", older)
                enable(activation_checkpointing_kwargs, **options)
        if note := self.kept_activations:
            logger.warning("%s", note)

    @property
    def kept_activations(self) -> str:
        """Which encoders cannot compute their activations again, as a note to the user; empty if all can."""
        kinds = {
            type(encoder).__name__
            for encoder in self._encoders()
            if not encoder.supports_gradient_checkpointing
        }
        if not self._encoders():
            kinds = {type(self.first).__name__}
        listed = " and ".join(sorted(kinds))
        return (
            f"gradient checkpointing has no effect on {listed}, which cannot compute activations again"
            if kinds
            else ""
        )

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
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """The older name of :meth:`activation_checkpointing_enable`."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **options)


def best_device() -> torch.device:
    """A GPU if there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
