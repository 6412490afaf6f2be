"""Fill the token cache of a run file ahead: rows are read, validated and tokenized; nothing is trained."""

from __future__ import annotations

import argparse
import time

from ray_st.cli.run_checks import RunFileError, at, located
from ray_st.cli.runfile import read_run
from ray_st.cli.train import prepare


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("file", metavar="RUN.yaml", help="the run file; see docs/run-files.md")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="such as args.token_cache=/shared/tokens"
    )


def run(options: argparse.Namespace) -> None:
    """Encodes the training and evaluation data, and prints rows, entries, bytes and seconds.

    Raises:
        RunFileError: If the run cannot work as described, or has no token cache.
    """
    described = read_run(options.file, options.overrides)
    with located(options.file, OSError):
        trainer = prepare(described).trainer

    from ray_st.runtime.cluster import connection
    from ray_st.runtime.data.cluster_source import encode_ahead
    from ray_st.runtime.train import launch, storage

    where = at(options.file, "args.token_cache")
    with located(where, ValueError):
        store = launch.store_of(trainer.run_config, str(trainer.args.output_dir))
        cache = storage.open_token_cache(trainer.args, store)
    if cache is None:
        raise RunFileError(f"{where}: there is no folder to fill")
    start = time.monotonic()
    with connection.connected():
        use = encode_ahead({**trainer.data.train_specs(1), **trainer.data.eval_specs(1)}, cache)
    print(cache.finish(use))
    if not use.keys:
        raise RunFileError(f"{where}: there is nothing to keep")
    entries, size = cache.held(use.keys)
    rows, made, seconds = use.read + use.encoded, len(set(use.keys)), time.monotonic() - start
    print(f"{rows:,} rows in {entries:,} of {made:,} entries, {size:,} bytes, {seconds:.1f} s")
