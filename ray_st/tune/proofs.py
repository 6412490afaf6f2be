"""What is proved of a search before any trial starts: that each name is used and each value is accepted."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from transformers import set_seed
from transformers.trainer_utils import number_of_arguments

from ray_st.study.drawn_trial import DrawnTrial
from ray_st.study.space import Point
from ray_st.study.trial_arguments import SpaceError, argument_names, check_names
from ray_st.training.loss_factory import make_losses, takes_trial
from ray_st.training_args import EvalOn
from ray_st.tune.trial_factory import TrialFactory, call_model_init
from ray_st.util.names import did_you_mean


def check_trainer(trainer: Any, data_init: Any) -> None:
    """Refuses trainers that cannot be searched with.

    Args:
        trainer: The trainer.
        data_init: What makes a trial's training data, or None.

    Raises:
        ValueError: If it lacks something, or evaluates elsewhere.
    """
    if trainer.model_init is None:
        raise ValueError(
            "hyperparameter_search needs a trainer with model_init, a function that makes the model anew for each trial, in "
            "place of model: SentenceTransformerTrainer(model_init=lambda trial: SentenceTransformer(...), ...)."
        )
    if trainer.args.eval_on == EvalOn.BACKGROUND:
        raise ValueError('A search evaluates where it trains: use eval_on="workers".')
    if trainer.train_dataset is None and data_init is None:
        raise ValueError("A search needs a train_dataset, or data_init=...; the trainer has none.")


def check_resting(template: TrialFactory) -> None:
    """Refuses arguments with which a trial cannot wait at a rung and go on from its checkpoint.

    Raises:
        ValueError: Naming what to change.
    """
    args = template.description.options["args"]
    if args.save_only_model or args.deepspeed:
        given = "save_only_model=True" if args.save_only_model else "deepspeed"
        raise ValueError(
            f'scheduler="halving": trials wait, and go on from checkpoints, which hold no optimizer with {given}. Leave it '
            'out, or use scheduler="asha".'
        )


def check_points(points: Sequence[Mapping[str, Any]], distributions: Mapping[str, Any]) -> None:
    """Refuses given points with names that are not in the space.

    Args:
        points: Parameters by name.
        distributions: What the space holds, by name.

    Raises:
        SpaceError: At the first such name.
    """
    for place, point in enumerate(points):
        for name in point:
            if name not in distributions:
                raise SpaceError(
                    f"points_to_evaluate[{place}]: {name!r} is not in the space; {did_you_mean(name, distributions)}"
                )


def prove(template: TrialFactory, points: Sequence[Point]) -> TrialFactory:
    """Refuses names that nothing uses and values that arguments refuse; keeps the model if trials don't change it.

    Args:
        template: What all trials share.
        points: Points of the space, with all of its names.

    Raises:
        SpaceError: At the first name or value that cannot be meant.
    """
    args = template.description.options["args"]
    arguments = argument_names(args)
    for point in points:
        template.args(point.values)
    names = {name for point in points for name in point.values}
    free, readers = names - arguments, _readers(template)
    if not readers:
        check_names(sorted(names), arguments, (), readers)
    read, read_by_model, read_by_loss, read_by_data = (set[str]() for _ in range(4))
    model = None
    for point in _by_names(points, free):
        for_model, for_loss, for_data = (DrawnTrial(0, point.values) for _ in range(3))
        set_seed(args.seed)
        model = call_model_init(template.model_init, for_model)
        make_losses(template.loss_init, model, anew=True, trial=for_loss)
        if template.data_init is not None:
            template.data_init(for_data)
        read_by_model |= for_model.read
        read_by_loss |= for_loss.read
        read_by_data |= for_data.read
        read = read_by_model | read_by_loss | read_by_data
        if free <= read:
            break
    check_names(sorted(names), arguments, read, readers)
    of_loss = frozenset(read_by_loss - read_by_model - read_by_data - arguments)
    template = dataclasses.replace(template, of_loss=of_loss)
    if read_by_model or "seed" in names or model is None:
        return template
    return dataclasses.replace(template, base=model.cpu())


def _readers(template: TrialFactory) -> list[str]:
    """What gets to see a trial's parameters."""
    losses = template.loss_init
    parts = losses.values() if isinstance(losses, Mapping) else [losses]
    return [
        *(["model_init"] if number_of_arguments(template.model_init) else []),
        *(["the loss initialiser"] if any(takes_trial(part) for part in parts) else []),
        *(["data_init"] if template.data_init is not None else []),
    ]


def _by_names(points: Sequence[Point], free: Collection[str]) -> list[Point]:
    """The points in such an order that the first few hold all free names; a model is made for each that is tried."""
    left, rest, first = set(free), list(points), []
    while left:
        best = max(rest, key=lambda point: len(left & set(point.values)))
        left -= set(best.values)
        rest.remove(best)
        first.append(best)
    return [*first, *rest]
