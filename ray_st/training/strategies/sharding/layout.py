"""Which weights are gathered together: layers one at a time, the rest with a module or a step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ray_st.losses.model_facts import config_size
from ray_st.training.strategies.step_module import Step, modules_of
from ray_st.training_args.sharding_options import BY_SIZE, NO_WRAP


@dataclass(frozen=True)
class Layout:
    """The groups in which a step's weights are gathered.

    Attributes:
        units: Modules whose weights are gathered to run them; inner ones come first.
        roots: Modules that the model calls one after the other. Weights outside of units are gathered when a
            module is called, and stay until its backward pass is over.
        held: Weights that are gathered for a whole step: those of losses, those that several modules share,
            and vectors that are kept apart from linear layers.
        numbers: Weights without a dimension, which cannot be sharded; none of them is trained.
        matrices: Units and roots that gather nothing but what linear layers own, all of which mixed precision
            converts to the type that it computes in.
    """

    units: list[nn.Module]
    roots: list[nn.Module]
    held: list[nn.Parameter]
    numbers: list[nn.Parameter]
    matrices: list[nn.Module]

    @classmethod
    def of(cls, step: Step, config: Mapping[str, Any], apart: bool = False) -> Layout:
        """The groups of a step.

        Args:
            step: Model and losses.
            config: ``fsdp_config``.
            apart: Whether linear layers are gathered apart from the vectors beside them, such as norms.

        Raises:
            ValueError: If no module has a configured name.
        """
        parts = units(step, config)
        roots = [module for module in modules_of(step.model) if next(module.parameters(), None) is not None]
        uses = _uses(step)
        alone = {weight for root in roots for weight in _used_only_in(root, uses)}
        held = {weight for weight in step.parameters() if weight.ndim and id(weight) not in alone}
        matrices, taken = list[nn.Module](), set(held)
        for module in (*parts, *roots) if apart else ():
            own = {weight for weight in module.parameters() if weight.ndim} - taken
            taken |= own
            others = own - _of_linear_layers(module)
            if others != own and all(weight.ndim == 1 for weight in others):
                matrices.append(module)
                held |= others
        ordered = [weight for weight in step.parameters() if weight in held]
        return cls(
            parts, roots, ordered, [weight for weight in step.parameters() if not weight.ndim], matrices
        )


def units(step: Step, config: Mapping[str, Any]) -> list[nn.Module]:
    """The modules that are gathered separately, inner ones first.

    These are the modules of the model's encoders that ``config`` selects by class or size, by default their
    layers and token embeddings, unless they share weights with others.

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
        wanted = config.get("transformer_layer_cls_to_wrap")
        chosen = _by_class(encoders, wanted)
        chosen += _embeddings_outside(encoders, chosen) if wanted is None else []
    uses = _uses(step)
    return [part for part in chosen if _used_only_in(part, uses) == set(map(id, part.parameters()))]


def _by_class(encoders: Sequence[PreTrainedModel], wanted: Sequence[str] | None) -> list[nn.Module]:
    names = {name for encoder in encoders for name in _layer_names(encoder)}
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


def _layer_names(encoder: PreTrainedModel) -> set[str]:
    """The classes of an encoder's layers: those it declares, else those in a list of all layers."""
    if encoder._no_split_modules:
        return set(encoder._no_split_modules)
    number = config_size(encoder, "num_hidden_layers")
    lists = (part for part in encoder.modules() if isinstance(part, nn.ModuleList))
    return {type(layer).__name__ for layers in lists if len(layers) == number for layer in layers}


def _embeddings_outside(encoders: Sequence[PreTrainedModel], chosen: Sequence[nn.Module]) -> list[nn.Module]:
    """The token embeddings that no chosen module contains; they may be half of a model's weights."""
    inside = {id(part) for module in chosen for part in module.modules()}
    found = {id(table): table for encoder in encoders for table in [encoder.get_input_embeddings()]}
    return [table for table in found.values() if id(table) not in inside]


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


def _of_linear_layers(module: nn.Module) -> set[nn.Parameter]:
    layers = [part for part in module.modules() if isinstance(part, (nn.Linear, Conv1D))]
    return {weight for layer in layers for weight in layer.parameters(recurse=False)}


def _uses(module: nn.Module) -> Counter[int]:
    """How many modules use each weight."""
    return Counter(id(weight) for part in module.modules() for weight in part.parameters(recurse=False))


def _used_only_in(module: nn.Module, uses: Mapping[int, int]) -> set[int]:
    """The weights that no module outside of a given one uses."""
    return {weight for weight, number in _uses(module).items() if uses[weight] == number}
