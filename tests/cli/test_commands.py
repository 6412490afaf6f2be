from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ray_st import SentenceTransformer
from ray_st.cli import main
from ray_st.cli.runfile import read_run
from ray_st.cli.train import prepare
from ray_st.util.search.quantize import quantize_embeddings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def texts(tmp_path: Path) -> list[str]:
    lines = ["good text", "bad text", "the weather is sunny"]
    (tmp_path / "texts.txt").write_text("\n".join(lines) + "\n")
    return lines


def vectors(path: str) -> np.ndarray:
    return np.array(pq.read_table(path)["embedding"].to_pylist())


def test_encode_writes_what_the_model_gives(tiny_folder: Path, texts: list[str]) -> None:
    assert main(["encode", str(tiny_folder), "texts.txt", "out/vectors.parquet"]) == 0
    expected = SentenceTransformer(str(tiny_folder), device="cpu").encode(texts)
    np.testing.assert_allclose(vectors("out/vectors.parquet"), expected, atol=1e-6)
    assert pq.read_table("out/vectors.parquet")["text"].to_pylist() == texts
    assert [path.name for path in Path("out").iterdir()] == ["vectors.parquet"]


def test_encode_in_chunks_gives_the_same(
    tiny_folder: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["encode", str(tiny_folder), "texts.txt", "whole.parquet"])
    monkeypatch.setattr("ray_st.cli.encode.CHUNK_ROWS", 2)
    main(["encode", str(tiny_folder), "texts.txt", "chunks.parquet"])
    np.testing.assert_allclose(vectors("whole.parquet"), vectors("chunks.parquet"), atol=1e-6)


def test_encode_keeps_the_ranges_of_the_first_chunk(
    tiny_folder: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch, tiny_model: Any
) -> None:
    monkeypatch.setattr("ray_st.cli.encode.CHUNK_ROWS", 2)
    main(["encode", str(tiny_folder), "texts.txt", "v.parquet", "--precision", "int8"])
    single = tiny_model.encode(texts)
    expected = quantize_embeddings(single, "int8", calibration_embeddings=single[:2])
    assert np.abs(vectors("v.parquet") - expected).max() <= 1


