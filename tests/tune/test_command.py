"""``ray-st tune``, as far as it goes without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ray_st.cli import main
from ray_st.cli.raw_run import load_run
from ray_st.cli.runfile import read_run
from ray_st.cli.tune import _DataInit, _LossInit, _ModelInit, run_with, write_best
from ray_st.data.located import read_located

SEARCH = """
  space:
    args.learning_rate: {low: 1.0e-6, high: 1.0e-3, log: true}
    loss.scale: [10.0, 20.0]
    model.max_seq_length: [16, 32]
  objective: eval_dev_spearman_cosine
  direction: maximize
"""


@pytest.fixture
def search_file(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "pairs.csv").write_text("a,b,score\ngood text,a sunny day,0.9\nbad text,pasta,0.1\n")
    path = tmp_path / "run.yaml"
    path.write_text(
        f"""
model: {tiny_folder}
data: {{train: pairs.csv}}
loss: CoSENTLoss
args: {{output_dir: out, use_cpu: true, report_to: none}}
evaluators: {{type: EmbeddingSimilarityEvaluator, data: pairs.csv, name: dev}}
search: {SEARCH}"""
    )
    return path


def test_a_search_is_checked_without_ray(search_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", str(search_file), "--check"]) == 0
    assert "OK: the search is valid" in capsys.readouterr().out


def test_the_default_space_is_shown(search_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", str(search_file), "search.space=default", "--check"]) == 0
    out = capsys.readouterr().out
    assert "learning_rate: 1e-05 to 0.0005 (logarithmic): for a model of up to 50 million weights" in out
    assert "num_train_epochs: 1 to 5: for 2 rows" in out


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("search.trails=3", "did you mean 'trials'"),
        ("search.objective=null", "search.objective: missing"),
        ("search.space={learning_rate: [1]}", "did you mean 'args.learning_rate'"),
        ("search.space=defualt", "search.space: expected"),
        ("search.trials=many", "search.trials: expected a whole number"),
        ("search=null", "search: missing"),
        ("args.learning_rat=1", "did you mean"),
        ("search.space={args.learning_rat: [0.1]}", "did you mean 'learning_rate'"),
        ("search.space={model.max_seq_len: [8]}", "did you mean 'max_seq_length'"),
        ("search.space={loss.scal: [8]}", "did you mean 'scale'"),
        ("search.objective=eval_test_loss", "reported by no evaluation"),
        ("search.direction=[maximize, minimize]", "is for 2 objective(s)"),
        ("search.constraints=[model_mib < 9]", "Write <= in place of <"),
        ("search.constraints=[eval_dev_spearman <= 9]", "is reported by no evaluation"),
        ("search.constraints=model_mib <= 9", "search.constraints: expected Sequence"),
        ("search.terminator=soon", "terminator: expected True"),
        ("search.sampler=TPE", "unknown name 'TPE'"),
        ("search.points_to_evaluate=[{args.seed: 1}]", "'seed' is not in the space"),
    ],
)
def test_mistakes_are_told_in_one_line(
    override: str, said: str, search_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", str(search_file), override, "--check"]) == 2
    assert said in capsys.readouterr().err


def test_the_best_run_is_a_run_file(search_file: Path, tmp_path: Path) -> None:
    raw = load_run(str(search_file))
    del raw["search"]
    values = {"learning_rate": 1.5e-5, "loss.scale": 10.0, "model.max_seq_length": 16}
    write_best(tmp_path / "best.yaml", raw, values)
    best = read_run(str(tmp_path / "best.yaml"))
    assert best.args["learning_rate"] == 1.5e-5
    assert best.loss.options == {"scale": 10.0}  # type: ignore[union-attr]
    assert best.model is not None
    assert best.model.max_seq_length == 16


def test_choices_of_any_kind_stay_what_they_are_in_the_best_run(search_file: Path, tmp_path: Path) -> None:
    raw = load_run(str(search_file))
    del raw["search"]
    nested = {"use_reentrant": False, "deep": [1, {"x": None}]}
    values = {"gradient_checkpointing_kwargs": nested, "warmup_steps": None, "loss.scale": 10.0}
    write_best(tmp_path / "best.yaml", raw, {**values, "lr_scheduler_kwargs": nested})
    best = read_run(str(tmp_path / "best.yaml"))
    assert best.args["gradient_checkpointing_kwargs"] == best.args["lr_scheduler_kwargs"] == nested
    assert best.args["warmup_steps"] is None


def test_a_trial_changes_what_the_file_says(search_file: Path) -> None:
    raw = load_run(str(search_file))
    del raw["search"]
    trial = {"loss.name": "AnglELoss", "model.max_seq_length": 7, "data.train.rows": 1, "learning_rate": 0.1}
    model = _ModelInit(raw, "run.yaml")(trial)
    assert model.max_seq_length == 7
    assert _ModelInit(raw, "run.yaml")(None).max_seq_length != 7
    assert type(_LossInit(raw, "run.yaml")(model, trial)).__name__ == "AnglELoss"
    assert type(_LossInit(raw, "run.yaml")(model)).__name__ == "CoSENTLoss"
    assert sum(len(part) for part in _rows(_DataInit(raw, "run.yaml")(trial))) == 1


def _rows(source: Any) -> list[Any]:
    return [table for part in source.parts(source.columns()) for table in read_located(part)]


def test_another_loss_comes_without_the_options_of_the_first() -> None:
    raw = {"loss": {"name": "CoSENTLoss", "scale": 20.0}}
    assert run_with(raw, {"loss.name": "AnglELoss"})["loss"] == {"name": "AnglELoss"}
    assert run_with(raw, {"loss.name": "CoSENTLoss"})["loss"] == raw["loss"]
    changed = run_with(raw, {"loss.name": "AnglELoss", "loss.scale": 5.0})
    assert changed["loss"] == {"name": "AnglELoss", "scale": 5.0}
    several = {
        "data": {"train": {"a": "a.csv", "b": "b.csv"}},
        "loss": {"a": "CoSENTLoss", "b": "CoSENTLoss"},
    }
    assert run_with(several, {"loss.a.scale": 5.0})["loss"]["a"] == {"name": "CoSENTLoss", "scale": 5.0}


def test_the_best_few_can_be_confirmed(search_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", str(search_file), "search.confirm=3", "search.finalists=2", "--check"]) == 0
    assert main(["tune", str(search_file), "search.confirm=often", "--check"]) == 2
    assert "search.confirm: expected a whole number" in capsys.readouterr().err
    assert (
        main(
            [
                "tune",
                str(search_file),
                "search.confirm=3",
                "search.scheduler=pbt",
                "search.rungs=3",
                "--check",
            ]
        )
        == 2
    )
    assert "confirm=3" in capsys.readouterr().err
