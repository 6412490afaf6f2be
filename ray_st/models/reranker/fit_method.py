"""Training a reranker as older scripts start it: by a method of the model, with a loader of examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ray_st.models.fit_methods import Callback, FitOptions, Loader
from ray_st.util.lazy import use
from ray_st.util.names import either

_LEARNING_RATE: Mapping[str, Any] = MappingProxyType({"lr": 2e-5})
_NO_CHECKPOINTS: Mapping[str, Any] = MappingProxyType(
    {
        "steps_per_epoch": None,
        "checkpoint_path": None,
        "checkpoint_save_steps": 0,
        "checkpoint_save_total_limit": 0,
    }
)


class FittedReranker:
    """A reranker that trains on a loader of :class:`ray_st.InputExample`.

    New code should use :class:`ray_st.CrossEncoderTrainer`.
    """

    def fit(
        self,
        train_dataloader: Loader,
        evaluator: Callable[..., Any] | None = None,
        epochs: int = 1,
        loss_fct: Callable[[Tensor, Tensor], Tensor] | None = None,
        activation_fct: Callable[[Tensor], Tensor] | None = None,
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
        *,
        activation_fn: Callable[[Tensor], Tensor] | None = None,
        scaling_config: object = None,
        run_config: object = None,
    ) -> None:
        """Trains on the Ray cluster, through :class:`ray_st.CrossEncoderTrainer`.

        The loader's examples are read once, before training. Its batch size is that of the whole cluster, so
        that steps and their rows are the same on any number of workers.

        Args:
            train_dataloader: A :class:`torch.utils.data.DataLoader` of :class:`ray_st.InputExample`, each
                with two texts and a label.
            evaluator: Run at the end of each epoch.
            epochs: Number of passes over the examples.
            loss_fct: Maps logits, (n,) for one label and otherwise (n, k), and labels (n,) to the loss; by
                default binary cross-entropy of one label, cross-entropy of several.
            activation_fct: Applied to the logits before the loss; by default nothing.
            scheduler: "constantlr", "warmupconstant", "warmuplinear", "warmupcosine" or
                "warmupcosinewithhardrestarts"; upper or lower case.
            warmup_steps: Steps over which the learning rate rises from 0.
            optimizer_class: Class of the optimizer.
            optimizer_params: Its arguments.
            weight_decay: Applied to all weights except biases and those of layer norms.
            evaluation_steps: Also run the evaluator every so many steps; 0 for never.
            output_path: Folder for the model: the best one if there is an evaluator, otherwise the last one.
            save_best_model: Whether to save the best model; with an evaluator and False, no model is saved.
            max_grad_norm: Gradients are clipped to this norm.
            use_amp: Train in mixed precision (fp16).
            callback: Called on the driver after each evaluation as ``callback(score, epoch, steps)``.
            show_progress_bar: Whether to show one.
            activation_fn: The later name of ``activation_fct``.
            scaling_config: Ray Train's: number and kind of workers.
            run_config: Ray Train's: name, storage and failure handling.

        Raises:
            ValueError: If the loader cannot be read (it has its own sampler or ``collate_fn``), examples are
                not pairs with labels, or the scheduler is unknown.
        """
        activation = either("activation_fct", activation_fct, "activation_fn", activation_fn)
        options = FitOptions.of({**_NO_CHECKPOINTS, **locals()})  # the arguments by name
        use("fit_reranker")(self, train_dataloader, options, loss_fct, activation, scaling_config, run_config)
