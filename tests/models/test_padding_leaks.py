"""Encoders whose vectors depend on padding are named when they are opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from module_helpers import TINY_ENCODER, save_words
from ray_st.models import Transformer
from ray_st.models.padding_leaks import LEAKS, note_leak

SIZES = {**TINY_ENCODER, "max_position_embeddings": 64}
SMALL: dict[str, dict[str, Any]] = {
    "bert": SIZES,
    "convbert": {**SIZES, "num_hidden_layers": 2, "embedding_size": 16, "head_ratio": 1},
    "fnet": SIZES,
    "funnel": {
        "architectures": ["FunnelModel"],
        "vocab_size": 40,
        "block_sizes": [1, 1],
        "block_repeats": [1, 1],
        "num_decoder_layers": 1,
        "d_model": 16,
        "n_head": 2,
        "d_head": 8,
        "d_inner": 24,
    },
    "mobilebert": {**SIZES, "embedding_size": 8, "intra_bottleneck_size": 8, "true_hidden_size": 8},
    "nystromformer": SIZES,
    "yoso": SIZES,
    "canine": {**SIZES, "local_transformer_stride": 4, "downsampling_rate": 2},
}


@pytest.mark.parametrize("kind", SMALL)
def test_what_is_listed_depends_on_padding(kind: str) -> None:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **SMALL[kind])
    model = transformers.AutoModel.from_config(config).eval()
    for weight in model.parameters():  # as they begin, vectors of padding are zero
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.3)
    ids = torch.full((1, 16), 1)
    ids[0, :8] = torch.arange(5, 13)
    alone = model(input_ids=ids[:, :8], attention_mask=torch.ones(1, 8)).last_hidden_state
    padded = model(input_ids=ids, attention_mask=(ids != 1).float()).last_hidden_state[:, :8]
    assert torch.allclose(alone, padded, atol=1e-5) is (kind not in LEAKS)


def test_opening_one_says_so_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note_leak.cache_clear()
    for kind in ("fnet", "bert"):
        folder = tmp_path / kind
        config = transformers.AutoConfig.for_model(kind, **SMALL[kind])
        transformers.AutoModel.from_config(config).save_pretrained(folder)
        save_words(folder)
        for _ in "12":
            Transformer(folder)
    said = [line for line in capsys.readouterr().out.splitlines() if "padding" in line]
    assert len(said) == 1
    assert said[0].startswith("fnet models: Fourier transforms mix padding")
