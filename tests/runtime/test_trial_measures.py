"""What a trial measures itself, and how its reports are rated; without a cluster."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from ray_st import SentenceTransformer
from ray_st.runtime.tune.schedulers import make_scheduler, remember
from ray_st.runtime.tune.search_stop import SearchStop, StopAtEvaluation
from ray_st.runtime.tune.study_searcher import _evaluation, ending
from ray_st.runtime.tune.trial_loop import BROKEN, Reports, rated
from ray_st.runtime.tune.trial_measures import TEXTS, TrialMeasures, encode_ms, model_bytes
from ray_st.study.constraints import MEASURED, parse_all
from ray_st.study.objective import Objective, ObjectiveError
from ray_st.training.strategies.precision import widened
from ray_st.training.strategies.strategy import Strategy
from ray_st.util import peak_memory


class Tied(nn.Module):
    """10 weights that are used twice, 4 in half precision, and two buffers of which one is saved."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 2, bias=False)
        self.second = nn.Linear(5, 2, bias=False)
        self.second.weight = self.first.weight
        self.narrow = nn.Parameter(torch.zeros(4, dtype=torch.bfloat16))
        self.register_buffer("saved", torch.zeros(3))
        self.register_buffer("made", torch.zeros(100), persistent=False)


def test_the_size_of_a_model_is_that_of_its_files() -> None:
    model = Tied()
    assert model_bytes(model, {}) == 10 * 4 + 4 * 2 + 3 * 4
    with widened(model, nn.Identity()) as types:
        assert model.narrow.dtype == torch.float32
        assert model_bytes(model, types.by_identity) == 60
        assert model_bytes(model, {}) == 68


def test_the_median_of_single_texts() -> None:
    moments = iter(range(10_000))
    seen: list[str] = []
    assert encode_ms(seen.append, lambda: next(moments) * 0.002) == pytest.approx(2.0)
    assert seen[2:] == list(TEXTS) * 3


def test_where_the_peak_cannot_be_measured_the_search_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(peak_memory, "CLEAR", tmp_path / "missing" / "clear_refs")
    trainer: Any = SimpleNamespace(args=SimpleNamespace(device=torch.device("cpu")))
    measures = TrialMeasures(["peak_memory_mib"])
    with pytest.raises(ObjectiveError, match=r"peak_memory_mib cannot be measured here.*Leave it out"):
        measures(trainer)


def test_the_figures_join_the_metrics_of_an_evaluation(tiny_folder: Path) -> None:
    model = SentenceTransformer(str(tiny_folder), device="cpu").train()
    args: Any = SimpleNamespace(
        global_train_batch_size=4,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=1,
        device=torch.device("cpu"),
    )
    trainer: Any = SimpleNamespace(
        model=model,
        args=args,
        stored_types={},
        strategy=SimpleNamespace(evaluating=Strategy.evaluating.__get__(object())),
        family=SimpleNamespace(takes_pairs=False),
        state=SimpleNamespace(global_step=3, max_steps=6, log_history=[]),
        add_callback=lambda callback: None,
        callback_handler=SimpleNamespace(callbacks=[]),
    )
    sent: list[dict[str, Any]] = []
    state = torch.get_rng_state()
    reports = Reports(sent.append, measures=TrialMeasures(MEASURED))
    reports.attach(trainer)
    reports(trainer, {"eval_loss": 0.5})
    metrics = sent[0]["metrics"]
    assert metrics.keys() == {"eval_loss", *MEASURED}
    weights = tiny_folder / "model.safetensors"
    assert metrics["model_mib"] * 2**20 == pytest.approx(weights.stat().st_size, rel=0.05)
    assert metrics["peak_memory_mib"] > 50
    assert 0 < metrics["encode_ms"] < 1000
    assert model.training
    assert torch.equal(state, torch.get_rng_state())  # the trial goes on as if nothing had been measured


# ---- reports ----

OBJECTIVE = Objective("eval_x", ("maximize",), constraints=parse_all(["model_mib <= 90", "encode_ms <= 2"]))


def report(**metrics: float) -> dict[str, Any]:
    return {"evaluation": 1, "step": 5, "ended": False, "samples": 40, "metrics": metrics}


