"""The trainer: arguments of its constructor, attributes and methods of the page."""

from __future__ import annotations

import inspect

from compatibility import signatures
from compatibility.table import Row, Section
from ray_st import SentenceTransformerTrainer

CONSTRUCTOR = """\
model args train_dataset eval_dataset loss evaluator data_collator tokenizer model_init compute_metrics callbacks
optimizers preprocess_logits_for_metrics
"""
"""Arguments of the page's constructor, in its order."""

ATTRIBUTES = "model model_wrapped is_model_parallel place_model_on_device is_in_train"

METHODS = """\
add_callback(callback)
add_model_card_callback(default_args_dict)
add_prompts_or_dataset_name_transform(batch, prompts, prompt_lengths, dataset_name, transform, **kwargs)
compute_loss(model, inputs, return_outputs, num_items_in_batch)
create_model_card(language, license, tags, model_name, finetuned_from, tasks, dataset_tags, dataset, dataset_args, **kwargs)
create_optimizer()
create_optimizer_and_scheduler(num_training_steps)
create_scheduler(num_training_steps, optimizer)
evaluate(eval_dataset, ignore_keys, metric_key_prefix)
get_batch_sampler(dataset, batch_size, drop_last, valid_label_columns, generator)
get_eval_dataloader(eval_dataset)
get_learning_rates()
get_multi_dataset_batch_sampler(dataset, batch_samplers, generator, seed)
get_num_trainable_parameters()
get_optimizer_group(param)
get_test_dataloader(test_dataset)
get_train_dataloader()
hyperparameter_search(hp_space, compute_objective, n_trials, direction, backend, hp_name, **kwargs)
is_local_process_zero()
is_world_process_zero()
log(logs)
maybe_add_prompts_or_dataset_name_column(dataset_dict, prompts, dataset_name)
pop_callback(callback)
propagate_args_to_deepspeed(auto_find_batch_size)
push_to_hub(commit_message, blocking, token, **kwargs)
remove_callback(callback)
save_model(output_dir, _internal_call)
train(resume_from_checkpoint, trial, ignore_keys_for_eval)
"""
"""The page's methods, with their parameters."""

_ON_THE_WORKER = "works in a callback or an overridden method, on the workers, where the optimizer is; raises an error on the driver"
_DATASETS = "also Ray Datasets, files, tables, queries, streams, rows, columns; and dicts of them"

NOTES = {
    "train_dataset": ("same", _DATASETS),
    "eval_dataset": ("same", _DATASETS),
    "data_collator": (
        "same",
        "receives rows as dicts of texts; runs on the workers, one step ahead of training. Without one, `inputs` also "
        "hold `COLUMN_token_lengths`, `COLUMN_padding_side` and `COLUMN_pad_id`, which stay on the CPU",
    ),
    "tokenizer": ("same", "replaces the model's"),
    "model_init": ("same", "a loss given as a module is copied for each model"),
    "compute_metrics": (
        "same",
        "called with the embeddings of each text column; on every worker, with the rows of all",
    ),
    "callbacks": ("same", "they run on the workers; their attributes come back"),
    "optimizers": ("same", "created on the driver, they act on the workers' model"),
    "preprocess_logits_for_metrics": ("same", "receives the tuple of a batch's embeddings"),
    "model_wrapped": ("same", "on a worker the wrapped model and losses; elsewhere the model"),
    "is_model_parallel": ("same", "always `False`"),
    "add_model_card_callback": ("differs", "records runs in the card, without a callback; can be overridden likewise"),
    "compute_loss": ("same", "an override takes effect on every worker, as for all of these"),
    "create_model_card": ("same", "`dataset_args` is not needed: the card determines the facts of the data itself"),
    "create_optimizer": ("same", "called on the workers"),
    "create_optimizer_and_scheduler": ("differs", "overriding it has no effect, as with the current transformers, which calls the other two"),
    "create_scheduler": ("same", "called on the workers"),
    "evaluate": ("same", "on the cluster; `ignore_keys` is not needed, as models return embeddings"),
    "get_batch_sampler": ("same", "`batch_size` is that of all workers; called on the driver, or near the data"),
    "get_multi_dataset_batch_sampler": ("same", "called where `get_batch_sampler` is"),
    "get_eval_dataloader": ("same", "on a worker its share of each batch; the dataset is given by name"),
    "get_test_dataloader": ("same", "likewise"),
    "get_train_dataloader": ("same", "on a worker its share of each batch"),
    "get_learning_rates": ("differs", _ON_THE_WORKER),
    "get_optimizer_group": ("differs", _ON_THE_WORKER),
    "hyperparameter_search": ("differs", "with Ray Tune by default, `optuna` one trial at a time by default; see below"),
    "propagate_args_to_deepspeed": ("differs", "raises an error without DeepSpeed and on the driver"),
    "push_to_hub": ("same", "returns huggingface_hub's description of the commit"),
    "save_model": ("same", "the first worker saves"),
    "train": ("differs", "on the cluster; keyword arguments of releases before transformers 4 raise an error"),
}  # fmt: skip


def sections() -> list[Section]:
    """The constructor's arguments, the attributes, the methods."""
    new = [
        name
        for name in inspect.signature(SentenceTransformerTrainer).parameters
        if name not in CONSTRUCTOR.split()
    ]
    arguments = [Row(name, *NOTES.get(name, ("same", ""))) for name in CONSTRUCTOR.split()]
    newer = [Row(name, "new", _NEW[name]) for name in new]
    attributes = [Row(name, *NOTES.get(name, ("same", ""))) for name in ATTRIBUTES.split()]
    return [
        Section("Trainer: arguments", "Of `SentenceTransformerTrainer`, in the documented order.", arguments + newer),
        Section("Trainer: attributes", "On the driver and on workers.", attributes),
        Section("Trainer: methods", _METHODS, signatures.rows(signatures.read(METHODS), NOTES)),
    ]  # fmt: skip


_NEW = {
    "processing_class": "the later name of `tokenizer`",
    "scaling_config": "Ray Train's: number and kind of workers; with `num_workers=(1, 4)` the number [follows the cluster](trainer.md#a-number-of-workers-that-changes)",
    "run_config": "Ray Train's: name, storage, failures",
    "optimizer_cls_and_kwargs": "class of the optimizer and its arguments, as in the current transformers",
}
_METHODS = "Overridden methods take effect on every worker. See [Trainer](trainer.md)."
