"""From one vector per token to one vector per text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ray_st.models.folder_files import ModelFolderError
from ray_st.models.module import Features, LoadOptions, Module, read_config

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


@dataclass(frozen=True)
class _Tokens:
    """The tokens of a batch and their positions.

    ``vectors`` (n, t, d); ``kept`` (n, t), true for tokens that count; ``place`` (n, t), 0 for a text's first
    token; ``weight`` (n,), the sum of the weights by which the vectors were multiplied, or None.
    """

    vectors: Tensor
    kept: Tensor
    place: Tensor
    weight: Tensor | None = None

    def weigh(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the weighted vectors (n, d) and of the weights (n, 1), at least in float32."""
        wide = torch.promote_types(self.vectors.dtype, torch.float32)
        weights = (weights * self.kept).to(wide)
        total = (self.vectors.to(wide) * weights.unsqueeze(-1)).sum(dim=1)
        weight = weights.sum(dim=1) if self.weight is None else self.weight.to(wide)
        return total, weight.unsqueeze(1).clamp(min=1e-9)

    def at(self, index: Tensor) -> Tensor:
        """The vector at each text's index (n,), zero where no token counts: (n, d)."""
        rows = torch.arange(len(index), device=index.device)
        return self.vectors[rows, index] * self.kept.any(dim=1, keepdim=True)


def _first(tokens: _Tokens) -> Tensor:
    return tokens.at(tokens.kept.int().argmax(dim=1))


def _last(tokens: _Tokens) -> Tensor:
    return tokens.at(tokens.kept.shape[1] - 1 - tokens.kept.flip(1).int().argmax(dim=1))


def _max(tokens: _Tokens) -> Tensor:
    greatest = tokens.vectors.masked_fill(~tokens.kept.unsqueeze(-1), float("-inf")).amax(dim=1)
    return greatest.masked_fill(~tokens.kept.any(dim=1, keepdim=True), 0.0)


def _mean(tokens: _Tokens) -> Tensor:
    total, count = tokens.weigh(torch.ones_like(tokens.place))
    return total / count


def _mean_sqrt_len(tokens: _Tokens) -> Tensor:
    total, count = tokens.weigh(torch.ones_like(tokens.place))
    return total / count.sqrt()


def _weighted_mean(tokens: _Tokens) -> Tensor:
    total, weight = tokens.weigh(tokens.place + 1)
    return total / weight


_MODES: dict[str, Callable[[_Tokens], Tensor]] = {
    "cls": _first,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}

_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


