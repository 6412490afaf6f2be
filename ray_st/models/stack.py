"""Modules in a row, and questions that concern the row as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig

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
from ray_st.models.whole_model import WholeModel


class Stack(WholeModel, nn.Sequential):
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
