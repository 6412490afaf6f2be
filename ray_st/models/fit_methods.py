"""Training as older scripts start it: by a method of the model, with loaders of examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ray_st.models.publishing import Published
from ray_st.models.stack import Stack
from ray_st.readers.input_example import InputExample
from ray_st.util.lazy import use

_LEARNING_RATE: Mapping[str, Any] = MappingProxyType({"lr": 2e-5})


class Loader(Protocol):
    """A ``DataLoader``, or another iterable of batches; the length is optional with ``steps_per_epoch``."""

    collate_fn: Any

    def __iter__(self) -> Iterator[Any]: ...

    def __len__(self) -> int: ...


Objectives = Iterable[tuple[Loader, nn.Module]]
Callback = Callable[[float, float, int], Any]


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """The arguments that :meth:`FittedStack.fit` and :meth:`FittedStack.old_fit` share, documented there."""

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

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> FitOptions:
        """The options among the arguments of a call."""
        return cls(**{part.name: arguments[part.name] for part in fields(cls) if part.name in arguments})


class FittedStack(Published, Stack):
    """Modules in a row that train on loaders of :class:`ray_st.InputExample`.

    New code should use :class:`ray_st.SentenceTransformerTrainer`; docs/legacy.md shows how to migrate.
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
        scaling_config: object = None,
        run_config: object = None,
    ) -> None:
        """Trains on the Ray cluster, through :class:`ray_st.SentenceTransformerTrainer`.

        Each step takes a batch from one objective; objectives take turns until one is exhausted, which ends
        the epoch. A loader's examples are read once, before training. Its batch size is that of the whole
        cluster, so that steps and their rows are the same on any number of workers. Its kind of order is
        kept: shuffled, sequential, without duplicates, or grouped by label.

        Args:
            train_objectives: Pairs of a loader (a :class:`torch.utils.data.DataLoader` or a
                :class:`ray_st.datasets.NoDuplicatesDataLoader` of examples) and its loss.
            evaluator: Run at the end of each epoch.
            epochs: Number of passes over the examples.
            steps_per_epoch: Batches of each objective in an epoch; by default as many as the smallest one
                has.
            scheduler: "constantlr", "warmupconstant", "warmuplinear", "warmupcosine" or
                "warmupcosinewithhardrestarts"; upper or lower case.
            warmup_steps: Steps over which the learning rate rises from 0.
            optimizer_class: Class of the optimizer.
            optimizer_params: Its arguments.
            weight_decay: Applied to all weights except biases and those of layer norms.
            evaluation_steps: Also run the evaluator every so many steps; 0 for never.
            output_path: Folder for the model: the best one if there is an evaluator, otherwise the last one.
                The evaluator writes its metrics into its subfolder ``eval``.
            save_best_model: Whether to save the best model; with an evaluator and False, no model is saved.
            max_grad_norm: Gradients are clipped to this norm.
            use_amp: Train in mixed precision (fp16).
            callback: Called on the driver after each evaluation as ``callback(score, epoch, steps)``, with
                epochs and steps counted from the start of training. An exception that it raises ends the run.
            show_progress_bar: Whether to show one.
            checkpoint_path: Folder for checkpoints; None writes none.
            checkpoint_save_steps: Steps between two checkpoints; one more is written at the end.
            checkpoint_save_total_limit: Checkpoints to keep; 0 for all.
            resume_from_checkpoint: Resume from the newest checkpoint in ``checkpoint_path`` if there is one.
            scaling_config: Ray Train's: number and kind of workers.
            run_config: Ray Train's: name, storage and failure handling.

        Raises:
            ValueError: If an objective cannot be read (for example a loader with its own sampler or
                ``collate_fn``) or does not fit its loss, or the scheduler is unknown.
        """
        options = FitOptions.of(locals())  # the arguments by name
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

        Each step takes a batch from every objective in turn, each with its own optimizer and schedule.
        Loaders are used unchanged, with their samplers and worker processes; only their ``collate_fn`` is
        replaced by :meth:`smart_batching_collate` while training runs.

        Arguments are those of :meth:`fit`, with these differences: a loader may be any iterable of lists of
        examples that has a ``collate_fn`` and, unless ``steps_per_epoch`` is given, a length. A loader
        continues in the next epoch where it stopped, and restarts when it is exhausted. ``evaluation_steps``
        and the callback count the steps within the epoch, and epochs from 0; at the end of an epoch the
        callback gets -1 as the step. Checkpoints are models in folders named after their step; training
        cannot resume from them.

        Raises:
            ValueError: If there is no objective, or the scheduler is unknown.
        """
        use("old_fit")(self, train_objectives, FitOptions.of(locals()))  # the arguments by name

    def smart_batching_collate(self, batch: Sequence[InputExample]) -> tuple[list[dict[str, Tensor]], Tensor]:
        """Turns a batch of examples into the inputs of a loss.

        Args:
            batch: n :class:`ray_st.InputExample`, all with the same number of texts.

        Returns:
            The features of each text column, and the labels: (n,), or (n, d) for vectors.
        """
        columns = zip(*(example.texts or [] for example in batch), strict=True)
        features = [self.tokenize(list(texts)) for texts in columns]
        return features, _stacked([example.label for example in batch])


def _stacked(labels: list[Any]) -> Tensor:
    if labels and isinstance(labels[0], np.ndarray):
        return torch.from_numpy(np.stack(labels))
    if labels and isinstance(labels[0], Tensor):
        return torch.stack(labels)
    return torch.tensor(labels)
