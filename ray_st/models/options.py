"""Keyword arguments that a call of a model passes on to those of its modules that know them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

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
