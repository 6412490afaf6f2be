"""Training as older scripts call it: on the model, with loaders of examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ray_st.models.publishing import PublishedStack
from ray_st.util.ports import use

_LEARNING_RATE: Mapping[str, Any] = MappingProxyType({"lr": 2e-5})

Objectives = Iterable[tuple[Any, nn.Module]]
Callback = Callable[[float, float, int], Any]


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """The arguments that :meth:`FittedStack.fit` and :meth:`FittedStack.old_fit` share; described there."""

    evaluator: Callable[..., Any] | None
    epochs: int
    steps_per_epoch: int | None
    scheduler: str
    warmup_steps: int
    optimizer_class: type[torch.optim.Optimizer]
    optimizer_params: Mapping[str, Any]
    weight_decay: float
    evaluation_steps: int
    output_path: str | None
    save_best_model: bool
    max_grad_norm: float
    use_amp: bool
    callback: Callback | None
    show_progress_bar: bool
    checkpoint_path: str | None
    checkpoint_save_steps: int
    checkpoint_save_total_limit: int
    resume_from_checkpoint: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs must be at least 1; got {self.epochs!r}.")


class FittedStack(PublishedStack):
    """Modules in a row that train on loaders of :class:`ray_st.InputExample`.

    New code is better off with :class:`ray_st.SentenceTransformerTrainer`; docs/legacy.md says how to move.
    """

    def fit(
        self,
        train_objectives: Objectives,
        evaluator: Callable[..., Any] | None = None,
        epochs: int = 1,
        steps_per_epoch: int | None = None,
        scheduler: str = "WarmupLinear",
        warmup_steps: int = 10000,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.AdamW,
        optimizer_params: Mapping[str, Any] = _LEARNING_RATE,
        weight_decay: float = 0.01,
        evaluation_steps: int = 0,
        output_path: str | None = None,
        save_best_model: bool = True,
        max_grad_norm: float = 1,
        use_amp: bool = False,
        callback: Callback | None = None,
        show_progress_bar: bool = True,
        checkpoint_path: str | None = None,
        checkpoint_save_steps: int = 500,
        checkpoint_save_total_limit: int = 0,
        resume_from_checkpoint: bool = False,
        *,
        scaling_config: Any = None,
        run_config: Any = None,
    ) -> None:
        """Trains on the Ray cluster, through :class:`ray_st.SentenceTransformerTrainer`.

        Each step takes a batch from one objective, all in turn, until one has no more; that is an epoch. A loader's
        examples are read once, before training; its batch size is that of the whole cluster, so that steps and their
        rows are the same on any number of workers. Its order is kept: shuffled, as it is, without duplicates, or grouped
        by label.

        Args:
            train_objectives: Pairs of a loader (a :class:`torch.utils.data.DataLoader` or a
                :class:`ray_st.datasets.NoDuplicatesDataLoader` of examples) and its loss.
            evaluator: Run at the end of each epoch.
            epochs: How often to go through the examples.
            steps_per_epoch: Batches of each objective in an epoch; by default as many as the smallest has.
            scheduler: "constantlr", "warmupconstant", "warmuplinear", "warmupcosine" or
                "warmupcosinewithhardrestarts"; upper or lower case.
            warmup_steps: Steps over which the learning rate rises from 0.
            optimizer_class: Class of the optimizer.
            optimizer_params: Its arguments.
            weight_decay: Of all weights but biases and those of layer norms.
            evaluation_steps: Run the evaluator every so many steps, too; 0 for not.
            output_path: Folder of the model: of the best one if there is an evaluator, else of the last one. The
                evaluator writes its figures into ``eval`` there.
            save_best_model: Whether the best model is saved; without it, an evaluator leaves ``output_path`` without a
                model.
            max_grad_norm: Gradients are scaled down to this norm.
            use_amp: Train in mixed precision (fp16).
            callback: Called here after each evaluation as ``callback(score, epoch, steps)``, with epochs and steps
                counted from the beginning. What it raises ends the run.
            show_progress_bar: Whether to show one.
            checkpoint_path: Folder of checkpoints; without one, none are written.
            checkpoint_save_steps: Steps between two checkpoints; one more is written at the end.
            checkpoint_save_total_limit: Checkpoints to keep; 0 for all.
            resume_from_checkpoint: Go on from the newest checkpoint in ``checkpoint_path`` if there is one.
            scaling_config: Ray Train's, number and kind of workers.
            run_config: Ray Train's, name, storage and failure handling.

        Raises:
            ValueError: If an objective cannot be read (a loader with its own sampler or ``collate_fn``, too), does not
                fit its loss, or the scheduler is unknown.
        """
        options = FitOptions(
            evaluator=evaluator,
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            scheduler=scheduler,
            warmup_steps=warmup_steps,
            optimizer_class=optimizer_class,
            optimizer_params=optimizer_params,
            weight_decay=weight_decay,
            evaluation_steps=evaluation_steps,
            output_path=output_path,
            save_best_model=save_best_model,
            max_grad_norm=max_grad_norm,
            use_amp=use_amp,
            callback=callback,
            show_progress_bar=show_progress_bar,
            checkpoint_path=checkpoint_path,
            checkpoint_save_steps=checkpoint_save_steps,
            checkpoint_save_total_limit=checkpoint_save_total_limit,
            resume_from_checkpoint=resume_from_checkpoint,
        )
        use("fit")(self, train_objectives, options, scaling_config, run_config)

    def old_fit(
        self,
        train_objectives: Objectives,
        evaluator: Callable[..., Any] | None = None,
        epochs: int = 1,
        steps_per_epoch: int | None = None,
        scheduler: str = "WarmupLinear",
        warmup_steps: int = 10000,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.AdamW,
        optimizer_params: Mapping[str, Any] = _LEARNING_RATE,
        weight_decay: float = 0.01,
        evaluation_steps: int = 0,
        output_path: str | None = None,
        save_best_model: bool = True,
        max_grad_norm: float = 1,
        use_amp: bool = False,
        callback: Callback | None = None,
        show_progress_bar: bool = True,
        checkpoint_path: str | None = None,
        checkpoint_save_steps: int = 500,
        checkpoint_save_total_limit: int = 0,
    ) -> None:
        """Trains in this process with a plain loop, without Ray.

        Each step takes a batch from every objective in turn, each with an optimizer and a schedule of its own. Loaders
        are used as they are, with their samplers and worker processes; only their ``collate_fn`` is replaced by
        :meth:`smart_batching_collate` for as long as this lasts.

        Arguments are those of :meth:`fit`, with these differences: a loader may be any iterable of lists of examples
        that has a ``collate_fn`` and, unless ``steps_per_epoch`` is given, a length. A loader goes on in the next epoch
        where it was, and begins anew when it ends. ``evaluation_steps`` and the callback count the steps of the epoch,
        and epochs from 0; at the end of an epoch the callback is given -1 steps. Checkpoints are models in folders
        named after their step, and cannot be resumed from.

        Raises:
            ValueError: If there is no objective, or the scheduler is unknown.
        """
        options = FitOptions(
            evaluator=evaluator,
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            scheduler=scheduler,
            warmup_steps=warmup_steps,
            optimizer_class=optimizer_class,
            optimizer_params=optimizer_params,
            weight_decay=weight_decay,
            evaluation_steps=evaluation_steps,
            output_path=output_path,
            save_best_model=save_best_model,
            max_grad_norm=max_grad_norm,
            use_amp=use_amp,
            callback=callback,
            show_progress_bar=show_progress_bar,
            checkpoint_path=checkpoint_path,
            checkpoint_save_steps=checkpoint_save_steps,
            checkpoint_save_total_limit=checkpoint_save_total_limit,
        )
        use("old_fit")(self, train_objectives, options)

    def smart_batching_collate(self, batch: Sequence[Any]) -> tuple[list[dict[str, Tensor]], Tensor]:
        """Makes a batch of examples into what losses take.

        Args:
            batch: n :class:`ray_st.InputExample`, all with as many texts.

        Returns:
            The features of each text column, and the labels: (n,), or (n, d) for vectors.
        """
        columns = zip(*(example.texts for example in batch), strict=True)
        features = [self.tokenize(list(texts)) for texts in columns]
        return features, _stacked([example.label for example in batch])


def _stacked(labels: list[Any]) -> Tensor:
    if labels and isinstance(labels[0], np.ndarray):
        return torch.from_numpy(np.stack(labels))
    if labels and isinstance(labels[0], Tensor):
        return torch.stack(labels)
    return torch.tensor(labels)
