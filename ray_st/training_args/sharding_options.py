"""Supported settings of ``fsdp_config`` and ``deepspeed``, and the reason why others are not supported."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

BY_SIZE = "SIZE_BASED_WRAP"
NO_WRAP = "NO_WRAP"
FULL, HYBRID = "FULL_SHARD", "HYBRID_SHARD"

_PYTORCH = "2.13"
_SWITCHES = ("reshard_after_forward", "activation_checkpointing")
_FIXED = {
    "version": (2, "PyTorch's FSDP2 is used"),
    "state_dict_type": (
        "FULL_STATE_DICT",
        "checkpoints hold whole weights, which any number of workers can load",
    ),
    "cpu_offload": (False, "it was never tried here"),
    "cpu_ram_efficient_loading": (False, "each worker gets the model with the run"),
    "xla": (False, "there are no XLA workers"),
    "xla_fsdp_v2": (False, "there are no XLA workers"),
    "xla_fsdp_grad_ckpt": (False, "there are no XLA workers"),
}
_SUPPORTED = (
    *_SWITCHES,
    "sharding_strategy",
    "auto_wrap_policy",
    "transformer_layer_cls_to_wrap",
    "min_num_params",
)
_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "rmsprop", "sgd")
_INCOMPATIBLE = {
    "torch_compile": "compiled encoders were never tried with sharded weights",
    "fp16": "its scaling of gradients was never tried with sharded weights; use bf16",
}


def take_hybrid(args: TrainingArguments) -> None:
    """Moves ``fsdp="hybrid_shard"`` to ``fsdp_config``: transformers knows this older form for FSDP1 only.

    Args:
        args: Training arguments, before transformers completes them.
    """
    if isinstance(args.fsdp, str) and "hybrid_shard" in args.fsdp.split():
        args.fsdp_config = {**read_config(args.fsdp_config or {}), "sharding_strategy": HYBRID}
        args.fsdp = args.fsdp.replace("hybrid_shard", "full_shard")


def check_sharding(args: TrainingArguments) -> None:
    """Rejects unsupported settings of ``fsdp_config``, and arguments that cannot be combined with ``fsdp``.

    Its ``activation_checkpointing`` is moved to the argument of that name.

    Args:
        args: Training arguments, as completed by transformers.

    Raises:
        ValueError: Naming the setting and what to do.
    """
    if not args.fsdp:
        return
    if torch.torch_version.TorchVersion(torch.__version__) < _PYTORCH:
        raise ValueError(
            f"fsdp needs PyTorch {_PYTORCH} or later, as it reaches into FSDP2; found {torch.__version__}."
        )
    config = args.fsdp_config
    assert isinstance(config, dict)
    for name in sorted(config):
        _check_setting(name, config[name])
    by_size = config.get("auto_wrap_policy") == BY_SIZE
    if by_size != bool(config["min_num_params"]):
        raise ValueError(
            f'fsdp_config: min_num_params, more than 0, and auto_wrap_policy="{BY_SIZE}" go together. Give '
            "both or neither."
        )
    for name, why in _INCOMPATIBLE.items():
        if getattr(args, name):
            raise ValueError(f"{name} cannot be used with fsdp: {why}. Leave one of them out.")
    optimizer = OptimizerNames(args.optim).value
    if optimizer not in _OPTIMIZERS:
        raise ValueError(
            f'optim="{optimizer}" was never tried with fsdp, which gives an optimizer parts of the weights. '
            f"Use one of {list(_OPTIMIZERS)}."
        )
    if config.get("activation_checkpointing"):
        names = ("activation_checkpointing", "gradient_checkpointing")  # the second in earlier releases
        setattr(args, next(name for name in names if hasattr(args, name)), True)


def check_deepspeed(args: TrainingArguments) -> None:
    """Rejects settings that DeepSpeed does not support here; reads its config file, which workers may lack.

    Args:
        args: Training arguments.

    Raises:
        ValueError: Naming the setting and what to do.
    """
    if not args.deepspeed:
        return
    if args.fsdp:
        raise ValueError("fsdp and deepspeed cannot be used together. Leave one of them out.")
    if find_spec("deepspeed") is None:
        raise ValueError(
            "deepspeed needs the package deepspeed, here and on the workers: pip install deepspeed. Without "
            "it, fsdp=True shards weights, gradients and the optimizer's state."
        )
    args.deepspeed = config = read_config(args.deepspeed)
    stage = config.get("zero_optimization", {}).get("stage", 0)
    if stage not in (0, 1, 2):
        raise ValueError(
            f"deepspeed: stage {stage} of ZeRO shards weights, which evaluations and checkpoints need whole. "
            "Use stage 2, or fsdp=True in place of deepspeed."
        )
    if args.save_strategy != "no" and not args.save_only_model:
        raise ValueError(
            "deepspeed: its optimizer's state cannot be saved, as DeepSpeed reads it by unpickling. Give "
            'save_only_model=True or save_strategy="no"; such runs cannot be resumed.'
        )


def read_config(given: dict[str, Any] | str) -> dict[str, Any]:
    """A configuration that may be given as JSON, or as the path of a JSON file."""
    if not isinstance(given, str):
        return given
    settings: dict[str, Any] = json.loads(given if given.startswith("{") else Path(given).read_text())
    return settings


def _check_setting(name: str, value: object) -> None:
    if name in _SWITCHES and not isinstance(value, bool):
        raise ValueError(f"fsdp_config: {name} must be true or false; got {value!r}.")
    if name == "sharding_strategy" and value not in (FULL, HYBRID):
        raise ValueError(
            f'fsdp_config: sharding_strategy must be "{FULL}" (over all workers) or "{HYBRID}" (within each '
            f"node, replicated across nodes); got {value!r}."
        )
    if name in _FIXED and value != _FIXED[name][0]:
        only, why = _FIXED[name]
        raise ValueError(
            f"fsdp_config: {name} can only be {only!r} here, as {why}; got {value!r}. Leave it out."
        )
    if name not in (*_FIXED, *_SUPPORTED):
        raise ValueError(
            f"fsdp_config: {name} is not a supported setting of FSDP2; {sorted(_SUPPORTED)} are. Leave it "
            "out."
        )
