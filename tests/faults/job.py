"""A training job for :mod:`drill`: a tiny model, slow steps, and one fault at a given place if one is asked for.

It writes down what each rank does and when, so that the drill can choose whom to hurt and see when work goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import string
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from datasets import Dataset
from transformers import BertConfig, BertModel, BertTokenizer, TrainerCallback

from ray_st import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from ray_st.models import Pooling, Transformer
from ray_st.util.endings import FAILED, RunEnded

ROWS, GLOBAL_BATCH, STEPS = 640, 16, 40


class Diary(TrainerCallback):
    """Writes a line for each step of each rank, and makes steps slow enough to be hit."""

    def __init__(self, path: str, step_s: float) -> None:
        self.path, self.step_s = path, step_s

    def _write(self, args: Any, step: int) -> None:
        node = ray.get_runtime_context().get_node_id()
        line = {
            "time": time.time(),
            "rank": args.process_index,
            "step": step,
            "pid": os.getpid(),
            "workers": args.world_size,
            "node": node,
        }
        with open(self.path, "a") as stream:
            stream.write(json.dumps(line) + "\n")

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._write(args, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        threading.Event().wait(self.step_s)
        self._write(args, state.global_step)


class Hang(TrainerCallback):
    """The last rank never arrives at a step, the first time."""

    def __init__(self, step: int, marker: str) -> None:
        self.step, self.marker = step, marker

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        last = args.process_index == args.world_size - 1
        if last and state.global_step == self.step and not os.path.exists(self.marker):
            Path(self.marker).touch()
            threading.Event().wait()


class Poison(TrainerCallback):
    """Makes the loss not a number at a step, the first time."""

    def __init__(self, step: int, marker: str) -> None:
        self.step, self.marker = step, marker

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == self.step and not os.path.exists(self.marker):
            if args.process_index == args.world_size - 1:
                Path(self.marker).touch()
            with torch.no_grad():
                next(model.parameters()).fill_(float("nan"))


FAULTS = {"hang": Hang, "nan": Poison}


def rows() -> Dataset:
    words = ["sunny", "weather", "good", "bad", "man", "eats", "pasta", "query", "document", "text"]
    return Dataset.from_dict(
        {
            "anchor": [f"{words[i % 10]} {i}" for i in range(ROWS)],
            "positive": [f"{words[(i * 3) % 10]} the {words[i % 7]} {i * i}" for i in range(ROWS)],
        }
    )


def make_model(folder: Path, dropout: float) -> SentenceTransformer:
    """A random BERT of two layers; the same each time."""
    letters = string.ascii_lowercase + string.digits
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    if not (folder / "config.json").exists():
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        chances = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
        config = BertConfig(vocab_size=len(words), max_position_embeddings=64, **sizes, **chances)
        BertModel(config, add_pooling_layer=False).save_pretrained(folder)
        BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
    return SentenceTransformer(modules=[Transformer(folder), Pooling(32)], device="cpu")


def train(options: argparse.Namespace) -> None:
    folder = Path(options.folder)
    model = make_model(folder.parent / f"encoder-{options.dropout:g}", options.dropout)
    callbacks: list[Any] = [Diary(str(folder.parent / f"{folder.name}.diary"), options.step_s)]
    if options.fault:
        callbacks.append(FAULTS[options.fault](12, str(folder.parent / f"{folder.name}.marker")))
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(folder),
            num_train_epochs=options.steps * GLOBAL_BATCH / ROWS,
            global_train_batch_size=GLOBAL_BATCH,
            learning_rate=1e-3,
            logging_steps=1,
            save_steps=options.save_steps,
            batch_sampler="no_duplicates",
            ledger=True,
            report_to="none",
        ),
        train_dataset=rows(),
        loss=losses.MultipleNegativesRankingLoss(model, gather_across_devices=True),
        callbacks=callbacks,
        scaling_config=ray.train.ScalingConfig(
            num_workers=options.workers,
            resources_per_worker={"CPU": 1},
            elastic_resize_monitor_interval_s=2,
        ),
        run_config=ray.train.RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            failure_config=ray.train.FailureConfig(max_failures=options.max_failures),
        ),
    )
    has_checkpoint = options.go_on and any(folder.glob("checkpoint-*/manifest.json"))
    trainer.train(resume_from_checkpoint=has_checkpoint or None)
    torch.save(trainer.model.state_dict(), folder / "weights.pt")


def workers(text: str) -> int | tuple[int, int]:
    least, _, most = text.partition("-")
    return (int(least), int(most)) if most else int(least)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--workers", type=workers, default=2, help="a number, or LEAST-MOST")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--step-s", type=float, default=0.25)
    parser.add_argument("--save-steps", type=int, default=5)
    parser.add_argument("--max-failures", type=int, default=3)
    parser.add_argument("--fault", choices=FAULTS)
    parser.add_argument("--continue", dest="go_on", action="store_true")
    options = parser.parse_args()
    import job  # by its name, not as __main__, so that it can be sent to workers

    ray.init(logging_level="warning")
    ray.cloudpickle.register_pickle_by_value(job)
    try:
        job.train(options)
    except RunEnded as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except RuntimeError as error:  # RunStopped
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
