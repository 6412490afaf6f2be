"""Training arguments that are documented and that a run on Ray cannot follow: refused by name, not ignored."""

from __future__ import annotations

from typing import Any


def check_arguments(args: Any) -> None:
    """Refuses arguments that would be ignored or fail on the workers.

    Args:
        args: Training arguments.

    Raises:
        ValueError: Naming the argument and what to do instead.
    """
    if args.fsdp:
        raise ValueError(
            "fsdp: workers hold the whole model and reduce gradients (DDP); sharding it is not supported. Leave fsdp out; "
            "gradient_checkpointing=True, bf16=True, or adapters save memory."
        )
    if args.deepspeed:
        raise ValueError(
            "deepspeed: the loss is computed inside of what wraps the model, which DeepSpeed's engine cannot do. Leave "
            "deepspeed out; gradient_checkpointing=True, bf16=True, or adapters save memory."
        )
    if args.batch_eval_metrics:
        raise ValueError(
            "batch_eval_metrics: compute_metrics gets all rows at once. Leave it out; preprocess_logits_for_metrics makes "
            "what is kept of each batch smaller."
        )
    if args.include_for_metrics:
        raise ValueError(
            f"include_for_metrics={args.include_for_metrics}: compute_metrics gets embeddings and labels. Leave it out."
        )
