"""Score pairs of texts in files with a reranker: the same rows out, with the scores of their documents.

Each row has a query and one or more documents. The output has the columns of INPUT, and `score`, or `scores`,
a list, if a row has several documents. If OUTPUT is a file (its name ends in .parquet), this process scores;
if it is a folder, the whole Ray cluster does, and an interrupted job resumes when it is started again.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ray_st.cli.corpus_output import (
    add_backend,
    add_devices,
    add_places,
    backend_of,
    cluster_options,
    into_file,
    replacing_output,
    report,
)
from ray_st.cli.runfile import ModelSpec
from ray_st.data.sources.files import FORMATS

if TYPE_CHECKING:
    from ray_st.models.reranker.cross_encoder import CrossEncoder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_places(parser, "a reranker's", "rows")
    parser.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help="the column of queries, then those of documents, each a text or a list of texts (default: all "
        "columns that hold these)",
    )
    parser.add_argument(
        "--format", choices=FORMATS, help="the input's format (default: inferred from its suffix)"
    )
    parser.add_argument("--prompt-name", help="name of the model's prompt to prepend to each query")
    parser.add_argument("--max-length", type=int, help="longest pair in tokens (default: the model's)")
    parser.add_argument("--batch-size", type=int, default=32, help="pairs in a batch (default: 32)")
    parser.add_argument(
        "--logits", action="store_true", help="write the model's output without its activation function"
    )
    parser.add_argument(
        "--margins",
        action="store_true",
        help="write `label`, by how much the first document's score exceeds the others', for MarginMSELoss",
    )
    add_devices(parser)
    add_backend(parser)


def run(options: argparse.Namespace) -> None:
    """Scores the rows and writes all columns of the input plus that of scores.

    Raises:
        RunFileError: If the output or an option cannot be used.
        SourceError: If the input cannot.
    """
    (_into_file if into_file(options) else _into_folder)(options)


def _model(options: argparse.Namespace) -> CrossEncoder:
    from ray_st.cli.run_parts import open_model

    spec = ModelSpec(options.model, "CrossEncoder", max_seq_length=options.max_length, **backend_of(options))
    model: CrossEncoder = open_model(spec, "MODEL")
    return model


def _scoring(options: argparse.Namespace) -> dict[str, Any]:
    names = ("prompt_name", "batch_size", "logits", "margins")
    return {name: vars(options)[name] for name in names}


def _into_file(options: argparse.Namespace) -> None:
    from ray_st.data.sources import Files
    from ray_st.runtime.encode.score_corpus import check_one_label, plan_scoring
    from ray_st.runtime.encode.score_work import write_scored

    files = Files(options.input, options.format)
    scoring, pieces = plan_scoring(files, options.columns, **_scoring(options))
    with replacing_output(options.output) as path:
        model = _model(options)
        check_one_label(model)
        if options.device:
            model.to(options.device)
        rows = write_scored(model, pieces, scoring, str(path))
    report(rows, rows, "rows scored", options.output)


def _into_folder(options: argparse.Namespace) -> None:
    from ray_st.data.sources import Files
    from ray_st.runtime.encode.score_corpus import score_corpus

    scored = score_corpus(
        _model(options),
        Files(options.input, options.format),
        options.output,
        options.columns,
        **cluster_options(options),
        **_scoring(options),
    )
    report(scored.rows, scored.encoded, "rows scored", options.output)
