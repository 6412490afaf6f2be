"""Nodes without the attention that a model computes with are named before any of them gets the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray.train
from datasets import Dataset

from ray_st import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from ray_st.runtime.cluster.node_attention import candidates, refusal
from ray_st.runtime.encode.cluster_mining import ClusterSearch
from ray_st.runtime.encode.corpus import encode_corpus
from ray_st.runtime.encode.rank_evaluators import evaluate_on_workers
from ray_st.util import mine_hard_negatives

ROWS = [
    {"NodeID": "head", "Alive": True, "Resources": {"CPU": 4.0}, "Labels": {"zone": "a"}},
    {"NodeID": "one", "Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0}, "Labels": {"zone": "a"}},
    {"NodeID": "two", "Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}, "Labels": {"zone": "b"}},
    {"NodeID": "three", "Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}, "Labels": {}},
    {"NodeID": "gone", "Alive": False, "Resources": {"CPU": 8.0, "GPU": 8.0}, "Labels": {"zone": "b"}},
]


@pytest.mark.parametrize(
    ("need", "selectors", "expected"),
    [
        ({"CPU": 1}, [{}], "head one two three"),
        ({"GPU": 1}, [{}], "one two three"),
        ({"GPU": 0.5, "CPU": 8}, [{}], "one two three"),
        ({"GPU": 2}, [{}], "one"),
        ({"TPU": 1}, [{}], ""),
        ({"GPU": 1}, [{"zone": "b"}], "two"),
        ({"GPU": 1}, [{"zone": "!b"}], "one three"),
        ({"GPU": 1}, [{"zone": "in(a, b)"}], "one two"),
        ({"GPU": 1}, [{"zone": "!in(a,b)"}], "three"),
        ({"GPU": 1}, [{"zone": "a"}, {"zone": "b"}], "one two"),
        ({"GPU": 1}, [{"zone": "a", "kind": "x"}], ""),
    ],
)
def test_nodes_that_may_get_a_copy(need: Any, selectors: Any, expected: str) -> None:
    assert [row["NodeID"] for row in candidates(ROWS, need, selectors)] == expected.split()


def test_nodes_are_named_with_what_they_lack() -> None:
    assert refusal([]) is None
    assert refusal([("10.0.0.1 (a)", {}), ("10.0.0.2 (b)", {})]) is None
    lacks = {"flash_attention_2": "flash-attn is not installed"}
    fault = refusal([("10.0.0.1 (a)", lacks), ("10.0.0.2 (b)", {}), ("10.0.0.3 (c)", lacks)])
    assert fault is not None
    assert "on 2 of the 3 node(s)" in fault
    assert "flash_attention_2: flash-attn is not installed on 10.0.0.1 (a), 10.0.0.3 (c). Install" in fault
    assert "runtime_env" in fault
    assert "another attn_implementation" in fault


def made(folder: Path, attention: str) -> SentenceTransformer:
    """A model as a driver has it that could open it with this attention."""
    model = SentenceTransformer(folder, device="cpu")
    model[0].auto_model.config._attn_implementation = attention
    return model


PAIRS = Dataset.from_dict({"a": ["one", "two", "three"], "b": ["four", "five", "six"]})


def trainer(output: Path, attention: str, folder: Path, search: bool = False, **args: Any) -> Any:
    model = None if search else made(folder, attention)
    return SentenceTransformerTrainer(
        model=model,
        model_init=(lambda: made(folder, attention)) if search else None,
        args=SentenceTransformerTrainingArguments(output_dir=str(output), **args),
        train_dataset=PAIRS,
        eval_dataset=PAIRS,
        loss=losses.MultipleNegativesRankingLoss if search else losses.MultipleNegativesRankingLoss(model),
    )


@pytest.mark.ray
def test_the_cluster_is_asked(cluster: None, tiny_folder: Path, tmp_path: Path) -> None:
    row = ray.nodes()[0]
    lacking = rf"kernels-community/x: no version of the package kernels .* on {row['NodeManagerAddress']} \("
    with pytest.raises(ValueError, match=lacking):
        trainer(tmp_path, "kernels-community/x", tiny_folder).train()
    assert not list(tmp_path.glob("checkpoint-*"))


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("use", ["train", "search", "evaluate", "pool", "mine", "corpus"])
def test_every_use_refuses_copies_on_cpus(use: str, tiny_folder: Path, tmp_path: Path) -> None:
    flash = "flash_attention_2"
    model = made(tiny_folder, flash)
    (tmp_path / "texts.txt").write_text("a\nb\n")
    uses: dict[str, Any] = {
        "train": lambda: trainer(tmp_path, flash, tiny_folder).train(),
        "search": lambda: trainer(tmp_path, flash, tiny_folder, search=True).hyperparameter_search(
            hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-4)},
            n_trials=1,
            direction="minimize",
            compute_objective=lambda metrics: metrics["eval_loss"],
        ),
        "evaluate": lambda: evaluate_on_workers(model, [], ray.train.ScalingConfig(num_workers=1)),
        "pool": lambda: model.start_multi_process_pool(["cpu"]),
        "mine": lambda: mine_hard_negatives(PAIRS, model, search=ClusterSearch(["cpu"]), verbose=False),
        "corpus": lambda: encode_corpus(model, str(tmp_path / "texts.txt"), str(tmp_path / "out")),
    }
    with pytest.raises(ValueError, match=r"flash_attention_2 computes on GPUs only.*\{'CPU': 1"):
        uses[use]()


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_the_process_that_evaluates_is_checked_too(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        "ray_st.runtime.train.dispatch.check_attention_of_workers", lambda *given: asked.append(given)
    )
    beside = {"eval_on": "background", "eval_strategy": "epoch", "eval_resources": {"CPU": 1}}
    with pytest.raises(ValueError, match="computes on GPUs only"):
        trainer(tmp_path, "flash_attention_2", tiny_folder, **beside).train()
    assert asked[0][0] == {"flash_attention_2"}
