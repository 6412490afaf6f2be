"""The one adapter over transformers' Trainer: its private methods are overridden here and nowhere else.

The components of the loop are fields, each of which can be built and tested without a trainer; the overrides
only call them in order. ``tests/test_upstream.py`` pins every name that is overridden.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import torch
from accelerate.utils.memory import clear_device_cache
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.hooks import RemovableHandle
from transformers import Trainer, TrainerCallback
from transformers.trainer import SCALER_NAME, SCHEDULER_NAME
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from ray_st.data.batch_source import BatchSource
from ray_st.losses.loss import Loss
from ray_st.training.argument_checks import seen_by_transformers
from ray_st.training.async_eval.client import AWAITED, AsyncEvaluation, as_of, check_without_queue
from ray_st.training.async_eval.protocol import EvalResult
from ray_st.training.callbacks.callback_consensus import ConsensusHandler, agree_after_log
from ray_st.training.callbacks.evaluator_files import EvaluatorFiles, evaluator_folder
from ray_st.training.callbacks.hub_upload import CheckpointUpload
from ray_st.training.callbacks.loop_callback import LoopCallback, SampleLogWriter
from ray_st.training.callbacks.run_description import note_records, note_surroundings
from ray_st.training.callbacks.tracked_run import TrackedRun
from ray_st.training.callbacks.trackers import Tracker, make_trackers
from ray_st.training.checkpoint.checkpointer import (
    Checkpointer,
    Rotation,
    Snapshot,
    Write,
    best_name,
    best_step,
    newest_metrics,
    no_files,
)
from ray_st.training.checkpoint.contents import (
    RandomStates,
    export_callbacks,
    load_loss_weights,
    load_loss_weights_if_any,
    load_random_states,
    random_state_files,
    random_states,
    restore_callbacks,
    save_loss_and_arguments,
    save_state,
    save_states,
    shown_state,
)
from ray_st.training.checkpoint.host_copies import HostCopies
from ray_st.training.checkpoint.node_copy import fetch_on_node
from ray_st.training.checkpoint.retuning import retune, settings_of
from ray_st.training.checkpoint.store import manifest_in
from ray_st.training.data.pair_features import TEXTS, PairFeatures, text_arguments
from ray_st.training.data.router_routes import routes_of, skips_rows
from ray_st.training.data.step_loader import Collate, Inputs, collect, step_loader
from ray_st.training.distributed import collectives
from ray_st.training.family import Family
from ray_st.training.loop.batch_memory import embed_in_parts
from ray_st.training.loop.evaluation_loop import (
    EvaluationLoop,
    EvaluationReport,
    Evaluator,
    Moment,
    place_for_evaluation,
)
from ray_st.training.loop.loss_so_far import LOSS_SO_FAR, LossCounter, tokens_of
from ray_st.training.loop.predictions import Preprocess
from ray_st.training.loop.row_weights import RowShares
from ray_st.training.loop.train_step import LossMethods, TrainStep, dataset_of
from ray_st.training.strategies.encoder_setup import add_noise, compile_encoder
from ray_st.training.strategies.make_strategy import make_strategy
from ray_st.training.strategies.parameter_groups import with_learning_rates
from ray_st.training.strategies.precision import StoredTypes, mixed_precision
from ray_st.training.strategies.sharding.optimizer_files import SETTINGS, read_optimizer
from ray_st.training.strategies.sharding.weight_parts import WeightParts, parts_in
from ray_st.training.strategies.step_module import LossOrLosses, Step, describe_weights
from ray_st.training.strategies.strategy import Parts, Strategy, plain_optimizer
from ray_st.training.worker_context import WorkerContext
from ray_st.training_args import SentenceTransformerTrainingArguments
from ray_st.util.events import notes
from ray_st.util.filesystems import upload_of
from ray_st.util.host_facts import is_host_key, without_host_facts
from ray_st.util.tensors import to_device
from ray_st.world import World

if TYPE_CHECKING:
    import optuna

Collator = Callable[[list[dict[str, Any]]], Inputs]
SearchTrial: TypeAlias = "optuna.Trial | dict[str, Any] | None"
"""A search's trial, as transformers annotates it; our searches pass none to the loop."""


