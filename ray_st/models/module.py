"""What every part of a model has in common: features in, features out; a folder to be saved in."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from ray_st.models.folder_files import ModelFolderError, read_json, read_weights, write_json, write_weights

if TYPE_CHECKING:
    from typing_extensions import Self


Features = dict[str, Any]
"""What modules hand on: ``input_ids`` and ``attention_mask`` (n, t), optionally ``token_type_ids`` (n, t) and
``prompt_length`` (a number or (n,)); then ``token_embeddings`` (n, t, d) and ``sentence_embedding`` (n, d)."""


class Module(nn.Module):
    """One part of a model.

    A subclass names the arguments of its constructor in ``config_keys`` and keeps each as an attribute of the same
    name; then it can be saved and loaded. One with weights overrides :meth:`save` and :meth:`load`.
    """

    config_keys: ClassVar[tuple[str, ...]] = ()
    config_file_name: ClassVar[str] = "config.json"
    save_in_root: ClassVar[bool] = False

    @abstractmethod
    def forward(self, features: Features) -> Features:
        """The features with this module's results added; the caller's dict is left as it is."""

    def get_config_dict(self) -> dict[str, Any]:
        """The arguments that make this module again, as JSON values."""
        return {key: getattr(self, key) for key in self.config_keys}

    def save(self, folder: str | Path) -> None:
        """Writes the module into an existing folder."""
        write_json(Path(folder) / self.config_file_name, self.get_config_dict())

    @classmethod
    def load(cls, folder: str | Path, **options: Any) -> Self:
        """Reads a module from its folder.

        Args:
            folder: Where :meth:`save` wrote it; need not exist for a module without settings.
            **options: What the user asked for when loading the model; a module takes what concerns it.
        """
        config = read_json(Path(folder) / cls.config_file_name, {})
        return cls(**{key: value for key, value in config.items() if key in cls.config_keys})


class WeightedModule(Module):
    """A module that is its constructor's arguments and a few tensors.

    A subclass names the arguments in ``config_keys``. ``config_renames`` holds the names that newer folders have for
    some of them.
    """

    config_renames: ClassVar[Mapping[str, str]] = {}

    def save(self, folder: str | Path) -> None:
        """Writes settings and weights into an existing folder."""
        super().save(folder)
        write_weights(Path(folder), self.state_dict())

    @classmethod
    def load(cls, folder: str | Path, **options: Any) -> Self:
        """Reads a module from its folder, in the older or the newer form.

        Raises:
            ModelFolderError: If settings or weights are missing, pickled, or do not fit each other.
        """
        folder = Path(folder)
        module = from_config(cls, folder, read_config(cls, folder, cls.config_renames))
        take_weights(module, folder, read_weights(folder), cls.config_file_name)
        return module


def read_config(kind: type[Module], folder: Path, renames: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The settings of a module that cannot be without.

    Args:
        kind: The module's class.
        folder: The module's folder.
        renames: Newer names of settings and what they are called here.

    Raises:
        ModelFolderError: If there are none.
    """
    config = read_json(folder / kind.config_file_name)
    if not isinstance(config, dict):
        raise ModelFolderError(
            f"{folder} has no {kind.config_file_name} with settings, which a {kind.__name__} module needs."
        )
    return {(renames or {}).get(key, key): value for key, value in config.items()}


def from_config(kind: Any, folder: Path, config: Mapping[str, Any]) -> Any:
    """A module made of the settings in its folder.

    Raises:
        ModelFolderError: If they make no module.
    """
    try:
        return kind(**{key: value for key, value in config.items() if key in kind.config_keys})
    except (ValueError, TypeError) as error:
        raise ModelFolderError(
            f"{folder / kind.config_file_name} makes no {kind.__name__}: {error}"
        ) from error


def take_weights(module: nn.Module, folder: Path, weights: Mapping[str, Tensor], config_name: str) -> None:
    """Gives a module the weights of its folder.

    Raises:
        ModelFolderError: If names or shapes differ.
    """
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelFolderError(f"The weights in {folder} do not fit its {config_name}: {error}") from None


_FOLDERS = "folder_kwargs"


def known_to(module: nn.Module) -> set[str]:
    """Names that a module's ``forward`` takes: its ``forward_kwargs``, and what a folder says of it."""
    return {*getattr(module, "forward_kwargs", ()), *folder_kwargs(module)}


def folder_kwargs(module: nn.Module) -> list[str]:
    """Names that the entry of a module in ``modules.json`` lists as ``kwargs``."""
    return list(getattr(module, _FOLDERS, ()))


def set_folder_kwargs(module: nn.Module, names: Iterable[str]) -> None:
    """Notes the names that a module's ``forward`` takes, so that they are written with it."""
    setattr(module, _FOLDERS, tuple(names))


def run_modules(
    modules: Iterable[nn.Module], features: dict[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """The features after all modules, each of which gets the options that it knows."""
    for module in modules:
        known = known_to(module) if options else ()
        features = module(features, **{name: value for name, value in options.items() if name in known})
    return features
