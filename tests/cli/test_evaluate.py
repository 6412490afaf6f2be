"""Where `ray-st evaluate` runs evaluators; that workers find the same figures is tested beside the workers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ray_st.cli import main


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
        (["scaling.use_gpu=true"], 1, True),
    ],
)
def test_on_workers(
    arguments: list[str],
    workers: int,
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
