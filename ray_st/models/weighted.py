"""What modules with a few settings and weights of their own have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from ray_st.models.files import ModelFolderError, read_json, read_weights, write_weights
from ray_st.models.module import Module

if TYPE_CHECKING:
    from typing_extensions import Self


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
