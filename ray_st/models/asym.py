"""Several rows of modules, one for each kind of text, such as queries and documents."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ray_st.models.folder_files import ModelFolderError, read_json, write_json
from ray_st.models.module import (
    Features,
    HasLengthLimit,
    HasTokenizer,
    LoadOptions,
    Module,
    dimension_after,
    known_to,
    run_modules,
    skips_padding,
)
from ray_st.models.module_table import read_module, saveable, type_name
from ray_st.models.text_encoding import check_inputs_of

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

# The newer name takes precedence; all readers know the older one.
_FILES = ("router_config.json", "config.json")

RouteKey = tuple[str | None, str | tuple[str, ...] | None]


class Asym(Module):
    """Sends texts through one of several rows of modules.

    As the first module it also tokenizes texts, with the first module of their row. The ``task`` of a call
    chooses the row (``encode_query`` and ``encode_document`` pass "query" and "document"), or texts do, in
    the form ``{"query": "some text"}``.

    Args:
        sub_modules: The rows by name.
        default_route: The row when no task is given.
        allow_empty_key: Whether the first row is the default if there is no ``default_route``.
        route_mappings: Rows by task and modality ("text" or "image"); None matches any.

    Raises:
        ValueError: If there are no rows, or a default or a mapping names an unknown one.
    """

    tokenize_kwargs = frozenset({"task", "modality"})

    def __init__(
        self,
        sub_modules: Mapping[str, Sequence[nn.Module]],
        default_route: str | None = None,
        allow_empty_key: bool = True,
        route_mappings: Mapping[RouteKey, str] | None = None,
    ) -> None:
        super().__init__()
        if not sub_modules or not all(sub_modules.values()):
            raise ValueError(f"Asym needs rows of modules by name; got {dict(sub_modules)!r:.80}.")
        self.sub_modules = nn.ModuleDict({name: nn.Sequential(*row) for name, row in sub_modules.items()})
        self.allow_empty_key = allow_empty_key
        self.route_mappings = {_sorted(key): row for key, row in (route_mappings or {}).items()}
        for row in filter(None, [default_route, *self.route_mappings.values()]):
            self._check(row)
        self._default = default_route
        modules = (module for row in self._rows() for module in row)
        self.forward_kwargs = {*self.tokenize_kwargs}.union(*map(known_to, modules))

    @classmethod
    def for_query_document(
        cls,
        query_modules: Sequence[nn.Module],
        document_modules: Sequence[nn.Module],
        default_route: str | None = "document",
        allow_empty_key: bool = True,
    ) -> Self:
        """One row for queries and one for documents, which is the default."""
        rows = {"query": query_modules, "document": document_modules}
        return cls(rows, default_route, allow_empty_key)

    @property
    def default_route(self) -> str | None:
        """The row when no task is given; None if a task is required."""
        first = next(iter(self.sub_modules)) if self.allow_empty_key else None
        return self._default or first

    def route(self, task: str | None = None, modality: str | None = None) -> str:
        """The name of a row.

        The mappings take precedence, in the order: this task and modality, the task, the modality, any. Then
        comes the row named like the task, then the one named like the modality, then the default.

        Raises:
            ValueError: If there is none.
        """
        for key in ((task, modality), (task, None), (None, modality), (None, None)):
            if key in self.route_mappings:
                return self.route_mappings[key]
        for name in (task, modality):
            if name is not None and name in self.sub_modules:
                return name
        row = task or self.default_route
        if row is None:
            raise ValueError(
                f"A task is required, one of {', '.join(self.sub_modules)}: there is no default_route."
            )
        self._check(row)
        return row

    @property
    def needs_task(self) -> bool:
        """Whether a text's row depends on its task: no row and no mapping applies to all texts."""
        for_all_texts = {(None, "text"), (None, None)} & self.route_mappings.keys()
        return not for_all_texts and "text" not in self.sub_modules and len(self.sub_modules) > 1

    def text_row(self, task: str | None) -> nn.Sequential:
        """The modules that texts of a task pass through; see :meth:`route`."""
        return self._row(task, "text")

    def _row(self, task: str | None, modality: str | None) -> Any:
        return self.sub_modules[self.route(task, modality)]

    @property
    def without_padding(self) -> bool:
        """Whether padding costs next to nothing in every row; see :class:`ray_st.models.Transformer`."""
        return all(skips_padding(row[0]) for row in self._rows())

    def check_inputs(self, inputs: Sequence[Any]) -> None:
        """Raises for inputs of several tasks in one call, and for unknown tasks.

        Raises:
            ValueError: Naming what was found.
        """
        task, _ = _task_of(inputs, None)
        if task is not None:
            self.route(task, _modality(inputs))

    def tokenize(
        self, texts: Sequence[Any], task: str | None = None, modality: str | None = None
    ) -> dict[str, Any]:
        """The features that the first module of a row makes of texts, with the ``task`` and the ``modality``.

        Args:
            texts: Texts, or ``{task: text}`` dicts of the same task.
            task: What they are.
            modality: "text" or "image"; by default inferred from the first one.

        Raises:
            ValueError: If the task is unknown, there are several, or the first module takes no such inputs.
        """
        task, texts = _task_of(texts, task)
        modality = modality or _modality(texts)
        first = self._row(task, modality)[0]
        check_inputs_of(first, texts)
        features = dict(first.tokenize(texts))
        named = {"task": task, "modality": modality}
        return {**features, **{name: value for name, value in named.items() if value is not None}}

    def forward(
        self, features: Features, task: str | None = None, modality: str | None = None, **options: object
    ) -> Features:
        """The features after the modules of a row.

        Args:
            features: What the modules take. Their ``task`` and ``modality`` are the defaults of the
                arguments.
            task: Chooses the row, with ``modality``.
            modality: "text" or "image".
            **options: Passed to the modules that take them.
        """
        task, modality = task or features.get("task"), modality or features.get("modality")
        named = {"task": task, "modality": modality}
        return run_modules(self._row(task, modality), features, {**options, **named})

    def _check(self, row: str) -> None:
        if row not in self.sub_modules:
            raise ValueError(
                f"There is no row of modules for {row!r}; there are {', '.join(self.sub_modules)}."
            )

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the first row that has one; None without any."""
        return next(iter(self.tokenizers), None)

    @property
    def tokenizers(self) -> list[Any]:
        """The tokenizers of the rows that have one."""
        found = (row[0].tokenizer for row in self._rows() if isinstance(row[0], HasTokenizer))
        return [tokenizer for tokenizer in found if tokenizer is not None]

    @property
    def max_seq_length(self) -> int | None:
        """Longest sequence in tokens, the greatest of the rows'; None if there is no limit."""
        limits = [row[0].max_seq_length for row in self._rows() if isinstance(row[0], HasLengthLimit)]
        return max((limit for limit in limits if limit is not None), default=None)

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        for row in self._rows():
            if isinstance(row[0], HasLengthLimit):
                row[0].max_seq_length = value

    def _rows(self) -> list[Any]:
        return list(self.sub_modules.values())

    def get_embedding_dimension(self) -> int | None:
        """Dimension of the embedding after a row; None if no module knows.

        Raises:
            ValueError: If rows differ.
        """
        asked = zip(self.sub_modules, map(dimension_after, self._rows()), strict=True)
        known = {name: dimension for name, dimension in asked if dimension is not None}
        if len(set(known.values())) > 1:
            raise ValueError(f"The rows of an Asym module make embeddings of different dimensions: {known}.")
        return next(iter(known.values()), None)

    get_sentence_embedding_dimension = get_embedding_dimension

    def get_config_dict(self) -> dict[str, Any]:
        """The arguments besides the rows; defaults that older readers do not know are left out."""
        mappings = {str(key): row for key, row in self.route_mappings.items()}
        newer = {"default_route": self._default, "route_mappings": mappings}
        known = {key: value for key, value in newer.items() if value}
        return {"allow_empty_key": self.allow_empty_key, **known}

    def save(self, folder: str | Path) -> None:
        """Writes each module once into a folder of its own, and the rows.

        Raises:
            ValueError: If a module cannot be saved.
        """
        folder = Path(folder)
        names: dict[nn.Module, str] = {}  # a module that several rows share is written once
        structure: dict[str, list[str]] = {}
        for name, row in zip(self.sub_modules, self._rows(), strict=True):
            for place, module in enumerate(row):
                saveable(f"{name}_{place}", module)
                names.setdefault(module, f"{name}_{place}_{type(module).__name__}")
            structure[name] = [names[module] for module in row]
        for module, name in names.items():
            (folder / name).mkdir(exist_ok=True)
            saveable(name, module).save(str(folder / name))
        types = {name: type_name(folder, module) for module, name in names.items()}
        config = {"types": types, "structure": structure, "parameters": self.get_config_dict()}
        write_json(folder / self.config_file_name, config)

    @classmethod
    def load(cls, folder: str | Path, **options: Unpack[LoadOptions]) -> Self:
        """Reads a module from its folder, in the older or the newer form.

        Args:
            folder: Where :meth:`save` wrote it.
            **options: Passed to each module's ``load``. ``trust_remote_code`` also says whether modules of
                unknown type may be imported and run.

        Raises:
            ModelFolderError: If the rows are not described, or a module cannot be read.
        """
        folder = Path(folder)
        source = next((folder / name for name in _FILES if (folder / name).is_file()), folder / _FILES[0])
        config = read_json(source, {})
        if (
            not isinstance(config, dict)
            or not isinstance(config.get("structure"), dict)
            or "types" not in config
        ):
            raise ModelFolderError(f"{source} must describe the rows of modules by types and structure.")
        types = config["types"]
        modules = {name: read_module(folder, source, kind, name, options) for name, kind in types.items()}
        try:
            rows = {row: [modules[name] for name in names] for row, names in config["structure"].items()}
            return cls(rows, **_read_parameters(config.get("parameters", {})))
        except KeyError as error:
            raise ModelFolderError(
                f"{source}: the module {error} is in the structure, not in types."
            ) from error
        except (TypeError, ValueError, SyntaxError) as error:
            raise ModelFolderError(f"{source} is not a valid Asym: {error}") from error


