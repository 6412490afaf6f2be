"""What every kind of model answers: where its weights are, and whether its encoders can save memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ray_st.models.exported.exported_module import ExportedModule, exported_parts

logger = logging.getLogger(__name__)


class WholeModel(nn.Module):
    """A model as a whole, whatever it is made of and returns."""

    @property
    def device(self) -> torch.device:
        """Where the weights are; the CPU for a model without any."""
        first = next(self.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    @property
    def dtype(self) -> torch.dtype | None:
        """Type of the weights; None for a model without any."""
        first = next(self.parameters(), None)
        return None if first is None else first.dtype

    @property
    def backend(self) -> str:
        """What computes the encoder or classifier: "torch", "onnx" or "openvino"."""
        return next((part.backend for part in exported_parts(self)), "torch")

    def get_backend(self) -> str:
        """The same as :attr:`backend`."""
        return self.backend

    @property
    def transformers_model(self) -> nn.Module | None:
        """The first encoder or classifier, or what computes in its place; None without any."""
        kinds = (PreTrainedModel, ExportedModule)
        return next((part for part in self.modules() if isinstance(part, kinds)), None)

    def evaluate(self, evaluator: Callable[..., Any], output_path: str | Path | None = None) -> Any:
        """What an evaluator returns for this model.

        Args:
            evaluator: Called with the model and the path.
            output_path: Folder for its files; created if it does not exist.
        """
        if output_path is not None:
            Path(output_path).mkdir(parents=True, exist_ok=True)
        return evaluator(self, None if output_path is None else str(output_path))

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **options: object
    ) -> None:
        """Makes encoders recompute their activations in the backward pass, to save memory.

        Encoders that cannot (``MPNetModel`` is one) keep them, with a warning; so does a model without any
        encoder.

        Args:
            activation_checkpointing_kwargs: Passed to torch's checkpoint function.
            **options: Passed to the encoders' method of this name.
        """
        for encoder in self._encoders():
            if encoder.supports_gradient_checkpointing:
                # Earlier releases of transformers 5 have the older name only.
                older = encoder.gradient_checkpointing_enable
                enable = getattr(encoder, "activation_checkpointing_enable", older)
                enable(activation_checkpointing_kwargs, **options)
        if note := self.kept_activations:
            logger.warning("%s", note)

    @property
    def kept_activations(self) -> str:
        """Which encoders cannot recompute their activations, as a note to the user; empty if all can."""
        encoders = self._encoders()
        kept = [part for part in encoders if not part.supports_gradient_checkpointing]
        kinds = sorted({type(part).__name__ for part in (kept if encoders else list(self.children())[:1])})
        if not kinds:
            return ""
        listed = " and ".join(kinds)
        return f"gradient checkpointing has no effect on {listed}, which cannot compute activations again"

    def _encoders(self) -> list[PreTrainedModel]:
        """The encoders of transformers in all modules, without those inside of others."""
        found: dict[str, PreTrainedModel] = {}
        for place, part in self.named_modules():
            if isinstance(part, PreTrainedModel) and not any(
                place.startswith(f"{outer}.") for outer in found
            ):
                found[place] = part
        return list(found.values())

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **options: object
    ) -> None:
        """The older name of :meth:`activation_checkpointing_enable`."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **options)


def best_device() -> torch.device:
    """A GPU if there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
