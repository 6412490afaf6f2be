from __future__ import annotations

import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from ray_st import SentenceTransformer, SentenceTransformerModelCardData
from ray_st.models.card.kinds import text_of
from ray_st.models.card.render import header, render_card, table


class Evaluator:
    name = "dev"
    description = "Information Retrieval"
    primary_metric = "dev_cosine_ndcg@10"


class SomeLoss:
    citation = "@misc{some, title={Some}}"


def front(text: str) -> dict[str, Any]:
    return yaml.safe_load(text.split("---\n")[1])


def filled() -> SentenceTransformerModelCardData:
    data = SentenceTransformerModelCardData(
        language=["en", "de"],
        license="apache-2.0",
        model_name="A: model | with 'odd' name",
        model_id="me/model",
        train_datasets=[{"name": "pairs", "id": "org/pairs"}],
    )
    data.set_base_model("org/base", "v1")
    data.set_losses([SomeLoss(), SomeLoss()])
    samples = [["how | to\nwin", "like this"], ["a", "b"]]
    data.set_train_dataset_metadata(
        [
            {
                "name": "?",
                "size": 1234,
                "columns": ["anchor", "positive"],
                "loss": "SomeLoss",
                "samples": samples,
            }
        ]
    )
    data.set_hyperparameters(
        {
            "learning_rate": 2e-5,
            "hub_token": "hf_x",
            "output_dir": "out",
            "note": str(Path.cwd()),
            "list": [1],
        }
    )
    data.set_evaluation_metrics(
        Evaluator(), {"dev_cosine_ndcg@10": np.float64(0.25), "dev_runtime": 3}, 1.0, 10
    )
    data.set_evaluation_metrics(Evaluator(), {"dev_cosine_ndcg@10": 0.5}, 2.0, 20)
    data.set_widget_examples([{"source_sentence": "how to win", "sentences": ["like this", "or that"]}])
    data.logs = [{"step": 10, "loss": 0.5}, {"step": 20, "loss": 0.25, "eval_dev_cosine_ndcg@10": 0.5}]
    return data


def test_header(tiny_model: Any) -> None:
    found = yaml.safe_load(header(filled(), text_of(tiny_model, filled())))
    assert found["library_name"] == "sentence-transformers"
    assert found["pipeline_tag"] == "sentence-similarity"
    assert found["language"] == ["en", "de"]
    assert found["license"] == "apache-2.0"
    assert found["base_model"] == "org/base"
    assert found["datasets"] == ["org/pairs"]
    assert found["widget"] == [{"source_sentence": "how to win", "sentences": ["like this", "or that"]}]
    assert {"sentence-transformers", "generated_from_trainer", "loss:SomeLoss"} <= set(found["tags"])
    (model,) = found["model-index"]
    assert model["name"] == "A: model | with 'odd' name"
    (result,) = model["results"]
    assert result["task"] == {"type": "information-retrieval", "name": "Information Retrieval"}
    assert [(metric["type"], metric["value"]) for metric in result["metrics"]] == [
        ("dev_cosine_ndcg@10", 0.5)
    ]


def test_texts_that_begin_with_a_number_are_shown_and_indexed_by_it(tiny_model: Any) -> None:
    data = filled()
    texts = {"dev_map": "0.6335 (+0.2101)", "dev_low": "-1 (+0.0)", "dev_words": "none"}
    data.set_evaluation_metrics(Evaluator(), texts)
    assert "| dev_map | 0.6335 (+0.2101) |" in render_card(tiny_model, data)
    (result,) = yaml.safe_load(header(data, text_of(tiny_model, data)))["model-index"][0]["results"]
    assert [(metric["type"], metric["value"]) for metric in result["metrics"]] == [
        ("dev_map", 0.6335),
        ("dev_low", -1.0),
    ]


def test_text(tiny_model: Any) -> None:
    text = render_card(tiny_model, filled())
    assert text.startswith("---\n")
    for part in (
        "# A: model | with 'odd' name",
        "- **Base model:** org/base (revision v1)",
        "- **Dimensions:** 32",
        "- **Longest sequence:** 64 tokens",
        "(0): Transformer(BertModel, max_seq_length=64",
        "SentenceTransformer('me/model')",
        "### Information Retrieval on `dev` (step 20)",
        "| **dev_cosine_ndcg@10** | 0.5000 |",
        "### Training data: pairs",
        "- **Rows:** 1,234",
        "| how \\| to win | like this |",
        "| `learning_rate` | `2e-05` |",
        "| - | 10 | 0.5000 | - |",
        "| - | 20 | 0.2500 | 0.5000 |",
        "Evaluated with `Evaluator`.",
        "@misc{some",
    ):
        assert part in text
    assert text.count("@misc{some") == 1


