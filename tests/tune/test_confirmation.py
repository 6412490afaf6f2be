"""A search and the trainings of its finalists, in this process: what Ray Tune does elsewhere is a loop here."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from ray.train import RunConfig
from torch import nn
from transformers.trainer_utils import BestRun

import reranker_search
from ray_st import CrossEncoder, SentenceTransformer, SentenceTransformerTrainer, losses
from ray_st.evaluation import EmbeddingSimilarityEvaluator
from ray_st.runtime.tune.trial_loop import Reports, data_parts, evaluate_end
from ray_st.study.journal import Journal
from ray_st.study.search_options import as_options
from ray_st.study.space import as_space, probe
from ray_st.study.trial_arguments import SpaceError
from ray_st.study.trial_record import TrialRecord
from ray_st.training.checkpoint.store import CheckpointError, CheckpointStore
from ray_st.training.data.local_source import local_context
from ray_st.training_args import SentenceTransformerTrainingArguments
from ray_st.tune import trial_runner
from ray_st.tune.checked_search import check_search, template_of
from ray_st.tune.confirmation import repeating
from ray_st.tune.results import SearchFailed
from ray_st.tune.search_checks import check_template
from ray_st.tune.trial_work import Given, Work

ROWS = {"a": ["good weather", "bad man", "sunny", "pasta"], "b": ["the sun", "a man", "weather", "eats"]}
SCORES = [1.0, 0.0, 0.7, 0.2]
OBJECTIVE = "eval_dev_spearman_cosine"


def make_trainer(
    folder: Path, model_folder: Path, run_config: RunConfig | None = None, **arguments: Any
) -> SentenceTransformerTrainer:
    def model_init(trial: Any = None) -> SentenceTransformer:
        model = SentenceTransformer(str(model_folder), device="cpu")
        model.max_seq_length = trial["length"] if trial and "length" in trial else 8
        return model

    def loss_init(model: Any, trial: Any = None) -> nn.Module:
        return losses.CoSENTLoss(model, scale=trial["scale"] if trial else 20.0)

    args = SentenceTransformerTrainingArguments(
        str(folder / "out"),
        num_train_epochs=2,
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
        **{"save_strategy": "no", "logging_steps": 1, "learning_rate": 1e-3, **arguments},
    )
    return SentenceTransformerTrainer(
        args=args,
        train_dataset=Dataset.from_dict({**ROWS, "score": SCORES}),
        evaluator=EmbeddingSimilarityEvaluator(ROWS["a"], ROWS["b"], SCORES, name="dev"),
        model_init=model_init,
        loss=loss_init,
        run_config=run_config,
    )


def space(trial: Any) -> dict[str, Any]:
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
        "scale": trial.suggest_float("scale", 5.0, 40.0),
        "length": trial.suggest_categorical("length", [6, 8]),
    }


class Killed(BaseException):
    """What a driver that is killed does, as far as a test can tell."""


@dataclass
class Settings:
    """How searches run in this process.

    Args:
        value: The value of an evaluation, in place of the evaluator's; None for that.
        trains: Whether trials train; otherwise they only report one value.
        most: The driver is killed after so many trials.
        seen: What ran: for each driver, the part of the search and the hyperparameters of each trial.
    """

    value: Callable[[int, dict[str, Any]], float] | None = None
    trains: bool = True
    most: int = 10**6
    seen: list[list[tuple[str, dict[str, Any]]]] = field(default_factory=list)


@dataclass
class Loop:
    """Runs studies one trial at a time in this process."""

    given: Given
    settings: Settings
    seen: list[tuple[str, dict[str, Any]]]

    def run(self, work: Work) -> None:
        retention = work.retention(lambda number: self._store(work, number))
        while (record := work.study.ask()) is not None:
            if len(self.seen) >= self.settings.most:
                raise Killed
            self.seen.append((work.part, record.values))
            try:
                self._train(work, record) if self.settings.trains else self._pretend(work, record)
                work.study.tell(record.number, "COMPLETE")
            except ValueError as error:
                work.study.tell(record.number, "FAIL", str(error))
            work.progress.ended(work.study.records[record.number])
            retention.tidy()

    def _store(self, work: Work, number: int) -> CheckpointStore:
        return CheckpointStore(str(self.given.folder / work.part / f"run-{number}"))

    def _pretend(self, work: Work, record: TrialRecord) -> None:
        assert self.settings.value is not None
        value = self.settings.value(1, record.values)
        work.study.report(record.number, 1, 4, [value], ended=True, samples=8, metrics={}, seconds=1.0)

    def _train(self, work: Work, record: TrialRecord) -> None:
        trial = work.template(record.number, record.values, record.name)
        context = local_context(data_parts(trial, 1), self._store(work, record.number).path)
        running: Any = trial.description.rebuild(context)

        def send(report: dict[str, Any]) -> None:
            objectives = self.given.objective(report["metrics"])
            if self.settings.value is not None:
                objectives = (self.settings.value(report["evaluation"], record.values),)
            metrics = {"losses": losses_of(running)}
            facts = {key: report[key] for key in ("evaluation", "step", "ended", "samples")}
            work.study.report(record.number, objectives=objectives, metrics=metrics, seconds=1.0, **facts)

        Reports(send, saving=work.saving).attach(running)
        running.train()
        evaluate_end(running)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Searches run in this process."""
    given = Settings()

    @contextmanager
    def in_this_process(trainer: Any, search: Given) -> Iterator[Loop]:
        given.seen.append([])
        yield Loop(search, given, given.seen[-1])

    monkeypatch.setattr(trial_runner, "trial_runner", in_this_process)
    return given


