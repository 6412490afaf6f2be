"""Names that scripts of other releases bring, where each is, and what is not there."""

from __future__ import annotations

from collections.abc import Mapping

from compatibility.table import Row, Section
from ray_st.util.unserved import UNSERVED

ROOT = """\
backend cross_encoder datasets evaluation losses model_card models quantization readers sampler similarity_functions trainer
training_args util CrossEncoder CrossEncoderModelCardData CrossEncoderTrainer CrossEncoderTrainingArguments InputExample
LoggingHandler MultiVectorEncoder MultiVectorEncoderModelCardData MultiVectorEncoderTrainer
MultiVectorEncoderTrainingArguments ParallelSentencesDataset SentenceTransformer SentenceTransformerModelCardData
SentenceTransformerTrainer SentenceTransformerTrainingArguments SentencesDataset SimilarityFunction SparseEncoder
SparseEncoderModelCardData SparseEncoderTrainer SparseEncoderTrainingArguments DefaultBatchSampler
MultiDatasetDefaultBatchSampler export_dynamic_quantized_onnx_model export_optimized_onnx_model
export_static_quantized_openvino_model mine_hard_negatives quantize_embeddings resolve_ids
"""
"""Names that scripts import from the root package: parts and modules."""

MODULE_FILES = """\
ray_st.SentenceTransformer ray_st.LoggingHandler ray_st.losses.CoSENTLoss ray_st.losses.MultipleNegativesRankingLoss
ray_st.models.Transformer ray_st.models.Pooling ray_st.evaluation.SentenceEvaluator ray_st.evaluation.SimilarityFunction
ray_st.readers.InputExample ray_st.datasets.ParallelSentencesDataset ray_st.models.tokenizer.WordTokenizer
"""
"""Examples of modules that earlier releases had for a class; each holds the class of its name."""

LATER_MODULES = """\
ray_st.sentence_transformer.losses.CoSENTLoss ray_st.sentence_transformer.evaluation.TripletEvaluator
ray_st.sentence_transformer.modules.Pooling ray_st.sentence_transformer.trainer.SentenceTransformerTrainer
ray_st.sentence_transformer.training_args.BatchSamplers ray_st.sentence_transformer.model.SentenceTransformer
ray_st.sentence_transformer.model_card.SentenceTransformerModelCardData ray_st.sentence_transformer.readers.InputExample
ray_st.sentence_transformer.datasets.ParallelSentencesDataset ray_st.base.modules.Router ray_st.base.sampler.DefaultBatchSampler
ray_st.base.evaluation.SequentialEvaluator
"""
"""Where later releases have what is here, an example of each."""

OPTIONS: Mapping[str, tuple[str, str, str]] = {
    "processing_class": ("ray_st.SentenceTransformerTrainer", "", "another name of `tokenizer`; giving both raises an error"),
    "processor_kwargs": (
        "ray_st.SentenceTransformer",
        "",
        "another name of `tokenizer_kwargs`; giving both raises an error (peer: the later one applies)",
    ),
    "model_kwargs, processor_kwargs, config_kwargs": (
        "ray_st.models.Transformer",
        "",
        "other names of `model_args`, `tokenizer_args`, `config_args`",
    ),
    "inputs": ("ray_st.SentenceTransformer", "encode", "another name of `sentences`, in `encode_query` and the like, too"),
    "precision": ("ray_st.SentenceTransformer", "encode", "`None` is `float32`"),
    "router_mapping": (
        "ray_st.SentenceTransformerTrainingArguments",
        "",
        "as documented; names that no dataset has raise an error, too",
    ),
    "precompute_hashes": ("ray_st.sampler.NoDuplicatesBatchSampler", "", "always done"),
}  # fmt: skip
"""Parameters by name: the class, its method, and what there is to say."""

METHODS: Mapping[str, str] = {
    "preprocess": "the later name of `tokenize`, with a prompt if one is given",
    "_first_module": "",
    "_last_module": "",
}
"""Methods of a model."""

PARTS: Mapping[str, str] = {
    "ray_st.model_card.SentenceTransformerModelCardCallback": "for an overridden `add_model_card_callback`; runs are recorded without it",
    "ray_st.evaluation.ReciprocalRankFusionEvaluator": "in `ray_st.evaluation`; its metrics equal the peer's",
    "ray_st.sampler.DefaultBatchSampler": "a base for custom samplers",
    "ray_st.sampler.MultiDatasetDefaultBatchSampler": "the same over several datasets",
    "ray_st.models.Router": "trained by column, with `router_mapping`",
}
"""Parts, by where they are."""


def sections() -> list[Section]:
    """The root's names, module files, and what came later."""
    files = [Row(name, "same", "") for name in MODULE_FILES.split()]
    later = [Row(name, "same", "") for name in LATER_MODULES.split()]
    options = [Row(name, "same", _of(where, method, note)) for name, (where, method, note) in OPTIONS.items()]
    methods = [Row(f"{name}()", "same", note) for name, note in METHODS.items()]
    parts = [Row(name, "same", note) for name, note in PARTS.items()]
    return [
        Section("Names of the root package", _ROOT, [_root_row(name) for name in sorted(ROOT.split())]),
        Section("Module files and module paths", _FILES, files + later),
        Section("Names of later releases", _LATER, options + methods + parts),
    ]


def _root_row(name: str) -> Row:
    return Row(name, "refused", UNSERVED[name]) if name in UNSERVED else Row(name, "same", "")


def _of(where: str, method: str, note: str) -> str:
    return f"of `{where}{'.' * bool(method)}{method}`: {note}"


_ROOT = "`import ray_st` loads none of them; each is loaded at its first use."
_FILES = """\
Earlier releases had a file per class, from which it could be imported; that works here for every class of these packages. Later
releases moved their modules: those paths work too. Pickles refer to the actual module."""
_LATER = "Names that scripts of later releases use; the same as there unless noted otherwise."
