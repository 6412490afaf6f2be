"""What the host knows of tensors on a device, so that nothing has to wait for the device to be asked.

Features of a text column may carry, beside their tensors, :data:`HOST_KEYS`: values that stay on the host.
All but the counts of pairs follow the rows into each call of the model. Tensors that were copied to a device
with :func:`remember` know their copy on the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TOKEN_LENGTHS = "token_lengths"
"""Key of the number of real tokens of each row: int64 (n,), on the host."""
PADDING_SIDE = "padding_side"
"""Key of the side on which shorter rows are padded: "left" or "right"."""
PAD_ID = "pad_id"
"""Key of the token id of padding, a number; missing if no row has any."""
PAIR_COUNTS = "pair_counts"
"""Key of the number of pairs of each row of a batch, int64 (n,), on the host: features of pairs are (P, ...),
row by row. Read by losses over scores; the model is called without it."""
HOST_KEYS = (TOKEN_LENGTHS, PADDING_SIDE, PAD_ID, PAIR_COUNTS)
"""Keys of features that never move to a device."""


@dataclass(frozen=True, eq=False)
class TokenFacts:
    """Where the tokens of a padded batch are, in which each row's mask is one unbroken run of ones.

    Attributes:
        lengths: Number of tokens of each row (n,).
        left: Whether shorter rows are padded on the left.
        pad_id: The token id of padding; None if no row has any.
    """

    lengths: NDArray[np.int64]
    left: bool
    pad_id: int | None

    @classmethod
    def read(cls, features: Mapping[str, Any]) -> TokenFacts | None:
        """The facts of features on the host; None if a row's tokens are not one run at an edge.

        Args:
            features: ``input_ids`` and ``attention_mask`` (n, t), and others.
        """
        ids, mask = features.get("input_ids"), features.get("attention_mask")
        if ids is None or mask is None or mask.ndim != 2 or ids.shape != mask.shape or not _is_here(mask):
            return None
        real = mask.numpy() != 0
        lengths, columns = real.sum(1, dtype=np.int64), np.arange(real.shape[1])
        on_right = np.array_equal(real, columns < lengths[:, None])
        if not on_right and not np.array_equal(real, columns >= len(columns) - lengths[:, None]):
            return None
        padding = ids.numpy()[~real]
        return cls(lengths, not on_right, int(padding[0]) if len(padding) else None)

    @classmethod
    def carried_by(cls, features: Mapping[str, Any]) -> TokenFacts | None:
        """The facts that features carry; None if they carry none, or someone has changed their mask since."""
        lengths, mask = features.get(TOKEN_LENGTHS), features.get("attention_mask")
        if lengths is None or mask is None or not _is_here(lengths):  # all may have been moved to a device
            return None
        known = _known(mask)
        if known is None or not torch.equal((known != 0).sum(1), lengths):
            return None
        return cls(lengths.numpy(), features[PADDING_SIDE] == "left", features.get(PAD_ID))

    @property
    def carried(self) -> dict[str, Any]:
        """The form in which features carry the facts."""
        side = "left" if self.left else "right"
        carried = {TOKEN_LENGTHS: torch.from_numpy(self.lengths), PADDING_SIDE: side}
        return carried if self.pad_id is None else {**carried, PAD_ID: self.pad_id}

    @classmethod
    def joined(cls, facts: Sequence[TokenFacts | None]) -> TokenFacts | None:
        """The facts of the rows of all columns together; None if some are unknown or padded on both sides."""
        known = [each for each in facts if each is not None]
        padded = [each for each in known if each.pad_id is not None]
        if len(known) < len(facts) or len({each.left for each in padded}) > 1:
            return None
        lengths = np.concatenate([each.lengths for each in known])
        return cls(lengths, padded[0].left, padded[0].pad_id) if padded else cls(lengths, False, None)


def is_host_key(name: str) -> bool:
    """Whether a value stays on the host, by its key among the features of a column or the inputs of a step.

    Args:
        name: ``token_lengths``, or ``COLUMN_token_lengths``.
    """
    return name.endswith(HOST_KEYS)


def with_host_facts(features: Mapping[str, Any]) -> dict[str, Any]:
    """The features of a column with what the host knows of them, if it can be said in three values.

    Args:
        features: ``input_ids`` and ``attention_mask`` (n, t), on the host, and others.
    """
    facts = TokenFacts.read(features)
    return {**features, **({} if facts is None else facts.carried)}


def without_host_facts(features: Mapping[str, Any]) -> dict[str, Any]:
    """The features of a column without :data:`HOST_KEYS`."""
    return {name: value for name, value in features.items() if name not in HOST_KEYS}


def remember(tensor: Tensor, host: Tensor) -> Tensor:
    """Tells a tensor on a device its copy on the host; returns the tensor.

    The copy is used until the tensor is written to or gets other data. Writes of collectives go unnoticed.
    """
    if not _is_here(tensor) and tensor.dtype == host.dtype and not tensor.is_inference():
        vars(tensor)[_COPY] = host, _state(tensor)
    return tensor


def host_copy(tensor: Tensor) -> Tensor:
    """A tensor's values on the host: without waiting for the device if the tensor remembers them."""
    known = _known(tensor)
    return tensor.cpu() if known is None else known


def _is_here(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _known(tensor: Tensor) -> Tensor | None:
    if _is_here(tensor):
        return tensor
    host, state = vars(tensor).get(_COPY, (None, None))
    # A tensor that was changed since then is not what the host knows.
    return host if host is not None and _state(tensor) == state else None


def _state(tensor: Tensor) -> tuple[int, int]:
    # Assigning to tensor.data keeps the version, and a deep copy keeps what its original remembers.
    return tensor._version, tensor.data_ptr()


_COPY = "_ray_st_host_copy"