@pytest.fixture
def pretended(settings: Settings) -> Settings:
    """Searches run in this process, and trials only pretend to train: their value depends on all they draw."""
    settings.trains = False
    settings.value = lambda evaluation, values: zlib.crc32(repr(values).encode()) / 2**32
    return settings


def losses_of(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def search(folder: Path, model_folder: Path, trials: int = 4, arguments: Any = None, **options: Any) -> Any:
    trainer = make_trainer(folder, model_folder, **(arguments or {}))
    given = {"name": "s", "scheduler": None, "confirm": 2, "finalists": 2, **options}
    return trainer.hyperparameter_search(space, OBJECTIVE, trials, "maximize", **given)


def told(folder: Path) -> list[dict[str, Any]]:
    return Journal(folder / "out" / "s" / "confirm" / "journal.jsonl").read()


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [weight.detach().cpu() for weight in model.state_dict().values()]


def checkpoints(folder: Path) -> list[str]:
    found = (folder / "out" / "s").glob("**/checkpoint-*")
    return sorted(str(path.relative_to(folder / "out" / "s")) for path in found)


@pytest.mark.slow
def test_the_best_few_are_trained_again(
    tmp_path: Path, tiny_folder: Path, settings: Settings, capsys: Any
) -> None:
    best = search(tmp_path, tiny_folder)
    run_id, objective, hyperparameters, summary = best
    assert isinstance(best, BestRun)
    assert best == BestRun(run_id, objective, hyperparameters, summary)
    trials, again, confirmed = summary.trials, summary.confirmations, summary.confirmed
    assert (len(trials), len(again)) == (4, 4)
    assert hyperparameters == trials[int(run_id)].values
    assert confirmed.winner == best.confirmed
    assert objective == best.confirmed.mean
    assert len({record.values["seed"] for record in again}) == 2
    assert 42 not in {record.values["seed"] for record in again}
    assert (confirmed.runs, confirmed.rows) == (4, 4 * 8)
    assert summary.rows == 8 * 8
    # The weights of the winner's typical training, and nothing else, are kept.
    typical = best.confirmed.typical_runs[0]
    assert checkpoints(tmp_path) == [f"confirm/run-{typical}/checkpoint-4"]
    assert not (tmp_path / "out/s/confirm" / f"run-{typical}/checkpoint-4/optimizer.pt").exists()
    model = best.model
    assert type(model) is SentenceTransformer
    assert best.model is model
    found = EmbeddingSimilarityEvaluator(ROWS["a"], ROWS["b"], SCORES, name="dev")(model)
    assert found["dev_spearman_cosine"] == pytest.approx(again[typical].objectives[0], abs=1e-6)
    # Nothing is opened on the way to another process.
    copied = pickle.loads(pickle.dumps(best))
    assert (copied[:3], copied.confirmed) == (best[:3], best.confirmed)
    assert all(map(torch.equal, weights(copied.model), weights(model)))
    out = capsys.readouterr().out
    assert "its best 2 trials are trained again with fresh seeds: 4 trainings" in out
    assert f"(again with seed {again[0].values['seed']})" in out
    assert f"confirmed: trial {run_id} with " in out
    report = (tmp_path / "out/s/report.html").read_text()
    assert "<h2>Confirmed</h2>" in report
    assert f"Trial {run_id} is chosen" in report
    rows = (tmp_path / "out/s/confirmed.csv").read_text().splitlines()
    assert rows[0].startswith("trial,in the search,mean,standard deviation,min,max,expected from")
    assert len(rows) == 3


def test_it_is_done_once(tmp_path: Path, tiny_folder: Path, pretended: Settings) -> None:
    best = search(tmp_path, tiny_folder)
    events = told(tmp_path)
    assert search(tmp_path, tiny_folder)[:3] == best[:3]
    assert len(pretended.seen) == 1
    assert told(tmp_path) == events
    # More seeds, finalists and trials are added; what was done stays.
    more = search(tmp_path, tiny_folder, confirm=3, finalists=3)
    assert told(tmp_path)[: len(events)] == events
    assert len(pretended.seen[1]) == 3 * 3 - 4
    assert len(more.run_summary.confirmed.finalists) == 3
    assert [len(one.values) for one in more.run_summary.confirmed.finalists] == [3, 3, 3]
    longer = search(tmp_path, tiny_folder, 6, confirm=3, finalists=3)
    assert len(longer.run_summary.trials) == 6
    assert told(tmp_path)[: len(events)] == events
    plain = search(tmp_path, tiny_folder, 6, confirm=0)
    assert plain.confirmed is None
    assert plain.objective == max(trial.objectives[0] for trial in plain.run_summary.trials)


@pytest.mark.parametrize("most", [3, 4, 6, 7])
def test_a_killed_search_goes_on_with_its_finalists(
    most: int, tmp_path: Path, tiny_folder: Path, pretended: Settings
) -> None:
    unbroken = search(tmp_path / "unbroken", tiny_folder)
    pretended.most = most
    with pytest.raises(Killed):
        search(tmp_path, tiny_folder)
    pretended.most = 10**6
    best = search(tmp_path, tiny_folder)
    assert len(pretended.seen[1]) + len(pretended.seen[2]) == 8
    assert [part for part, _ in pretended.seen[1] + pretended.seen[2]] == [""] * 4 + ["confirm"] * 4
    ours, theirs = best.run_summary.confirmations, unbroken.run_summary.confirmations
    assert [record.values for record in ours] == [record.values for record in theirs]
    assert [record.objectives for record in ours] == [record.objectives for record in theirs]
    asked = [event["number"] for event in told(tmp_path) if event["event"] == "asked"]
    assert asked == [0, 1, 2, 3]


@pytest.mark.parametrize("most", [3, 6])
def test_another_machine_goes_on_with_the_finalists(
    most: int, tmp_path: Path, tiny_folder: Path, pretended: Settings
) -> None:
    unbroken = search(tmp_path / "unbroken", tiny_folder)
    there = {"run_config": RunConfig(storage_path=str(tmp_path / "storage"))}
    pretended.most = most
    with pytest.raises(Killed):
        search(tmp_path / "first", tiny_folder, arguments=there)
    pretended.most = 10**6
    best = search(tmp_path / "second", tiny_folder, arguments=there)
    assert [part for part, _ in pretended.seen[1] + pretended.seen[2]] == [""] * 4 + ["confirm"] * 4
    assert best[:3] == unbroken[:3]
    assert best.confirmed.values == unbroken.confirmed.values
    # Finished, it returns its result anywhere, and what is added is added to what there is.
    third = search(tmp_path / "third", tiny_folder, arguments=there)
    assert (third[:3], len(pretended.seen)) == (best[:3], 3)
    assert (tmp_path / "storage/searches/s/confirm/trials.csv").exists()
    before = told(tmp_path / "third")
    search(tmp_path / "first", tiny_folder, arguments=there, confirm=3)
    assert len(pretended.seen[3]) == 2
    assert told(tmp_path / "first")[: len(before)] == before


@pytest.mark.slow
def test_the_best_evaluation_keeps_its_weights(tmp_path: Path, tiny_folder: Path, settings: Settings) -> None:
    # The first of two evaluations is the better one.
    settings.value = lambda evaluation, values: values["learning_rate"] / evaluation
    best = search(tmp_path, tiny_folder, arguments={"ray_scope": "all"}, rungs=2)
    typical = best.confirmed.typical_runs[0]
    assert checkpoints(tmp_path) == [f"confirm/run-{typical}/checkpoint-2"]
    assert best.objective == pytest.approx(best.hyperparameters["learning_rate"])
    assert type(best.model) is SentenceTransformer


def test_luck_is_not_confirmed(tmp_path: Path, tiny_folder: Path, pretended: Settings) -> None:
    """A trial that was lucky in the search loses to one that is good with every seed."""

    def value(evaluation: int, values: dict[str, Any]) -> float:
        good = 0.8 - values["learning_rate"]
        return good if "seed" in values else 1.0 - good

    pretended.value = value
    best = search(tmp_path, tiny_folder, finalists=4)
    trials = best.run_summary.trials
    assert int(best.run_id) == min(trials, key=lambda trial: trial.objectives[0]).number
    assert best.confirmed.optimism < 0


def test_all_finalists_fail(tmp_path: Path, tiny_folder: Path, pretended: Settings) -> None:
    def value(evaluation: int, values: dict[str, Any]) -> float:
        if "seed" in values:
            raise ValueError("no such luck")
        return values["scale"]

    pretended.value = value
    with pytest.raises(SearchFailed, match=r"None of the 4 trainings .* no such luck .* confirm=0"):
        search(tmp_path, tiny_folder)
    assert search(tmp_path, tiny_folder, confirm=0).objective > 5


def test_a_finalist_that_fails_once_ranks_last(
    tmp_path: Path, tiny_folder: Path, pretended: Settings
) -> None:
    failed: list[Any] = []

    def value(evaluation: int, values: dict[str, Any]) -> float:
        if "seed" in values and not failed:
            failed.append(values)
            raise ValueError("no such luck")
        return values["scale"]

    pretended.value = value
    best = search(tmp_path, tiny_folder)
    first, second = best.run_summary.confirmed.finalists
    assert first.mean < second.mean
    assert list(second.failures.values()) == ["no such luck"]
    assert best.hyperparameters["scale"] == first.mean
    report = (tmp_path / "out/s/report.html").read_text()
    assert f"Trial {second.number} failed with seed {failed[0]['seed']}, and so ranks behind." in report


@pytest.mark.slow
def test_rerankers_and_trials_with_data_of_their_own(
    tmp_path: Path, tiny_reranker: Path, settings: Settings
) -> None:
    arguments = {"max_steps": 2}
    trainer = reranker_search.make_trainer(tmp_path / "out", tiny_reranker, **arguments)
    best = trainer.hyperparameter_search(
        reranker_search.space,
        reranker_search.OBJECTIVE,
        2,
        "maximize",
        name="s",
        rungs=1,
        data_init=reranker_search.rows_of_trial,
        confirm=1,
        finalists=1,
    )
    assert type(best.model) is CrossEncoder
    found = reranker_search.evaluator()(best.model)["dev_map"]
    assert found == pytest.approx(best.confirmed.mean, abs=1e-6)
    trainer.apply_hyperparameters(best, data_init=reranker_search.rows_of_trial)
    rows = reranker_search.rows_of_trial(best.hyperparameters)
    assert trainer.train_dataset.column_names == rows.column_names
    assert type(trainer.loss).__name__ == best.hyperparameters["loss"]


# ---- without confirmation ----


def test_without_confirmation_the_report_names_the_luck(
    tmp_path: Path, tiny_folder: Path, pretended: Settings
) -> None:
    best = search(tmp_path, tiny_folder, confirm=0)
    assert best.confirmed is None
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 4.*confirm=1 or more.*save_strategy"):
        best.model  # noqa: B018
    text = (tmp_path / "out/s/report.html").read_text()
    assert f"The value of trial {best.run_id} is the best of 4 complete trials" in text
    assert not (tmp_path / "out/s/confirm").exists()


@pytest.mark.slow
def test_a_checkpoint_of_the_best_trial_is_its_model(
    tmp_path: Path, tiny_folder: Path, settings: Settings
) -> None:
    best = search(tmp_path, tiny_folder, confirm=0, arguments={"save_strategy": "epoch"})
    found = EmbeddingSimilarityEvaluator(ROWS["a"], ROWS["b"], SCORES, name="dev")(best.model)
    assert found["dev_spearman_cosine"] == pytest.approx(best.objective, abs=1e-6)


# ---- what is shared with the search's trials ----


def _checked(trainer: Any, hp_space: Any) -> Any:
    return check_template(template_of(trainer, as_options({}, 1)), probe(as_space(hp_space)))


def _rate(trial: Any) -> dict[str, Any]:
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-3)}


