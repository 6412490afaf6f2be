"""A strict YAML reader: YAML 1.2's plain values, no duplicate keys, and a limit on expanded aliases."""

from __future__ import annotations

import re
from typing import Any

import yaml

MAX_CHARS = 1_000_000
"""Maximum length of a text, in characters."""

MAX_VALUES = 20_000
"""Maximum number of values after expanding aliases."""

MAX_DEPTH = 30
"""Maximum nesting; an alias that contains itself exceeds it."""


class YamlError(ValueError):
    """A text that is not YAML, or uses unsupported YAML."""


def load_yaml(text: str) -> Any:
    """Reads one YAML value made of mappings, lists and plain values.

    Unlike YAML 1.1, ``no``, ``off``, ``yes`` and ``on`` are words, ``1e-5`` is a number, there are no dates
    and no merge keys.

    Args:
        text: The YAML text.

    Returns:
        The value, with aliases expanded.

    Raises:
        YamlError: If the text is not YAML, has a duplicate key or a tag, or is too large.
    """
    if len(text) > MAX_CHARS:
        raise YamlError(f"too long: {len(text)} characters, at most {MAX_CHARS} are read")
    try:
        value = yaml.load(text, Loader=_Loader)  # a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise YamlError(f"not valid YAML: {' '.join(str(error).split())}") from error
    return _unshared(value, MAX_DEPTH, [MAX_VALUES])


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's plain values and no duplicate keys."""

    # PyYAML looks for them in the class.
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        double = next((key for key, _ in node.value if keys.count(key.value) > 1), None)
        if double is not None:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {double.value!r} is there twice", double.start_mark
            )
        return super().construct_mapping(node, deep=deep)


for _tag, _pattern, _first in [
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
]:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), list(_first))


def _unshared(value: object, depth: int, budget: list[int]) -> Any:
    """A copy with aliases expanded, so that changing one place changes no other."""
    budget[0] -= 1
    if budget[0] < 0:
        raise YamlError(f"aliases blow it up to more than {MAX_VALUES} values")
    if depth == 0:
        raise YamlError(f"nested deeper than {MAX_DEPTH} levels, or an alias holds itself")
    if isinstance(value, dict):
        return {key: _unshared(part, depth - 1, budget) for key, part in value.items()}
    if isinstance(value, list):
        return [_unshared(part, depth - 1, budget) for part in value]
    return value
