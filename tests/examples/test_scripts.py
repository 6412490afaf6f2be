"""Each script of examples/, as a reader would run it offline: a tiny model, a few steps, on Ray."""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from ray import cloudpickle
from ray.train import ScalingConfig

from offline import in_format, load_dataset, rows, stand_ins, start
from ray_st import CrossEncoder, SentenceTransformer
from ray_st.cli import main as cli
from ray_st.model_trainer import ModelTrainer
from ray_st.runtime.cluster.pickled import copy_of
from ray_st.training.data.dataset_specs import prompt_lengths
from ray_st.training.data.local_source import local_context
from ray_st.training.trained_weights import keep_trained

Play = Callable[..., str]
EXAMPLES = Path(__file__).parents[2] / "examples"
OTHERS = {"api_docs", "demo", "offline", "serve_embeddings"}  # the last one has test_serve_embeddings.py
SCRIPTS = sorted({path.stem for path in EXAMPLES.glob("*.py")} - OTHERS)
WHERE = [
    pytest.param("in_process", id="one worker"),
    pytest.param("cluster", id="two", marks=pytest.mark.ray),
]
# What these do on two workers, tests/runtime and tests/cross_encoder do with other data: test_streams, test_fit,
# test_reranker_runs.
TWO_IS_LONG = [WHERE[0], pytest.param("cluster", id="two", marks=[pytest.mark.ray, pytest.mark.long])]


@pytest.fixture(scope="module")
def offline_hub(tiny_folder: Path, hub_cache: Path) -> Iterator[None]:
    """A tiny model and small data by the names of the Hub."""
    with stand_ins(tiny_folder, hub_cache):
        yield


