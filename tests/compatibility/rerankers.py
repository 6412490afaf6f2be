"""Rerankers: the model, its trainer, losses and evaluators, by their names of earlier and later releases."""

from __future__ import annotations

from collections.abc import Mapping

from compatibility import signatures
from compatibility.table import Row, Section

CONSTRUCTOR = """\
model_name num_labels max_length device automodel_args tokenizer_args config_args cache_dir trust_remote_code revision
local_files_only default_activation_function classifier_dropout
"""
"""Arguments of the documented constructor, in its order."""

LATER = """\
model_name_or_path model_kwargs tokenizer_kwargs processor_kwargs config_kwargs activation_fn cache_folder token prompts
default_prompt_name model_card_data backend
"""
"""Arguments of later releases, by keyword."""

ATTRIBUTES = "config model tokenizer max_length max_seq_length num_labels activation_fn default_activation_function device dtype transformers_model"

METHODS = """\
fit(train_dataloader, evaluator, epochs, loss_fct, activation_fct, scheduler, warmup_steps, optimizer_class, optimizer_params, weight_decay, evaluation_steps, output_path, save_best_model, max_grad_norm, use_amp, callback, show_progress_bar)
predict(sentences, batch_size, show_progress_bar, num_workers, activation_fct, apply_softmax, convert_to_numpy, convert_to_tensor)
rank(query, documents, top_k, return_documents, batch_size, show_progress_bar, num_workers, activation_fct, apply_softmax, convert_to_numpy, convert_to_tensor)
save(path)
save_pretrained(path, model_name, create_model_card, train_datasets, safe_serialization)
push_to_hub(repo_id, token, private, safe_serialization, commit_message, local_model_path, exist_ok, replace_model_card, train_datasets, revision, create_pr)
"""  # fmt: skip
"""The documented methods, with their parameters."""

LATER_METHODS: Mapping[str, str] = {
    "evaluate": "",
    "get_backend": "",
    "get_max_seq_length": "",
    "gradient_checkpointing_enable": "",
    "preprocess": "the later name of `tokenize`, with a prompt if one is given",
    "save_to_hub": "",
    "start_multi_process_pool": "processes of the Ray cluster",
    "stop_multi_process_pool": "",
    "tokenize": "takes pairs, in every form that `predict` takes",
}
"""Further methods of later releases, and what there is to say."""

ABSENT: Mapping[str, str] = {
    "old_fit": "use `fit`; with `ScalingConfig(num_workers=0)` it trains in the calling process",
    "smart_batching_collate": "the trainer makes batches; a model's `tokenize` takes pairs",
    "smart_batching_collate_text_only": "the trainer makes batches; a model's `tokenize` takes pairs",
    "get_default_activation_fn": "read `activation_fn`",
    "merge": "average the `state_dict()` of models in the script",
    "modules=": "of the constructor: a reranker is one sequence classifier of transformers",
    "keep_in_fp32_modules=": "of the constructor: pass `model_kwargs`",
    "set_keep_in_fp32_modules": "pass `model_kwargs` to the constructor",
    "clear_placement_cache": "",
    "processor": "use `tokenizer`",
    "is_singular_input": "",
    "supports": "texts only",
    "modalities": "texts only",
    "get_model_kwargs": "",
    "model_type": "",
    "model_card_data_class": "use `CrossEncoderModelCardData`",
    "default_huggingface_organization": "always `cross-encoder`",
    "check_peft_compatible_model": "",
    "has_peft_compatible_model": "",
    "add_adapter": "adapters for embedders only, so far",
    "load_adapter": "adapters for embedders only, so far",
    "set_adapter": "adapters for embedders only, so far",
    "delete_adapter": "adapters for embedders only, so far",
    "enable_adapters": "adapters for embedders only, so far",
    "disable_adapters": "adapters for embedders only, so far",
    "active_adapter": "adapters for embedders only, so far",
    "active_adapters": "adapters for embedders only, so far",
    "get_adapter_state_dict": "adapters for embedders only, so far",
}
"""Names of later releases that a reranker lacks here, and what to use."""

