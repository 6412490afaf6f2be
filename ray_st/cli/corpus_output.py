"""Arguments and files of the commands that write a corpus: into one file here, or a folder by a cluster."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ray_st.cli.run_checks import RunFileError
from ray_st.models.exported.backend_options import BACKENDS
from ray_st.util.atomic import replacing
from ray_st.util.filesystems import check_kept

FILE_SUFFIXES = (".parquet", ".pq")
_OF_FILES = ("device",)
_OF_FOLDERS = ("workers", "num_gpus", "part_rows", "shared_disk")


def add_places(parser: argparse.ArgumentParser, model: str, content: str) -> None:
    """Declares the model, the input and the output.

    Args:
        parser: The command's parser.
        model: What the model is.
        content: What the input holds.
    """
    parser.add_argument("model", metavar="MODEL", help=f"{model} folder, or a name on the Hub")
    parser.add_argument(
        "input",
        metavar="INPUT",
        help=f"the file with the {content}; may be several files if OUTPUT is a folder",
    )
    parser.add_argument(
        "output",
        metavar="OUTPUT",
        help="a .parquet file, replaced once the new one is complete; or a folder (or its URI)",
    )


def add_devices(parser: argparse.ArgumentParser) -> None:
    """Declares where the command computes."""
    parser.add_argument(
        "--device", help="such as cuda or cpu (default: a GPU if available); only if OUTPUT is a file"
    )
    cluster = parser.add_argument_group("if OUTPUT is a folder")
    cluster.add_argument(
        "--workers", type=int, help="worker processes (default: as many as the cluster has room for)"
    )
    cluster.add_argument(
        "--num-gpus", type=float, help="GPUs per worker, such as 0.5 (default: 1 if the cluster has GPUs)"
    )
    cluster.add_argument(
        "--part-rows", type=int, help="maximum rows of an output part, the unit of resuming (default: 32768)"
    )
    cluster.add_argument(
        "--shared-disk", action="store_true", help="local paths are on a disk that all nodes share"
    )


def add_backend(parser: argparse.ArgumentParser) -> None:
    """Declares what computes the model."""
    parser.add_argument(
        "--backend", choices=BACKENDS, default="torch", help="what computes the model (default: torch)"
    )
    parser.add_argument(
        "--file-name", metavar="FILE", help="the exported file in the model's folder (default: the usual one)"
    )


def backend_of(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of a ``ModelSpec`` that :func:`add_backend` declares."""
    return {"backend": options.backend, "file_name": options.file_name}


def into_file(options: argparse.Namespace) -> bool:
    """Whether the output is a file, after checking the arguments that depend on it.

    Raises:
        RunFileError: If an argument is invalid or not for this kind of output.
    """
    if options.batch_size < 1:
        raise RunFileError(f"--batch-size: expected at least 1, found {options.batch_size}")
    check_kept(options.output, "OUTPUT")
    is_file: bool = options.output.endswith(FILE_SUFFIXES)
    given = [name for name in (_OF_FOLDERS if is_file else _OF_FILES) if _is_given(options, name)]
    if given:
        form = "a .parquet file" if is_file else "a folder"
        raise RunFileError(f"--{given[0].replace('_', '-')}: not for {form} as OUTPUT ({options.output})")
    return is_file


def cluster_options(options: argparse.Namespace) -> dict[str, Any]:
    """The given arguments that only a folder takes, by name."""
    return {name: vars(options)[name] for name in _OF_FOLDERS if _is_given(options, name)}


def report(rows: int, done: int, what: str, output: str) -> None:
    """Prints how much was written, and how much of it was there already."""
    there = f" ({rows - done} were there already)" if rows > done else ""
    print(f"{rows} {what}: {output}{there}")


def _is_given(options: argparse.Namespace, name: str) -> bool:
    value = vars(options)[name]
    return value is not None and value is not False


@contextmanager
def replacing_output(output: str) -> Iterator[Path]:
    """A new file beside the output that replaces it on success and is deleted otherwise.

    Raises:
        RunFileError: If it cannot be written.
    """
    path = Path(output)
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = stack.enter_context(replacing(path))
            part.touch()
        except OSError as error:
            raise RunFileError(f"OUTPUT: {path} cannot be written: {error.strerror}") from error
        yield part
