"""Models that compute with exported files: the same embeddings and scores, the same methods, clear errors."""

from __future__ import annotations

import copy
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from ray_st import (
    CrossEncoder,
    SentenceTransformer,
    SentenceTransformerTrainer,
    export_dynamic_quantized_onnx_model,
    export_optimized_onnx_model,
    losses,
)
from ray_st.models import StaticEmbedding
from ray_st.models.exported import graph_export, processor
from ray_st.models.exported.backend_options import PROCESSORS
from ray_st.models.exported.exported_module import exported_parts
from ray_st.models.exported.graph_export import UnexportableModel
from ray_st.models.folder_files import ModelFolderError
from ray_st.runtime.cluster import pickled
from ray_st.runtime.encode.job import model_hash
from reranker_folders import KINDS, save_classifier, text_pairs

TEXTS = ["the weather is sunny", "a man eats pasta in the good weather and is good", "", "bad"] * 3
PAIRS = text_pairs(12)
BACKENDS = ("onnx", "openvino")


def opened(folder: Path, backend: str, kind: Any = SentenceTransformer, **model_kwargs: Any) -> Any:
    return kind(str(folder), backend=backend, device="cpu", model_kwargs=model_kwargs)


SIGNALLED = """
import faulthandler, gc, os, signal, sys
from ray_st import SentenceTransformer

faulthandler.enable()  # as Ray's workers do: handlers run on a stack of their own
signal.signal(signal.SIGUSR1, lambda *given: print("handled"))
first, second = (SentenceTransformer(sys.argv[1], device="cpu", backend="openvino") for _ in range(2))
del first
gc.collect()
del second
gc.collect()
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.slow
def test_a_signal_after_models_have_gone_does_no_harm(exported: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, str(exported)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


# ---- the same numbers ----


@pytest.mark.parametrize("backend", BACKENDS)
def test_embeddings_are_those_of_torch(exported: Path, backend: str) -> None:
    model, known = opened(exported, backend), SentenceTransformer(str(exported), device="cpu")
    assert model.backend == model.get_backend() == backend
    assert known.get_backend() == "torch"
    np.testing.assert_allclose(model.encode(TEXTS), known.encode(TEXTS), atol=1e-5)
    for found, vectors in zip(
        model.encode(TEXTS, output_value="token_embeddings"),
        known.encode(TEXTS, output_value="token_embeddings"),
        strict=True,
    ):
        torch.testing.assert_close(found, vectors, atol=1e-5, rtol=1e-5)
    assert model.max_seq_length == known.max_seq_length
    assert model.get_embedding_dimension() == known.get_embedding_dimension()
    assert "ExportedModule" in repr(model)


@pytest.mark.parametrize("backend", BACKENDS)
def test_scores_are_those_of_torch(exported_reranker: Path, backend: str) -> None:
    model, known = (
        opened(exported_reranker, backend, CrossEncoder),
        CrossEncoder(str(exported_reranker), device="cpu"),
    )
    np.testing.assert_allclose(model.predict(PAIRS), known.predict(PAIRS), atol=1e-5)
    query, texts = PAIRS[0][0], [text for _, text in PAIRS]
    ranks = [[place["corpus_id"] for place in one.rank(query, texts)] for one in (model, known)]
    assert ranks[0] == ranks[1]
    assert model.max_length == known.max_length
    assert model.num_labels == 1


@pytest.mark.long
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_of_classifier(tmp_path: Path, kind: str, backend: str) -> None:
    folder = save_classifier(tmp_path, kind, num_labels=3)
    known = CrossEncoder(str(folder), device="cpu").predict(PAIRS)
    np.testing.assert_allclose(opened(folder, backend, CrossEncoder).predict(PAIRS), known, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_rotary_decoder_with_padding_on_the_left(tmp_path: Path, backend: str) -> None:
    folder = save_classifier(tmp_path, "qwen3", side="left")
    known = CrossEncoder(str(folder), device="cpu").predict(PAIRS)
    np.testing.assert_allclose(opened(folder, backend, CrossEncoder).predict(PAIRS), known, atol=1e-5)


# ---- folders and processes ----


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_saved_model_opens_without_weights_for_torch(exported: Path, tmp_path: Path, backend: str) -> None:
    model = opened(exported, backend)
    model.save(str(tmp_path))
    assert not list(tmp_path.rglob("*.safetensors"))
    card = (tmp_path / "README.md").read_text()
    assert f"backend={backend!r}" in card
    np.testing.assert_array_equal(opened(tmp_path, backend).encode(TEXTS), model.encode(TEXTS))
    with pytest.raises(ModelFolderError, match="has no weights"):
        SentenceTransformer(str(tmp_path))


def test_the_only_file_of_a_folder_without_weights_is_opened(exported: Path, tmp_path: Path) -> None:
    opened(exported, "onnx").save(str(tmp_path))
    (tmp_path / "onnx/model.onnx").rename(tmp_path / "onnx/model_O3.onnx")
    assert opened(tmp_path, "onnx")[0].auto_model.file.name == "model_O3.onnx"


@pytest.mark.parametrize("backend", BACKENDS)
def test_copies_and_other_processes_compute_the_same(exported: Path, backend: str) -> None:
    model = opened(exported, backend)
    sent = pickled.dump(model)
    if backend == "onnx" and sys.platform == "linux":
        assert sent.nbytes < (exported / "onnx/model.onnx").stat().st_size  # the file is named, not sent
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), pickled.load(sent)):
        np.testing.assert_array_equal(other.encode(TEXTS), model.encode(TEXTS))


def test_a_model_that_was_exported_in_memory_is_sent_whole(tiny_folder: Path) -> None:
    model = opened(tiny_folder, "openvino", export=True)
    np.testing.assert_array_equal(pickled.load(pickled.dump(model)).encode(TEXTS), model.encode(TEXTS))


def test_the_hash_of_a_model_depends_on_its_file(exported: Path) -> None:
    hashes = {model_hash(opened(exported, backend)) for backend in BACKENDS for _ in range(2)}
    assert len(hashes) == 2


def test_it_uses_as_many_threads_as_torch(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    made: list[Any] = []
    session = onnxruntime.InferenceSession

    def noted(content: bytes, settings: Any, **options: Any) -> Any:
        made.append(settings)
        return session(content, settings, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", noted)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    opened(exported, "onnx")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 2
    with_own = opened(exported, "onnx", session_options=settings)
    assert [one.intra_op_num_threads for one in made] == [3, 2]
    with pytest.raises(ValueError, match="session_options cannot be sent"):
        pickle.dumps(with_own)


def test_openvino_reports_to_nobody(exported: Path) -> None:
    opened(exported, "openvino")
    assert sys.modules["openvino_telemetry"] is None


def test_weights_beside_the_file(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of more than two gigabytes, which one ONNX file cannot hold."""
    monkeypatch.setattr("ray_st.models.exported.graph_export.LARGEST", 0)
    known = opened(tiny_folder, "onnx")
    known.save(str(tmp_path))
    assert {path.name for path in (tmp_path / "onnx").iterdir()} == {"model.onnx", "model.onnx.data"}
    found = opened(tmp_path, "onnx")
    for other in (found, pickled.load(pickled.dump(found))):
        np.testing.assert_array_equal(other.encode(TEXTS), known.encode(TEXTS))
    export_optimized_onnx_model(found, "O2", str(tmp_path))
    export_dynamic_quantized_onnx_model(found, "avx2", str(tmp_path))
    again = opened(tmp_path, "onnx", file_name="model_O2.onnx")
    np.testing.assert_allclose(again.encode(TEXTS), known.encode(TEXTS), atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_exporters_cannot_express(
    tiny_folder: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("Unsupported: aten::odd\nand a long explanation")

    with monkeypatch.context() as patch:
        patch.setattr(graph_export, f"_to_{backend}", fail)
        with pytest.raises(
            UnexportableModel, match=rf"BertModel cannot be exported to {backend}: RuntimeError: Unsupported"
        ):
            opened(tiny_folder, backend, export=True)
    monkeypatch.setattr(graph_export, "NEAR", 0.0)
    with pytest.raises(UnexportableModel, match="BertModel computes something else when exported"):
        opened(tiny_folder, backend, export=True)


# ---- which file ----


def test_several_files_are_listed(exported: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    shutil.copy(folder / "onnx/model.onnx", folder / "onnx/model_other.onnx")
    assert opened(folder, "onnx")[0].auto_model.file.name == "model.onnx"
    assert "onnx/model.onnx, onnx/model_other.onnx: using onnx/model.onnx" in caplog.text
    for name in ("model_other.onnx", "onnx/model_other.onnx"):
        assert opened(folder, "onnx", file_name=name)[0].auto_model.file.name == "model_other.onnx"
    found = opened(folder, "onnx", file_name="model_other.onnx", subfolder="onnx")
    assert found[0].auto_model.file.name == "model_other.onnx"


def test_a_missing_file_is_exported_with_a_warning(
    tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened(tiny_folder, "openvino")
    assert "has no openvino_model.xml: exporting the model now" in caplog.text
    with pytest.raises(ModelFolderError, match=r"no exported file 'openvino_model.xml'; there are: none"):
        opened(tiny_folder, "openvino", export=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"file_name": "model_O9.onnx"}, r"no exported file 'model_O9.onnx'; there are: onnx/model.onnx"),
        ({"file_name": "../model.onnx"}, "file_name must be a file '.onnx' within the model's folder"),
        ({"file_name": "model.xml"}, "file_name must be a file '.onnx'"),
        ({"attn_implementation": "eager"}, r"\['attn_implementation'\] means nothing to backend='onnx'"),
        ({"dtype": torch.float16}, "computes in float32; dtype='float16' is for GPUs"),
        ({"torch_dtype": "bfloat16"}, "dtype='bfloat16' is for GPUs"),
        (
            {"provider": "CUDAExecutionProvider"},
            "'CUDAExecutionProvider' is not there; this ONNX Runtime has",
        ),
    ],
)
def test_what_onnx_cannot_open(exported: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        opened(exported, "onnx", **options)


@pytest.mark.parametrize(("backend", "name"), [("onnx", "model.onnx"), ("openvino", "openvino_model.xml")])
def test_damaged_and_foreign_files(
    exported: Path, exported_reranker: Path, tmp_path: Path, backend: str, name: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    shutil.copytree(exported_reranker / backend, folder / backend, dirs_exist_ok=True)
    with pytest.raises(
        ModelFolderError, match=r"makes logits; expected last_hidden_state or token_embeddings"
    ):
        opened(folder, backend)
    (folder / backend / name).write_bytes(b"not a model at all")
    with pytest.raises(ModelFolderError, match=f"cannot open {name}"):
        opened(folder, backend)


def test_weights_that_are_not_beside_their_file(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    (folder / "openvino/openvino_model.bin").unlink()
    with pytest.raises(ModelFolderError, match=r"has no openvino_model.bin beside it"):
        opened(folder, "openvino")


def test_a_file_for_another_processor(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    (folder / "onnx/model.onnx").rename(folder / "onnx/model_qint8_avx512_vnni.onnx")
    name = "model_qint8_avx512_vnni.onnx"
    monkeypatch.setattr("ray_st.models.exported.processor.processors_here", lambda: ("avx2",))
    with pytest.raises(
        ModelFolderError, match=r"for processors with avx512_vnni; this one has avx2.*export one"
    ):
        opened(folder, "onnx", file_name=name)
    monkeypatch.setattr("ray_st.models.exported.processor.processors_here", lambda: ("avx2", "avx512_vnni"))
    assert opened(folder, "onnx", file_name=name).backend == "onnx"


def test_processors_by_the_names_of_files() -> None:
    names = {"model_qint8_arm64.onnx": "arm64", "model_O3_quint8_avx2.onnx": "avx2", "model_O3.onnx": None}
    names |= {"model_qint8_avx512.onnx": "avx512", "model_qint8_avx512_vnni.onnx": "avx512_vnni"}
    assert {name: processor.processor_of(name) for name in names} == names
    assert processor.processors_here() in (
        ("arm64",),
        *(PROCESSORS[1:end] for end in range(1, 5)),
    )


def test_what_has_no_encoder_of_transformers(tiny_model: Any, tmp_path: Path) -> None:
    SentenceTransformer(modules=[StaticEmbedding(tiny_model.tokenizer, embedding_dim=8)]).save(str(tmp_path))
    with pytest.raises(ValueError, match=r"this model has the modules StaticEmbedding. Leave backend out"):
        opened(tmp_path, "onnx")
    with pytest.raises(
        ValueError, match="backend must be one of 'torch', 'onnx', 'openvino'; got 'tensorrt'"
    ):
        SentenceTransformer(str(tmp_path), backend="tensorrt")


def test_adapters_are_merged_first(tiny_folder: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = SentenceTransformer(tiny_folder, device="cpu")
    model.add_adapter(peft.LoraConfig(task_type="FEATURE_EXTRACTION", r=2, target_modules=["query"]))
    model.save(str(tmp_path))
    with pytest.raises(ModelFolderError, match=r"opens no adapters.*model.merge_adapters\(\)"):
        opened(tmp_path, "onnx")


def test_it_cannot_be_trained(exported: Path) -> None:
    model = opened(exported, "onnx")
    assert not list(model.parameters())
    rows = Dataset.from_dict({"a": ["x"] * 4, "b": ["y"] * 4})
    with pytest.raises(ValueError, match=r"backend='onnx'.* cannot be trained. Open it without backend"):
        SentenceTransformerTrainer(
            model=model, train_dataset=rows, loss=losses.MultipleNegativesRankingLoss(model)
        )


def test_the_vectors_of_all_layers_are_not_there(exported: Path) -> None:
    with pytest.raises(ModelFolderError, match="asks for the vectors of all layers"):
        SentenceTransformer(
            str(exported), backend="onnx", device="cpu", config_kwargs={"output_hidden_states": True}
        )


def test_weights_of_another_model_are_not_loaded(exported: Path) -> None:
    part = exported_parts(opened(exported, "onnx"))[0]
    part.load_state_dict(copy.deepcopy(part).state_dict())
    with pytest.raises(RuntimeError, match="open the other model instead"):
        part.load_state_dict(exported_parts(opened(exported, "openvino"))[0].state_dict())
