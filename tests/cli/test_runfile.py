from __future__ import annotations

from pathlib import Path

import pytest

from ray_st.cli.runfile import LossSpec, RunFileError, read_run
from ray_st.data.table_spec import TableSpec

TEXT = """
model: some/model
data: {train: train.csv, eval: {path: dev.csv, rows: 10}}
loss: {name: CoSENTLoss, scale: 10}
args: {learning_rate: 1e-5}
evaluators: {type: TripletEvaluator, data: dev.csv, name: dev}
scaling: {num_workers: 2}
run:
"""


@pytest.fixture
def run_file(tmp_path: Path) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(TEXT)
    return str(path)


def test_short_forms_are_written_out(run_file: str) -> None:
    run = read_run(run_file)
    assert run.model
    assert run.model.path == "some/model"
    assert run.data
    assert run.data.train == TableSpec(path="train.csv")
    assert run.data.eval == TableSpec(path="dev.csv", rows=10)
    assert run.loss == LossSpec("CoSENTLoss", {"scale": 10})
    assert run.args == {"learning_rate": 1e-5}
    assert run.evaluators[0].type == "TripletEvaluator"
    assert run.evaluators[0].options == {"name": "dev"}
    assert (run.scaling, run.run) == ({"num_workers": 2}, {})


def test_the_loss_is_cosent_unless_said(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model: m\ndata: {train: a.csv}")
    assert read_run(str(path)).loss == LossSpec("CoSENTLoss")


def test_overrides_go_over_the_file_in_order(run_file: str) -> None:
    overrides = [
        "args.learning_rate=3e-4",
        "args.learning_rate=4e-4",
        "model.max_seq_length=32",
        "loss=TripletLoss",
        "loss.triplet_margin=2",
        "data.train.columns=[a, b]",
        "evaluators.0.data.rows=5",
        "run.name=mine",
        "data.eval=",
    ]
    run = read_run(run_file, overrides)
    assert run.args == {"learning_rate": 4e-4}
    assert run.model
    assert run.model.max_seq_length == 32
    assert run.loss == LossSpec("TripletLoss", {"triplet_margin": 2})
    assert run.data
    assert run.data.train.columns == ["a", "b"]
    assert run.data.eval is None
    assert run.evaluators[0].data.rows == 5
    assert run.run == {"name": "mine"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("modle=x", r"run\.yaml: modle: unknown key 'modle'; did you mean 'model'\?"),
        ("model.paht=x", r"run\.yaml: model\.paht: unknown key"),
        (
            "model.max_seq_length=long",
            r"model\.max_seq_length: expected a whole number or null, found 'long'",
        ),
        ("data.trian=x", r"data\.trian: unknown key 'trian'; did you mean 'train'"),
        ("data.train.colums=[a]", r"data\.train\.colums: unknown key 'colums'; did you mean 'columns'"),
        ("data.train=", r"data\.train: missing"),
        ("loss.name=", r"loss\.name: expected a name, found None"),
        ("evaluators.0.type=3", r"evaluators\.0\.type: expected a name, found 3"),
        (
            "evaluators.0.data=",
            r"evaluators\.0\.data: .*expected keys with values|evaluators\.0\.data: missing",
        ),
        ("evaluators.1.name=x", "no place in a list of 1"),
        ("evaluators=3", "expected a list of evaluators"),
        ("args=3", r"args: expected keys with values, found 3"),
        ("args.learning_rate.more=3", "has no keys"),
        ("args.x=[", r"'args\.x=\[': not valid YAML"),
        ("args", "is written key=value"),
        ("=3", "is written key=value"),
        ("args..x=3", "is written key=value"),
    ],
)
def test_what_cannot_be_meant_names_its_place(run_file: str, override: str, message: str) -> None:
    with pytest.raises(RunFileError, match=message):
        read_run(run_file, [override])


def test_a_file_with_a_search_is_for_another_command(run_file: str) -> None:
    search = "search={space: {args.seed: [1, 2]}}"
    with pytest.raises(
        RunFileError, match=r"search: a search is run by `ray-st tune .*run\.yaml`.*best\.yaml"
    ):
        read_run(run_file, [search])
    assert read_run(run_file, [search, "search="]) == read_run(run_file)


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(RunFileError, match=r"nowhere\.yaml: cannot be read: No such file"):
        read_run(str(tmp_path / "nowhere.yaml"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(RunFileError, match=r"binary\.yaml"):
        read_run(str(tmp_path / "binary.yaml"))
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(RunFileError, match=r"list\.yaml: expected keys with values"):
        read_run(str(tmp_path / "list.yaml"))


SEVERAL = """
model: some/model
data:
  train: {pairs: pairs.csv, sts: {path: sts.csv, rows: 9}}
  eval: {sts: dev.csv}
loss: {pairs: MultipleNegativesRankingLoss, sts: {name: CoSENTLoss, scale: 10}}
"""


@pytest.fixture
def several(tmp_path: Path) -> str:
    path = tmp_path / "several.yaml"
    path.write_text(SEVERAL)
    return str(path)


def test_several_tables_by_name_and_a_loss_for_each(several: str) -> None:
    run = read_run(several, ["data.train.pairs.rows=5", "loss.pairs.scale=2"])
    assert run.data
    assert run.data.train == {
        "pairs": TableSpec(path="pairs.csv", rows=5),
        "sts": TableSpec(path="sts.csv", rows=9),
    }
    assert run.data.eval == {"sts": TableSpec(path="dev.csv")}
    assert run.loss == {
        "pairs": LossSpec("MultipleNegativesRankingLoss", {"scale": 2}),
        "sts": LossSpec("CoSENTLoss", {"scale": 10}),
    }
    assert read_run(several, ["loss=CoSENTLoss"]).loss == LossSpec("CoSENTLoss")
    without = read_run(several, ["data.train.sts=", "data.eval=", "loss.sts="])
    assert without.data
    assert without.data.train == {"pairs": TableSpec(path="pairs.csv")}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "data.train.sts.colums=[a]",
            r"data\.train\.sts\.colums: unknown key 'colums'; did you mean 'columns'",
        ),
        ("data.train.path=a.csv", r"data\.train\.pairs: unknown key 'pairs'"),
        (
            "data.train.paht=a.csv",
            r"data\.train\.pairs: unknown key|data\.train\.paht: .*did you mean 'path'",
        ),
        ("data.train={paht: a.csv}", r"data\.train\.paht: unknown key 'paht'; did you mean 'path'"),
        ("data.train={}", r"data\.train: names no table"),
        ("data.train.sts=3", r"data\.train\.sts: expected keys with values, found 3"),
        ("loss={pairs: CoSENTLoss}", r"loss\.sts: missing; each table of `data` needs a loss"),
        ("loss.stss=CoSENTLoss", r"loss\.stss: neither a loss's `name` nor a table .*did you mean 'sts'"),
        ("loss.sts=3", r"loss\.sts: expected keys with values, found 3"),
        ("loss.sts={scale: 3}", r"loss\.sts\.name: expected a name, found None"),
    ],
)
def test_tables_by_name_that_cannot_be_meant(several: str, override: str, message: str) -> None:
    with pytest.raises(RunFileError, match=message):
        read_run(several, [override])


def test_losses_by_name_need_tables_by_name(run_file: str) -> None:
    with pytest.raises(RunFileError, match=r"loss\.name: expected a name, found None"):
        read_run(run_file, ["loss={pairs: CoSENTLoss}"])
