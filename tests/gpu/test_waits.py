"""How often the host waits for the device: once a step, once a batch of texts.

Each table holds every wait that there is: a new one fails here, with its place.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, TrainerCallback

from pretended_device import Syncs
from ray_st import CrossEncoder, losses
from ray_st.cross_encoder import losses as losses_of_pairs
from reranker_rows import rows

from .conftest import PAIRS
from .test_losses import LOSSES, Made

Waits = Counter[tuple[str, str]]
"""How often the host waits: by file of ray_st and kind."""

STEP: Waits = Counter({("training/loop/finite_check.py", "device to host"): 1})
"""A step reads its losses and the norm of its gradient together, before the optimizer moves."""

GPT_STEP: Waits = STEP + Counter({("losses/denoising.py", "item"): 1})
"""GPT-2 as a decoder makes position ids, in which transformers looks for several texts in one row
(``find_packed_sequence_indices``) unless there is a mask, of which it asks whether it is all ones. Only a prepared
mask (n, 1, t, t) is not looked at, and with one attention could not use its causal kernels."""

EVALUATE: Waits = Counter({("training/loop/evaluation_loop.py", "device to host"): 1})
"""The mean loss of all batches."""

ENCODE: dict[str, tuple[dict[str, Any], Waits]] = {
    "numpy": ({}, Counter({("util/tensors.py", "synchronize"): 4})),
    "tensor": ({"convert_to_tensor": True}, Counter()),
    "tokens": ({"output_value": "token_embeddings"}, Counter()),
    "everything": ({"output_value": None}, Counter()),
}
"""Four batches: each array is waited for while the device computes the next one."""

ROWS = len(PAIRS["a"])


class CountsWaits(TrainerCallback):
    """Counts the waits of each step."""

    def __init__(self, syncs: Syncs) -> None:
        self.syncs = syncs
        self.counts: list[Counter[tuple[str, str]]] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.syncs.take()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.counts.append(self.syncs.take())


def listed(counts: Counter[tuple[str, str]]) -> str:
    return "\n".join(f"{count:3} {kind:17} {place}" for (kind, place), count in sorted(counts.items()))


def check(counts: Counter[tuple[str, str]], expected: Waits) -> None:
    found: Waits = Counter()
    for (kind, place), count in counts.items():
        found[place.partition(":")[0], kind] += count
    assert found == expected, f"other waits than expected:\n{listed(counts)}"


def data_for(made: Made) -> dict[str, Any]:
    """Rows for a loss of :mod:`tests.gpu.test_losses`: as many text columns as it takes, and its labels."""
    _, columns, labels = made
    texts = {name: [f"{name} {i} the weather" for i in range(ROWS)] for name in "abc"[:columns]}
    return texts if labels is None else {**texts, "label": [*labels.tolist(), *labels.tolist()]}


def check_steps(pretended: Syncs, running: Any, expected: Waits) -> None:
    """Trains, and checks the waits of all steps but the first."""
    counter = CountsWaits(pretended)
    running.add_callback(counter)
    running.train()
    _, second, third = counter.counts
    check(second, expected)
    check(third, expected)


@pytest.mark.parametrize("name", LOSSES)
def test_a_step(name: str, pretended: Syncs, tiny: Any, loop: Any, tmp_path: Path) -> None:
    model = tiny("cpu")
    made = LOSSES[name](model)
    options = {"include_num_input_tokens_seen": "non_padding", "logging_steps": 100}
    running = loop(model, tmp_path, loss=lambda _: made[0], data=data_for(made), **options)
    check_steps(pretended, running, STEP)


@pytest.mark.parametrize(
    ("form", "loss"),
    [
        ("binary", "BinaryCrossEntropyLoss"),
        ("triplets", "MultipleNegativesRankingLoss"),
        ("triplets", "CachedMultipleNegativesRankingLoss"),
        ("margins", "MarginMSELoss"),
        ("lists", "LambdaLoss"),
        ("lists", "ListNetLoss"),
        ("lists", "PListMLELoss"),
    ],
)
def test_a_step_of_a_reranker(
    form: str, loss: str, pretended: Syncs, loop: Any, tiny_reranker: Path, tmp_path: Path
) -> None:
    model = CrossEncoder(str(tiny_reranker), device="cpu")
    make = getattr(losses_of_pairs, loss)
    running = loop(model, tmp_path, loss=make, data=rows(form, 12), logging_steps=100)
    check_steps(pretended, running, STEP)


def test_a_decoder_with_position_ids(
    pretended: Syncs, tiny: Any, loop: Any, tiny_encoder: Path, tmp_path: Path
) -> None:
    sizes = {"vocab_size": 120, "n_embd": 32, "n_layer": 1, "n_head": 2, "bos_token_id": 1, "eos_token_id": 2}
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(tmp_path)

    def loss(model: Any) -> Any:
        return losses.DenoisingAutoEncoderLoss(model, str(tmp_path), tie_encoder_decoder=False)

    check_steps(pretended, loop(tiny("cpu"), tmp_path, loss=loss, logging_steps=100), GPT_STEP)


def test_a_loss_with_prompts(pretended: Syncs, tiny: Any, loop: Any, tmp_path: Path) -> None:
    model = tiny("cpu")
    model.set_pooling_include_prompt(False)
    running = loop(model, tmp_path, prompts="query: ", logging_steps=100)
    counter = CountsWaits(pretended)
    running.add_callback(counter)
    seen: list[Any] = []
    model[1].register_forward_pre_hook(lambda _, given: seen.append(given[0]["prompt_length"]))
    running.train()
    assert len(seen[0]) == 8
    check(counter.counts[1], STEP)


def test_an_evaluation(pretended: Syncs, tiny: Any, loop: Any, tmp_path: Path) -> None:
    running = loop(tiny("cuda"), tmp_path, per_device_eval_batch_size=2)
    running.evaluator = None
    running.evaluate()
    pretended.take()
    running.evaluate()
    check(pretended.take(), EVALUATE)


@pytest.mark.parametrize("form", ENCODE)
def test_encoding_four_batches(form: str, pretended: Syncs, tiny: Any) -> None:
    options, expected = ENCODE[form]
    model = tiny("cuda")
    pretended.take()
    model.encode(["a man eats pasta " * (i % 7 + 1) for i in range(32)], batch_size=8, **options)
    check(pretended.take(), expected)
