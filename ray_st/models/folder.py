"""The folder format: which modules a model has, in which order, and the settings they share.

``modules.json`` lists modules with a name, a sub-folder and a type; ``config_sentence_transformers.json``
holds prompts, similarity and dimension. The same format is written and read by the peer of this package.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import transformers
from torch import nn

from ray_st._version import __version__
from ray_st.models.encoder_loading import setting_of
from ray_st.models.folder_files import ModelFolderError, read_json, write_json
from ray_st.models.model_hub import find_folder, source_of
from ray_st.models.module import LoadOptions, SavesInRoot, folder_kwargs, set_folder_kwargs
from ray_st.models.module_table import inside, module_class, read_module, saveable, type_name
from ray_st.models.pooling import Pooling
from ray_st.models.transformer import Transformer

if TYPE_CHECKING:
    from typing_extensions import Unpack

logger = logging.getLogger(__name__)

_MODULES = "modules.json"
_SETTINGS = "config_sentence_transformers.json"


@dataclass(frozen=True)
class Settings:
    """The settings of a model as a whole.

    Args:
        prompts: Texts to put before others, by name.
        default_prompt_name: The prompt to use when none is named.
        similarity_fn_name: "cosine", "dot", "euclidean" or "manhattan".
        truncate_dim: Dimensions to keep of an embedding; None keeps all.
    """

    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity_fn_name: str | None = None
    truncate_dim: int | None = None


@dataclass(frozen=True)
class Opened:
    """The contents of a model folder, or the modules that a user passed instead.

    Args:
        modules: The modules, in order, by name.
        settings: The settings that they share.
        readme: The model card.
        source: Name and commit on the Hub.
    """

    modules: Mapping[str, nn.Module]
    settings: Settings = field(default_factory=Settings)
    readme: str | None = None
    source: tuple[str, str] | None = None

    @classmethod
    def of(cls, modules: Iterable[nn.Module] | Mapping[str, nn.Module] | None) -> Opened:
        """Modules of a new model, named by their index unless they have names.

        Raises:
            ValueError: If there are none.
        """
        if not isinstance(modules, Mapping):
            modules = {str(i): part for i, part in enumerate(modules or [])}
        if not modules:
            raise ValueError(
                "A model needs a folder or a name on the Hub, or modules with at least one module."
            )
        return cls(modules)


def open_model(name: str | Path, revision: str | None = None, **options: Unpack[LoadOptions]) -> Opened:
    """Modules, settings and model card of a folder, which is downloaded from the Hub if necessary.

    Args:
        name: A model folder, or a name on the Hub.
        revision: Branch, tag or commit on the Hub.
        **options: As for :func:`read_modules`.

    Raises:
        ModelFolderError: If there is no such model, or the folder is not a model folder, holds another kind
            of model, or is incomplete or unsafe.
    """
    folder = find_folder(
        name,
        cache_folder=options.get("cache_dir"),
        revision=revision,
        token=options.get("token"),
        local_files_only=options.get("local_files_only", False),
        trust_remote_code=options.get("trust_remote_code", False),
        backend=options.get("backend", "torch"),
    )
    settings = read_settings(folder)
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else None
    return Opened(read_modules(folder, **options), settings, text, source_of(folder))


def read_settings(folder: Path) -> Settings:
    """The settings in a folder; defaults if it has none.

    Raises:
        ModelFolderError: If the folder holds another kind of model.
    """
    saved = read_json(folder / _SETTINGS, {})
    older = "CrossEncoder" if _is_older_reranker(folder) else "SentenceTransformer"
    kind = saved.get("model_type", older)
    if kind != "SentenceTransformer":
        raise ModelFolderError(f"{folder} holds a {kind}, not a SentenceTransformer.")
    known = {name: saved[name] for name in asdict(Settings()) if saved.get(name) is not None}
    return Settings(**known)


def _is_older_reranker(folder: Path) -> bool:
    """Whether a folder of transformers has the marks that older releases left in a reranker's."""
    config = read_json(folder / "config.json", {})
    marks = {"sentence_transformers", "sbert_ce_default_activation_function"}
    return isinstance(config, dict) and not (folder / _MODULES).exists() and not marks.isdisjoint(config)


