from __future__ import annotations

from pathlib import Path

import pytest

PAIRS = [
    ("the weather is good", "a sunny day", 0.9),
    ("a man eats pasta", "the man eats", 0.8),
    ("good text", "bad document", 0.2),
    ("sunny", "pasta", 0.0),
]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.csv"
    path.write_text("a,b,score\n" + "".join(f"{a},{b},{score}\n" for a, b, score in PAIRS))
    return path


@pytest.fixture
def run_file(tmp_path: Path, tiny_folder: Path, pairs_file: Path) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(
        f"""
model: {tiny_folder}
data: {{train: {pairs_file}, eval: {pairs_file}}}
args: {{output_dir: out, num_train_epochs: 1, per_device_train_batch_size: 2, use_cpu: true, report_to: none}}
evaluators: {{type: EmbeddingSimilarityEvaluator, data: {pairs_file}, name: dev}}
scaling: {{num_workers: 1, resources_per_worker: {{CPU: 0.5}}}}
"""
    )
    return str(path)
