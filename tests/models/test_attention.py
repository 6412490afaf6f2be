"""Attention that needs a package: which models want it, and what a process says that lacks it."""

from __future__ import annotations

import importlib.machinery
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import transformers.utils
from transformers import AttentionInterface

from ray_st import SentenceTransformer
from ray_st.losses import GISTEmbedLoss
from ray_st.models import attention
from ray_st.models.attention import fault_of, of_packages

KERNEL = "kernels-community/flash-attn2"


def wanting(model: Any, name: str) -> Any:
    """The model, as if it had been opened where there is this attention."""
    model[0].auto_model.config._attn_implementation = name
    return model


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes this process one with some packages, and a GPU or none."""

    def make(packages: tuple[str, ...] = (), gpu: bool = False, kernels: bool = False) -> None:
        spec = importlib.machinery.ModuleSpec("module", None)
        monkeypatch.setattr(attention, "find_spec", lambda module: spec if module in packages else None)
        monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
        monkeypatch.setattr(attention, "is_kernels_available", lambda: kernels)
        for version, module in {2: "flash_attn", 3: "flash_attn_interface", 4: "flash_attn"}.items():
            there = gpu and module in packages and version < 4
            name = f"is_flash_attn_{version}_available"
            monkeypatch.setattr(transformers.utils, name, lambda there=there: there)

    return make


@pytest.mark.parametrize("name", ["eager", "sdpa", "unpadded", "flex_attention"])
def test_what_pytorch_brings_is_not_asked_for(tiny_model: Any, name: str) -> None:
    assert of_packages([wanting(tiny_model, name)]) == frozenset()


@pytest.mark.parametrize("name", ["flash_attention_2", "flash_attention_3", KERNEL, f"{KERNEL}@v1:run"])
def test_a_model_alone_or_within_a_loss(tiny_model: Any, tiny_folder: Path, name: str) -> None:
    guide = wanting(SentenceTransformer(tiny_folder, device="cpu"), name)
    assert of_packages([guide]) == {name}
    assert of_packages([tiny_model, GISTEmbedLoss(tiny_model, guide)]) == {name}
    assert of_packages([tiny_model]) == frozenset()


@pytest.mark.parametrize(
    ("name", "there", "fault"),
    [
        ("flash_attention_2", {}, "flash-attn is not installed"),
        ("flash_attention_2", {"gpu": True}, "flash-attn is not installed"),
        ("flash_attention_2", {"packages": ("flash_attn",)}, "PyTorch finds no GPU"),
        ("flash_attention_2", {"packages": ("flash_attn",), "gpu": True}, None),
        ("flash_attention_2", {"kernels": True}, None),
        ("flash_attention_3", {"kernels": True}, "flash-attn-3 is not installed"),
        ("flash_attention_3", {"packages": ("flash_attn_interface",), "gpu": True}, None),
        # The module is that of version 2.
        (
            "flash_attention_4",
            {"packages": ("flash_attn",), "gpu": True},
            "does not take the installed flash-attn-4",
        ),
        (KERNEL, {}, "no version of the package kernels"),
        (KERNEL, {"kernels": True}, None),
    ],
)
def test_what_a_process_lacks(machine: Any, name: str, there: dict[str, Any], fault: str | None) -> None:
    machine(**there)
    found = fault_of(name)
    assert found is None if fault is None else found is not None and fault in found


@pytest.mark.parametrize(
    ("name", "fault"), [("flash_attention_2", "flash-attn is not installed"), (KERNEL, "kernels")]
)
def test_a_driver_that_lacks_it_says_so_when_the_model_is_opened(
    tiny_folder: Path, name: str, fault: str
) -> None:
    with pytest.raises(
        ImportError, match=rf"{re.escape(name)}.*{fault}.*driver.*leave attn_implementation out"
    ):
        SentenceTransformer(tiny_folder, model_kwargs={"attn_implementation": name})


def test_a_kernel_is_fetched_where_a_model_arrives(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = pickle.dumps(wanting(tiny_model, KERNEL))
    asked: list[tuple[str, bool]] = []

    def set_attention(self: Any, name: str, allow_all_kernels: bool = False) -> None:
        asked.append((name, allow_all_kernels))
        assert self.config._attn_implementation == "eager"
        self.config._attn_implementation = name

    monkeypatch.setattr("transformers.PreTrainedModel.set_attn_implementation", set_attention)
    model = pickle.loads(sent)
    assert asked == [(KERNEL, True)]
    assert of_packages([model]) == {KERNEL}
    monkeypatch.setattr(AttentionInterface, "valid_keys", lambda self: [KERNEL])
    pickle.loads(sent)
    assert len(asked) == 1
