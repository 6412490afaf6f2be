"""Documented training arguments that a run on Ray does not support: they raise instead of being ignored."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from ray_st.losses.loss import Loss
from ray_st.models.adapter.peft_layers import adapter_names
from ray_st.models.packed_weights import quantized_encoders
from ray_st.models.stack import Stack
from ray_st.training.strategies.step_module import LossOrLosses, losses_of
from ray_st.training_args import EvalOn, SentenceTransformerTrainingArguments
from ray_st.util.events import notes
from ray_st.util.filesystems import check_kept, is_uri
from ray_st.world import WorkerRange

UNSUPPORTED = {
    "parallelism_config": "each worker runs the whole model; fsdp=True shards its weights",
    "enable_jit_checkpoint": (
        "one worker alone cannot write a checkpoint when it is told to end; Ray restarts the run from the "
        "newest one. Set save_steps to what may be lost"
    ),
}
"""Why an argument is rejected, and what to do instead, by argument name."""

UNSUPPORTED_IN_PLACE = {
    "ledger": "it is written by runs that the driver starts",
    "token_cache": "each rank encodes its share of the rows there, which depends on the number of ranks",
    "auto_find_batch_size": "the driver searches for it by starting a run for each size",
    "ddp_backend": "your TorchTrainer has made the process group; give it "
    "torch_config=TorchConfig(backend=…)",
}
"""Why an argument is rejected inside a worker of the user's own run, by argument name."""

_SEVERAL = "there is one process to run on. Give it two workers or more"
UNSUPPORTED_WITHOUT_WORKERS = {
    "fsdp": _SEVERAL,
    "deepspeed": _SEVERAL,
    "fp16_full_eval": "it would cast the weights of the model that you hold",
    "bf16_full_eval": "it would cast the weights of the model that you hold",
}
"""Why an argument is rejected if the run takes place in the driver's process, by argument name."""


_RESIZED = "each change of the number of workers goes on from a checkpoint, which would hold too little"
UNSUPPORTED_IF_ELASTIC = {"deepspeed": _RESIZED, "save_only_model": _RESIZED}
"""Why an argument is rejected if the number of workers may change, by argument name."""


class Scaling(Protocol):
    """What is read of Ray Train's ``ScalingConfig``; only runtime/ imports Ray."""

    @property
    def num_workers(self) -> object:
        """Number of workers, or a range of it."""

    @property
    def use_gpu(self) -> object:
        """Whether each has a GPU."""


class Storing(Protocol):
    """What is read of Ray Train's ``RunConfig``."""

    @property
    def storage_path(self) -> str | None:
        """The folder of all runs."""


def check_arguments(args: SentenceTransformerTrainingArguments) -> None:
    """Raises for arguments that would be ignored or fail on the workers.

    Args:
        args: Training arguments.

    Raises:
        ValueError: Naming the argument and what to do instead.
    """
    _check_unset(args, UNSUPPORTED, "")


def check_in_place(
    args: SentenceTransformerTrainingArguments, scaling_config: Scaling | None, run_config: Storing | None
) -> None:
    """Raises for settings that cannot take effect inside a worker of the user's own run.

    Args:
        args: Training arguments.
        scaling_config: The trainer's, which must be None.
        run_config: Likewise.

    Raises:
        ValueError: Naming the setting and what to do instead.
    """
    for name, value in (("scaling_config", scaling_config), ("run_config", run_config)):
        if value is not None:
            raise ValueError(
                f"{name} has no effect inside a worker of Ray Train, which is running already: give it to "
                "your TorchTrainer, or train on the driver."
            )
    _check_unset(args, UNSUPPORTED_IN_PLACE, " inside a worker of Ray Train")


