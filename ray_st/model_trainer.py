"""The trainer on the driver: checks a run, describes it as one value, and runs it on workers.

Holds the public methods that do not depend on the kind of model; :mod:`ray_st.trainer` adds those that do.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from transformers import IntervalStrategy, TrainerCallback, enable_full_determinism, set_seed
from transformers.integrations.deepspeed import propagate_args_to_deepspeed
from transformers.trainer_utils import BestRun, HPSearchBackend, PredictionOutput, TrainOutput
from transformers.utils.hub import hf_api

from ray_st.data.column_spec import check_splits
from ray_st.evaluation.metric_names import MetricNames, check_best_metric, names_in_training
from ray_st.models.adapter.adaptable import AdaptableStack
from ray_st.models.attention import of_packages
from ray_st.models.card.render import render_card
from ray_st.training.argument_checks import (
    check_arguments,
    check_backend_trains,
    check_elastic,
    check_in_place,
    check_losses,
    check_outputs_last,
    check_quantized,
    check_trials,
    check_without_workers,
    make_folder,
    note_kept_activations,
)
from ray_st.training.callbacks.hub_upload import NOT_OF_THE_RUN
from ray_st.training.callbacks.run_description import default_arguments, describe_run
from ray_st.training.callbacks.run_header import subject
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.data.dataset_specs import named, prompt_lengths
from ray_st.training.data.local_source import local_context
from ray_st.training.data.router_routes import check_router_mapping
from ray_st.training.data.run_data import MakeSampler, RunData
from ray_st.training.data.sampler_factory import (
    SamplerMethods,
    batch_sampler,
    multi_dataset_batch_sampler,
)
from ray_st.training.data.specs import TRAIN, LoaderSpec, RunResult, eval_key
from ray_st.training.data.step_loader import Inputs
from ray_st.training.loop.evaluation_loop import ComputeMetrics, GivenEvaluator, as_one_evaluator
from ray_st.training.loop.hf_loop import Collator, HfLoop, SearchTrial
from ray_st.training.loop.predictions import Preprocess
from ray_st.training.loss_factory import GivenLoss, check_optimizer, make_losses
from ray_st.training.retired_methods import warn_of_retired_methods
from ray_st.training.strategies import parameter_groups
from ray_st.training.strategies.batch_size_finder import with_fitting_batches
from ray_st.training.strategies.precision import note_on_types
from ray_st.training.strategies.step_module import describe_weights, losses_of
from ray_st.training.trained_weights import WeightsToCome
from ray_st.training.trainer_spec import (
    TrainerSpec,
    describe,
    evaluate_task,
    predict_task,
    show_progress,
    take_over,
    train_task,
)
from ray_st.training.worker_context import WorkerContext
from ray_st.training_args import SentenceTransformerTrainingArguments
from ray_st.util.events import notes
from ray_st.util.filesystems import check_kept
from ray_st.util.lazy import use
from ray_st.util.names import either
from ray_st.world import WorkerRange

if TYPE_CHECKING:
    from ray_st.runtime.train.ray_configs import RunConfig, ScalingConfig
    from ray_st.study.objective import Compute
    from ray_st.study.space import GivenSpace

_NO_DATASET = "none"
Words = str | Sequence[str]
MakeSpecs = Callable[[int], dict[str, LoaderSpec]]
AnyTrainer = TypeVar("AnyTrainer", bound="ModelTrainer")


class ModelTrainer(HfLoop):
    """Trains and evaluates models on a Ray cluster.

    Each kind of model has a subclass, which names its family.

    Create it on the driver: ``train()`` and ``evaluate()`` run on Ray Train workers. Afterwards ``model``
    holds the trained weights and ``state`` the history, as if training had run locally. On each worker an
    instance of the same class runs the training loop.

    :class:`ray_st.SentenceTransformerTrainer` documents the arguments.

    Attributes:
        card_defaults: Default training arguments; the model card lists those that differ. None if runs are
            not recorded in the card.
        batch_orders: Sampler factories that replace the documented methods, by the name of the training
            dataset.

    Raises:
        ValueError: If the model, the data and the loss are incompatible.
    """

    scaling_config: ScalingConfig | None
    run_config: RunConfig | None
    card_defaults: Mapping[str, Any] | None = None
    batch_orders: Mapping[str, MakeSampler] = MappingProxyType({})
    _in_place: bool = False
    _library_attributes: frozenset[str] = frozenset()

    def __init_subclass__(cls, **options: Any) -> None:
        """Warns if a subclass defines methods of earlier releases that are no longer called."""
        super().__init_subclass__(**options)
        warn_of_retired_methods(cls)

    def __init__(
        self,
        model: nn.Module | None = None,
        args: SentenceTransformerTrainingArguments | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        loss: GivenLoss | None = None,
        evaluator: GivenEvaluator | None = None,
        data_collator: Collator | None = None,
        tokenizer: Any = None,
        model_init: Callable[..., nn.Module] | None = None,
        compute_metrics: ComputeMetrics | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Optimizer | None, LRScheduler | None] = (None, None),
        preprocess_logits_for_metrics: Preprocess | None = None,
        scaling_config: ScalingConfig | None = None,
        run_config: RunConfig | None = None,
        optimizer_cls_and_kwargs: tuple[type[Optimizer], dict[str, Any]] | None = None,
        processing_class: Any = None,
    ) -> None:
        set_before = set(vars(self))
        self._applied: Any = None
        self._weights_to_come: WeightsToCome | None = None
        # Whose local copies last as long as it does.
        self._weights_in: CheckpointStore | None = None
        if args is None:
            args = SentenceTransformerTrainingArguments(output_dir="tmp_trainer")
        if not isinstance(args, SentenceTransformerTrainingArguments):
            raise ValueError(f"args must be SentenceTransformerTrainingArguments; got {type(args).__name__}.")
        if model is None and model_init is None:
            raise ValueError("A trainer needs a model, or a model_init that makes one.")
        check_arguments(args)
        args, scaling_config = self._adopt_process(args, scaling_config, run_config)
        self._tokenizer = tokenizer = either("tokenizer", tokenizer, "processing_class", processing_class)
        self.evaluator = as_one_evaluator(evaluator)
        # transformers rejects a missing metric too, but does not name the available ones.
        names = names_in_training(list(named(eval_dataset)), self.evaluator, model, True)
        check_best_metric(args, (), None, names)
        make_folder(str(args.output_dir))
        self.loss_init = loss
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            # transformers validates datasets that it reads itself; ours are validated and read by the run.
            eval_dataset=_NO_DATASET,
            model_init=model_init,
            compute_metrics=compute_metrics,
            callbacks=callbacks or (),
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        if tokenizer is not None:
            self.model.tokenizer = tokenizer
        check_splits(named(train_dataset))
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.user_collator = data_collator
        self.scaling_config, self.run_config = scaling_config, run_config
        if model_init is None:
            self.loss = make_losses(loss, self.model, self.family.default_loss)
        self._check_parts()
        if self._in_place:
            show_progress(self)
        if self.context is None:
            self.add_model_card_callback(default_arguments(args))
        self._library_attributes = frozenset(vars(self)) - set_before
        if self.context is None:
            self.check_run()

    def _check_parts(self) -> None:
        """Raises if the loss, adapters, Router or optimizer do not fit the model."""
        check_losses(self.args, self.loss)
        check_elastic(self.args, self.loss, self.scaling_config)
        if isinstance(self.model, AdaptableStack):
            self.model.check_adapters()
        check_backend_trains(self.model)
        check_quantized(self.args, self.model)
        has_data = self.train_dataset is not None or self.eval_dataset is not None
        if self.context is None and has_data:
            check_router_mapping(self.model, self.args.router_mapping)
        check_optimizer(self.optimizer, self.model, self.loss, self.args.learning_rate_mapping)

    @classmethod
    def rebuilt(
        cls: type[AnyTrainer],
        context: WorkerContext,
        options: Mapping[str, Any],
        attributes: Mapping[str, Any],
    ) -> AnyTrainer:
        """Creates a trainer of this class in a worker.

        A subclass's own constructor is not called, as its arguments are unknown; the attributes that it set
        are restored instead.

        Args:
            context: The worker's context.
            options: Arguments of the library's constructor.
            attributes: Attributes that a subclass set itself.
        """
        trainer = cls.__new__(cls)
        trainer.context = context
        ModelTrainer.__init__(trainer, **options)
        vars(trainer).update(attributes)
        trainer.received_callbacks = tuple(options["callbacks"])
        trainer.received_attributes = tuple(attributes)
        return trainer

    def _adopt_process(
        self,
        args: SentenceTransformerTrainingArguments,
        scaling_config: ScalingConfig | None,
        run_config: RunConfig | None,
    ) -> tuple[SentenceTransformerTrainingArguments, ScalingConfig | None]:
        """Adopts this process's context if it is a worker of the user's own run; checks what depends on it.

        Returns:
            The arguments, and the scaling configuration: ``num_workers=0`` if none was given and Ray Train
            runs the user's loop in this process (local mode).
        """
        if self.context is None and "ray.train" in sys.modules:
            from ray_st.runtime.train import in_worker

            self.context = in_worker.find_context()
            if self.context is not None:
                self._in_place = True
                check_in_place(args, scaling_config, run_config)
                args = copy.copy(args)
                self.context.store.scratch_dir = args.scratch_dir
                args.settle(str(self.context.store.local))
            else:
                scaling_config = scaling_config or in_worker.scaling_of_local_mode()
        if self.context is None:
            check_without_workers(args, scaling_config)
            check_outputs_last(args, run_config)
        return args, scaling_config

    def call_model_init(self, trial: SearchTrial = None) -> nn.Module:
        """Creates the model with ``model_init``, and the losses for it.

        Args:
            trial: Passed to ``model_init`` if that takes an argument, and to loss functions that have an
                argument of this name.
        """
        model = super().call_model_init(trial)
        if self._tokenizer is not None:
            model.tokenizer = self._tokenizer
        self.loss = make_losses(self.loss_init, model, self.family.default_loss, anew=True, trial=trial)
        return model

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        # On the driver the model stays on the device the user chose: only workers move it, and only the
        # shards of weights that will be sharded.
        if self.context is not None and not self.strategy.shards:
            super()._move_model_to_device(model, device)

    def own_attributes(self) -> dict[str, Any]:
        """The attributes that a subclass set itself; they are sent to workers.

        Only its name distinguishes such an attribute from the sixty or so of transformers itself, so these
        are the attributes that did not exist when the library's constructor returned.
        """
        return {name: value for name, value in vars(self).items() if name not in self._library_attributes}

    # ---- train, evaluate, predict ----

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: SearchTrial = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Trains the model on the cluster; in a worker, runs the loop.

        Args:
            resume_from_checkpoint: Path of a checkpoint, or True for the newest complete one in the run's
                folder. With ``resume_only_model=True`` in the arguments, the path of any model folder: a new
                run starts from its weights.
            trial: Passed to ``model_init``; by default the hyperparameters of :meth:`apply_hyperparameters`.
            ignore_keys_for_eval: Unused: part of transformers' interface, but models have a single output.

        Returns:
            transformers' ``TrainOutput``: global step, mean loss, and speed metrics.

        Raises:
            ValueError: If the run cannot work; raised before any worker starts.
            KeyboardInterrupt: On Ctrl-C, after a checkpoint; at once if pressed again.
            Interrupted: If SIGTERM stopped the run after a checkpoint.
        """
        if trial is not None and self.model_init is None:
            raise ValueError(
                "train(trial=...) passes the trial to model_init; the trainer was made with a model instead."
            )
        if self._in_place:
            return self._train_in_place(resume_from_checkpoint, trial, ignore_keys_for_eval)
        if self.context is not None:
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        if self.model_init is not None:
            self._make_model(self._applied if trial is None else trial)
        self.is_in_train = True
        try:
            outcome = with_fitting_batches(
                self.args,
                lambda: self._on_cluster(train_task, self._run_specs, resume_from_checkpoint, keeps=True),
            )
        finally:
            self.is_in_train = False
        self._weights_to_come, self._weights_in = take_over(self, outcome), outcome.store
        if outcome.interrupted:
            raise KeyboardInterrupt("the run had reached its last step; the trainer has the trained model")
        return outcome.result

    def _make_model(self, trial: SearchTrial) -> None:
        """Creates the model anew, as each training does if the trainer was given ``model_init``."""
        seed = enable_full_determinism if self.args.full_determinism else set_seed
        seed(self.args.seed)
        self.model = self.model_wrapped = self.callback_handler.model = self.call_model_init(trial)

    def _train_in_place(
        self, resume: str | bool | None, trial: SearchTrial, ignore_keys: list[str] | None
    ) -> TrainOutput:
        """Trains in a worker of the user's own run."""
        if self.model_init is not None:
            self._make_model(trial)
            self.optimizer = self.lr_scheduler = None  # of the model before
            self._move_model_to_device(self.model, self.args.device)
        start = self._supply(self._run_specs, resume)
        if self.worker.world.is_first:
            self._note_types()
        if self.family.card(self.model) is not None:  # elsewhere the driver does
            self.add_model_card_callback(default_arguments(self.args))
            self._describe_run(self.data.train_specs(self.args.world_size))
        model_init, self.model_init = self.model_init, None  # the loop would make another model
        try:
            result = super().train(start, trial, ignore_keys)
            self.save_last()
            return result
        finally:
            self.model_init = model_init
            self.restore_types()

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Evaluates the model on the cluster; in a worker, as part of the loop.

        Args:
            eval_dataset: A dataset, or a dict of datasets, to evaluate instead of the trainer's own.
            ignore_keys: Unused: part of transformers' interface.
            metric_key_prefix: Prefix of the metric names.

        Returns:
            Metrics by name: ``eval_loss``, or ``eval_NAME_loss`` for each of several datasets, and the
            evaluator's metrics, repeated for each named dataset under its prefix ``eval_NAME_…``. (During
            training they are reported once, as ``eval_…``.)

        Raises:
            ValueError: If there is neither a dataset nor an evaluator.
        """
        if self.context is not None and (
            self.is_in_train or not self._in_place or isinstance(eval_dataset, str)
        ):
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if eval_dataset is None and self.eval_dataset is None and self.evaluator is None:
            raise ValueError("evaluate() needs an eval_dataset or an evaluator; the trainer has neither.")
        with self._evaluating(eval_dataset) as make_specs:
            if self.context is not None:
                self._supply(make_specs)
                return super().evaluate(None, ignore_keys, metric_key_prefix)
            task = functools.partial(evaluate_task, prefix=metric_key_prefix)
            outcome = self._on_cluster(task, make_specs, None, keeps=False)
        take_over(self, outcome)
        metrics: dict[str, float] = outcome.result
        return metrics

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Predicts for a dataset's rows and evaluates on it, on the cluster.

        Args:
            test_dataset: The dataset, with the columns that the loss needs.
            ignore_keys: Unused: part of transformers' interface.
            metric_key_prefix: Prefix of the metric names.

        Returns:
            transformers' ``PredictionOutput``: for each text column an array (rows, dimensions), or the
            results of ``preprocess_logits_for_metrics``; the labels or None; metrics by name.
        """
        if self.context is not None and not self._in_place:
            return super().predict(test_dataset, ignore_keys, metric_key_prefix)
        with self._evaluating(test_dataset) as make_specs:
            if self.context is not None:
                self._supply(make_specs)
                return super().predict(test_dataset, ignore_keys, metric_key_prefix)
            task = functools.partial(predict_task, prefix=metric_key_prefix)
            outcome = self._on_cluster(task, make_specs, None, keeps=False)
        take_over(self, outcome)
        return outcome.result

    @contextmanager
    def _evaluating(self, dataset: Any) -> Iterator[MakeSpecs]:
        """Temporarily makes a dataset the evaluation dataset; yields the function that makes its specs."""
        own = self.eval_dataset
        self.eval_dataset = own if dataset is None else dataset
        try:
            yield lambda world_size: self.data.eval_specs(world_size)
        finally:
            self.eval_dataset = own

    def hyperparameter_search(
        self,
        hp_space: GivenSpace = None,
        compute_objective: Compute = None,
        n_trials: int = 20,
        direction: str | list[str] = "minimize",
        backend: str | HPSearchBackend | None = None,
        hp_name: Callable[[Any], str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Searches for good hyperparameters with Ray Tune and Optuna; see docs/search.md.

        Requires ``model_init``, and the loss as a function of the model: each trial creates its own.

        Args:
            hp_space: A function of a trial in Optuna's define-by-run form, a dict of Ray Tune domains by
                name, or ``"default"`` for a space that suits model, loss and data, with its reasons in the
                log; without one that of transformers: learning rate, epochs, seed and batch size. Names are
                training arguments, or names that ``model_init`` or the loss initialiser reads.
            compute_objective: Computes the objective from an evaluation's metrics, or names a metric; by
                default the evaluation loss if it is the only metric, otherwise the sum of all metrics.
            n_trials: Number of trials; 0 with ``points_to_evaluate`` runs only those points.
            direction: ``"minimize"`` or ``"maximize"``; a list for several objectives.
            backend: ``"ray"`` (default), or ``"optuna"`` for the same search, by default one trial at a time.
            hp_name: Returns a trial's name, given the Optuna trial.
            kwargs: As for :class:`ray_st.tune.SearchOptions`: name, sampler, scheduler, rungs,
                resources_per_trial, …

        Returns:
            transformers' ``BestRun(run_id, objective, hyperparameters, run_summary)``, with ``model`` and
                ``confirmed`` (:class:`ray_st.tune.FoundRun`); a list of them for several objectives.

        Raises:
            ValueError: If the search cannot work; raised before any trial starts wherever possible.
        """
        check_trials(self.scaling_config)
        check_kept(str(self.args.output_dir), "output_dir, which holds the search's folder,")
        self._note_types()
        search = use("search")
        return search(self, hp_space, compute_objective, n_trials, direction, backend, hp_name, **kwargs)

    def apply_hyperparameters(
        self,
        best: BestRun | Mapping[str, Any],
        data_init: Callable[[Any], Any] | None = None,
    ) -> None:
        """Takes over the hyperparameters of a trial, so that ``train()`` trains what it trained.

        Training arguments are replaced, and ``model_init`` and the loss initialiser are given the
        hyperparameters, now and by each ``train()``. The seed stays the trainer's own unless it is one of
        them. Arguments that decide when trials are evaluated (``rungs``) are not taken over.

        Args:
            best: The result of :meth:`hyperparameter_search` (one of a list), or hyperparameters by name.
            data_init: The search's, if it had one: makes ``train_dataset`` anew.

        Raises:
            ValueError: If nothing uses a name, or a value is rejected; the trainer is then unchanged.
        """
        use("apply_hyperparameters")(self, best, data_init)

    def take_trial(self, args: SentenceTransformerTrainingArguments, trial: Mapping[str, Any]) -> None:
        """Takes over a trial's arguments, and model and losses if the trainer makes its model.

        Args:
            args: The training arguments.
            trial: The hyperparameters, as model and loss initialisers are given them.

        Raises:
            ValueError: If the parts do not fit each other.
        """
        check_arguments(args)
        self.args = args
        if self.model_init is not None:
            self._applied = trial
            self._make_model(self._applied)
        self._check_parts()

    # ---- data ----

    @property
    def data(self) -> RunData:
        """The training and evaluation data of a run, from the trainer's current attributes."""
        return RunData(
            family=self.family,
            args=self.args,
            model=self.model,
            loss=self.loss,
            train_dataset=self.train_dataset,
            eval_dataset=self.eval_dataset,
            collator=self.user_collator,
            samplers=SamplerMethods(
                kind=type(self),
                base=ModelTrainer,
                args=self.args,
                attributes=self.own_attributes(),
                trainer=self,
            ),
            orders=self.batch_orders,
        )

    def get_batch_sampler(
        self,
        dataset: Any,
        batch_size: int,
        drop_last: bool,
        valid_label_columns: Sequence[str] | None = None,
        generator: torch.Generator | None = None,
        seed: int = 0,
    ) -> Any:
        """The batch sampler that ``args.batch_sampler`` names; override this to use your own.

        Called on the driver, before workers start. For data larger than memory it is called again for each
        window of rows, outside the driver: there it may use ``self.args`` and attributes of its own, but not
        the model.

        Args:
            dataset: The rows: their keys, or the dataset itself for an overridden method.
            batch_size: Rows of a *global* batch, which is split across ranks afterwards.
            drop_last: Whether incomplete batches are dropped.
            valid_label_columns: Column names that are treated as labels.
            generator: A generator whose initial seed is used instead of ``seed``.
            seed: Seed of the order.

        Returns:
            An iterable of lists of row indices, with ``set_epoch`` where its order depends on the epoch.
        """
        return batch_sampler(self.args, dataset, batch_size, drop_last, valid_label_columns, generator, seed)

    def get_multi_dataset_batch_sampler(
        self,
        dataset: Any,
        batch_samplers: list[Any],
        generator: torch.Generator | None = None,
        seed: int | None = 0,
    ) -> Any:
        """The multi-dataset sampler that the arguments name; override this to use your own.

        Args:
            dataset: The concatenated keys of the datasets, with ``datasets`` and ``cumulative_sizes``.
            batch_samplers: One batch sampler per dataset.
            generator: A generator whose initial seed is used instead of ``seed``.
            seed: Seed of the order in which datasets are drawn.

        Returns:
            An iterable of lists of row indices over all datasets; each list is from a single dataset.
        """
        names = list(named(self.train_dataset))
        return multi_dataset_batch_sampler(self.args, names, dataset, batch_samplers, generator, seed)

    def get_train_dataloader(self) -> DataLoader[Inputs]:
        """The training batches: on a worker, its share of each batch; on the driver, whole batches.

        On the driver they are built in this process.
        """
        if self.context is not None:
            return super().get_train_dataloader()
        return self._loader_here(TRAIN, self.data.train_specs(1))

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Inputs]:
        """The batches of an evaluation dataset, split as in :meth:`get_train_dataloader`.

        Args:
            eval_dataset: The name of one of several datasets; on the driver, also a dataset.
        """
        if self.context is not None:
            return super().get_eval_dataloader(eval_dataset)
        name = eval_dataset if isinstance(eval_dataset, str) else ""
        with self._evaluating(None if name else eval_dataset) as make_specs:
            return self._loader_here(eval_key(name), make_specs(1))

    def _loader_here(self, key: str, specs: dict[str, LoaderSpec]) -> DataLoader[Inputs]:
        if key not in specs:
            raise ValueError(f"There is no dataset {key!r} to load; there are {sorted(specs)}.")
        lengths = prompt_lengths(specs)
        context = local_context({key: specs[key]}, str(self.args.output_dir), prompt_lengths=lengths)
        return self.loader(context.train or next(iter(context.evals.values())), context)

    # ---- checks ----

    def check_run(self) -> None:
        """Checks all that can be checked before a cluster is started or any row is read.

        Raises:
            ValueError: If the datasets, the loss, the evaluator and the arguments are incompatible.
        """
        self._check_metrics()
        self.data.check(self.workers_asked)

    @property
    def workers_asked(self) -> int:
        """The number of workers in the scaling config; 1 if the cluster decides or there are no workers.

        The greatest number, if it may change.
        """
        asked = 1 if self.scaling_config is None else self.scaling_config.num_workers
        return max(WorkerRange.of(asked).most, 1)

    def metric_names(self) -> MetricNames:
        """The metrics that each evaluation reports during training, as far as known before it starts.

        The list is complete unless ``compute_metrics``, an evaluator that does not declare its metrics, a
        callback with an ``on_evaluate``, or an overridden method of the trainer may add others.
        """
        # transformers' own callbacks only read metrics; user callbacks may add some.
        may_add = any(
            type(callback).on_evaluate is not TrainerCallback.on_evaluate
            and type(callback).__module__.split(".")[0] != "transformers"
            for callback in self.own_callbacks()
        )
        computes = self.compute_metrics is not None and not self.args.prediction_loss_only
        return names_in_training(
            list(named(self.eval_dataset)),
            self.evaluator,
            self.model,
            computes or may_add or self._evaluates_otherwise(),
        )

    def _evaluates_otherwise(self) -> bool:
        """Whether a subclass overrides the evaluation."""
        kind, base = type(self), ModelTrainer
        return (
            kind.evaluate is not base.evaluate
            or kind.evaluation_loop is not base.evaluation_loop
            or kind.log is not base.log
        )

    def _check_metrics(self) -> None:
        strategy = IntervalStrategy(self.args.eval_strategy)
        if strategy != IntervalStrategy.NO and self.eval_dataset is None and self.evaluator is None:
            raise ValueError(
                f"eval_strategy={strategy.value!r} needs an eval_dataset or an evaluator; the trainer has "
                "neither."
            )
        check_best_metric(self.args, self.own_callbacks(), self.lr_scheduler, self.metric_names())

    def _check(self) -> None:
        """Checks the arguments again, as they may have been changed since the trainer was created."""
        self.args.check()
        check_arguments(self.args)
        if self.context is None:
            check_without_workers(self.args, self.scaling_config)
            check_outputs_last(self.args, self.run_config)
            check_elastic(self.args, self.loss, self.scaling_config)
        check_losses(self.args, self.loss)

    # ---- dispatch to workers ----

    def _run_specs(self, world_size: int) -> dict[str, LoaderSpec]:
        """The data specs of a training run; metrics are checked again, as the arguments may have changed."""
        self._check_metrics()
        return self.data.train_specs(world_size)

    def _on_cluster(
        self,
        task: Callable[..., Any],
        make_specs: MakeSpecs,
        resume: str | bool | None,
        keeps: bool,
    ) -> RunResult:
        """Runs a task on workers.

        Args:
            task: What the trainer does on each worker.
            make_specs: Makes the run's data specs for a number of workers; raises if the run cannot work.
            resume: The checkpoint to start from.
            keeps: Whether the run writes into the output folder.
        """
        self._check()
        if self._weights_to_come is not None:
            self._weights_to_come.read()
        specs = make_specs(self.workers_asked)  # raises before Ray is started
        if keeps:
            note_kept_activations(self.args, self.model)
            self._note_types()
            self._describe_run(specs)
        from ray_st.runtime.train.dispatch import RunRequest, dispatch
        from ray_st.runtime.train.driver_memory import check_driver_memory
        from ray_st.runtime.train.launch import runs_here
        from ray_st.runtime.train.sendable import check_sendable

        spec, parts = self.spec(), [self.model, *losses_of(self.loss).values()]
        if not runs_here(self.scaling_config):
            check_sendable(spec.parts())
            check_driver_memory(parts, specs)
        return dispatch(
            RunRequest(
                args=self.args,
                weights=describe_weights(self.model),
                subject=subject(self.model, self.loss),
                build=spec.rebuild,
                task=task,
                make_parts=make_specs,
                resume=resume,
                keeps=keeps,
                scaling_config=self.scaling_config,
                run_config=self.run_config,
                attention=of_packages(parts),
            )
        )

    def spec(self) -> TrainerSpec:
        """What workers need to rebuild this trainer."""
        own_loader = type(self).get_train_dataloader is not ModelTrainer.get_train_dataloader
        return describe(self, type(self), self.own_attributes(), own_loader)

    def _supply(self, make_specs: MakeSpecs, resume: str | bool | None = None) -> str | None:
        """Opens the data in a worker of the user's run; returns the checkpoint that training resumes from."""
        from ray_st.runtime.train import in_worker

        self._check()
        self.train_dataset = in_worker.gathered(self.train_dataset)
        self.eval_dataset = in_worker.gathered(self.eval_dataset)
        specs = make_specs(self.worker.world.size)
        self.context = in_worker.with_sources(self.worker, specs)
        if TRAIN not in specs:
            return None
        weights, args = describe_weights(self.model), self.args
        start = in_worker.start(self.worker, resume, weights, args.ignore_data_skip, args.resume_only_model)
        if start.path is None or not start.only_model:
            return start.path
        self.take_weights(start.path)
        return None

    def _describe_run(self, specs: Mapping[str, LoaderSpec]) -> None:
        """Records a run in the model card, unless a subclass disabled it."""
        if self.card_defaults is not None:
            card = self.family.card(self.model)
            describe_run(card, self.model, self.loss, self.args, specs, self.card_defaults)

    def _note_types(self) -> None:
        if note := note_on_types(self.model, self.loss):
            notes.info(note)

    # ---- model card and Hub ----

    def add_model_card_callback(self, default_args_dict: Mapping[str, Any]) -> None:
        """Enables recording of runs in the model card: data, losses, settings. Called once, on creation.

        Override it to disable this, or to add callbacks that record more.

        Args:
            default_args_dict: Default training arguments.
        """
        self.card_defaults = default_args_dict

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: Words | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: Words | None = None,
        dataset_tags: Words | None = None,
        dataset: Words | None = None,
        dataset_args: Words | None = None,
        **kwargs: Any,
    ) -> None:
        """Writes README.md into ``args.output_dir`` from the model's card data; only on the first rank.

        Args:
            language: Language code.
            license: Licence, such as "apache-2.0".
            tags: Tags to add.
            model_name: The card's title.
            finetuned_from: Hub name of the base model, if it is not already known.
            tasks: More tags to add.
            dataset_tags: Hub names of the training datasets, if none are known.
            dataset: Names of the training datasets, if none are known; overrides ``dataset_tags``.
            dataset_args: Unused: the card records the data itself.
            kwargs: Unused.
        """
        if not self.is_world_process_zero():
            return
        card = self.model.model_card_data
        card.language, card.license = language or card.language, license or card.license
        card.model_name = model_name or card.model_name
        card.add_tags([*_words(tags), *_words(tasks)])
        card.name_model(None, _words(dataset) or _words(dataset_tags))
        if card.base_model is None:
            card.set_base_model(finetuned_from)
        readme = Path(str(self.args.output_dir), "README.md")
        readme.write_text(render_card(self.model, card), encoding="utf-8")

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Saves the model in ``args.output_dir`` and uploads it to the repository ``args.hub_model_id``.

        Args:
            commit_message: The commit message.
            blocking: Whether to wait for the upload to finish.
            token: Overrides ``args.hub_token``.
            revision: Branch; by default ``args.hub_revision``, or the main branch.
            private: Whether a newly created repository is private; by default ``args.hub_private_repo``.
            kwargs: Arguments of :meth:`create_model_card`.

        Returns:
            huggingface_hub's commit info, or a future of it with ``blocking=False``; None on all ranks but
            the first.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = self.args.hub_token if token is None else token
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        if kwargs:
            self.create_model_card(**kwargs)
        api: Any = hf_api()
        return api.upload_folder(
            repo_id=self.hub_model_id,
            folder_path=str(self.args.output_dir),
            commit_message=commit_message,
            token=token,
            run_as_future=not blocking,
            ignore_patterns=NOT_OF_THE_RUN,
            revision=revision or self.args.hub_revision,
        )

    # ---- methods of earlier releases ----

    def get_num_trainable_parameters(self) -> int:
        """Number of trainable parameters of the model."""
        return sum(weight.numel() for weight in self.model.parameters() if weight.requires_grad)

    def get_learning_rates(self) -> list[float]:
        """The learning rate of each parameter group.

        Raises:
            ValueError: If this process has no optimizer.
        """
        return parameter_groups.learning_rates(self.optimizer)

    def get_optimizer_group(self, param: str | nn.Parameter | None = None) -> Any:
        """The optimizer group of a parameter.

        Args:
            param: A parameter of the model or of a loss, or the name of a model parameter; None for all
                groups.

        Returns:
            The group, a dict; or, for None, a list of the parameters of each group.

        Raises:
            ValueError: If this process has no optimizer, or the parameter is in none of its groups.
        """
        return parameter_groups.group_of(self.optimizer, self.model, param)

    def propagate_args_to_deepspeed(self, auto_find_batch_size: bool = False) -> None:
        """Completes DeepSpeed's configuration from the arguments; transformers calls this itself.

        Args:
            auto_find_batch_size: Whether a batch size search is in progress.

        Raises:
            ValueError: If DeepSpeed is not used: there is nothing to complete.
        """
        if not self.is_deepspeed_enabled:
            raise ValueError(
                "propagate_args_to_deepspeed completes DeepSpeed's configuration, and this trainer does not "
                "use DeepSpeed. transformers calls it by itself where it does: leave the call out."
            )
        propagate_args_to_deepspeed(self.accelerator, self.args, auto_find_batch_size)


def _words(value: Words | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])
