"""The report, the live table and the HParams of a search, from a study that was run by hand."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest

from ray_st.study.journal import Journal
from ray_st.study.objective import Objective
from ray_st.study.search_progress import LiveLines, SearchProgress, running_lines, write_hparams
from ray_st.study.search_report import schedule_table, summary, table, write_report
from ray_st.study.study import Study
from ray_st.study.trial_record import TrialRecord

STATES = ["COMPLETE", "PRUNED", "COMPLETE", "FAIL", "COMPLETE"]


def space(trial: Any) -> dict[str, Any]:
    return {
        "learning_rate": trial.suggest_float("learning_rate", 0, 1),
        "loss.name": trial.suggest_categorical("loss.name", ["A", "<b>"]),
    }


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Five trials that ended in three ways, and one that runs."""
    one = Study(space, Objective(None, ("maximize",)), Journal(tmp_path / "journal.jsonl"), 9)
    for number, state in enumerate(STATES):
        one.ask()
        for evaluation in range(1, 2 if state == "PRUNED" else 4):
            one.report(
                number, evaluation, 10 * evaluation, [number + evaluation / 10], samples=evaluation * 80
            )
        one.tell(number, state, "no such <file>" if state == "FAIL" else "")
    one.ask()
    one.report(5, 1, 10, [0.5])
    return one


