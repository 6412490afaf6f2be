"""Measure a model with the evaluators of a run file, in this process."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ray_st.cli.checks import RunFileError, at
from ray_st.cli.figures import table
from ray_st.cli.runfile import ModelSpec, read_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a model folder, or a name on the Hub")
    parser.add_argument("file", metavar="RUN.yaml", help="a run file, or a file with only its evaluators")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="such as evaluators.0.data.rows=1000"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--output", metavar="FOLDER", help="where evaluators add their CSV lines")


def run(options: argparse.Namespace) -> None:
    """Print the figures.

    Raises:
        RunFileError: If the file lists no evaluators, or something in it does not fit.
    """
    from ray_st.cli import parts

    described = read_run(options.file, options.overrides)
    if not described.evaluators:
        raise RunFileError(f"{at(options.file, 'evaluators')}: missing; there is nothing to measure with")
    evaluators = parts.make_evaluators(described)
    model = parts.open_model(ModelSpec(options.model), "MODEL")
    if options.output:
        Path(options.output).mkdir(parents=True, exist_ok=True)
    figures: dict[str, float] = {}
    for evaluator in evaluators:
        figures |= evaluator(model, output_path=options.output)
    print(
        json.dumps({key: float(value) for key, value in figures.items()})
        if options.json
        else table(("",), (figures,))
    )
