"""Which strategy training arguments ask for."""

from __future__ import annotations

from ray_st.training.strategies.sharded import Sharded
from ray_st.training.strategies.strategy import DeepSpeed, Strategy
from ray_st.training_args import SentenceTransformerTrainingArguments
from ray_st.world import World


def make_strategy(
    args: SentenceTransformerTrainingArguments, world: World, with_deepspeed: bool = False
) -> Strategy:
    """The strategy that training arguments ask for.

    Args:
        args: Training arguments.
        world: This process's rank and the number of ranks.
        with_deepspeed: Whether accelerate was set up for DeepSpeed.
    """
    if args.fsdp and world.size > 1:
        return Sharded(args, world)
    return DeepSpeed(args, world) if with_deepspeed else Strategy(args, world)
