"""Mine hard negatives: pairs of a query and a positive in, rows with negatives out.

The texts are embedded and searched by this process, or with --cluster by the whole Ray cluster.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ray_st.cli.corpus_output import FILE_SUFFIXES, add_backend, backend_of, replacing_output, report
from ray_st.cli.run_checks import RunFileError
from ray_st.cli.runfile import ModelSpec
from ray_st.data.sources.files import FORMATS
from ray_st.data.table_spec import TableSpec
from ray_st.mining.write import FORMATS as OUTPUT_FORMATS
from ray_st.util.filesystems import check_kept
from ray_st.util.names import did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset

_NUMBERS = {
    "--range-min": (int, "best candidates to skip, which may be unmarked positives (default: 0)"),
    "--range-max": (int, "best candidates to consider (default: as many as needed)"),
    "--max-score": (float, "remove candidates with higher scores"),
    "--min-score": (float, "remove candidates with lower scores"),
    "--absolute-margin": (float, "remove candidates not lower by this than the query's worst positive"),
    "--relative-margin": (float, "the same, relative to the positive's score, such as 0.05"),
    "--num-negatives": (int, "negatives of each query (default: 3)"),
    "--batch-size": (int, "texts or pairs in a batch (default: 32)"),
    "--seed": (int, "seed of the random choice (default: 0)"),
}
_WORDS = {
    "--query-prompt-name": "name of the model's prompt for queries",
    "--corpus-prompt-name": "name of the model's prompt for documents",
    "--cache-folder": "folder that caches embeddings for later calls",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="an embedder's folder, or a name on the Hub")
    parser.add_argument("input", metavar="INPUT", help="the file with a query and a positive in each row")
    parser.add_argument(
        "output", metavar="OUTPUT", help="a .parquet file, replaced once the new one is complete"
    )
    parser.add_argument(
        "--columns",
        nargs=2,
        metavar=("QUERY", "POSITIVE"),
        help="the columns of queries and positives (default: the first two)",
    )
    parser.add_argument(
        "--format", choices=FORMATS, help="the input's format (default: inferred from its suffix)"
    )
    parser.add_argument("--corpus", metavar="FILE", help="a file with more candidates")
    parser.add_argument("--corpus-column", help="its column (default: `text`, or the only column)")
    parser.add_argument(
        "--reranker", metavar="MODEL", help="a reranker that scores pairs again, if a limit on scores is set"
    )
    for name, (kind, text) in _NUMBERS.items():
        parser.add_argument(name, type=kind, help=text)
    for name, text in _WORDS.items():
        parser.add_argument(name, help=text)
    parser.add_argument(
        "--sampling-strategy", choices=("top", "random"), help="which candidates to take (default: top)"
    )
    parser.add_argument(
        "--output-format", choices=tuple(OUTPUT_FORMATS), help="columns of the output (default: triplet)"
    )
    parser.add_argument("--output-scores", action="store_true", help="write scores, too")
    parser.add_argument("--include-positives", action="store_true", help="positives are candidates, too")
    parser.add_argument("--use-faiss", action="store_true", help="search with faiss")
    parser.add_argument("--device", help="such as cuda or cpu (default: a GPU if available)")
    parser.add_argument("--cluster", action="store_true", help="embed, search and rescore on the Ray cluster")
    add_backend(parser)


def run(options: argparse.Namespace) -> None:
    """Mines and writes the rows.

    Raises:
        RunFileError: If the input, the output or an option cannot be used.
    """
    import pyarrow.parquet as pq

    from ray_st.cli.run_parts import open_model
    from ray_st.cli.run_tables import open_table
    from ray_st.mining.hard_negatives import mine_hard_negatives

    _check(options)
    table = open_table(TableSpec(options.input, format=options.format), "INPUT")
    more: dict[str, Any] = {"corpus": _corpus(options)} if options.corpus else {}
    with replacing_output(options.output) as path:
        model = open_model(ModelSpec(options.model, **backend_of(options)), "MODEL")
        models = [model]
        if options.reranker:
            more["cross_encoder"] = open_model(ModelSpec(options.reranker, "CrossEncoder"), "--reranker")
            models.append(more["cross_encoder"])
        for one in models if options.device else []:
            one.to(options.device)
        found = mine_hard_negatives(table, model, **_columns(options), **_settings(options), **more)
        pq.write_table(found.with_format("arrow")[:], path)
    report(len(found), len(found), "rows mined", options.output)


def _check(options: argparse.Namespace) -> None:
    check_kept(options.output, "OUTPUT")
    if not options.output.endswith(FILE_SUFFIXES):
        raise RunFileError(f"OUTPUT: expected the name of a .parquet file, found {options.output}")
    if options.corpus_column and not options.corpus:
        raise RunFileError("--corpus-column: has no effect without --corpus")
    if options.cluster and options.device:
        raise RunFileError("--device: not with --cluster, which uses every GPU of the cluster, or its CPUs")


def _columns(options: argparse.Namespace) -> dict[str, Any]:
    if options.columns is None:
        return {}
    return dict(zip(("anchor_column_name", "positive_column_name"), options.columns, strict=True))


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """The given arguments of ``mine_hard_negatives``; others keep their defaults."""
    from ray_st.runtime.encode.cluster_mining import ClusterSearch

    names = [name.removeprefix("--").replace("-", "_") for name in (*_NUMBERS, *_WORDS)]
    names += ["sampling_strategy", "output_format"]
    given = {name: vars(options)[name] for name in names if vars(options)[name] is not None}
    flags = {name: vars(options)[name] for name in ("output_scores", "include_positives", "use_faiss")}
    return {**given, **flags, **({"search": ClusterSearch()} if options.cluster else {})}


def _corpus(options: argparse.Namespace) -> list[str]:
    from ray_st.cli.run_tables import open_table

    table: Dataset = open_table(TableSpec(options.corpus), "--corpus")
    names = table.column_names
    name = options.corpus_column or (names[0] if len(names) == 1 else "text")
    if name not in names:
        raise RunFileError(f"--corpus: no column {name!r}; {did_you_mean(name, names)} (see --corpus-column)")
    return list(table[name])