class Pooling(Module):
    """Combines the token vectors of a text into one embedding.

    Modes: "cls" takes the first token, "lasttoken" the last, "max" the maximum of each dimension, "mean" the
    average, "mean_sqrt_len_tokens" the sum divided by the square root of the number of tokens, "weightedmean"
    an average in which the i-th token has weight i. After :class:`ray_st.models.WordWeights` averages are
    divided by the sum of its weights. Several modes are concatenated. A text without any token that counts
    gets zeros.

    Args:
        word_embedding_dimension: Dimension d of the token vectors.
        pooling_mode: One or more modes; "mean" by default.
        include_prompt: Whether tokens of the prompt (the first ``prompt_length`` tokens) count. Tokens after
            it keep the position, and so the weight, that they have in the whole text.
        embedding_dimension: The newer name of ``word_embedding_dimension``.
        **flags: The older way to choose modes: ``pooling_mode_mean_tokens=True`` and the like.

    Raises:
        ValueError: If a mode is unknown or none is chosen.
    """

    POOLING_MODES = tuple(_MODES)

    def __init__(
        self,
        word_embedding_dimension: int | None = None,
        pooling_mode: str | Sequence[str] | None = None,
        include_prompt: bool = True,
        *,
        embedding_dimension: int | None = None,
        **flags: bool,
    ) -> None:
        super().__init__()
        dimension = word_embedding_dimension if embedding_dimension is None else embedding_dimension
        if unknown := sorted(set(flags) - set(_FLAGS)):
            raise ValueError(f"Pooling has no argument {unknown[0]!r}; its flags are {', '.join(_FLAGS)}.")
        if not isinstance(dimension, int):
            raise ValueError(
                f"Pooling needs word_embedding_dimension, the dimension of a token; got {dimension!r}."
            )
        self.word_embedding_dimension = dimension
        self.pooling_modes = _modes(pooling_mode, flags)
        self.include_prompt = include_prompt

    @property
    def pooling_mode(self) -> str | tuple[str, ...]:
        """The mode, or the modes in the order in which they are concatenated."""
        return self.pooling_modes[0] if len(self.pooling_modes) == 1 else self.pooling_modes

    def forward(self, features: Features) -> Features:
        """The features with ``sentence_embedding`` (n, modes x d) from ``token_embeddings`` (n, t, d)."""
        vectors = features["token_embeddings"]
        mask = features.get("attention_mask")
        real = (vectors.new_ones(vectors.shape[:2]) if mask is None else mask).bool()
        place = torch.arange(real.shape[1], device=real.device) - real.int().argmax(dim=1, keepdim=True)
        kept = real
        if not self.include_prompt and "prompt_length" in features:
            prompt = torch.as_tensor(features["prompt_length"], device=real.device).reshape(-1, 1)
            kept = real & (place >= prompt)
        tokens = _Tokens(vectors, kept, place, features.get("token_weights_sum"))
        pooled = torch.cat([_MODES[mode](tokens) for mode in self.pooling_modes], dim=1)
        return {**features, "sentence_embedding": pooled.to(vectors.dtype)}

    def get_pooling_mode_str(self) -> str:
        """The modes, joined by "+"."""
        return "+".join(self.pooling_modes)

    def get_embedding_dimension(self) -> int:
        """Dimension of the pooled embedding."""
        return len(self.pooling_modes) * self.word_embedding_dimension

    get_sentence_embedding_dimension = get_embedding_dimension

    def get_config_dict(self) -> dict[str, Any]:
        """One flag per mode, which all readers know; the newer form only if the order of modes needs it."""
        shared = {"include_prompt": self.include_prompt}
        if self.pooling_modes == tuple(mode for mode in _MODES if mode in self.pooling_modes):
            flags = {flag: mode in self.pooling_modes for flag, mode in _FLAGS.items()}
            return {"word_embedding_dimension": self.word_embedding_dimension, **flags, **shared}
        modes = {"pooling_mode": list(self.pooling_modes)}
        return {"embedding_dimension": self.word_embedding_dimension, **modes, **shared}

    @classmethod
    def load(cls, folder: str | Path, **options: Unpack[LoadOptions]) -> Self:
        """Reads a module from its folder, in the older or the newer form.

        Raises:
            ModelFolderError: If the folder has no settings, or invalid ones.
        """
        config = read_config(cls, Path(folder))
        try:
            return cls(**config)
        except ValueError as error:
            raise ModelFolderError(f"{Path(folder) / cls.config_file_name}: {error}") from error

    def extra_repr(self) -> str:
        """What ``print(model)`` shows of this module."""
        modes = self.get_pooling_mode_str()
        return f"{self.word_embedding_dimension}, {modes}, include_prompt={self.include_prompt}"


def _modes(pooling_mode: str | Sequence[str] | None, flags: Mapping[str, bool]) -> tuple[str, ...]:
    if pooling_mode is None:
        modes = tuple(mode for flag, mode in _FLAGS.items() if flags.get(flag)) or ("mean",)
    else:
        modes = (pooling_mode,) if isinstance(pooling_mode, str) else tuple(pooling_mode)
    if not modes or set(modes) - set(_MODES):
        raise ValueError(f"pooling_mode must be one or more of {', '.join(_MODES)}; got {list(modes)}.")
    return modes
