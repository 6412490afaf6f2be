"""For tests/test_upstream.py: what other packages have, and what ray_st uses of it although it is private."""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import Trainer

MISSING = "missing"
PACKAGES = "ray|torch|transformers|accelerate|optuna"

Sources = Mapping[str, str]
"""The text of each file, by its name."""


# ---- what others have ----


def find(path: str) -> Any:
    """The module, class or function of a dotted path.

    Raises:
        AttributeError: If a part of it is not there.
        ModuleNotFoundError: If not even the package is.
    """
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        name = ".".join(parts[:end])
        try:
            return functools.reduce(getattr, parts[end:], importlib.import_module(name))
        except ModuleNotFoundError as error:
            if not f"{name}.".startswith(f"{error.name}."):
                raise
    raise ModuleNotFoundError(path)


def describe(path: str) -> str:
    """What is under a path: the parameters of a callable, the type of a value, or who sets an attribute."""
    owner, _, name = path.rpartition(".")
    try:
        return describe_in(find(owner), name)
    except (AttributeError, ModuleNotFoundError):
        return MISSING


def describe_in(owner: Any, name: str) -> str:
    inside = isinstance(owner, type)
    if hasattr(owner, name):
        found = getattr(owner, name)
        if isinstance(found, type):
            return "class"
        return parameters(found, inside) if callable(found) else type(found).__name__
    if inside and any(name in vars(kind).get("__annotations__", ()) for kind in owner.__mro__):
        return "declared"
    if name in stored(owner):
        return "set on self" if inside else "set on objects"
    return MISSING


def parameters(function: Any, inside: bool) -> str:
    """The names of a function's parameters, as in a call."""
    if hasattr(function, "default"):  # an operator of torch
        names = [argument.name for argument in function.default._schema.arguments]
    elif getattr(function, "__text_signature__", "") is None:
        return "made in C"
    else:
        marks = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
        given = inspect.signature(function).parameters.values()
        names = [marks.get(one.kind, "") + one.name for one in given]
    return f"({', '.join(names[inside and names[:1] == ['self'] :])})"


@functools.cache
def stored(owner: Any) -> frozenset[str]:
    """The attributes that a class sets on ``self``, or a module on any object."""
    inside = isinstance(owner, type)
    found: set[str] = set()
    for kind in owner.__mro__ if inside else [owner]:
        try:
            source = textwrap.dedent(inspect.getsource(kind))
        except (OSError, TypeError):  # made in C, or at run time
            continue
        found |= {
            node.attr
            for node in walk(source)
            if isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and (not inside or ast.unparse(node.value) == "self")
        }
    return frozenset(found)


# ---- what is used of it ----


@functools.cache
def walk(source: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse(source)))


def nodes(sources: Sources) -> Iterator[tuple[str, Any]]:
    """Every node of every file, with the file's name."""
    return ((file, node) for file, source in sources.items() for node in walk(source))


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def is_standard(path: str) -> bool:
    top = path.partition(".")[0]
    return top in sys.stdlib_module_names or hasattr(builtins, top)


def definitions(nodes: Iterable[ast.AST]) -> set[str]:
    """Names that are defined: functions, classes, variables, parameters, attributes of ``self``."""
    found: set[str] = set()
    for node in nodes:
        match node:
            case (
                ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
                | ast.Name(id=name, ctx=ast.Store())
                | ast.arg(arg=name)
                | ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store())
            ):
                found.add(name)
    return found


def foreign_attributes(sources: Sources) -> Iterator[tuple[str, str]]:
    """Where private attributes of others are used, also by ``getattr``; and their names."""
    known = set().union(*(definitions(walk(source)) for source in sources.values()))
    for file, node in nodes(sources):
        match node:
            case ast.Attribute(value=value, attr=name):
                pass
            case ast.Call(
                func=ast.Name(id="getattr" | "hasattr" | "setattr"),
                args=[value, ast.Constant(value=str(name)), *_],
            ):
                pass
            case _:
                continue
        if is_private(name) and name not in known and not is_standard(ast.unparse(value)):
            yield f"{file}:{node.lineno}: {ast.unparse(value)}.{name}", name


