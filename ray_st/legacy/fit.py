"""``SentenceTransformer.fit``: a run of the trainer, from loaders of examples."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

from ray_st.legacy.keeping import Best
from ray_st.legacy.objectives import Objective, read_objectives
from ray_st.legacy.schedules import check_scheduler
from ray_st.legacy.trainer import Evaluations, FitTrainer
from ray_st.models.fitting import FitOptions, Objectives
from ray_st.training_args import SentenceTransformerTrainingArguments
from ray_st.util.uploads import upload_of

_RUNS = "checkpoints"


def fit(
    model: Any, train_objectives: Objectives, options: FitOptions, scaling_config: Any, run_config: Any
) -> None:
    """Trains a model on the cluster; see :meth:`ray_st.SentenceTransformer.fit`.

    Args:
        model: The model.
        train_objectives: Pairs of a loader and a loss.
        options: The other arguments.
        scaling_config: Ray Train's.
        run_config: Ray Train's.
    """
    check_scheduler(options.scheduler)
    objectives = read_objectives(train_objectives)
    trainer = make_trainer(model, objectives, options, scaling_config=scaling_config, run_config=run_config)
    from ray_st.runtime.cluster import connected
    from ray_st.runtime.relay import relayed

    with ExitStack() as until_the_end:
        if options.evaluator is not None:
            until_the_end.enter_context(connected())
            best = until_the_end.enter_context(relayed(Best(model, options)))
            trainer.add_callback(evaluations(len(objectives), options, best))
        trainer.train(resume_from_checkpoint=resumes(trainer))
    if options.evaluator is None and options.output_path is not None:
        model.save(options.output_path)


def make_trainer(
    model: Any, objectives: Mapping[str, Objective], options: FitOptions, **more: Any
) -> FitTrainer:
    """The trainer of a fit.

    Args:
        model: The model.
        objectives: What to train it on.
        options: The arguments of ``fit``.
        **more: Further arguments of the trainer.
    """
    sizes = {name: objective.order.batch_size for name, objective in objectives.items()}
    rounds = options.steps_per_epoch
    every = options.checkpoint_save_steps
    args = SentenceTransformerTrainingArguments(
        output_dir=options.checkpoint_path or _free_folder(),
        multi_dataset_batch_sampler="round_robin",
        router_mapping={name: dict(one.tasks) for name, one in objectives.items() if one.tasks} or None,
        dataset_batch_sizes=sizes,
        per_device_train_batch_size=max(sizes.values()),
        num_train_epochs=options.epochs,
        max_steps=rounds * len(objectives) * options.epochs if rounds else -1,
        max_grad_norm=options.max_grad_norm,
        fp16=options.use_amp,
        disable_tqdm=not options.show_progress_bar,
        save_strategy="no" if options.checkpoint_path is None else "steps" if every else "epoch",
        save_steps=every or 1,
        save_total_limit=options.checkpoint_save_total_limit or None,
    )
    return FitTrainer(
        {name: objective.order for name, objective in objectives.items()},
        options,
        model=model,
        args=args,
        train_dataset={name: objective.rows for name, objective in objectives.items()},
        loss={name: objective.loss for name, objective in objectives.items()},
        evaluator=options.evaluator,
        **more,
    )


def evaluations(objectives: int, options: FitOptions, best: Callable[..., Any]) -> Evaluations:
    """Evaluates when the options say so.

    Args:
        objectives: How many there are; each takes a step in turn.
        options: The arguments of ``fit``.
        best: Calls a method of a :class:`~ray_st.legacy.keeping.Best` by its name.
    """
    epoch = options.steps_per_epoch * objectives if options.steps_per_epoch else None
    return Evaluations(options.evaluator, options.evaluation_steps, epoch, best)


def _free_folder() -> str:
    """A folder of its own for each run that has none: Ray keeps its record of the run there."""
    names = (f"model_{number}" if number else "model" for number in count())
    # In a job's upload, which Ray deletes, there is no place for them; nobody asked for these files.
    runs = Path(_RUNS) if upload_of(_RUNS) is None else Path(tempfile.gettempdir()) / f"ray_st-{_RUNS}"
    folders = (runs / name for name in names)
    return str(next(folder for folder in folders if not folder.exists() or not any(folder.iterdir())))


def resumes(trainer: FitTrainer) -> bool:
    """Whether to go on from a checkpoint: if that is asked for and there is one."""
    if not trainer.options.resume_from_checkpoint or trainer.options.checkpoint_path is None:
        return False
    from ray_st.runtime import launch

    return launch.has_checkpoint(trainer.run_config, str(trainer.args.output_dir))
