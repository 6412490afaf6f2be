"""Looks up classes that a run file names: those of the library by name, custom ones by import path."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

from ray_st.cli.run_checks import RunFileError
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