def foreign_imports(sources: Sources) -> Iterator[tuple[str, str]]:
    """Where private modules and names are imported, or named in a text; and their paths."""
    for file, node in nodes(sources):
        match node:
            case ast.Import(names=names):
                paths = [alias.name for alias in names]
            case ast.ImportFrom(module=str(module), names=names, level=0):
                paths = [f"{module}.{alias.name}" for alias in names]
            case ast.Constant(value=str(text)) if re.fullmatch(rf"({PACKAGES})(\.\w+)+", text):
                paths = [text]
            case _:
                continue
        for path in paths:
            private = any(map(is_private, path.split(".")))
            if private and not path.startswith("ray_st.") and not is_standard(path):
                yield f"{file}:{node.lineno}: {path}", path


# ---- overrides ----


TRAINERS_OWN = {name for name, found in vars(Trainer).items() if is_private(name) and callable(found)}


@dataclass(frozen=True)
class Class:
    """A class of the sources; ``imported`` says what the names of its file stand for."""

    file: str
    node: ast.ClassDef
    imported: Mapping[str, str]

    @property
    def bases(self) -> list[str]:
        """The paths of its bases, as far as imports tell."""
        names = [ast.unparse(base).partition("[")[0] for base in self.node.bases]
        heads = [(name, name.partition(".")[0]) for name in names]
        return [self.imported.get(head, head) + name.removeprefix(head) for name, head in heads]

    @functools.cached_property
    def names(self) -> set[str]:
        """What it defines, and the private attributes that it sets."""
        methods = {child.name for child in self.node.body if isinstance(child, ast.FunctionDef)}
        return methods | {name for name in definitions(ast.walk(self.node)) if is_private(name)}


def classes(sources: Sources) -> dict[str, list[Class]]:
    """The sources' classes by name."""
    found: dict[str, list[Class]] = {}
    for file, source in sources.items():
        imported: dict[str, str] = {}
        for node in walk(source):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    top = alias.name.partition(".")[0]
                    imported |= {alias.asname: alias.name} if alias.asname else {top: top}
            elif isinstance(node, ast.ImportFrom):
                imported |= {
                    alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names
                }
        for node in walk(source):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(Class(file, node, imported))
    return found


def foreign_bases(mine: Class, known: Mapping[str, list[Class]]) -> set[type]:
    """The classes of others that a class inherits from; a base known only at run time counts as ``Trainer``."""
    found: set[type] = set()
    for path in mine.bases:
        if is_standard(path):
            continue
        name = path.rpartition(".")[2]
        if path.startswith("ray_st.") or (path == name and name in known):
            kin = [other for other in known.get(name, ()) if other is not mine]
            found = found.union(*(foreign_bases(other, known) for other in kin))
        else:
            found.add(find(path) if "." in path else Trainer)
    return found


def overrides(sources: Sources, needs: Callable[[type, str], bool]) -> Iterator[tuple[str, type, str]]:
    """Where a class replaces what a foreign one has and ``needs`` a row for; with the foreign class and the name.

    A class without bases may be mixed into the trainer at run time: its private methods are compared with ``Trainer``'s.
    """
    known = classes(sources)
    for mine in (each for same in known.values() for each in same):
        mixin = not mine.node.bases
        names = mine.names & TRAINERS_OWN if mixin else mine.names
        for base in {Trainer} if mixin else foreign_bases(mine, known):
            for name in sorted(names):
                if needs(base, name) and describe_in(base, name) != MISSING:
                    yield (
                        f"{mine.file}:{mine.node.lineno}: {mine.node.name}.{name} of {base.__name__}",
                        base,
                        name,
                    )
