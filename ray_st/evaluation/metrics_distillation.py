"""How far a student's embeddings are from its teacher's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def mean_squared_error(teacher: NDArray[Any], student: NDArray[Any]) -> float:
    """Mean squared difference of all numbers; nan if any is.

    Args:
        teacher: (n, d).
        student: (n, d).

    Raises:
        ValueError: If the shapes differ.
    """
    if teacher.shape != student.shape:
        raise ValueError(
            f"Teacher and student need embeddings of the same shape; found {teacher.shape} and {student.shape}. "
            "Set truncate_dim, or give the student a Dense module of the teacher's dimension."
        )
    difference = np.subtract(teacher, student, dtype=np.float32)
    return float(np.square(difference).mean(dtype=np.float64))