def test_encode_options(tiny_folder: Path, pairs_file: Path) -> None:
    options = ["--column", "b", "--truncate-dim", "16", "--normalize"]
    assert main(["encode", str(tiny_folder), str(pairs_file), "v.parquet", *options]) == 0
    table = pq.read_table("v.parquet")
    assert table.column_names == ["a", "b", "score", "embedding"]
    np.testing.assert_allclose(np.linalg.norm(vectors("v.parquet"), axis=1), 1, atol=1e-5)
    assert table.schema.field("embedding").type.list_size == 16
    assert (
        main(
            [
                "encode",
                str(tiny_folder),
                str(pairs_file),
                "b.parquet",
                "--column",
                "b",
                "--precision",
                "ubinary",
            ]
        )
        == 0
    )
    assert str(pq.read_table("b.parquet").schema.field("embedding").type.value_type) == "uint8"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pairs.csv", "v.parquet"], "INPUT: no column 'text' to encode; known: a, b, score (see --column)"),
        (["pairs.csv", "v.parquet", "--column", "score"], "row 0, column 'score': expected text, found 0.9"),
        (["nowhere.csv", "v.parquet"], "INPUT: nowhere.csv: no such file"),
        (["empty.txt", "v.parquet"], "INPUT: empty.txt: the file is empty"),
        (
            ["pairs.csv", "pairs.csv/v.parquet", "--column", "a"],
            "OUTPUT: pairs.csv/v.parquet cannot be written",
        ),
        (
            ["pairs.csv", "v.parquet", "--column", "a", "--batch-size", "0"],
            "--batch-size: expected at least 1",
        ),
        (["pairs.csv", "v.parquet", "--column", "a", "--prompt-name", "nothing"], "nothing"),
        (["pairs.csv", "v.parquet", "--workers", "2"], "--workers: not for a .parquet file as OUTPUT"),
        (["pairs.csv", "folder", "--device", "cpu"], "--device: not for a folder as OUTPUT"),
        (["pairs.csv", "folder"], "pairs.csv: no column 'text' to encode"),
        (["pairs.csv", "folder", "--column", "score"], "column 'score': expected texts, found double"),
        (["pairs.csv", "folder", "--column", "a", "--prompt-name", "nothing"], "nothing"),
        (["pairs.csv", "pairs.csv", "--column", "a"], "pairs.csv cannot be written"),
    ],
)
@pytest.mark.usefixtures("pairs_file")
def test_encode_refuses(
    tiny_folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty.txt").touch()
    assert main(["encode", str(tiny_folder), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ray-st: ")
    assert message in error
    assert error.count("\n") == 1
    assert not [path.name for path in Path().iterdir() if "v.parquet" in path.name]


def test_encode_leaves_the_old_file_when_it_fails(tiny_folder: Path) -> None:
    Path("gap.csv").write_text("text,n\ngood,1\n,2\n")
    Path("v.parquet").write_text("old")
    assert main(["encode", str(tiny_folder), "gap.csv", "v.parquet"]) == 2
    assert Path("v.parquet").read_text() == "old"


def test_evaluate_prints_figures(
    tiny_folder: Path, run_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(tiny_folder), run_file, "--json", "--output", "csv"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert set(figures) == {"dev_pearson_cosine", "dev_spearman_cosine"}
    assert list(Path("csv").glob("*.csv"))
    assert main(["evaluate", str(tiny_folder), run_file, "evaluators.0.data.rows=3"]) == 0
    assert "dev_spearman_cosine" in capsys.readouterr().out


def test_evaluate_takes_a_file_with_only_evaluators(
    tiny_folder: Path, pairs_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("only.yaml").write_text(f"evaluators: {{type: EmbeddingSimilarityEvaluator, data: {pairs_file}}}")
    assert main(["evaluate", str(tiny_folder), "only.yaml"]) == 0
    assert main(["evaluate", str(tiny_folder), "only.yaml", "evaluators=[]"]) == 2
    assert "evaluators: missing" in capsys.readouterr().err


def test_check_finds_nothing_against_a_good_run(run_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", run_file, "--check", "args.learning_rate=1e-5"]) == 0
    assert "OK: the run file is valid" in capsys.readouterr().out


def test_the_example_is_a_good_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["train", "examples/sts.yaml", "--check", f"args.output_dir={tmp_path}"]) == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "args.learning_rte=1",
            "args.learning_rte: unknown key 'learning_rte'; did you mean 'learning_rate'?",
        ),
        ("loss=CosentLoss", "loss.name: unknown loss 'CosentLoss'; did you mean 'CoSENTLoss'?"),
        ("scaling.workers=2", "scaling.workers: unknown key 'workers'; did you mean 'num_workers'?"),
        ("scaling.num_workers=[0, 4]", "scaling: num_workers: a run needs one worker at least; found (0, 4)"),
        ("scaling.num_workers=[4, 1]", "scaling: num_workers: the least number of workers comes first"),
        ("scaling.num_workers=[1, 2.5]", "scaling: num_workers: expected a whole number of at least 0"),
        ("scaling.num_workers=[1, 4]", "num_workers=(1, 4) needs global_train_batch_size"),
        ("scaling.num_workers=-1", "scaling: num_workers: expected a whole number of at least 0, found -1"),
        ("run.nam=x", "run.nam: unknown key 'nam'; did you mean 'name'?"),
        ("data.train.columns=[a, score]", "data.train has text columns ['a']"),
        ("data.train.columns=[a, b]", "CoSENTLoss needs a label column"),
        ("data.eval.columns=[a, b]", "data.eval has text columns ['a', 'b'] and no label column"),
        ("loss.name=MultipleNegativesRankingLoss", "takes no labels: each pair is a match"),
        (
            "args={eval_strategy: epoch, metric_for_best_model: dev_spearman_cosin}",
            "did you mean 'eval_dev_spearman_cosine'? There are, the most similar first:",
        ),
        (
            "args={eval_strategy: epoch, save_strategy: best}",
            "run.yaml: save_strategy='best' needs metric_for",
        ),
        ("data.train=nowhere.csv", "data.train: nowhere.csv: no such file"),
        ("model=nowhere", "model: "),
        ("model=", "model: missing"),
        ("data=", "data: missing"),
        ("args.output_dir=/proc/nowhere", "/proc/nowhere"),
    ],
)
def test_train_refuses_before_ray_starts(
    run_file: str, override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", run_file, override]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("ray-st: ")
    assert error.count("\n") == 1


SEVERAL = [
    "data.train={pairs: {path: pairs.csv, columns: [a, b]}, sts: pairs.csv}",
    "data.eval={sts: pairs.csv}",
    "loss={pairs: MultipleNegativesRankingLoss, sts: CoSENTLoss}",
]


def test_several_tables_with_a_loss_each_are_opened_and_not_read(
    run_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*args: object, **kwargs: object) -> None:
        raise AssertionError("rows are read when the run starts")

    described = read_run(run_file, [*SEVERAL, "evaluators="])
    monkeypatch.setattr("ray_st.data.sources.part.Part.read", read)
    trainer = prepare(described).trainer
    assert [list(source.columns()) for source in trainer.train_dataset.values()] == [
        ["a", "b"],
        ["a", "b", "score"],
    ]
    assert set(trainer.loss) == {"pairs", "sts"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.train.pairs.columns=[a]", "data.train.pairs has text columns ['a']"),
        ("data.train.sts.columns=[a, b]", "data.train.sts has text columns ['a', 'b'] and no label column"),
        ("data.train.sts.path=no.csv", "data.train.sts: no.csv: no such file"),
        ("data.train.sts.columns=[a, c]", "data.train.sts: pairs.csv: no column 'c'"),
        ("data.eval=pairs.csv", "loss is given for the datasets"),
        ("loss.sts.scal=3", "loss.sts.scal: unknown key 'scal'; did you mean 'scale'?"),
    ],
)
def test_several_tables_are_refused_by_their_names(
    run_file: str, override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", run_file, "--check", *SEVERAL, override]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [[], ["trian"], ["encode", "m", "i", "o", "extra"], ["train", "f", "--checks"]]
)
def test_words_that_mean_nothing_exit_with_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom ray_st.cli import main\n"
        "try: main(['train', '--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'ray', 'transformers', 'datasets', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


HERE = ["scaling={num_workers: 0}", "evaluators=", "args.eval_strategy=no"]


@pytest.fixture
def upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that Ray made of a job's upload."""
    folder = tmp_path / "session_1" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    (folder / "inner").mkdir(parents=True)
    monkeypatch.chdir(folder / "inner")
    return folder


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--check"],
        ["--continue"],
        ["run.storage_path=runs"],
        ["args.logging_dir=logs", "args.output_dir=/tmp"],
    ],
)
def test_outputs_in_a_jobs_upload_are_refused_before_the_first_step(
    run_file: str, upload: Path, words: list[str], capsys: Any
) -> None:
    assert main(["train", run_file, *HERE, *words]) == 2
    error = capsys.readouterr().err
    assert f"lies in {upload}, the folder that Ray made of the job's working_dir" in error
    assert not (upload / "inner" / "out").exists()


