"""What a search returns: transformers' ``BestRun``, with the winner's model and confirmed figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers.trainer_utils import BestRun

from ray_st.model_trainer import ModelTrainer
from ray_st.study.confirmed import Finalist
from ray_st.training.checkpoint.store import PREFIX, CheckpointError, CheckpointStore

if TYPE_CHECKING:
    from ray_st.runtime.train.ray_configs import RunConfig


@dataclass(frozen=True)
class SavedWeights:
    """Opens the weights of a search's trials.

    Args:
        kind: The trainer's class.
        run_config: The trainer's, which says where checkpoints are.
        folder: The search's folder on the machine of its driver.
        search_id: The search's unique identifier.
        scratch_dir: Folder for local copies of what is in an object store; None for the system's.
        places: Folders of trials below the search's, each with a step; the first that exists is opened.
        missing: What to do if none of them does.
    """

    kind: type[ModelTrainer]
    run_config: RunConfig | None
    folder: Path
    search_id: str
    scratch_dir: str | None
    places: Sequence[tuple[str, int]] = ()
    missing: str = ""

    def at(self, places: Sequence[tuple[str, int]], missing: str) -> SavedWeights:
        """Those of some trials; arguments as for the class."""
        return dataclasses.replace(self, places=tuple(places), missing=missing)

    def open(self) -> nn.Module:
        """Opens the model.

        Raises:
            CheckpointError: If none of the checkpoints exists, or one is damaged.
        """
        from ray_st.runtime.tune.search_home import search_store

        whole = search_store(self.run_config, self.folder, self.search_id)
        for part, step in self.places:
            store = CheckpointStore(whole.location(part), whole.filesystem, scratch_dir=self.scratch_dir)
            if store.has_manifest(step):
                return self.kind.family.open(str(store.fetch(f"{PREFIX}{step}")))
        looked = ", ".join(f"{part}/{PREFIX}{step}" for part, step in self.places)
        raise CheckpointError(f"{self.missing} (Looked for in {whole.path}: {looked}.)")


class FoundRun(BestRun):
    """The best run of a search; unpacks and compares as transformers' ``BestRun``.

    ``run_id``, ``objective`` and ``hyperparameters`` are those of the winner: with ``confirm``, of the
    finalist that won, with its mean over the fresh seeds as ``objective``; otherwise of the trial with the
    best value.

    Attributes:
        confirmed: The winner's figures over the fresh seeds; None without ``confirm``.
    """

    confirmed: Finalist | None = None
    _weights: SavedWeights | None = None
    _model: nn.Module | None = None

    @classmethod
    def of(
        cls,
        run_id: str,
        objective: float | list[float],
        hyperparameters: Mapping[str, Any],
        run_summary: object,
        confirmed: Finalist | None,
        weights: SavedWeights,
    ) -> FoundRun:
        """A search's result.

        Args:
            run_id: The winner's number.
            objective: Its value.
            hyperparameters: Its hyperparameters.
            run_summary: The search's summary, or None.
            confirmed: As the attribute.
            weights: Where its weights may be.
        """
        found = cls(run_id, objective, dict(hyperparameters), run_summary)
        found.confirmed, found._weights = confirmed, weights
        return found

    @property
    def model(self) -> nn.Module:
        """The winner's model, opened from its checkpoint when it is first asked for.

        With ``confirm``, these are the weights of the winner's most typical training: the one whose value is
        closest to the mean, rather than the luckiest. Its value belongs to them: with ``ray_scope="all"``
        they are those of its best evaluation, otherwise those of its last step. Without ``confirm``, they are
        the best trial's, if ``save_strategy`` has saved them at that step.

        Raises:
            CheckpointError: If there is no such checkpoint; says how to get one.
        """
        if self._model is None:
            assert self._weights is not None, "it is the result of a search"
            self._model = self._weights.open()
        return self._model

    def __repr__(self) -> str:
        """As transformers' ``BestRun``, which scripts print."""
        return repr(BestRun(*self))

    def __getstate__(self) -> dict[str, Any]:
        """The attributes without the opened model, which is read again where it is needed."""
        return {name: value for name, value in vars(self).items() if name != "_model"}