class HfLoop(Trainer):
    """Trains and evaluates in a worker, without Ray.

    The worker is described by a :class:`~ray_st.training.worker_context.WorkerContext`.

    Attributes:
        family: What kind of model it trains.
        context: The worker's context; None on the driver.
        loss: The loss, or one for each dataset.
        evaluator: Called at each evaluation, or None.
        user_collator: The user's collator, which replaces the default one, or None.
        strategy: How model and losses are wrapped.
        train_step: Computes the steps of the current training run; None before the first.
        evaluation: Evaluates on all ranks.
        checkpointer: Writes checkpoints.
        async_eval: Requests evaluations from another process; None if the workers evaluate.
        loop_callbacks: Internal callbacks, called in this order.
        default_callbacks: Callbacks that the library or transformers adds itself.
        on_evaluated: Receives the metrics of each evaluation in a search trial, or None.
        received_callbacks: The user's callbacks, as received from the driver.
        received_attributes: Names of the subclass attributes received from the driver.
    """

    family: ClassVar[Family]
    args: SentenceTransformerTrainingArguments
    model: Any
    callback_handler: ConsensusHandler
    context: WorkerContext | None = None
    loss: LossOrLosses
    evaluator: Evaluator | None
    user_collator: Collator | None
    train_step: TrainStep | None = None
    async_eval: AsyncEvaluation | None = None
    on_evaluated: EvaluationReport | None = None
    loop_callbacks: Sequence[LoopCallback] = ()
    tracked_run: TrackedRun | None = None
    received_callbacks: tuple[TrainerCallback, ...] = ()
    received_attributes: tuple[str, ...] = ()
    _upload: CheckpointUpload | None = None
    _types: StoredTypes | None = None
    _is_mixed = False
    _resumed_from: str | None = None
    _unreported: dict[str, float] | None = None
    _noise: RemovableHandle | None = None
    _shares: RowShares | None = None
    checkpointer: Checkpointer
    lr_scheduler: Any
    model_init: Any  # transformers annotates it as never None
    preprocess_logits_for_metrics: Preprocess | None
    default_callbacks: Sequence[TrainerCallback] = ()
    _loss_counter: LossCounter
    _evaluation: tuple[tuple[object, ...], EvaluationLoop] | None = None

    def __init__(
        self,
        *,
        args: SentenceTransformerTrainingArguments,
        callbacks: Sequence[TrainerCallback | type[TrainerCallback]] = (),
        **options: Any,
    ) -> None:
        world = World() if self.context is None else self.context.world
        self.strategy = make_strategy(args, world)  # before transformers moves the model to the device
        seen = seen_by_transformers(args)
        every: list[Any] = [*make_trackers(args.report_to), *callbacks]  # classes of callbacks, too
        super().__init__(args=seen, callbacks=every, **options)
        # Copy back what transformers filled in, except for the settings that were hidden from it.
        vars(args).update(vars(seen) | {"report_to": args.report_to, "fsdp": args.fsdp})
        self.args = args
        self.callback_handler = ConsensusHandler(self.callback_handler, self)
        self.strategy = make_strategy(args, world, self.is_deepspeed_enabled)
        given = len(callbacks)
        known = self.callback_handler.callbacks  # the progress bar or printer comes last
        self.default_callbacks = [*known[: -1 - given], known[-1]]

    @property
    def worker(self) -> WorkerContext:
        """The worker's context."""
        assert self.context is not None, "the loop runs in a worker"
        return self.context

    def own_callbacks(self) -> list[TrainerCallback]:
        """The callbacks that the user passed or added."""
        defaults = set(map(id, self.default_callbacks))
        return [callback for callback in self.callback_handler.callbacks if id(callback) not in defaults]

    # ---- batches ----

    def get_train_dataloader(self) -> DataLoader[Inputs]:
        """This rank's share of every global batch of the training data."""
        if self.worker.train is None:
            raise ValueError("Training needs a train_dataset; none was given.")
        return self.loader(self.worker.train)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Inputs]:
        """This rank's share of every global batch of an evaluation dataset.

        Args:
            eval_dataset: Its name, if there are several.
        """
        evals = self.worker.evals
        name = eval_dataset if isinstance(eval_dataset, str) else ""
        if name not in evals:
            raise ValueError(f"There is no evaluation dataset {name!r}; there are {sorted(evals)}.")
        return self.loader(evals[name])

    def get_test_dataloader(self, test_dataset: Any = None) -> DataLoader[Inputs]:
        """This rank's share of every global batch of the data to predict.

        Args:
            test_dataset: As in :meth:`get_eval_dataloader`.
        """
        return self.get_eval_dataloader(test_dataset)

    def loader(self, source: BatchSource, context: WorkerContext | None = None) -> DataLoader[Inputs]:
        """A loader over a worker's share of a source's batches.

        Args:
            source: The source of the batches.
            context: The worker's context; this worker's by default.
        """
        context = context or self.worker
        encoder: Any = self.family.encoder(self.model)
        tokenize, pairs = self.family.tokenize(self.model), None
        if self.family.takes_pairs:
            pairs = PairFeatures(encoder, tokenize, self.loss, self.args.seed)
        collate = Collate(
            tokenize=tokenize,
            pad=None if encoder is None or pairs is not None else encoder.pad,
            prompt_lengths=context.prompt_lengths,
            collator=self.user_collator,
            text_ids=self.args.collisions == "mask",
            routes_of=functools.partial(routes_of, self.model, self.args.router_mapping),
            pairs=pairs,
        )
        pin = self.args.dataloader_pin_memory and self.args.device.type == "cuda"
        return step_loader(source, context.world, collate, pin)

    def collect_features(self, inputs: Mapping[str, Any]) -> tuple[list[dict[str, Any]], Tensor | None]:
        """Converts the inputs of a step to the arguments of a loss.

        Args:
            inputs: ``COLUMN_input_ids``, ``COLUMN_attention_mask``, …, and ``label``.

        Returns:
            One feature dictionary for each text column, and the labels or None.
        """
        return collect(inputs)

    # ---- a step ----

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Computes the loss of a step on this rank's rows.

        Args:
            model: The model. The loss holds it already, so it is not used here.
            inputs: The inputs of the step; ``dataset_name`` selects the loss if each dataset has its own.
            return_outputs: Whether to return ``(loss, {})``.
            num_items_in_batch: Unused; part of transformers' interface.
        """
        features, labels = self.collect_features(inputs)
        loss = self.loss[dataset_of(inputs)] if isinstance(self.loss, Mapping) else self.loss
        arguments: tuple[Any, Any] = (features, labels)
        if not isinstance(loss, Loss):
            if TEXTS in features[0]:
                arguments = text_arguments(features[0], labels)
            else:  # it may expect tensors on the device, whatever their names
                arguments = (list(map(without_host_facts, features)), labels)
        value = loss(*arguments)
        if isinstance(value, Mapping):
            if self.train_step is not None:
                self.train_step.count_parts(value)
            value = torch.stack(list(value.values())).sum()
        return (value, {}) if return_outputs else value

    def get_batch_samples(
        self, epoch_iterator: Iterator[Inputs], num_batches: int, device: torch.device
    ) -> tuple[list[Inputs], Tensor | int | None]:
        """Fetches the batches of one step and counts their rows.

        Args:
            epoch_iterator: This rank's shares of the epoch's batches.
            num_batches: How many to take.
            device: Part of transformers' interface.
        """
        taken = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._step.begin(taken[0])
        return taken

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward of one batch; see :class:`ray_st.training.loop.train_step.TrainStep`.

        Returns:
            The weighted loss, a scalar without gradient.
        """
        model.train()
        self._turn_optimizer("train")
        share = self._step.take(inputs)
        inputs = self._prepare_inputs(inputs)
        loss = self._step.forward(model, inputs, share, self._step_number, num_items_in_batch)
        every = self.args.torch_empty_cache_steps
        if every and self.state.global_step % every == 0:
            clear_device_cache()
        loss = loss * share.weight / self.current_gradient_accumulation_steps
        with self._step.backward_errors():
            self.accelerator.backward(loss, **self.strategy.backward_options(self._get_learning_rate))
        if self.accelerator.sync_gradients:
            self._step.check_gradients(model, self._step_number)
        return loss.detach()

    @property
    def _step(self) -> TrainStep:
        assert self.train_step is not None, "training has begun"
        return self.train_step

    @property
    def _step_number(self) -> int:
        return int(self.state.global_step) + 1

    @property
    def _made_optimizer(self) -> torch.optim.Optimizer:
        assert self.optimizer is not None, "training has begun"
        return self.optimizer

    def _turn_optimizer(self, mode: str) -> None:
        """Switches schedule-free optimizers, which keep separate weights for training and evaluation."""
        turn = getattr(self.optimizer, mode, None)
        if callable(turn):
            turn()

    def _get_grad_norm(
        self, model: nn.Module, grad_norm: Tensor | float | None = None
    ) -> Tensor | float | None:
        norm = self.strategy.grad_norm(super()._get_grad_norm(model, grad_norm))
        skips = functools.partial(self.strategy.skips_overflow, self.accelerator)
        return self._step.check_before_optimizer(norm, self._step_number, skips)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Moves the inputs of a step to the device, except for what stays on the host."""
        kept = {name: value for name, value in inputs.items() if is_host_key(name)}
        moved = {name: value for name, value in inputs.items() if name not in kept}
        return {**super()._prepare_inputs(moved), **kept}

    def _prepare_input(self, data: Any) -> Any:
        if isinstance(data, Tensor) and not self.is_deepspeed_enabled:  # which changes types, too
            return to_device(data, self.args.device)
        return super()._prepare_input(data)

    def _track_num_input_tokens(self, inputs: Mapping[str, Any]) -> None:
        """Counts the tokens of all ranks' text columns."""
        counted = self.args.include_num_input_tokens_seen
        if counted == "no":
            return
        mine = 0 if self._step.shares.idle else tokens_of(inputs, padded=counted == "all")
        (total,) = collectives.sum_of_numbers([mine])
        self.state.num_input_tokens_seen += int(total)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs metrics and, for a loss with several parts, the mean of each part since the last log."""
        if "loss" in logs and self.train_step is not None:
            logs.update(self.train_step.parts.means())
        super().log(logs, start_time)

    # ---- start of training ----

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: SearchTrial = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Runs the training loop; see the trainer's method of the same name.

        Raises:
            ValueError: If asked to resume from a checkpoint with DeepSpeed.
        """
        if resume_from_checkpoint is not None and self.is_deepspeed_enabled:
            raise ValueError(
                f"A run with deepspeed cannot go on from {resume_from_checkpoint}, which holds no state of "
                "its optimizer. Start anew with the checkpoint as the model."
            )
        # Noise is added here: transformers would look for input embeddings on the model itself.
        self.neftune_noise_alpha = None
        self._noise = None
        # Losses that are not finite end the run: transformers need not wait for each to find them.
        filters, self.args.logging_nan_inf_filter = self.args.logging_nan_inf_filter, False
        self.take_training_types()
        try:
            note_surroundings(self.family.card(self.model), self.worker)
            with self._closing_loop_callbacks(), self._mixed_precision():
                result = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        finally:
            self.is_in_train, self.args.logging_nan_inf_filter = False, filters
            self._remove_noise()
        self._note_records()
        return result

    @contextmanager
    def _closing_loop_callbacks(self) -> Iterator[None]:
        self.loop_callbacks = list[LoopCallback]()
        failed = True
        try:
            yield
            failed = False
        finally:
            for callback in self.loop_callbacks:
                callback.on_close(self.state, failed)

    @contextmanager
    def _mixed_precision(self) -> Iterator[None]:
        """Evaluations compute in the precision of training, within one and outside."""
        if self._is_mixed:
            yield
            return
        self._is_mixed = True
        try:
            with mixed_precision(self.model, self.accelerator, moves=not self.strategy.shards):
                yield
        finally:
            self._is_mixed = False

    def _remove_noise(self) -> None:
        if self._noise is not None:
            self._noise.remove()

    def _wrap_model(
        self, model: nn.Module, training: bool = True, dataloader: DataLoader[Inputs] | None = None
    ) -> nn.Module:
        """Wraps model and losses as one module."""
        if not training:
            return self.model
        world = self.worker.world
        embed_in_parts(self.loss, self.worker.texts_at_once, world.is_first)
        self.train_step = TrainStep(
            self.model, self.loss, self.args, world, self._bound_shares(), self.strategy, self._loss_methods()
        )
        self._loss_counter = LossCounter(self, self.train_step.parts, manifest_in(self._resumed_from))
        compile_encoder(self.model, self.args)
        self._noise = add_noise(self.model, self.args.neftune_noise_alpha)
        skips = skips_rows(self.model, self.args.router_mapping, self.worker.train)
        parts = Parts(self.model, self.loss, self._made_optimizer, self.lr_scheduler, skips)
        wrapped = self.strategy.wrap(parts, self.accelerator)
        self.optimizer, self.lr_scheduler = wrapped.optimizer, wrapped.lr_scheduler
        return wrapped.module

    def _bound_shares(self) -> RowShares:
        if self._shares is None or self._shares.loss is not self.loss:
            self._shares = RowShares(self.loss, self.args.device, self.strategy.lockstep)
        self._shares.bind()
        return self._shares

    def _loss_methods(self) -> LossMethods:
        return LossMethods(
            prepare=self._prepare_inputs,
            autocast=self.compute_loss_context_manager,
            compute_loss=self.compute_loss,
            collect_features=self.collect_features,
        )

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Sets up the optimizer over the model's and the losses' parameters; biases and norms don't decay.

        Raises:
            ValueError: If ``learning_rate_mapping`` and the optimizer would both group the parameters.
        """
        step: Any = Step(self.model, self.loss) if model is None else model
        given = self.optimizer_cls_and_kwargs
        if self.optimizer is None and self.args.learning_rate_mapping:
            kind = given or self.get_optimizer_cls_and_kwargs(self.args, step)
            decaying = self.get_decay_parameter_names(step)
            self.optimizer_cls_and_kwargs = with_learning_rates(step, self.loss, self.args, kind, decaying)
        optimizer = super().create_optimizer(step)
        self.optimizer_cls_and_kwargs = given
        return optimizer

    def _init_training_state(
        self,
        max_steps: int,
        num_update_steps_per_epoch: int,
        num_train_epochs: int,
        resume_from_checkpoint: str | None,
        trial: SearchTrial,
    ) -> tuple[int, int]:
        """Initializes the state of a new or resumed training run, and everything that depends on it."""
        checkpoint = self._resumed_from = resume_from_checkpoint
        positions = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, checkpoint, trial
        )
        context = self.worker
        self.checkpointer = Checkpointer(context.store, context.world, all_write=self.strategy.shards)
        self.async_eval = self._make_async_eval(checkpoint)
        self.loop_callbacks = self._make_loop_callbacks()
        # transformers forgets a best checkpoint that is not a folder on this machine.
        self.checkpointer.name_best(self.state)
        for callback in self.loop_callbacks:
            callback.on_open(self.state)
        return positions

    def _make_async_eval(self, checkpoint: str | None) -> AsyncEvaluation | None:
        context = self.worker
        if context.eval_queue is None:
            check_without_queue(self.args, checkpoint, context.world.is_first)
            return None
        made = AsyncEvaluation(
            context.eval_queue,
            context.store,
            context.world,
            enter=self._enter_late,
            control=lambda: self.control,
            writing=lambda: self.checkpointer.writing,
            write_weights=self._write,
            saving=lambda: self.strategy.saving(HostCopies(), alone=True),
        )
        made.resume(checkpoint, self.state.global_step)
        return made

    def _make_loop_callbacks(self) -> Sequence[LoopCallback]:
        context, made = self.worker, list[LoopCallback]([self.checkpointer])
        if self.async_eval is None:
            made.append(EvaluatorFiles(context.store, context.world))
        else:
            made.append(self.async_eval)  # before trackers, which look at what is left to evaluate here
        if context.sample_log is not None:
            made.append(SampleLogWriter(context.sample_log, lambda: self._step.used))
        self.tracked_run = TrackedRun(self.args, context, self._trackers)
        self._upload = CheckpointUpload(
            self.args,
            context,
            repository=lambda: self.hub_model_id,
            on_push=lambda: self.callback_handler.on_push_begin(self.args, self.state, self.control),
        )
        return [*made, self.tracked_run, self._upload]

    def _trackers(self) -> list[Tracker]:
        return [one for one in self.callback_handler.callbacks if isinstance(one, Tracker)]

    # ---- during training ----

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Runs an epoch, or the rest of it when resuming; skips one whose last step is already done."""
        self._count_on()
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _count_on(self) -> None:
        self._loss_counter.resume(self.worker.world, self.args.device)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Runs everything due at the end of a step or an epoch, in this order."""
        self._unreported = None
        for callback in self.loop_callbacks:
            callback.on_step_done(self.state)
        self._step.used.clear()
        if self.checkpointer.is_written(self.state.global_step):
            self._settle_checkpoint()
        for callback in self.loop_callbacks:
            callback.before_outputs(self.state, self.control)
        saves = self.control.should_save
        agree_after_log(self, functools.partial(super()._maybe_log_save_evaluate, *args, **kwargs))
        for callback in self.loop_callbacks:
            callback.after_outputs(saves)
        self._report_late()

    def _report_late(self) -> None:
        if self._unreported is not None and self.on_evaluated is not None:
            self.on_evaluated(self, self._unreported)

    def _enter_late(self, result: EvalResult) -> None:
        """Records the result of an asynchronous evaluation under the step it was requested at."""
        with as_of(result, self.state, lambda: self.control):
            metrics: dict[str, Any] = {}
            for entry in result.entries:
                self.log(dict(entry))
                metrics.update(entry)
                self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, entry)
            self._determine_best_metric(metrics, None)
        self.state.log_history.sort(key=itemgetter("step"))
        self.checkpointer.name_best(self.state)
        card = self.family.card(self.model)
        if card is not None and result.scores is not None:
            card.scores = result.scores

    def _report_to_hp_search(self, trial: SearchTrial, step: int, metrics: dict[str, float]) -> None:
        """Reports an evaluation to the search; transformers calls this once for all datasets."""
        if self.on_evaluated is None:
            return
        if self.on_evaluated.late:
            self._unreported = metrics
        else:
            self.on_evaluated(self, metrics)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Counts losses over the whole run; waits for the last checkpoint and outstanding evaluations.

        Their results must arrive before the best model is selected.
        """
        self._count_on()
        self._loss_counter.end()
        step, steps = self.state.global_step, self.state.max_steps
        if (
            self._resumed_from is not None
            and step == self._initial_global_step
            and self.worker.world.is_first
        ):
            notes.info(f"nothing to do: {self._resumed_from} is of step {step} of {steps}")
        self._settle_checkpoint()
        if self.async_eval is not None:
            self.async_eval.wait_for_all()
            self.checkpointer.rotate(self._rotation())
        self.strategy.end(self._made_optimizer)
        return super()._finalize_training(*args, **kwargs)

    # ---- evaluation ----

    def evaluation_loop(
        self,
        dataloader: DataLoader[Inputs],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Computes the loss over a dataset, the ``compute_metrics`` metrics, then the evaluator's.

        The work is distributed over all ranks.
        """
        with self.strategy.evaluating(), self._mixed_precision():
            self._turn_optimizer("eval")
            place_for_evaluation(self.model, self.loss, self.args, self._moment)
            return self.evaluation.over_dataset(
                self.model,
                dataloader,
                self._bound_shares(),
                metric_key_prefix,
                self._moment,
                loss_only=self.args.prediction_loss_only
                if prediction_loss_only is None
                else prediction_loss_only,
                wants_predictions=description == "Prediction",
                on_batch=self._after_evaluation_batch,
            )

    def _after_evaluation_batch(self) -> None:
        self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)

    @property
    def evaluation(self) -> EvaluationLoop:
        """The evaluation over all ranks; rebuilt if anything it depends on was replaced."""
        made, depends = self._evaluation, (self.context, self.evaluator, self.compute_metrics)
        if made is None or any(old is not new for old, new in zip(made[0], depends, strict=True)):
            loop = EvaluationLoop(
                self.args,
                self.worker.world,
                list(self.worker.evals),
                self._loss_methods(),
                self.evaluator,
                self.compute_metrics,
                self.family.output,
                self.preprocess_logits_for_metrics,
                self.evaluator_output_path,
                lambda: self.strategy.is_sharded,
            )
            made = self._evaluation = depends, loop
        return made[1]

    @property
    def _moment(self) -> Moment:
        return Moment(self.state.global_step, self.state.epoch, self.is_in_train)

    def evaluator_output_path(self) -> str:
        """The folder that the evaluator writes to, on the first rank."""
        return evaluator_folder(str(self.args.output_dir))

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluates the loss on the evaluation datasets and runs the evaluator; every rank must call it.

        Args:
            eval_dataset: Name of one of several datasets; None for all.
            ignore_keys: Part of transformers' interface.
            metric_key_prefix: Prefix of the metrics' names.

        Returns:
            Metrics by name: ``eval_loss`` (``eval_NAME_loss`` for named datasets), the evaluator's metrics,
                and throughput.
        """
        if self.worker.evals and eval_dataset is not None:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if self.worker.evals:
            with self.evaluation.one_evaluator_run():
                return super().evaluate(None, ignore_keys, metric_key_prefix)
        started = time.time()
        self._turn_optimizer("eval")
        place_for_evaluation(self.model, self.loss, self.args, self._moment)
        with self.strategy.evaluating(), self._mixed_precision():
            metrics = self.evaluation.evaluator_metrics(self.model, metric_key_prefix, self._moment)
        metrics[f"{metric_key_prefix}_runtime"] = time.time() - started
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _evaluate(
        self, trial: SearchTrial, ignore_keys_for_eval: list[str] | None, skip_scheduler: bool = False
    ) -> dict[str, float]:
        """Evaluates during training; an asynchronous evaluation before the first step is requested, too."""
        if self.async_eval is None:
            return super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
        self.async_eval.expect(self.state.global_step, self.state.epoch)
        self.async_eval.request(self.state.global_step)
        return {}

    # ---- checkpoints ----

    def _save_checkpoint(self, model: nn.Module, trial: SearchTrial) -> None:
        """Takes a snapshot of this step, which a thread writes while training goes on."""
        self._settle_checkpoint()
        self.store_flos()
        states, losses = collectives.gather_objects(random_states()), self._loss_counter.gathered()
        best_before = self.state.best_model_checkpoint
        self.checkpointer.name_best(self.state, self.state.global_step)
        write = self._copied(states) if self.strategy.shards or self.worker.world.is_first else no_files
        facts = {**self._position(), LOSS_SO_FAR: losses}
        snapshot = Snapshot(self.state.global_step, write, facts, newest_metrics(self.state))
        self.checkpointer.begin(snapshot, self._rotation(), best_before)
        if any(collectives.sum_of_numbers([int(self.control.should_training_stop)])):
            self._settle_checkpoint()

    def _settle_checkpoint(self) -> None:
        """Waits until the checkpoint that was begun last is written, and announces it."""
        settled = self.checkpointer.settle(self.state)
        if settled is None:
            return
        if settled.checkpoint is not None:
            self.worker.report(dict(settled.metrics), settled.checkpoint)
        own = (one for one in self.callback_handler.callbacks if isinstance(one, LoopCallback))
        for callback in (*self.loop_callbacks, *own):
            callback.on_checkpoint(self.state, settled)

    def _copied(self, random: Sequence[RandomStates]) -> Write:
        """Copies all that this rank writes into a checkpoint; returns what writes it."""
        self._note_records()
        export_callbacks(self.state, [*self.callback_handler.callbacks, self.control])
        copies, saver, card = self.checkpointer.copies, copy.copy(self), self.family.card(self.model)
        with self.strategy.saving(copies) as done:
            saver.model, saver.loss = copies.of((self.model, self.loss), [*done, *self._untrained()], [card])
        # Saves what was copied, in its training types, and takes part in nothing that concerns all ranks.
        saver.model_wrapped, saver.state, saver.tracked_run = saver.model, shown_state(self.state), None
        saver.strategy, saver._types = Strategy(self.args, World()), None
        saver.is_deepspeed_enabled = False
        states, write_optimizer = dict[str, Any](), None
        if not self.args.save_only_model:
            states = copies.of(self._states() | random_state_files(random))
            write_optimizer = self.strategy.copy_optimizer(self._made_optimizer, copies.of)
        is_first, has_parts = self.worker.world.is_first, self.strategy.shards

        def write(folder: Path) -> WeightParts:
            if is_first:
                saver.save_model(str(folder), _internal_call=True)
                save_states(folder, states)
                save_state(saver.state, folder)
            else:
                saver.family.save(saver.model, str(folder))
            parts = parts_in(folder, alone=not is_first) if has_parts else {}
            if write_optimizer is not None:
                write_optimizer(folder)
            return parts

        return write

    def _states(self) -> dict[str, dict[str, Any]]:
        """The states of schedule and scaler, by the name of their file."""
        parts = {SCHEDULER_NAME: self.lr_scheduler, SCALER_NAME: self.accelerator.scaler}
        return {name: part.state_dict() for name, part in parts.items() if part is not None}

    def _untrained(self) -> list[Tensor]:
        """Weights that nothing changes; sharded ones are freed after each use, and so do not count."""
        if self.strategy.shards:
            return []
        trained = {id(weight) for group in self._made_optimizer.param_groups for weight in group["params"]}
        every = Step(self.model, self.loss).parameters()
        return [weight for weight in every if not weight.requires_grad and id(weight) not in trained]

    def save_last(self) -> None:
        """Writes a final checkpoint, unless one exists for this step or the best model was loaded."""
        if self.checkpointer.newest < 0 or not self.args.load_best_model_at_end:
            self.save_now()
            self.checkpointer.on_close(self.state, failed=False)

    def save_now(self) -> None:
        """Writes a checkpoint of this step, unless one exists, and waits until it is complete."""
        if self.state.global_step not in (self.checkpointer.newest, self.checkpointer.writing):
            self._save_checkpoint(self.model_wrapped, None)
        self._settle_checkpoint()

    def _position(self) -> dict[str, Any]:
        """The run's position in the data, a description of the model, and outstanding evaluations."""
        facts = {"model": describe_weights(self.model), "data": dict(self.worker.facts)}
        awaited = {} if self.async_eval is None else self.async_eval.promised()
        return {"epoch": self.state.epoch, **facts, AWAITED: awaited}

    def _rotation(self) -> Rotation:
        in_use = set() if self._upload is None else self._upload.pushing()
        if self.async_eval is not None:
            in_use |= self.async_eval.awaited.keys()
        return Rotation(self.args.save_total_limit, best_step(self.state), frozenset(in_use))

    def save_state(self) -> None:
        """Writes the trainer's state without callbacks' secrets to ``args.output_dir``, on the first rank."""
        if self.is_world_process_zero():
            save_state(self.state, Path(str(self.args.output_dir)))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model with its card, and the weights that losses own, on the first rank.

        Every rank must call it.

        Args:
            output_dir: The folder; ``args.output_dir`` by default.
            _internal_call: Part of transformers' interface.
        """
        self._note_records()
        upload = upload_of(output_dir or str(self.args.output_dir)) if self.context is None else None
        if upload is not None:
            notes.warning(
                f"warning: the model is saved in {upload}, the folder that Ray made of the job's "
                "working_dir, and Ray deletes it some time after the job"
            )
        with self.strategy.saving(HostCopies(), alone=True):
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Saves the model folder, the weights that losses own, and the arguments as JSON, on the first rank.

        Weights are saved in their stored types; checkpoints, whose weights were copied, keep the types used
        in training.
        """
        if not self.is_world_process_zero():
            return
        with nullcontext() if self._types is None else self._types.for_a_while():
            self._write(output_dir or str(self.args.output_dir))

    def _write(self, output_dir: str) -> None:
        """Writes what :meth:`_save` saves, in the types that weights have now."""
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.family.save(self.model, output_dir)
        save_loss_and_arguments(folder, self.model, self.loss, self.args)

    def take_training_types(self) -> None:
        """Converts trained weights to the types that they have in training."""
        self.restore_types()
        self._types = self.strategy.widen(self.model, self.loss)

    def restore_types(self) -> None:
        """Restores the types weights had before training; :meth:`train` keeps the training types."""
        if self._types is not None:
            self._types.restore()

    @property
    def stored_types(self) -> dict[int, torch.dtype]:
        """The types that weights are saved in, by ``id``, where they are trained in another one."""
        return {} if self._types is None else self._types.by_identity

    def _note_records(self) -> None:
        emissions = None if self.tracked_run is None else self.tracked_run.emissions
        note_records(self.family.card(self.model), self.state, self.args, emissions)

    # ---- restoring from checkpoints ----

    def load_checkpoint(self, folder: str) -> None:
        """Loads the model's and the losses' weights from a checkpoint, in place."""
        self.family.load_weights(self.model, folder)
        load_loss_weights(folder, self.model, self.loss)

    def take_weights(self, folder: str) -> None:
        """Loads a model folder's weights, and those of losses if present, for a new run to start from.

        Args:
            folder: A checkpoint in this format, from any program, or another model folder.
        """
        self.family.load_weights(self.model, folder)
        load_loss_weights_if_any(folder, self.model, self.loss, self.worker.world.is_first)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.load_checkpoint(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        """Loads the weights of the best checkpoint from the run's checkpoint storage."""
        context = self.worker
        self.load_checkpoint(str(fetch_on_node(context.store, best_name(self.state), context.world)))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        load_random_states(checkpoint, self.worker.world.rank)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Loads the states of both; a trial that reports late keeps its current hyperparameters.

        They may have changed since the checkpoint.
        """
        settings = settings_of(self._made_optimizer)
        if checkpoint is not None and Path(checkpoint, SETTINGS).exists():
            weights = dict(Step(self.model, self.loss).named_parameters())
            read_optimizer(Path(checkpoint), plain_optimizer(self._made_optimizer), weights)
            self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint, SCHEDULER_NAME), weights_only=True))
        else:
            super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.on_evaluated is not None and self.on_evaluated.late:
            retune(self._made_optimizer, self.lr_scheduler, settings)

    def _load_callback_state(self) -> None:
        """Restores the states that callbacks exported.

        Always after a restart; when a user resumes, only if ``restore_callback_states_from_checkpoint`` is
        set.
        """
        restarted = manifest_in(self._resumed_from).get("run_id") == self.worker.store.run_id
        if self.args.restore_callback_states_from_checkpoint or restarted:
            restore_callbacks(self.state, [*self.callback_handler.callbacks, self.control])

    def _finish_current_push(self) -> None:
        if self._upload is not None:
            self._upload.finish()
