"""What the modules of a model have in common: features in and out, keyword arguments, a folder.

Modules from elsewhere need not derive from :class:`Module`: any ``nn.Module`` that maps features to features
will do. The protocols name what such a module may offer beyond that.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypedDict, TypeVar, runtime_checkable

from torch import nn

from ray_st.models.folder_files import ModelFolderError, read_json, read_weights, write_json, write_weights

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from ray_st.models.chat import ChatTemplate
    from ray_st.models.tokens import TokenEncoder

Features = dict[str, Any]
"""What modules pass on: ``input_ids`` and ``attention_mask`` (n, t), optionally ``token_type_ids`` (n, t),
``prompt_length`` (a number or (n,)) and, on the host, what :mod:`ray_st.util.host_facts` describes; then
``token_embeddings`` (n, t, d) and ``sentence_embedding`` (n, d)."""

_FOLDER_KWARGS = "folder_kwargs"

M = TypeVar("M", bound="Module")


class LoadOptions(TypedDict, total=False):
    """What a user may ask for when a model is opened; each module takes what concerns it."""

    trust_remote_code: bool
    cache_dir: str | None
    token: bool | str | None
    local_files_only: bool
    model_args: Mapping[str, Any] | None
    tokenizer_args: Mapping[str, Any] | None
    config_args: Mapping[str, Any] | None
    backend: str


class Module(nn.Module):
    """One part of a model.

    A subclass lists the arguments of its constructor in ``config_keys`` and keeps each as an attribute of the
    same name; this is enough to save and load it. A module with weights overrides :meth:`save` and
    :meth:`load`.
    """

    config_keys: ClassVar[tuple[str, ...]] = ()
    config_file_name: ClassVar[str] = "config.json"
    save_in_root: ClassVar[bool] = False

    @abstractmethod
    def forward(self, features: Features) -> Features:
        """The features with this module's results added; the caller's dict is left unchanged."""

    def get_config_dict(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON values."""
        return {key: getattr(self, key) for key in self.config_keys}

    def save(self, folder: str | Path) -> None:
        """Writes the module into an existing folder."""
        write_json(Path(folder) / self.config_file_name, self.get_config_dict())

    @classmethod
    def load(cls, folder: str | Path, **options: Unpack[LoadOptions]) -> Self:
        """Reads a module from its folder.

        Args:
            folder: Where :meth:`save` wrote it; need not exist for a module without settings.
            **options: What the user asked for when opening the model.
        """
        config = read_json(Path(folder) / cls.config_file_name, {})
        return cls(**{key: value for key, value in config.items() if key in cls.config_keys})


class WeightedModule(Module):
    """A module that consists of its constructor's arguments and a few tensors.

    A subclass lists the arguments in ``config_keys``. ``config_renames`` maps the names that newer folders
    have for some of them to ours.
    """

    config_renames: ClassVar[Mapping[str, str]] = {}

    def save(self, folder: str | Path) -> None:
        """Writes settings and weights into an existing folder."""
        super().save(folder)
        write_weights(Path(folder), self.state_dict())

    @classmethod
    def load(cls, folder: str | Path, **options: Unpack[LoadOptions]) -> Self:
        """Reads a module from its folder, in the older or the newer form.

        Raises:
            ModelFolderError: If settings or weights are missing, pickled, or do not fit each other.
        """
        module = from_config(cls, Path(folder), read_config(cls, Path(folder), cls.config_renames))
        take_weights(module, Path(folder))
        return module


