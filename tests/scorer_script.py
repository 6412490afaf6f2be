"""A reranker without a tokenizer, and a scoring job as a process of its own that one of its workers kills."""

from __future__ import annotations

import os
import signal
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ray_st.runtime.encode.score_corpus import score_corpus

PART_ROWS = 10


class Scorer(nn.Module):
    """Scores pairs by their bytes and its only weight.

    Args:
        marker: A file that is there once it has killed; None never kills.
        pid: The process to kill; 0 for its own.
        calls: Calls of all workers before it kills.
    """

    def __init__(self, marker: Path | None = None, pid: int = 0, calls: int = 2, num_labels: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0]))
        self.prompts = {"ask": "ask: "}
        self.default_prompt_name = None
        self.max_length = 8
        self.num_labels, self.activation_fn = num_labels, nn.Sigmoid()
        self.marker, self.pid, self.calls = marker, pid, calls

    def predict(self, pairs: list[Any], **options: Any) -> np.ndarray:
        self._kill()
        prompt = self.prompts.get(options.get("prompt_name") or "", options.get("prompt") or "")
        logits = torch.tensor([zlib.crc32(f"{prompt}{a}|{b}".encode()) % 1000 / 250 - 2 for a, b in pairs])
        return (options.get("activation_fn") or self.activation_fn)(logits * self.weight.detach()).numpy()

    def tokenize(self, pairs: list[Any]) -> dict[str, Any]:
        return {"input_ids": torch.tensor([[len(first), len(second)] for first, second in pairs])}

    def _kill(self) -> None:
        if self.marker is not None and not self.marker.exists():
            seen = len(list(self.marker.parent.glob(f"{self.marker.name}-*")))
            (self.marker.parent / f"{self.marker.name}-{seen}").touch()
            if seen == self.calls:
                self.marker.touch()
                os.kill(self.pid or os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    source, output, marker = sys.argv[1:]
    scorer = Scorer(Path(marker), os.getpid(), calls=3)
    score_corpus(scorer, source, output, workers=1, part_rows=PART_ROWS)
