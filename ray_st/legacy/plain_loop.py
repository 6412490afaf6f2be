"""The plain loop of older releases: one process, all objectives in turn, an optimizer for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import trange

from ray_st.legacy.best_model import Best, metrics_folder, save_step, score_of
from ray_st.legacy.schedules import check_scheduler, make_optimizer, make_scheduler
from ray_st.models.fit_methods import FitOptions, Loader, Objectives
from ray_st.models.sentence_transformer import SentenceTransformer
from ray_st.training.strategies.precision import StoredTypes, note_on_types, widened
from ray_st.util.events import notes
from ray_st.util.tensors import batch_to_device


class _Lane:
    """One objective: an endless supply of batches, and a training step on one of them."""

    def __init__(
        self, loader: Loader, loss: nn.Module, device: torch.device, options: FitOptions, steps: int
    ) -> None:
        self.loss = loss.to(device)
        self._device, self._options = device, options
        self._batches = _endless(loader)
        self._optimizer = make_optimizer(loss, options)
        self._scheduler = make_scheduler(self._optimizer, options.scheduler, options.warmup_steps, steps)

    def step(self, scaler: torch.amp.GradScaler) -> None:
        features, labels = next(self._batches)
        with torch.autocast(self._device.type, enabled=self._options.use_amp):
            loss = self._value([batch_to_device(column, self._device) for column in features], labels)
        scaler.scale(loss).backward()
        scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self.loss.parameters(), self._options.max_grad_norm)
        scale = scaler.get_scale()
        scaler.step(self._optimizer)
        scaler.update()
        self._optimizer.zero_grad()
        if scaler.get_scale() >= scale:  # a lower scale means that the optimizer's step was skipped
            self._scheduler.step()

    def _value(self, features: list[dict[str, Any]], labels: Tensor) -> Tensor:
        value = self.loss(features, labels.to(self._device))
        return torch.stack(list(value.values())).sum() if isinstance(value, dict) else value


def old_fit(model: SentenceTransformer, train_objectives: Objectives, options: FitOptions) -> None:
    """Trains a model in this process; see :meth:`ray_st.SentenceTransformer.old_fit`.

    Args:
        model: The model.
        train_objectives: Pairs of a loader and a loss.
        options: The other arguments.

    Raises:
        ValueError: If there is no objective, or the scheduler is unknown.
    """
    objectives = list(train_objectives)
    if not objectives:
        raise ValueError("train_objectives: expected pairs of a loader and a loss; found none.")
    check_scheduler(options.scheduler)
    losses = {str(number): loss for number, (_, loss) in enumerate(objectives)}
    if note := note_on_types(model, losses):
        notes.info(note)
    collating = _collating([loader for loader, _ in objectives], model.smart_batching_collate)
    with collating, widened(model, losses) as types:
        rounds = options.steps_per_epoch or max(min(len(loader) for loader, _ in objectives), 1)
        steps = rounds * options.epochs
        lanes = [_Lane(loader, loss, model.device, options, steps) for loader, loss in objectives]
        _train(model, lanes, options, rounds, types)
    if options.evaluator is None and options.output_path is not None:
        model.save(options.output_path)
    if options.checkpoint_path is not None:
        save_step(model, options.checkpoint_path, steps, options.checkpoint_save_total_limit)


def _endless(loader: Loader) -> Iterator[Any]:
    while True:
        batch = None
        for batch in loader:
            yield batch
        if batch is None:
            raise ValueError(
                "train_objectives: a loader has no batch; give it more examples, or drop_last=False."
            )


def _train(
    model: SentenceTransformer,
    lanes: Sequence[_Lane],
    options: FitOptions,
    rounds: int,
    types: StoredTypes,
) -> None:
    scaler = torch.amp.GradScaler(model.device.type, enabled=options.use_amp)
    best, quiet = Best(model, options), not options.show_progress_bar
    for epoch in trange(options.epochs, desc="Epoch", disable=quiet):
        _train_mode(lanes)
        for step in trange(1, rounds + 1, desc="Iteration", disable=quiet):
            for lane in lanes:
                lane.step(scaler)
            if options.evaluation_steps and step % options.evaluation_steps == 0:
                _evaluate(model, options, best, epoch, step, types)
                _train_mode(lanes)
            _save_at(model, options, epoch * rounds + step, types)
        _evaluate(model, options, best, epoch, -1, types)


def _train_mode(lanes: Sequence[_Lane]) -> None:
    for lane in lanes:
        lane.loss.zero_grad()
        lane.loss.train()


def _evaluate(
    model: SentenceTransformer, options: FitOptions, best: Best, epoch: int, steps: int, types: StoredTypes
) -> None:
    if options.evaluator is None:
        return
    folder = metrics_folder(options.output_path)
    metrics = options.evaluator(model, output_path=folder, epoch=epoch, steps=steps)
    if best.record(score_of(options.evaluator, metrics), epoch, steps):
        with types.for_a_while():
            best.save()


def _save_at(model: SentenceTransformer, options: FitOptions, step: int, types: StoredTypes) -> None:
    every = options.checkpoint_save_steps
    if options.checkpoint_path is not None and every and step % every == 0:
        with types.for_a_while():
            save_step(model, options.checkpoint_path, step, options.checkpoint_save_total_limit)


@contextmanager
def _collating(loaders: Sequence[Loader], collate: Callable[..., Any]) -> Iterator[None]:
    """Within this context, loaders use our ``collate_fn``."""
    before = [loader.collate_fn for loader in loaders]
    for loader in loaders:
        loader.collate_fn = collate
    try:
        yield
    finally:
        for loader, own in zip(loaders, before, strict=True):
            loader.collate_fn = own
