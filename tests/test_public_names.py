"""The public list is complete and sorted, each name is there, and naming the package loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ray_st

PUBLIC = [
    "CrossEncoder",
    "CrossEncoderModelCardData",
    "CrossEncoderTrainer",
    "CrossEncoderTrainingArguments",
    "DefaultBatchSampler",
    "InputExample",
    "LoggingHandler",
    "MultiDatasetDefaultBatchSampler",
    "ParallelSentencesDataset",
    "SentenceTransformer",
    "SentenceTransformerModelCardData",
    "SentenceTransformerTrainer",
    "SentenceTransformerTrainingArguments",
    "SentencesDataset",
    "SimilarityFunction",
    "__version__",
    "backend",
    "cross_encoder",
    "datasets",
    "evaluation",
    "export_dynamic_quantized_onnx_model",
    "export_optimized_onnx_model",
    "export_static_quantized_openvino_model",
    "losses",
    "mine_hard_negatives",
    "model_card",
    "models",
    "quantization",
    "quantize_embeddings",
    "readers",
    "sampler",
    "similarity_functions",
    "trainer",
    "training_args",
    "util",
]


def test_the_list_is_sorted_and_complete() -> None:
    assert ray_st.__all__ == PUBLIC
    assert set(PUBLIC) <= set(dir(ray_st))


@pytest.mark.parametrize("name", PUBLIC)
def test_each_name_is_there(name: str) -> None:
    assert getattr(ray_st, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'SentenceTransformr'"):
        ray_st.SentenceTransformr  # noqa: B018


@pytest.mark.parametrize("statement", ["import ray_st", "import ray_st.cli"])
def test_naming_the_package_loads_neither_torch_nor_ray(statement: str) -> None:
    heavy = "{'torch', 'ray', 'transformers', 'datasets'}"
    code = f"{statement}, sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_ray_trains_controller_loads_is_light() -> None:
    statement = "import ray_st.runtime.supervision.ray_callbacks, ray_st.runtime.data.block_source, sys"
    code = f"{statement}; print(sorted({{'torch', 'transformers', 'datasets'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_documented_names_of_the_cluster_import_from_their_package_and_from_earlier_paths() -> None:
    from ray_st.runtime.corpus import encode_corpus
    from ray_st.runtime.evaluate import evaluate_on_workers

    from ray_st.runtime import encode

    assert encode.__all__ == ["encode_corpus", "evaluate_on_workers", "score_corpus"]
    assert encode.encode_corpus is encode_corpus
    assert encode.evaluate_on_workers is evaluate_on_workers
