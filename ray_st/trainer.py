"""What users hold: the trainer, which describes a run on the driver and runs the loop on each worker."""

from __future__ import annotations

import functools
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import nn
from transformers import IntervalStrategy, TrainerCallback

from ray_st.data.columns import check_batch
from ray_st.data.prompts import prompts_of
from ray_st.training.card import describe_run
from ray_st.training.loop import TrainingLoop
from ray_st.training.parts import (
    epochs_needed,
    is_mixture,
    loss_for,
    make_part,
    named,
    names_of,
    opened,
    prompt_lengths,
)
from ray_st.training.run import TRAIN_FEED, DataPart, FeedPart, Outcome, Run, eval_feed
from ray_st.training.sampling import (
    SamplerMaker,
    batch_sampler,
    check_sampler,
    in_order,
    multi_dataset_batch_sampler,
)
from ray_st.training.travel import Description, evaluate_task, take_over, train_task, user_callbacks
from ray_st.training_args import BadRows, EvalOn, SentenceTransformerTrainingArguments

_NO_DATASET = "none"


class SentenceTransformerTrainer(TrainingLoop):
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
        _make_folder(str(args.output_dir))
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
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.user_collator = data_collator
        self.scaling_config, self.run_config = scaling_config, run_config
        self.loss = self._make_loss(loss)
        self.evaluator = _one_evaluator(evaluator)
        self._default_callbacks = [type(callback) for callback in self.callback_handler.callbacks]
        self._default_callbacks = [
            kind for kind in self._default_callbacks if kind not in map(type, callbacks or [])
        ]
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

        Called on the driver, before workers start. For data larger than memory it is called again for each window of
        rows, away from the driver: it may use ``self.args`` and attributes of its own there, not the model.

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
        return batch_sampler(self.args, dataset, batch_size, drop_last, valid_label_columns, generator, seed)

    def get_multi_dataset_batch_sampler(
        self,
        dataset: Any,
        batch_samplers: list[Any],
        generator: torch.Generator | None = None,
        seed: int | None = 0,
    ) -> Any:
        """The sampler over several datasets that the arguments name; override it for one of your own.

        Args:
            dataset: The datasets' keys as one, with ``datasets`` and ``cumulative_sizes``.
            batch_samplers: A batch sampler for each dataset.
            generator: A generator whose initial seed is used instead of ``seed``.
            seed: Seed of the order of datasets.

        Returns:
            An iterable of lists of row indices over all datasets, each list from one of them.
        """
        names = list(named(self.train_dataset))
        return multi_dataset_batch_sampler(self.args, names, dataset, batch_samplers, generator, seed)

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
        self.is_in_train = True
        try:
            outcome = self._on_cluster(train_task, self._train_parts, resume_from_checkpoint, keeps=True)
        finally:
            self.is_in_train = False
        take_over(self, outcome)
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
        task = functools.partial(evaluate_task, prefix=metric_key_prefix)
        parts = functools.partial(self._eval_parts, chosen)
        metrics: dict[str, float] = self._on_cluster(task, parts, None, keeps=False).result
        self.state.log_history.append({**metrics, "step": self.state.global_step})
        return metrics

    def _on_cluster(
        self,
        task: Callable[..., Any],
        make_parts: Callable[[int], dict[str, FeedPart]],
        resume: str | bool | None,
        keeps: bool,
    ) -> Outcome:
        """Runs a task on workers.

        Args:
            task: What the trainer does there.
            make_parts: Makes the run's data parts for a number of workers; refuses what cannot work.
            resume: The checkpoint to start from.
            keeps: Whether the run writes into the output folder.
        """
        parts = make_parts(1)  # refuses what cannot work before Ray is started
        if keeps:
            describe_run(self, parts)
        from ray_st.runtime import cluster, launch, storage
        from ray_st.runtime.beside import Beside, resources_beside

        with cluster.connected(), storage.run_folder(str(self.args.output_dir), keeps) as output_dir:
            scaling = launch.resolve_scaling(self.scaling_config)
            aside = keeps and self._evaluates_beside
            resources = resources_beside(self.args.eval_resources, scaling) if aside else {}
            cluster.check_fits(scaling, resources)
            run_config = launch.complete_run_config(self.run_config if keeps else None, output_dir)
            store = storage.open_store(run_config, uuid.uuid4().hex)
            storage.prepare(store)
            self._check_ledger(store)
            start = storage.find_checkpoint(store, resume)
            parts = make_parts(launch.workers_of(scaling))
            fed = {name: launch.make_feed(part) for name, part in parts.items()}
            launch.announce(fed, store)
            if not self.args.ignore_data_skip:
                storage.check_fingerprint(start, fed)
            run = Run(
                run_id=store.run_id,
                build=self._describe().rebuild,
                task=task,
                feeds=tuple(fed),
                resume_from=start.path,
                resume_name=start.name,
                prompt_lengths=prompt_lengths(parts),
                bar=sys.stderr.isatty() and not self.args.disable_tqdm,
                facts=storage.facts_of(fed),
                ledger=self.args.ledger and keeps,
            )
            feeds = {name: part.feed for name, part in fed.items()}
            beside = Beside(store, launch.workers_of(scaling), resources) if aside else None
            return launch.launch(run, feeds, scaling, run_config, beside)

    @property
    def _evaluates_beside(self) -> bool:
        evaluates = IntervalStrategy(self.args.eval_strategy) != IntervalStrategy.NO
        return evaluates and self.args.eval_on == EvalOn.BACKGROUND

    # ---- data ----

    def _train_parts(self, world_size: int) -> dict[str, FeedPart]:
        if self.train_dataset is None:
            raise ValueError("Training needs a train_dataset; none was given.")
        parts = {TRAIN_FEED: self._train_part(world_size)}
        strategy = IntervalStrategy(self.args.eval_strategy)
        if strategy != IntervalStrategy.NO:
            if self.eval_dataset is None and self.evaluator is None:
                raise ValueError(
                    f"eval_strategy={strategy.value!r} needs an eval_dataset or an evaluator; the trainer has neither."
                )
            parts.update(self._eval_parts(self.eval_dataset, world_size))
        return parts

    def _train_part(self, world_size: int) -> FeedPart:
        args, sources = self.args, named(self.train_dataset)
        sizes = args.global_batch_sizes(world_size, list(sources))
        return FeedPart(
            datasets={
                name: self._part(source, name, "train_dataset", sizes[name], self._maker(source, sizes[name]), world_size)
                for name, source in sources.items()
            },
            mix=self._mix if is_mixture(self.train_dataset) else None,
            epochs=epochs_needed(args, min(sizes.values())),
            rows_needed=world_size,
            seed=args.seed if args.data_seed is None else args.data_seed,
            drop_last=args.dataloader_drop_last,
            skip_bad_rows=args.bad_rows == BadRows.SKIP,
            window_bytes=args.window_bytes,
        )

    def _maker(self, source: Any, batch_size: int) -> SamplerMaker:
        """Makes samplers of a training dataset, here or, for its windows, where the plan is made."""
        overridden = type(self).get_batch_sampler is not SentenceTransformerTrainer.get_batch_sampler
        whole = source if overridden and isinstance(source, datasets.Dataset) else None
        return SamplerMaker(self._shell(), whole, batch_size, self.args.dataloader_drop_last)

    def _mix(self, keys: Any, samplers: list[Any], seed: int) -> Any:
        return self.get_multi_dataset_batch_sampler(keys, samplers, seed=seed)

    def _shell(self) -> Any:
        """This trainer without model, data and devices: enough for a method that makes a sampler."""
        shell = object.__new__(type(self))
        shell.__dict__.update(self._extras())
        shell.args = self.args
        return shell

    def _eval_parts(self, eval_dataset: Any, world_size: int) -> dict[str, FeedPart]:
        batch_size = self.args.per_device_eval_batch_size * world_size
        maker = functools.partial(in_order, batch_size=batch_size)
        return {
            eval_feed(name): FeedPart(
                {name: self._part(source, name, "eval_dataset", batch_size, maker)},
                skip_bad_rows=self.args.bad_rows == BadRows.SKIP,
            )
            for name, source in named(eval_dataset).items()
        }

    def _part(
        self,
        source: Any,
        name: str,
        kind: str,
        batch_size: int,
        maker: Callable[[Any, int], Any],
        world_size: int = 1,
    ) -> DataPart:
        label = f"{kind}[{name!r}]" if name else kind
        names = list(dict.fromkeys([*named(self.train_dataset), *named(self.eval_dataset)]))
        loss = loss_for(self.loss, name, label)
        if self.args.collisions == "mask" and not getattr(loss, "leaves_out_repeats", False):
            raise ValueError(
                f'{label}: collisions="mask" needs a loss that leaves repeated texts out of its negatives, such as '
                f"MultipleNegativesRankingLoss; {type(loss).__name__} does not."
            )
        rows = self.args.max_steps * self.args.gradient_accumulation_steps * batch_size
        part = make_part(
            opened(source, label, rows if rows > 0 and kind == "train_dataset" else None),
            label,
            loss,
            # Turns texts into token ids ahead of training; a collator of the user's wants texts.
            None if self.user_collator is not None else self.model.token_encoder(),
            lambda columns: prompts_of(self.args.prompts, columns, name or None, names),
            batch_size,
            maker,
        )
        if kind == "train_dataset":
            check_sampler(self.args, part.encoding.columns, batch_size, label)
            check_batch(part.encoding.columns, loss, batch_size, world_size, label)
        return part

    def _check_ledger(self, store: Any) -> None:
        if self.args.ledger and not store.is_local:
            raise ValueError(
                f"ledger=True needs a run folder on a local or mounted disk; {store.path} is not one."
            )

    # ---- there and back ----

    def _describe(self) -> Description:
        kept = [type(callback) for callback in self.callback_handler.callbacks]
        return Description(
            kind=type(self),
            init=SentenceTransformerTrainer.__init__,
            options={
                "model": self.model,
                "args": self.args,
                "eval_dataset": names_of(self.eval_dataset),
                "loss": self.loss,
                "evaluator": self.evaluator,
                "data_collator": self.user_collator,
                "compute_metrics": self.compute_metrics,
                "callbacks": self.own_callbacks(),
                "optimizers": (self.optimizer, self.lr_scheduler),
                "preprocess_logits_for_metrics": self.preprocess_logits_for_metrics,
            },
            removed=[kind for kind in self._default_callbacks if kind not in kept],
            extras=self._extras(),
        )

    def _extras(self) -> dict[str, Any]:
        """The attributes that a subclass set."""
        return {key: value for key, value in self.__dict__.items() if key not in self._managed}

    def own_callbacks(self) -> list[TrainerCallback]:
        """The callbacks that the user gave or added."""
        return user_callbacks(self, self._default_callbacks)


def _make_folder(output_dir: str) -> None:
    try:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"The output folder {output_dir} cannot be written ({error}). Choose another output_dir."
        ) from error


def _one_evaluator(evaluator: Any) -> Any:
    if not isinstance(evaluator, (list, tuple)):
        return evaluator
    from ray_st.evaluation import SequentialEvaluator

    return SequentialEvaluator(list(evaluator))
