from __future__ import annotations

import numpy as np
import torch

from ray_st.util import batch_to_device, normalize_embeddings, truncate_embeddings
from ray_st.util.tensors import to_numpy, to_rows, to_tensor


def test_read_only_arrays_are_copied() -> None:
    array = np.ones((2, 3), dtype=np.float32)
    array.flags.writeable = False
    assert to_tensor(array).tolist() == [[1.0] * 3] * 2


def test_types() -> None:
    assert to_tensor(torch.ones(2, dtype=torch.float64)).dtype == torch.float64
    assert to_tensor([[1.0, 2.0]]).dtype == torch.float32
    assert to_tensor(np.ones((1, 2), dtype=np.int8)).dtype == torch.float32
    assert to_rows([1.0, 2.0]).shape == (1, 2)
    assert to_numpy(torch.ones(2, dtype=torch.bfloat16, requires_grad=True)).dtype == np.float32


def test_normalize() -> None:
    found = normalize_embeddings(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_truncate() -> None:
    array = np.arange(6).reshape(2, 3)
    assert truncate_embeddings(array, 2).tolist() == [[0, 1], [3, 4]]
    assert (
        truncate_embeddings(array, None).tolist() == truncate_embeddings(array, 9).tolist() == array.tolist()
    )


def test_batch_to_device() -> None:
    batch = {"a": torch.ones(2), "b": 5}
    found = batch_to_device(batch, "meta")
    assert found is batch
    assert found["a"].device.type == "meta"
    assert found["b"] == 5
