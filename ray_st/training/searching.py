"""The documented method that searches for hyperparameters; the search itself is in :mod:`ray_st.tune`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import Trainer

from ray_st.training.strategies.precision import note_on_types
from ray_st.util.events import notes
from ray_st.util.ports import use
from ray_st.util.uploads import check_kept


class SearchingTrainer(Trainer):
    """A trainer whose runs can be the trials of a search.

    Attributes:
        scaling_config: Ray Train's number and kind of workers.
    """

    scaling_config: Any = None

    model: Any
    loss: Any

    def hyperparameter_search(
        self,
        hp_space: Any = None,
        compute_objective: Any = None,
        n_trials: int = 20,
        direction: str | list[str] = "minimize",
        backend: Any = None,
        hp_name: Callable[[Any], str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Searches for good hyperparameters with Ray Tune and Optuna; see docs/search.md.

        Needs ``model_init``, and the loss as a function of the model: each trial makes its own.

        Args:
            hp_space: A function of a trial in Optuna's define-by-run form, or a dict of Ray Tune domains by name; by
                default learning rate, epochs, seed and batch size. Names are training arguments, or what ``model_init``
                or the loss initialiser reads from the trial.
            compute_objective: The objective from an evaluation's figures, or the name of one; by default the evaluation
                loss if there is nothing else, otherwise the sum of all figures.
            n_trials: How many trials; 0 with ``points_to_evaluate`` tries these only.
            direction: ``"minimize"`` or ``"maximize"``; a list for several objectives.
            backend: ``"ray"`` (default), or ``"optuna"`` for the same search one trial at a time.
            hp_name: A trial's name from the Optuna trial.
            kwargs: As for :class:`ray_st.tune.SearchOptions`: name, sampler, scheduler, rungs, resources_per_trial, …

        Returns:
            transformers' ``BestRun(run_id, objective, hyperparameters, run_summary)``; a list for several objectives.

        Raises:
            ValueError: If the search cannot work; before any trial starts, as far as can be known.
        """
        if self.scaling_config is not None and self.scaling_config.num_workers == 0:
            raise ValueError(
                "A search runs its trials on workers of a Ray cluster, and ScalingConfig(num_workers=0) "
                "wants none. Use num_workers=1, or leave scaling_config out."
            )
        check_kept(str(self.args.output_dir), "output_dir, which holds the search's folder,")
        if note := note_on_types(self.model, self.loss):
            notes.info(note)
        search = use("search")
        return search(self, hp_space, compute_objective, n_trials, direction, backend, hp_name, **kwargs)
