"""Evaluate a model with the evaluators of a run file, in this process or on Ray workers."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ray_st.cli.corpus_output import add_backend, backend_of
from ray_st.cli.run_checks import RunFileError, at
from ray_st.cli.runfile import ModelSpec, RunFile, read_run
from ray_st.util.filesystems import check_kept

if TYPE_CHECKING:
    from ray_st.evaluation.sentence_evaluator import SentenceEvaluator
    from ray_st.models.sentence_transformer import SentenceTransformer
    from ray_st.runtime.train.ray_configs import ScalingConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a model folder, or a name on the Hub")
    parser.add_argument("file", metavar="RUN.yaml", help="a run file, or a file with only its evaluators")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="such as evaluators.0.data.rows=1000"
    )
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON")
    parser.add_argument(
        "--output", metavar="FOLDER", help="folder to which evaluators append their CSV lines"
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=int,
        help="number of Ray workers; 0 evaluates in this process (default: the file's `scaling`, if it asks "
        "for several workers or GPUs)",
    )
    add_backend(parser)


def run(options: argparse.Namespace) -> None:
    """Prints the metrics.

    Raises:
        RunFileError: If the file lists no evaluators or is invalid.
    """
    from ray_st.cli import evaluator_parts, run_parts

    described = read_run(options.file, options.overrides)
    if not described.evaluators:
        raise RunFileError(f"{at(options.file, 'evaluators')}: missing; there is nothing to measure with")
    scaling = _scaling(described, options.workers)
    evaluators = evaluator_parts.make_evaluators(described)
    kind = described.model.type if described.model else ModelSpec.type
    model = run_parts.open_model(ModelSpec(options.model, kind, **backend_of(options)), "MODEL")
    if options.output:
        check_kept(options.output, "--output")
        Path(options.output).mkdir(parents=True, exist_ok=True)
    metrics = _metrics(model, evaluators, scaling, options.output)
    print(json.dumps(metrics) if options.json else table(("",), (metrics,)))


def _scaling(described: RunFile, workers: int | None) -> ScalingConfig | None:
    """The ``ScalingConfig`` of an evaluation on workers; None evaluates in this process."""
    values = dict(described.scaling)
    if workers is not None:
        if workers < 0:
            raise RunFileError(f"--workers: expected 0 or more, found {workers}")
        values["num_workers"] = workers
    asked = values.get("num_workers", 1)
    if asked == 0 or (workers is None and asked == 1 and not values.get("use_gpu")):
        return None
    from ray_st.cli.run_parts import make_scaling

    return make_scaling(values, described.source)


def _metrics(
    model: SentenceTransformer,
    evaluators: list[SentenceEvaluator],
    scaling: ScalingConfig | None,
    output: str | None,
) -> dict[str, float]:
    if scaling is not None:
        from ray_st.runtime.encode.rank_evaluators import evaluate_on_workers

        return evaluate_on_workers(model, evaluators, scaling, output)
    from ray_st.training.distributed.evaluator_team import measure
    from ray_st.world import World

    return measure(model, evaluators, World(), output).metrics


def table(columns: Sequence[str], figures: Sequence[Mapping[str, float]]) -> str:
    """Formats metrics: a row per metric, a column per evaluation, and the change if there are two.

    Args:
        columns: Headings of the evaluations.
        figures: Metrics by name of each evaluation, all with the same names.
    """
    heads = [*columns, "change"] if len(figures) == 2 else list(columns)
    rows = [(name, [f"{value:.4f}" for value in _row(name, figures)]) for name in figures[0]]
    if len(figures) == 2:
        rows = [(name, [*cells, f"{_change(name, figures):+.4f}"]) for name, cells in rows]
    width = max(len(name) for name, _ in rows)
    lines = [" " * width + "".join(f"{head:>10}" for head in heads)]
    return "\n".join(
        lines + [f"{name:<{width}}" + "".join(f"{cell:>10}" for cell in cells) for name, cells in rows]
    )


def _row(name: str, figures: Sequence[Mapping[str, float]]) -> list[float]:
    return [float(measured[name]) for measured in figures]


def _change(name: str, figures: Sequence[Mapping[str, float]]) -> float:
    before, after = _row(name, figures)
    return after - before