def read_config(kind: type[Module], folder: Path, renames: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The settings of a module that cannot be made without them.

    Args:
        kind: The module's class.
        folder: The module's folder.
        renames: Newer names of settings, and what they are called here.

    Raises:
        ModelFolderError: If there are none.
    """
    config = read_json(folder / kind.config_file_name)
    if not isinstance(config, dict):
        raise ModelFolderError(
            f"{folder} has no {kind.config_file_name} with settings, which a {kind.__name__} module needs."
        )
    return {(renames or {}).get(key, key): value for key, value in config.items()}


def from_config(kind: type[M], folder: Path, config: Mapping[str, Any]) -> M:
    """A module made from the settings in its folder.

    Raises:
        ModelFolderError: If the constructor rejects them.
    """
    try:
        return kind(**{key: value for key, value in config.items() if key in kind.config_keys})
    except (ValueError, TypeError) as error:
        raise ModelFolderError(
            f"{folder / kind.config_file_name} is not a valid {kind.__name__}: {error}"
        ) from error


def take_weights(module: Module, folder: Path) -> None:
    """Loads the weights in a module's folder.

    Raises:
        ModelFolderError: If they are missing or pickled, or names or shapes differ.
    """
    weights = read_weights(folder)
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelFolderError(
            f"The weights in {folder} do not fit its {module.config_file_name}: {error}"
        ) from None


@runtime_checkable
class ChecksInputs(Protocol):
    """A first module that takes other inputs than strings."""

    def check_inputs(self, inputs: Sequence[Any]) -> None:
        """Raises ``ValueError`` for inputs that it does not take."""


@runtime_checkable
class HasDimension(Protocol):
    """A module that knows the dimension of its output."""

    def get_embedding_dimension(self) -> int | None:
        """The dimension; None if it is not known."""


@runtime_checkable
class HasLengthLimit(Protocol):
    """A first module that truncates texts."""

    max_seq_length: int | None


@runtime_checkable
class HasTokenEncoder(Protocol):
    """A first module that turns texts into token ids."""

    def token_encoder(self) -> TokenEncoder:
        """The picklable part that does so."""


@runtime_checkable
class HasTokenizer(Protocol):
    """A module with a tokenizer of any kind."""

    tokenizer: Any


@runtime_checkable
class SkipsPadding(Protocol):
    """A first module that says whether padding costs it time."""

    without_padding: bool


@runtime_checkable
class TakesKwargs(Protocol):
    """A module whose ``forward`` takes keyword arguments of the model's call."""

    forward_kwargs: Collection[str]


@runtime_checkable
class TakesTokenizeKwargs(Protocol):
    """A first module whose ``tokenize`` takes keyword arguments of the model's call."""

    tokenize_kwargs: Collection[str]


@runtime_checkable
class UsesChat(Protocol):
    """A first module that may put texts into a chat template."""

    chat: ChatTemplate | None


@runtime_checkable
class SavesInRoot(Protocol):
    """A module that says whether its files go into the model's folder itself, if it is the first one."""

    save_in_root: bool


@runtime_checkable
class Saveable(Protocol):
    """A module that can be written into a folder."""

    def save(self, folder: str) -> None:
        """Writes it."""


def auto_model_of(module: nn.Module) -> nn.Module | None:
    """The encoder in a module such as :class:`ray_st.models.Transformer`; None if it has none."""
    return getattr(module, "auto_model", None)


def first_of(model: nn.Module) -> nn.Module:
    """What takes a whole model's tokens: a stack's first module, otherwise the model itself."""
    first: nn.Module = getattr(model, "first", model)
    return first


def encoder_in(model: nn.Module) -> nn.Module | None:
    """The encoder of a whole model; None if it has none."""
    return auto_model_of(first_of(model))


def dimension_after(modules: Iterable[nn.Module]) -> int | None:
    """Dimension of what a row of modules makes, from the last one that knows it; None if none does."""
    known = (m.get_embedding_dimension() for m in reversed(list(modules)) if isinstance(m, HasDimension))
    return next((int(dimension) for dimension in known if dimension is not None), None)


def skips_padding(module: nn.Module) -> bool:
    """Whether padding in a batch costs a first module next to nothing."""
    return isinstance(module, SkipsPadding) and bool(module.without_padding)


def known_to(module: nn.Module) -> set[str]:
    """Keyword arguments that a module's ``forward`` takes, from its ``forward_kwargs`` and its folder."""
    return {*(module.forward_kwargs if isinstance(module, TakesKwargs) else ()), *folder_kwargs(module)}


def folder_kwargs(module: nn.Module) -> list[str]:
    """The ``kwargs`` of a module's entry in ``modules.json``."""
    return list(vars(module).get(_FOLDER_KWARGS, ()))


def set_folder_kwargs(module: nn.Module, names: Iterable[str]) -> None:
    """Records the keyword arguments that a module's ``forward`` takes, to be written with it."""
    vars(module)[_FOLDER_KWARGS] = tuple(names)  # any module may have them: no attribute of a class of ours


def run_modules(
    modules: Iterable[nn.Module], features: dict[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """The features after all modules, each of which gets the keyword arguments that it takes."""
    for module in modules:
        known = known_to(module) if options else ()
        features = module(features, **{name: value for name, value in options.items() if name in known})
    return features
