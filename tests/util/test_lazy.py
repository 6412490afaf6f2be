from __future__ import annotations

import importlib
import importlib.util
import pickle
import subprocess
import sys
from typing import Any

import pytest

import ray_st
import ray_st.datasets
import ray_st.evaluation
import ray_st.losses
import ray_st.models
import ray_st.models.tokenizer
import ray_st.readers
import ray_st.util
from ray_st import losses
from ray_st.util import lazy
from ray_st.util.lazy import offer_module


@pytest.mark.parametrize("package", [ray_st.util, ray_st.models], ids=lambda package: package.__name__)
def test_every_name_in_a_table_is_there(package: object) -> None:
    names = package.__all__  # type: ignore[attr-defined]
    assert names == sorted(names)
    assert set(names) <= set(dir(package))
    assert all(getattr(package, name) is not None for name in names)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("package", ["ray_st.util", "ray_st.models"])
def test_naming_a_package_loads_no_torch(package: str) -> None:
    code = f"import sys, {package}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- the module files of earlier releases ----

PACKAGES: list[Any] = [
    ray_st,
    ray_st.datasets,
    ray_st.evaluation,
    ray_st.losses,
    ray_st.models,
    ray_st.models.tokenizer,
    ray_st.readers,
]
CLASSES = [
    (package, name)
    for package in PACKAGES
    for name in package.__all__
    if isinstance(getattr(package, name), type)
]


@pytest.mark.parametrize(("package", "name"), CLASSES, ids=lambda part: getattr(part, "__name__", part))
def test_a_class_is_imported_from_a_module_of_its_name(package: Any, name: str) -> None:
    module = importlib.import_module(f"{package.__name__}.{name}")
    part = getattr(package, name)
    assert getattr(module, name) is part
    assert getattr(package, name) is part  # the module has not taken the class's place
    assert name in dir(module)
    assert importlib.util.find_spec(module.__name__) is module.__spec__
    assert part.__module__ != module.__name__  # so that pickles say where it really is


def test_in_a_fresh_process_without_the_package(tmp_path: Any) -> None:
    code = """
from ray_st.losses.CoSENTLoss import CoSENTLoss
from ray_st.losses.BatchHardTripletLoss import BatchHardTripletLoss, BatchHardTripletLossDistanceFunction
from ray_st.SentenceTransformer import SentenceTransformer
from ray_st.LoggingHandler import LoggingHandler
import ray_st.losses.TripletLoss
from ray_st import losses
assert losses.CoSENTLoss is CoSENTLoss
assert isinstance(ray_st.losses.TripletLoss, type)
from ray_st.losses.CoSENTLoss import *
from ray_st.sentence_transformer.losses import CoSENTLoss as later
assert later is CoSENTLoss
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_module_file_has_only_what_lies_in_the_same_place() -> None:
    module: Any = importlib.import_module("ray_st.losses.CoSENTLoss")
    with pytest.raises(AttributeError, match=r"'ray_st\.losses\.CoSENTLoss' has no attribute 'TripletLoss'"):
        module.TripletLoss  # noqa: B018
    assert not hasattr(module, "__file__")  # what walks over all modules loads nothing
    assert b"losses.cosent" in pickle.dumps(module.CoSENTLoss)


@pytest.mark.parametrize(
    ("module", "name", "here"),
    [
        ("sentence_transformer", "SentenceTransformer", "ray_st"),
        ("sentence_transformer.losses", "MultipleNegativesRankingLoss", "ray_st.losses"),
        ("sentence_transformer.training_args", "BatchSamplers", "ray_st.training_args"),
        ("sentence_transformer.evaluation", "TripletEvaluator", "ray_st.evaluation"),
        ("sentence_transformer.modules", "Pooling", "ray_st.models"),
        ("base.modules", "Router", "ray_st.models"),
        ("base.sampler", "DefaultBatchSampler", "ray_st.sampler"),
        ("base.sampler", "BatchSamplers", "ray_st.training_args"),
        ("base.evaluation", "SequentialEvaluator", "ray_st.evaluation"),
    ],
)
def test_where_later_releases_have_what_is_here(module: str, name: str, here: str) -> None:
    later = importlib.import_module(f"ray_st.{module}")
    assert getattr(later, name) is getattr(importlib.import_module(here), name)
    assert name in dir(later)


def test_a_module_of_another_name_loads_nothing_by_itself() -> None:
    offer_module("somewhere.Part", "ray_st.nothing", ["Part"])
    with pytest.raises(ModuleNotFoundError, match=r"ray_st\.nothing"):
        importlib.import_module("somewhere.Part").Part  # noqa: B018
    del sys.modules["somewhere.Part"]


def test_a_function_that_names_a_package_and_its_class_can_be_sent() -> None:
    from ray import cloudpickle

    def make(model: Any) -> Any:
        return ray_st.losses.CoSENTLoss(model)

    def script(model: Any) -> Any:
        return losses.CoSENTLoss(model)

    assert cloudpickle.loads(cloudpickle.dumps(script)).__name__ == "script"
    assert cloudpickle.loads(cloudpickle.dumps(make)).__name__ == "make"
    module = sys.modules["ray_st.losses.CoSENTLoss"]
    assert pickle.loads(pickle.dumps(module)) is module


def test_a_port_loads_its_provider_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy, "_PROVIDERS", {})
    lazy.provide("number", "nowhere.at.all", "pi")
    lazy.provide("number", "math", "pi")
    assert lazy.use("number") == pytest.approx(3.14159, abs=1e-5)


def test_the_root_package_provides_the_pool() -> None:
    from ray_st.runtime.encode.encode_pool import EncodePool

    assert lazy.use("encode_pool") is EncodePool
