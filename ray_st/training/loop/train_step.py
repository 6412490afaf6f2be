"""Batches, loss and gradient: transformers' Trainer over planned batches, for embedding models and their losses."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers.training_args import OptimizerNames

from ray_st.data.batch_source import BatchSource
from ray_st.training.argument_checks import ready_twice
from ray_st.training.data.router_routes import routes_of
from ray_st.training.data.step_loader import (
    BATCH,
    DATASET_NAME,
    SHARES,
    Collate,
    Inputs,
    collect,
    step_loader,
)
from ray_st.training.distributed import collectives
from ray_st.training.loop.finite_check import LEAST_SCALE, Batch, LossError, StepCheck
from ray_st.training.loop.loss_parts import LossParts, tokens_of
from ray_st.training.loop.row_weights import RowWeights, is_sum, rows_of
from ray_st.training.strategies.batch_size_finder import too_large
from ray_st.training.strategies.encoder_setup import add_noise, compile_encoder
from ray_st.training.strategies.parameter_groups import groups_of_step
from ray_st.training.strategies.step_module import Step, check_reached, losses_of
from ray_st.training.strategies.strategy import WrappingTrainer
from ray_st.training.worker_context import WorkerContext
from ray_st.training_args import SentenceTransformerTrainingArguments

_LOMO = (OptimizerNames.LOMO, OptimizerNames.ADALOMO)
_IN_BACKWARD = (*_LOMO, *(name for name in OptimizerNames if "layerwise" in name.value))
"""Optimizers that take their steps in the backward pass, weight by weight, and leave no gradient."""


class SteppingTrainer(WrappingTrainer):
    """Takes steps in a worker, at a :class:`ray_st.training.worker_context.WorkerContext`; needs torch and transformers, no Ray.

    Attributes:
        evaluator: Called at each evaluation, or None.
    """

    args: SentenceTransformerTrainingArguments
    evaluator: Callable[..., Any] | None
    user_collator: Callable[[list[dict[str, Any]]], Inputs] | None
    preprocess_logits_for_metrics: Any
    _in_place: bool = False
    _parts: LossParts | None = None
    _weight: float = 1.0
    _noise: Any = None
    _is_first_step: bool = True

    # ---- batches ----

    def get_train_dataloader(self) -> DataLoader[Inputs]:
        """This rank's share of every global batch of the training data."""
        feed = self.here.train
        if feed is None:
            raise ValueError("Training needs a train_dataset; none was given.")
        return self._loader(feed)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Inputs]:
        """This rank's share of every global batch of an evaluation dataset.

        Args:
            eval_dataset: Its name, where there are several.
        """
        evals = self.here.evals
        name = eval_dataset if isinstance(eval_dataset, str) else ""
        if name not in evals:
            raise ValueError(f"There is no evaluation dataset {name!r}; there are {sorted(evals)}.")
        return self._loader(evals[name])

    def get_test_dataloader(self, test_dataset: Any = None) -> DataLoader[Inputs]:
        """This rank's share of every global batch of the data to predict.

        Args:
            test_dataset: As in :meth:`get_eval_dataloader`.
        """
        return self.get_eval_dataloader(test_dataset)

    def _loader(self, feed: BatchSource, place: WorkerContext | None = None) -> DataLoader[Inputs]:
        place = place or self.here
        encoder = self.model.token_encoder()
        collate = Collate(
            tokenize=self.model.tokenize,
            pad=None if encoder is None else encoder.pad,
            prompt_lengths=place.prompt_lengths,
            collator=self.user_collator,
            text_ids=self.args.collisions == "mask",
            routes_of=functools.partial(routes_of, self.model, self.args.router_mapping),
        )
        pin = self.args.dataloader_pin_memory and self.args.device.type == "cuda"
        return step_loader(feed, place.world, collate, pin)

    def collect_features(self, inputs: Mapping[str, Any]) -> tuple[list[dict[str, Any]], Tensor | None]:
        """Turns the inputs of a step into what a loss takes.

        Args:
            inputs: ``COLUMN_input_ids``, ``COLUMN_attention_mask``, …, and ``label``.

        Returns:
            One feature dictionary for each text column, and the labels or None.
        """
        return collect(inputs)

    # ---- loss and gradient ----

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Computes the loss of a step on this rank's rows.

        Args:
            model: The model. The loss holds it already, so it is not used here.
            inputs: The inputs of the step; ``dataset_name`` chooses the loss where there is one for each dataset.
            return_outputs: Whether to return ``(loss, {})``.
            num_items_in_batch: Not used; part of transformers' interface.
        """
        features, labels = self.collect_features(inputs)
        loss_fn = self.loss[self._loss_name(inputs)] if isinstance(self.loss, Mapping) else self.loss
        value = loss_fn(features, labels)
        if isinstance(value, Mapping):
            if self._parts is not None:
                self._parts.add(value, self._weight)
            value = torch.stack(list(value.values())).sum()
        return (value, {}) if return_outputs else value

    def _loss_name(self, inputs: Mapping[str, Any]) -> str:
        return str(inputs.get(DATASET_NAME, "")) if isinstance(self.loss, Mapping) else ""

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Forward and backward of one batch.

        The loss is computed inside the wrapped module's forward, so that gradients are reduced whatever a subclass
        does in ``compute_loss``. Unequal batches of a step, and ranks with unequal shares of a batch, weigh their loss by
        rows: the mean over ranks, which is what the reduction takes, is then the loss of the global batch, and the mean
        over the batches of a step that of all of its rows.

        Returns:
            The weighted loss, a scalar without gradient.
        """
        model.train()
        turn = getattr(self.optimizer, "train", None)  # schedule-free optimizers have two kinds of weights
        if callable(turn):
            turn()
        batch = Batch(inputs.pop(BATCH, None), inputs.get(DATASET_NAME, ""))
        if batch.rows is not None:
            self._used.append(batch.rows)
        shares = self._take_shares(inputs)
        self._weight = self._weights.of(shares, self._loss_name(inputs) in self._sums)
        inputs = self._prepare_inputs(inputs)
        try:
            with self.compute_loss_context_manager():
                loss = model(lambda: self._whole_loss(inputs, num_items_in_batch))
        except ValueError as error:
            raise LossError(f"{error} ({self._step_check.at(self._step, batch)})") from error
        except RuntimeError as error:
            raise (too_large(error, self.args) or error) from error
        self._step_check.add(loss, batch)
        if self._keeps_no_gradient:
            self._step_check.check(0.0, self._step)
        every = self.args.torch_empty_cache_steps
        if every and self.state.global_step % every == 0:
            clear_device_cache()
        loss = loss * self._weight / self.current_gradient_accumulation_steps
        try:
            self.accelerator.backward(loss, **self._backward_options())
        except RuntimeError as error:
            raise (too_large(error, self.args) or ready_twice(error, self.args) or error) from error
        self._look_at_gradients(model)
        return loss.detach()

    def _look_at_gradients(self, model: nn.Module) -> None:
        """Refuses gradients that are not there, once they have been reduced."""
        if not self.accelerator.sync_gradients:
            return
        collectives.check_reduced(model, self._step)
        if self._is_first_step and isinstance(self.loss, nn.Module) and not self._keeps_no_gradient:
            check_reached(self.model, self.loss)
        self._is_first_step = False

    @property
    def _keeps_no_gradient(self) -> bool:
        """Whether the optimizer has moved once the backward pass is over."""
        return self.is_deepspeed_enabled or self.args.optim in _IN_BACKWARD

    @property
    def _step(self) -> int:
        return int(self.state.global_step) + 1

    def get_batch_samples(
        self, epoch_iterator: Iterator[Inputs], num_batches: int, device: torch.device
    ) -> tuple[list[Inputs], Any]:
        """Takes the batches of one step; transformers' hook, here to count their rows.

        Args:
            epoch_iterator: This rank's shares of the epoch's batches.
            num_batches: How many to take.
            device: Part of transformers' interface.
        """
        taken = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._weights.begin(taken[0])
        return taken

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The norm of a step's gradient, and the last look at the step before the optimizer moves."""
        norm = super()._get_grad_norm(model, grad_norm)
        if self._keeps_no_gradient:
            # The weights have moved: they are looked at instead, so that at least no checkpoint is made of them.
            found = nn.utils.get_total_norm(list(self.model.parameters()))
            self._step_check.check(found, self._step, self._skips)
        else:
            self._step_check.check(norm, self._step, self._skips)
        return norm

    def _skips(self) -> bool:
        """Whether a gradient that is not a number is one of scaled losses (fp16), and the optimizer leaves it out."""
        if self.is_deepspeed_enabled:
            return bool(self.args.fp16)
        scaler = self.accelerator.scaler
        return scaler is not None and scaler.is_enabled() and scaler.get_scale() > LEAST_SCALE

    def _backward_options(self) -> dict[str, Any]:
        if self.is_deepspeed_enabled:
            return {"scale_wrt_gas": False}  # we have divided by the number of batches
        return {"learning_rate": self._get_learning_rate()} if self.args.optim in _LOMO else {}

    def _track_num_input_tokens(self, inputs: Mapping[str, Any]) -> None:
        """Counts the tokens of all ranks' text columns; transformers' hook after each batch."""
        counted = self.args.include_num_input_tokens_seen
        if counted == "no":
            return
        mine = 0 if self._gather.idle else tokens_of(inputs, padded=counted == "all")
        total = collectives.sum_over_ranks(torch.tensor(mine, device=self.args.device))
        self.state.num_input_tokens_seen += int(total)

    def _take_shares(self, inputs: dict[str, Any]) -> list[int]:
        """Takes the number of rows of each rank out of a step's inputs, and tells it the losses.

        A loader of the user's own does not say it: then ranks ask each other.
        """
        shares = inputs.pop(SHARES, None)
        if shares is None:
            shares = collectives.gather_objects(rows_of(inputs))
        self._gather.share(shares)
        return shares

    def _whole_loss(self, inputs: dict[str, Any], num_items_in_batch: Any) -> Tensor:
        loss: Tensor = self.compute_loss(self.model, inputs, num_items_in_batch=num_items_in_batch)
        # With a loss for each dataset, a step uses the weights of one. The reducer waits for all: an empty slice gives
        # the others a gradient of zero.
        for weight in self.trained_by_loss():
            loss = loss + weight.reshape(-1)[:0].sum()
        return loss

    def _wrap_model(
        self, model: nn.Module, training: bool = True, dataloader: DataLoader[Inputs] | None = None
    ) -> nn.Module:
        """Wraps model and losses as one module; transformers' hook for distributed training."""
        if not training:
            return self.model
        self.bind_losses()
        self._used: list[Any] = []
        self._parts = LossParts()
        self._is_first_step = True
        self._step_check, self._weights = StepCheck(self.here.world), RowWeights(self.here.world)
        self._sums = {name for name, loss in losses_of(self.loss).items() if is_sum(loss)}
        # Mixed precision belongs to the model's forward alone: a loss's similarities are computed as the model
        # gives them.
        self.accelerator.prepare_model(self.model, evaluation_mode=True)
        compile_encoder(self.model, self.args)
        self._noise = add_noise(self.model, self.args.neftune_noise_alpha)
        return self.wrapped()

    def bind_losses(self) -> None:
        """Gives the losses their door to the other ranks."""
        self._gather = collectives.ClusterGather()
        for loss in losses_of(self.loss).values():
            loss.to(self.args.device)
            parts: Any = loss.modules()
            for part in parts:
                bind = getattr(part, "bind", None)
                if bind is not None:
                    bind(self._gather)
                    part.one_call = self.shards

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs figures; beside a loss of several parts, the mean of each since the last time."""
        if "loss" in logs and self._parts is not None:
            logs.update(self._parts.means())
        super().log(logs, start_time)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Sets up the optimizer over the model's and the losses' parameters; biases and norms don't decay.

        Raises:
            ValueError: If ``learning_rate_mapping`` and the optimizer would both group the parameters.
        """
        step: Any = Step(self.model, self.loss) if model is None else model
        given = self.optimizer_cls_and_kwargs
        if self.optimizer is None and self.args.learning_rate_mapping:
            self.optimizer_cls_and_kwargs = self._with_rates(step)
        optimizer = super().create_optimizer(step)
        self.optimizer_cls_and_kwargs = given
        return optimizer

    def _with_rates(self, step: Any) -> tuple[Any, dict[str, Any]]:
        args = self.args
        kind, options = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(args, step)
        takes_groups = isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
        if not takes_groups or {"params", "model", "optimizer_dict"} & options.keys():
            raise ValueError(
                f"optim={str(args.optim)!r} groups the parameters itself, and learning_rate_mapping does too. Leave one out."
            )
        decaying = self.get_decay_parameter_names(step)
        groups = groups_of_step(step, self.loss, decaying, args.weight_decay, args.learning_rate_mapping)
        return kind, {**options, "params": groups}
