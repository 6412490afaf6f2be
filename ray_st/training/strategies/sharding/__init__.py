"""Weights sharded over ranks while training (PyTorch's FSDP2), and what their optimizer remembers.

Only this package uses ``fully_shard``, and only it and :mod:`ray_st.training.distributed.collectives` import
``torch.distributed``. A new wrapper of weights is a file here; a new way to wrap is a strategy in
:mod:`ray_st.training.strategies.strategy`.
"""
