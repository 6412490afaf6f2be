"""The folder format: which modules a model has, in which order, and the settings they share.

``modules.json`` lists modules with a name, a sub-folder and a type; ``config_sentence_transformers.json`` holds
prompts, similarity and dimension. The same format is written and read by the peer of this package.
"""

from __future__ import annotations

import importlib
import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.dynamic_module_utils import custom_object_save, get_class_from_dynamic_module

from ray_st._version import __version__
from ray_st.models.dense import Dense
from ray_st.models.files import ModelFolderError, read_json, write_json
from ray_st.models.hub import source_of
from ray_st.models.module import Module
from ray_st.models.normalize import Normalize
from ray_st.models.pooling import Pooling
from ray_st.models.transformer import Transformer

logger = logging.getLogger(__name__)

KNOWN: dict[str, type[Module]] = {kind.__name__: kind for kind in (Dense, Normalize, Pooling, Transformer)}
"""Modules that are read without importing anything a folder names."""

_MODULES = "modules.json"
_SETTINGS = "config_sentence_transformers.json"
_FAMILIES = ("sentence_transformers", "ray_st")


@dataclass(frozen=True)
class Settings:
    """What a folder says about the model as a whole.

    Args:
        prompts: Texts that are put before others, by name.
        default_prompt_name: The prompt that is used when none is named.
        similarity_fn_name: "cosine", "dot", "euclidean" or "manhattan".
        truncate_dim: Dimensions that are kept of an embedding; None keeps all.
    """

    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity_fn_name: str | None = None
    truncate_dim: int | None = None


@dataclass(frozen=True)
class Opened:
    """What a model folder held, or the modules that a user brought instead.

    Args:
        modules: The modules, in order, by name.
        settings: What they share.
        readme: The model card.
        source: Name and commit on the Hub.
    """

    modules: Mapping[str, nn.Module]
    settings: Settings = field(default_factory=Settings)
    readme: str | None = None
    source: tuple[str, str] | None = None

    @classmethod
    def of(cls, modules: Iterable[nn.Module] | Mapping[str, nn.Module] | None) -> Opened:
        """Modules of a new model, named by their place unless they have names.

        Raises:
            ValueError: If there are none.
        """
        named = (
            modules
            if isinstance(modules, Mapping)
            else {str(i): part for i, part in enumerate(modules or [])}
        )
        if not named:
            raise ValueError(
                "A model needs a folder or a name on the Hub, or modules with at least one module."
            )
        return cls(named)


def open_folder(folder: Path, trust_remote_code: bool = False, **options: Any) -> Opened:
    """Modules, settings and model card of a folder.

    Args:
        folder: A model folder.
        trust_remote_code: Whether modules of unknown type may be imported and run.
        **options: Handed to each module's ``load``.

    Raises:
        ModelFolderError: If the folder is no model folder, holds another kind of model, or is incomplete or unsafe.
    """
    settings = read_settings(folder)
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else None
    return Opened(read_modules(folder, trust_remote_code, **options), settings, text, source_of(folder))


def read_settings(folder: Path) -> Settings:
    """The settings of a folder; all at their defaults if it has none.

    Raises:
        ModelFolderError: If the folder holds another kind of model.
    """
    saved = read_json(folder / _SETTINGS, {})
    kind = saved.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise ModelFolderError(f"{folder} holds a {kind}, not a SentenceTransformer.")
    known = {name: saved[name] for name in asdict(Settings()) if saved.get(name) is not None}
    return Settings(**known)


def write_settings(folder: Path, settings: Settings) -> None:
    """Writes the settings, with the versions that wrote them."""
    versions = {"ray_st": __version__, "transformers": transformers.__version__, "pytorch": torch.__version__}
    value = {"model_type": "SentenceTransformer", "__version__": versions, **asdict(settings)}
    if settings.truncate_dim is None:
        del value["truncate_dim"]
    write_json(folder / _SETTINGS, value)