def test_models_that_depend_on_the_seed_are_made_anew(tmp_path: Path, tiny_folder: Path) -> None:
    trainer = make_trainer(tmp_path, tiny_folder)
    trainer.model_init = lambda: SentenceTransformer(str(tiny_folder), device="cpu")
    trainer.loss_init = losses.CoSENTLoss
    template = _checked(trainer, _rate)
    assert template.base is not None
    assert repeating(template, "last").base is template.base

    def with_head() -> SentenceTransformer:
        model = SentenceTransformer(str(tiny_folder), device="cpu")
        model.append(_head(model))
        return model

    trainer.model_init = with_head
    template = _checked(trainer, _rate)
    assert template.base is not None
    again = repeating(template, "last")
    assert again.base is None
    one, same, other = (again(0, {"learning_rate": 1e-3, "seed": seed}) for seed in (5, 5, 6))
    made = [trial.description.options["model"][-1].linear.weight for trial in (one, same, other)]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def _head(model: SentenceTransformer) -> nn.Module:
    from ray_st.models import Dense

    return Dense(model.get_embedding_dimension() or 0, 4)


def test_what_saves_the_weights(tmp_path: Path, tiny_folder: Path) -> None:
    trainer = make_trainer(tmp_path, tiny_folder, save_strategy="epoch")
    template = _checked(trainer, space)
    args = repeating(template, "last").args({"seed": 7})
    assert (args.seed, args.save_only_model, args.save_total_limit) == (7, False, 1)
    assert repeating(template, "all").args({}).save_total_limit is None
    trainer = make_trainer(tmp_path, tiny_folder)
    assert repeating(_checked(trainer, space), "last").args({}).save_only_model


