"""The model: modules in a row that turn texts into embeddings, and the methods that users call on it."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ray_st.models.adapter.adaptable import AdaptableStack
from ray_st.models.adapter.peft_layers import encoder_within, refill
from ray_st.models.card.model_card_data import SentenceTransformerModelCardData
from ray_st.models.card.render import write_card
from ray_st.models.exported.backend_options import check_backend
from ray_st.models.exported.exported_module import check_used
from ray_st.models.fit_methods import FittedStack
from ray_st.models.folder import Opened, Settings, open_model, read_modules, write_modules, write_settings
from ray_st.models.folder_files import folder_to_save
from ray_st.models.model_hub import find_folder
from ray_st.models.module_table import with_classes_of
from ray_st.models.process_pool import Pool, encode_pooled, open_pool
from ray_st.models.remote_code import is_remote
from ray_st.models.text_encoding import EncodeOptions, chosen_prompt, encode_texts
from ray_st.models.whole_model import best_device
from ray_st.similarity_functions import SimilarityFunction
from ray_st.util.names import either
from ray_st.util.team import Alone, Team
from ray_st.util.tensors import Embeddings

logger = logging.getLogger(__name__)


class SentenceTransformer(AdaptableStack, FittedStack):
    """A model that turns texts into embeddings.

    Args:
        model_name_or_path: A model folder, also an older one or a plain one of transformers, or a name on the
            Hub.
        modules: The modules of a new model, instead of a folder.
        device: Where to compute; by default a GPU if there is one.
        prompts: Texts to put before others, by name; they override those of the folder.
        default_prompt_name: The prompt to use when none is named.
        similarity_fn_name: How embeddings are compared: "cosine" (the default), "dot", "euclidean",
            "manhattan".
        cache_folder: Where models fetched from the Hub are stored.
        trust_remote_code: Whether Python code that a model folder contains or names may be run.
        revision: Branch, tag or commit on the Hub.
        local_files_only: Never ask the Hub.
        token: For private models on the Hub.
        use_auth_token: The older name of ``token``.
        truncate_dim: Dimensions to keep of each embedding.
        model_kwargs: More arguments of ``AutoModel.from_pretrained``, such as ``dtype`` or
            ``attn_implementation``.
        tokenizer_kwargs: More arguments of ``AutoTokenizer.from_pretrained``.
        config_kwargs: More arguments of ``AutoConfig.from_pretrained``.
        model_card_data: Facts about the model, for its card.
        backend: What computes the encoder: "torch", or an exported file with "onnx" or "openvino"; see
            :class:`ray_st.models.exported.backend_options.BackendOptions` for its ``model_kwargs``.
        processor_kwargs: The later name of ``tokenizer_kwargs``.

    Raises:
        ValueError: If there is no such model, it is unsafe or incomplete (a ``ModelFolderError``), or
            arguments contradict each other.
    """

    team: Team = Alone()
    """The processes that share :meth:`encode` and evaluators' work; set by training while it evaluates."""

    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        modules: Iterable[nn.Module] | Mapping[str, nn.Module] | None = None,
        device: str | torch.device | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        similarity_fn_name: str | SimilarityFunction | None = None,
        cache_folder: str | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
        token: bool | str | None = None,
        use_auth_token: bool | str | None = None,
        truncate_dim: int | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        model_card_data: SentenceTransformerModelCardData | None = None,
        backend: str = "torch",
        *,
        processor_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        check_backend(backend)
        tokenizer_kwargs = either("tokenizer_kwargs", tokenizer_kwargs, "processor_kwargs", processor_kwargs)
        if model_name_or_path is None:
            opened = Opened.of(modules)
        elif modules is not None:
            raise ValueError("SentenceTransformer takes either model_name_or_path or modules, not both.")
        else:
            opened = open_model(
                model_name_or_path,
                revision,
                trust_remote_code=trust_remote_code,
                cache_dir=cache_folder,
                token=use_auth_token if token is None else token,
                local_files_only=local_files_only,
                model_args=model_kwargs,
                tokenizer_args=tokenizer_kwargs,
                config_args=config_kwargs,
                **({} if backend == "torch" else {"backend": backend}),
            )
        super().__init__(OrderedDict(opened.modules))
        check_used(self, backend)
        saved = opened.settings
        self.prompts: dict[str, str] = {"query": "", "document": "", **saved.prompts, **(prompts or {})}
        self.default_prompt_name = default_prompt_name or saved.default_prompt_name
        self._similarity = SimilarityFunction(similarity_fn_name or saved.similarity_fn_name or "cosine")
        self.truncate_dim = saved.truncate_dim if truncate_dim is None else truncate_dim
        self._prompt(None, None)  # raises for a default prompt that does not exist
        # Modules of a folder's code were trusted when they were made.
        self.trust_remote_code = trust_remote_code or any(is_remote(type(part)) for part in self.modules())
        known = model_card_data or SentenceTransformerModelCardData(local_files_only=local_files_only)
        self.model_card_data = known
        self.model_card_data.set_base_model(*(opened.source or (None,)))
        self._readme = opened.readme
        self.share_dtype()
        self.to(device or best_device())

    def encode(
        self,
        sentences: str | Sequence[str] | np.ndarray | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | torch.device | Sequence[str | torch.device] | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: Pool | None = None,
        chunk_size: int | None = None,
        *,
        inputs: str | Sequence[str] | np.ndarray | None = None,
        **options: object,
    ) -> Any:
        """Embeddings of texts.

        Args:
            sentences: n texts, or one.
            prompt_name: Name of the prompt to put before each text; by default ``default_prompt_name``.
            prompt: The prompt text. Overrides ``prompt_name``.
            batch_size: Texts computed at once. Texts of similar length share a batch.
            show_progress_bar: Whether to show one; by default if this logger is at level INFO or DEBUG.
            output_value: "sentence_embedding"; "token_embeddings" for a tensor (t, d) per text, without
                padding; None for a dict of all features per text.
            precision: "float32" (also None), or with fewer bits: "int8", "uint8", "binary", "ubinary".
            convert_to_numpy: Return one array; otherwise a list of tensors.
            convert_to_tensor: Return one tensor. Overrides ``convert_to_numpy``.
            device: Move the model there first; or a list of devices, for a temporary pool.
            normalize_embeddings: Scale embeddings to unit length.
            truncate_dim: Dimensions to keep; by default the model's.
            pool: A pool from :meth:`start_multi_process_pool` to compute with; tensors are returned on the
                CPU.
            chunk_size: Texts that a process of the pool gets at a time, rounded up to whole batches, at most
                128.
            inputs: The later name of ``sentences``.
            **options: Passed to the modules that take them; see :meth:`get_model_kwargs`. ``task`` is always
                allowed.

        Returns:
            (n, d) as an array or tensor, or a list of n; for one text, its embedding alone.

        Raises:
            ValueError: If an entry is not a string, a prompt is unknown, or an option is invalid.
        """
        devices = None
        if device is not None and not isinstance(device, str | torch.device):
            devices = list(device)
        elif device is not None and pool is None:
            self.to(device)
        if show_progress_bar is None:
            show_progress_bar = logger.getEffectiveLevel() <= logging.INFO
        request = EncodeOptions(
            prompt=self._prompt(prompt, prompt_name),
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            output_value=output_value,
            precision=precision or "float32",
            form="tensor" if convert_to_tensor else "numpy" if convert_to_numpy else "list",
            normalize=normalize_embeddings,
            truncate_dim=self.truncate_dim if truncate_dim is None else truncate_dim,
            options=self._module_options(options),
        )
        given: Any = either("sentences", sentences, "inputs", inputs)
        if given is None:
            raise ValueError("encode needs sentences: one text or several; got none.")
        single = isinstance(given, str | Mapping) or not isinstance(given, Sized)
        texts: list[Any] = [given] if single else list(given)
        if texts and (pool is not None or devices is not None):
            found = encode_pooled(self, texts, request, pool, devices, chunk_size)
        else:
            found = encode_texts(self, texts, request, self.team)
        return found[0] if single else found

    def start_multi_process_pool(self, target_devices: Sequence[str | torch.device] | None = None) -> Pool:
        """Starts processes for ``encode(..., pool=pool)`` on the Ray cluster, each with a copy of this model.

        Args:
            target_devices: A device for each process: "cuda:0" requests a GPU of the cluster, "cpu" a CPU;
                devices with the same name share one GPU. By default every GPU of the cluster; without GPUs
                four CPUs, or as many as there are.

        Returns:
            The pool, whose processes run until :meth:`stop_multi_process_pool`.

        Raises:
            ValueError: If a device is of another kind, or the cluster lacks the resources.
        """
        return open_pool(self, target_devices)

    @staticmethod
    def stop_multi_process_pool(pool: Pool) -> None:
        """Stops the processes of a pool, and Ray if it was started for them."""
        pool.stop()

    def encode_multi_process(
        self,
        sentences: Sequence[str] | None = None,
        pool: Pool | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        chunk_size: int | None = None,
        **options: Any,
    ) -> np.ndarray:
        """The older name of :meth:`encode` with a pool; ``options`` are its other arguments.

        Raises:
            ValueError: If no pool is given, or :meth:`encode` raises one.
        """
        if pool is None:
            raise ValueError("encode_multi_process needs the pool that start_multi_process_pool() returned.")
        return self.encode(
            sentences, prompt_name, prompt, batch_size, pool=pool, chunk_size=chunk_size, **options
        )

    def encode_query(self, sentences: str | Sequence[str] | None = None, **options: Any) -> Any:
        """Like :meth:`encode`, with the prompt named "query" unless another is asked for."""
        return self._encode_as("query", "query", sentences, options)

    def encode_document(self, sentences: str | Sequence[str] | None = None, **options: Any) -> Any:
        """Like :meth:`encode`, with the prompt "document", "passage" or "corpus" unless another is given."""
        known = (name for name in ("document", "passage", "corpus") if self.prompts.get(name))
        role = next(known, "document")
        return self._encode_as("document", role, sentences, options)

    def _encode_as(
        self, task: str, role: str, sentences: str | Sequence[str] | None, options: dict[str, Any]
    ) -> Any:
        chosen = {name for name in ("prompt", "prompt_name") if options.get(name) is not None}
        named = {} if chosen or role not in self.prompts else {"prompt_name": role}
        of_task = {"task": task} if "task" in self.get_model_kwargs() else {}
        return self.encode(sentences, **{**of_task, **options, **named})

    def _module_options(self, options: Mapping[str, object]) -> dict[str, object]:
        """The options of a call that some module takes."""
        names = self.get_model_kwargs()
        if unknown := sorted(set(options) - {*names, "task"}):
            raise ValueError(
                f"encode has no argument {unknown[0]!r}, and no module takes it; they take {names}."
            )
        return {name: value for name, value in options.items() if name in names}

    def _prompt(self, prompt: str | None, name: str | None) -> str | None:
        """The text to put before others, from a call's arguments and the default."""
        return chosen_prompt(prompt, name or self.default_prompt_name, self.prompts)

    @property
    def similarity_fn_name(self) -> str:
        """How embeddings are compared: "cosine", "dot", "euclidean" or "manhattan"."""
        return str(self._similarity.value)

    @similarity_fn_name.setter
    def similarity_fn_name(self, value: str | SimilarityFunction) -> None:
        self._similarity = SimilarityFunction(value)

    def similarity(self, embeddings1: Embeddings, embeddings2: Embeddings) -> Tensor:
        """Similarity of each of the first to each of the second: (n, d) and (m, d) to (n, m)."""
        return SimilarityFunction.to_similarity_fn(self._similarity)(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Embeddings, embeddings2: Embeddings) -> Tensor:
        """Similarity of the first to the second, row by row: (n, d) and (n, d) to (n,)."""
        return SimilarityFunction.to_similarity_pairwise_fn(self._similarity)(embeddings1, embeddings2)

    def get_embedding_dimension(self) -> int | None:
        """Dimension of what :meth:`encode` returns; None if no module knows."""
        full = super().get_embedding_dimension()
        return full if self.truncate_dim is None else min(self.truncate_dim, full or self.truncate_dim)

    @contextmanager
    def truncate_sentence_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """Within this context, :meth:`encode` keeps only so many dimensions; None keeps all."""
        before, self.truncate_dim = self.truncate_dim, truncate_dim
        try:
            yield
        finally:
            self.truncate_dim = before

    def save_pretrained(
        self,
        path: str | Path,
        model_name: str | None = None,
        create_model_card: bool = True,
        train_datasets: Sequence[str] | None = None,
        safe_serialization: bool = True,
    ) -> None:
        """Writes the model into a folder that this class and its peer can open.

        Args:
            path: The folder; created if it does not exist, and its files are replaced.
            model_name: Name on the Hub, for the card.
            create_model_card: Whether to write README.md: the card that the model came with, or a new one
                once it is trained or has none.
            train_datasets: Names of the datasets it was trained on, for the card.
            safe_serialization: Must be True: only safetensors are written.

        Raises:
            ValueError: If ``safe_serialization`` is False, the path is a file, or a module cannot be saved.
        """
        folder = folder_to_save(path, safe_serialization)
        write_settings(
            folder,
            Settings(self.prompts, self.default_prompt_name, self.similarity_fn_name, self.truncate_dim),
        )
        write_modules(folder, dict(self.named_children()))
        if create_model_card:
            self.model_card_data.name_model(model_name, train_datasets)
            write_card(folder, self, self.model_card_data, self._readme)

    save = save_pretrained

    def load_weights(self, path: str | Path) -> None:
        """Loads the weights of a saved model with the same modules, in place; also for your own classes.

        A model with adapters loads its active adapter and the modules after the encoder.

        Args:
            path: A model folder.

        Raises:
            ValueError: If the folder's modules differ, by kind or by the shape of a weight.
        """
        folder = find_folder(path)
        if self.has_adapters:  # of the first module only the adapter is saved
            refill(encoder_within(self.first.auto_model), folder)
        parts = list(self)[self.has_adapters :]
        with with_classes_of(self):
            saved = read_modules(folder, int(self.has_adapters), trust_remote_code=self.trust_remote_code)
        mine, theirs = [[type(part).__name__ for part in row] for row in (parts, saved.values())]
        if mine != theirs:
            raise ValueError(f"{path} holds the modules {theirs}; this model has {mine}.")
        for part, other in zip(parts, saved.values(), strict=True):
            try:
                part.load_state_dict(other.state_dict())
            except RuntimeError as error:
                raise ValueError(f"The weights in {path} do not fit this model: {error}") from error
