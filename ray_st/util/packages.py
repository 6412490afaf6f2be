"""Installed packages: optional ones, and pairs that are known not to work together."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from types import ModuleType

from packaging.specifiers import SpecifierSet


def is_training_available() -> bool:
    """Whether the packages for training are installed: accelerate and datasets."""
    return all(find_spec(package) is not None for package in ("accelerate", "datasets"))


def load_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """Imports a module of a package that one of ray_st's extras installs.

    Args:
        module: Name of the module.
        extra: The extra that includes it.
        purpose: What needs it, for the error message.

    Raises:
        ImportError: If it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs {module.partition('.')[0]}, which is not installed: pip install "
            f"'ray-st[{extra}]'."
        ) from error


@dataclass(frozen=True)
class Misfit:
    """Two packages that are incompatible in some versions.

    Args:
        package: The first package.
        versions: Its affected versions, such as ``>=5.24``.
        other: The second package.
        other_versions: Its affected versions.
        cure: What to install instead.
    """

    package: str
    versions: str
    other: str
    other_versions: str
    cure: str


MISFITS = (
    # transformers 5.24 raises when it switches adapters of peft < 0.22, which is unreleased as of writing.
    Misfit("transformers", ">=5.24", "peft", "<0.22", "pip install 'transformers<5.24'"),
)


def installed(package: str) -> str | None:
    """The installed version of a package, or None; the package is not loaded."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def misfits(version_of: Callable[[str], str | None] = installed) -> list[tuple[str, str]]:
    """The known incompatibilities among installed versions: for each, what is installed, and the cure.

    Args:
        version_of: Returns a package's version, or None if it is not installed.
    """
    found = []
    for pair in MISFITS:
        one, other = version_of(pair.package), version_of(pair.other)
        if one is None or other is None:
            continue
        if _matches(one, pair.versions) and _matches(other, pair.other_versions):
            what = f"{pair.package} {one} does not work with {pair.other} {other}"
            found.append((what, f"{pair.cure}, or {pair.other} that is not {pair.other_versions}"))
    return found


def check_misfits(package: str) -> None:
    """Rejects a package about to be imported if it is incompatible with another installed one.

    Args:
        package: The package.

    Raises:
        ImportError: Naming the pair and what to install.
    """
    for what, cure in misfits():
        if package in what.split():
            raise ImportError(f"{what}: {cure}.")


def _matches(version: str, specifier: str) -> bool:
    return SpecifierSet(specifier).contains(version, prereleases=True)
