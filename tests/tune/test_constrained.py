"""Constraints at a search's front door: names are checked, they belong to the search, results satisfy them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ray_st import CrossEncoder, SentenceTransformer, SentenceTransformerTrainer
from ray_st.runtime.tune.trial_loop import Reports
from ray_st.runtime.tune.trial_measures import TrialMeasures, _one_text, encode_ms
from ray_st.study.constraints import MEASURED, ConstraintError, parse_all
from ray_st.study.journal import Journal
from ray_st.study.objective import Objective, ObjectiveError
from ray_st.study.search_options import as_options
from ray_st.study.space import as_space, probe
from ray_st.study.study import Study
from ray_st.training.data.local_source import local_context
from ray_st.tune.checked_search import check_search, template_of
from ray_st.tune.found_run import SavedWeights
from ray_st.tune.identity import constraint_settings
from ray_st.tune.results import Results, SearchFailed
from ray_st.tune.search_checks import check_template
from search_helpers import make_trainer

BOUNDS = ["model_mib <= 90", "eval_loss <= 0.5"]


def rate(trial: Any) -> dict[str, Any]:
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-3, log=True)}


def test_constraints_are_checked_before_anything_starts(tmp_path: Path, tiny_folder: Path) -> None:
    trainer = make_trainer(tmp_path, tiny_folder)
    objective = ["eval_loss", "encode_ms"]
    ways = ["minimize", "minimize"]
    found = check_search(trainer, rate, objective, 4, ways, constraints=BOUNDS)
    assert found.objective.measures == {"model_mib", "encode_ms"}
    assert constraint_settings(found.objective) == {"constraints": ["eval_loss <= 0.5", "model_mib <= 90"]}
    for bounds, kind, said in (
        (["eval_lss <= 0.5"], ObjectiveError, r"'eval_lss <= 0.5' is reported by no evaluation.*'eval_loss'"),
        (["model_mb <= 90"], ObjectiveError, "did you mean 'model_mib'"),
        (["eval_loss < 1"], ConstraintError, "Write <= in place of <"),
        ("eval_loss <= 1", ConstraintError, "expected a list of texts"),
    ):
        with pytest.raises(kind, match=said):
            check_search(trainer, rate, "eval_loss", 4, "minimize", constraints=bounds)
    assert constraint_settings(Objective("eval_loss", ("minimize",))) == {}


def _finished(folder: Path, violated: list[float]) -> Results:
    """A search whose trials have ended, with the violation of a bound of the model's size each."""
    bounds = parse_all(["model_mib <= 100"])
    objective = Objective("eval_loss", ("minimize",), constraints=bounds)
    study = Study(rate, objective, Journal(folder / "journal.jsonl"), len(violated))
    for number, size in enumerate(violated):
        study.ask()
        metrics = {"model_mib": size, "eval_loss": 1.0 - number / 10}
        facts: dict[str, Any] = {"violations": objective.violations(metrics), "metrics": metrics}
        study.report(number, 1, 10, [metrics["eval_loss"]], **facts)
        study.tell(number, "COMPLETE")
    weights = SavedWeights(SentenceTransformerTrainer, None, folder, "", None)
    return Results(study, objective, folder, weights, None)


def test_the_result_satisfies_the_constraints(tmp_path: Path) -> None:
    best = _finished(tmp_path, [80, 90, 120]).found(sequential=True)
    assert not isinstance(best, list)
    assert best.run_id == "1"  # the last one is better, and too large


def test_if_none_does_the_nearest_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        SearchFailed, match=r"nearest is trial 1: model_mib <= 100 \(it has 104\).*trials.csv"
    ):
        _finished(tmp_path, [120, 104, 130]).found(sequential=True)


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_a_trained_trial_measures_itself_and_trains_as_without(
    kind: str, tmp_path: Path, tiny_folder: Path
) -> None:
    """The trainer's own run, in this process."""
    narrow = {"model_kwargs": {"torch_dtype": kind}}

    def run(name: str, wanted: list[str]) -> tuple[list[dict[str, Any]], Any]:
        trainer = make_trainer(tmp_path / name, tiny_folder)
        trainer.model_init = lambda: SentenceTransformer(str(tiny_folder), device="cpu", **narrow)
        template = check_template(template_of(trainer, as_options({"rungs": 3}, 1)), probe(as_space(rate)))
        made = template(0, {"learning_rate": 1e-2})
        parts = {**made.data.train_specs(1), **made.data.eval_specs(1)}
        measures = TrialMeasures(wanted)
        running: Any = made.description.rebuild(local_context(parts, tmp_path / name / "run"))
        told: list[dict[str, Any]] = []
        Reports(told.append, measures=measures).attach(running)
        running.train()
        return told, running

    told, running = run("measured", list(MEASURED))
    plain, other = run("plain", [])
    assert [report["metrics"].keys() - MEASURED.keys() for report in told] == [
        report["metrics"].keys() for report in plain
    ]
    assert all(report["metrics"].keys() >= MEASURED.keys() for report in told)
    assert [report["metrics"]["eval_loss"] for report in told] == [
        report["metrics"]["eval_loss"] for report in plain
    ]
    for name, weight in running.model.state_dict().items():
        assert torch.equal(weight, other.model.state_dict()[name])
    running.restore_types()
    running.model.save_pretrained(str(tmp_path / "saved"))
    files = (tmp_path / "saved").rglob("*.safetensors")
    saved = sum(weight.nbytes for file in files for weight in load_file(file).values())
    assert told[-1]["metrics"]["model_mib"] * 2**20 == saved


def test_a_reranker_scores_a_pair(tiny_reranker: Path) -> None:
    model = CrossEncoder(str(tiny_reranker), device="cpu")
    assert encode_ms(_one_text(model, takes_pairs=True)) > 0
