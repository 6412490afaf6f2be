"""The methods of a reranker that score and rank: what users call on it once it is trained."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ray_st.models.activations import Activation
from ray_st.models.process_pool import ScoringPool, open_pool
from ray_st.models.reranker.pair_inputs import read_pairs
from ray_st.models.reranker.pair_scoring import ScoreOptions, score_pairs, score_pairs_pooled
from ray_st.models.text_encoding import chosen_prompt
from ray_st.models.whole_model import WholeModel
from ray_st.util.names import either
from ray_st.util.team import Alone, Team

if TYPE_CHECKING:
    from ray_st.models.reranker.pair_encoder import PairEncoder
    from ray_st.models.tokens import TokenEncoder

logger = logging.getLogger(__name__)


class ScoresPairs(WholeModel):
    """A model that scores pairs of texts; subclasses define how pairs become features and scores."""

    team: Team = Alone()
    """The processes that share :meth:`predict` and evaluators' work; set by training while it evaluates."""

    prompts: dict[str, str]
    default_prompt_name: str | None

    @property
    @abstractmethod
    def num_labels(self) -> int:
        """Numbers that the model computes for a pair."""

    @property
    @abstractmethod
    def activation_fn(self) -> Activation:
        """Applied to the model's output by :meth:`predict`."""

    @abstractmethod
    def tokenize(self, pairs: Sequence[Any], **options: object) -> dict[str, Tensor]:
        """The padded batch of some pairs."""

    @abstractmethod
    def pair_encoder(self) -> PairEncoder | None:
        """The picklable part that turns texts into ids and ids into pairs; None if there is none."""

    @abstractmethod
    def joint_encoder(self, prompt: str | None = None) -> TokenEncoder | None:
        """The picklable part that turns pairs into ids by a chat template; None without one."""

    def predict(
        self,
        sentences: object = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        num_workers: int = 0,
        activation_fct: Activation | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        *,
        inputs: object = None,
        activation_fn: Activation | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        device: str | torch.device | Sequence[str | torch.device] | None = None,
        pool: ScoringPool | None = None,
        chunk_size: int | None = None,
    ) -> Any:
        """Scores of pairs of texts.

        Args:
            sentences: n pairs, or one. A pair is a list, tuple or array of two texts, or a dict with two
                texts, whose order counts.
            batch_size: Pairs computed at once. Pairs of similar length share a batch.
            show_progress_bar: Whether to show one; by default if this logger is at level INFO or DEBUG.
            num_workers: Has no effect: pairs are tokenized in a thread while the device computes.
            activation_fct: The older name of ``activation_fn``.
            apply_softmax: Scale the scores of several labels to probabilities, after the activation.
            convert_to_numpy: Return an array; otherwise a list of tensors.
            convert_to_tensor: Return one tensor. Overrides ``convert_to_numpy``.
            inputs: The later name of ``sentences``.
            activation_fn: Applied to the model's output; by default the model's.
            prompt_name: Name of the prompt to put before the first text of each pair; by default
                ``default_prompt_name``. With a chat template it is a system message.
            prompt: The prompt text. Overrides ``prompt_name``.
            device: Move the model there first; or a list of devices, for a temporary pool.
            pool: A pool from :meth:`start_multi_process_pool` to compute with; tensors are returned on the
                CPU.
            chunk_size: Pairs that a process of the pool gets at a time, rounded up to whole batches.

        Returns:
            (n,) for a model of one label or (n, num_labels), as an array or tensor, or a list of n; for one
            pair, its scores alone.

        Raises:
            ValueError: If an entry is not a pair of texts, a prompt is unknown, or an option is invalid.
        """
        devices = None
        if device is not None and not isinstance(device, str | torch.device):
            devices = list(device)
        elif device is not None and pool is None:
            self.to(device)
        given = either("sentences", sentences, "inputs", inputs)
        if given is None:
            raise ValueError("predict needs sentences: one pair of texts or several; got none.")
        pairs, single = read_pairs(given)
        request = ScoreOptions(
            prompt=chosen_prompt(prompt, prompt_name or self.default_prompt_name, self.prompts),
            batch_size=batch_size,
            show_progress_bar=_shows(show_progress_bar),
            activation=either("activation_fct", activation_fct, "activation_fn", activation_fn),
            apply_softmax=bool(apply_softmax),
            form="tensor" if convert_to_tensor else "numpy" if convert_to_numpy else "list",
        )
        if pairs and (pool is not None or devices):
            found = score_pairs_pooled(self, pairs, request, pool, devices, chunk_size)
        else:
            found = score_pairs(self, pairs, request, self.team)
        return found[0] if single else found

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        num_workers: int = 0,
        activation_fct: Activation | None = None,
        apply_softmax: bool = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """Documents by their scores with a query, the best first; equal scores keep their order.

        Args:
            query: The query.
            documents: The documents.
            top_k: Number of documents to return; None for all.
            return_documents: Whether to return the documents' texts, too.
            batch_size: As for :meth:`predict`.
            show_progress_bar: As for :meth:`predict`.
            num_workers: Has no effect.
            activation_fct: As for :meth:`predict`.
            apply_softmax: Has no effect on scores of one label.
            convert_to_numpy: Has no effect: scores are Python's numbers.
            convert_to_tensor: Has no effect.
            **options: Other arguments of :meth:`predict`, such as ``prompt`` or ``pool``.

        Returns:
            For each document a dict with ``corpus_id`` (its index), ``score``, and ``text`` if asked for.

        Raises:
            ValueError: If the model has several labels, or :meth:`predict` raises one.
        """
        if self.num_labels != 1:
            raise ValueError(
                f"rank needs a model with one label; this one has {self.num_labels}. Score pairs with "
                "predict, and sort by one of the labels."
            )
        scores = self.predict(
            [(query, document) for document in documents],
            batch_size,
            show_progress_bar,
            activation_fct=activation_fct,
            convert_to_tensor=True,
            **options,
        )
        ranked: list[dict[str, Any]] = []
        for place, score in enumerate(scores.tolist()):
            text = {"text": documents[place]} if return_documents else {}
            ranked.append({"corpus_id": place, "score": score, **text})
        return sorted(ranked, key=_score, reverse=True)[:top_k]

    def start_multi_process_pool(
        self, target_devices: Sequence[str | torch.device] | None = None
    ) -> ScoringPool:
        """Starts processes for ``predict(..., pool=pool)`` on the Ray cluster, each with a copy of the model.

        Args:
            target_devices: A device for each process: "cuda:0" requests a GPU of the cluster, "cpu" a CPU;
                devices with the same name share one GPU. By default every GPU of the cluster; without GPUs
                four CPUs, or as many as there are.

        Returns:
            The pool, whose processes run until :meth:`stop_multi_process_pool`.

        Raises:
            ValueError: If a device is of another kind, or the cluster lacks the resources.
        """
        pool: ScoringPool = open_pool(self, target_devices)
        return pool

    @staticmethod
    def stop_multi_process_pool(pool: ScoringPool) -> None:
        """Stops the processes of a pool, and Ray if it was started for them."""
        pool.stop()


def _score(entry: Mapping[str, Any]) -> float:
    return float(entry["score"])


def _shows(show_progress_bar: bool | None) -> bool:
    return logger.getEffectiveLevel() <= logging.INFO if show_progress_bar is None else show_progress_bar
