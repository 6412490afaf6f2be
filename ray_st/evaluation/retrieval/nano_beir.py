"""The small versions of BEIR's retrieval datasets: metrics of each, and their aggregates."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ray_st.evaluation.built_in import BuiltInEvaluator, Measured
from ray_st.evaluation.evaluated_model import EvaluatedModel
from ray_st.evaluation.metrics.at_k import title
from ray_st.evaluation.retrieval.information_retrieval import InformationRetrievalEvaluator
from ray_st.evaluation.retrieval.retrieval_tables import Reader, from_folder, from_hub, names_in
from ray_st.similarity_functions import SimilarityFunction
from ray_st.util.names import did_you_mean
from ray_st.util.search.top_k import ScoreFunction

TITLES = {
    title.lower(): title
    for title in (
        "ClimateFEVER",
        "DBPedia",
        "FEVER",
        "FiQA2018",
        "HotpotQA",
        "MSMARCO",
        "NFCorpus",
        "NQ",
        "QuoraRetrieval",
        "SCIDOCS",
        "ArguAna",
        "SciFact",
        "Touche2020",
    )
}
"""The datasets by the names that arguments use."""


class NanoBEIREvaluator(BuiltInEvaluator):
    """Runs :class:`InformationRetrievalEvaluator` on several datasets and aggregates its metrics.

    Metrics are those of each dataset, ``Nano{Title}_{score}_ndcg@10`` and so on, and their aggregates,
    ``NanoBEIR_{aggregate_key}_{score}_ndcg@10``. The primary metric is the aggregated NDCG at the largest k,
    of the main score function, else of the one that was best at the first call. With ``truncate_dim`` names
    end in ``_{truncate_dim}``. CSV file: ``NanoBEIR_evaluation_{aggregate_key}_results.csv``, beside those of
    the datasets.

    A dataset in a folder is ``{folder}/Nano{Title}/`` with ``corpus``, ``queries`` (columns ``_id``,
    ``text``) and ``qrels`` (``query-id``, ``corpus-id``), each one or several files: ``corpus.parquet``,
    ``corpus-1.jsonl``, … . Folders of other names are datasets of those names.

    Further options are those of :class:`InformationRetrievalEvaluator`.

    Args:
        dataset_names: Short names such as "msmarco" and "nq"; by default all thirteen, or all in the folder.
        dataset_id: Name on the Hub; subsets ``corpus``, ``queries``, ``qrels``, a split ``Nano{Title}`` for
            each dataset.
        aggregate_fn: Maps the datasets' values of a metric to one.
        aggregate_key: Name of that function, for names of metrics and files.
        query_prompts: Text to put before each query; or a text for each dataset, by the names in
            ``dataset_names``.
        corpus_prompts: The same for documents.
        folder: Folder of the datasets; by default they are fetched from the Hub.

    Raises:
        ValueError: If a name is unknown, a prompt is missing, or a dataset cannot be read or lacks a column.
    """

    shown = ("truncate_dim", "query_prompts", "corpus_prompts")

    def __init__(
        self,
        dataset_names: Sequence[str] | None = None,
        dataset_id: str = "sentence-transformers/NanoBEIR-en",
        mrr_at_k: Sequence[int] = (10,),
        ndcg_at_k: Sequence[int] = (10,),
        accuracy_at_k: Sequence[int] = (1, 3, 5, 10),
        precision_recall_at_k: Sequence[int] = (1, 3, 5, 10),
        map_at_k: Sequence[int] = (100,),
        show_progress_bar: bool | None = False,
        batch_size: int = 32,
        write_csv: bool = True,
        truncate_dim: int | None = None,
        score_functions: Mapping[str, ScoreFunction] | None = None,
        main_score_function: str | SimilarityFunction | None = None,
        aggregate_fn: Callable[[list[float]], float] = np.mean,
        aggregate_key: str = "mean",
        query_prompts: str | Mapping[str, str] | None = None,
        corpus_prompts: str | Mapping[str, str] | None = None,
        write_predictions: bool = False,
        folder: str | Path | None = None,
    ) -> None:
        self.dataset_names = checked_names(dataset_names, folder)
        self.dataset_id, self.folder = dataset_id, folder
        self.query_prompts = _for_each(self.dataset_names, "query_prompts", query_prompts)
        self.corpus_prompts = _for_each(self.dataset_names, "corpus_prompts", corpus_prompts)
        self.aggregate_fn, self.aggregate_key = aggregate_fn, aggregate_key
        self.main_score_function = SimilarityFunction(main_score_function) if main_score_function else None
        self._cut = f"_{truncate_dim}" if truncate_dim else ""
        self._set_options(
            "NanoBEIR_evaluation", aggregate_key, write_csv, batch_size=batch_size, truncate_dim=truncate_dim
        )
        self.name = f"NanoBEIR_{aggregate_key}{self._cut}"
        read = from_hub(dataset_id) if folder is None else from_folder(folder)
        options = {
            "mrr_at_k": mrr_at_k,
            "ndcg_at_k": ndcg_at_k,
            "accuracy_at_k": accuracy_at_k,
            "precision_recall_at_k": precision_recall_at_k,
            "map_at_k": map_at_k,
            "show_progress_bar": show_progress_bar,
            "batch_size": batch_size,
            "write_csv": write_csv,
            "truncate_dim": truncate_dim,
            "score_functions": score_functions,
            "main_score_function": main_score_function,
            "write_predictions": write_predictions,
        }
        self.evaluators = [self._evaluator(name, read, options) for name in self.dataset_names]
        self._main: str | None = None

    def _evaluator(self, name: str, read: Reader, options: dict[str, Any]) -> InformationRetrievalEvaluator:
        split = split_of(name)
        return InformationRetrievalEvaluator(
            queries=read.texts("queries", split),
            corpus=read.texts("corpus", split),
            relevant_docs=read.relevant(split),
            name=split + self._cut,
            query_prompt=(self.query_prompts or {}).get(name),
            corpus_prompt=(self.corpus_prompts or {}).get(name),
            **options,
        )

    def __call__(
        self, model: EvaluatedModel, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        """Measures a model; see the class for the metrics."""
        self._log_start(epoch, steps)
        found = [evaluator(model, output_path, epoch, steps) for evaluator in self.evaluators]
        aggregates = self._report(self._aggregated(found), model, output_path, epoch, steps)
        return {key: value for metrics in (*found, aggregates) for key, value in metrics.items()}

    def measure(self, model: EvaluatedModel) -> Measured:
        """Measures a model; see the class for the metrics. Only the aggregates are returned."""
        return self._aggregated([evaluator(model) for evaluator in self.evaluators])

    def _aggregated(self, found: Sequence[Mapping[str, float]]) -> Measured:
        values: dict[str, list[float]] = {}
        for evaluator, metrics in zip(self.evaluators, found, strict=True):
            for key, value in metrics.items():
                values.setdefault(key.removeprefix(f"{evaluator.name}_"), []).append(value)
        aggregates = {key: float(self.aggregate_fn(some)) for key, some in values.items()}
        keys = self.evaluators[0].ranks.csv_keys()
        names = sorted(key.removesuffix(self._ndcg) for key in aggregates if key.endswith(self._ndcg))
        if self._main not in names:  # chosen once, as by each dataset's evaluator
            self._main = max(names, key=lambda name: aggregates[name + self._ndcg])
        main = self.main_score_function.value if self.main_score_function else self._main
        row = {f"{name}-{title(key)}": aggregates[f"{name}_{key}"] for name in names for key in keys}
        return Measured(aggregates, row, f"{main}{self._ndcg}")

    def store_metrics_in_model_card_data(
        self, model: object, metrics: Mapping[str, float | str], epoch: float = 0, step: int = 0
    ) -> None:
        """Records the aggregates in the model's card, unless there is only one dataset."""
        if len(self.evaluators) > 1:
            super().store_metrics_in_model_card_data(model, metrics, epoch, step)

    @property
    def _ndcg(self) -> str:
        return f"_ndcg@{max(self.evaluators[0].ranks.ndcg)}"

    def metric_names(self, model: EvaluatedModel) -> list[str]:
        """The names of the metrics that a call returns."""
        named = [(evaluator, evaluator.metric_names(model)) for evaluator in self.evaluators]
        bare = [name.removeprefix(f"{evaluator.name}_") for evaluator, names in named for name in names]
        return [*(name for _, names in named for name in names), *self._prefixed(dict.fromkeys(bare))]

    def get_config_dict(self) -> dict[str, Any]:
        """The options to show in the model card."""
        source = {} if self.folder else {"dataset_id": self.dataset_id}
        return {"dataset_names": self.dataset_names, **source, **super().get_config_dict()}