# ---- bad input ----


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"confirm": -1}, "confirm: expected a whole number of at least 0, found -1"),
        ({"confirm": 1.5}, "confirm: expected a whole number"),
        ({"confirm": True}, "confirm: expected a whole number"),
        ({"finalists": 0}, "finalists: expected a whole number of at least 1, found 0"),
        ({"confirms": 3}, "did you mean 'confirm'"),
        ({"scheduler": "pbt", "rungs": 3}, "confirm=2: the winner of a population is a schedule"),
    ],
)
def test_odd_values_are_refused(
    options: dict[str, Any], said: str, tmp_path: Path, tiny_folder: Path
) -> None:
    trainer = make_trainer(tmp_path, tiny_folder)
    with pytest.raises(ValueError, match=said):
        check_search(trainer, space, OBJECTIVE, 4, "maximize", **{"confirm": 2, **options})


def test_several_objectives_have_no_winner() -> None:
    with pytest.raises(ValueError, match="several objectives has no single winner"):
        as_options({"confirm": 2}, 2)


# ---- apply_hyperparameters ----


def trained_here(trainer: Any, folder: Path) -> list[float]:
    """What a trainer logs when it trains in this process."""
    data = trainer.data
    running: Any = trainer.spec().rebuild(
        local_context({**data.train_specs(1), **data.eval_specs(1)}, folder)
    )
    running.train()
    return losses_of(running)


