"""Arguments of the current transformers that have no effect here, as something else does their work."""

from __future__ import annotations

from ray_st.util.arguments.effects import Effect, Unused

_LOADER = Unused("Ray Data encodes rows ahead and a thread pads them; leave it out")
_LABELS = Unused("the label is the column named label, labels, score or scores; rename yours")
_GROUP = Unused("Ray Train makes the process group; leave it out")

IDLE: dict[str, Effect] = {
    "dataloader_num_workers": _LOADER,
    "dataloader_prefetch_factor": _LOADER,
    "dataloader_persistent_workers": _LOADER,
    "dataloader_multiprocessing_context": _LOADER,
    "dataloader_in_order": _LOADER,
    "remove_unused_columns": Unused("a loss gets the text columns and the label; leave it out"),
    "label_names": _LABELS,
    "label_smoothing_factor": Unused("losses of embeddings take labels as they are; smooth them in the data"),
    "length_column_name": Unused("lengths are those of the encoded texts; leave it out"),
    "train_sampling_strategy": Unused(
        'rows come in random order, or grouped by length with "group_by_length"; for another order, use a batch_sampler '
        "of your own",
        ("group_by_length",),
    ),
    "save_on_each_node": Unused(
        "there is one place for checkpoints that all nodes reach; use RunConfig(storage_path=…)"
    ),
    "local_rank": Unused("Ray numbers the workers; leave it out"),
    "ddp_backend": _GROUP,
    "ddp_timeout": _GROUP,
}
"""By the argument's name."""
