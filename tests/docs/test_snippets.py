"""What the documentation shows runs."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from ray.train import ScalingConfig

from ray_st import CrossEncoder, SentenceTransformerTrainer
from ray_st.training.data.local_source import local_context
from ray_st.util.events import event
from reranker_folders import save_classifier

DOCS = Path(__file__).parents[2] / "docs"


def snippets(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Trainers find their workers in this process."""

    def run(self: Any, task: Any, make_parts: Any, resume: Any, keeps: bool) -> Any:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        place = local_context(make_parts(1), tmp_path / "run")
        return task(self.spec().rebuild(place), resume)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SentenceTransformerTrainer, "_on_cluster", run)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def test_the_quickstart_runs_from_top_to_bottom(
    tiny_folder: Path, in_this_process: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = "\n".join(snippets("quickstart.md")).replace("all-MiniLM-L6-v2", str(tiny_folder))
    names: dict[str, Any] = {}
    exec(compile(script, "quickstart.md", "exec"), names)
    assert "eval_dev_spearman_cosine" in capsys.readouterr().out
    assert (tmp_path / "outputs/first/final/README.md").is_file()
    assert names["trainer"].scaling_config.num_workers == 2


def test_a_model_goes_both_ways(tiny_model: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_model.save_pretrained("path/to/a/model")
    imports, model, _ = snippets("moving.md")
    exec(imports, {})
    exec(model, {})
    assert (tmp_path / "path/to/a/copy/modules.json").is_file()


def test_a_loop_of_ones_own_is_defined(tiny_folder: Path) -> None:
    names: dict[str, Any] = {}
    exec(snippets("moving.md")[2], names)
    assert callable(names["train_loop_per_worker"])
    card = snippets("operations.md")[0]
    exec(card, names)
    model = names["model"](tiny_folder)
    assert model.model_card_data.license == "apache-2.0"


def test_the_page_of_backends_runs_from_top_to_bottom(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    reranker = save_classifier(tmp_path / "reranker", "bert")
    script = "\n".join(snippets("backends.md")).replace("all-MiniLM-L6-v2", str(tiny_folder))
    exec(script.replace("cross-encoder/ms-marco-MiniLM-L6-v2", str(reranker)), {})
    found = {
        path.name for path in (tmp_path / "my-model").rglob("*model*.*") if path.parent.name != "my-model"
    }
    assert found == {
        "model.onnx",
        "model_O3.onnx",
        "model_quint8_avx2.onnx",
        "openvino_model_qint8_quantized.xml",
        "openvino_model_qint8_quantized.bin",
    }


def test_the_page_of_rerankers_runs_from_top_to_bottom(
    tiny_encoder: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    script = "\n".join(snippets("rerankers.md"))
    for name in ("cross-encoder/ms-marco-MiniLM-L6-v2", "microsoft/MiniLM-L12-H384-uncased"):
        script = script.replace(name, str(tiny_encoder))
    script = script.replace("all-MiniLM-L6-v2", str(tiny_folder)).replace("max_length=256", "max_length=32")
    for call in ("    train_dataset=", "output_path="):  # of trainers, and of fit
        script = script.replace(call, f"scaling_config=here, {call.strip()}")
    names: dict[str, Any] = {"here": ScalingConfig(num_workers=0)}
    exec(compile(script, "rerankers.md", "exec"), names)
    assert len(names["best"]) == 2
    assert {"dev_ndcg@10", "dev_base_ndcg@10"} <= set(names["metrics"])
    assert names["mined"].column_names == ["query", "answer", "label"]
    assert [hit["text"] for hit in names["reranked"]] != []
    for folder in ("reranker/final", "fitted"):
        assert CrossEncoder(str(tmp_path / "outputs" / folder)).num_labels == 1
    for loss, labels in ((names["HingeLoss"], None), (names["LossOverTexts"], [1.0])):
        columns = [["a"], ["b"]] if labels else [["a"], ["b"], ["c"]]
        assert loss(names["model"])(columns, labels and torch.tensor(labels)).isfinite()


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_every_snippet_is_python(page: str) -> None:
    for number, snippet in enumerate(snippets(page)):
        compile(snippet, f"{page}[{number}]", "exec")


def test_pictures_are_drawings_with_a_description() -> None:
    for picture in (DOCS / "pictures").glob("*.svg"):
        text = picture.read_text()
        assert "<title" in text
        assert "<desc" in text
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_events_are_routed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (script,) = (each for each in snippets("operations.md") if "JsonFormatter" in each)
    names: dict[str, Any] = {}
    exec(compile(script, "operations.md", "exec"), names)
    try:
        event("hang.seen", "rank 1 hangs", rank=1)
        event("checkpoint.written", "checkpoint 2", step=2)
    finally:
        for logger in map(logging.getLogger, list(logging.root.manager.loggerDict)):
            if logger.name.startswith("ray_st.events."):
                logger.setLevel(logging.NOTSET)
            for name in ("everything", "alarms"):
                logger.removeHandler(names[name])
        for name in ("everything", "alarms"):
            names[name].close()
    assert capsys.readouterr().out == "rank 1 hangs\n"
    assert Path("alarms.log").read_text() == "rank 1 hangs\n"
    assert json.loads(Path("events.jsonl").read_text())["rank"] == 1
