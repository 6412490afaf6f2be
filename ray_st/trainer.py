"""What users hold: the trainer, which describes a run on the driver and runs the loop on each worker."""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, enable_full_determinism, set_seed

from ray_st.data.column_spec import check_splits
from ray_st.evaluation.metric_names import check_best_metric, names_in_training
from ray_st.models.adapter.adaptable import AdaptableStack
from ray_st.training.argument_checks import (
    check_arguments,
    check_in_place,
    check_losses,
    check_outputs_last,
    check_without_workers,
    make_folder,
    note_kept_activations,
)
from ray_st.training.callbacks.card_callback import CardTrainer
from ray_st.training.callbacks.run_description import default_arguments, describe_run
from ray_st.training.callbacks.run_header import subject
from ray_st.training.data.dataset_specs import named, prompt_lengths
from ray_st.training.data.local_source import local_place
from ray_st.training.data.prompting import PromptingTrainer
from ray_st.training.data.router_routes import check_router_mapping
from ray_st.training.data.run_data import DescribedData
from ray_st.training.data.specs import TRAIN, LoaderSpec, RunResult, eval_key
from ray_st.training.data.step_loader import Inputs
from ray_st.training.loss_factory import check_optimizer, make_losses
from ray_st.training.searching import SearchingTrainer
from ray_st.training.strategies.batch_size_finder import with_fitting_batches
from ray_st.training.strategies.precision import note_on_types
from ray_st.training.strategies.step_module import describe_weights
from ray_st.training.trainer_spec import (
    TrainerSpec,
    describe,
    evaluate_task,
    predict_task,
    show_progress,
    take_over,
    train_task,
)
from ray_st.training_args import SentenceTransformerTrainingArguments
from ray_st.util.events import notes
from ray_st.util.names import either

_NO_DATASET = "none"


