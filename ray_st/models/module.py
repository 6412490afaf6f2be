"""What every part of a model has in common: features in, features out; a folder to be saved in."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from ray_st.models.files import read_json, write_json

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