def write_settings(folder: Path, settings: Settings) -> None:
    """Writes the settings, with the versions that wrote them."""
    versions = {"ray_st": __version__, "transformers": transformers.__version__, "pytorch": torch.__version__}
    value = {"model_type": "SentenceTransformer", "__version__": versions, **asdict(settings)}
    if settings.truncate_dim is None:
        del value["truncate_dim"]
    write_json(folder / _SETTINGS, value)


def read_modules(folder: Path, start: int = 0, **options: Unpack[LoadOptions]) -> OrderedDict[str, nn.Module]:
    """The modules of a folder, in order, by name.

    A plain folder of transformers gets mean pooling, or last-token pooling if the encoder is a causal
    language model.

    Args:
        folder: A model folder.
        start: How many modules at the front to leave out.
        **options: Passed to each module's ``load``. ``trust_remote_code`` also says whether modules of
            unknown type may be imported and run.

    Raises:
        ModelFolderError: If the folder is not a model folder, a module's type is unknown, a path leads out of
            the folder, or a module cannot be read.
    """
    source = folder / _MODULES
    entries = read_json(source)
    if entries is None:
        return _plain_modules(folder, options)
    if not isinstance(entries, list) or not all(_is_entry(entry) for entry in entries) or not entries:
        raise ModelFolderError(
            f"{source} must be a list of modules, each with a type and a path, and names as kwargs if any."
        )
    for entry in entries:  # no module is read before all are known to be safe
        module_class(folder, source, entry["type"], options.get("trust_remote_code", False))
        inside(folder, source, entry["path"])
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for index, entry in list(enumerate(entries))[start:]:
        module = read_module(folder, source, entry["type"], entry["path"], options)
        set_folder_kwargs(module, entry.get("kwargs") or ())
        modules[entry.get("name", str(index))] = module
    return modules


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict):
        return False
    names = entry.get("kwargs") or []
    strings = [entry.get("type"), entry.get("path"), *(names if isinstance(names, list) else [None])]
    return all(isinstance(value, str) for value in strings)


def _plain_modules(folder: Path, options: LoadOptions) -> OrderedDict[str, nn.Module]:
    encoder = Transformer.load(folder, **options)
    config = encoder.auto_model.config
    causal = any(name.endswith("ForCausalLM") for name in config.architectures or [])
    mode = "lasttoken" if causal and setting_of(config, "is_causal", True) else "mean"
    logger.warning("%s has no %s: using a Transformer with %s pooling.", folder, _MODULES, mode)
    if encoder.tokenizer.chat_template and encoder.chat is None:
        logger.warning("%s has a chat template, which is not used: texts are encoded as they are.", folder)
    return OrderedDict([("0", encoder), ("1", Pooling(encoder.get_embedding_dimension(), mode))])


def write_modules(folder: Path, modules: Mapping[str, nn.Module]) -> None:
    """Writes each module into its place and, last of all, the list of modules.

    Raises:
        ValueError: If a module has no ``save(folder)``; nothing is written then.
    """
    parts = [saveable(name, module) for name, module in modules.items()]
    entries = []
    for index, ((name, module), part) in enumerate(zip(modules.items(), parts, strict=True)):
        in_root = index == 0 and isinstance(module, SavesInRoot) and module.save_in_root
        path = "" if in_root else f"{index}_{type(module).__name__}"
        (folder / path).mkdir(parents=True, exist_ok=True)
        part.save(str(folder / path))
        entry = {"idx": index, "name": name, "path": path, "type": type_name(folder, module)}
        entries.append(entry | ({"kwargs": names} if (names := folder_kwargs(module)) else {}))
    write_json(folder / _MODULES, entries)
