"""The reranker: a sequence classifier that reads two texts together and scores the pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from ray_st.models.activations import Activation
from ray_st.models.attention import register_kernel
from ray_st.models.card.model_card_data import CrossEncoderModelCardData
from ray_st.models.card.render import write_card
from ray_st.models.encoder_loading import quiet, without_cache
from ray_st.models.folder_files import folder_to_save
from ray_st.models.length_limit import limit_of, set_limit
from ray_st.models.model_hub import find_folder
from ray_st.models.module import Features
from ray_st.models.onednn import linear_layers_of
from ray_st.models.positions import is_padded_left, moved_to_start, table_limit
from ray_st.models.publishing import Published
from ray_st.models.remote_code import is_remote, keep_code
from ray_st.models.reranker.fit_method import FittedReranker
from ray_st.models.reranker.pair_encoder import PairEncoder, PairTemplate
from ray_st.models.reranker.pair_inputs import Pair, read_pairs
from ray_st.models.reranker.pair_scoring import with_prompt_before
from ray_st.models.reranker.reranker_folder import (
    RerankerSettings,
    module_settings,
    read_settings_of_reranker,
    write_settings_of_reranker,
)
from ray_st.models.reranker.reranker_opening import (
    OpenedReranker,
    RerankerOptions,
    open_classifier,
    open_reranker,
)
from ray_st.models.reranker.scoring_methods import ScoresPairs
from ray_st.models.text_encoding import chosen_prompt
from ray_st.models.tokenizer.pretrained import save_tokenizer
from ray_st.models.tokens import TokenEncoder
from ray_st.models.unpadded import carrying, find_packing, is_full, is_prepared
from ray_st.models.whole_model import best_device
from ray_st.util.host_facts import PADDING_SIDE, TOKEN_LENGTHS
from ray_st.util.names import either

_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")


class CrossEncoder(FittedReranker, Published, ScoresPairs):
    """A model that reads two texts together and scores the pair, for example a query and a document.

    It is a sequence classifier of transformers. Encoders that support it (see
    :data:`ray_st.models.unpadded.POSITIONS`) run only on the real tokens of a batch; an
    ``attn_implementation`` among ``model_kwargs`` turns this off.

    Args:
        model_name_or_path: A folder of a reranker or of a plain encoder of transformers, which gets a new,
            untrained classification head; or a name on the Hub. Of an embedder's folder, ``num_labels`` gives
            the encoder a new head.
        num_labels: Numbers that the model computes for a pair. By default the folder's, or 1 for a new head.
        max_length: Longest pair in tokens, special ones included. By default the tokenizer's, at most the
            encoder's number of positions.
        device: Where to compute; by default a GPU if there is one.
        automodel_args: The older name of ``model_kwargs``.
        tokenizer_args: The older name of ``tokenizer_kwargs``.
        config_args: The older name of ``config_kwargs``.
        cache_dir: The older name of ``cache_folder``.
        trust_remote_code: Whether Python code that a model folder contains or names may be run.
        revision: Branch, tag or commit on the Hub.
        local_files_only: Never ask the Hub.
        default_activation_function: The older name of ``activation_fn``.
        classifier_dropout: Dropout of the classification head in training.
        model_name: The older name of ``model_name_or_path``.
        model_kwargs: More arguments of ``AutoModelForSequenceClassification.from_pretrained``, such as
            ``dtype`` or ``attn_implementation``.
        tokenizer_kwargs: More arguments of ``AutoTokenizer.from_pretrained``.
        processor_kwargs: The later name of ``tokenizer_kwargs``.
        config_kwargs: More arguments of ``AutoConfig.from_pretrained``.
        activation_fn: Applied to the model's output by :meth:`predict`. By default the folder's, or else a
            sigmoid for one label and nothing for several.
        cache_folder: Where models fetched from the Hub are stored.
        token: For private models on the Hub.
        prompts: Texts to put before the first text of a pair, by name; they override those of the folder.
        default_prompt_name: The prompt to use when none is named.
        model_card_data: Facts about the model, for its card.
        backend: What computes the classifier: "torch", or an exported file with "onnx" or "openvino"; see
            :class:`ray_st.models.exported.backend_options.BackendOptions` for its ``model_kwargs``.

    Raises:
        ValueError: If there is no such model, it is unsafe, incomplete or of another kind (a
            ``ModelFolderError``), or arguments contradict each other.
    """

    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        num_labels: int | None = None,
        max_length: int | None = None,
        device: str | torch.device | None = None,
        automodel_args: Mapping[str, Any] | None = None,
        tokenizer_args: Mapping[str, Any] | None = None,
        config_args: Mapping[str, Any] | None = None,
        cache_dir: str | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
        default_activation_function: Activation | None = None,
        classifier_dropout: float | None = None,
        *,
        model_name: str | Path | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        activation_fn: Activation | None = None,
        cache_folder: str | None = None,
        token: bool | str | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        model_card_data: CrossEncoderModelCardData | None = None,
        backend: str = "torch",
    ) -> None:
        tokenizer_kwargs = either("tokenizer_kwargs", tokenizer_kwargs, "processor_kwargs", processor_kwargs)
        name: Any = either("model_name", model_name, "model_name_or_path", model_name_or_path)
        if name is None:
            raise ValueError("CrossEncoder needs model_name_or_path: a folder or a name on the Hub.")
        options = RerankerOptions(
            num_labels=num_labels,
            max_length=max_length,
            classifier_dropout=classifier_dropout,
            model=either("automodel_args", automodel_args, "model_kwargs", model_kwargs) or {},
            tokenizer=either("tokenizer_args", tokenizer_args, "tokenizer_kwargs", tokenizer_kwargs) or {},
            config=either("config_args", config_args, "config_kwargs", config_kwargs) or {},
            activation=either(
                "default_activation_function", default_activation_function, "activation_fn", activation_fn
            ),
            cache_folder=either("cache_dir", cache_dir, "cache_folder", cache_folder),
            trust_remote_code=trust_remote_code,
            revision=revision,
            token=token,
            local_files_only=local_files_only,
            backend=backend,
        )
        opened = open_reranker(name, options)
        super().__init__()
        self._take(opened, trust_remote_code)
        self._take_prompts(opened.settings, prompts or {}, default_prompt_name)
        self.model_card_data = model_card_data or CrossEncoderModelCardData(local_files_only=local_files_only)
        self.model_card_data.set_base_model(*(opened.source or (None,)))
        self.to(device or best_device())

    def _take(self, opened: OpenedReranker, trust_remote_code: bool) -> None:
        """Makes what was opened this model's own."""
        self.model = opened.model
        self.tokenizer = opened.tokenizer
        self.activation_fn = opened.activation
        self.chat, self.do_lower_case = opened.chat, opened.do_lower_case
        self._chat_options = opened.settings.module.get("processing_kwargs")
        self._kind, self._without_cache = type(self.model), without_cache(self.model)
        self._readme = opened.readme
        # Modules of a folder's code were trusted when they were made.
        self.trust_remote_code = trust_remote_code or any(is_remote(type(part)) for part in self.modules())

    def _take_prompts(
        self, saved: RerankerSettings, prompts: Mapping[str, str], default_prompt_name: str | None
    ) -> None:
        self.prompts = {**saved.prompts, **prompts}
        self.default_prompt_name = default_prompt_name or saved.default_prompt_name
        chosen_prompt(None, self.default_prompt_name, self.prompts)  # raises if there is no such prompt

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores a model that another process may have sent."""
        super().__setstate__(state)
        register_kernel(self.model)

    def forward(self, features: Features) -> Features:
        """The features with ``scores`` (n, num_labels), before any activation.

        Args:
            features: ``input_ids`` and ``attention_mask`` (n, t) and whatever else :meth:`tokenize` returns;
                left unchanged. With ``token_lengths`` (n,) and ``padding_side`` on the host, the device is
                not asked for them.
        """
        inputs = {name: features[name] for name in _INPUTS if name in features}
        lengths = features.get(TOKEN_LENGTHS)
        known = lengths is not None and lengths.device.type == "cpu"  # else the mask is asked
        with linear_layers_of(self.model):
            output = self._run(inputs, lengths if known else None, features.get(PADDING_SIDE))
        return {**features, "scores": output.logits}

    def _run(self, inputs: dict[str, Tensor], lengths: Tensor | None, side: str | None) -> Any:
        """The classifier's output, which depends neither on the side nor on the amount of padding."""
        # Many heads read the first column, and some encoders number positions from it.
        if self._is_left(inputs, lengths, side):
            inputs, side = moved_to_start(inputs), "right"
        if self.without_padding and (packing := find_packing(inputs, lengths, side)):
            return self._classify({**inputs, "attention_mask": carrying(inputs["attention_mask"], packing)})
        if self.without_padding and not torch.compiler.is_compiling() and is_full(inputs, lengths):
            # Given a mask, transformers would look for padding on the device.
            return self._classify({name: value for name, value in inputs.items() if name != "attention_mask"})
        return self._classify(inputs)

    def _is_left(self, inputs: Mapping[str, Tensor], lengths: Tensor | None, side: str | None) -> bool:
        if torch.compiler.is_compiling():  # a compiled model must not branch on the values of the batch
            return self.tokenizer.padding_side == "left" and "attention_mask" in inputs
        if lengths is not None and side is not None:
            return side == "left" and not is_full(inputs, lengths)
        return is_padded_left(inputs)

    def _classify(self, inputs: Mapping[str, Tensor]) -> Any:
        if type(self.model) is not self._kind:  # a user may have replaced it
            self._kind, self._without_cache = type(self.model), without_cache(self.model)
        return self.model(**inputs, **self._without_cache, return_dict=True)

    def tokenize(self, pairs: Sequence[Any], **options: object) -> dict[str, Tensor]:
        """The padded batch of some pairs, as :meth:`forward` takes it.

        Args:
            pairs: n pairs of texts, in any form that :meth:`predict` takes.
            **options: Ignored; other models' ``tokenize`` takes more.

        Raises:
            ValueError: If an entry is not a pair of texts.
        """
        return self._tokenized(read_pairs(pairs)[0])

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, **options: object
    ) -> dict[str, Tensor]:
        """The later name of :meth:`tokenize`, which can put a prompt before the first text of each pair."""
        return self._tokenized(read_pairs(inputs)[0], prompt)

    def _tokenized(self, pairs: Sequence[Pair], prompt: str | None = None) -> dict[str, Tensor]:
        joint = self.joint_encoder(prompt)
        if joint is not None:
            texts: Any = pairs
            return joint.pad(joint(texts))
        columns = _columns(with_prompt_before(pairs, prompt))
        encoder = self.pair_encoder()
        if encoder is not None:
            whole = encoder.whole
            return whole.join(*map(whole, columns))
        lowered = [[text.lower() for text in texts] if self.do_lower_case else texts for texts in columns]
        made = self.tokenizer(
            *lowered,
            padding=True,
            truncation="longest_first" if self.max_length else False,
            max_length=self.max_length,
            return_tensors="pt",
        )
        return {name: made[name] for name in _INPUTS if name in made}

    def pair_encoder(self) -> PairEncoder | None:
        """The picklable part that turns texts into ids and ids into pairs.

        None if pairs cannot be joined from the ids of their texts: they go into a chat template, the
        tokenizer is written in Python, or a subclass overrides :meth:`tokenize`.
        """
        own = type(self).tokenize is not CrossEncoder.tokenize
        template = None if own or self.chat is not None else PairTemplate.of(self.tokenizer)
        if template is None:
            return None
        return PairEncoder(self.tokenizer, self.max_length, self.do_lower_case, template=template)

    def joint_encoder(self, prompt: str | None = None) -> TokenEncoder | None:
        """The picklable part that turns pairs into ids by the chat template; None without one.

        Args:
            prompt: The content of a system message.
        """
        if self.chat is None or type(self).tokenize is not CrossEncoder.tokenize:
            return None
        return TokenEncoder(self.tokenizer, self.max_length, chat=self.chat.prompted(prompt))

    @property
    def without_padding(self) -> bool:
        """Whether padding costs next to nothing, because only real tokens go through the encoder."""
        return is_prepared(self.model)

    @property
    def auto_model(self) -> PreTrainedModel:
        """The classifier, under the name by which an embedder's module has its encoder."""
        return self.model

    @property
    def config(self) -> PreTrainedConfig:
        """The classifier's configuration."""
        return self.model.config

    @property
    def num_labels(self) -> int:
        """Numbers that the model computes for a pair."""
        return int(self.config.num_labels or 1)

    @property
    def max_length(self) -> int | None:
        """Longest pair in tokens, special ones included; longer ones are truncated. None for no limit."""
        return limit_of(self.tokenizer)

    @max_length.setter
    def max_length(self, value: int | None) -> None:
        set_limit(self.tokenizer, value, table_limit(self.model))

    @property
    def max_seq_length(self) -> int | None:
        """The later name of :attr:`max_length`."""
        return self.max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        self.max_length = value

    def get_max_seq_length(self) -> int | None:
        """The same as :attr:`max_length`."""
        return self.max_length

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets an attribute; an activation that is a module does not become a part of this one."""
        if name in ("activation_fn", "default_activation_function"):
            object.__setattr__(self, name, value)  # the property's setter, which Module would pass by
        else:
            super().__setattr__(name, value)

    @property
    def activation_fn(self) -> Activation:
        """Applied to the model's output by :meth:`predict`; not a part of the trained model."""
        activation: Activation = vars(self)["_activation"]
        return activation

    @activation_fn.setter
    def activation_fn(self, value: Activation) -> None:
        vars(self)["_activation"] = value

    @property
    def default_activation_function(self) -> Activation:
        """The older name of :attr:`activation_fn`."""
        return self.activation_fn

    @default_activation_function.setter
    def default_activation_function(self, value: Activation) -> None:
        self.activation_fn = value

    def save_pretrained(
        self,
        path: str | Path,
        model_name: str | None = None,
        create_model_card: bool = True,
        train_datasets: Sequence[str] | None = None,
        safe_serialization: bool = True,
    ) -> None:
        """Writes the model into a folder that this class, its peer and transformers can open.

        Args:
            path: The folder; created if it does not exist, and its files are replaced.
            model_name: Name on the Hub, for the card.
            create_model_card: Whether to write README.md: the card that the model came with, or a new one
                once it is trained or has none.
            train_datasets: Names of the datasets it was trained on, for the card.
            safe_serialization: Must be True: only safetensors are written.

        Raises:
            ValueError: If ``safe_serialization`` is False, or the path is a file.
        """
        folder = folder_to_save(path, safe_serialization)
        settings = RerankerSettings(self.prompts, self.default_prompt_name, module=self._module_settings())
        write_settings_of_reranker(folder, settings, self.activation_fn, self.config)
        for part in (self.model, self.config, self.tokenizer):
            keep_code(part)
        with quiet():
            self.model.save_pretrained(folder)
        save_tokenizer(self.tokenizer, folder, self.max_length)
        if create_model_card:
            self.model_card_data.name_model(model_name, train_datasets)
            write_card(folder, self, self.model_card_data, self._readme)

    save = save_pretrained

    def _module_settings(self) -> dict[str, Any]:
        lower = {"do_lower_case": True} if self.do_lower_case else {}
        return {**module_settings(self.chat, self._chat_options), **lower}

    def load_weights(self, path: str | Path) -> None:
        """Loads the weights of a saved model of the same kind, in place.

        Args:
            path: A folder that :meth:`save_pretrained` wrote.

        Raises:
            ValueError: If the folder holds another kind of model, or a weight has another shape.
        """
        folder = find_folder(path)
        options = RerankerOptions(trust_remote_code=self.trust_remote_code)
        saved = open_classifier(folder, read_settings_of_reranker(folder), options)
        if saved.config.model_type != self.config.model_type:
            kinds = saved.config.model_type, self.config.model_type
            raise ValueError(f"{path} holds a model of the kind {kinds[0]!r}; this model is a {kinds[1]!r}.")
        try:
            self.model.load_state_dict(saved.state_dict())
        except RuntimeError as error:
            raise ValueError(f"The weights in {path} do not fit this model: {error}") from error

    def __repr__(self) -> str:
        """What ``print(model)`` shows: the classifier's class, not its hundred layers."""
        settings = f"num_labels={self.num_labels}, max_length={self.max_length}"
        return f"CrossEncoder({type(self.model).__name__}, {settings}, activation_fn={self.activation_fn})"


def _columns(pairs: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """The first texts and the second texts of pairs."""
    return [first for first, _ in pairs], [second for _, second in pairs]