def check_without_workers(args: SentenceTransformerTrainingArguments, scaling_config: Scaling | None) -> None:
    """Raises for settings that a run in this process (``num_workers=0``) does not support.

    Args:
        args: Training arguments.
        scaling_config: The trainer's; anything but ``num_workers=0`` passes.

    Raises:
        ValueError: Naming the setting and what to do instead.
    """
    if scaling_config is None or scaling_config.num_workers != 0:
        return
    _check_unset(args, UNSUPPORTED_WITHOUT_WORKERS, " without workers (num_workers=0)")
    if args.eval_on == EvalOn.BACKGROUND:
        raise ValueError(
            'eval_on="background" evaluates in a process of a Ray cluster, and num_workers=0 trains in this '
            'process without one. Use num_workers=1, or eval_on="workers", which evaluates here.'
        )
    if scaling_config.use_gpu and not torch.cuda.is_available():
        raise ValueError(
            "ScalingConfig(num_workers=0, use_gpu=True) trains in this process, whose machine has no GPU. "
            "Leave use_gpu out, or use num_workers=1 on a cluster that has one."
        )
    check_precision(args, torch.cuda.is_available() and not args.use_cpu)


def check_elastic(
    args: SentenceTransformerTrainingArguments, loss: LossOrLosses, scaling_config: Scaling | None
) -> None:
    """Raises for a number of workers that may change, if batches, losses or checkpoints depend on it.

    Args:
        args: Training arguments.
        loss: The loss, or one for each dataset.
        scaling_config: The trainer's; anything but a range of workers passes.

    Raises:
        ValueError: Naming the setting and what to do instead.
    """
    workers = None if scaling_config is None else WorkerRange.of(scaling_config.num_workers)
    if workers is None or workers.is_fixed:
        return
    given = f"num_workers=({workers.least}, {workers.most})"
    if not args.global_train_batch_size:
        raise ValueError(
            f"{given} needs global_train_batch_size: with per_device_train_batch_size alone, the batches "
            "would change with the number of workers. Set it to the rows of a batch over all workers, or "
            "give num_workers as one number."
        )
    _check_unset(args, UNSUPPORTED_IF_ELASTIC, f" with {given}")
    if reenters(args):
        raise ValueError(
            f"gradient_checkpointing with use_reentrant=True cannot be used with {given}. {_REENTERS}"
        )
    for part in (part for one in losses_of(loss).values() for part in one.modules()):
        if compares_own_rows_only(part):
            raise ValueError(
                f"{given} needs {type(part).__name__}(…, gather_across_devices=True): it compares the rows "
                "of a batch, and without it a row would be compared with fewer others on more workers."
            )


def check_trials(scaling_config: Scaling | None) -> None:
    """Raises for numbers of workers that the trials of a search cannot have.

    Args:
        scaling_config: The trainer's.

    Raises:
        ValueError: Saying why, and what to do instead.
    """
    workers = WorkerRange(1, 1) if scaling_config is None else WorkerRange.of(scaling_config.num_workers)
    if workers.most == 0:
        raise ValueError(
            "A search runs its trials on workers of a Ray cluster, and ScalingConfig(num_workers=0) "
            "wants none. Use num_workers=1, or leave scaling_config out."
        )
    if not workers.is_fixed:
        raise ValueError(
            f"A search cannot have trials with num_workers=({workers.least}, {workers.most}): how many run "
            "at once follows from the number of workers of each, and a trial that grew would take the room "
            f"of the others. Use one number, such as num_workers={workers.least}; train the best trial's "
            "values with a range."
        )


def compares_own_rows_only(loss: nn.Module) -> bool:
    """Whether a loss compares the rows of a batch, but only those of a worker.

    A loss of this library that compares rows has the option to gather them from all workers.

    Args:
        loss: A loss, or any part of one.
    """
    if not isinstance(loss, Loss) or loss.gather_across_devices:
        return False
    return "gather_across_devices" in inspect.signature(type(loss)).parameters


