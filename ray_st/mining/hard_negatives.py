"""``mine_hard_negatives``: a dataset of pairs in, a dataset with negatives out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import pyarrow as pa
from tqdm.auto import tqdm

from ray_st.mining.candidates import Here, Search
from ray_st.mining.choice import Choice
from ray_st.mining.embedder import Embedder, Encoder, Pooled, pooled
from ray_st.mining.pairs import Pairs, column_names, read_pairs
from ray_st.mining.report import Tally, missing
from ray_st.mining.rescore import CrossEncoder, Scorer, scorer_of
from ray_st.mining.select import mined_blocks
from ray_st.mining.write import FORMATS
from ray_st.util.names import did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


@runtime_checkable
class OnDevices(Protocol):
    """A search that embeds on devices of its own: a name for each process, None for all there are."""

    devices: Sequence[str] | None


def mine_hard_negatives(
    dataset: Dataset,
    model: Encoder,
    anchor_column_name: str | None = None,
    positive_column_name: str | None = None,
    corpus: Sequence[str] | None = None,
    cross_encoder: CrossEncoder | None = None,
    range_min: int = 0,
    range_max: int | None = None,
    max_score: float | None = None,
    min_score: float | None = None,
    absolute_margin: float | None = None,
    relative_margin: float | None = None,
    num_negatives: int = 3,
    sampling_strategy: str = "top",
    query_prompt_name: str | None = None,
    query_prompt: str | None = None,
    corpus_prompt_name: str | None = None,
    corpus_prompt: str | None = None,
    include_positives: bool = False,
    output_format: str = "triplet",
    output_scores: bool = False,
    batch_size: int = 32,
    faiss_batch_size: int = 16384,
    use_faiss: bool = False,
    use_multi_process: bool | Sequence[str] = False,
    verbose: bool = True,
    cache_folder: str | None = None,
    as_triplets: bool | None = None,
    margin: float | None = None,
    seed: int = 0,
    search: Search | None = None,
) -> Dataset:
    """Finds texts that are close to a query but do not answer it, for each pair of a query and a positive.

    All positives of the dataset, and the texts of ``corpus``, are candidates, except for the query's own
    positives and the query itself if it is also a document (as with paraphrases). The nearest candidates are
    searched, those outside the limits are removed, and ``num_negatives`` are taken from the rest, between the
    ranks ``range_min`` and ``range_max``. Rows with the same query share its positives, and a repeated pair
    counts once; the output follows the order in which queries first appear.

    Scores of all queries with all documents are never held at once: besides texts and embeddings, memory
    grows with the number of queries times the candidates of one. A query with too few candidates gives fewer
    rows ("triplet", "labeled-pair"), a shorter row or none ("labeled-list"), or no row ("n-tuple"); a warning
    says how many rows are missing.

    Args:
        dataset: A query and a positive in each row.
        model: Embeds and compares, such as a SentenceTransformer.
        anchor_column_name: Column of the queries; the first by default.
        positive_column_name: Column of the positives; the second by default.
        corpus: More candidates.
        cross_encoder: Rescores pairs if a limit on scores is set: a :class:`ray_st.CrossEncoder`, another
            object with ``predict(pairs, batch_size=…)``, or a function of a list of (query, document),
            returning one score per pair.
        range_min: How many of the best candidates to skip, since they may be unmarked positives.
        range_max: How many of the best candidates to consider; by default ``range_min``, plus the most
            positives of a query, plus ``num_negatives`` (ten times as many if a limit on scores is set).
        max_score: Candidates with higher scores are removed.
        min_score: Candidates with lower scores are removed.
        absolute_margin: Candidates whose score is not lower than that of the query's worst positive by this
            margin are removed.
        relative_margin: The same, relative to the absolute value of the positive's score: 0.05 removes those
            above 95 % of a positive score (the TopK-PercPos rule of NV-Retriever, arXiv:2407.15831).
        num_negatives: Negatives of each query.
        sampling_strategy: "top" takes the best candidates, "random" any of them, uniformly.
        query_prompt_name: Name of the model's prompt for queries; by default as in ``encode_query``.
        query_prompt: The prompt text. Overrides ``query_prompt_name``.
        corpus_prompt_name: Name of the model's prompt for documents; by default as in ``encode_document``.
        corpus_prompt: The prompt text. Overrides ``corpus_prompt_name``.
        include_positives: Whether positives are candidates too, as in a first-stage ranking to be reranked;
            sets ``output_format`` to "n-tuple".
        output_format: Columns of the output. "triplet": anchor, positive, ``negative``. "n-tuple": anchor,
            positive, ``negative_1`` to ``negative_n``. "labeled-pair": anchor, text, ``label`` (1 or 0).
            "labeled-list": anchor, list of texts with the positive first, list ``labels``.
        output_scores: Adds ``scores`` (the positive's first) to triplets and n-tuples; in the labeled formats
            ``score`` or ``scores`` replace the labels.
        batch_size: Texts, or pairs for the cross-encoder, computed at once.
        faiss_batch_size: Most queries searched at a time, with or without faiss.
        use_faiss: Whether to search with faiss (the extra "faiss"); needs a model that compares by cosine or
            product.
        use_multi_process: Whether to embed, and rescore if the cross-encoder can, in several processes: True,
            or a list of devices, one per process.
        verbose: Whether to show progress and statistics.
        cache_folder: Folder that caches embeddings for later calls with the same weights, prompts and texts.
        as_triplets: Deprecated; True stands for the format "triplet", False for "n-tuple".
        margin: Deprecated name of ``absolute_margin``.
        seed: Seed of the random choice; the same seed takes the same negatives.
        search: What embeds and searches, such as a cluster; this process by default. A cluster also rescores,
            if the cross-encoder can compute in several processes.

    Returns:
        A dataset with the columns of the format.

    Raises:
        ValueError: If a column is missing; a text is missing, empty or no string; a setting is invalid; or an
            embedding or score is not finite.
        ImportError: If faiss is requested and not installed.
    """
    output_format, output_scores = _newer_format(output_format, output_scores, as_triplets)
    absolute_margin = _newer_margin(absolute_margin, margin)
    choice = Choice.of(locals())  # the arguments by name
    if include_positives:
        output_format = _format_with_positives(output_format, choice)
    _check_format(output_format)
    search = _one_search(search, Here(use_multi_process, cache_folder, use_faiss, faiss_batch_size, verbose))
    names = _columns(dataset, anchor_column_name, positive_column_name)
    pairs = read_pairs(dataset, *names, corpus)
    rescorer = cross_encoder if choice.limits() else None
    choice = choice.settled(pairs.most_rows, rescored=rescorer is not None)
    query = {"prompt": query_prompt, "prompt_name": query_prompt_name}
    document = {"prompt": corpus_prompt, "prompt_name": corpus_prompt_name}
    embedder = Embedder(model, query, document, batch_size, show_progress_bar=verbose)
    say = tqdm.write if verbose else _nothing
    say(_summary(pairs, choice))
    found = search(embedder, pairs, choice.reach(pairs.most_left_out))
    with _scorer(rescorer, batch_size, _processes(search, use_multi_process)) as score:
        tally = Tally()
        blocks = mined_blocks(pairs, found, choice, score, tally)
        output = _dataset([FORMATS[output_format](block, *names, output_scores) for block in blocks])
    say("\n".join(tally.lines(choice)))
    if lacking := missing(len(output), rows_wanted(output_format, pairs, num_negatives), choice):
        logger.warning(lacking)
    return output


def rows_wanted(output_format: str, pairs: Pairs, num_negatives: int) -> int:
    """Rows of the output if each query has all its negatives.

    Args:
        output_format: How it is written.
        pairs: What is mined.
        num_negatives: Negatives of a query.
    """
    count = len(pairs.query_of)
    if output_format == "triplet":
        return count * num_negatives
    return count + len(pairs.queries) * num_negatives if output_format == "labeled-pair" else count


def _newer_format(output_format: str, output_scores: bool, as_triplets: bool | None) -> tuple[str, bool]:
    if as_triplets is not None:
        output_format = "triplet" if as_triplets else "n-tuple"
        logger.warning("as_triplets is an old option: use output_format, which is set to %r.", output_format)
    if output_format == "n-tuple-scores":
        logger.warning("The format 'n-tuple-scores' is old: use 'n-tuple' with output_scores=True.")
        return "n-tuple", True
    return output_format, output_scores


def _newer_margin(absolute_margin: float | None, margin: float | None) -> float | None:
    if margin is None:
        return absolute_margin
    logger.warning("margin is an old name: use absolute_margin, which is set to %s.", margin)
    return margin


def _format_with_positives(output_format: str, choice: Choice) -> str:
    if choice != Choice(choice.num_negatives, include_positives=True, seed=choice.seed):
        logger.warning(
            "include_positives=True with limits, ranges or random choice: these may remove positives as well."
        )
    if output_format != "n-tuple":
        logger.warning("include_positives=True sets output_format='n-tuple', which keeps the order of ranks.")
    return "n-tuple"


def _check_format(output_format: str) -> None:
    if output_format not in FORMATS:
        raise ValueError(
            f"There is no output_format {output_format!r}: {did_you_mean(output_format, FORMATS)}"
        )


def _columns(dataset: object, anchor: str | None, positive: str | None) -> tuple[str, str]:
    match dataset:
        case object(column_names=list() as columns) if isinstance(dataset, Sized):
            return column_names(columns, anchor, positive)
    raise ValueError(
        f"Mining needs a datasets.Dataset; got {type(dataset).__name__}. Take one split, or make a Dataset "
        "of it."
    )


def _one_search(search: Search | None, here: Here) -> Search:
    if search is None:
        return here
    ignored = {
        "use_multi_process": here.use_multi_process,
        "cache_folder": here.cache_folder,
        "use_faiss": here.use_faiss,
    }
    if given := [name for name, value in ignored.items() if value]:
        raise ValueError(f"{', '.join(given)} and search exclude each other: a search embeds in its own way.")
    return search


def _processes(search: object, use_multi_process: bool | Sequence[str]) -> bool | Sequence[str]:
    """Where pairs are rescored: where a search on other devices embeds, or as the user said."""
    if not isinstance(search, OnDevices):
        return use_multi_process
    return True if search.devices is None else list(search.devices)


@contextmanager
def _scorer(
    cross_encoder: CrossEncoder | None, batch_size: int, use_multi_process: bool | Sequence[str]
) -> Iterator[Scorer | None]:
    if cross_encoder is None:
        yield None
        return
    several = use_multi_process if isinstance(cross_encoder, Pooled) else False
    with pooled(cross_encoder, several) as options:
        yield scorer_of(cross_encoder, batch_size=batch_size, **options)


def _dataset(tables: list[pa.Table]) -> Dataset:
    from datasets import Dataset

    return Dataset(pa.concat_tables(tables))


def _summary(pairs: Pairs, choice: Choice) -> str:
    return (
        f"{pairs.rows:,} rows: {len(pairs.query_of):,} pairs of {len(pairs.queries):,} queries, "
        f"{len(pairs.corpus):,} documents; negatives from ranks {choice.range_min} to {choice.range_max}."
    )


def _nothing(line: str) -> None:
    pass
