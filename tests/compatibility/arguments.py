"""Training arguments: fields, properties and methods of the page, and what is new."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from typing import Any

from transformers import TrainingArguments

from compatibility.table import Row, Section
from ray_st.training.argument_checks import UNSUPPORTED
from ray_st.training_args import SentenceTransformerTrainingArguments
from ray_st.training_args.dropped import EFFECTS
from ray_st.training_args.effects import Unused, default_of
from ray_st.training_args.idle import IDLE

FIELDS = """\
output_dir=required overwrite_output_dir=False do_train=False do_eval=False do_predict=False
eval_strategy='no' prediction_loss_only=False per_device_train_batch_size=8 per_device_eval_batch_size=8
per_gpu_train_batch_size=None per_gpu_eval_batch_size=None gradient_accumulation_steps=1
eval_accumulation_steps=None eval_delay=0 torch_empty_cache_steps=None learning_rate=5e-05 weight_decay=0.0
adam_beta1=0.9 adam_beta2=0.999 adam_epsilon=1e-08 max_grad_norm=1.0 num_train_epochs=3.0 max_steps=-1
lr_scheduler_type='linear' lr_scheduler_kwargs=None warmup_ratio=0.0 warmup_steps=0 log_level='passive'
log_level_replica='warning' log_on_each_node=True logging_dir=None logging_strategy='steps'
logging_first_step=False logging_steps=500 logging_nan_inf_filter=True save_strategy='steps' save_steps=500
save_total_limit=None save_safetensors=True save_on_each_node=False save_only_model=False
restore_callback_states_from_checkpoint=False no_cuda=False use_cpu=False use_mps_device=False seed=42
data_seed=None jit_mode_eval=False use_ipex=False bf16=False fp16=False fp16_opt_level='O1'
half_precision_backend='auto' bf16_full_eval=False fp16_full_eval=False tf32=None local_rank=-1
ddp_backend=None tpu_num_cores=None tpu_metrics_debug=False debug='' dataloader_drop_last=False
eval_steps=None dataloader_num_workers=0 dataloader_prefetch_factor=None past_index=-1 run_name=None
disable_tqdm=None remove_unused_columns=True label_names=None load_best_model_at_end=False
metric_for_best_model=None greater_is_better=None ignore_data_skip=False fsdp='' fsdp_min_num_params=0
fsdp_config=None fsdp_transformer_layer_cls_to_wrap=None accelerator_config=None deepspeed=None
label_smoothing_factor=0.0 optim='adamw_torch' optim_args=None adafactor=False group_by_length=False
length_column_name='length' report_to=None ddp_find_unused_parameters=None ddp_bucket_cap_mb=None
ddp_broadcast_buffers=None dataloader_pin_memory=True dataloader_persistent_workers=False
skip_memory_metrics=True use_legacy_prediction_loop=False push_to_hub=False resume_from_checkpoint=None
hub_model_id=None hub_strategy='every_save' hub_token=None hub_private_repo=False hub_always_push=False
gradient_checkpointing=False gradient_checkpointing_kwargs=None include_inputs_for_metrics=False
eval_do_concat_batches=True fp16_backend='auto' evaluation_strategy=None push_to_hub_model_id=None
push_to_hub_organization=None push_to_hub_token=None mp_parameters='' auto_find_batch_size=False
full_determinism=False torchdynamo=None ray_scope='last' ddp_timeout=1800 torch_compile=False
torch_compile_backend=None torch_compile_mode=None dispatch_batches=None split_batches=None
include_tokens_per_second=False include_num_input_tokens_seen=False neftune_noise_alpha=None
optim_target_modules=None batch_eval_metrics=False eval_on_start=False eval_use_gather_object=False
prompts=None batch_sampler='batch_sampler' multi_dataset_batch_sampler='proportional'
"""
"""The page's arguments with their defaults."""

MEMBERS = """\
ddp_timeout_delta device eval_batch_size get_process_log_level get_warmup_steps local_process_index main_process_first
n_gpu parallel_mode place_model_on_device process_index set_dataloader set_evaluate set_logging set_lr_scheduler
set_optimizer set_push_to_hub set_save set_testing set_training should_log should_save to_dict to_json_string
to_sanitized_dict train_batch_size world_size
"""
"""The page's properties and methods."""

