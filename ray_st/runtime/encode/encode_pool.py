"""A pool of processes that encode texts or score pairs: actors with one copy of a model each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import ray
from torch import Tensor

from ray_st.models.attention import of_packages
from ray_st.models.reranker.cross_encoder import CrossEncoder
from ray_st.models.sentence_transformer import SentenceTransformer
from ray_st.runtime.cluster.actor_pool import ActorPool, Needs
from ray_st.runtime.cluster.connection import connected
from ray_st.runtime.cluster.granted_device import take_granted_device
from ray_st.runtime.cluster.handles import PickledRef
from ray_st.util.tensors import batch_to_device

CPU_ENCODERS = 4
"""Default number of encoders on a cluster without GPUs, if it has that many CPUs."""


class Encoder:
    """Encodes texts, or scores pairs, in a separate process.

    Args:
        model: The model.
    """

    def __init__(self, model: PickledRef[Any]) -> None:
        self._model = model.open().to(take_granted_device())
        self._model.default_prompt_name = None  # each call passes its own values
        if isinstance(self._model, SentenceTransformer):
            self._model.truncate_dim = None

    def encode(self, texts: list[str], options: dict[str, Any]) -> Any:
        """The result of ``model.encode``, in CPU memory."""
        result = self._model.encode(texts, **options)
        return result.cpu() if isinstance(result, Tensor) else [_on_cpu(value) for value in result]

    def predict(self, pairs: list[tuple[str, str]], options: dict[str, Any]) -> Tensor:
        """The result of ``model.predict``, in CPU memory."""
        scores: Tensor = self._model.predict(pairs, **options)
        return scores.cpu()


class EncodePool(ActorPool):
    """Processes, each with a copy of a model, that share the work of ``model.encode(..., pool=pool)``.

    Rerankers share that of ``model.predict(..., pool=pool)``.

    Args:
        model: An embedder or a reranker; the processes get copies of its current state.
        target_devices: One device per encoder: "cuda:0" requests a GPU (entries of the same name share one),
            "cpu" a CPU. By default every GPU of the cluster; without GPUs four CPUs, or as many as there are.

    Raises:
        ValueError: If a device is of another kind, there are none, or the cluster lacks them, or a node lacks
            the model's attention.
    """

    def __init__(
        self, model: SentenceTransformer | CrossEncoder, target_devices: Sequence[Any] | None = None
    ) -> None:
        with ExitStack() as connection:
            connection.enter_context(connected())
            needs = needs_of(default_devices() if target_devices is None else [*map(str, target_devices)])
            super().__init__(Encoder, [PickledRef(model)], needs, attention=of_packages([model]))
            self._connection = connection.pop_all()

    def encode(self, chunks: Sequence[list[str]], options: dict[str, Any]) -> Iterator[tuple[int, Any]]:
        """Encodes chunks of texts; see :class:`ray_st.models.process_pool.Pool`.

        Raises:
            ValueError: If the pool was stopped.
        """
        return self._run("encode", chunks, options)

    def predict(
        self, chunks: Sequence[list[tuple[str, str]]], options: dict[str, Any]
    ) -> Iterator[tuple[int, Any]]:
        """Scores chunks of pairs; see :class:`ray_st.models.process_pool.ScoringPool`.

        Raises:
            ValueError: If the pool was stopped.
        """
        return self._run("predict", chunks, options)

    def _run(
        self, method: str, chunks: Sequence[list[Any]], options: dict[str, Any]
    ) -> Iterator[tuple[int, Any]]:
        if not self.actors:
            raise ValueError("The pool was stopped; start a new one with start_multi_process_pool().")
        return self.run(method, [(chunk, options) for chunk in chunks])

    def stop(self) -> None:
        """Stops the encoders, and Ray if it was started for them. Idempotent."""
        if self.actors:
            super().stop()
            self._connection.close()


def needs_of(devices: Sequence[str]) -> list[Needs]:
    """The resources of the encoder on each device.

    Args:
        devices: Device names such as "cuda:0" or "cpu".

    Raises:
        ValueError: If there are none, or one is of another kind.
    """
    odd = [device for device in devices if device.partition(":")[0] not in ("cuda", "cpu")]
    if odd or not devices:
        raise ValueError(f"target_devices: expected names such as 'cuda:0' or 'cpu'; got {odd or 'none'}.")
    times = Counter(device for device in devices if ":" in device)
    return [{"CPU": 1} if device == "cpu" else {"GPU": 1 / max(times[device], 1)} for device in devices]


def default_devices() -> list[str]:
    """One process per GPU of the cluster; without GPUs four on CPUs, or as many as there are CPUs."""
    have = ray.cluster_resources()
    gpus = int(have.get("GPU", 0))
    return ["cuda"] * gpus or ["cpu"] * max(min(CPU_ENCODERS, int(have.get("CPU", 0))), 1)


def _on_cpu(value: Tensor | dict[str, Any]) -> Tensor | dict[str, Any]:
    return value.cpu() if isinstance(value, Tensor) else batch_to_device(value, "cpu")
