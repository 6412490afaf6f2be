"""Which weights are gathered together: layers one at a time, the rest with a module or a step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ray_st.models.stack import Stack
from ray_st.training.strategies.step_module import Step
from ray_st.training_args.sharding_options import BY_SIZE, NO_WRAP


@dataclass(frozen=True)
class Layout:
    """The groups in which a step's weights are gathered.

    Attributes:
        units: Modules whose weights are gathered to run them; inner ones come first.
        roots: Modules that the model calls one after the other. Weights outside of units are gathered when a
            module is called, and stay until its backward pass is over.
        held: Weights that are gathered for a whole step, because modules without calls of their own use them:
            those of losses, and those that several modules share.
        numbers: Weights without a dimension, which cannot be sharded; none of them is trained.
    """

    units: list[nn.Module]
    roots: list[nn.Module]
    held: list[nn.Parameter]
    numbers: list[nn.Parameter]

    @classmethod
    def of(cls, step: Step, config: Mapping[str, Any]) -> Layout:
        """The groups of a step.

        Args:
            step: Model and losses.
            config: ``fsdp_config``.

        Raises:
            ValueError: If no module has a configured name.
        """
        model = step.model
        modules = list(model.children()) if isinstance(model, Stack) else [model]
        roots = [module for module in modules if next(module.parameters(), None) is not None]
        uses = _uses(step)
        alone = {weight for root in roots for weight in _used_only_in(root, uses)}
        numbers = [weight for weight in step.parameters() if not weight.ndim]
        held = [weight for weight in step.parameters() if weight.ndim and id(weight) not in alone]
        return cls(units(step, config), roots, held, numbers)


def units(step: Step, config: Mapping[str, Any]) -> list[nn.Module]:
    """The modules that are gathered separately, inner ones first.

    These are the modules of the model's encoders that ``config`` selects by class or size, unless they share
    weights with others.

    Args:
        step: Model and losses.
        config: ``fsdp_config``.

    Raises:
        ValueError: If no module has a configured name.
    """
    encoders = [part for part in step.model.modules() if isinstance(part, PreTrainedModel)]
    policy = config.get("auto_wrap_policy")
    if policy == NO_WRAP:
        return []
    if policy == BY_SIZE:
        chosen = _by_size(encoders, config["min_num_params"])
    else:
        chosen = _by_class(encoders, config.get("transformer_layer_cls_to_wrap"))
    uses = _uses(step)
    return [part for part in chosen if _used_only_in(part, uses) == set(map(id, part.parameters()))]


def _by_class(encoders: Sequence[PreTrainedModel], wanted: Sequence[str] | None) -> list[nn.Module]:
    names = {name for encoder in encoders for name in encoder._no_split_modules or ()}
    found = [
        part
        for part in _inner_parts(encoders)
        if type(part).__name__ in (names if wanted is None else wanted)
    ]
    missing = sorted(set(wanted or ()) - {type(part).__name__ for part in found})
    if missing:
        there = sorted({type(part).__name__ for part in _inner_parts(encoders)})
        raise ValueError(
            f"fsdp_config: transformer_layer_cls_to_wrap names {missing}, and the model has no such layers. "
            f"It has {there}."
        )
    return found


def _by_size(encoders: Sequence[PreTrainedModel], least: int) -> list[nn.Module]:
    chosen: list[nn.Module] = []
    taken: set[int] = set()
    for part in _inner_parts(encoders):
        weights = [weight for weight in part.parameters() if id(weight) not in taken]
        if sum(weight.numel() for weight in weights) >= least:
            chosen.append(part)
            taken.update(map(id, weights))
    return chosen


def _inner_parts(encoders: Sequence[PreTrainedModel]) -> list[nn.Module]:
    """The submodules of encoders that have a forward of their own, inner ones first."""
    parts = {id(part): part for encoder in encoders for part in list(encoder.modules())[1:]}
    lists = (nn.ModuleList, nn.ModuleDict, PreTrainedModel)
    return [part for part in reversed(parts.values()) if not isinstance(part, lists)]


def _uses(module: nn.Module) -> Counter[int]:
    """How many modules use each weight."""
    return Counter(id(weight) for part in module.modules() for weight in part.parameters(recurse=False))


def _used_only_in(module: nn.Module, uses: Mapping[int, int]) -> set[int]:
    """The weights that no module outside of a given one uses."""
    return {weight for weight, number in _uses(module).items() if uses[weight] == number}
