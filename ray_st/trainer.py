"""What users hold: the trainer, which describes a run on the driver and runs the loop on each worker."""

from __future__ import annotations

import functools
import json
import math
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from torch import nn
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainerState

from ray_st.data.columns import LABEL_COLUMNS, ColumnSpec, check_columns, check_rows, check_types, split_columns
from ray_st.data.encode import Encoding
from ray_st.data.samplers import DefaultBatchSampler, NoDuplicatesBatchSampler, RandomOrder
from ray_st.training.loop import TrainingLoop
from ray_st.training.place import Place
from ray_st.training.progress import ProgressReport, write_line
from ray_st.training.run import TRAIN_FEED, DataPart, Outcome, Run, eval_feed
from ray_st.training.step import losses_of, owned_by_loss
from ray_st.training_args import BatchSamplers, SentenceTransformerTrainingArguments

_NO_DATASET = "none"
_OWN_CALLBACKS = (ProgressCallback, PrinterCallback, ProgressReport)


class SentenceTransformerTrainer(TrainingLoop):
    """Trains and evaluates embedding models on a Ray cluster.

    Made on the driver, ``train()`` and ``evaluate()`` run on Ray Train workers; afterwards ``model`` holds the trained
    weights and ``state`` the history, as if they had run in place. What a subclass overrides (``compute_loss``,
    ``get_batch_sampler``, …) has its effect on every worker.

    Args:
        model: The model to train.
        args: Training arguments; defaults to those of an output folder ``tmp_trainer``.
        train_dataset: A :class:`datasets.Dataset` or a Ray Dataset. Columns are passed to the loss in their order; a
            column named label, labels, score or scores is the label.
        eval_dataset: Likewise, or a dict of datasets.
        loss: A loss, or a function that makes it from the model; CoSENT by default.
        evaluator: An evaluator or a list of them.
        data_collator: Makes inputs from rows (a list of dicts of texts) in place of the default.
        tokenizer: Replaces the model's tokenizer.
        model_init: Makes the model; instead of ``model``.
        compute_metrics: Part of transformers' interface.
        callbacks: transformers callbacks; they run on the workers.
        optimizers: Optimizer and scheduler to use instead of those that the arguments name.
        preprocess_logits_for_metrics: Part of transformers' interface.
        scaling_config: Ray Train's, number and kind of workers; by default one for each GPU of the cluster, or one CPU
            worker.
        run_config: Ray Train's, name, storage and failure handling; by default checkpoints go to ``args.output_dir``
            and a failed worker group is restarted up to three times.

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
    ) -> None:
        before = set(self.__dict__)
        if args is None:
            args = SentenceTransformerTrainingArguments(output_dir="tmp_trainer")
        if not isinstance(args, SentenceTransformerTrainingArguments):
            raise ValueError(f"args must be SentenceTransformerTrainingArguments; got {type(args).__name__}.")
        if model is None and model_init is None:
            raise ValueError("A trainer needs a model, or a model_init that makes one.")
        if tokenizer is not None and model is not None:
            model.tokenizer = tokenizer
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            # transformers asks for a dataset wherever there is an eval_strategy; here an evaluator is enough.
            eval_dataset=_NO_DATASET if eval_dataset is None and evaluator is not None else eval_dataset,
            model_init=model_init,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        self.eval_dataset = eval_dataset
        self.user_collator = data_collator
        self.scaling_config, self.run_config = scaling_config, run_config
        self.loss = self._make_loss(loss)
        self.evaluator = _one_evaluator(evaluator)
        self._default_callbacks = [type(callback) for callback in self.callback_handler.callbacks]
        self._default_callbacks = [kind for kind in self._default_callbacks if kind not in map(type, callbacks or [])]
        self._managed = frozenset(self.__dict__) - before

    def _make_loss(self, loss: Any) -> Any:
        if loss is None:
            from ray_st.losses import CoSENTLoss

            return CoSENTLoss(self.model)
        if isinstance(loss, Mapping):
            return {name: self._make_loss(part) for name, part in loss.items()}
        if isinstance(loss, nn.Module):
            return loss
        if callable(loss):
            return loss(self.model)
        raise ValueError(f"loss must be a module, a function of the model, or a dict of them; got {loss!r}.")

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        # On the driver the model stays where its owner has it: devices belong to workers.
        if self.place is not None:
            super()._move_model_to_device(model, device)

    # ---- samplers ----

    def get_batch_sampler(
        self,
        dataset: Any,
        batch_size: int,
        drop_last: bool,
        valid_label_columns: Sequence[str] | None = None,
        generator: torch.Generator | None = None,
        seed: int = 0,
    ) -> Any:
        """The batch sampler that ``args.batch_sampler`` names; override it for one of your own.

        Called on the driver, before workers start.

        Args:
            dataset: The rows: their keys, or the dataset itself for an overridden method.
            batch_size: Rows of a *global* batch; it is cut by rank afterwards.
            drop_last: Whether batches that are not full are left out.
            valid_label_columns: Names that mean a label.
            generator: A generator whose initial seed is used instead of ``seed``.
            seed: Seed of the order.

        Returns:
            An iterable of lists of row indices, with ``set_epoch`` where its order depends on the epoch.
        """
        if self.args.batch_sampler == BatchSamplers.NO_DUPLICATES:
            return NoDuplicatesBatchSampler(dataset, batch_size, drop_last, valid_label_columns, generator, seed)
        seed = int(generator.initial_seed()) if generator is not None else seed
        return DefaultBatchSampler(RandomOrder(len(dataset), seed), batch_size, drop_last)

    # ---- train and evaluate ----

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """Trains the model on the cluster; in a worker, runs the loop.

        Args:
            resume_from_checkpoint: Path of a checkpoint, or True for the newest complete one of the run's folder.
            trial: A trial of a hyperparameter search.
            ignore_keys_for_eval: Part of transformers' interface.

        Returns:
            transformers' ``TrainOutput``: global step, mean loss, and figures of speed.

        Raises:
            ValueError: If the run cannot work; before any worker starts.
        """
        if self.place is not None:
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        if self.train_dataset is None:
            raise ValueError("Training needs a train_dataset; none was given.")
        self.is_in_train = True
        try:
            outcome = self._on_cluster(_train_task, self._train_parts, resume_from_checkpoint, keeps=True)
        finally:
            self.is_in_train = False
        self._take_over(outcome)
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
            Figures by name.

        Raises:
            ValueError: If there is neither a dataset nor an evaluator.
        """
        if self.place is not None:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        chosen = self.eval_dataset if eval_dataset is None else eval_dataset
        if chosen is None and self.evaluator is None:
            raise ValueError("evaluate() needs an eval_dataset or an evaluator; the trainer has neither.")
        task = functools.partial(_evaluate_task, prefix=metric_key_prefix)
        outcome = self._on_cluster(task, lambda world: self._eval_parts(chosen), None, keeps=False)
        metrics: dict[str, float] = outcome.result
        self.state.log_history.append({**metrics, "step": self.state.global_step})
        return metrics

    def _on_cluster(
        self,
        task: Callable[..., Any],
        make_parts: Callable[[int], dict[str, DataPart]],
        resume: str | bool | None,
        keeps: bool,
    ) -> Outcome:
        from ray_st.runtime import cluster, launch, storage

        for part in make_parts(1).values():  # refuses what cannot work before Ray is started
            assert part
        with cluster.connected():
            scaling = launch.resolve_scaling(self.scaling_config)
            output_dir = self.args.output_dir if keeps else storage.temporary_root()
            run_config = launch.complete_run_config(self.run_config if keeps else None, output_dir)
            store = storage.open_store(run_config, uuid.uuid4().hex)
            storage.prepare(store)
            start = storage.find_checkpoint(store, resume)
            world_size = int(scaling.num_workers)
            parts = make_parts(world_size)
            cluster.check_fits(scaling)
            feeds = {name: launch.make_feed(part) for name, part in parts.items()}
            run = Run(
                run_id=store.run_id,
                build=functools.partial(_rebuild, self._describe()),
                task=task,
                feeds=tuple(feeds),
                resume_from=start,
                prompt_lengths=self._prompt_lengths(),
            )
            return launch.launch(run, feeds, scaling, run_config)

    def _train_parts(self, world_size: int) -> dict[str, DataPart]:
        parts = {TRAIN_FEED: self._train_part(world_size)}
        if self.args.eval_strategy != "no":
            if self.eval_dataset is None and self.evaluator is None:
                raise ValueError(
                    f"eval_strategy={self.args.eval_strategy.value!r} needs an eval_dataset or an evaluator; "
                    "the trainer has neither."
                )
            parts.update(self._eval_parts(self.eval_dataset, world_size))
        return parts

    def _train_part(self, world_size: int) -> DataPart:
        source = self.train_dataset
        global_batch = self.args.per_device_train_batch_size * world_size
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed

        def make_sampler(keys: Any) -> Any:
            overridden = type(self).get_batch_sampler is not SentenceTransformerTrainer.get_batch_sampler
            return self.get_batch_sampler(
                source if overridden and isinstance(source, datasets.Dataset) else keys,
                batch_size=global_batch,
                drop_last=self.args.dataloader_drop_last,
                valid_label_columns=list(LABEL_COLUMNS),
                seed=seed,
            )

        return self._part(source, "train_dataset", make_sampler, self._epochs(global_batch), world_size)

    def _epochs(self, global_batch: int) -> Callable[[int], int]:
        """How many epochs a run needs at most, as a function of the number of rows."""

        def epochs(rows: int) -> int:
            if self.args.max_steps > 0:
                steps = self.args.max_steps * self.args.gradient_accumulation_steps
                return math.ceil(steps / max(rows // global_batch, 1))
            return math.ceil(self.args.num_train_epochs)

        return epochs

    def _eval_parts(self, eval_dataset: Any, world_size: int = 1) -> dict[str, DataPart]:
        if eval_dataset is None:
            return {}
        named = eval_dataset if isinstance(eval_dataset, dict) else {"": eval_dataset}
        global_batch = self.args.per_device_eval_batch_size * world_size

        def make_sampler(keys: Any) -> Any:
            return DefaultBatchSampler(RandomOrder(len(keys), shuffle=False), global_batch)

        return {
            eval_feed(name): self._part(
                source, f"eval_dataset[{name!r}]" if name else "eval_dataset", make_sampler, lambda rows: 1, 1
            )
            for name, source in named.items()
        }

    def _part(
        self,
        source: Any,
        name: str,
        make_sampler: Callable[[Any], Any],
        epochs: Callable[[int], int],
        rows_needed: int,
    ) -> DataPart:
        columns = _columns_of(source, name)
        for loss in losses_of(self.loss).values():
            check_columns(columns, loss, name)
        if isinstance(source, datasets.Dataset):
            check_rows(len(source), rows_needed, name)
        encoder = self.model.token_encoder()
        encoding = Encoding(
            columns=columns,
            encoder=None if self.user_collator is not None else encoder,
            prompts=self._prompts(columns, name),
        )
        return DataPart(name, source, encoding, make_sampler, epochs, rows_needed)

    def _prompts(self, columns: ColumnSpec, dataset: str) -> dict[str, str]:
        prompts = self.args.prompts
        if not prompts:
            return {}
        if isinstance(prompts, str):
            return dict.fromkeys(columns.texts, prompts)
        unknown = [name for name in prompts if name not in columns.texts]
        if unknown:
            raise ValueError(
                f"args.prompts names columns {unknown}, which {dataset} does not have as texts; it has "
                f"{list(columns.texts)}."
            )
        return dict(prompts)

    def _prompt_lengths(self) -> dict[str, int]:
        """Number of tokens by which each column's prompt lengthens a text."""
        if self.train_dataset is None or not self.args.prompts:
            return {}
        prompts = self._prompts(_columns_of(self.train_dataset, "train_dataset"), "train_dataset")
        return {name: self.model.prompt_length(prompt) for name, prompt in prompts.items()}

    # ---- there and back ----

    def _describe(self) -> _Description:
        """What a worker needs to make this trainer again."""
        kept = [type(callback) for callback in self.callback_handler.callbacks]
        return _Description(
            kind=type(self),
            options={
                "model": self.model,
                "args": self.args,
                "eval_dataset": _names_of(self.eval_dataset),
                "loss": self.loss,
                "evaluator": self.evaluator,
                "data_collator": self.user_collator,
                "compute_metrics": self.compute_metrics,
                "callbacks": self._user_callbacks(),
                "optimizers": (self.optimizer, self.lr_scheduler),
                "preprocess_logits_for_metrics": self.preprocess_logits_for_metrics,
            },
            removed=[kind for kind in self._default_callbacks if kind not in kept],
            extras={key: value for key, value in self.__dict__.items() if key not in self._managed},
            progress=ProgressSpec.here(bool(self.args.disable_tqdm)),
        )

    def _user_callbacks(self) -> list[TrainerCallback]:
        return [
            callback
            for callback in self.callback_handler.callbacks
            if type(callback) not in self._default_callbacks and not isinstance(callback, _OWN_CALLBACKS)
        ]

    def _take_over(self, outcome: Outcome) -> None:
        """Makes this trainer what it would be had the run been here."""
        self.model.load_state_dict(outcome.model)
        with torch.no_grad():
            for name, tensor in owned_by_loss(self.model, self.loss).items():
                tensor.copy_(outcome.loss[name])
        self.state = TrainerState(**json.loads(outcome.state))
        for callback, attributes in zip(self._user_callbacks(), outcome.callbacks, strict=True):
            callback.__dict__.update(attributes)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model as a folder that this library and its peers open.

        Args:
            output_dir: The folder; ``args.output_dir`` by default.
        """
        super().save_model(output_dir, _internal_call)


@dataclass(frozen=True)
class ProgressSpec:
    """How the user sees progress: a bar if the driver has a terminal, else lines."""

    bar: bool

    @staticmethod
    def here(disabled: bool) -> ProgressSpec:
        """As the driver's standard error allows."""
        import sys

        return ProgressSpec(bar=sys.stderr.isatty() and not disabled)


@dataclass(frozen=True)
class _Description:
    kind: type[SentenceTransformerTrainer]
    options: dict[str, Any]
    removed: list[type[TrainerCallback]]
    extras: dict[str, Any]
    progress: ProgressSpec


def _rebuild(description: _Description, place: Place) -> SentenceTransformerTrainer:
    """Makes the driver's trainer again at a worker's place.

    The subclass's own ``__init__`` is not called, as its arguments are not known; the attributes that it set are
    restored instead.
    """
    options = dict(description.options)
    options["args"].settle(str(place.store.local))
    trainer = object.__new__(description.kind)
    trainer.place = place
    SentenceTransformerTrainer.__init__(trainer, **options)
    for kind in (*description.removed, ProgressCallback, PrinterCallback):
        trainer.remove_callback(kind)
    trainer.add_callback(_progress(description.progress))
    trainer.__dict__.update(description.extras)
    return trainer


def _progress(spec: ProgressSpec) -> ProgressReport:
    from ray_st.runtime.bar import open_bar

    return ProgressReport(open_bar if spec.bar else None, write_line)


def _train_task(trainer: SentenceTransformerTrainer, resume_from: str | None) -> Outcome:
    result = trainer.train(resume_from_checkpoint=resume_from)
    owned = owned_by_loss(trainer.model, trainer.loss)
    return Outcome(
        result=result,
        state=trainer.state.to_json_string() if hasattr(trainer.state, "to_json_string") else _state_json(trainer.state),
        model={name: tensor.detach().cpu() for name, tensor in trainer.model.state_dict().items()},
        loss={name: tensor.detach().cpu() for name, tensor in owned.items()},
        callbacks=tuple(dict(callback.__dict__) for callback in trainer._user_callbacks()),
    )


def _evaluate_task(trainer: SentenceTransformerTrainer, resume_from: str | None, prefix: str) -> Outcome:
    return Outcome(result=trainer.evaluate(metric_key_prefix=prefix), state="")


def _state_json(state: TrainerState) -> str:
    import dataclasses

    return json.dumps(dataclasses.asdict(state))


def _names_of(eval_dataset: Any) -> Any:
    """Names in place of evaluation datasets: on a worker they are feeds."""
    if isinstance(eval_dataset, dict):
        return {name: name for name in eval_dataset}
    return None if eval_dataset is None else ""


def _columns_of(source: Any, name: str) -> ColumnSpec:
    if isinstance(source, datasets.Dataset):
        schema = source.features.arrow_schema
        columns = split_columns(source.column_names)
        check_types(columns, {field.name: field.type for field in schema}, name)
        return columns
    if hasattr(source, "map_batches") and hasattr(source, "schema"):
        schema = source.schema()
        columns = split_columns(schema.names)
        check_types(columns, dict(zip(schema.names, schema.types, strict=True)), name)
        return columns
    raise ValueError(f"{name} must be a datasets.Dataset or a Ray Dataset; got {type(source).__name__}.")


def _one_evaluator(evaluator: Any) -> Any:
    if not isinstance(evaluator, Iterable) or callable(evaluator):
        return evaluator
    from ray_st.evaluation import SequentialEvaluator

    return SequentialEvaluator(list(evaluator))
