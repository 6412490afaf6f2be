"""Seconds from ``train()`` to the first step on a running cluster, what they are made of, and a bare TorchTrainer's.

The bare one starts as many workers, which import what a training loop with our trainer, model and loss needs, and do nothing. Run it on an idle machine:

    python benchmarks/startup.py --rounds 5
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import ray.train
from datasets import Dataset
from ray.train.torch import TorchTrainer
from transformers import BertConfig, BertModel, BertTokenizer, TrainerCallback

from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.losses import MultipleNegativesRankingLoss
from ray_st.models import Pooling, Transformer
from ray_st.runtime.train import dispatch

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(95))]
STAGES = ("checks, rows, plan", "worker group, imports", "trainer made again", "first step")


class Witness(TrainerCallback):
    """Notes on a worker when it arrived there, when training began, and when its first step was done."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Arrives, after all imports."""
        self.__dict__.update(state)
        self.times = [time.time()]

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Notes the time."""
        self.times.append(time.time())

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Notes the time of the first step."""
        if len(self.times) == 2:
            self.times.append(time.time())


def tiny_model(folder: Path) -> SentenceTransformer:
    """A small random BERT, so that starting is all that takes time."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(WORDS), **sizes), add_pooling_layer=False).save_pretrained(folder)
    BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}).save_pretrained(folder)
    return SentenceTransformer(modules=[Transformer(folder), Pooling(32)], device="cpu")


def ours(folder: Path, scaling: Any) -> list[float]:
    """Seconds of each stage."""
    rows = {
        "a": [f"word{n} word{n % 7}" for n in range(90)],
        "b": [f"word{n % 9} word{n}" for n in range(90)],
    }
    model = tiny_model(folder / "encoder")
    witness = Witness()
    arguments = {"max_steps": 2, "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(str(folder / "out"), **arguments),
        train_dataset=Dataset.from_dict(rows),
        loss=MultipleNegativesRankingLoss(model),
        callbacks=[witness],
        scaling_config=scaling,
    )
    launch, launched = dispatch.launch.launch, []

    def noted(*args: Any, **kwargs: Any) -> Any:
        launched.append(time.time())
        return launch(*args, **kwargs)

    dispatch.launch.launch = noted  # type: ignore[assignment]
    start = time.time()
    trainer.train()
    dispatch.launch.launch = launch
    times = [start, *launched, *witness.times]
    return [after - before for before, after in itertools.pairwise(times)]


def bare(folder: Path, scaling: Any) -> float:
    """Seconds until workers of a TorchTrainer have imported trainer, model, loss and architecture, as ours do."""

    def loop() -> None:
        import transformers.models.bert.modeling_bert  # noqa: F401

        import ray_st.losses.multiple_negatives_ranking
        import ray_st.models.sentence_transformer
        import ray_st.trainer  # noqa: F401

        if ray.train.get_context().get_world_rank() == 0:
            (folder / "arrived").write_text(str(time.time()))

    run_config = ray.train.RunConfig(name="bare", storage_path=str(folder))
    start = time.time()
    TorchTrainer(loop, scaling_config=scaling, run_config=run_config).fit()
    return float((folder / "arrived").read_text()) - start


def main() -> None:
    """Prints the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    scaling = ray.train.ScalingConfig(num_workers=options.workers)
    found: list[list[float]] = []
    others: list[float] = []
    ray.init(num_cpus=4, log_to_driver=False)
    for _ in range(options.rounds + 1):  # the first pays for what a running cluster has done already
        for measure, into in ((ours, found), (bare, others)):
            with tempfile.TemporaryDirectory() as folder:
                into.append(measure(Path(folder), scaling))  # type: ignore[operator, attr-defined]
    for stage, seconds in zip(STAGES, zip(*found[1:], strict=True), strict=True):
        print(f"{stage:24}{statistics.median(seconds):8.2f} s")
    total, other = statistics.median(map(sum, found[1:])), statistics.median(others[1:])
    print(f"{'train() to first step':24}{total:8.2f} s")
    print(f"{'bare TorchTrainer':24}{other:8.2f} s   ours {total / other - 1:+.0%}")


if __name__ == "__main__":
    main()
