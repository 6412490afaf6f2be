"""Each script of examples/, as a reader would run it offline: a tiny model, a few steps, on Ray."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle

from offline import Run, command_line, in_format, rows
from ray_st import SentenceTransformer, SentenceTransformerTrainer
from ray_st.training.local import local_place
from ray_st.training.parts import prompt_lengths

Play = Callable[..., str]
EXAMPLES = Path(__file__).parents[2] / "examples"
OTHERS = {"api_docs", "demo", "offline"}
SCRIPTS = sorted({path.stem for path in EXAMPLES.glob("*.py")} - OTHERS)


@pytest.fixture
def play(tiny_folder: Path, tmp_path: Path, capsys: Any) -> Play:
    """Runs a script's ``main`` and gives what it printed."""

    def run(name: str, **options: Any) -> str:
        script = importlib.import_module(name)
        cloudpickle.register_pickle_by_value(script)  # as __main__ is, which scripts are for their readers
        script.main(Run(offline=True, model_name=str(tiny_folder), output=tmp_path, **options))
        return str(capsys.readouterr().out)

    return run


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a trainer's loop here, without a cluster: a worker group takes longer to start than most scripts to run."""

    def on_cluster(self: Any, task: Any, make_parts: Any, resume: Any, keeps: bool) -> Any:
        parts = make_parts(1)
        sent = cloudpickle.loads(cloudpickle.dumps(self._describe()))
        lengths = prompt_lengths(parts)
        return task(sent.rebuild(local_place(parts, self.args.output_dir, prompt_lengths=lengths)), resume)

    monkeypatch.setattr(SentenceTransformerTrainer, "_on_cluster", on_cluster)


def figures(text: str) -> list[float]:
    return [float(figure) for figure in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", text)]


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_the_whole_of_a_training(play: Play, tmp_path: Path) -> None:
    out = play("training_overview", workers=2)
    assert re.search(r"before training: .*all-nli-dev_cosine_accuracy", out)
    assert re.search(r"after training: .*all-nli-test_cosine_accuracy", out)
    folder = tmp_path / "mpnet-base-all-nli-triplet"
    assert "MPNet base trained on AllNLI triplets" in (folder / "final" / "README.md").read_text()
    assert [path.name for path in sorted(folder.glob("checkpoint-*"))] == ["checkpoint-2", "checkpoint-3"]


@pytest.mark.usefixtures("in_process")
def test_data_of_every_kind_is_the_same_data(
    play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    out = play("data_loading")
    assert out.count("80 rows of ['sentence1', 'sentence2', 'score']") == 5
    assert "TrainOutput(global_step=3" in out


@pytest.mark.usefixtures("in_process")
def test_formats_and_their_losses(play: Play) -> None:
    out = play("dataset_formats")
    assert "refused: CoSENTLoss needs 2 text columns" in out
    assert len(figures(out.split("losses:")[1])) == 3


def test_evaluators_by_themselves(tiny_folder: Path, capsys: Any) -> None:
    importlib.import_module("evaluating").main(Run(offline=True, model_name=str(tiny_folder)))
    out = capsys.readouterr().out
    assert "sts-dev_spearman_cosine: " in out
    assert "chosen by: sequential_score" in out


@pytest.mark.usefixtures("in_process")
def test_several_datasets_and_losses(play: Play, tmp_path: Path) -> None:
    out = play("multi_dataset")
    for name in ("all-nli-triplet", "stsb", "quora", "natural-questions"):
        assert len(figures(re.findall(rf"^{name} (.*)", out, re.MULTILINE)[0])) == 2
    assert SentenceTransformer(tmp_path / "bert-base-all-nli-stsb-quora-nq" / "final").encode("a").shape == (
        32,
    )


@pytest.mark.usefixtures("in_process")
def test_what_a_callback_collects_comes_back(play: Play) -> None:
    out = play("callbacks")
    assert len(figures(re.findall(r"^losses: (.*)", out, re.MULTILINE)[0])) == 3
    assert re.search(r"^best: 0\.\d+ at step [23]$", out, re.MULTILINE)


@pytest.mark.usefixtures("in_process")
def test_batch_samplers(play: Play) -> None:
    out = play("batch_samplers")
    assert "in the given order: [[0, 1], [2]]" in out
    assert "TrainOutput(global_step=3" in out


@pytest.mark.usefixtures("in_process")
def test_samplers_of_several_datasets(play: Play) -> None:
    assert "4 steps" in play("multi_dataset_samplers")


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
    assert len(SentenceTransformer(tmp_path / "distillation" / "final")[0].auto_model.encoder.layer) == 1


@pytest.mark.usefixtures("in_process")
def test_an_adapter(play: Play) -> None:
    pytest.importorskip("peft")
    out = play("peft_lora")
    assert "4,096 of 28,448 weights are trained" in out
    assert "saved: ['adapter_config.json', 'adapter_model.safetensors']" in out


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_the_old_way_to_train(play: Play, tmp_path: Path) -> None:
    assert figures(play("legacy_fit").splitlines()[-1])
    assert (tmp_path / "legacy-fit" / "modules.json").exists()


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_searching(play: Play) -> None:
    (found,) = re.findall(r"BestRun\(run_id='\w+', objective=-?0\.\d+, .*", play("hyperparameter_search"))
    for name in ("num_train_epochs", "per_device_train_batch_size", "warmup_ratio", "learning_rate"):
        assert f"'{name}': " in found


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
    assert text.endswith('if __name__ == "__main__":\n    main(command_line(__doc__))\n')
    assert len(text.splitlines()) <= 110


def test_the_command_line() -> None:
    run = command_line(
        "what it does", ["--offline", "--workers", "3", "--gpu", "--output", "elsewhere", "--model", "folder"]
    )
    assert run == Run(True, "folder", 3, True, Path("elsewhere"))
    assert (run.scaling.num_workers, run.scaling.use_gpu) == (3, True)
    assert run.model("on/hub") == "folder"
    assert Run().model("on/hub") == "on/hub"
    assert Run().scaling is None


def test_offline_model(minilm_folder: Path) -> None:
    assert Path(Run(offline=True).model("on/hub")) == minilm_folder


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
    found = Run(offline=True).load_dataset(path, subset, split)
    assert found.column_names == columns
    assert found.num_rows == count


def test_offline_formats_have_all_classes_and_the_right_order() -> None:
    scored = rows(held_out=False)
    assert set(in_format("pair-class", scored)["label"]) == {0, 1, 2}
    for anchor, positive, negative in zip(*in_format("triplet", scored).to_dict().values(), strict=True):
        scores = {second: score for first, second, score in scored if first == anchor}
        assert scores[positive] > scores[negative]
