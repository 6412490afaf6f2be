"""The command line: ``ray-st train``, ``ray-st evaluate``, ``ray-st encode``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from ray_st._version import __version__

OK, FAILED, USER_ERROR = 0, 1, 2

_COMMANDS = {
    "train": "fine-tune a model as a run file says",
    "tune": "search the hyperparameters of a run file",
    "evaluate": "measure a model with the evaluators of a run file",
    "encode": "write the embeddings of a file's texts",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The arguments; by default those of the process.

    Returns:
        The exit code: 0 when all went well, 2 when the user asked for something that cannot be (said in one line).
        Any other failure is raised, so that its traceback shows and Python exits with 1.
    """
    options = _parse(argv)
    command = importlib.import_module(f"ray_st.cli.{options.command}")
    try:
        command.run(options)
    except ValueError as error:
        if _from_a_worker(error):
            raise
        print(f"ray-st: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    return OK


def _from_a_worker(error: Exception) -> bool:
    """Whether Ray brought the error from another process, where it was no answer to what the user asked."""
    return any(base.__module__.split(".")[0] == "ray" for base in type(error).__mro__)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments; overrides may stand before and after options, which argparse alone does not allow."""
    parser = _parser()
    options, rest = parser.parse_known_args(argv)
    odd = [word for word in rest if word.startswith("-") or not hasattr(options, "overrides")]
    if odd:
        parser.error(f"unrecognized arguments: {' '.join(odd)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ray-st", description="Train sentence embedding models on Ray.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in _COMMANDS.items():
        module = importlib.import_module(f"ray_st.cli.{name}")
        module.add_arguments(commands.add_parser(name, help=summary, description=module.__doc__))
    return parser