def check_precision(args: SentenceTransformerTrainingArguments, have_gpus: bool) -> None:
    """Raises for mixed precision that the workers' devices rule out.

    Args:
        args: Training arguments.
        have_gpus: Whether each worker has a GPU, or a share of one.

    Raises:
        ValueError: If ``fp16`` is set and they have none.
    """
    if args.fp16 and not have_gpus:
        raise ValueError(
            "fp16=True needs a GPU for each worker, and they have none. Use bf16=True, leave fp16 out, or "
            "request GPUs, as with scaling_config=ScalingConfig(use_gpu=True)."
        )


def check_outputs_last(args: SentenceTransformerTrainingArguments, run_config: Storing | None) -> None:
    """Raises for output folders that are none, or lie in a Ray job's working directory, which Ray deletes.

    Args:
        args: Training arguments.
        run_config: The trainer's, whose ``storage_path`` overrides ``output_dir``; or None.

    Raises:
        ValueError: Naming the folder and what to do instead.
    """
    _check_path("output_dir", args.output_dir)
    _check_path("scratch_dir", args.scratch_dir)
    remedy = (
        "Give an absolute path on storage that lasts, or run_config=RunConfig(storage_path=...) "
        "(in a run file: run.storage_path)"
    )
    storage = None if run_config is None else run_config.storage_path
    if storage is None:
        check_kept(str(args.output_dir), "output_dir", remedy)
    else:
        check_kept(storage, "run_config.storage_path")
    if args.logging_dir is not None:
        check_kept(args.logging_dir, "logging_dir")
    if args.token_cache:
        check_kept(str(args.token_cache), "token_cache")


def _check_path(name: str, place: str | None) -> None:
    if place is not None and is_uri(place):
        parent, _, last = place.rstrip("/").rpartition("/")
        raise ValueError(
            f"{name} is a folder on a disk, for saved models and files on their way; got {place!r}. "
            f"Checkpoints go to an object store with run_config=RunConfig(storage_path={parent!r}, "
            f"name={last!r}) (in a run file: run.storage_path and run.name). Leave {name} out, or give a "
            "path."
        )


def check_losses(args: SentenceTransformerTrainingArguments, loss: LossOrLosses) -> None:
    """Raises for losses that cannot train sharded weights.

    Args:
        args: Training arguments.
        loss: The loss, or one for each dataset.

    Raises:
        ValueError: Naming the loss and what to do instead.
    """
    for one in losses_of(loss).values() if args.fsdp else ():
        numbers = [
            name for name, weight in one.named_parameters() if weight.requires_grad and not weight.ndim
        ]
        if numbers:
            raise ValueError(
                f"{type(one).__name__} trains {numbers}, single numbers, which fsdp cannot shard. Choose "
                "another loss, set requires_grad=False on them, or leave fsdp out."
            )


def check_backend_trains(model: nn.Module) -> None:
    """Raises for a model that computes with an exported file: it has no weights to train.

    Args:
        model: The model.

    Raises:
        ValueError: Saying what to do instead.
    """
    backend = getattr(model, "backend", "torch")  # models of a family of one's own have none
    if backend != "torch":
        raise ValueError(
            f"This model has backend={backend!r}, which computes with an exported file and cannot be "
            "trained. Open it without backend, train, save, and export what was trained: ray-st export."
        )


def check_quantized(args: SentenceTransformerTrainingArguments, model: nn.Module) -> None:
    """Raises if a quantized encoder's own weights would be trained, or sharded.

    Args:
        args: Training arguments.
        model: The model.

    Raises:
        ValueError: Saying what to do instead.
    """
    for encoder in quantized_encoders(model):
        kind = type(encoder).__name__
        trained = [name for name, weight in encoder.named_parameters() if weight.requires_grad]
        if trained and not adapter_names(encoder):
            raise ValueError(
                f"{kind} is quantized: its packed weights cannot be trained, only {len(trained)} others, "
                f"such as {trained[0]}. Train an adapter (model.add_adapter(peft.LoraConfig(...))), or only "
                "later modules (model[0].requires_grad_(False)), or open the model without "
                "quantization_config."
            )
        if args.fsdp:
            raise ValueError(
                f"{kind} is quantized, and fsdp cannot shard packed weights. Leave fsdp out, or open the "
                "model without quantization_config."
            )


