"""Weights are trained in float32, whatever type they are stored in, and converted back afterwards.

bfloat16 has 8 significant bits, so a step at a typical learning rate changes no weight: w + 1e-6 is w. Mixed
precision (``bf16``, ``fp16``) is different: it computes in low precision and accumulates in float32. Both
last for a training: afterwards the model is as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ray_st.models.adapter.peft_layers import adapter_weights, encoder_within
from ray_st.models.module import auto_model_of
from ray_st.models.packed_weights import is_packed, unpacked_weights
from ray_st.training.strategies.step_module import LossOrLosses, modules_of, owned_by_loss

_NARROW = (torch.float16, torch.bfloat16)


class StoredTypes:
    """The types of weights that are trained in float32; see :func:`widen`.

    Weights are identified by name, because sharding replaces the tensors.

    Args:
        model: The model.
        loss: The loss, or one for each dataset.
        kinds: The types of the tensors that are trained in float32, by name.
        hooks: Hooks that widen the outputs of modules that are not widened.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: LossOrLosses,
        kinds: Mapping[str, torch.dtype],
        hooks: Sequence[RemovableHandle] = (),
    ) -> None:
        self._model, self._loss = model, loss
        self._kinds, self._hooks = kinds, hooks

    @classmethod
    def of(cls, model: nn.Module, loss: LossOrLosses) -> StoredTypes:
        """The types of a model and its losses, which are not converted yet.

        Args:
            model: The model.
            loss: The loss, or one for each dataset.
        """
        found = _to_widen(model, loss)
        chosen = set(map(id, found.values()))
        left = [
            unit
            for unit in modules_of(model)
            if any(_is_narrow(weight) and id(weight) not in chosen for weight in unit.parameters())
        ]
        hooks = [unit.register_forward_hook(_widen_outputs) for unit in left]
        return cls(model, loss, {name: tensor.dtype for name, tensor in found.items()}, hooks)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are trained in float32, by name."""
        every = _all_tensors(self._model, self._loss).items()
        return {name: tensor for name, tensor in every if name in self._kinds}

    @property
    def by_identity(self) -> dict[int, torch.dtype]:
        """The stored types of these tensors, by ``id``."""
        return {id(tensor): self._kinds[name] for name, tensor in self.tensors.items()}

    def widen(self) -> None:
        """Converts the tensors to float32, in place."""
        for tensor in self.tensors.values():
            tensor.data = tensor.data.float()

    @contextmanager
    def for_a_while(self) -> Iterator[None]:
        """Within this context weights have their stored types; then exactly their earlier values again."""
        wide = {name: tensor.data for name, tensor in self.tensors.items()}
        self._narrow()
        try:
            yield
        finally:
            for name, tensor in self.tensors.items():
                tensor.data = wide[name]

    def restore(self) -> None:
        """Permanently restores the weights' stored types."""
        self._narrow()
        for hook in self._hooks:
            hook.remove()
        self._kinds, self._hooks = {}, ()

    def _narrow(self) -> None:
        for name, tensor in self.tensors.items():
            tensor.data = tensor.data.to(self._kinds[name])


def widen(model: nn.Module, loss: LossOrLosses) -> StoredTypes:
    """Converts the trained weights to float32, in place.

    A trained module of the model is widened as a whole, because layers expect a single type. If only its
    adapters are trained, only these are widened: the frozen weights keep their type, and so do modules that
    are not trained at all. Of a quantized encoder with adapters, all but the packed weights are widened.
    Outputs of modules that keep a narrow type are widened for the modules that follow and for the loss.

    Args:
        model: The model.
        loss: The loss, or one for each dataset.

    Returns:
        An object that restores the weights' types.
    """
    types = StoredTypes.of(model, loss)
    types.widen()
    return types


@contextmanager
def widened(model: nn.Module, loss: LossOrLosses) -> Iterator[StoredTypes]:
    """Within this context, trained weights are float32; see :func:`widen`."""
    types = widen(model, loss)
    try:
        yield types
    finally:
        types.restore()