@pytest.mark.slow
def test_the_trainer_trains_what_the_trial_trained(
    tmp_path: Path, tiny_folder: Path, settings: Settings
) -> None:
    trainer = make_trainer(tmp_path, tiny_folder)
    best = trainer.hyperparameter_search(space, OBJECTIVE, 3, "maximize", name="s", scheduler=None)
    trial = best.run_summary.trials[int(best.run_id)]
    before = trained_here(trainer, tmp_path / "before")
    trainer.apply_hyperparameters(best)
    assert trainer.args.learning_rate == best.hyperparameters["learning_rate"]
    assert trainer.args.seed == 42
    assert trainer.loss.scale == best.hyperparameters["scale"]
    assert trainer.loss.model is trainer.model
    assert trainer.model.max_seq_length == best.hyperparameters["length"]
    after = trained_here(trainer, tmp_path / "after")
    assert after == trial.history[-1]["metrics"]["losses"]
    assert after != before


def test_train_makes_the_model_of_the_trial_again(tmp_path: Path, tiny_folder: Path) -> None:
    trainer = make_trainer(tmp_path, tiny_folder)
    trainer.apply_hyperparameters({"length": 6, "scale": 7.0, "num_train_epochs": 1})
    assert (trainer.model.max_seq_length, trainer.loss.scale) == (6, 7.0)
    first = trainer.model
    trainer._make_model(trainer._applied)  # as each train() does
    assert trainer.model is not first
    assert (trainer.model.max_seq_length, trainer.loss.scale) == (6, 7.0)
    trainer.apply_hyperparameters({"scale": 9.0})
    assert (trainer.model.max_seq_length, trainer.loss.scale, trainer.args.num_train_epochs) == (8, 9.0, 1)