@pytest.fixture
def play(offline_hub: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Play:
    """Runs a script's ``main`` in an empty folder and gives what it printed."""

    def run(name: str, workers: int | None = None, **options: Any) -> str:
        script = importlib.import_module(name)
        cloudpickle.register_pickle_by_value(script)  # as __main__ is, which scripts are for their readers
        monkeypatch.chdir(tmp_path)
        script.main(None if workers is None else ScalingConfig(num_workers=workers), **options)
        return str(capsys.readouterr().out)

    return run


@pytest.fixture
def workers(request: pytest.FixtureRequest) -> int:
    """One worker in this process, or two on the cluster."""
    request.getfixturevalue(request.param)
    return 1 if request.param == "in_process" else 2


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a trainer's loop here, without a cluster: a worker group takes longer to start than most scripts to run."""

    def on_cluster(self: Any, task: Any, make_parts: Any, resume: Any, keeps: bool) -> Any:
        parts = make_parts(1)
        context = local_context(parts, self.args.output_dir, prompt_lengths=prompt_lengths(parts))
        trainer = copy_of(self.spec()).rebuild(context)
        result = task(trainer, resume)
        weights = keep_trained(context.store, trainer.model, trainer.loss) if keeps else ""
        return replace(result, weights=weights, store=context.store)

    monkeypatch.setattr(ModelTrainer, "_on_cluster", on_cluster)


def figures(text: str) -> list[float]:
    return [float(figure) for figure in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", text)]


@pytest.mark.parametrize("workers", WHERE, indirect=True)
def test_the_whole_of_a_training(workers: int, play: Play, tmp_path: Path) -> None:
    out = play("training_overview", workers)
    assert re.search(r"before training: .*all-nli-dev_cosine_accuracy", out)
    assert re.search(r"after training: .*all-nli-test_cosine_accuracy", out)
    folder = tmp_path / "models" / "mpnet-base-all-nli-triplet"
    if workers == 2:  # the card is written around a run on the cluster
        assert "MPNet base trained on AllNLI triplets" in (folder / "final" / "README.md").read_text()
    assert len(list(folder.glob("checkpoint-*"))) == 1


@pytest.mark.usefixtures("in_process")
def test_data_of_every_kind_is_the_same_data(
    play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    out = play("data_loading")
    assert out.count("80 rows of ['sentence1', 'sentence2', 'score']") == 5
    assert "TrainOutput(global_step=40" in out


@pytest.mark.usefixtures("in_process")
def test_formats_and_their_losses(play: Play) -> None:
    out = play("dataset_formats")
    assert "refused: CoSENTLoss needs 2 text columns" in out
    assert len(figures(out.split("losses:")[1])) == 3


def test_evaluators_by_themselves(play: Play) -> None:
    out = play("evaluating")
    assert "sts-dev_spearman_cosine: " in out
    assert "NanoBEIR_mean_cosine_ndcg@10: " in out
    assert "chosen by: sequential_score" in out


@pytest.mark.slow
@pytest.mark.parametrize("workers", TWO_IS_LONG, indirect=True)
def test_several_datasets_and_losses(workers: int, play: Play, tmp_path: Path) -> None:
    out = play("multi_dataset", workers)
    for name in ("all-nli-triplet", "stsb", "quora", "natural-questions"):
        assert len(figures(re.findall(rf"^{name} (.*)", out, re.MULTILINE)[0])) == 3
    folder = tmp_path / "models" / "bert-base-all-nli-stsb-quora-nq" / "final"
    assert SentenceTransformer(folder).encode("a").shape == (32,)


@pytest.mark.usefixtures("in_process")
def test_what_a_callback_collects_comes_back(play: Play) -> None:
    out = play("callbacks")
    assert len(figures(re.findall(r"^losses: (.*)", out, re.MULTILINE)[0])) == 3
    assert re.search(r"^best: 0\.\d+ at step [123]0$", out, re.MULTILINE)


@pytest.mark.parametrize("workers", TWO_IS_LONG, indirect=True)
def test_batch_samplers(workers: int, play: Play) -> None:
    out = play("batch_samplers", workers)
    assert "in the given order: [[0, 1], [2]]" in out
    assert "TrainOutput(global_step=6" in out


@pytest.mark.parametrize("workers", TWO_IS_LONG, indirect=True)
def test_samplers_of_several_datasets(workers: int, play: Play) -> None:
    assert f"{4 if workers == 1 else 3} steps" in play("multi_dataset_samplers", workers)


@pytest.mark.usefixtures("in_process")
def test_a_sampler_of_ones_own(play: Play) -> None:
    out = play("own_sampler")
    assert "first batch: ['The price of coffee rose again.'" in out
    assert "TrainOutput(global_step=3" in out


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_loss_of_ones_own_and_its_weights(play: Play) -> None:
    out = play("own_loss")
    scale, bias = figures(out.splitlines()[-1])
    assert scale != 10
    assert bias != -5


@pytest.mark.usefixtures("in_process")
def test_an_evaluator_of_ones_own_chooses_the_checkpoint(play: Play, tmp_path: Path) -> None:
    out = play("own_evaluator")
    assert len(figures(re.findall(r"^after: (.*)", out, re.MULTILINE)[0])) == 3
    assert Path(re.findall(r"^best checkpoint: (.*)", out, re.MULTILINE)[0]).is_relative_to(tmp_path)


@pytest.mark.usefixtures("in_process")
def test_prompts_are_kept(play: Play) -> None:
    out = play("prompts")
    assert "prompts: {'query': 'query: ', 'document': 'document: '}" in out
    assert len(figures(out.split("similarities:")[1])) == 2


@pytest.mark.usefixtures("in_process")
def test_matryoshka(play: Play) -> None:
    out = play("matryoshka")
    assert re.findall(r"^(\d+) dimensions: -?\d\.\d+$", out, re.MULTILINE) == ["32", "16", "8", "4"]
    assert "an embedding: (4,)" in out


@pytest.mark.usefixtures("in_process")
def test_a_student_comes_nearer_to_its_teacher(play: Play, tmp_path: Path) -> None:
    before, after = figures(play("distillation").splitlines()[-1])
    assert before < after < 0
    assert (
        len(SentenceTransformer(tmp_path / "models" / "distillation" / "final")[0].auto_model.encoder.layer)
        == 1
    )


@pytest.mark.usefixtures("in_process")
def test_an_adapter(play: Play) -> None:
    pytest.importorskip("peft")
    out = play("peft_lora")
    assert "4,096 of 28,448 weights are trained" in out
    assert "saved: ['adapter_config.json', 'adapter_model.safetensors']" in out


@pytest.mark.parametrize("workers", TWO_IS_LONG, indirect=True)
def test_the_old_way_to_train(workers: int, play: Play, tmp_path: Path) -> None:
    assert figures(play("legacy_fit", workers).splitlines()[-1])
    assert (tmp_path / "models" / "legacy-fit" / "modules.json").exists()


@pytest.mark.parametrize("workers", TWO_IS_LONG, indirect=True)
def test_a_reranker_from_pairs_and_from_lists(workers: int, play: Play, tmp_path: Path) -> None:
    out = play("reranker", workers)
    for name in ("before", "pairs", "lists"):
        assert len(figures(re.findall(rf"^{name}: (.*)", out, re.MULTILINE)[0])) == 1
    assert len(re.findall(r"^0\.\d{3}  \w", out, re.MULTILINE)) == 5
    assert CrossEncoder(str(tmp_path / "models" / "reranker" / "final")).num_labels == 1


@pytest.mark.parametrize("workers", TWO_IS_LONG, indirect=True)
def test_a_pipeline_goes_on_where_it_was_cut_off(workers: int, play: Play, tmp_path: Path) -> None:
    stages = ["mined", "reranker", "scored", "embedder"]
    folder = tmp_path / "models" / "retriever_pipeline"

    def started() -> list[str]:
        out = play("retriever_pipeline", workers)
        assert len(figures(re.findall(r"^ndcg@10: (.*)", out, re.MULTILINE)[0])) == 3
        skipped = re.findall(r"^(\w+): there already$", out, re.MULTILINE)
        found = re.findall(r"^(\w+): starts$", out, re.MULTILINE)
        assert [*skipped, *found] == stages
        return list(found)

    assert started() == stages
    finished = {name: (folder / name).stat().st_mtime_ns for name in stages[:3]}
    os.replace(folder / "embedder", folder / "embedder.unfinished")  # as after a stop in its last moment
    assert started() == ["embedder"]
    assert {name: (folder / name).stat().st_mtime_ns for name in stages[:3]} == finished
    assert started() == []


@pytest.mark.long
def test_a_pipeline_that_was_killed_in_a_training_goes_on_within_it(tmp_path: Path) -> None:
    script = Path(__file__).with_name("killed_pipeline.py")
    paths = os.pathsep.join([str(EXAMPLES), *filter(None, sys.path)])
    command, environment = [sys.executable, str(script), "--offline"], {**os.environ, "PYTHONPATH": paths}
    ended = [
        subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        for _ in range(2)
    ]
    assert [one.returncode for one in ended] == [-signal.SIGKILL, 0], ended[1].stderr[-2000:]
    assert "mined: there already\nreranker: starts\n" in ended[1].stdout
    assert "ndcg@10: " in ended[1].stdout
    steps = [int(line) for line in (tmp_path / "outputs/steps.txt").read_text().split()]
    assert steps[:4] == [1, 2, 3, 3]
    assert steps[3:] == list(range(3, steps[-1] + 1))
    assert steps[-1] > 4


@pytest.mark.parametrize("workers", TWO_IS_LONG, indirect=True)
def test_pairs_that_a_reranker_labels(workers: int, play: Play, tmp_path: Path) -> None:
    out = play("augmented_sbert", workers)
    assert re.search(r"^80 gold pairs, \d{3} silver pairs$", out, re.MULTILINE)
    assert len(figures(re.findall(r"^sts-dev: (.*)", out, re.MULTILINE)[0])) == 2
    assert (tmp_path / "models" / "augmented-sbert" / "final" / "modules.json").exists()


@pytest.mark.parametrize("workers", TWO_IS_LONG, indirect=True)
def test_a_domain_without_labels(workers: int, play: Play, tmp_path: Path) -> None:
    out = play("gpl", workers)
    assert "80 rows of ['query', 'answer', 'negative', 'label']" in out
    assert figures(re.findall(r"^mean loss: (.*)", out, re.MULTILINE)[0])
    assert (tmp_path / "models" / "gpl" / "final" / "modules.json").exists()


@pytest.mark.parametrize("workers", TWO_IS_LONG, indirect=True)
def test_the_old_way_to_train_a_reranker(workers: int, play: Play, tmp_path: Path) -> None:
    assert figures(play("legacy_reranker_fit", workers).splitlines()[-1])
    assert CrossEncoder(str(tmp_path / "models" / "legacy-reranker-fit")).num_labels == 1


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_searching(play: Play) -> None:
    (found,) = re.findall(
        r"BestRun\(run_id='\w+', objective=-?0\.\d+, .*", play("hyperparameter_search", n_trials=2)
    )
    for name in ("num_train_epochs", "per_device_train_batch_size", "warmup_ratio", "learning_rate"):
        assert f"'{name}': " in found


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_searching_a_pipeline(play: Play, tmp_path: Path) -> None:
    out = play("pipeline_search", n_trials=3)
    (found,) = re.findall(r"^ndcg@10 0\.\d{4} with (.*)", out, re.MULTILINE)
    for name in ("skipped", "depth", "negatives", "teacher", "learning_rate"):
        assert f"'{name}': " in found
    assert any((tmp_path / "models" / "pipeline_search" / "embeddings").iterdir())


@pytest.mark.usefixtures("in_process")
def test_a_run_file(tiny_folder: Path, tmp_path: Path, capsys: Any) -> None:
    output = f"args.output_dir={tmp_path}"
    assert cli(["train", str(EXAMPLES / "sts.yaml"), f"model.path={tiny_folder}", output]) == 0
    assert (tmp_path / "final" / "modules.json").exists()


# ---- what they share ----


def test_every_script_is_explained_and_tested_here() -> None:
    listed = set(
        re.findall(r"^\| \[(\w+)\.py\]\(\1\.py\)", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    )
    assert listed == {*SCRIPTS, *OTHERS}
    tests = Path(__file__).read_text()
    assert [name for name in SCRIPTS if f'("{name}"' not in tests] == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_say_what_they_are_for_and_stay_short(name: str) -> None:
    text = (EXAMPLES / f"{name}.py").read_text()
    assert text.startswith('"""')
    assert text.endswith('if __name__ == "__main__":\n    start(main)\n')
    assert len(text.splitlines()) <= 110


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minilm_folder: Path) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[Any] = []

    def main(scaling_config: ScalingConfig | None) -> None:
        """Notes what it finds."""
        found = SentenceTransformer("microsoft/mpnet-base", device="cpu") if seen else None
        seen.append((scaling_config, Path.cwd(), found))

    hub = datasets.load_dataset
    start(main, [])
    start(main, ["--offline", "--workers", "3", "--gpu", "--output", "elsewhere"])
    assert seen[0] == (None, tmp_path / "outputs", None)
    assert seen[1][:2] == (ScalingConfig(num_workers=3, use_gpu=True), tmp_path / "outputs" / "elsewhere")
    assert seen[1][2].encode("a").shape == (384,)
    assert datasets.load_dataset is hub  # as it was


def test_names_that_are_not_the_scripts_are_left_alone(tmp_path: Path) -> None:
    in_format("pair", rows(held_out=True)).to_csv(tmp_path / "pairs.csv", index=False)
    options = {"data_files": str(tmp_path / "pairs.csv"), "cache_dir": str(tmp_path)}
    assert load_dataset("csv", split="train", **options).column_names == ["anchor", "positive"]


@pytest.mark.parametrize(
    ("path", "subset", "split", "columns", "count"),
    [
        ("sentence-transformers/all-nli", "triplet", "train[:10000]", ["anchor", "positive", "negative"], 40),
        ("sentence-transformers/all-nli", "pair-class", "train", ["premise", "hypothesis", "label"], 80),
        ("sentence-transformers/stsb", None, "validation", ["sentence1", "sentence2", "score"], 24),
        ("sentence-transformers/quora-duplicates", "pair", "train[10000:11000]", ["anchor", "positive"], 12),
        ("sentence-transformers/natural-questions", None, "train", ["query", "answer"], 40),
    ],
)
def test_offline_rows(path: str, subset: str | None, split: str, columns: list[str], count: int) -> None:
    found = load_dataset(path, subset, split)
    assert found.column_names == columns
    assert found.num_rows == count


def test_offline_splits_and_retrieval() -> None:
    assert {name: part.num_rows for name, part in load_dataset("sentence-transformers/stsb").items()} == {
        "train": 80,
        "dev": 24,
        "test": 24,
    }
    assert in_format("qrels", rows(held_out=True))[3] == {"query-id": "q3", "corpus-id": "d3"}


def test_offline_formats_have_all_classes_and_the_right_order() -> None:
    scored = rows(held_out=False)
    assert set(in_format("pair-class", scored)["label"]) == {0, 1, 2}
    for anchor, positive, negative in zip(*in_format("triplet", scored).to_dict().values(), strict=True):
        scores = {second: score for first, second, score in scored if first == anchor}
        assert scores[positive] > scores[negative]