def test_neither_secrets_nor_paths(tiny_folder: Path, tmp_path: Path) -> None:
    data = filled()
    assert data.hyperparameters == {"learning_rate": 2e-5, "list": [1]}
    model = SentenceTransformer(tiny_folder, model_card_data=SentenceTransformerModelCardData())
    model.model_card_data.set_losses([SomeLoss()])
    model.save(tmp_path / "out", model_name=str(tmp_path))
    text = (tmp_path / "out" / "README.md").read_text()
    assert str(tmp_path) not in text
    assert str(tiny_folder) not in text
    assert "base_model" not in text
    assert "hf_x" not in render_card(model, data)


def test_usage_runs_with_this_package_and_with_the_peer(
    tiny_model: Any,
    peer: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny_model.save(tmp_path / "saved")
    readme = (tmp_path / "saved" / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert code
    script = code.group(1).replace("path/to/this/model", "saved")
    monkeypatch.chdir(tmp_path)
    answers = []
    for text in (script, script.replace("from ray_st", "from sentence_transformers")):
        (tmp_path / "script.py").write_text(text)
        answers.append(runpy.run_path(str(tmp_path / "script.py"))["embeddings"])
    np.testing.assert_allclose(*answers, atol=1e-5)
    assert capsys.readouterr().out.count("tensor(") == 2


def test_a_card_that_came_with_the_model_stays_until_it_is_trained(tiny_folder: Path, tmp_path: Path) -> None:
    SentenceTransformer(tiny_folder).save(tmp_path / "a")
    (tmp_path / "a" / "README.md").write_text("By hand.")
    model = SentenceTransformer(tmp_path / "a")
    model.save(tmp_path / "b")
    assert (tmp_path / "b" / "README.md").read_text() == "By hand."
    model.model_card_data.set_losses([torch.nn.MSELoss()])
    model.save(tmp_path / "b")
    assert "loss:MSELoss" in front((tmp_path / "b" / "README.md").read_text())["tags"]


def test_no_card_on_request(tiny_model: Any, tmp_path: Path) -> None:
    tiny_model.save(tmp_path, create_model_card=False)
    assert not (tmp_path / "README.md").exists()


def test_what_a_call_of_save_says(tiny_model: Any, tmp_path: Path) -> None:
    (tmp_path / "README.md").touch()
    tiny_model._readme = None
    tiny_model.save(tmp_path, model_name="me/model", train_datasets=["pairs"])
    text = (tmp_path / "README.md").read_text()
    assert "SentenceTransformer('me/model')" in text
    assert "It was trained on pairs." in text


def test_the_peers_constructor_fields() -> None:
    data = SentenceTransformerModelCardData(
        language="en",
        license="mit",
        model_name="M",
        model_id="a/b",
        train_datasets=[{"id": "c/d"}],
        eval_datasets=["e"],  # type: ignore[list-item]
        task_name="t",
        tags=["x"],
        local_files_only=True,
        generate_widget_examples=False,
    )
    assert data.train_datasets == [{"name": "c/d", "id": "c/d"}]
    assert data.eval_datasets == [{"name": "e"}]
    data.add_tags(["x", "y", "y"])
    assert data.tags == ["x", "y"]


def test_a_data_set_without_a_name() -> None:
    with pytest.raises(ValueError, match="needs a name or an id"):
        SentenceTransformerModelCardData(train_datasets=[{"size": 3}])


def test_what_the_user_said_of_a_data_set_goes_first() -> None:
    data = SentenceTransformerModelCardData(train_datasets=[{"name": "mine"}, {"name": "other"}])
    data.set_train_dataset_metadata([{"name": "found", "size": 2}])
    assert [(one["name"], one.get("size")) for one in data.train_datasets] == [("mine", 2), ("other", None)]
    assert "dataset_size:2" in data.tags
    data.set_train_dataset_metadata([{"name": "found later", "size": 3}])  # another run
    assert [(one["name"], one.get("size")) for one in data.train_datasets] == [("mine", 3), ("other", None)]
    assert [tag for tag in data.tags if tag.startswith("dataset_size")] == ["dataset_size:3"]


def test_only_names_of_the_hub_are_a_base_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    for name in (None, str(tmp_path), "here", "./x/y", "~/x"):
        data = SentenceTransformerModelCardData()
        data.set_base_model(name)
        assert data.base_model is None
    data.set_base_model("org/base")
    assert data.base_model == "org/base"


def test_table() -> None:
    assert table(["a", "b"], [[1, "x|y"]]) == "| a | b |\n| --- | --- |\n| 1 | x\\|y |"


def test_the_base_model_is_noted_with_its_commit(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models--org--tiny" / "snapshots" / "0a1b"
    shutil.copytree(tiny_folder, folder)
    model = SentenceTransformer(folder)
    model.model_card_data.set_losses([SomeLoss()])
    text = render_card(model, model.model_card_data)
    assert front(text)["base_model"] == "org/tiny"
    assert "# SentenceTransformer based on org/tiny" in text
    assert "It was fine-tuned from [org/tiny](" in text
    assert "org/tiny (revision 0a1b)" in text