# Written otherwise today, with the same meaning.
_SAME_DEFAULT = {"output_dir", "fsdp", "gradient_checkpointing", "include_num_input_tokens_seen"}

_ON_THE_WORKER = "must be supported by the workers' GPU, not by the driver's"
_WHOLE = "rows on each worker; `global_train_batch_size` sets the batch of all workers instead"
_NOTES: dict[str, tuple[str, str]] = {
    "output_dir": ("differs", "not required: `trainer_output` by default"),
    "per_device_train_batch_size": ("same", _WHOLE),
    "dataloader_drop_last": ("differs", "drops an epoch's last global batch if it is not full"),
    "seed": ("same", "the order of samples depends on it alone, not on the number of workers"),
    "optim": ("differs", "default `adamw_torch_fused`: the same algorithm in one kernel (page: `adamw_torch`)"),
    "hub_private_repo": ("differs", "default `None`: public, unless the organization's default is private (page: `False`)"),
    "report_to": ("same", "by default all integrations that are installed on the driver"),
    "prediction_loss_only": ("same", "`compute_metrics` is not called then"),
    "batch_eval_metrics": ("same", "a batch is the one of all workers"),
    "eval_do_concat_batches": ("same", "with `False` a list with one entry per batch of all workers"),
    "include_inputs_for_metrics": ("same", "token ids of each text column, padded with -100; `include_for_metrics` takes `loss`, too"),
    "include_num_input_tokens_seen": ("same", "over all text columns and workers"),
    "auto_find_batch_size": ("differs", "the run restarts with half the batch size; inside a worker of your own it raises an error"),
    "fsdp": ("same", "FSDP2, on two or more workers; `torch_compile`, `fp16` and untested optimizers raise an error"),
    "fsdp_config": ("differs", "unsupported keys raise an error; without `fsdp` it is ignored with a warning"),
    "fsdp_min_num_params": ("same", "sets `fsdp_config`; without `fsdp` it is ignored with a warning"),
    "fsdp_transformer_layer_cls_to_wrap": ("same", "sets `fsdp_config`; without `fsdp` it is ignored with a warning"),
    "deepspeed": ("differs", "passed through, but not covered by tests: ZeRO stages 0 to 2, with `save_only_model=True`; such runs cannot be resumed"),
    "accelerator_config": ("differs", "`split_batches` and `gradient_accumulation_kwargs` are used; settings of accelerate's loaders are ignored with a warning"),
    "ddp_backend": ("same", "of Ray Train's process group"),
    "ddp_timeout": ("same", "of Ray Train's process group"),
    "ddp_find_unused_parameters": ("differs", "default off; weights of a loss may be unused, but an unused weight of the model ends the run with an error that names it"),
    "torch_compile": ("same", "compiles the encoder, on the workers"),
    "torchdynamo": ("same", "becomes `torch_compile_backend`"),
    "neftune_noise_alpha": ("same", "raises an error if the model has no token embeddings"),
    "push_to_hub": ("same", "the first worker pushes checkpoints; a failed push is logged, and training continues"),
    "hub_strategy": ("same", ""),
    "hub_token": ("same", "written to no file, card or log"),
    "resume_from_checkpoint": ("same", "only for scripts to read, as in transformers; `train(resume_from_checkpoint=…)` resumes"),
    "save_total_limit": ("same", "the best checkpoint is kept in addition"),
    "full_determinism": ("same", "on the workers"),
    "bf16": ("same", _ON_THE_WORKER),
    "fp16": ("same", _ON_THE_WORKER),
    "tf32": ("same", _ON_THE_WORKER),
    "use_cpu": ("same", "workers without a GPU always use the CPU"),
    "split_batches": ("same", "sets `accelerator_config`; `per_device_train_batch_size` is then the batch of all workers"),
    "gradient_accumulation_steps": ("differs", "unequal batches of a step are weighted by their rows"),
    "gradient_checkpointing": ("same", "transformers calls it `activation_checkpointing`, which is accepted too; a warning names models that do not support it"),
    "gradient_checkpointing_kwargs": ("same", "also `activation_checkpointing_kwargs`; `use_reentrant=True` with cached losses raises an error on several workers"),
    "device": ("differs", "always the CPU on the driver; the actual device on a worker"),
    "n_gpu": ("differs", "always 0 on the driver; the actual number on a worker"),
    "parallel_mode": ("same", "`NOT_PARALLEL` on the driver"),
    "world_size": ("same", "1 on the driver"),
    "process_index": ("same", "0 on the driver"),
    "place_model_on_device": ("differs", "`None`, which means that the trainer decides"),
    "train_batch_size": ("same", "on a worker its share of `global_train_batch_size`, if set"),
    "set_evaluate": ("same", "`jit_mode` is ignored with a warning"),
    "set_testing": ("same", "`jit_mode` is ignored with a warning"),
    "set_dataloader": ("same", "settings that the workers ignore are ignored here too"),
    "to_dict": ("same", "secrets inside nested settings are hidden too; callables are written by name"),
}  # fmt: skip