def split_of(name: str) -> str:
    """The dataset's name on the Hub, in a folder, and in metrics: "msmarco" is ``NanoMSMARCO``.

    Args:
        name: A short name; one that is not known stands for itself.
    """
    known = TITLES.get(name.lower())
    return name if known is None else f"Nano{known}"


def checked_names(
    names: Sequence[str] | None, folder: str | Path | None, left_out: Collection[str] = ()
) -> list[str]:
    """The names of the datasets to evaluate.

    Args:
        names: The chosen ones; None for all.
        folder: Folder of the datasets; None if they come from the Hub.
        left_out: Short names that "all of the Hub's" leaves out.

    Raises:
        ValueError: If there is no name, or no dataset of a name.
    """
    there = list(TITLES) if folder is None else names_in(folder)
    everything = [name for name in there if folder is not None or name not in left_out]
    chosen = everything if names is None else list(names)
    if not chosen:
        raise ValueError("dataset_names must hold at least one name; None stands for all datasets.")
    known = {split_of(name) for name in there}
    for name in chosen:
        if split_of(name) not in known:
            where = "NanoBEIR" if folder is None else str(folder)
            raise ValueError(f"{where} has no dataset {name!r}; {did_you_mean(name, there)}")
    return chosen


def _for_each(
    names: Sequence[str], argument: str, prompts: str | Mapping[str, str] | None
) -> dict[str, str] | None:
    if prompts is None:
        return None
    if isinstance(prompts, str):
        return dict.fromkeys(names, prompts)
    if missing := [name for name in names if name not in prompts]:
        raise ValueError(f"{argument} must have a prompt for each dataset; there is none for {missing}.")
    return dict(prompts)