LOSSES = """\
BinaryCrossEntropyLoss(model, activation_fn, pos_weight)
CrossEntropyLoss(model, activation_fn)
MSELoss(model, activation_fn)
MarginMSELoss(model, activation_fn)
MultipleNegativesRankingLoss(model, num_negatives, scale, activation_fn)
CachedMultipleNegativesRankingLoss(model, num_negatives, scale, activation_fn, mini_batch_size, show_progress_bar)
LambdaLoss(model, weighting_scheme, k, sigma, eps, reduction_log, activation_fn, mini_batch_size)
ListNetLoss(model, activation_fn, mini_batch_size)
ListMLELoss(model, activation_fn, mini_batch_size, respect_input_order)
PListMLELoss(model, lambda_weight, activation_fn, mini_batch_size, respect_input_order)
RankNetLoss(model, k, sigma, eps, reduction_log, activation_fn, mini_batch_size)
ADRMSELoss(model, alpha, activation_fn, mini_batch_size)
NoWeightingScheme()
NDCGLoss1Scheme()
NDCGLoss2Scheme()
LambdaRankScheme()
NDCGLoss2PPScheme(mu)
PListMLELambdaWeight(rank_discount_fn)
"""
"""The losses and their weights, with their parameters."""

EVALUATORS = """\
CrossEncoderClassificationEvaluator(sentence_pairs, labels, name, prompt_name, batch_size, show_progress_bar, write_csv)
CrossEncoderCorrelationEvaluator(sentence_pairs, scores, name, prompt_name, batch_size, show_progress_bar, write_csv)
CrossEncoderRerankingEvaluator(samples, at_k, always_rerank_positives, name, prompt_name, batch_size, show_progress_bar, write_csv, mrr_at_k)
CrossEncoderNanoBEIREvaluator(dataset_names, dataset_id, rerank_k, at_k, always_rerank_positives, prompt_name, batch_size, show_progress_bar, write_csv, aggregate_fn, aggregate_key)
"""  # fmt: skip
"""The evaluators, with their parameters."""

OLDER_EVALUATORS: Mapping[str, tuple[str, str]] = {
    "CEBinaryAccuracyEvaluator": ("sentence_pairs labels name threshold write_csv", "CrossEncoderClassificationEvaluator"),
    "CEBinaryClassificationEvaluator": ("sentence_pairs labels name show_progress_bar write_csv", "CrossEncoderClassificationEvaluator"),
    "CECorrelationEvaluator": ("sentence_pairs scores name write_csv", "CrossEncoderCorrelationEvaluator"),
    "CEF1Evaluator": ("sentence_pairs labels batch_size show_progress_bar name write_csv", "CrossEncoderClassificationEvaluator"),
    "CERerankingEvaluator": ("samples at_k name write_csv mrr_at_k", "CrossEncoderRerankingEvaluator"),
    "CESoftmaxAccuracyEvaluator": ("sentence_pairs labels name write_csv", "CrossEncoderClassificationEvaluator"),
}  # fmt: skip
"""Evaluators of earlier releases: their parameters, and the evaluator whose metrics they return."""

PARTS = """\
ray_st.cross_encoder.CrossEncoder.CrossEncoder ray_st.cross_encoder.evaluation.CERerankingEvaluator.CERerankingEvaluator
ray_st.cross_encoder.losses.LambdaLoss.LambdaLoss ray_st.cross_encoder.losses.LambdaLoss.NDCGLoss2PPScheme
ray_st.cross_encoder.model.CrossEncoder ray_st.cross_encoder.trainer.CrossEncoderTrainer
ray_st.cross_encoder.training_args.CrossEncoderTrainingArguments ray_st.cross_encoder.model_card.CrossEncoderModelCardData
"""
"""Where scripts import the parts from."""