@contextmanager
def mixed_precision(model: nn.Module, accelerator: Accelerator, moves: bool = True) -> Iterator[None]:
    """Within this context a model computes in mixed precision, if any was asked for, and returns float32.

    A loss's similarities are computed as the model gives them. accelerate gives the model another
    ``forward``, which would compute in low precision ever after and cannot be pickled; afterwards its own is
    back. So are those of the model's modules, which some losses call by themselves.

    Args:
        model: The model.
        accelerator: Knows the precision.
        moves: Whether the model is moved to the accelerator's device; one that is sharded is not, and its
            modules are prepared where it is sharded.
    """
    parts = {id(part): part for part in (model, *(modules_of(model) if moves else ()))}.values()
    before = [dict(vars(part)) for part in parts]
    accelerator.prepare_model(model, device_placement=moves, evaluation_mode=True)
    if accelerator.native_amp:
        for part in [part for part in parts if "forward" not in vars(part)]:
            part.forward = MethodType(_in_autocast(type(part), accelerator), part)
    try:
        yield
    finally:
        for part, attributes in zip(parts, before, strict=True):
            _restore(vars(part), attributes)


def _in_autocast(kind: type[nn.Module], accelerator: Accelerator) -> Callable[..., Any]:
    """A class's ``forward`` in mixed precision."""

    def forward(part: nn.Module, *given: Any, **options: Any) -> Any:
        with accelerator.autocast():
            return kind.forward(part, *given, **options)

    return forward


def _restore(attributes: dict[str, Any], before: Mapping[str, Any]) -> None:
    for name in [name for name, value in attributes.items() if before.get(name) is not value]:
        del attributes[name]
        if name in before:
            attributes[name] = before[name]


def note_on_types(model: nn.Module, loss: LossOrLosses) -> str:
    """A note on weights that are not stored in float32; empty if there are none."""
    widened = _to_widen(model, loss)
    said = []
    if any(tensor.requires_grad for tensor in widened.values()):
        kinds, values = _kinds_and_size(widened.values())
        said.append(
            f"{values} values are stored in {kinds}, trained and checkpointed in float32, and saved in "
            f"{kinds} again (model.float() before training keeps float32; bf16=True computes in bfloat16)"
        )
    elif widened:
        kinds, values = _kinds_and_size(widened.values())
        said.append(f"{values} values beside packed ones are stored in {kinds} and used in float32")
    kept = [weight for name, weight in model.named_parameters() if _is_narrow(weight) and name not in widened]
    if kept:
        kinds, values = _kinds_and_size(kept)
        said.append(f"{values} values that are not trained stay in {kinds}")
    return f"weights: {'; '.join(said)}" if said else ""


def _kinds_and_size(tensors: Iterable[Tensor]) -> tuple[str, str]:
    tensors = list(tensors)
    kinds = " and ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors}))
    return kinds, f"{sum(tensor.numel() for tensor in tensors):,}"


def _to_widen(model: nn.Module, loss: LossOrLosses) -> dict[str, Tensor]:
    """The tensors to be widened, by name."""
    own = [tensor for tensor in owned_by_loss(model, loss).values() if tensor.requires_grad]
    inside = [tensor for unit in modules_of(model) for tensor in _trained_within(unit)]
    chosen = {id(tensor) for tensor in (*own, *inside) if _is_narrow(tensor) and not is_packed(tensor)}
    return {name: tensor for name, tensor in _all_tensors(model, loss).items() if id(tensor) in chosen}


def _trained_within(unit: nn.Module) -> list[Tensor]:
    trained = [weight for weight in unit.parameters() if weight.requires_grad]
    adapters = set(map(id, adapter_weights(encoder_within(auto_model_of(unit)))))
    if any(_is_narrow(weight) and id(weight) not in adapters for weight in trained):
        return [*unit.parameters(), *unit.buffers()]
    # Norms and embeddings beside packed weights compute in float32, as peft prepares them.
    return [*trained, *(unpacked_weights(unit) if trained else [])]


def _is_narrow(tensor: Tensor) -> bool:
    return tensor.dtype in _NARROW


def _all_tensors(model: nn.Module, loss: LossOrLosses) -> dict[str, Tensor]:
    own = {f"loss.{name}": tensor for name, tensor in owned_by_loss(model, loss).items()}
    return {**dict(model.named_parameters()), **dict(model.named_buffers()), **own}


def _widen_outputs(module: nn.Module, inputs: tuple[object, ...], features: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.float() if isinstance(value, Tensor) and _is_narrow(value) else value
        for name, value in features.items()
    }
