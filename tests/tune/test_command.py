"""``ray-st tune``, as far as it goes without Ray."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ray_st.cli import main
from ray_st.cli.runfile import read_run
from ray_st.cli.tune import write_best

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
    assert "nothing speaks against" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("search.trails=3", "did you mean 'trials'"),
        ("search.objective=null", "expected"),
        ("search.space={learning_rate: [1]}", "did you mean 'args.learning_rate'"),
        ("search.trials=many", "search.trials: expected a whole number"),
        ("search=null", "search: missing"),
        ("args.learning_rat=1", "did you mean"),
    ],
)
def test_mistakes_are_told_in_one_line(
    override: str, said: str, search_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", str(search_file), override, "--check"]) == 2
    assert said in capsys.readouterr().err


def test_the_best_run_is_a_run_file(search_file: Path, tmp_path: Path) -> None:
    raw = yaml.safe_load(search_file.read_text())
    values = {"learning_rate": 1.5e-5, "loss.scale": 10.0, "model.max_seq_length": 16}
    write_best(tmp_path / "best.yaml", raw, values)
    best = read_run(str(tmp_path / "best.yaml"))
    assert best.args["learning_rate"] == 1.5e-5
    assert best.loss.options == {"scale": 10.0}  # type: ignore[union-attr]
    assert best.model is not None
    assert best.model.max_seq_length == 16
