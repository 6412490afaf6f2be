"""Arguments of the current transformers that have no effect here, because they are not needed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from ray_st.training_args.effects import Effect, Unused

_LOADER = Unused("Ray Data encodes rows ahead and a thread pads them; leave it out")
_LABELS = Unused("the label is the column named label, labels, score or scores; rename yours")

IDLE: dict[str, Effect] = {
    "dataloader_num_workers": _LOADER,
    "dataloader_prefetch_factor": _LOADER,
    "dataloader_persistent_workers": _LOADER,
    "dataloader_multiprocessing_context": _LOADER,
    "dataloader_in_order": _LOADER,
    "remove_unused_columns": Unused("a loss gets the text columns and the label; leave it out"),
    "label_names": _LABELS,
    "label_smoothing_factor": Unused("losses use the labels unchanged; smooth them in the data"),
    "length_column_name": Unused("lengths are those of the encoded texts; leave it out"),
    "train_sampling_strategy": Unused(
        'rows come in random order, or grouped by length with "group_by_length"; for another order, use a '
        "batch_sampler of your own",
        ("group_by_length",),
    ),
    "save_on_each_node": Unused(
        "checkpoints go to one place that all nodes share; use RunConfig(storage_path=…)"
    ),
    "local_rank": Unused("Ray numbers the workers; leave it out"),
    "eval_accumulation_steps": Unused("predictions go to the CPU after each batch; leave it out", (1,)),
    "eval_use_gather_object": Unused("predictions are gathered as arrays; leave it out"),
    "logging_nan_inf_filter": Unused(
        "a loss that is not finite ends the run, and the error names its rows; leave it out"
    ),
    "average_tokens_across_devices": Unused(
        "each worker's share of a batch is weighted by its rows; leave it out"
    ),
}
"""By the argument's name."""

_IDLE_SETTINGS = {
    "dispatch_batches": None,
    "even_batches": True,
    "use_seedable_sampler": True,
    "non_blocking": False,
}
"""Keys of ``accelerator_config`` that configure accelerate's loaders, with their defaults."""


def warn_of_idle_settings(config: Mapping[str, object]) -> None:
    """Warns of settings in ``accelerator_config`` that have no effect because batches come from Ray.

    Args:
        config: The settings by name, as completed by transformers.
    """
    idle = [name for name, default in _IDLE_SETTINGS.items() if config.get(name, default) != default]
    if idle:
        warnings.warn(
            f"accelerator_config: {idle} have no effect, as batches do not come from accelerate's loaders.",
            UserWarning,
            stacklevel=5,  # the caller that created the arguments
        )
