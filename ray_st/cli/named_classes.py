"""Finds the classes that a run file names, and checks options against their signatures."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Mapping
from enum import Enum
from typing import Any, get_type_hints

from ray_st.cli.run_checks import RunFileError, at, check_keys, check_types
from ray_st.util.names import did_you_mean


def find_class(name: str, what: str, known: Mapping[str, Any], base: type, where: str) -> type:
    """The class that a run file names.

    Args:
        name: One of ``known``, or an import path such as ``my_package.losses.MyLoss``, resolved from the
            working directory.
        what: Kind of class for errors, such as ``loss``.
        known: Classes of the library by name.
        base: What the class must derive from.
        where: Location of the name in the run file, for errors.

    Raises:
        RunFileError: If there is no such class, its module cannot be imported, or it is of another kind.
    """
    if "." not in name:
        if name not in known:
            raise RunFileError(
                f"{where}: unknown {what} {name!r}; {did_you_mean(name, known)} "
                f"(a {what} of your own: MODULE.CLASS)"
            )
        found: type = known[name]
        return found
    return _imported(name, base, where)


def _imported(path: str, base: type, where: str) -> type:
    module, _, name = path.rpartition(".")
    if os.getcwd() not in sys.path:  # the path of a console script starts at its own folder
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise RunFileError(f"{where}: {module!r} cannot be imported from {os.getcwd()}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        what = "nothing of that name is there" if found is None else f"found {found!r}"
        raise RunFileError(f"{where}: expected {path} to be a class derived from {base.__name__}; {what}")
    return found


def class_options(
    given: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter], cls: type, where: str
) -> dict[str, Any]:
    """The options of a class with names resolved, checked against its signature.

    Args:
        given: What the run file says.
        parameters: The class's parameters that may be given.
        cls: The class.
        where: Location of the options in the file, for errors.

    Raises:
        RunFileError: If an option is unknown, or its value is of another type.
    """
    check_keys(given, parameters, where)
    options = {
        key: _named(value, parameters[key], at(where, key)) if isinstance(value, str) else value
        for key, value in given.items()
    }
    check_types(options, get_type_hints(cls.__init__), where)  # type: ignore[misc]
    return options


def _named(value: str, parameter: inspect.Parameter, where: str) -> Any:
    """Resolves a name where a function of ``ray_st.util`` or a member of an enumeration is expected."""
    default = parameter.default
    if isinstance(default, Enum):
        members = {str(member.value): member for member in type(default)}
        if value not in members:
            raise RunFileError(f"{where}: unknown choice {value!r}; {did_you_mean(value, members)}")
        return members[value]
    if inspect.isfunction(default):
        from ray_st import util

        if value not in util.__all__:
            raise RunFileError(
                f"{where}: no function {value!r} in ray_st.util; {did_you_mean(value, util.__all__)}"
            )
        return getattr(util, value)
    return value