_OF_POOL = "options of later releases, such as `prompt_name` and `pool`, by keyword"
_NOTES: Mapping[str, tuple[str, str]] = {
    "model_name": ("same", "the first argument; `model_name_or_path` is its later name. Giving an older name and its later one raises an error"),
    "num_labels": ("same", "a folder whose head has another number raises an error that says how to get a new head; an embedder's folder needs it (peer: 1 by default)"),
    "max_length": ("same", "of a pair, special tokens included"),
    "automodel_args": ("same", "`model_kwargs`"),
    "tokenizer_args": ("same", "`tokenizer_kwargs`"),
    "config_args": ("same", "`config_kwargs`"),
    "cache_dir": ("same", "`cache_folder`"),
    "default_activation_function": ("same", "`activation_fn`"),
    "backend": ("same", "see [Backends](backends.md)"),
    "fit": ("differs", "on the Ray cluster; a loader with its own sampler or `collate_fn` raises an error. See [Rerankers](rerankers.md#scripts-that-call-fit)"),
    "predict": ("same", f"positional order as documented; later releases have `inputs, prompt_name, prompt` first. {_OF_POOL}"),
    "rank": ("same", f"positional order as documented; {_OF_POOL}"),
    "save": ("same", "the same as `save_pretrained`"),
    "save_pretrained": ("same", "only safetensors are written"),
    "LambdaLoss": ("same", "the mean is over the pairs of documents of the whole batch, on any number of workers"),
    "RankNetLoss": ("same", "likewise"),
    "MultipleNegativesRankingLoss": ("same", "the draw of negatives follows from the run's seed; other negatives than the peer draws. They come from the worker's rows"),
    "CachedMultipleNegativesRankingLoss": ("same", "likewise"),
    "CrossEncoderClassificationEvaluator": ("same", "unknown options raise an error (peer: ignored)"),
    "CrossEncoderNanoBEIREvaluator": ("same", "`folder` reads datasets from files"),
}  # fmt: skip

_PARTS_OF_TRAINING: Mapping[str, str] = {
    "CrossEncoderTrainer": "the arguments and methods of `SentenceTransformerTrainer`, above",
    "CrossEncoderTrainingArguments": "the fields of `SentenceTransformerTrainingArguments`, above; `prompts` by column raise an error, as pairs have one prompt",
    "CrossEncoderModelCardData": "",
}  # fmt: skip


def sections() -> list[Section]:
    """The model, its training, losses and evaluators."""
    return [_model(), _training(), _losses(), _evaluators()]


def _noted(name: str) -> tuple[str, str]:
    return _NOTES.get(name, ("same", ""))


def _model() -> Section:
    arguments = [Row(name, *_noted(name)) for name in [*CONSTRUCTOR.split(), *LATER.split()]]
    attributes = [Row(f".{name}", "same") for name in ATTRIBUTES.split()]
    later = [Row(f"{name}()", "same", note) for name, note in LATER_METHODS.items()]
    absent = [Row(name, "absent", note) for name, note in ABSENT.items()]
    methods = signatures.rows(signatures.read(METHODS), _NOTES)
    return Section("CrossEncoder", _MODEL, [*arguments, *attributes, *methods, *later, *absent])


def _training() -> Section:
    parts = [Row(name, "same", note) for name, note in _PARTS_OF_TRAINING.items()]
    paths = [Row(name, "same") for name in PARTS.split()]
    collator = Row(
        "CrossEncoderDataCollator", "refused", "a `data_collator` of your own gets rows as dicts of texts"
    )
    return Section("Training of rerankers", _TRAINING, [*parts, collator, *paths])  # fmt: skip


def _losses() -> Section:
    return Section("Losses of rerankers", _LOSSES, signatures.rows(signatures.read(LOSSES), _NOTES))


def _evaluators() -> Section:
    older = [
        Row(f"{name}({', '.join(parameters.split())})", "differs", f"returns the metrics of `{today}`, as in later releases")
        for name, (parameters, today) in OLDER_EVALUATORS.items()
    ]  # fmt: skip
    return Section(
        "Evaluators of rerankers", _EVALUATORS, [*signatures.rows(signatures.read(EVALUATORS), _NOTES), *older]
    )  # fmt: skip


_MODEL = """\
Arguments of the constructor, attributes and methods. The documented names are those of earlier releases; later ones work as
well. Parameters and their defaults, and the members of the peer's class, are compared with the peer in tests. See
[Rerankers](rerankers.md)."""
_TRAINING = (
    "In `ray_st.cross_encoder` and at the root, with examples of module paths that scripts import from."
)
_LOSSES = "In `ray_st.cross_encoder.losses`; values and gradients equal the peer's. [A table](losses.md#losses-of-rerankers) says what each takes."
_EVALUATORS = "In `ray_st.cross_encoder.evaluation`; metrics equal the peer's."
