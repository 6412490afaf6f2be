"""Linear layers by oneDNN give what torch's give."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from ray_st.models import onednn
from ray_st.models.onednn import LEAST_PRODUCTS, OneDnn, is_faster, linear, linear_layers_of

pytestmark = pytest.mark.skipif(onednn._product() is None, reason="this torch was built without oneDNN")


@pytest.mark.parametrize("shape", [(5, 8), (3, 70, 96), (1, 200, 384), (2, 3, 4, 8)])
@pytest.mark.parametrize("bias", [False, True])
def test_value_and_gradient_equal_those_of_linear(shape, bias) -> None:
    torch.manual_seed(0)
    given = [torch.randn(*shape), torch.randn(48, shape[-1]), torch.randn(48) if bias else None]

    def outcome(function) -> list[torch.Tensor]:
        leaves = [part.clone().requires_grad_() for part in given if part is not None]
        result = function(*leaves)
        (result * torch.linspace(-1, 1, result.numel()).view_as(result)).sum().backward()
        return [result.detach(), *(leaf.grad for leaf in leaves)]

    for mine, wanted in zip(outcome(linear), outcome(torch.nn.functional.linear), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("frozen", ["input", "weight", "bias"])
def test_what_needs_no_gradient_gets_none(frozen) -> None:
    leaves = {"input": torch.randn(4, 8), "weight": torch.randn(3, 8), "bias": torch.randn(3)}
    for name, leaf in leaves.items():
        leaf.requires_grad_(name != frozen)
    linear(**leaves).sum().backward()
    assert [name for name, leaf in leaves.items() if leaf.grad is None] == [frozen]


def calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    seen: list[torch.Size] = []
    multiply = onednn._multiply
    monkeypatch.setattr(
        onednn, "_multiply", lambda left, *others: (seen.append(left.shape), multiply(left, *others))[1]
    )
    return seen


def test_only_large_float32_products_on_the_cpu_go_another_way(monkeypatch) -> None:
    seen = calls(monkeypatch)
    rows = LEAST_PRODUCTS // (64 * 64)
    layer = torch.nn.Linear(64, 64)
    with OneDnn():
        layer(torch.randn(rows, 64))
        assert len(seen) == 1
        layer(torch.randn(rows - 1, 64))
        layer.double()(torch.randn(rows, 64).double())
        layer.float()
        with torch.autocast("cpu", torch.bfloat16):
            layer(torch.randn(rows, 64))
        layer(torch.randn(64))
        assert len(seen) == 1
    layer(torch.randn(rows, 64))
    assert len(seen) == 1


def test_an_encoder_gives_the_same_on_either_way(tiny_model, monkeypatch) -> None:
    monkeypatch.setattr(onednn, "LEAST_PRODUCTS", 0)
    texts = ["good weather", "a man eats pasta", "bad"]
    found = []
    for helps in (False, True):
        monkeypatch.setattr(onednn, "is_faster", lambda helps=helps: helps)
        seen = calls(monkeypatch)
        found.append(tiny_model.encode(texts))
        assert bool(seen) == helps
    torch.testing.assert_close(*map(torch.from_numpy, found), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("vendor", "expected"), [("AuthenticAMD", True), ("GenuineIntel", False), (None, False)]
)
def test_it_is_for_amd_processors(tmp_path, monkeypatch, vendor, expected) -> None:
    file = tmp_path / "cpuinfo"
    if vendor:
        file.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
    monkeypatch.setattr(onednn, "_CPU_INFO", file)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    assert is_faster.__wrapped__() is expected


def test_not_where_the_model_is_on_another_device(tiny_model, monkeypatch) -> None:
    monkeypatch.setattr(onednn, "is_faster", lambda: True)
    assert isinstance(linear_layers_of(tiny_model[0].auto_model.to("meta")), nullcontext)


def test_not_where_activations_are_computed_again(tiny_model, monkeypatch) -> None:
    monkeypatch.setattr(onednn, "is_faster", lambda: True)
    encoder = tiny_model[0].auto_model
    assert isinstance(linear_layers_of(encoder), OneDnn)
    encoder.activation_checkpointing_enable()
    assert isinstance(linear_layers_of(encoder), nullcontext)