def check_recomputation(args: SentenceTransformerTrainingArguments, loss: LossOrLosses, workers: int) -> None:
    """Raises if reentrant recomputation of activations runs more than once per step.

    Reentrant means that activations are recomputed by a backward pass inside another one.

    Each such pass produces the weights' gradients immediately, and on several workers each gradient may be
    produced only once per step.

    Args:
        args: Training arguments.
        loss: The loss, or one for each dataset.
        workers: Number of workers.

    Raises:
        ValueError: Naming the loss and what to do instead.
    """
    if workers < 2 or not reenters(args):
        return
    for one in losses_of(loss).values():
        if any(_is_cached(part) for part in one.modules()):
            raise ValueError(
                f"{type(one).__name__} runs the model once a mini-batch, which gradient_checkpointing with "
                f"use_reentrant=True cannot do on {workers} workers. {_REENTERS}"
            )


_REENTERS = (
    "Each run has a backward pass of its own then, which gives the weights their gradients again, and "
    "workers exchange each gradient once a step. Set use_reentrant=False in gradient_checkpointing_kwargs, "
    "or leave it out."
)


def reenters(args: SentenceTransformerTrainingArguments) -> bool:
    """Whether activations are recomputed by a backward pass inside another one."""
    options = args.gradient_checkpointing_kwargs
    return _recomputes(args) and isinstance(options, dict) and bool(options.get("use_reentrant"))


def _recomputes(args: SentenceTransformerTrainingArguments) -> bool:
    # The name in newer releases of transformers comes first.
    return bool(getattr(args, "activation_checkpointing", args.gradient_checkpointing))


def ready_twice(error: RuntimeError, args: SentenceTransformerTrainingArguments) -> ValueError | None:
    """The error to raise instead of a backward pass's, if a weight got its gradient twice.

    A restart would fail in the same way. Losses without a cache hit this if a batch takes more than one run
    of the model.

    Args:
        error: What the backward pass raised.
        args: Training arguments.

    Returns:
        None if it is another error, or activations are not recomputed that way.
    """
    if not reenters(args) or "mark a variable ready only once" not in str(error):
        return None
    return ValueError(
        "The batch is too large for one run of the model, and gradient_checkpointing with "
        f"use_reentrant=True cannot run it more than once a step on several workers. {_REENTERS}"
    )


def _is_cached(part: nn.Module) -> bool:
    sizes = ("mini_batch_size", "mini_batch_num_tokens")
    return any(getattr(part, name, None) is not None for name in sizes)


def note_kept_activations(args: SentenceTransformerTrainingArguments, model: nn.Module) -> None:
    """Logs if activations should be recomputed but the model does not support it.

    Args:
        args: Training arguments.
        model: The model.
    """
    if _recomputes(args) and isinstance(model, Stack) and model.kept_activations:
        notes.warning(f"warning: {model.kept_activations}")


def make_folder(output_dir: str) -> None:
    """Creates the output folder.

    Args:
        output_dir: Its path.

    Raises:
        ValueError: If it is not writable.
    """
    try:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"The output folder {output_dir} cannot be written ({error}). Choose another output_dir."
        ) from error


def _check_unset(
    args: SentenceTransformerTrainingArguments, unsupported: Mapping[str, str], where: str
) -> None:
    for name, why in unsupported.items():
        if getattr(args, name, None):
            raise ValueError(f"{name} cannot be used{where}: {why}. Leave {name} out.")


def seen_by_transformers(args: SentenceTransformerTrainingArguments) -> SentenceTransformerTrainingArguments:
    """The arguments without the settings that this trainer implements itself.

    transformers' tracker callbacks do not support restarts, and it would delegate sharding to accelerate.
    """
    seen = type(args).__new__(type(args))  # a copy would drop unpicklable fields, such as devices
    vars(seen).update(vars(args), report_to=[], fsdp=None)
    return seen