def read_modules(
    folder: Path, trust_remote_code: bool = False, **options: Any
) -> OrderedDict[str, nn.Module]:
    """The modules of a folder, in order, by name.

    A plain folder of transformers gets mean pooling, or the last token's vector if the encoder is a causal language
    model.

    Args:
        folder: A model folder.
        trust_remote_code: Whether modules of unknown type may be imported and run.
        **options: Handed to each module's ``load``.

    Raises:
        ModelFolderError: If the folder is no model folder, a module's type is unknown, a path leads out of the
            folder, or a module cannot be read.
    """
    entries = read_json(folder / _MODULES)
    if entries is None:
        return _plain_modules(folder, trust_remote_code=trust_remote_code, **options)
    if not isinstance(entries, list) or not all(_is_entry(entry) for entry in entries) or not entries:
        raise ModelFolderError(f"{folder / _MODULES} must be a list of modules, each with a type and a path.")
    kinds = [_module_class(folder, entry["type"], trust_remote_code) for entry in entries]
    places = [_inside(folder, entry["path"]) for entry in entries]
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for index, (entry, kind, place) in enumerate(zip(entries, kinds, places, strict=True)):
        module = (
            kind.load(place, trust_remote_code=trust_remote_code, **options)
            if issubclass(kind, Module)
            else kind.load(str(place))
        )
        modules[entry.get("name", str(index))] = module
    return modules


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict) and isinstance(entry.get("type"), str) and isinstance(entry.get("path"), str)
    )


def _plain_modules(folder: Path, **options: Any) -> OrderedDict[str, nn.Module]:
    encoder = Transformer.load(folder, **options)
    config = encoder.auto_model.config
    causal = any(name.endswith("ForCausalLM") for name in config.architectures or [])
    mode = "lasttoken" if causal and getattr(config, "is_causal", True) else "mean"
    logger.warning("%s has no %s: a Transformer with %s pooling is made of it.", folder, _MODULES, mode)
    return OrderedDict([("0", encoder), ("1", Pooling(encoder.get_embedding_dimension(), mode))])


def _inside(folder: Path, path: str) -> Path:
    place = (folder / path).resolve()
    if not place.is_relative_to(folder.resolve()):
        raise ModelFolderError(
            f"{folder / _MODULES} names the path {path!r}, which leads out of the model folder."
        )
    return folder / path


def _module_class(folder: Path, kind: str, trust_remote_code: bool) -> Any:
    package, _, name = kind.rpartition(".")
    if package.split(".")[0] in _FAMILIES:
        if name in KNOWN:
            return KNOWN[name]
        raise ModelFolderError(f"{folder / _MODULES} names the module {kind}; known are {', '.join(KNOWN)}.")
    if not trust_remote_code:
        raise ModelFolderError(
            f"{folder / _MODULES} names the module {kind}, which is code from outside this package. "
            "Read that code, then pass trust_remote_code=True if you trust it."
        )
    if package and (folder / f"{package}.py").is_file():
        return get_class_from_dynamic_module(kind, str(folder))
    return getattr(importlib.import_module(package), name)


def write_modules(folder: Path, modules: Mapping[str, nn.Module]) -> None:
    """Writes each module into its place and, last of all, the list of them.

    Raises:
        ValueError: If a module has no ``save(folder)``; nothing is written then.
    """
    for name, module in modules.items():
        if not callable(getattr(module, "save", None)):
            raise ValueError(
                f"Module {name} ({type(module).__name__}) cannot be saved: it has no save(folder)."
            )
    entries = []
    for index, (name, module) in enumerate(modules.items()):
        path = (
            ""
            if index == 0 and getattr(module, "save_in_root", False)
            else f"{index}_{type(module).__name__}"
        )
        (folder / path).mkdir(parents=True, exist_ok=True)
        module.save(str(folder / path))  # type: ignore[operator]
        entries.append({"idx": index, "name": name, "path": path, "type": _type_name(folder, module)})
    write_json(folder / _MODULES, entries)


def _type_name(folder: Path, module: nn.Module) -> str:
    kind = type(module)
    if KNOWN.get(kind.__name__) is kind:
        return f"sentence_transformers.models.{kind.__name__}"
    if kind.__module__.startswith("transformers_modules."):
        custom_object_save(module, folder)
        return f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}"
    return f"{kind.__module__}.{kind.__qualname__}"
