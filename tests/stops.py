"""How many of our functions lie between what a user calls and what it comes to: ``python tests/stops.py [CHECKOUT]``.

Runs a small training and a search of one trial in this process and counts, each time one of four things happens, the
package's own frames on the stack. Uses the documented API only, so that it measures any commit's checkout alike.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent).resolve()
TEXTS = ["good weather", "a sunny day", "bad weather", "rain", "pasta", "she eats", "a man", "a text"]
SCORES = [0.9, 0.1, 0.8, 0.3, 0.7, 0.2, 0.6, 0.4]


class Stops:
    """Notes the way to each thing: our functions on it, from what the user called to what happened."""

    def __init__(self, notes: Path) -> None:
        self.notes = notes

    def arrive(self, what: str) -> None:
        own = [
            f"{Path(frame.filename).relative_to(ROOT / 'ray_st')}:{frame.name}"
            for frame in traceback.extract_stack()
            if frame.filename.startswith(f"{ROOT}/ray_st/")
        ]
        with self.notes.open("a") as stream:
            stream.write(json.dumps([what, own]) + "\n")

    def watch(self, place: Any, name: str, what: str) -> None:
        """Notes the way to each call of ``place.name``."""
        original: Callable[..., Any] = getattr(place, name)

        def noted(*args: Any, **kwargs: Any) -> Any:
            self.arrive(what)
            return original(*args, **kwargs)

        setattr(place, name, noted)

    def take(self) -> dict[str, list[str]]:
        """The longest way to each thing since the last call."""
        longest: dict[str, list[str]] = {}
        for what, way in map(json.loads, self.notes.read_text().splitlines()):
            longest[what] = max(longest.get(what, []), way, key=len)
        self.notes.unlink()
        return longest


def tiny_model(folder: Path) -> Any:
    """A random encoder of one layer."""
    from transformers import BertConfig, BertModel, BertTokenizer

    from ray_st import SentenceTransformer
    from ray_st.models import Pooling, Transformer

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *sorted({w for text in TEXTS for w in text.split()}),
    ]
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(words), **sizes), add_pooling_layer=False).save_pretrained(folder)
    BertTokenizer(vocab={word: number for number, word in enumerate(words)}).save_pretrained(folder)
    return SentenceTransformer(modules=[Transformer(folder), Pooling(16)], device="cpu")


def measure(folder: Path) -> dict[str, list[str]]:
    """Trains, evaluates and saves on a worker; then a trial does the same."""
    import ray.train.torch
    import ray.tune
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback

    from ray_st import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from ray_st.evaluation import EmbeddingSimilarityEvaluator
    from ray_st.losses import CoSENTLoss

    stops = Stops(folder / "notes")
    stops.watch(ray.train.torch.TorchTrainer, "fit", "a run: to the cluster")
    stops.watch(ray.tune.Tuner, "fit", "a trial: to the cluster")

    class Ends(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            stops.arrive("a run: on a worker, to the loop")
            stops.watch(CoSENTLoss, "compute", "a row: on a worker, to the loss")
            stops.watch(torch, "save", "a checkpoint: to a file of its state")

        def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
            stops.arrive("a metric: to the callbacks")

    rows = Dataset.from_dict({"a": TEXTS, "b": TEXTS[::-1], "score": SCORES})

    def trainer(name: str, **given: Any) -> Any:
        args = SentenceTransformerTrainingArguments(
            str(folder / name),
            max_steps=2,
            eval_strategy="steps",
            eval_steps=1,
            save_steps=1,
            report_to="none",
            disable_tqdm=True,
        )
        evaluator = EmbeddingSimilarityEvaluator(TEXTS, TEXTS[::-1], SCORES, name="e")
        return SentenceTransformerTrainer(
            args=args,
            train_dataset=rows,
            eval_dataset=rows,
            loss=CoSENTLoss,
            evaluator=evaluator,
            callbacks=[Ends()],
            **given,
        )

    trainer("run", model=tiny_model(folder / "encoder")).train()
    found = stops.take()
    trainer("search", model_init=partial(tiny_model, folder / "encoder")).hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-4)}, n_trials=1
    )
    searched = stops.take()
    found["a trial: to the cluster"] = searched["a trial: to the cluster"]
    found["a trial: on a worker, to the loop"] = searched["a run: on a worker, to the loop"]
    return found


if __name__ == "__main__":
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "TQDM_DISABLE": "1",
        "RAY_ADDRESS": "local",
        "PYTHONPATH": str(ROOT),
    }
    os.chdir(ROOT)  # Ray puts it onto its workers' path
    sys.path.insert(0, str(ROOT))
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        for what, way in measure(Path(scratch)).items():
            print(
                f"{what:38}{len(way):3}",
                *(way if "-v" in sys.argv else ()),
                sep="\n    " if "-v" in sys.argv else "",
            )
