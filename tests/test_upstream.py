"""What ray_st uses of other packages although it is private, or documented nowhere: one table, held against the
installed releases. An upgrade that changes any of it fails here first, and says where to look.

A row says which parameters a callable has, or of which type a value is. Of an attribute that only objects have it says
that their class declares it or sets it on ``self``, or that a module sets it on objects.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path

import pytest
from transformers import Trainer

import upstream

UPSTREAM: dict[str, dict[str, str]] = {
    "accelerate.state.AcceleratorState": {
        "_reset_state": "(reset_partial_state)",
        "_shared_state": "dict",
    },
    "accelerate.state.GradientState": {
        "_reset_state": "()",
        "_shared_state": "dict",
    },
    "accelerate.state.PartialState": {
        "_shared_state": "dict",
    },
    "accelerate.utils.memory": {
        "clear_device_cache": "(garbage_collection)",
        "should_reduce_batch_size": "(exception)",
    },
    "codecarbon.EmissionsTracker": {
        "_prepare_emissions_data": "()",
    },
    "optuna.terminator.Terminator": {
        "_error_evaluator": "set on self",
    },
    "optuna.trial.Trial": {
        "_trial_id": "set on self",
    },
    "ray._private.ray_constants": {
        "ENABLE_RAY_CLUSTER": "bool",
    },
    "ray._private.state": {
        "actors": "(actor_id, job_id, actor_state_name)",
        "available_resources_per_node": "()",
        "state": "GlobalState",
    },
    "ray._private.state.GlobalState": {
        "get_draining_nodes": "()",
    },
    "ray.actor.ActorHandle": {
        "_actor_id": "property",
    },
    "ray.data._internal.logical.interfaces.LogicalPlan": {
        "dag": "property",
    },
    "ray.data.Dataset": {
        "_logical_plan": "set on self",
    },
    "ray.exceptions.RayActorError": {
        "preempted": "property",
    },
    "ray.train.DataConfig": {
        "configure": "(datasets, world_size, worker_handles, worker_node_ids, **kwargs)",
    },
    "ray.train.torch.TorchTrainer": {
        "fit": "()",
        "_initialize_and_run_controller": "(**controller_init_kwargs)",
        "_register_sigint_handler": "(controller)",
    },
    "ray.train.UserCallback": {
        "after_exception": "(run_context, worker_exceptions)",
    },
    "ray.train.v2._internal.exceptions.UserExceptionWithTraceback": {
        "_base_exc": "set on self",
        "_traceback_str": "set on self",
    },
    "ray.train.v2._internal.exceptions.WorkerHealthCheckFailedError": {
        "health_check_failure": "set on self",
    },
    "ray.train.v2._internal.execution": {
        "context": "module",
    },
    "ray.train.v2._internal.execution.callback": {
        "WorkerCallback": "class",
    },
    "ray.train.v2._internal.execution.callback.WorkerCallback": {
        "after_init_train_context": "()",
    },
    "ray.train.v2._internal.execution.context": {
        "get_train_context": "()",
    },
    "ray.train.v2._internal.execution.context.ExecutionContext": {
        "training_thread_runner": "declared",
    },
    "ray.train.v2._internal.execution.context.TrainContext": {
        "execution_context": "declared",
    },
    "ray.train.v2._internal.execution.scaling_policy": {
        "ElasticScalingPolicy": "class",
        "NoopDecision": "class",
        "ResizeDecision": "class",
        "ScalingDecision": "class",
        "ScalingPolicy": "class",
    },
    "ray.train.v2._internal.execution.scaling_policy.ElasticScalingPolicy": {
        "after_controller_start": "(train_run_context)",
        "make_decision_for_non_running_worker_group": "()",
        "make_decision_for_running_worker_group": "(worker_group_state, worker_group_status)",
        "scaling_config": "set on self",
        "_count_possible_workers": "(reserved_resources)",
    },
    "ray.train.v2._internal.execution.worker_group.thread_runner.ThreadRunner": {
        "get_exception_queue": "()",
    },
    "ray.tune.Callback": {
        "on_trial_error": "(iteration, trials, trial, **info)",
        "on_trial_recover": "(iteration, trials, trial, **info)",
    },
    "ray.tune.schedulers.FIFOScheduler": {
        "choose_trial_to_run": "(tune_controller)",
        "on_trial_result": "(tune_controller, trial, result)",
    },
    "ray.tune.schedulers.PopulationBasedTraining": {
        "_burn_in_period": "set on self",
        "_custom_explore_fn": "set on self",
        "_hyperparam_mutations": "set on self",
        "_metric": "NoneType",
        "_mode": "set on self",
        "_perturbation_factors": "set on self",
        "_perturbation_interval": "set on self",
        "_quantile_fraction": "set on self",
        "_resample_probability": "set on self",
        "_time_attr": "set on self",
    },
    "ray.tune.search.Searcher": {
        "on_trial_complete": "(trial_id, result, error)",
        "on_trial_result": "(trial_id, result)",
        "restore": "(checkpoint_path)",
        "save": "(checkpoint_path)",
        "set_search_properties": "(metric, mode, config, **spec)",
        "suggest": "(trial_id)",
    },
    "ray.tune.Stopper": {
        "stop_all": "()",
        "__call__": "(trial_id, result)",
    },
    "ray.tune.result": {
        "RESULT_DUPLICATE": "str",
    },
    "ray.tune.trainable.FunctionTrainable": {
        "_name": "str",
        "_trainable_func": "(config)",
        "cleanup": "()",
        "setup": "(config)",
    },
    "torch.Tensor": {
        "_backward_hooks": "getset_descriptor",
        "_post_accumulate_grad_hooks": "getset_descriptor",
    },
    "torch._C": {
        "_will_engine_execute_node": "made in C",
    },
    "torch.distributed.Reducer": {
        "_rebuild_buckets": "made in C",
    },
    "torch.distributed._composable.contract": {
        "REGISTRY_KEY": "str",
        "STATE_KEY": "str",
    },
    "torch.distributed._composable_state": {
        "_module_state_mapping": "WeakKeyDictionary",
    },
    "torch.distributed.fsdp._fully_shard._fsdp_param.FSDPParam": {
        "_post_load_hook_handle": "set on self",
    },
    "torch.distributed.fsdp._fully_shard._fsdp_param_group.FSDPParamGroup": {
        "fsdp_params": "set on self",
        "_module_to_pre_load_state_dict_hook_handle": "set on self",
        "_module_to_pre_save_state_dict_hook_handle": "set on self",
        "_register_state_dict_hooks": "()",
    },
    "torch.distributed.fsdp._fully_shard._fsdp_state.FSDPState": {
        "_fsdp_param_groups": "set on self",
        "_post_forward": "(module, input, output)",
        "_post_forward_hook_handle": "set on self",
        "_pre_forward": "(module, args, kwargs)",
        "_pre_forward_hook_handle": "set on self",
    },
    "torch.distributed.fsdp._fully_shard._fully_shard": {
        "_fsdp_use_orig_params": "set on objects",
        "_is_fsdp_managed_module": "set on objects",
    },
    "torch.distributed.fsdp.fully_shard": {
        "state": "(module)",
    },
    "torch.nn.Module": {
        "_buffers": "declared",
        "_modules": "declared",
        "_parameters": "declared",
    },
    "torch.nn.parallel.DistributedDataParallel": {
        "_check_reducer_finalized": "()",
        "require_backward_grad_sync": "set on self",
    },
    "torch.ops.mkldnn": {
        "_linear_pointwise": "(X, W, B, attr, scalars, algorithm)",
    },
    "torch.optim.lr_scheduler": {
        "_opt_called": "set on objects",
        "_wrapped_by_lr_sched": "set on objects",
    },
    "torch.optim.lr_scheduler.LRScheduler": {
        "_last_lr": "set on self",
    },
    "transformers.AutoModel": {
        "_model_mapping": "_LazyAutoMapping",
    },
    "transformers.AutoModelForSequenceClassification": {
        "_model_mapping": "_LazyAutoMapping",
    },
    "transformers.core_model_loading": {
        "_weight_conversions": "set on objects",
    },
    "transformers.dynamic_module_utils": {
        "HF_MODULES_CACHE": "str",
        "custom_object_save": "(obj, folder, config)",
        "get_class_from_dynamic_module": "(class_reference, pretrained_model_name_or_path, cache_dir, force_download, proxies, token, revision, local_files_only, repo_type, code_revision, **kwargs)",
        "init_hf_modules": "()",
    },
    "transformers.integrations.deepspeed": {
        "propagate_args_to_deepspeed": "(accelerator, args, auto_find_batch_size)",
    },
    "transformers.integrations.integration_utils": {
        "default_logdir": "()",
        "get_reporting_integration_callbacks": "(report_to)",
    },
    "transformers.integrations.integration_utils.CodeCarbonCallback": {
        "on_init_end": "(args, state, control, **kwargs)",
        "on_train_end": "(args, state, control, **kwargs)",
        "tracker": "set on self",
        "_codecarbon": "set on self",
    },
    "transformers.integrations.integration_utils.MLflowCallback": {
        "on_log": "(args, state, control, logs, model, **kwargs)",
        "on_train_begin": "(args, state, control, model, **kwargs)",
        "setup": "(args, state, model)",
        "_auto_end_run": "set on self",
        "_initialized": "set on self",
        "_ml_flow": "set on self",
    },
    "transformers.integrations.integration_utils.TensorBoardCallback": {
        "logging_dir": "set on self",
        "tb_writer": "set on self",
        "_SummaryWriter": "set on self",
        "_init_summary_writer": "(args)",
    },
    "transformers.integrations.integration_utils.WandbCallback": {
        "on_log": "(args, state, control, model, logs, **kwargs)",
        "on_predict": "(args, state, control, metrics, **kwargs)",
        "on_train_begin": "(args, state, control, model, **kwargs)",
        "_initialized": "set on self",
        "_wandb": "set on self",
    },
    "transformers.integrations.neftune": {
        "neftune_post_forward_hook": "(module, input, output)",
    },
    "transformers.integrations.sdpa_attention": {
        "sdpa_attention_forward": "(module, query, key, value, attention_mask, dropout, scaling, is_causal, position_bias, cache, **kwargs)",
    },
    "transformers.masking_utils": {
        "sdpa_mask": "(batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask, local_size, allow_is_causal_skip, allow_is_bidirectional_skip, use_vmap, device, **kwargs)",
    },
    "transformers.PreTrainedConfig": {
        "_attn_implementation": "property",
        "_name_or_path": "set on self",
    },
    "transformers.PreTrainedModel": {
        "_hf_peft_config_loaded": "bool",
        "_no_split_modules": "NoneType",
        "_supports_sdpa": "bool",
        "_tied_weights_keys": "NoneType",
    },
    "transformers.Trainer": {
        "accelerator": "set on self",
        "call_model_init": "(trial)",
        "callback_handler": "set on self",
        "compute_loss": "(model, inputs, return_outputs, num_items_in_batch)",
        "compute_loss_context_manager": "()",
        "create_model_card": "(language, license, tags, model_name, finetuned_from, tasks, dataset_tags, dataset, dataset_args)",
        "create_optimizer": "(model)",
        "create_scheduler": "(num_training_steps, optimizer)",
        "current_gradient_accumulation_steps": "set on self",
        "evaluate": "(eval_dataset, ignore_keys, metric_key_prefix)",
        "evaluation_loop": "(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)",
        "get_batch_samples": "(epoch_iterator, num_batches, device)",
        "get_decay_parameter_names": "(model)",
        "get_eval_dataloader": "(eval_dataset)",
        "get_learning_rates": "()",
        "get_num_trainable_parameters": "()",
        "get_optimizer_cls_and_kwargs": "(args, model)",
        "get_optimizer_group": "(param)",
        "get_test_dataloader": "(test_dataset)",
        "get_train_dataloader": "()",
        "hyperparameter_search": "(hp_space, compute_objective, n_trials, direction, backend, hp_name, **kwargs)",
        "init_hf_repo": "(token, private)",
        "is_deepspeed_enabled": "set on self",
        "is_in_train": "set on self",
        "log": "(logs, start_time)",
        "model_wrapped": "set on self",
        "neftune_noise_alpha": "set on self",
        "optimizer_cls_and_kwargs": "set on self",
        "predict": "(test_dataset, ignore_keys, metric_key_prefix)",
        "push_to_hub": "(commit_message, blocking, token, revision, private, **kwargs)",
        "save_model": "(output_dir, _internal_call)",
        "save_state": "()",
        "store_flos": "()",
        "train": "(resume_from_checkpoint, trial, ignore_keys_for_eval)",
        "training_step": "(model, inputs, num_items_in_batch)",
        "_determine_best_metric": "(metrics, trial)",
        "_evaluate": "(trial, ignore_keys_for_eval, skip_scheduler)",
        "_finalize_training": "(trial, num_train_samples, start_time)",
        "_finish_current_push": "()",
        "_get_grad_norm": "(model, grad_norm)",
        "_get_learning_rate": "()",
        "_globalstep_last_logged": "set on self",
        "_init_training_state": "(max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial)",
        "_initial_global_step": "set on self",
        "_load_best_model": "()",
        "_load_callback_state": "()",
        "_load_from_checkpoint": "(resume_from_checkpoint, model)",
        "_load_optimizer_and_scheduler": "(checkpoint)",
        "_load_rng_state": "(checkpoint)",
        "_maybe_log_save_evaluate": "(tr_loss, grad_norm, model, trial, epoch, ignore_keys_for_eval, start_time, learning_rate)",
        "_move_model_to_device": "(model, device)",
        "_prepare_input": "(data)",
        "_prepare_inputs": "(inputs)",
        "_report_to_hp_search": "(trial, step, metrics)",
        "_run_epoch": "(model, epoch, train_dataloader, steps_in_epoch, num_update_steps_per_epoch, trial, ignore_keys_for_eval, start_time, resume_from_checkpoint, epochs_trained, steps_trained_in_current_epoch)",
        "_save": "(output_dir, state_dict)",
        "_save_checkpoint": "(model, trial)",
        "_total_loss_scalar": "set on self",
        "_tr_loss": "set on self",
        "_track_num_input_tokens": "(inputs)",
        "_wrap_model": "(model, training, dataloader)",
    },
    "transformers.trainer": {
        "OPTIMIZER_NAME": "str",
        "SCALER_NAME": "str",
        "SCHEDULER_NAME": "str",
        "TRAINER_STATE_NAME": "str",
    },
    "transformers.trainer_callback": {
        "ExportableState": "class",
    },
    "transformers.trainer_callback.CallbackHandler": {
        "call_event": "(event, args, state, control, **kwargs)",
    },
    "transformers.trainer_pt_utils": {
        "safe_globals": "()",
    },
    "transformers.trainer_utils": {
        "default_compute_objective": "(metrics)",
        "number_of_arguments": "(func)",
    },
    "transformers.TrainingArguments": {
        "get_warmup_steps": "(num_training_steps)",
        "set_dataloader": "(train_batch_size, eval_batch_size, drop_last, num_workers, pin_memory, persistent_workers, prefetch_factor, multiprocessing_context, in_order, auto_find_batch_size, ignore_data_skip, sampler_seed)",
        "set_evaluate": "(strategy, steps, batch_size, accumulation_steps, delay, loss_only)",
        "set_lr_scheduler": "(name, num_epochs, max_steps, warmup_steps)",
        "set_testing": "(batch_size, loss_only)",
        "set_training": "(learning_rate, batch_size, weight_decay, num_epochs, max_steps, gradient_accumulation_steps, seed, activation_checkpointing, gradient_checkpointing)",
        "to_dict": "()",
        "_VALID_DICT_FIELDS": "list",
        "_n_gpu": "set on self",
        "_setup_devices": "cached_property",
    },
    "transformers.utils.hub": {
        "hf_api": "()",
    },
}


PACKAGE = Path(__file__).parents[1] / "ray_st"
SOURCES = {str(path.relative_to(PACKAGE.parent)): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
ROWS = [(f"{owner}.{name}", kind) for owner, names in UPSTREAM.items() for name, kind in names.items()]
INSTALLED = [row for row in ROWS if importlib.util.find_spec(row[0].partition(".")[0])]


WORDS = {file: set(re.findall(r"\w+", source)) for file, source in SOURCES.items()}


def users(name: str) -> str:
    """The files of ours that use a name."""
    return ", ".join(file for file, words in WORDS.items() if name in words)


@pytest.mark.parametrize(("path", "kind"), INSTALLED, ids=[path for path, _ in INSTALLED])
def test_upstream_is_as_ray_st_knows_it(path: str, kind: str) -> None:
    owner, _, name = path.rpartition(".")
    found = upstream.describe(path)
    assert found == kind, (
        f"{path} was {kind} and is now {found}. See whether what uses it still holds: {users(name)}; "
        f"then change the row {name!r} of {owner!r} in UPSTREAM."
    )


def test_every_row_is_used() -> None:
    unused = [path for path, _ in ROWS if not users(path.rpartition(".")[2])]
    assert not unused, f"nothing in ray_st uses these rows of UPSTREAM, take them out: {', '.join(unused)}"


# ---- what ray_st uses has a row ----


def faults(sources: upstream.Sources) -> list[str]:
    """Where the sources use what is private to others and has no row."""
    names = {path.rpartition(".")[2] for path, _ in ROWS}
    found = [place for place, name in upstream.foreign_attributes(sources) if name not in names]
    found += [place for place, path in upstream.foreign_imports(sources) if not has_row(path)]
    found += [place for place, _, _ in upstream.overrides(sources, needs_row)]
    return sorted(found)


def has_row(path: str) -> bool:
    return any(known == path or known.startswith(f"{path}.") for known, _ in ROWS)


def needs_row(base: type, name: str) -> bool:
    """Whether it is private, or the trainer's, and no row names it for that class or one that it inherits from."""
    if name.startswith("__") or not (upstream.is_private(name) or issubclass(base, Trainer)):
        return False
    return not any(name in UPSTREAM[path] for path, owner in owners().items() if issubclass(base, owner))


