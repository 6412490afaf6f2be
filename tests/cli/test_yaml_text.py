from __future__ import annotations

import pytest

from ray_st.cli.yaml_text import MAX_CHARS, YamlError, load_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("off", "off"),
        ("true", True),
        ("False", False),
        ("1e-5", 1e-5),
        ("-1E+5", -1e5),
        ("3.", 3.0),
        (".5", 0.5),
        ("7", 7),
        ("-3", -3),
        ("012", "012"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ("[1, a, {b: null}]", [1, "a", {"b": None}]),
    ],
)
def test_plain_values_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = load_yaml(text)
    assert found == value
    assert type(found) is type(value)


def test_aliases_are_copies() -> None:
    value = load_yaml("a: &x {k: 1}\nb: *x")
    value["a"]["k"] = 2
    assert value["b"] == {"k": 1}


def test_there_are_no_merge_keys() -> None:
    assert load_yaml("a: &x {k: 1}\nb: {<<: *x}") == {"a": {"k": 1}, "b": {"<<": {"k": 1}}}


BOMB = "\n".join(
    ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "'a' is there twice"),
        ("a: [", "not valid YAML"),
        ("a: *nothing", "undefined alias"),
        ("!!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: &x [*x]", "an alias holds itself"),
        (BOMB, "blow it up"),
        ("[" * 2000, "not valid YAML"),
        ("x" * (MAX_CHARS + 1), "too long"),
        ("{[a]: 1}", "unhashable"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(YamlError, match=message):
        load_yaml(text)
