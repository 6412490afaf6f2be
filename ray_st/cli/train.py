"""Fine-tune the model of a run file. The whole file is validated before Ray starts."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ray_st.cli.evaluate import table
from ray_st.cli.run_checks import at, located
from ray_st.cli.runfile import RunFile, kind_of, read_run
from ray_st.util.events import FORMATS, event, notes, speaks_json
from ray_st.util.filesystems import upload_of

if TYPE_CHECKING:
    from torch import nn

    from ray_st.data.sources.source import Source
    from ray_st.evaluation import SentenceEvaluator
    from ray_st.model_trainer import ModelTrainer
    from ray_st.runtime.train.ray_configs import RunConfig
    from ray_st.training_args import SentenceTransformerTrainingArguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("file", metavar="RUN.yaml", help="the run file; see docs/run-files.md")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as args.learning_rate=1e-5")
    parser.add_argument("--check", action="store_true", help="validate the run and stop before Ray starts")
    parser.add_argument(
        "--resume", action="store_true", help="resume from the run's newest complete checkpoint"
    )
    parser.add_argument(
        "--continue",
        dest="go_on",
        action="store_true",
        help="resume from the newest complete checkpoint if there is one; for jobs that are retried",
    )
    parser.add_argument("--log-format", choices=FORMATS, help="format of log events; see docs/operations.md")


def run(options: argparse.Namespace) -> None:
    """Trains, saves the model to ``args.output_dir/final``, and shows the metrics before and after.

    Raises:
        RunFileError: If the run cannot work as described.
    """
    described = read_run(options.file, options.overrides)
    with located(options.file, OSError):  # a folder that cannot be created, a file that cannot be read
        job = prepare(described)
    if options.check:
        print(f"{options.file}: OK: the run file is valid")
        return
    before = job.metrics()
    resume = options.resume or (options.go_on and job.has_checkpoint())
    job.trainer.train(resume_from_checkpoint=resume or None)
    job.trainer.save_model(str(job.folder))
    if before:
        after = job.metrics()
        event("eval.figures", table(("before", "after"), (before, after)), before=before, after=after)
    place = job.publish()
    event("run.finished", f"model: {place}", model=place)
    if not speaks_json():
        print(f"next: ray-st encode {place} TEXTS.csv VECTORS.parquet --column NAME")


@dataclass(frozen=True)
class Job:
    """A validated run, ready to start.

    Args:
        trainer: The trainer.
        evaluator: Evaluator to run before and after training, if any.
        folder: Folder for the trained model.
    """

    trainer: ModelTrainer
    evaluator: SentenceEvaluator | None
    folder: Path

    def metrics(self) -> dict[str, float]:
        """The evaluator's metrics of the current model."""
        from ray_st.evaluation.sentence_evaluator import SINGLE_METRIC

        found = self.evaluator(self.trainer.model) if self.evaluator else {}
        return dict(found) if isinstance(found, Mapping) else {SINGLE_METRIC: float(found)}

    def publish(self) -> str:
        """Uploads the model next to checkpoints that are in an object store; returns its location."""
        from ray_st.runtime.train import launch, storage

        trainer = self.trainer
        run_config = launch.complete_run_config(trainer.run_config, str(trainer.args.output_dir))
        return storage.publish(self.folder, run_config)

    def has_checkpoint(self) -> bool:
        """Whether the run's folder has a complete checkpoint; if not, logs where it looked."""
        from ray_st.runtime.train import launch

        store = launch.store_of(self.trainer.run_config, str(self.trainer.args.output_dir))
        skipped: list[str] = []
        if store.newest(skipped=skipped) is not None:
            return True
        reasons = "".join(f" {reason}" for reason in skipped)
        notes.info(
            f"--continue: no complete checkpoint in {store.path}; the run starts from the beginning."
            f"{reasons}",
        )
        return False


def prepare(run: RunFile) -> Job:
    """Makes the objects of a run, with cheap checks first.

    Raises:
        RunFileError: If something is missing, unknown, or does not fit.
    """
    from ray_st.cli import run_parts

    spec, kind = run_parts.required_model(run), kind_of(run)
    make_loss = run_parts.make_losses(run.loss, at(run.source, "loss"), kind)
    parts = run_parts.make_parts(run)
    model = run_parts.open_model(spec, at(run.source, "model"))
    loss = make_loss(model)
    where = at(run.source, "data")
    _check_columns(parts.train_dataset, loss, at(where, "train"))
    _check_columns(parts.eval_dataset, loss, at(where, "eval"))
    trainer = run_parts.make_trainer(run.source, kind, model=model, loss=loss, **vars(parts))
    return Job(trainer, parts.evaluator, _final(parts.args, parts.run_config))


def _final(args: SentenceTransformerTrainingArguments, run_config: RunConfig | None) -> Path:
    """Where to save the trained model: the output folder, or next to the checkpoints if Ray deletes that."""
    folder = Path(str(args.output_dir)).absolute()
    if upload_of(folder) is not None:
        from ray_st.runtime.train import launch

        store = launch.store_of(run_config, str(folder))
        if store.is_local:  # otherwise `publish` uploads it
            folder = Path(store.path)
    return folder / "final"


def _check_columns(
    tables: Source | Mapping[str, Source] | None, loss: nn.Module | Mapping[str, nn.Module], where: str
) -> None:
    from ray_st.data.column_spec import check_columns
    from ray_st.training.data.dataset_specs import columns_of, named
    from ray_st.training.strategies.step_module import loss_for

    for name, source in named(tables).items():
        place = at(where, name) if name else where
        chosen = loss_for(loss, name, place)
        check_columns(columns_of(source, place, chosen), chosen, place)
