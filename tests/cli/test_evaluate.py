"""Where `ray-st evaluate` runs evaluators; that workers find the same figures is tested beside the workers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ray_st.cli import main
from ray_st.cli.train import Job


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The scalings with which workers were asked, in place of starting them."""
    found: list[Any] = []

    def on_workers(model: Any, evaluators: list[Any], scaling: Any, output: Any) -> dict[str, float]:
        found.append(scaling)
        return {"figure": len(evaluators) / 4}

    monkeypatch.setattr("ray_st.runtime.encode.rank_evaluators.evaluate_on_workers", on_workers)
    return found


@pytest.mark.parametrize(
    ("arguments", "workers", "gpu"),
    [
        (["--workers", "1"], 1, False),
        (["--workers", "3", "scaling.num_workers=2"], 3, False),
        (["scaling.num_workers=2"], 2, False),
        (["scaling.num_workers=[1, 4]"], (1, 4), False),
        (["scaling.use_gpu=true"], 1, True),
    ],
)
def test_on_workers(
    arguments: list[str],
    workers: int | tuple[int, int],
    gpu: bool,
    asked: list[Any],
    tiny_folder: Any,
    run_file: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["evaluate", str(tiny_folder), run_file, "--json", *arguments]) == 0
    assert json.loads(capsys.readouterr().out) == {"figure": 0.25}
    assert [(scaling.num_workers, scaling.use_gpu) for scaling in asked] == [(workers, gpu)]


@pytest.mark.parametrize("arguments", [[], ["--workers", "0", "scaling.num_workers=2"]])
def test_in_this_process(
    arguments: list[str],
    asked: list[Any],
    tiny_folder: Any,
    run_file: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["evaluate", str(tiny_folder), run_file, "--json", *arguments]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"dev_pearson_cosine", "dev_spearman_cosine"}
    assert asked == []


NUMBERS = """
from ray_st.evaluation import SentenceEvaluator

class Number(SentenceEvaluator):
    def __init__(self, value: float = 0.0):
        self.value = value

    def __call__(self, model, output_path=None, epoch=-1, steps=-1):
        return self.value
"""


@pytest.fixture
def numbers_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A run file whose two evaluators return a single number each."""
    (tmp_path / "own_numbers.py").write_text(NUMBERS)
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "numbers.yaml"
    path.write_text("evaluators: [{type: own_numbers.Number, value: 0.25}, {type: own_numbers.Number}]\n")
    yield str(path)
    sys.modules.pop("own_numbers", None)


def test_evaluators_that_return_a_number(
    numbers_file: str, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(tiny_folder), numbers_file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"evaluator_0": 0.25, "evaluator_1": 0.0}
    assert main(["evaluate", str(tiny_folder), numbers_file]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [[], ["evaluator_0", "0.2500"], ["evaluator_1", "0.0000"]]


def test_a_number_before_and_after_training() -> None:
    trainer: Any = SimpleNamespace(model=None)
    evaluator: Any = lambda model: 0.5  # noqa: E731
    assert Job(trainer, evaluator, Path("final")).metrics() == {"evaluator": 0.5}
    assert Job(trainer, None, Path("final")).metrics() == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "-1"], "--workers: expected 0 or more, found -1"),
        (["scaling.num_workers=two"], "num_workers: expected a whole number of at least 0, found 'two'"),
        (["--workers", "2", "scaling.wrokers=2"], "wrokers"),
    ],
)
def test_refusals(
    arguments: list[str],
    message: str,
    asked: list[Any],
    tiny_folder: Any,
    run_file: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["evaluate", str(tiny_folder), run_file, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert asked == []