def test_a_trainer_with_a_model_takes_arguments(tmp_path: Path, tiny_folder: Path) -> None:
    model = SentenceTransformer(str(tiny_folder), device="cpu")
    args = SentenceTransformerTrainingArguments(str(tmp_path / "out"), report_to=[], use_cpu=True)
    data = Dataset.from_dict({**ROWS, "score": SCORES})
    trainer = SentenceTransformerTrainer(model, args, data)
    trainer.apply_hyperparameters({"learning_rate": 0.5})
    assert trainer.args.learning_rate == 0.5
    assert trainer.model is model
    with pytest.raises(SpaceError, match="apply_hyperparameters: 'scale' is not a training argument"):
        trainer.apply_hyperparameters({"scale": 7.0})


def test_data_of_a_trial_are_made_too(tmp_path: Path, tiny_folder: Path) -> None:
    trainer = make_trainer(tmp_path, tiny_folder)
    data = trainer.train_dataset
    values = {"rows": 2, "scale": 7.0}
    with pytest.raises(SpaceError, match="'rows' is not a training argument"):
        trainer.apply_hyperparameters(values)
    trainer.apply_hyperparameters(values, data_init=lambda trial: data.select(range(trial["rows"])))
    assert len(trainer.train_dataset) == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"learning_rat": 0.1, "scale": 5.0},
            r"apply_hyperparameters: 'learning_rat'.*did you mean 'learning_rate'",
        ),
        ({"output_dir": "x", "scale": 5.0}, "'output_dir' belongs to the search"),
        ({"learning_rate": "much", "scale": 5.0}, "learning_rate"),
        (
            [BestRun("0", 1.0, {})],
            "takes the result of hyperparameter_search.*got list. Give one of the runs",
        ),
        (0.1, "got float"),
    ],
)
def test_what_cannot_be_applied_changes_nothing(
    given: Any, said: str, tmp_path: Path, tiny_folder: Path
) -> None:
    trainer = make_trainer(tmp_path, tiny_folder)
    before = (trainer.args, trainer.model, trainer.loss, trainer._applied)
    with pytest.raises(ValueError, match=said):
        trainer.apply_hyperparameters(given)
    after = (trainer.args, trainer.model, trainer.loss, trainer._applied)
    assert all(one is other for one, other in zip(before, after, strict=True))
    assert trainer.callback_handler.model is trainer.model