def test_a_report_has_what_schedulers_rank_by() -> None:
    fine = rated(report(eval_x=0.25, model_mib=80, encode_ms=1), OBJECTIVE)
    assert (fine["objective"], fine["objectives"]) == (0.25, [0.25])
    slow = rated(report(eval_x=0.5, model_mib=80, encode_ms=3), OBJECTIVE)
    assert slow["objectives"] == [0.5]
    assert slow["objective"] < -1e29
    assert slow["violations"] == {"model_mib <= 90": pytest.approx(-1 / 9), "encode_ms <= 2": 0.5}
    assert BROKEN not in slow
    large = rated(report(eval_x=0.5, model_mib=99, encode_ms=3), OBJECTIVE)
    assert large[BROKEN].startswith("it violates model_mib <= 90")
    last = {**report(eval_x=0.5, model_mib=99, encode_ms=3), "ended": True}
    assert BROKEN not in rated(last, OBJECTIVE)  # it is complete


def test_what_cannot_be_rated() -> None:
    with pytest.raises(ObjectiveError, match="no evaluation reports 'encode_ms'"):
        rated(report(eval_x=0.25, model_mib=80), OBJECTIVE)
    with pytest.raises(ValueError, match=r"constraints are violated by .*nan"):
        rated(report(eval_x=0.25, model_mib=80, encode_ms=float("nan")), OBJECTIVE)
    with pytest.raises(ValueError, match=r"the objective is \[nan\] at step 5"):
        rated(report(eval_x=float("nan"), model_mib=80, encode_ms=1), OBJECTIVE)


def test_a_broken_trial_is_stopped_with_the_reason() -> None:
    sent = rated(report(eval_x=0.5, model_mib=99, encode_ms=3), OBJECTIVE)
    stop = StopAtEvaluation(SearchStop())
    assert stop("t", sent)
    assert not stop("t", rated(report(eval_x=0.25, model_mib=80, encode_ms=1), OBJECTIVE))
    assert ending(sent, False) == ("PRUNED", sent[BROKEN])
    flat = {f"violations/{text}": value for text, value in sent["violations"].items()}
    recorded = _evaluation({**sent, **flat, "seconds_here": 1.0, "metrics/eval_x": 0.5})
    assert recorded["violations"] == sent["violations"]
    assert recorded["metrics"] == {"eval_x": 0.5}


def test_with_several_objectives_asha_stops_what_others_dominate() -> None:
    objective = Objective(["eval_x", "encode_ms"], ("maximize", "minimize"))
    scheduler = make_scheduler("asha", "max", 1, 3, objective.directions)
    remember(
        scheduler,
        [(0, {"evaluation": 1, "objectives": [0.9, 5.0]}), (1, {"evaluation": 1, "objectives": [0.5, 3.0]})],
    )
    nobody: Any = None

    def decision(number: int, x: float, milliseconds: float, **changes: Any) -> str:
        trial: Any = SimpleNamespace(trial_id="any", config={"number": number})
        scheduler.on_trial_add(nobody, trial)
        sent = rated({**report(eval_x=x, encode_ms=milliseconds), **changes}, objective)
        return scheduler.on_trial_result(nobody, trial, sent)

    assert decision(2, 0.4, 4.0) == "STOP"  # trial 1 is better in both
    assert decision(3, 0.3, 1.0) == "CONTINUE"
    assert decision(3, 0.3, 1.0, evaluation=2) == "CONTINUE"
    lost: Any = SimpleNamespace(trial_id="lost", config={"number": 4})
    assert scheduler.on_trial_result(nobody, lost, {"fault": "ValueError: nan"}) == "CONTINUE"
    scheduler.on_trial_complete(nobody, lost, {"fault": "ValueError: nan"})


def test_at_a_rung_of_asha_good_ones_that_nobody_may_use_stop_nobody() -> None:
    scheduler = make_scheduler("asha", "max", 1, 3)
    too_slow = {"evaluation": 1, "objectives": [0.9], "violations": {"encode_ms <= 2": 0.5}}
    before: list[tuple[int, dict[str, Any]]] = [(number, too_slow) for number in range(5)]
    remember(scheduler, [*before, (5, {"evaluation": 1, "objectives": [0.3]})], maximize=True)

    def decision(number: int, value: float, **metrics: float) -> str:
        trial, nobody = SimpleNamespace(trial_id="any", config={"number": number}), None
        scheduler.on_trial_add(nobody, trial)  # type: ignore[arg-type]
        sent = rated(report(eval_x=value, model_mib=80, **metrics), OBJECTIVE)
        return scheduler.on_trial_result(nobody, trial, sent)  # type: ignore[arg-type]

    assert decision(6, 0.4, encode_ms=1) == "CONTINUE"
    assert decision(7, 0.1, encode_ms=1) == "CONTINUE"  # among the third that are best
    assert decision(8, 0.99, encode_ms=4) == "STOP"