def test_in_a_job_with_storage_the_model_is_there_too(
    run_file: str, upload: Path, tmp_path: Path, capsys: Any
) -> None:
    storage = tmp_path / "shared"
    assert main(["train", run_file, *HERE, f"run.storage_path={storage}", "run.name=first"]) == 0
    assert f"model: {storage}/first/final\n" in capsys.readouterr().out
    assert (storage / "first" / "final" / "modules.json").is_file()


def test_other_commands_refuse_such_outputs_too(
    run_file: str, upload: Path, tiny_folder: Path, texts: list[str], tmp_path: Path, capsys: Any
) -> None:
    assert main(["encode", str(tiny_folder), str(tmp_path / "texts.txt"), "v.parquet"]) == 2
    assert "OUTPUT 'v.parquet' lies in" in capsys.readouterr().err
    assert main(["evaluate", str(tiny_folder), run_file, "--output", "figures"]) == 2
    assert "--output 'figures' lies in" in capsys.readouterr().err


def test_continue_says_where_it_found_nothing(run_file: str, capsys: Any) -> None:
    saved = [*HERE, "args.save_strategy=epoch"]
    folder = Path("out").absolute()
    assert main(["train", run_file, "--continue", *saved]) == 0
    shown = capsys.readouterr().out
    assert f"--continue: no complete checkpoint in {folder}; the run starts from the beginning" in shown
    assert f"model: {folder}/final\n" in shown
    (folder / "checkpoint-2" / "model.safetensors").unlink()
    assert main(["train", run_file, "--continue", *saved]) == 0
    assert "model.safetensors is damaged" in capsys.readouterr().out
    assert main(["train", run_file, "--continue", *saved]) == 0
    assert "no complete checkpoint" not in capsys.readouterr().out


@pytest.mark.ray
@pytest.mark.slow
def test_train_saves_the_model_and_shows_figures(run_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", run_file, "args.save_strategy=no", "args.eval_strategy=no"]) == 0
    shown = capsys.readouterr().out
    assert "before" in shown
    assert "dev_spearman_cosine" in shown
    assert f"model: {Path('out/final').absolute()}" in shown
    assert SentenceTransformer("out/final", device="cpu").encode("good").shape == (32,)
