"""Run files with a reranker: trained on workers, measured, searched; the best run of a search is a run file."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from ray_st import CrossEncoder
from ray_st.cli import main
from ray_st.cli.runfile import read_run

QUERIES, NEGATIVES = 12, 3
WORDS = ["good", "bad", "weather", "man", "eats", "pasta", "sunny", "text"]
SEARCH = """
  space:
    args.learning_rate: {low: 1.0e-5, high: 1.0e-2, log: true}
    loss.name: [BinaryCrossEntropyLoss, MSELoss]
    data.train.rows: [16, 32, 48]
  objective: eval_dev_map
  direction: maximize
  trials: 4
  rungs: 3
  name: found
"""


def line(*fields: object) -> str:
    return ",".join(map(str, fields))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Queries with one relevant document and three others: as labelled pairs, and as samples to rank."""
    rng = random.Random(4)
    pairs, samples = ["question,answer,label"], []
    for number in range(QUERIES):
        word, *others = rng.sample(WORDS, 1 + NEGATIVES)
        question = f"{word} {number}"
        positive, *negatives = [f"the {text} {rng.randint(0, 9)}" for text in (word, *others)]
        pairs += [line(question, positive, 1.0), *(line(question, text, 0.0) for text in negatives)]
        samples.append({"query": question, "positive": [positive], "negative": negatives})
    (tmp_path / "pairs.csv").write_text("\n".join(pairs) + "\n")
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    return tmp_path


@pytest.fixture
def reranker_file(files: Path, tiny_reranker: Path) -> str:
    path = files / "run.yaml"
    path.write_text(
        f"""
model: {{path: {tiny_reranker}, type: CrossEncoder, max_seq_length: 32}}
data: {{train: {files}/pairs.csv, eval: {files}/pairs.csv}}
loss: BinaryCrossEntropyLoss
args:
  {{output_dir: out, num_train_epochs: 4, per_device_train_batch_size: 4, learning_rate: 3e-3,
    use_cpu: true, report_to: none, save_strategy: no}}
evaluators:
  - {{type: CrossEncoderRerankingEvaluator, data: queries.jsonl, name: dev}}
  - {{type: CrossEncoderCorrelationEvaluator, data: pairs.csv, name: pairs}}
scaling: {{num_workers: 2, resources_per_worker: {{CPU: 1}}}}
"""
    )
    return str(path)


FIGURES = {"dev_map", "dev_mrr@10", "dev_ndcg@10", "pairs_pearson", "pairs_spearman"}


def measured(model: Path | str, file: str, capsys: Any, *words: str) -> dict[str, float]:
    capsys.readouterr()
    assert main(["evaluate", str(model), file, "--json", *words]) == 0
    found: dict[str, float] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {name for name in found if not name.startswith("sequential")} == FIGURES
    return found


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.usefixtures("cluster")
def test_it_is_trained_on_two_workers_and_measured(
    reranker_file: str, tiny_reranker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = measured(tiny_reranker, reranker_file, capsys, "--workers", "0")
    assert main(["train", reranker_file]) == 0
    shown = capsys.readouterr().out
    assert f"model: {Path('out/final').absolute()}" in shown
    assert f"{before['dev_map']:.4f}" in shown
    after = measured("out/final", reranker_file, capsys, "--workers", "0")
    assert f"{after['dev_map']:.4f}" in shown
    assert after["dev_map"] > before["dev_map"]
    assert measured("out/final", reranker_file, capsys) == after  # on the file's two workers
    assert CrossEncoder("out/final", device="cpu").predict([("good 1", "the good 1")]).shape == (1,)


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
# Ray Tune leaves files and sockets to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_its_search_is_written_as_a_run_file(
    reranker_file: str, tiny_reranker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path(reranker_file).open("a") as stream:
        stream.write(f"search: {SEARCH}")
    words = ["scaling=", "data.eval=", "args.num_train_epochs=2"]
    assert main(["tune", reranker_file, "--check", *words]) == 0
    assert main(["tune", reranker_file, *words]) == 0
    best = Path("out/found/best.yaml")
    assert f"retrain it with: ray-st train {best}" in capsys.readouterr().out
    described = read_run(str(best))
    assert described.model is not None
    assert (described.model.type, described.model.max_seq_length) == ("CrossEncoder", 32)
    trials = Path("out/found/trials.csv").read_text().splitlines()
    assert len(trials) == 1 + 4
    assert {row.split(",")[2] for row in trials[1:]} <= {"COMPLETE", "PRUNED"}
    assert main(["train", str(best), "--check"]) == 0
    # What was searched is what is trained again: the best trial's figure comes out of its run file.
    assert main(["train", str(best), "scaling.num_workers=0"]) == 0
    found = measured("out/final", str(best), capsys, "--workers", "0")
    objective = max(float(event["objectives"][0]) for event in told(best.parent))
    assert found["dev_map"] == pytest.approx(objective, abs=1e-6)


def told(folder: Path) -> list[dict[str, Any]]:
    """The last evaluation of each complete trial."""
    from ray_st.study.journal import Journal

    records = Journal(folder / "journal.jsonl").records()
    return [record.history[-1] for record in records if record.state == "COMPLETE"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("search.space={loss.name: [CoSENTLoss]}", "unknown loss 'CoSENTLoss'"),
        ("loss=LambdaLoss", "needs a list of texts in each row"),
        ("search.space={model.truncate_dim: [8]}", "a CrossEncoder has no such option"),
        ("search.objective=eval_dev_mpa", "did you mean 'eval_dev_map'"),
    ],
)
def test_mistakes_in_its_search_are_named(
    override: str, said: str, reranker_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path(reranker_file).open("a") as stream:
        stream.write(f"search: {SEARCH}")
    assert main(["tune", reranker_file, "--check", override]) == 2
    assert said in capsys.readouterr().err
