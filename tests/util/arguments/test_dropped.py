"""Each argument that transformers dropped is accepted; its old effect, or a warning that names it, is there."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import pytest
from transformers import HfArgumentParser

from ray_st.training_args import SentenceTransformerTrainingArguments
from ray_st.training_args.dropped import EFFECTS
from ray_st.training_args.effects import Becomes, Unused
from ray_st.training_args.idle import IDLE

# fmt: off
DROPPED = {
    "overwrite_output_dir", "per_gpu_train_batch_size", "per_gpu_eval_batch_size", "warmup_ratio", "logging_dir",
    "save_safetensors", "no_cuda", "use_mps_device", "jit_mode_eval", "use_ipex", "fp16_opt_level",
    "half_precision_backend", "tpu_num_cores", "tpu_metrics_debug", "past_index", "fsdp_min_num_params",
    "fsdp_transformer_layer_cls_to_wrap", "adafactor", "group_by_length", "use_legacy_prediction_loop",
    "include_inputs_for_metrics", "fp16_backend", "evaluation_strategy", "push_to_hub_model_id",
    "push_to_hub_organization", "push_to_hub_token", "mp_parameters", "torchdynamo", "ray_scope", "dispatch_batches",
    "split_batches", "include_tokens_per_second",
}
# fmt: on


def make(**given: Any) -> Any:
    return SentenceTransformerTrainingArguments(output_dir="runs/mine", **given)


def test_the_table_is_complete() -> None:
    assert set(EFFECTS) == DROPPED


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({"per_gpu_train_batch_size": 4}, {"per_device_train_batch_size": 4, "train_batch_size": 4}),
        ({"per_gpu_eval_batch_size": 4}, {"per_device_eval_batch_size": 4, "eval_batch_size": 4}),
        ({"evaluation_strategy": "steps"}, {"eval_strategy": "steps", "do_eval": True, "eval_steps": 500}),
        ({"no_cuda": True}, {"use_cpu": True}),
        ({"adafactor": True}, {"optim": "adafactor"}),
        ({"group_by_length": True}, {"train_sampling_strategy": "group_by_length", "groups_by_length": True}),
        ({"include_inputs_for_metrics": True}, {"include_for_metrics": ["inputs"]}),
        ({"include_tokens_per_second": True}, {"include_num_input_tokens_seen": "all"}),
        (
            {"include_tokens_per_second": True, "include_num_input_tokens_seen": "non_padding"},
            {"include_num_input_tokens_seen": "non_padding"},
        ),
        ({"push_to_hub_model_id": "a/b", "push_to_hub_token": "hf_x"}, {"hub_model_id": "a/b", "hub_token": "hf_x"}),
        ({"push_to_hub_model_id": "b", "push_to_hub_organization": "a"}, {"hub_model_id": "a/b"}),
        ({"push_to_hub_organization": "a"}, {"hub_model_id": "a/mine"}),
        ({"torchdynamo": "eager"}, {"torch_compile": True, "torch_compile_backend": "eager"}),
        ({"overwrite_output_dir": True}, {"overwrite_output_dir": True}),
        ({"logging_dir": "logs"}, {"logging_dir": str(Path("logs").absolute())}),
        ({"logging_dir": "s3://bucket/logs"}, {"logging_dir": "s3://bucket/logs"}),
        ({"half_precision_backend": "cuda_amp", "fp16_backend": "amp", "dispatch_batches": False}, {}),
        ({"gradient_checkpointing": True}, {"activation_checkpointing": True, "gradient_checkpointing": True}),
        ({"eval_delay": None}, {"eval_delay": 0}),
    ],
)  # fmt: skip
def test_old_effects(given: dict[str, Any], seen: dict[str, Any]) -> None:
    args = make(**given)
    assert {name: getattr(args, name) for name in seen} == seen
    again = dataclasses.replace(args, seed=7)
    assert {name: getattr(again, name) for name in seen} == seen


def test_effects_on_configurations(tmp_path: Path) -> None:
    (tmp_path / "fsdp.json").write_text('{"version": 2}')
    args = make(
        fsdp=True, fsdp_config=str(tmp_path / "fsdp.json"), fsdp_transformer_layer_cls_to_wrap="BertLayer"
    )
    assert args.fsdp_config["transformer_layer_cls_to_wrap"] == ["BertLayer"]
    args = make(fsdp=True, fsdp_min_num_params=1000)
    assert (args.fsdp_config["min_num_params"], args.fsdp_config["auto_wrap_policy"]) == (
        1000,
        "SIZE_BASED_WRAP",
    )
    assert make(tpu_metrics_debug=True).debug[0].value == "tpu_metrics_debug"
    with pytest.warns(UserWarning, match="no effect without fsdp=True"):
        make(fsdp_min_num_params=1000)


def test_split_batches_are_the_batches_of_all_workers() -> None:
    args = make(split_batches=True, per_device_train_batch_size=12)
    assert args.accelerator_config.split_batches
    assert args.global_batch_sizes(4, [""]) == {"": 12}
    assert make(per_device_train_batch_size=12).global_batch_sizes(4, [""]) == {"": 48}


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({"warmup_ratio": 0.1}, 10),
        ({"warmup_ratio": 0.101}, 11),
        ({"warmup_ratio": 0.1, "warmup_steps": 7}, 7),
        ({"warmup_steps": 0.2}, 20),
        ({}, 0),
    ],
)
def test_warmup(given: dict[str, Any], steps: int) -> None:
    args = make(**given)
    assert args.get_warmup_steps(100) == steps
    assert dataclasses.replace(args, warmup_steps=0, warmup_ratio=0.5).get_warmup_steps(100) == 50


OTHER: dict[str, Any] = {
    "save_safetensors": False, "use_mps_device": True, "jit_mode_eval": True, "use_ipex": True, "fp16_opt_level": "O2",
    "half_precision_backend": "apex", "fp16_backend": "apex", "tpu_num_cores": 8, "past_index": 2,
    "use_legacy_prediction_loop": True, "mp_parameters": "x=1", "dispatch_batches": True,
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name, effect in EFFECTS.items() if isinstance(effect, Unused)])
def test_what_nothing_does_any_more_is_said(name: str) -> None:
    with pytest.warns(UserWarning, match=rf"{name}=.* has no effect: .*[;,] ") as caught:
        args = make(**{name: OTHER[name]})
    assert caught[0].filename == __file__
    assert getattr(args, name) == OTHER[name]


TODAYS: dict[str, Any] = {
    "dataloader_num_workers": 2, "dataloader_prefetch_factor": 2, "dataloader_persistent_workers": True,
    "dataloader_multiprocessing_context": "spawn", "dataloader_in_order": False, "remove_unused_columns": False,
    "label_names": ["score"], "label_smoothing_factor": 0.1, "length_column_name": "size",
    "train_sampling_strategy": "sequential", "save_on_each_node": True, "local_rank": 1, "eval_accumulation_steps": 4,
    "eval_use_gather_object": True, "logging_nan_inf_filter": False, "average_tokens_across_devices": False,
}  # fmt: skip


FIELDS = {field.name for field in dataclasses.fields(SentenceTransformerTrainingArguments)}


@pytest.mark.parametrize("name", [name for name in IDLE if name in FIELDS])
def test_what_something_else_does_is_said(name: str) -> None:
    others = {"dataloader_num_workers": 2} if name == "dataloader_prefetch_factor" else {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        args = make(**{name: TODAYS[name], **others})
    assert f"{name}={TODAYS[name]!r} has no effect: " in str(caught[-1].message)
    assert caught[-1].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once, not on every worker
        args.settle("out")


def test_settings_of_loaders_that_are_not_used() -> None:
    config = {"even_batches": False, "non_blocking": True, "split_batches": True}
    with pytest.warns(UserWarning, match=r"\['even_batches', 'non_blocking'\] have no effect") as caught:
        make(accelerator_config=config)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    "given",
    [
        {"evaluation_strategy": "epoch", "eval_strategy": "steps"},
        {"per_gpu_train_batch_size": 4, "per_device_train_batch_size": 16},
        {"adafactor": True, "optim": "sgd"},
        {"torchdynamo": "eager", "torch_compile_backend": "inductor"},
        {"push_to_hub_organization": "a", "hub_model_id": "b/c"},
        {"split_batches": True, "accelerator_config": {"split_batches": True, "bad": 1}},
        {"fsdp": True, "fsdp_min_num_params": 4, "fsdp_config": {"min_num_params": 5}},
    ],
)
def test_contradictions(given: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=r"contradict|Give one|bad"):
        make(**given)


def test_a_contradiction_of_tokens_shows_none() -> None:
    with pytest.raises(ValueError, match="contradict") as caught:
        make(push_to_hub_token="hf_old", hub_token="hf_new")
    assert "hf_" not in str(caught.value)


def test_old_and_new_may_agree() -> None:
    assert make(evaluation_strategy="epoch", eval_strategy="epoch").eval_strategy == "epoch"


def flags(name: str) -> list[str]:
    default = SentenceTransformerTrainingArguments.__dataclass_fields__[name].default
    if isinstance(default, bool) and name != "save_safetensors":
        return [f"--{name}"]
    value = {int: "3", float: "0.5"}.get(type(default))
    special = {
        "per_gpu_train_batch_size": "3", "per_gpu_eval_batch_size": "3", "tpu_num_cores": "3", "save_safetensors": "no",
        "evaluation_strategy": "epoch", "dispatch_batches": "true", "split_batches": "true", "torchdynamo": "eager",
    }  # fmt: skip
    return [f"--{name}", special.get(name) or value or "text"]


@pytest.mark.parametrize("name", sorted(EFFECTS))
def test_on_the_command_line(name: str) -> None:
    parser = HfArgumentParser(SentenceTransformerTrainingArguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (args,) = parser.parse_args_into_dataclasses(
            ["--output_dir", "out", *flags(name)], look_for_args_file=False
        )
    effect = EFFECTS[name]
    changed = effect.new if isinstance(effect, Becomes) else name
    assert isinstance(args, SentenceTransformerTrainingArguments)
    assert name in parser.format_help()
    if isinstance(effect, Becomes):
        assert (
            getattr(args, changed)
            != SentenceTransformerTrainingArguments.__dataclass_fields__[changed].default
        )
