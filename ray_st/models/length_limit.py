"""The longest sequence of a model in tokens, which is stored in its tokenizer."""

from __future__ import annotations

import logging

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ray_st.models.encoder_loading import setting_of
from ray_st.models.tokenizer.pretrained import NO_LIMIT

logger = logging.getLogger(__name__)


def limit_of(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The longest sequence in tokens, special ones included; None if there is no limit."""
    limit = tokenizer.model_max_length
    return None if limit is None or limit >= NO_LIMIT else int(limit)


def set_limit(tokenizer: PreTrainedTokenizerBase, value: int | None, most: int | None) -> None:
    """Sets the longest sequence.

    Args:
        tokenizer: The model's tokenizer.
        value: The length in tokens; None or 0 for no limit.
        most: Number of positions that the encoder has learned; a longer sequence is reduced to it, with a
            warning. None if any length works.
    """
    if value and most is not None and value > most:
        logger.warning("max_seq_length=%d is reduced to %d: the encoder has no more positions.", value, most)
        value = most
    tokenizer.model_max_length = value or NO_LIMIT


def default_limit(
    tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, table: int | None
) -> int | None:
    """The smallest limit that tokenizer, configuration and table of positions have; None if none has one."""
    known = [tokenizer.model_max_length, setting_of(config, "max_position_embeddings"), table]
    limits = [limit for limit in known if limit is not None and 0 < limit < NO_LIMIT]
    return min(limits, default=None)
