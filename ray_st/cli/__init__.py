"""The command line: ``ray-st train``, ``tune``, ``evaluate``, ``encode``, ``mine`` and further commands."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import ModuleType

from ray_st._version import __version__
from ray_st.util.endings import CTRL_C, INTERRUPTED, OK, USER_ERROR, RunEnded
from ray_st.util.events import LOG_FORMAT, event, speaks_json

_COMMANDS = {
    "train": "fine-tune the model of a run file",
    "check": "read all rows of a run file and list those that cannot be used",
    "tune": "search the hyperparameters of a run file",
    "evaluate": "evaluate a model with the evaluators of a run file",
    "encode": "write the embeddings of the texts in a file",
    "mine": "find hard negatives for pairs of texts",
    "score": "write a reranker's scores of pairs of texts",
    "export": "export a model to ONNX or OpenVINO, and compare the files with it",
    "encode-data": "fill the token cache of a run file ahead",
    "cluster": "print Kubernetes manifests, or start a node on this machine",
    "doctor": "find what is wrong with a cluster",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The arguments; by default those of the process.

    Returns:
        The exit code: 0 for success, 2 if the request is invalid (explained in one line), 69 if workers were
        lost too often, 75 if the run was asked to stop and can be resumed, 130 after Ctrl-C. Any other
        failure is raised, so that Python prints its traceback and exits with 1.
    """
    options = _parse(argv)
    if vars(options).get("log_format"):
        os.environ[LOG_FORMAT] = options.log_format
    command = _module(options.command)
    try:
        command.run(options)
    except RunEnded as error:
        ended = "run.interrupted" if error.exit_code == INTERRUPTED else "run.failed"
        return _end(ended, str(error), error.exit_code)
    except SystemExit as error:  # Ray ends a driver this way on SIGTERM, before there is a run to save
        if error.code != signal.SIGTERM:
            raise
        return _end("run.interrupted", "SIGTERM before the first step", INTERRUPTED)
    except KeyboardInterrupt as error:
        return _end("run.interrupted", str(error) or "Ctrl-C before the first step", CTRL_C)
    except ValueError as error:
        if _from_a_worker(error):
            raise
        return _end("run.refused", " ".join(str(error).split()), USER_ERROR)
    return OK


def _module(command: str) -> ModuleType:
    return importlib.import_module(f"ray_st.cli.{command.replace('-', '_')}")


def _end(ended: str, message: str, code: int) -> int:
    """Says in a line why a command ends early: on standard error, and as JSON on standard output if asked."""
    if speaks_json():
        event(ended, message, exit_code=code)
    print(f"ray-st: {message}", file=sys.stderr)
    return code


def _from_a_worker(error: Exception) -> bool:
    """Whether the error was raised in another Ray process, and so does not concern the request itself."""
    return any(base.__module__.split(".")[0] == "ray" for base in type(error).__mro__)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the arguments; overrides may precede and follow options, which argparse alone does not allow."""
    parser = _parser()
    options, rest = parser.parse_known_args(argv)
    odd = [word for word in rest if word.startswith("-") or "overrides" not in options]
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
        module = _module(name)
        module.add_arguments(commands.add_parser(name, help=summary, description=module.__doc__))
    return parser
