"""A corpus job as a process of its own, killed by one of its workers half-way."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from torch import nn

from ray_st import SentenceTransformer
from ray_st.runtime.encode.corpus import encode_corpus

PART_ROWS = 10


class KillOnce(nn.Module):
    """Kills a process with SIGKILL when so many batches have been embedded by all workers, once."""

    def __init__(self, pid: int, marker: Path, batches: int) -> None:
        super().__init__()
        self.pid, self.marker, self.batches = pid, marker, batches

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        if self.pid >= 0 and not self.marker.exists():
            seen = len(list(self.marker.parent.glob(f"{self.marker.name}-*")))
            (self.marker.parent / f"{self.marker.name}-{seen}").touch()
            if seen == self.batches:
                self.marker.touch()
                os.kill(self.pid or os.getpid(), signal.SIGKILL)
        return features


def model_with(folder: str, killer: KillOnce) -> Any:
    """The model of a folder that kills a process (0: the worker's own; -1: none)."""
    model = SentenceTransformer(folder, device="cpu")
    model.append(killer)
    return model


if __name__ == "__main__":
    folder, source, output, marker = sys.argv[1:]
    killer = KillOnce(os.getpid(), Path(marker), batches=3)
    encode_corpus(model_with(folder, killer), source, output, workers=1, part_rows=PART_ROWS)
