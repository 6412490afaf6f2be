"""Quantized embeddings: one byte or one bit per dimension."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ray_st.util.tensors import Embeddings

logger = logging.getLogger(__name__)

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
_STEADY_ROWS = 100  # fewer rows give unreliable ranges


def quantize_embeddings(
    embeddings: Embeddings,
    precision: str,
    ranges: np.ndarray | None = None,
    calibration_embeddings: Embeddings | None = None,
) -> np.ndarray:
    """Quantizes embeddings.

    ``int8`` and ``uint8`` divide the range of each dimension into 255 equal steps and keep the step's number;
    values outside the range are clipped. ``binary`` and ``ubinary`` keep the sign, eight dimensions per byte,
    the first in the highest bit; ``binary`` is ``ubinary`` minus 128.

    Args:
        embeddings: (n, d): an array, a tensor, or a list of either.
        precision: One of "float32", "int8", "uint8", "binary", "ubinary".
        ranges: (2, d), minimum and maximum of each dimension; for int8 and uint8.
        calibration_embeddings: (k, d), embeddings from which to take the ranges if none are given.

    Returns:
        (n, d) of the named type, or (n, d / 8 rounded up) int8 or uint8 for the two binary precisions.

    Raises:
        ValueError: If the precision is unknown, the embeddings are already quantized, or a single embedding
            would define its own range.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}.")
    values = as_array(embeddings)
    if values.dtype in (np.int8, np.uint8):
        raise ValueError(
            f"quantize_embeddings needs floating-point embeddings; these are {values.dtype} already."
        )
    if precision == "float32":
        return values.astype(np.float32)
    if precision.endswith("binary"):
        bits = np.packbits(values > 0, axis=-1)
        return bits if precision == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
    if ranges is None:
        ranges = find_ranges(values, precision, calibration_embeddings)
    return _steps(values, np.asarray(ranges, dtype=np.float32), precision)


def as_array(embeddings: Embeddings) -> np.ndarray:
    """Converts embeddings, given as an array, a tensor or a list of either, to one array."""
    # Tensors are recognised by their methods, so that using arrays does not require torch.
    match embeddings:
        case [object(detach=_), *_]:
            return np.stack([as_array(row) for row in embeddings])
        case object(detach=detach) if callable(detach):
            return detach().cpu().float().numpy()
    return np.asarray(embeddings)


def find_ranges(values: np.ndarray, precision: str, calibration: Embeddings | None = None) -> np.ndarray:
    """Minimum and maximum of each dimension (2, d).

    Args:
        values: Embeddings (n, d).
        precision: What the ranges are for, "int8" or "uint8".
        calibration: Embeddings (k, d) from which to take the ranges instead.

    Raises:
        ValueError: If a single embedding would define its own range.
    """
    if calibration is not None:
        source = as_array(calibration)
    elif values.ndim == 2 and len(values) > 1:
        source = values
        if len(values) < _STEADY_ROWS:
            logger.warning(
                "%s ranges taken from only %d embeddings; give ranges or calibration_embeddings for "
                "steadier ones.",
                precision,
                len(values),
            )
    else:
        raise ValueError(
            f"{precision} needs the range of each dimension, which {values.shape} embeddings cannot show; "
            "give ranges=(2, d) or calibration_embeddings=(k, d) to quantize_embeddings."
        )
    return np.stack([source.min(axis=0), source.max(axis=0)])


def _steps(values: np.ndarray, ranges: np.ndarray, precision: str) -> np.ndarray:
    low, step = _low_and_step(ranges)
    number = np.clip(np.floor((values - low) / step), 0, 255)
    return (number - 128).astype(np.int8) if precision == "int8" else number.astype(np.uint8)


def restore(codes: np.ndarray, precision: str, ranges: np.ndarray | None, dimensions: int) -> np.ndarray:
    """Approximate values of quantized embeddings: the lower end of a step, or 1 and 0 for a bit.

    Args:
        codes: (..., d), or (..., d / 8 rounded up) bytes of "ubinary".
        precision: "int8", "uint8" or "ubinary".
        ranges: (2, d), for int8 and uint8.
        dimensions: d.

    Returns:
        (..., d) in float64.
    """
    if precision == "ubinary":
        return np.unpackbits(codes.astype(np.uint8), axis=-1)[..., :dimensions].astype(np.float64)
    low, step = _low_and_step(np.asarray(ranges, dtype=np.float32))
    return (codes.astype(np.float64) + (128 if precision == "int8" else 0)) * step + low


def _low_and_step(ranges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = ranges
    step = (high - low) / 255
    return low, np.where(step == 0, 1, step)
