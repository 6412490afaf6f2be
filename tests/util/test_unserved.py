from __future__ import annotations

import importlib
import warnings
from typing import Any

import pytest

import ray_st
from ray_st.util.unserved import UNSERVED

MODULES = ["data_collator", "multi_vector_encoder", "sparse_encoder"]


@pytest.mark.parametrize("name", UNSERVED)
def test_importing_a_name_says_that_it_is_not_there_in_one_line(name: str) -> None:
    with pytest.raises(ImportError) as caught:
        exec(f"from ray_st import {name}", {})
    assert str(caught.value) == UNSERVED[name]
    assert "\n" not in UNSERVED[name]
    assert f"'ray_st.{name}'" in UNSERVED[name]


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("rest", ["", ".evaluation", ".losses.more"])
def test_importing_a_module_says_so_too(name: str, rest: str) -> None:
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module(f"ray_st.{name}{rest}")
    assert str(caught.value) == UNSERVED[name]


def test_what_the_messages_say() -> None:
    assert UNSERVED["SparseEncoder"] == (
        "ray_st does not have sparse encoders yet, so there is no 'ray_st.SparseEncoder' to import; SentenceTransformer, "
        "CrossEncoder and their trainers are there."
    )
    assert "tokenises rows ahead of training by itself" in UNSERVED["data_collator"]


def test_other_unknown_names_are_as_ever() -> None:
    with pytest.raises(ImportError, match="cannot import name 'SentenceTransformr'"):
        exec("from ray_st import SentenceTransformr", {})
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'ray_st\.nothing'"):
        importlib.import_module("ray_st.nothing")


def test_every_name_of_the_peers_root_is_there_or_refused(peer: Any) -> None:
    theirs = set(peer.__all__)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert theirs <= {*ray_st.__all__, *UNSERVED}
    assert not set(ray_st.__all__) & set(UNSERVED)