class SentenceTransformerTrainer(DescribedData, PromptingTrainer, CardTrainer, SearchingTrainer):
    """Trains and evaluates embedding models on a Ray cluster.

    Made on the driver, ``train()`` and ``evaluate()`` run on Ray Train workers; afterwards ``model`` holds the trained
    weights and ``state`` the history, as if they had run in place. What a subclass overrides (``compute_loss``,
    ``get_batch_sampler``, …) has its effect on every worker.

    Args:
        model: The model to train.
        args: Training arguments; defaults to those of an output folder ``tmp_trainer``.
        train_dataset: A :class:`datasets.Dataset` or :class:`datasets.IterableDataset`, a Ray Dataset, paths of files, a
            table, columns, rows, or a :class:`ray_st.data.sources.Source`; or a dict of these. Columns are passed to
            the loss in their order; a column named label, labels, score or scores is the label.
        eval_dataset: Likewise.
        loss: A loss, or a function that makes it from the model; CoSENT by default.
        evaluator: An evaluator or a list of them.
        data_collator: Makes inputs from rows (a list of dicts of texts) in place of the default.
        tokenizer: Replaces the model's tokenizer.
        model_init: Makes the model; instead of ``model``. Called here, with the trial or nothing, when the trainer is
            made and again by each ``train()``; a loss given as a module is copied for each.
        compute_metrics: Called at each evaluation of a dataset with an ``EvalPrediction``: the embeddings of each text
            column and the labels. Returns figures by name.
        callbacks: transformers callbacks; they run on the workers.
        optimizers: Optimizer and scheduler to use instead of those that the arguments name. Made from the parameters of
            ``model`` here, they act on the workers' model there.
        preprocess_logits_for_metrics: Called for each batch with the tuple of its embeddings and its labels; what it
            returns (a tensor, or a tuple of them) goes to ``compute_metrics`` instead.
        scaling_config: Ray Train's, number and kind of workers; by default one for each GPU of the cluster, or one CPU
            worker. With ``num_workers=0`` all runs in this process, without Ray: for debugging and first tries.
        run_config: Ray Train's, name, storage and failure handling; by default checkpoints go to ``args.output_dir``
            and a failed worker group is restarted up to three times.
        optimizer_cls_and_kwargs: Class of the optimizer and its arguments, in place of what the arguments name; made on
            the workers.
        processing_class: The later name of ``tokenizer``.

    Inside a ``train_loop_per_worker`` of Ray Train the trainer runs in that worker. Datasets are then what is the same on
    each rank, or the shards of ``ray.train.get_dataset_shard``; see docs/trainer.md.

    Raises:
        ValueError: If the model, the data and the loss don't fit each other.
    """

    def __init__(
        self,
        model: Any = None,
        args: SentenceTransformerTrainingArguments | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        loss: Any = None,
        evaluator: Any = None,
        data_collator: Any = None,
        tokenizer: Any = None,
        model_init: Callable[..., Any] | None = None,
        compute_metrics: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        preprocess_logits_for_metrics: Any = None,
        scaling_config: Any = None,
        run_config: Any = None,
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        processing_class: Any = None,
    ) -> None:
        before = set(self.__dict__)
        if args is None:
            args = SentenceTransformerTrainingArguments(output_dir="tmp_trainer")
        if not isinstance(args, SentenceTransformerTrainingArguments):
            raise ValueError(f"args must be SentenceTransformerTrainingArguments; got {type(args).__name__}.")
        if model is None and model_init is None:
            raise ValueError("A trainer needs a model, or a model_init that makes one.")
        check_arguments(args)
        args = self._settled(args, scaling_config, run_config)
        scaling_config = self._placed(args, scaling_config, run_config)
        self._tokenizer = tokenizer = either("tokenizer", tokenizer, "processing_class", processing_class)
        if tokenizer is not None and model is not None:
            model.tokenizer = tokenizer
        self.evaluator = _one_evaluator(evaluator)
        # transformers refuses a missing metric too, without a word of those that there are.
        check_best_metric(
            args, (), None, names_in_training(list(named(eval_dataset)), self.evaluator, model, True)
        )
        make_folder(str(args.output_dir))
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            # transformers checks datasets that it reads itself; ours are checked and read by the run.
            eval_dataset=_NO_DATASET,
            model_init=model_init,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        check_splits(named(train_dataset))
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.user_collator = data_collator
        self.scaling_config, self.run_config = scaling_config, run_config
        self.loss_init, self.loss = loss, make_losses(loss, self.model, anew=model_init is not None)
        check_losses(args, self.loss)
        if isinstance(self.model, AdaptableStack):
            self.model.check_adapters()
        if self.place is None and (train_dataset is not None or eval_dataset is not None):
            check_router_mapping(self.model, args.router_mapping)
        check_optimizer(self.optimizer, self.model, self.loss, args.learning_rate_mapping)
        known, given = self.callback_handler.callbacks, len(callbacks or [])
        self.default_callbacks = [*known[: -1 - given], known[-1]]  # a bar or printer comes last
        if self._in_place:
            show_progress(self)
        if self.place is None:
            self.add_model_card_callback(default_arguments(args))
        self._managed = frozenset(self.__dict__) - before
        if self.place is None:
            self.check_run()

    def _settled(
        self, args: SentenceTransformerTrainingArguments, scaling_config: Any, run_config: Any
    ) -> SentenceTransformerTrainingArguments:
        """Takes the place of this process if it is a worker of the user's own run; gives the arguments as of here."""
        if self.place is not None or "ray.train" not in sys.modules:
            return args
        from ray_st.runtime.train import in_worker

        self.place = in_worker.find_place()
        if self.place is None:
            return args
        self._in_place = True
        check_in_place(args, scaling_config, run_config)
        args = copy.copy(args)
        args.settle(str(self.here.store.local))
        return args

    def _placed(
        self, args: SentenceTransformerTrainingArguments, scaling_config: Any, run_config: Any
    ) -> Any:
        """The number and kind of workers; on the driver, refuses what these and the outputs' places cannot be."""
        if self.place is not None:
            return scaling_config
        scaling_config = scaling_config or _scaling_of_local_mode()
        check_without_workers(args, scaling_config)
        check_outputs_last(args, run_config)
        return scaling_config

    def call_model_init(self, trial: Any = None) -> Any:
        """Makes the model with ``model_init``, and the losses for it.

        Args:
            trial: Passed on if ``model_init`` takes an argument, and to losses' functions with an argument of this name.
        """
        model = super().call_model_init(trial)
        if self._tokenizer is not None:
            model.tokenizer = self._tokenizer
        if hasattr(self, "loss"):
            self.loss = make_losses(self.loss_init, model, anew=True, trial=trial)
        return model

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        # On the driver the model stays where its owner has it: devices belong to workers.
        if self.place is not None:
            super()._move_model_to_device(model, device)

    # ---- train and evaluate ----

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """Trains the model on the cluster; in a worker, runs the loop.

        Args:
            resume_from_checkpoint: Path of a checkpoint, or True for the newest complete one of the run's folder. With
                ``resume_only_model=True`` in the arguments, of any model folder: a new run begins with its weights.
            trial: Passed to ``model_init``.
            ignore_keys_for_eval: Part of transformers' interface; models have one output, their embeddings.

        Returns:
            transformers' ``TrainOutput``: global step, mean loss, and figures of speed.

        Raises:
            ValueError: If the run cannot work; before any worker starts.
            KeyboardInterrupt: At Ctrl-C; after a checkpoint, unless it is pressed again.
            Interrupted: If SIGTERM stopped the run after a checkpoint.
        """
        if trial is not None and self.model_init is None:
            raise ValueError(
                "train(trial=...) passes the trial to model_init; the trainer was made with a model instead."
            )
        if self._in_place:
            start = self._supply(self._run_parts, resume_from_checkpoint)
            if self.here.world.is_first:
                self._note_types()
            try:
                result = super().train(start, trial, ignore_keys_for_eval)
                self.save_last()
                return result
            finally:
                self.restore_types()
        if self.place is not None:
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        if self.model_init is not None:
            seed = enable_full_determinism if self.args.full_determinism else set_seed
            seed(self.args.seed)
            self.model = self.model_wrapped = self.callback_handler.model = self.call_model_init(trial)
        self.is_in_train = True
        try:
            outcome = with_fitting_batches(
                self.args,
                lambda: self._on_cluster(train_task, self._run_parts, resume_from_checkpoint, keeps=True),
            )
        finally:
            self.is_in_train = False
        take_over(self, outcome)
        if outcome.interrupted:
            raise KeyboardInterrupt("the run had reached its last step; the trainer has the trained model")
        return outcome.result

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Evaluates the model on the cluster; in a worker, as part of the loop.

        Args:
            eval_dataset: Evaluates this dataset, or dict of datasets, in place of the trainer's own.
            ignore_keys: Part of transformers' interface.
            metric_key_prefix: Put before the names of figures.

        Returns:
            Figures by name: ``eval_loss``, or ``eval_NAME_loss`` for each of several datasets, and the evaluator's, with
            named datasets under the prefix of each: ``eval_NAME_…``. (In a training run they come once, as ``eval_…``.)

        Raises:
            ValueError: If there is neither a dataset nor an evaluator.
        """
        if self.place is not None and (
            self.is_in_train or not self._in_place or isinstance(eval_dataset, str)
        ):
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if eval_dataset is None and self.eval_dataset is None and self.evaluator is None:
            raise ValueError("evaluate() needs an eval_dataset or an evaluator; the trainer has neither.")
        with self._evaluating(eval_dataset) as parts:
            if self.place is not None:
                self._supply(parts)
                return super().evaluate(None, ignore_keys, metric_key_prefix)
            task = functools.partial(evaluate_task, prefix=metric_key_prefix)
            outcome = self._on_cluster(task, parts, None, keeps=False)
        take_over(self, outcome)
        metrics: dict[str, float] = outcome.result
        return metrics

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> Any:
        """Embeds a dataset's texts and evaluates on it, on the cluster.

        Args:
            test_dataset: The dataset, with the columns that the loss needs.
            ignore_keys: Part of transformers' interface.
            metric_key_prefix: Put before the names of figures.

        Returns:
            transformers' ``PredictionOutput``: for each text column an array (rows, dimensions), or what
            ``preprocess_logits_for_metrics`` makes of them; the labels or None; figures by name.
        """
        if self.place is not None and not self._in_place:
            return super().predict(test_dataset, ignore_keys, metric_key_prefix)
        with self._evaluating(test_dataset) as parts:
            if self.place is not None:
                self._supply(parts)
                return super().predict(test_dataset, ignore_keys, metric_key_prefix)
            task = functools.partial(predict_task, prefix=metric_key_prefix)
            outcome = self._on_cluster(task, parts, None, keeps=False)
        take_over(self, outcome)
        return outcome.result

    @contextmanager
    def _evaluating(self, dataset: Any) -> Iterator[Callable[[int], dict[str, LoaderSpec]]]:
        """Lets a dataset be the one that is evaluated; gives what makes its parts."""
        own = self.eval_dataset
        self.eval_dataset = own if dataset is None else dataset
        try:
            yield lambda world_size: self._eval_parts(self.eval_dataset, world_size)
        finally:
            self.eval_dataset = own

    def _supply(self, make_parts: Callable[[int], dict[str, LoaderSpec]], resume: Any = None) -> str | None:
        """In a worker of the user's run, opens the data there; says from which checkpoint training starts."""
        from ray_st.runtime.train import in_worker

        self._check()
        self.train_dataset = in_worker.gathered(self.train_dataset)
        self.eval_dataset = in_worker.gathered(self.eval_dataset)
        parts = make_parts(self.here.world.size)
        self.place = in_worker.with_sources(self.here, parts)
        if TRAIN not in parts:
            return None
        weights, args = describe_weights(self.model), self.args
        start = in_worker.start(self.here, resume, weights, args.ignore_data_skip, args.resume_only_model)
        if start.path is None or not start.only_model:
            return start.path
        self.take_weights(start.path)
        return None

    def _evaluates_otherwise(self) -> bool:
        """Whether a subclass has an evaluation of its own."""
        kind, base = type(self), SentenceTransformerTrainer
        return (
            kind.evaluate is not base.evaluate
            or kind.evaluation_loop is not base.evaluation_loop
            or kind.log is not base.log
        )

    def _check(self) -> None:
        """Refuses arguments that were changed since they were checked and cannot work."""
        self.args.check()
        check_arguments(self.args)
        if self.place is None:
            check_without_workers(self.args, self.scaling_config)
            check_outputs_last(self.args, self.run_config)
        check_losses(self.args, self.loss)

    # ---- loaders ----

    def get_train_dataloader(self) -> DataLoader[Inputs]:
        """The batches of training: a worker's share of each; on the driver, whole batches, made in this process."""
        if self.place is not None:
            return super().get_train_dataloader()
        return self._loader_here(TRAIN, self._train_parts(1))

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Inputs]:
        """The batches of an evaluation dataset, likewise.

        Args:
            eval_dataset: On a worker, the name of one of several datasets; on the driver that, or a dataset.
        """
        if self.place is not None:
            return super().get_eval_dataloader(eval_dataset)
        name = eval_dataset if isinstance(eval_dataset, str) else ""
        chosen = self.eval_dataset if eval_dataset is None or name else eval_dataset
        return self._loader_here(eval_key(name), self._eval_parts(chosen, 1))

    def _loader_here(self, feed: str, parts: dict[str, LoaderSpec]) -> DataLoader[Inputs]:
        if feed not in parts:
            raise ValueError(f"There is no dataset {feed!r} to load; there are {sorted(parts)}.")
        place = local_place(
            {feed: parts[feed]}, str(self.args.output_dir), prompt_lengths=prompt_lengths(parts)
        )
        return self._loader(place.train or next(iter(place.evals.values())), place)

    def _on_cluster(
        self,
        task: Callable[..., Any],
        make_parts: Callable[[int], dict[str, LoaderSpec]],
        resume: str | bool | None,
        keeps: bool,
    ) -> RunResult:
        """Runs a task on workers.

        Args:
            task: What the trainer does there.
            make_parts: Makes the run's data parts for a number of workers; refuses what cannot work.
            resume: The checkpoint to start from.
            keeps: Whether the run writes into the output folder.
        """
        self._check()
        parts = make_parts(self.workers_asked)  # refuses what cannot work before Ray is started
        if keeps:
            note_kept_activations(self.args, self.model)
            self._note_types()
        if keeps and self.card_defaults is not None:
            describe_run(self, parts)
        from ray_st.runtime.train.dispatch import RunRequest, dispatch
        from ray_st.runtime.train.launch import runs_here
        from ray_st.runtime.train.sendable import check_sendable

        description = self._describe()
        if not runs_here(self.scaling_config):
            check_sendable(description.parts())
        return dispatch(
            RunRequest(
                args=self.args,
                weights=describe_weights(self.model),
                subject=subject(self.model, self.loss),
                build=description.rebuild,
                task=task,
                make_parts=make_parts,
                resume=resume,
                keeps=keeps,
                scaling_config=self.scaling_config,
                run_config=self.run_config,
            )
        )

    def _note_types(self) -> None:
        if note := note_on_types(self.model, self.loss):
            notes.info(note)

    def _describe(self) -> TrainerSpec:
        """What workers need to make this trainer again."""
        own_loader = type(self).get_train_dataloader is not SentenceTransformerTrainer.get_train_dataloader
        return describe(self, SentenceTransformerTrainer.__init__, own_loader)


def _scaling_of_local_mode() -> Any:
    """``num_workers=0`` where Ray Train runs a loop of the user's in this process; else None."""
    if "ray.train" not in sys.modules:
        return None
    from ray_st.runtime.train import in_worker

    return in_worker.scaling_of_local_mode()


def _one_evaluator(evaluator: Any) -> Any:
    if not isinstance(evaluator, (list, tuple)):
        return evaluator
    from ray_st.evaluation import SequentialEvaluator

    return SequentialEvaluator(list(evaluator))