def test_the_report_holds_all_it_shows(study: Study, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    assert write_report(tmp_path, study, 1)
    text = (tmp_path / "report.html").read_text()
    body = text[text.index("<body>") :]
    for title in (
        "History",
        "Parallel coordinates",
        "Slices",
        "Importances",
        "Learning curves",
        "Rungs",
        "Time line",
    ):
        assert f"<h2>{title}</h2>" in body
    assert "no such &lt;file&gt;" in body
    assert "<b>" not in body
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", body)
    assert "cdn" not in body


def test_a_search_with_several_objectives_has_a_front(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    one = Study(space, Objective(None, ("maximize", "minimize")), Journal(tmp_path / "journal.jsonl"), 3)
    for number, values in enumerate([[1.0, 5.0], [2.0, 5.0], [1.0, 1.0]]):
        one.ask()
        one.report(number, 1, 10, values)
        one.tell(number, "COMPLETE")
    assert write_report(tmp_path, one, 2)
    text = (tmp_path / "report.html").read_text()
    assert "<h2>Front</h2>" in text
    assert "<h2>History: objective_1</h2>" in text
    assert "2 trials on the front" in text


@pytest.fixture
def two(tmp_path: Path) -> Study:
    """One complete trial, and one that was stopped."""
    one = Study(space, Objective(None, ("maximize",)), Journal(tmp_path / "journal.jsonl"), 3)
    for number in range(2):
        one.ask()
        one.report(number, 1, 10, [0.5 + number / 4])
    one.tell(0, "COMPLETE")
    one.tell(1, "PRUNED")
    one.ask()
    one.tell(2, "FAIL", "lost")
    return one


def test_trials_that_were_stopped_are_shown_and_marked(two: Study) -> None:
    pytest.importorskip("plotly")
    from ray_st.study import plots

    drawn = {plot.title: plot for plot in plots.plots(two.study, two.records)}
    assert "1 trial(s) without an evaluation are left out" in drawn["History"].note
    history = {trace.name: (list(trace.x), list(trace.y)) for trace in drawn["History"].draw().data}
    assert history == {
        "complete": ([0], [0.5]),
        "stopped early": ([1], [0.75]),
        "best so far": ([0], [0.5]),
    }
    symbols = {trace.name: trace.marker.symbol for trace in drawn["Slices"].draw().data}
    assert symbols == {"complete": "circle", "stopped early": "x"}
    curves = drawn["Learning curves"].draw().data
    assert [(trace.name, list(trace.y)) for trace in curves] == [
        ("complete", [0.5]),
        ("stopped early", [0.75]),
    ]


def test_axes_are_as_long_as_the_space(two: Study) -> None:
    pytest.importorskip("plotly")
    from ray_st.study import plots

    shown = two.records[:1]
    figure = plots.slices(shown, 0, "objective")
    assert list(figure.layout.xaxis.range) == pytest.approx([-0.05, 1.05])
    assert list(figure.layout.xaxis2.ticktext) == ["A", "<b>"]
    ended, rate, loss, objective = plots.parallel(shown, 0, "objective").data[0].dimensions
    assert (ended.label, list(ended.ticktext)) == ("ended", ["complete"])
    assert list(rate.range) == pytest.approx([-0.05, 1.05])
    assert list(loss.ticktext) == ["A", "<b>"]
    assert objective.range[0] < 0.5 < objective.range[1]


def test_a_figure_that_cannot_be_drawn_costs_nothing_else(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("plotly")

    def failing(*args: Any) -> Any:
        raise TypeError("unhashable type: 'list'")

    monkeypatch.setattr("ray_st.study.plots.slices", failing)
    assert write_report(tmp_path, study, 1)
    assert "Slices could not be drawn (TypeError: unhashable type: 'list')" in capsys.readouterr().out
    text = (tmp_path / "report.html").read_text()
    assert "<p>Slices could not be drawn" in text
    assert "<h2>Time line</h2>" in text


def test_a_report_that_cannot_be_put_together_costs_nothing_else(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("plotly")

    def failing(*args: Any) -> Any:
        raise AssertionError("no trials")

    monkeypatch.setattr("ray_st.study.plots.plots", failing)
    assert not write_report(tmp_path, study, 1)
    out = capsys.readouterr().out
    assert "report.html cannot be written (AssertionError: no trials)" in out
    assert out.count("\n") == 1


def test_a_slot_is_used_again_as_soon_as_it_is_free() -> None:
    pytest.importorskip("plotly")
    from ray_st.study.plots import slots, time_line

    spans = [[[0, 4]], [[1, 2], [5, 9]], [[2, 6]], [[3, 5]], [[4, 7]]]
    trials = [TrialRecord(n, {}, {}, {}, objectives=(1.0,), spans=span) for n, span in enumerate(spans)]
    found = [(span.trial.number, span.slot, span.begin) for span in slots(trials)]
    assert found == [(0, 0, 0), (1, 1, 1), (2, 1, 2), (3, 2, 3), (4, 0, 4), (1, 2, 5)]
    figure = time_line(trials)
    assert {int(row) for trace in figure.data[:-1] for row in trace.y} == {0, 1, 2}


def test_importances_of_few_trials_with_names_under_a_choice(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    from ray_st.study import plots

    def conditional(trial: Any) -> None:
        trial.suggest_float("rate", 0, 1)
        if trial.suggest_categorical("loss", ["a", "b"]) == "a":
            trial.suggest_float("scale", 0, 1)

    one = Study(conditional, Objective(None, ("maximize",)), Journal(tmp_path / "journal.jsonl"), 6)
    for number in range(6):
        asked = one.ask()
        assert asked is not None
        one.report(number, 1, 10, [asked.values["rate"] + 3 * asked.values.get("scale", 0)])
        one.tell(number, "COMPLETE")
        drawn = {plot.title: plot for plot in plots.plots(one.study, one.records)}
        assert ("Importances" in drawn) == (number > 0)
        if number > 0:
            shown = {name.partition(" ")[0] for name in drawn["Importances"].draw().data[0].y}
            assert shown == {name for record in one.records for name in record.values}


def test_a_report_that_cannot_be_written_costs_nothing_else(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("plotly")
    assert not write_report(tmp_path / "away", study, 1)
    assert "report.html cannot be written" in capsys.readouterr().out


def test_a_search_without_results_has_a_report(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    one = Study(space, Objective(None, ("maximize",)), Journal(tmp_path / "journal.jsonl"), 1)
    one.ask()
    one.tell(0, "FAIL", "lost")
    assert write_report(tmp_path, one, 1)
    assert "1 trials: 1 failed." in (tmp_path / "report.html").read_text()


def test_without_plotly_a_line_says_what_is_missing(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not write_report(tmp_path, study, 1)
    assert "ray-st[plots]" in capsys.readouterr().out


def test_how_trials_went_on_at_each_rung(study: Study) -> None:
    pytest.importorskip("plotly")
    from ray_st.study.plots import busy, rungs

    bars = {bar.name: list(bar.y) for bar in rungs(study.records).data}
    assert bars == {
        "COMPLETE": [0, 0, 3],
        "PRUNED": [1, 0, 0],
        "FAIL": [0, 0, 1],
        "RUNNING": [1, 0, 0],
        "went on": [4, 4, 0],
    }
    trials = [TrialRecord(0, {}, {}, {}, spans=[[1, 3], [5, 6]]), TrialRecord(1, {}, {}, {}, spans=[[2, 5]])]
    assert busy(trials) == ([1, 2, 3, 5, 6], [1, 2, 1, 1, 0])


def test_summary_and_table(study: Study) -> None:
    assert summary(study, 1).startswith(
        "6 trials: 3 complete, 1 stopped early, 1 failed, 1 running. Best: trial 4 with 4.3."
    )
    assert table(study.records, 1).count("<tr>") == 7


def test_the_schedule_of_a_best_trial_that_is_a_copy(tmp_path: Path) -> None:
    one = Study(space, Objective(None, ("maximize",)), Journal(tmp_path / "journal.jsonl"), 2)
    for number in range(2):
        one.ask()
        one.report(number, 1, 10, [float(number)], ended=False)
    assert schedule_table(one) == ""
    one.copied(0, 1, 1, 10, {"learning_rate": 0.125, "loss.name": "<b>"})
    one.resumed(0)
    one.report(0, 2, 20, [5.0], ended=True)
    one.tell(0, "COMPLETE")
    text = schedule_table(one)
    assert text.count("<tr>") == 3
    assert "<td>1</td><td>0</td><td>0.125</td><td>&lt;b&gt;</td>" in text
    assert "copied trial 1 after evaluation 1" in table(one.records, 1)


# ---- the terminal ----


def test_live_lines_are_written_over() -> None:
    stream = io.StringIO()
    live = LiveLines(stream)
    live.show(["one", "x" * 500])
    live.above("stays")
    live.show(["two"])
    text = stream.getvalue()
    assert text.count("\x1b[2F\x1b[J") == 2
    assert "stays\none\n" in text
    assert text.endswith("two\n")
    assert max(len(line) for line in text.splitlines()) < 500


def test_the_live_table_and_the_plain_lines(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head, line = running_lines(study.records, [], study.records[5].spans[-1][1] + 7)
    assert head == "1 running:"
    assert line.startswith("  trial 5: 0.5 after 1 evaluations, step 10, 7 s; learning_rate=")
    assert running_lines(study.records, [5], 0.0) == ["0 running, 1 waiting for others:"]
    SearchProgress(study, 1, tmp_path, False, None).ended(study.tell(5, "PRUNED"))
    out = capsys.readouterr().out
    assert out.startswith("trial 5: 0.5, stopped early at step 10, ")
    assert out.endswith("best: trial 4 with 4.3\n")
    stream = io.StringIO()
    SearchProgress(study, 1, tmp_path, False, LiveLines(stream)).reported()
    assert "0 running:" in stream.getvalue()


def test_hparams_for_tensorboard(study: Study, tmp_path: Path) -> None:
    write_hparams(tmp_path, study.records[0])
    files = list((tmp_path / "tensorboard" / "trial-0").glob("events*"))
    written = b"".join(file.read_bytes() for file in files)
    for word in (b"hparams", b"learning_rate", b"objective"):
        assert word in written