Router = Asym


def _sorted(key: RouteKey) -> RouteKey:
    return key[0], tuple(sorted(key[1])) if isinstance(key[1], tuple) else key[1]


def _task_of(inputs: Sequence[Any], task: str | None) -> tuple[str | None, Sequence[Any]]:
    """The task that inputs name, and the bare inputs."""
    if not inputs or not isinstance(inputs[0], Mapping):
        return task, inputs
    tasks = {key for value in inputs for key in (value if isinstance(value, Mapping) else {None: 0})}
    if len(tasks) != 1 or None in tasks or any(len(value) != 1 for value in inputs):
        raise ValueError(
            "Inputs of one call must all be {task: text} with the same task; found the tasks "
            f"{sorted(map(str, tasks))}."
        )
    own = tasks.pop()
    if task not in (None, own):
        raise ValueError(f"The inputs are of task {own!r}, and the call is for {task!r}.")
    return own, [value[own] for value in inputs]


def _modality(inputs: Sequence[Any]) -> str | None:
    return None if not len(inputs) else "text" if isinstance(inputs[0], str) else "image"


def _read_parameters(saved: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: saved[name] for name in ("default_route", "allow_empty_key") if name in saved}
    mappings = saved.get("route_mappings") or {}
    return {**known, "route_mappings": {ast.literal_eval(key): row for key, row in mappings.items()}}
