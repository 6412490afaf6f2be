"""Loading a sequence classifier of transformers: an encoder with a head that scores its text or pair."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

from ray_st.models.attention import explained
from ray_st.models.encoder_loading import LOADING, check_complete, check_type, load_config, quiet, setting_of
from ray_st.models.folder_files import ModelFolderError, read_json
from ray_st.models.packed_weights import check_quantization

logger = logging.getLogger(__name__)

_HEAD_END = "ForSequenceClassification"
_OTHER_HEADS = "ignore_mismatched_sizes"


def load_classifier_config(
    folder: Path,
    trust_remote_code: bool,
    options: Mapping[str, Any],
    num_labels: int | None,
    read: Callable[[Path, bool, dict[str, Any]], PreTrainedConfig] = load_config,
) -> PreTrainedConfig:
    """The configuration of the classifier in a folder.

    Args:
        folder: A folder in the format of transformers.
        trust_remote_code: Whether Python files in the folder may be run.
        options: More arguments of ``AutoConfig.from_pretrained``.
        num_labels: Outputs of the head. By default the folder's, or 1 for a folder without a head.
        read: Reads it; by default in a way that also checks the folder's weights.

    Raises:
        ModelFolderError: If there is no such configuration, or it is that of a causal language model and
            ``num_labels`` is None: such a model scores by the probability of a word, which is not supported.
    """
    options = dict(options)
    if num_labels is not None:
        options["num_labels"] = num_labels
    elif "num_labels" not in options and not has_head(folder):
        kinds = _architectures(folder)
        if any(kind.endswith("ForCausalLM") for kind in kinds):
            raise ModelFolderError(
                f"{folder} holds a causal language model ({kinds[0]}), which would score a pair by the "
                "probability of a word. Only sequence classifiers are supported: open the classifier that "
                "was made from it, or pass num_labels=1 to give it a new, untrained classification head."
            )
        options["num_labels"] = 1
    return read(folder, trust_remote_code, options)


def has_head(folder: Path) -> bool:
    """Whether the model in a folder is a sequence classifier; otherwise it gets a new head."""
    return any(kind.endswith(_HEAD_END) for kind in _architectures(folder))


def _architectures(folder: Path) -> list[str]:
    saved = read_json(folder / "config.json", {})
    found = saved.get("architectures") if isinstance(saved, dict) else None
    return [str(kind) for kind in found or []]


def load_classifier(
    folder: Path, config: PreTrainedConfig, trust_remote_code: bool, options: Mapping[str, Any]
) -> PreTrainedModel:
    """The classifier with its weights.

    A folder without a classification head gets a new one, with a warning; so does one whose head has another
    number of labels, if ``options`` has ``ignore_mismatched_sizes``.

    Args:
        folder: A folder in the format of transformers.
        config: Its configuration.
        trust_remote_code: Whether Python files in the folder may be run.
        options: More arguments of ``from_pretrained``, such as ``dtype``.

    Raises:
        ModelFolderError: If weights are missing, their shapes differ from the configuration, nothing computes
            in their type, or transformers has no sequence classifier of this kind.
        ImportError: If the model is quantized and the package for that is not installed, or this process
            lacks what its attention needs.
    """
    options = dict(options)
    replaces_head = bool(options.pop(_OTHER_HEADS, False))
    asked = options.get("quantization_config") or setting_of(config, "quantization_config")
    check_quantization(folder, asked)
    check_type(folder, config, options)
    with LOADING, quiet(), explained(options.get("attn_implementation")):
        model, found = _from_pretrained(folder, config, trust_remote_code, options)
    fresh = _fresh(model, found, replaces_head or not has_head(folder))
    if fresh:
        logger.warning(
            "%s has no weights for %s: they are new and untrained. Train the model before it scores pairs.",
            folder,
            ", ".join(sorted(fresh)),
        )
    kept = [part for part in found["mismatched_keys"] if part[0] not in fresh]
    if kept and not replaces_head and all(_is_of_head(model, name) for name, *_ in kept):
        raise ModelFolderError(_other_labels(folder, kept[0], config.num_labels))
    check_complete(folder, {**found, "mismatched_keys": kept}, frozenset(fresh))
    return model


def _from_pretrained(
    folder: Path, config: PreTrainedConfig, trust_remote_code: bool, options: dict[str, Any]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    auto: Any = AutoModelForSequenceClassification
    try:
        made: tuple[PreTrainedModel, dict[str, Any]] = auto.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are reported by name
            **options,
        )
        return made
    except ValueError as error:
        if type(config) in AutoModelForSequenceClassification._model_mapping or trust_remote_code:
            raise
        raise ModelFolderError(
            f"transformers has no sequence classifier for {folder}, whose model_type is "
            f"{config.model_type!r}: {str(error).splitlines()[0]}"
        ) from error


def _fresh(model: PreTrainedModel, found: Mapping[str, Any], new_head: bool) -> set[str]:
    """Names of the weights that a new head may be without."""
    if not new_head:
        return set()
    names = {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}
    return {name for name in names if _is_of_head(model, name)}


def _is_of_head(model: PreTrainedModel, name: str) -> bool:
    """Whether a weight belongs to the classification head; the encoder's own pooling layer does."""
    encoder = f"{model.base_model_prefix}."
    return not name.startswith(encoder) or name.startswith((f"{encoder}pooler.", f"{encoder}pooler_"))


def _other_labels(folder: Path, mismatch: tuple[Any, ...], num_labels: int | None) -> str:
    name, *shapes = mismatch
    shown = " instead of ".join(str(tuple(shape)) for shape in shapes)
    return (
        f"The classification head in {folder} does not fit num_labels={num_labels}: {name} has the shape "
        f"{shown}. Leave num_labels out, or pass model_kwargs={{{_OTHER_HEADS!r}: True}} for a new, "
        "untrained head."
    )