def page_fields() -> dict[str, Any]:
    """The page's arguments and their defaults."""
    pairs = (pair.partition("=") for pair in FIELDS.split())
    return {
        name: "required" if default == "required" else ast.literal_eval(default) for name, _, default in pairs
    }


def sections() -> list[Section]:
    """Arguments of the page, its properties and methods, and arguments that are new."""
    fields = page_fields()
    return [
        Section("Training arguments", _ARGUMENTS, [_field_row(name) for name in fields]),
        Section(
            "Properties and methods of the arguments",
            _MEMBERS,
            [_member_row(name) for name in MEMBERS.split()],
        ),
        Section("New arguments", _newer(fields), list(_new_rows())),
    ]


_ARGUMENTS = """\
Fields of `SentenceTransformerTrainingArguments`, by keyword or as a flag of `HfArgumentParser`. Those that transformers
dropped are accepted; giving an older name and its current one with different values raises an error."""
_MEMBERS = "They have their actual values on a worker; the driver, which uses no device, is one process without a GPU."


def _field_row(name: str) -> Row:
    effect = EFFECTS.get(name) or IDLE.get(name)
    state, note = _NOTES.get(name, ("same", effect.note() if effect else ""))
    if name in UNSUPPORTED:
        return Row(name, "refused", UNSUPPORTED[name])
    if isinstance(effect, Unused):
        today = ", ".join(f"`{value!r}`" for value in effect.today if value is not None)
        return Row(name, "no effect", effect.note() + (f" ({today}: always done)" if today else ""))
    return Row(name, state, note)


def _member_row(name: str) -> Row:
    return Row(name, *_NOTES.get(name, ("same", "")))


def _new_rows() -> list[Row]:
    theirs = {field.name for field in dataclasses.fields(TrainingArguments)} | set(page_fields())
    ours = [field.name for field in dataclasses.fields(SentenceTransformerTrainingArguments)]
    return [Row(name, "new", _documented(name)) for name in ours if name not in theirs]


def _documented(name: str) -> str:
    """The first sentence of an argument's entry in the docstring."""
    text = inspect.cleandoc(SentenceTransformerTrainingArguments.__doc__ or "")
    entry = re.search(rf"^ +{name}: (.*?)(?=^ +\w+: |\Z)", text, re.S | re.M)
    assert entry is not None, f"{name} is not in the docstring"
    return re.split(r"(?<=[.;]) ", " ".join(entry[1].split()))[0].rstrip(".;:").replace("``", "`")


def _newer(fields: dict[str, Any]) -> str:
    names = ", ".join(f"`{name}`" for name in sorted(set(IDLE) - set(fields)))
    return (
        "New in ray_st. Arguments that transformers added since the page was written are accepted as documented there; of these, "
        f"{names} are ignored with a warning."
    )


def changed_defaults() -> set[str]:
    """Names whose default means something else than the page's."""
    ours = SentenceTransformerTrainingArguments
    return {
        name
        for name, default in page_fields().items()
        if name not in _SAME_DEFAULT and default_of(ours, name) != default
    }
