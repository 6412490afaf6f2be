"""The data of a run, described: which datasets make up which feed, in which batches, refused where they cannot work."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import datasets
import torch
from transformers import IntervalStrategy, TrainerCallback

from ray_st.data.column_spec import ColumnSpec, check_batch, check_full_batch, check_splits
from ray_st.data.prompts import prompts_of
from ray_st.data.routes import Route, refuse_unknown_columns
from ray_st.evaluation.metric_names import MetricNames, check_best_metric, names_in_training
from ray_st.training.argument_checks import check_recomputation
from ray_st.training.data.dataset_specs import (
    columns_of,
    epochs_needed,
    is_mixture,
    is_ray_dataset,
    loss_for,
    make_part,
    named,
    negatives_pool,
    opened,
)
from ray_st.training.data.router_routes import checked_routes, routers_of
from ray_st.training.data.sampler_factory import (
    SamplerMaker,
    batch_sampler,
    check_sampler,
    in_order,
    multi_dataset_batch_sampler,
    order_settings,
)
from ray_st.training.data.specs import TRAIN, DatasetSpec, LoaderSpec, eval_key
from ray_st.training.loop.hf_loop import TrainingLoop
from ray_st.training_args import BadRows, BatchSamplers


class DescribedData(TrainingLoop):
    """A trainer that says what a run reads, and how its rows are sampled."""

    scaling_config: Any = None

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

    def metric_names(self) -> MetricNames:
        """The metrics that each evaluation reports while training, as far as they are known before it starts.

        They are all of them unless ``compute_metrics``, an evaluator that does not say its own, a callback with an
        ``on_evaluate``, or an overridden method of the trainer may add others.
        """
        own = [type(callback) for callback in self.own_callbacks()]
        # transformers' callbacks read metrics; those of users may enter more of them.
        may_add = any(
            kind.on_evaluate is not TrainerCallback.on_evaluate
            and kind.__module__.split(".")[0] != "transformers"
            for kind in own
        )
        computes = self.compute_metrics is not None and not self.args.prediction_loss_only
        return names_in_training(
            list(named(self.eval_dataset)),
            self.evaluator,
            self.model,
            computes or may_add or self._evaluates_otherwise(),
        )

    def _evaluates_otherwise(self) -> bool:
        """Whether a subclass has an evaluation of its own."""
        return False

    # ---- parts of a run ----

    def check_run(self) -> None:
        """Refuses what can be known not to work before there is a cluster, or any row was read.

        Raises:
            ValueError: If the datasets, the loss, the evaluator and the arguments don't fit each other.
        """
        self._check_metrics()
        given = [*named(self.train_dataset).values(), *named(self.eval_dataset).values()]
        if any(is_ray_dataset(value) for value in given):
            return  # which columns it has only the cluster knows
        if self.train_dataset is None:
            self._eval_parts(self.eval_dataset, self.workers_asked)
        else:
            self._train_parts(self.workers_asked)

    @property
    def workers_asked(self) -> int:
        """How many workers the scaling names; one where the cluster decides, or where there are to be none."""
        return max(getattr(self.scaling_config, "num_workers", 1), 1)

    def _check_metrics(self) -> None:
        strategy = IntervalStrategy(self.args.eval_strategy)
        if strategy != IntervalStrategy.NO and self.eval_dataset is None and self.evaluator is None:
            raise ValueError(
                f"eval_strategy={strategy.value!r} needs an eval_dataset or an evaluator; the trainer has neither."
            )
        check_best_metric(self.args, self.own_callbacks(), self.lr_scheduler, self.metric_names())

    def _run_parts(self, world_size: int) -> dict[str, LoaderSpec]:
        """The data of a training run, of a trainer whose arguments may have changed since it was made."""
        self._check_metrics()
        return self._train_parts(world_size)

    def _train_parts(self, world_size: int) -> dict[str, LoaderSpec]:
        if self.train_dataset is None:
            raise ValueError("Training needs a train_dataset; none was given.")
        self._check_router_mapping()
        check_recomputation(self.args, self.loss, world_size)
        parts = {TRAIN: self._train_part(world_size)}
        if IntervalStrategy(self.args.eval_strategy) != IntervalStrategy.NO:
            parts.update(self._eval_parts(self.eval_dataset, world_size))
        return parts

    def _train_part(self, world_size: int) -> LoaderSpec:
        args, sources = self.args, named(self.train_dataset)
        check_splits(sources)
        sizes = args.global_batch_sizes(world_size, list(sources))
        return LoaderSpec(
            datasets={
                name: self._part(
                    source, name, "train_dataset", sizes[name], self._maker(source, sizes[name]), world_size
                )
                for name, source in sources.items()
            },
            mix=self._mix if is_mixture(self.train_dataset) else None,
            epochs=epochs_needed(args, min(sizes.values())),
            rows_needed=world_size,
            seed=args.seed if args.data_seed is None else args.data_seed,
            drop_last=args.dataloader_drop_last,
            skip_bad_rows=args.bad_rows == BadRows.SKIP,
            window_bytes=args.window_bytes,
            settings=order_settings(self, DescribedData, list(sources)),
        )

    def _maker(self, source: Any, batch_size: int) -> Callable[[Any, int], Any]:
        """Makes samplers of a training dataset, here or, for its windows, where the plan is made."""
        overridden = type(self).get_batch_sampler is not DescribedData.get_batch_sampler
        own = overridden or not isinstance(self.args.batch_sampler, BatchSamplers)
        whole = source if own and isinstance(source, datasets.Dataset) else None
        return SamplerMaker(self._shell(), whole, batch_size, self.args.dataloader_drop_last)

    def _mix(self, keys: Any, samplers: list[Any], seed: int) -> Any:
        return self.get_multi_dataset_batch_sampler(keys, samplers, seed=seed)

    def _shell(self) -> Any:
        """This trainer without model, data and devices: enough for a method that makes a sampler."""
        shell = object.__new__(type(self))
        shell.__dict__.update(self._extras())
        shell.args = self.args
        return shell

    def _eval_parts(self, eval_dataset: Any, world_size: int) -> dict[str, LoaderSpec]:
        self._check_router_mapping()
        batch_size = self.args.per_device_eval_batch_size * world_size
        maker = functools.partial(in_order, batch_size=batch_size)
        return {
            eval_key(name): LoaderSpec(
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
    ) -> DatasetSpec:
        label = f"{kind}[{name!r}]" if name else kind
        names = list(dict.fromkeys([*named(self.train_dataset), *named(self.eval_dataset)]))
        loss = loss_for(self.loss, name, label)
        if self.args.collisions == "mask" and not getattr(loss, "leaves_out_repeats", False):
            raise ValueError(
                f'{label}: collisions="mask" needs a loss that leaves repeated texts out of its negatives, such as '
                f"MultipleNegativesRankingLoss; {type(loss).__name__} does not."
            )
        rows = self.args.max_steps * self.args.gradient_accumulation_steps * batch_size
        encoder = self.model.token_encoder()
        if encoder is not None and self.args.prompts:
            encoder.check_prefixes()
        part = make_part(
            opened(source, label, rows if rows > 0 and kind == "train_dataset" else None),
            label,
            loss,
            # Turns texts into token ids ahead of training; a collator of the user's wants texts.
            None if self.user_collator is not None else encoder,
            lambda columns: prompts_of(self.args.prompts, columns, name or None, names),
            batch_size,
            maker,
            lambda columns: self._routes(columns, name, label),
        )
        if kind == "train_dataset":
            check_sampler(self.args, part.encoding.columns, batch_size, label)
            check_batch(part.encoding.columns, loss, batch_size, world_size, label)
            if self.args.dataloader_drop_last and isinstance(source, datasets.Dataset):
                check_full_batch(len(source), batch_size, label)
            part = dataclasses.replace(part, pool=negatives_pool(loss, batch_size, world_size))
        return part

    def _routes(self, columns: ColumnSpec, name: str, label: str) -> Mapping[str, Route]:
        """The rows of the model that a dataset's text columns take."""
        routes = checked_routes(self.model, self.args.router_mapping, columns, name, label)
        for route in routes.values() if self.args.prompts else ():
            if route.encoder is not None:
                route.encoder.check_prefixes()
        if self.user_collator is None:
            return routes
        return {column: dataclasses.replace(route, encoder=None) for column, route in routes.items()}

    def _check_router_mapping(self) -> None:
        """Refuses names in ``router_mapping`` that neither the training nor the evaluation data has."""
        mapping = self.args.router_mapping
        if not mapping or not routers_of(self.model):
            return
        texts: dict[str, tuple[str, ...]] = {}
        for kind in ("train_dataset", "eval_dataset"):
            for name, source in named(getattr(self, kind)).items():
                label = f"{kind}[{name!r}]" if name else kind
                columns = columns_of(opened(source, label, rows=1), label).texts
                texts[name] = tuple(dict.fromkeys([*texts.get(name, ()), *columns]))
        refuse_unknown_columns(mapping, texts, single=list(texts) == [""])

    def _extras(self) -> dict[str, Any]:
        """The attributes that a subclass set."""
        return {key: value for key, value in self.__dict__.items() if key not in self._managed}
