"""A model whose ``encode`` is shared by all ranks, for evaluators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ray_st.training.collectives import gather_objects
from ray_st.world import World


class DealtModel:
    """Stands for a model in an evaluator: each rank encodes its share of the texts, all receive all embeddings.

    All ranks must call it with the same texts. Everything but ``encode`` is the model's own.

    Args:
        model: The model.
        world: This process's place.
    """

    def __init__(self, model: Any, world: World) -> None:
        self._model, self._world = model, world

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode(self, sentences: str | Sequence[Any], **options: Any) -> Any:
        """As the model's ``encode``, in the time of the slowest rank's share.

        Texts are dealt by length, longest first, in turns, so that shares cost about the same.
        """
        if isinstance(sentences, str) or self._world.size == 1 or len(sentences) < self._world.size:
            return self._model.encode(sentences, **options)
        order = np.argsort([-len(str(text)) for text in sentences], kind="stable")
        mine = order[self._world.rank :: self._world.size]
        options["show_progress_bar"] = bool(options.get("show_progress_bar")) and self._world.is_first
        share = self._model.encode([sentences[row] for row in mine], **options)
        return self._reassemble(share, order)

    def _reassemble(self, share: Any, order: np.ndarray) -> Any:
        as_tensor = isinstance(share, torch.Tensor)
        device = share.device if as_tensor else None
        parts = gather_objects(share.cpu() if as_tensor else share)
        if isinstance(share, list):
            rows: list[Any] = [None] * len(order)
            for rank, part in enumerate(parts):
                for row, value in zip(order[rank :: self._world.size].tolist(), part, strict=True):
                    rows[row] = value
            return rows
        where = np.concatenate([order[rank :: self._world.size] for rank in range(self._world.size)])
        back = np.argsort(where)
        if as_tensor:
            return torch.cat(parts)[torch.from_numpy(back)].to(device)
        return np.concatenate(parts)[back]
