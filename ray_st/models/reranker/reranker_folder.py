"""The folder of a reranker: a sequence classifier of transformers, with settings that the peer also reads.

``modules.json`` has one entry, whose ``sentence_bert_config.json`` names the task;
``config_sentence_transformers.json`` holds prompts and the activation. Older folders have none of the three:
their ``config.json`` names the activation.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig

from ray_st._version import __version__
from ray_st.models.activations import Activation, activation_name, read_activation, warn_of_arguments
from ray_st.models.adapter.peft_folder import is_adapter
from ray_st.models.chat import MESSAGE, ChatTemplate
from ray_st.models.folder_files import ModelFolderError, read_json, write_json

logger = logging.getLogger(__name__)

KIND = "CrossEncoder"
TASK, OUTPUT = "sequence-classification", "scores"
_MODULES, _SETTINGS, _MODULE_SETTINGS = (
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
)
_OLD_ACTIVATION, _OLD_SETTINGS = "sbert_ce_default_activation_function", "sentence_transformers"
_MODULE = "sentence_transformers.base.modules.transformer.Transformer"
_TEXT = {"method": "forward", "method_output_name": "logits"}


@dataclass(frozen=True)
class RerankerSettings:
    """What a reranker's folder says beside weights, configuration and tokenizer.

    Attributes:
        prompts: Texts to put before the first text of a pair, by name.
        default_prompt_name: The prompt to use when none is named.
        activation: Name of the activation's class; None if the folder names none.
        module: The settings of its one module.
        plain: Whether it is a folder of transformers alone.
    """

    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    activation: str | None = None
    module: Mapping[str, Any] = field(default_factory=dict)
    plain: bool = False


def read_settings_of_reranker(folder: Path, new_head: bool = False) -> RerankerSettings:
    """The settings in a folder.

    Args:
        folder: The folder.
        new_head: Whether the folder may be an embedder's, whose encoder gets a new head; its settings are
            left out then, since they are about single texts.

    Raises:
        ModelFolderError: If the folder holds another kind of model: an embedder, an adapter, or a reranker
            that does not score by a classification head.
    """
    saved, entries = read_json(folder / _SETTINGS, {}), read_json(folder / _MODULES)
    kind = saved.get("model_type", "SentenceTransformer" if entries is not None else KIND)
    is_base = new_head and kind == "SentenceTransformer" and (folder / "config.json").is_file()
    if kind != KIND and not is_base:
        raise ModelFolderError(
            f"{folder} holds a {kind}, not a {KIND}: no classification head of it scores pairs. Open it as "
            "what it is; or pass num_labels=1 to give the encoder of a SentenceTransformer a new, untrained "
            "head."
        )
    if is_adapter(folder):
        raise ModelFolderError(f"{folder} holds an adapter. Rerankers with adapters are not supported.")
    if is_base:
        return RerankerSettings(plain=True)
    module = read_json(folder / _MODULE_SETTINGS, {})
    if entries is not None:
        _check_modules(folder, entries, module)
    if saved.get("keep_in_fp32_modules"):
        logger.warning(
            "%s asks for layers in float32 under autocast (keep_in_fp32_modules), which is not supported: "
            "scores in 16 bits may differ slightly.",
            folder / _SETTINGS,
        )
    return RerankerSettings(
        saved.get("prompts") or {},
        saved.get("default_prompt_name"),
        saved.get("activation_fn"),
        module,
        plain=entries is None,
    )


def _check_modules(folder: Path, entries: Any, module: Mapping[str, Any]) -> None:
    kinds = [str(entry.get("type", "")).rpartition(".")[2] for entry in entries if isinstance(entry, dict)]
    if kinds != ["Transformer"] or entries[0].get("path"):
        raise ModelFolderError(
            f"{folder / _MODULES} lists {kinds}. Only rerankers that consist of one sequence classifier are "
            "supported; those that score by the logits of words (LogitScore) or with further modules are not."
        )
    task, made = module.get("transformer_task"), module.get("module_output_name", OUTPUT)
    ways = module.get("modality_config") or {}
    outputs = {ways.get(kind, _TEXT).get("method_output_name") for kind in ("text", MESSAGE)}
    if task != TASK or made != OUTPUT or outputs != {"logits"}:
        raise ModelFolderError(
            f"{folder / _MODULE_SETTINGS}: only the task {TASK!r} with the logits as {OUTPUT!r} is supported"
            f"; found the task {task!r} with {sorted(map(str, outputs))} as {made!r}."
        )


def saved_activation(
    folder: Path, settings: RerankerSettings, config: PreTrainedConfig, trust_remote_code: bool
) -> Activation | None:
    """The activation that a folder names; None if it names none.

    Args:
        folder: The folder, for errors.
        settings: What was read from it.
        config: The configuration in it; the settings of older folders are there.
        trust_remote_code: Whether a class from outside ``torch.nn`` may be imported.

    Raises:
        ModelFolderError: If it is such a class and the folder is not trusted.
    """
    known = config.to_dict()
    older = (known.get(_OLD_SETTINGS) or {}).get("activation_fn") or known.get(_OLD_ACTIVATION)
    path = settings.activation or older
    if path is None:
        return None
    return read_activation(path, trust_remote_code, f"The activation of the {KIND} in {folder},")


def module_settings(chat: ChatTemplate | None, chat_options: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings of the one module, in the peer's form.

    Args:
        chat: The chat template that pairs are put into; None for none.
        chat_options: The ``processing_kwargs`` that came with it.
    """
    ways: dict[str, Any] = {"text": _TEXT}
    if chat is not None:
        ways[MESSAGE] = {**_TEXT, "format": "structured" if chat.structured else "flat"}
    settings = {"transformer_task": TASK, "modality_config": ways, "module_output_name": OUTPUT}
    return {**settings, "processing_kwargs": dict(chat_options)} if chat_options else settings


def write_settings_of_reranker(
    folder: Path, settings: RerankerSettings, activation: Activation, config: PreTrainedConfig
) -> None:
    """Writes the settings.

    Args:
        folder: The folder.
        settings: Prompts, and the module's settings.
        activation: The activation. A function cannot be stored and is left out, with a warning.
        config: The model's configuration, which is written with the model: older readers look for the
            activation there.
    """
    name = activation_name(activation) if isinstance(activation, nn.Module) else None
    if name is None:
        text = "A folder can only name the class of an activation; %r is none and is left out."
        logger.warning(text, activation)
    warn_of_arguments(activation)
    vars(config).pop(_OLD_ACTIVATION, None)
    config.update({_OLD_SETTINGS: {"activation_fn": name}})
    versions = {"ray_st": __version__, "transformers": transformers.__version__, "pytorch": torch.__version__}
    value = {
        "model_type": KIND,
        "__version__": versions,
        "prompts": dict(settings.prompts),
        "default_prompt_name": settings.default_prompt_name,
        "activation_fn": name,
    }
    write_json(folder / _SETTINGS, value)
    write_json(folder / _MODULE_SETTINGS, dict(settings.module))
    write_json(folder / _MODULES, [{"idx": 0, "name": "0", "path": "", "type": _MODULE}])
