from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ray_st.models import Pooling
from ray_st.models.folder_files import ModelFolderError, read_json, write_json

MODES = Pooling.POOLING_MODES
N, T, D = 5, 9, 4


def batch(side: str, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(N, T, D, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([9, 1, 4, 6, 3])
    place = torch.arange(T)
    mask = place >= T - lengths[:, None] if side == "left" else place < lengths[:, None]
    return {"token_embeddings": vectors, "attention_mask": mask.long()}


def by_hand(mode: str, vectors: Tensor, mask: Tensor, prompt: int) -> Tensor:
    """One text at a time, one mode at a time, in plain words."""
    real = [vector for vector, counts in zip(vectors, mask, strict=True) if counts]
    weights = list(range(1, len(real) + 1))[prompt:]
    kept = real[prompt:]
    if not kept:
        return torch.zeros(D, dtype=vectors.dtype)
    total = sum(kept)
    return {
        "cls": kept[0],
        "lasttoken": kept[-1],
        "max": torch.stack(kept).max(dim=0).values,
        "mean": total / len(kept),
        "mean_sqrt_len_tokens": total / len(kept) ** 0.5,
        "weightedmean": sum(w * v for w, v in zip(weights, kept, strict=True)) / sum(weights),
    }[mode]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("prompt", [0, 2, 4])
def test_each_mode_by_hand(mode: str, side: str, prompt: int) -> None:
    features = batch(side)
    found = Pooling(D, mode, include_prompt=False)({**features, "prompt_length": prompt})[
        "sentence_embedding"
    ]
    rows = zip(features["token_embeddings"], features["attention_mask"], strict=True)
    torch.testing.assert_close(found, torch.stack([by_hand(mode, v, m, prompt) for v, m in rows]))


def test_modes_lie_side_by_side_in_the_given_order() -> None:
    features = batch("right")
    modes = ["lasttoken", "mean", "cls"]
    parts = [Pooling(D, mode)(features)["sentence_embedding"] for mode in modes]
    pooling = Pooling(D, modes)
    torch.testing.assert_close(pooling(features)["sentence_embedding"], torch.cat(parts, dim=1))
    assert pooling.get_embedding_dimension() == 3 * D


def test_a_prompt_counts_unless_it_is_excluded() -> None:
    features = {**batch("right"), "prompt_length": 2}
    plain = Pooling(D)(batch("right"))["sentence_embedding"]
    torch.testing.assert_close(Pooling(D)(features)["sentence_embedding"], plain)
    assert not torch.allclose(Pooling(D, include_prompt=False)(features)["sentence_embedding"], plain)


def test_each_text_may_have_its_own_prompt_length() -> None:
    lengths = torch.tensor([0, 1, 2, 0, 3])
    pooling = Pooling(D, "mean", include_prompt=False)
    found = pooling({**batch("left"), "prompt_length": lengths})["sentence_embedding"]
    for row, length in enumerate(lengths.tolist()):
        alone = pooling({**batch("left"), "prompt_length": length})["sentence_embedding"]
        torch.testing.assert_close(found[row], alone[row])


@pytest.mark.parametrize("mode", MODES)
def test_gradients_are_finite_even_where_no_token_counts(mode: str) -> None:
    features = batch("right")
    vectors = features["token_embeddings"].requires_grad_()
    pooled = Pooling(D, mode, include_prompt=False)({**features, "prompt_length": 2})["sentence_embedding"]
    (gradient,) = torch.autograd.grad(pooled.sum(), vectors)
    assert gradient.isfinite().all()
    assert not gradient[1].any()  # its only token belongs to the prompt


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_are_taken_in_float32(dtype: torch.dtype) -> None:
    vectors = torch.full((1, 4096, 1), 0.1, dtype=dtype)
    features = {"token_embeddings": vectors, "attention_mask": torch.ones(1, 4096, dtype=torch.long)}
    found = Pooling(1)(features)["sentence_embedding"]
    assert found.dtype == dtype
    assert found.item() == vectors[0, 0].item()


def test_the_callers_features_stay_as_they_are() -> None:
    features = {**batch("right"), "prompt_length": 2}
    before = {name: value.clone() if isinstance(value, Tensor) else value for name, value in features.items()}
    Pooling(D, include_prompt=False)(features)
    torch.testing.assert_close(features, before)


def test_without_a_mask_every_token_counts() -> None:
    vectors = batch("right")["token_embeddings"]
    torch.testing.assert_close(
        Pooling(D)({"token_embeddings": vectors})["sentence_embedding"], vectors.mean(dim=1)
    )


@pytest.mark.parametrize(
    ("arguments", "modes"),
    [
        ({}, ("mean",)),
        ({"pooling_mode": "cls"}, ("cls",)),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("cls",)),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, ("max", "mean")),
        ({"embedding_dimension": D, "pooling_mode": ["mean", "cls"]}, ("mean", "cls")),
    ],
    ids=str,
)
def test_ways_to_name_modes(arguments: dict[str, Any], modes: tuple[str, ...]) -> None:
    assert Pooling(**{"word_embedding_dimension": D, **arguments}).pooling_modes == modes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling_mode": "avg"}, r"one or more of cls, max, .*got \['avg'\]"),
        ({"pooling_mode": []}, r"got \[\]"),
        (
            {"pooling_mode_mean": True},
            "no argument 'pooling_mode_mean'; its flags are pooling_mode_cls_token",
        ),
        ({"word_embedding_dimension": None}, "needs word_embedding_dimension"),
    ],
    ids=str,
)
def test_what_makes_no_pooling(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pooling(**{"word_embedding_dimension": D, **arguments})


@pytest.mark.parametrize("modes", ["mean", ("cls", "mean"), ("mean", "cls")], ids=str)
def test_saved_and_read(modes: Any, tmp_path: Path) -> None:
    Pooling(D, modes, include_prompt=False).save(tmp_path)
    back = Pooling.load(tmp_path)
    assert (back.word_embedding_dimension, back.pooling_mode, back.include_prompt) == (D, modes, False)


def test_old_readers_find_the_flags_they_know(tmp_path: Path) -> None:
    Pooling(D).save(tmp_path)
    config = read_json(tmp_path / "config.json")
    assert config["word_embedding_dimension"] == D
    assert [flag for flag, on in config.items() if on is True] == [
        "pooling_mode_mean_tokens",
        "include_prompt",
    ]


def test_a_folder_without_settings_or_with_wrong_ones(tmp_path: Path) -> None:
    with pytest.raises(
        ModelFolderError, match=r"has no config\.json with settings, which a Pooling module needs"
    ):
        Pooling.load(tmp_path)
    write_json(tmp_path / "config.json", {"word_embedding_dimension": D, "pooling_mode": "avg"})
    with pytest.raises(ModelFolderError, match=r"config\.json: pooling_mode must be one or more of"):
        Pooling.load(tmp_path)
