"""Read and validate all rows of a run file, as training would, and list those that cannot be used.

Whatever else training would refuse is refused, too. Nothing is encoded or trained. Exit code 1 if there are
unusable rows, 0 if all can be used.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ray_st.cli.run_checks import RunFileError, located
from ray_st.cli.runfile import read_run
from ray_st.cli.train import prepare
from ray_st.data.sources.errors import BadRow
from ray_st.util.atomic import replacing
from ray_st.util.events import notes
from ray_st.util.filesystems import check_kept

if TYPE_CHECKING:
    from ray_st.data.row_check import DatasetCheck
    from ray_st.training.data.specs import DatasetSpec, LoaderSpec

FOUND = 1
"""The exit code when there is an unusable row."""

SHOWN = 20
"""Unusable rows on the console."""

_PROGRESS_EVERY_S = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("file", metavar="RUN.yaml", help="the run file; see docs/run-files.md")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as data.train=more/*.csv")
    parser.add_argument(
        "--list", metavar="FILE", help="write all unusable rows to this file, as one JSON object a line"
    )
    parser.add_argument("--json", action="store_true", help="print the result as one line of JSON")


def run(options: argparse.Namespace) -> None:
    """Prints the unusable rows and the number of rows of each dataset.

    Raises:
        RunFileError: If the run cannot work as described, or the list cannot be written.
        SystemExit: With 1, if a row cannot be used.
    """
    if options.list:
        check_kept(options.list, "--list")
    described = read_run(options.file, options.overrides)
    with located(options.file, OSError):
        trainer = prepare(described).trainer
    workers = trainer.workers_asked
    specs = {**trainer.data.train_specs(workers), **trainer.data.eval_specs(workers)}

    from ray_st.runtime.cluster import connection

    with _list(options.list) as file, connection.connected_if_any() as cluster:
        faults = Faults(file, shows=not options.json)
        found = {
            dataset.label: _checked(dataset, faults, cluster, tells=not options.json)
            for spec in specs.values()
            for dataset in spec.datasets.values()
        }
    unusable = sum(one.unusable for one in found.values())
    if options.json:
        print(json.dumps(as_plain(found, faults)))
    elif unusable > SHOWN and not options.list:
        print(f"… and {unusable - SHOWN:,} more; --list FILE writes all of them")
    for spec in specs.values():
        if spec.skip_bad_rows or not unusable:
            _check_together(spec, found)
    if unusable:
        raise SystemExit(FOUND)
    if not options.json:
        print(f"{options.file}: OK: all rows can be used")


class Faults:
    """The unusable rows: all in a file, the first ones in memory and on the console.

    Args:
        file: The file; None for none.
        shows: Whether to print the first ones.
    """

    def __init__(self, file: TextIO | None, shows: bool = True) -> None:
        self._file, self._shows = file, shows
        self.first: list[dict[str, object]] = []

    def add(self, dataset: str, bad: BadRow) -> None:
        """Adds a row of a dataset."""
        entry = {
            "dataset": dataset,
            "file": bad.file,
            "row": bad.row,
            "line": bad.line,
            "column": bad.column,
            "reason": bad.reason,
        }
        if self._file is not None:
            self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        if len(self.first) < SHOWN:
            self.first.append(entry)
            if self._shows:
                print(bad, flush=True)


def as_plain(found: dict[str, DatasetCheck], faults: Faults) -> dict[str, object]:
    """The result as values that JSON represents.

    Args:
        found: What was found in each dataset, by its name.
        faults: The unusable rows.
    """
    return {
        "rows": sum(one.rows for one in found.values()),
        "unusable": sum(one.unusable for one in found.values()),
        "datasets": {label: {"rows": one.rows, "unusable": one.unusable} for label, one in found.items()},
        "first": faults.first,
    }


@contextmanager
def _list(path: str | None) -> Iterator[TextIO | None]:
    """The file of unusable rows, complete or not there at all."""
    if path is None:
        yield None
        return
    with ExitStack() as stack:
        try:
            part = stack.enter_context(replacing(Path(path)))
            file = stack.enter_context(part.open("w", encoding="utf-8"))
        except OSError as error:
            raise RunFileError(f"--list: {path} cannot be written: {error.strerror}") from error
        yield file


def _checked(dataset: DatasetSpec, faults: Faults, cluster: bool, tells: bool) -> DatasetCheck:
    from ray_st.data.row_check import DatasetCheck
    from ray_st.data.sources import as_source
    from ray_st.runtime.data.checked_rows import check_parts

    columns, so_far, told = dataset.encoding.columns, DatasetCheck(), time.monotonic()
    parts = as_source(dataset.source, dataset.label).parts(list(columns.names))
    for found in check_parts(parts, columns, dataset.label, cluster):
        so_far.add(found)
        for bad in found.faults:
            faults.add(dataset.label, bad)
        if tells and time.monotonic() - told >= _PROGRESS_EVERY_S:
            told = time.monotonic()
            notes.info(_line(dataset.label, so_far) + " so far")
    if tells:
        print(_line(dataset.label, so_far))
    return so_far


def _line(label: str, found: DatasetCheck) -> str:
    return f"{label}: {found.rows:,} rows, {found.unusable:,} of them unusable"


def _check_together(spec: LoaderSpec, found: dict[str, DatasetCheck]) -> None:
    """Raises for datasets whose usable rows cannot be trained on together."""
    from ray_st.training.data.arrangement import check_counts

    for dataset in spec.datasets.values():
        found[dataset.label].check_labels(dataset.encoding.columns, dataset.label)
    check_counts(spec, {name: found[dataset.label].usable for name, dataset in spec.datasets.items()})
