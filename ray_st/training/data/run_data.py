"""A run's data: the datasets of each source and their batches; raises if they cannot work."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import datasets
from transformers import IntervalStrategy

from ray_st.data.column_spec import (
    ColumnSpec,
    LossNeeds,
    check_batch,
    check_columns,
    check_full_batch,
    check_rows,
    check_splits,
)
from ray_st.data.encoding import Encoder, Encoding
from ray_st.data.prompts import prompt_of_pairs, prompts_of
from ray_st.data.routes import Route, check_mapping_names
from ray_st.data.window_sampler import MakeSampler
from ray_st.training.argument_checks import check_recomputation
from ray_st.training.data.dataset_specs import (
    RayDataset,
    columns_of,
    epochs_needed,
    is_mixture,
    named,
    negatives_pool,
    opened,
)
from ray_st.training.data.pair_features import takes_texts
from ray_st.training.data.router_routes import checked_routes, routers_of
from ray_st.training.data.sampler_factory import (
    SamplerMaker,
    SamplerMethods,
    check_sampler,
    in_order,
    order_settings,
)
from ray_st.training.data.specs import TRAIN, DatasetSpec, LoaderSpec, eval_key
from ray_st.training.family import Family
from ray_st.training.strategies.step_module import LossOrLosses, loss_for
from ray_st.training_args import BadRows, SentenceTransformerTrainingArguments


@dataclass(frozen=True)
class RunData:
    """What a run trains and evaluates on.

    Args:
        family: What kind of model it is.
        args: Training arguments.
        model: The model.
        loss: The loss, or one for each dataset.
        train_dataset: The dataset passed to the trainer, or None.
        eval_dataset: Likewise.
        collator: The user's collator, or None.
        samplers: The trainer's methods that create samplers.
        orders: Functions that create a training dataset's sampler instead of the trainer's methods, by
            dataset name.
    """

    family: Family
    args: SentenceTransformerTrainingArguments
    model: Any
    loss: LossOrLosses
    train_dataset: Any
    eval_dataset: Any
    collator: Callable[..., Any] | None
    samplers: SamplerMethods
    orders: Mapping[str, MakeSampler] = field(default_factory=dict)

    def check(self, world_size: int) -> None:
        """Raises for problems that can be detected before a cluster is started or any row is read.

        Args:
            world_size: Number of workers, if known.

        Raises:
            ValueError: If datasets, losses and arguments do not fit together.
        """
        given = [*named(self.train_dataset).values(), *named(self.eval_dataset).values()]
        if any(isinstance(value, RayDataset) for value in given):
            return  # only the cluster knows its columns
        if self.train_dataset is None:
            self.eval_specs(world_size)
        else:
            self.train_specs(world_size)

    def train_specs(self, world_size: int) -> dict[str, LoaderSpec]:
        """The sources of a training run, by name: training data, and evaluation data if it is evaluated.

        Args:
            world_size: Number of workers.

        Raises:
            ValueError: If there is no training data, or it cannot work.
        """
        if self.train_dataset is None:
            raise ValueError("Training needs a train_dataset; none was given.")
        self._check_router_mapping()
        check_recomputation(self.args, self.loss, world_size)
        specs = {TRAIN: self._train_spec(world_size)}
        if IntervalStrategy(self.args.eval_strategy) != IntervalStrategy.NO:
            specs.update(self.eval_specs(world_size))
        return specs

    def eval_specs(self, world_size: int) -> dict[str, LoaderSpec]:
        """The sources of an evaluation, by name.

        Args:
            world_size: Number of workers.
        """
        self._check_router_mapping()
        batch_size = self.args.per_device_eval_batch_size * world_size
        maker = functools.partial(in_order, batch_size=batch_size)
        return {
            eval_key(name): LoaderSpec(
                {name: self._dataset_spec(source, name, "eval_dataset", batch_size, maker)},
                skip_bad_rows=self.args.bad_rows == BadRows.SKIP,
                window_rows=self.args.window_rows,
            )
            for name, source in named(self.eval_dataset).items()
        }

    def _train_spec(self, world_size: int) -> LoaderSpec:
        args, sources = self.args, named(self.train_dataset)
        check_splits(sources)
        sizes = args.global_batch_sizes(world_size, list(sources))
        made = {
            name: self._dataset_spec(
                source, name, "train_dataset", sizes[name], self._maker(name, source, sizes[name]), world_size
            )
            for name, source in sources.items()
        }
        return LoaderSpec(
            datasets=made,
            mix=self.samplers.over_several if is_mixture(self.train_dataset) else None,
            epochs=epochs_needed(args, min(sizes.values())),
            rows_needed=world_size,
            seed=args.seed if args.data_seed is None else args.data_seed,
            drop_last=args.dataloader_drop_last,
            skip_bad_rows=args.bad_rows == BadRows.SKIP,
            window_rows=args.window_rows,
            streams=not self.orders and self.samplers.streams(len(sources)),
            steps_needed=args.max_steps * args.gradient_accumulation_steps if args.max_steps > 0 else None,
            settings=order_settings(args, self.samplers, list(sources)),
        )

    def _maker(self, name: str, source: object, batch_size: int) -> MakeSampler:
        """Creates samplers of a training dataset, here or, for its windows, where plans are made."""
        if name in self.orders:
            return self.orders[name]
        whole = source if self.samplers.wants_dataset and isinstance(source, datasets.Dataset) else None
        return SamplerMaker(self.samplers, whole, batch_size, self.args.dataloader_drop_last)

    def _dataset_spec(
        self,
        source: object,
        name: str,
        kind: str,
        batch_size: int,
        maker: MakeSampler,
        world_size: int = 1,
    ) -> DatasetSpec:
        label, training = _label(kind, name), kind == "train_dataset"
        loss = loss_for(self.loss, name, label)
        if self.args.collisions == "mask" and not LossNeeds.of(loss).leaves_out_repeats:
            raise ValueError(
                f'{label}: collisions="mask" needs a loss that leaves repeated texts out of its negatives, '
                f"such as MultipleNegativesRankingLoss; {type(loss).__name__} does not."
            )
        rows = self.args.max_steps * self.args.gradient_accumulation_steps * batch_size
        encoder = self._encoder()
        rows_source = opened(source, label, rows if rows > 0 and training else None)
        columns = check_columns(columns_of(rows_source, label, loss), loss, label)
        if isinstance(rows_source, datasets.Dataset):
            check_rows(len(rows_source), 1, label)
        resolve = prompt_of_pairs if self.family.takes_pairs else prompts_of
        encoding = Encoding(
            columns,
            encoder,
            keep_texts=self.family.takes_pairs and takes_texts(loss),
            prompts=resolve(self.args.prompts, columns, name or None, self._names()),
            routes=self._routes(columns, name, label),
        )
        spec = DatasetSpec(label, rows_source, encoding, batch_size, maker, encoding.prompt_lengths)
        if not training:
            return spec
        check_sampler(self.args, columns, batch_size, label)
        check_batch(columns, loss, batch_size, world_size, label)
        if self.args.dataloader_drop_last and isinstance(source, datasets.Dataset):
            check_full_batch(len(source), batch_size, label)
        return dataclasses.replace(spec, pool=negatives_pool(loss, batch_size, world_size))

    def _names(self) -> list[str]:
        return list(dict.fromkeys([*named(self.train_dataset), *named(self.eval_dataset)]))

    def _encoder(self) -> Encoder | None:
        """Tokenizes texts ahead of training; None for a user's collator, which takes texts."""
        encoder: Any = self.family.encoder(self.model)
        if encoder is not None and self.args.prompts:
            encoder.check_prefixes()
        return None if self.collator is not None else encoder

    def _routes(self, columns: ColumnSpec, name: str, label: str) -> Mapping[str, Route]:
        """The model's routes for a dataset's text columns."""
        routes = checked_routes(self.model, self.args.router_mapping, columns, name, label)
        for route in routes.values() if self.args.prompts else ():
            if route.encoder is not None:
                route.encoder.check_prefixes()
        if self.collator is None:
            return routes
        return {column: dataclasses.replace(route, encoder=None) for column, route in routes.items()}

    def _check_router_mapping(self) -> None:
        """Raises if ``router_mapping`` names something in neither the training nor the evaluation data."""
        mapping = self.args.router_mapping
        if not mapping or not routers_of(self.model):
            return
        texts: dict[str, tuple[str, ...]] = {}
        for kind, given in (("train_dataset", self.train_dataset), ("eval_dataset", self.eval_dataset)):
            for name, source in named(given).items():
                label = _label(kind, name)
                columns = columns_of(opened(source, label, rows=1), label).texts
                texts[name] = tuple(dict.fromkeys([*texts.get(name, ()), *columns]))
        check_mapping_names(mapping, texts, single=list(texts) == [""])


def _label(kind: str, name: str) -> str:
    return f"{kind}[{name!r}]" if name else kind
