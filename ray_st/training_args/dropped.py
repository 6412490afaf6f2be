"""Arguments of earlier releases of transformers: accepted, and effective if there is an equivalent."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, get_type_hints

from transformers import IntervalStrategy
from transformers.trainer_pt_utils import AcceleratorConfig

from ray_st.training_args.device import DeviceArguments
from ray_st.training_args.effects import Becomes, Does, Effect, Kept, Unused, apply_effects
from ray_st.training_args.idle import IDLE, warn_of_idle_settings
from ray_st.training_args.sharding_options import read_config

_AMP = ("amp", "cuda_amp", "cpu_amp")


def _wrap_by_size(args: DroppedArguments, rows: int) -> None:
    _configure_fsdp(args, min_num_params=rows, auto_wrap_policy="SIZE_BASED_WRAP")


def _wrap_layers(args: DroppedArguments, layer: str) -> None:
    _configure_fsdp(args, transformer_layer_cls_to_wrap=[layer])


def _configure_fsdp(args: DroppedArguments, **settings: object) -> None:
    if not args.fsdp:
        warnings.warn(f"{sorted(settings)} have no effect without fsdp=True.", UserWarning, stacklevel=8)
    args.fsdp_config = _merged("fsdp_config", args.fsdp_config, settings)


def _split_batches(args: DroppedArguments, split: bool) -> None:
    config = args.accelerator_config
    known = config.to_dict() if isinstance(config, AcceleratorConfig) else config
    args.accelerator_config = _merged("accelerator_config", known, {"split_batches": split})


def _merged(name: str, config: dict[str, Any] | str | None, settings: dict[str, object]) -> dict[str, Any]:
    merged = dict(read_config(config or {}))
    for key, value in settings.items():
        if merged.get(key) not in (None, False, 0, value):
            raise ValueError(
                f"{name}[{key!r}] is {merged[key]!r}, and an older argument says {value!r}. Give one of them."
            )
        merged[key] = value
    return merged


def _set_repository_owner(args: DroppedArguments, organization: str) -> None:
    name = args.hub_model_id or Path(args.output_dir or "trainer_output").name
    owner, _, rest = name.rpartition("/")
    if owner not in ("", organization):
        raise ValueError(
            f"push_to_hub_organization={organization!r} and hub_model_id={name!r} contradict each other. "
            f"Give hub_model_id={f'{organization}/{rest}'!r} alone."
        )
    args.hub_model_id = f"{organization}/{rest}"


def _include_inputs(args: DroppedArguments, include: bool) -> None:
    args.include_for_metrics = sorted({*args.include_for_metrics, "inputs"})


def _count_tokens(args: DroppedArguments, count: bool) -> None:
    if args.include_num_input_tokens_seen in ("no", False):
        args.include_num_input_tokens_seen = "all"


def _debug_tpu(args: DroppedArguments, debug: bool) -> None:
    given = args.debug or ""
    words = given.split() if isinstance(given, str) else [str(word.value) for word in given]
    args.debug = " ".join(sorted({*words, "tpu_metrics_debug"}))


@dataclass
class DroppedArguments(DeviceArguments):
    """Arguments that the current transformers dropped: one line each, with what happens to it.

    To accept another one, add a line; the command line, the documentation and the tests follow.
    """

    overwrite_output_dir: Annotated[
        bool,
        Kept("only for scripts to read; the trainer itself deletes nothing in `output_dir`"),
    ] = False
    per_gpu_train_batch_size: Annotated[int | None, Becomes("per_device_train_batch_size")] = None
    per_gpu_eval_batch_size: Annotated[int | None, Becomes("per_device_eval_batch_size")] = None
    evaluation_strategy: Annotated[IntervalStrategy | str | None, Becomes("eval_strategy")] = None
    warmup_ratio: Annotated[
        float, Kept("share of all steps over which the learning rate rises; overridden by `warmup_steps`")
    ] = 0.0
    logging_dir: Annotated[
        str | None,
        Kept("TensorBoard's folder; the worker that writes it gets `TENSORBOARD_LOGGING_DIR`"),
    ] = None
    save_safetensors: Annotated[
        bool | None, Unused("weights are always saved as safetensors; leave it out", (None,))
    ] = True
    no_cuda: Annotated[bool, Becomes("use_cpu")] = False
    use_mps_device: Annotated[bool, Unused("MPS is used if available; leave the argument out")] = False
    jit_mode_eval: Annotated[bool, Unused("nothing is traced; use torch_compile")] = False
    use_ipex: Annotated[bool, Unused("IPEX is discontinued; use bf16 and torch_compile")] = False
    fp16_opt_level: Annotated[str, Unused("Apex is not used; fp16 is PyTorch's mixed precision")] = "O1"
    half_precision_backend: Annotated[
        str, Unused("mixed precision is always PyTorch's; use bf16 or fp16", _AMP)
    ] = "auto"
    fp16_backend: Annotated[str, Unused("mixed precision is always PyTorch's; use bf16 or fp16", _AMP)] = (
        "auto"
    )
    tpu_num_cores: Annotated[
        int | None, Unused("Ray starts the workers; use ScalingConfig(num_workers=…)")
    ] = None
    tpu_metrics_debug: Annotated[bool, Does('adds "tpu_metrics_debug" to `debug`', _debug_tpu)] = False
    past_index: Annotated[int, Unused("embedding models keep no past states; leave it out")] = -1
    fsdp_min_num_params: Annotated[
        int, Does('sets `fsdp_config["min_num_params"]` and wraps by size', _wrap_by_size)
    ] = 0
    fsdp_transformer_layer_cls_to_wrap: Annotated[
        str | None, Does('sets `fsdp_config["transformer_layer_cls_to_wrap"]`', _wrap_layers)
    ] = None
    adafactor: Annotated[bool, Becomes("optim", "adafactor")] = False
    group_by_length: Annotated[bool, Becomes("train_sampling_strategy", "group_by_length")] = False
    use_legacy_prediction_loop: Annotated[bool, Unused("there is one evaluation loop; leave it out")] = False
    include_inputs_for_metrics: Annotated[
        bool, Does('adds "inputs" to `include_for_metrics`', _include_inputs)
    ] = False
    push_to_hub_model_id: Annotated[str | None, Becomes("hub_model_id")] = None
    push_to_hub_organization: Annotated[
        str | None, Does("becomes the owner in `hub_model_id`", _set_repository_owner)
    ] = None
    push_to_hub_token: Annotated[str | None, Becomes("hub_token")] = None
    mp_parameters: Annotated[
        str, Unused("SageMaker's model parallelism is not used; to shard a model use fsdp=True")
    ] = ""
    torchdynamo: Annotated[str | None, Becomes("torch_compile_backend")] = None
    ray_scope: Annotated[
        str | None,
        Kept(
            'trials of a search are compared by their "last" evaluation, their best ("all"), or a mean '
            '("avg", …)'
        ),
    ] = "last"
    dispatch_batches: Annotated[
        bool | None, Unused("each worker fetches its own rows; no worker dispatches them", (False,))
    ] = None
    split_batches: Annotated[
        bool | None,
        Does(
            'sets `accelerator_config["split_batches"]`: the batch size is that of all workers',
            _split_batches,
        ),
    ] = None
    include_tokens_per_second: Annotated[
        bool | None, Does('sets `include_num_input_tokens_seen="all"`', _count_tokens)
    ] = False

    def __post_init__(self) -> None:
        """Applies the older arguments, then completes and validates all arguments."""
        if not 0.0 <= self.warmup_ratio <= 1.0:
            raise ValueError(f"warmup_ratio must lie in [0, 1]; got {self.warmup_ratio}.")
        if self.fsdp_config and not self.fsdp:
            warnings.warn("fsdp_config has no effect without fsdp=True.", UserWarning, stacklevel=4)
        apply_effects(self, {**EFFECTS, **IDLE})
        super().__post_init__()
        warn_of_idle_settings(vars(self.accelerator_config))

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Number of steps over which the learning rate rises.

        Args:
            num_training_steps: Total number of steps.
        """
        if not self.warmup_steps:
            return math.ceil(num_training_steps * self.warmup_ratio)
        return int(super().get_warmup_steps(num_training_steps))


def _read_effects() -> dict[str, Effect]:
    hints = get_type_hints(DroppedArguments, include_extras=True)
    effects = {name: hints[name].__metadata__[0] for name in DroppedArguments.__annotations__}
    for name, effect in effects.items():
        DroppedArguments.__dataclass_fields__[name].metadata = MappingProxyType(
            {"help": f"From earlier releases: {effect.note()}.".replace("%", "%%")}
        )
    return effects


EFFECTS: dict[str, Effect] = _read_effects()
"""What happens to each dropped argument, by name."""