@functools.cache
def owners() -> dict[str, type]:
    """The table's classes."""
    paths = {path.rpartition(".")[0] for path, _ in INSTALLED}
    return {path: upstream.find(path) for path in paths if upstream.describe(path) == "class"}


def test_what_is_private_to_others_has_a_row() -> None:
    found = faults(SOURCES)
    assert not found, "\n".join(
        ["ray_st uses what UPSTREAM does not name; add a row, or do without:", *found]
    )


LOOP = """
from transformers import Trainer

class Loop(Trainer):
    mine = _own = 1

    def _save_checkpoint(self, model, trial): ...
    def _run_epoch(self): ...
    def floating_point_ops(self, inputs): ...
    def _of_ours(self): ...
"""
USES = """
import sys
import ray._private.services
from ray.train.v2._internal.execution import context
from ray_st.loop import Loop

class Other(Loop):
    def _inner_training_loop(self): self._own

class Mixin:
    def _hp_search_setup(self): ...
    def log(self): ...

class AtRunTime(kind):
    def _hp_search_setup(self): ...
    def _of_ours(self): ...

sys._getframe(), ray._unknown, getattr(ray, "_named"), ray._base_exc
"""


def test_a_use_without_a_row_is_found() -> None:
    found = {fault.partition(": ")[2] for fault in faults({"loop.py": LOOP, "uses.py": USES})}
    assert found == {
        "Loop.floating_point_ops of Trainer",
        "ray._named",
        "ray._unknown",
        "ray._private.services",
        "Other._inner_training_loop of Trainer",
        "Mixin._hp_search_setup of Trainer",
        "AtRunTime._hp_search_setup of Trainer",
    }


def test_what_others_have_is_described() -> None:
    assert upstream.describe("transformers.Trainer._save_checkpoint") == "(model, trial)"
    assert upstream.describe("transformers.Trainer._tr_loss") == "set on self"
    assert upstream.describe("transformers.Trainer._gone") == upstream.MISSING
    assert upstream.describe("transformers.gone._gone") == upstream.MISSING
    assert upstream.describe("torch.optim.lr_scheduler._opt_called") == "set on objects"
