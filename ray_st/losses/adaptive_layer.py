"""Loss that trains a model to work with fewer layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ray_st.losses.columns import Columns
from ray_st.losses.helpers import at_least_float32, check_choice
from ray_st.losses.loss import Loss
from ray_st.losses.model_facts import first_encoder
from ray_st.losses.modifier import Modifier
from ray_st.losses.parts import Value, add, scale

_WEIGHTINGS = ("uniform", "log", "linear")


class AdaptiveLayerLoss(Modifier):
    """Applies a loss to the last layer and to some earlier ones, and pulls the earlier ones towards the last.

    The model runs once; pooling and later modules run for each chosen layer.

    Inputs and labels: those of the loss.

    Args:
        model: A SentenceTransformer whose first module holds an encoder of transformers.
        loss: Any loss, cached ones and modifiers among them.
        n_layers_per_step: How many prior layers to use in a step, sampled at random; -1 for all. The sample
            is the same on every rank and depends only on the number of steps.
        last_layer_weight: Factor on the loss of the last layer.
        prior_layers_weight: Factor on the mean loss of the chosen prior layers.
        kl_div_weight: Factor on the divergence of each chosen layer's embedding from the last one's, both
            taken as distributions.
        kl_temperature: Temperature of these distributions; 0 disables the divergence.
        layer_weighting: Factor on the loss of a prior layer i, counted from 0, the token embeddings:
            ``"uniform"`` 1, ``"log"`` 1 / (1 + log(1 + i)), ``"linear"`` 1 / (1 + i), or a function of i.

    Raises:
        ValueError: If the model has no layers to choose from, or an option is invalid.

    References:
        Li et al. 2024, arXiv:2402.14776.
    """

    shown = (
        "n_layers_per_step",
        "last_layer_weight",
        "prior_layers_weight",
        "kl_div_weight",
        "kl_temperature",
        "layer_weighting",
    )
    cites = ("li20242d",)

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        n_layers_per_step: int = 1,
        last_layer_weight: float = 1.0,
        prior_layers_weight: float = 1.0,
        kl_div_weight: float = 1.0,
        kl_temperature: float = 0.3,
        layer_weighting: str | Callable[[int], float] = "uniform",
    ) -> None:
        super().__init__(model, loss)
        if not callable(layer_weighting):
            check_choice("layer_weighting", layer_weighting, _WEIGHTINGS)
        self.number_of_layers = _number_of_layers(model)
        self.n_layers_per_step = n_layers_per_step
        self.last_layer_weight = last_layer_weight
        self.prior_layers_weight = prior_layers_weight
        self.kl_div_weight = kl_div_weight
        self.kl_temperature = kl_temperature
        self.layer_weighting = layer_weighting
        self._chosen: list[int] = []

    def columns(self, features: Sequence[Mapping[str, Any]], labels: Tensor | None = None) -> Columns:
        """The inner loss's columns, with embeddings (n, layers, d): the last layer, then the chosen ones."""
        self._chosen = self.choose(self.number_of_layers, self.n_layers_per_step)
        with self.loss.seen_through(self._layers):
            return self.loss.columns(features, labels)

    def _layers(self, model: nn.Module) -> nn.Module:
        return Layers(model, [-1, *self._chosen])

    def compute(self, columns: Columns) -> Value:
        """Weighted sum over the layers."""
        last = columns.map(lambda rows: rows[:, 0])
        value = scale(self.loss.compute(last), self.last_layer_weight)
        for place, layer in enumerate(self._chosen, 1):
            prior = columns.map(lambda rows, place=place: rows[:, place])  # type: ignore[misc]
            weight = self.prior_layers_weight * self.get_layer_weight(layer) / len(self._chosen)
            value = add(value, scale(self.loss.compute(prior), weight))
            if self.kl_temperature > 0:
                value = add(value, self._divergence(torch.cat(prior.mine), torch.cat(last.mine)))
        return value

    def skip(self) -> None:
        """Counts the inner loss's computations; the sample of layers was counted with the columns."""
        for _ in range(1 + len(self._chosen)):
            self.loss.skip()

    def _divergence(self, prior: Tensor, last: Tensor) -> Tensor:
        rows, wanted = (at_least_float32(part) / self.kl_temperature for part in (prior, last.detach()))
        divergence = F.kl_div(F.log_softmax(rows, -1), F.softmax(wanted, -1), reduction="batchmean")
        return divergence * self.kl_temperature * self.kl_div_weight

    def get_layer_weight(self, layer_idx: int) -> float:
        """Factor on the loss of a prior layer."""
        if callable(self.layer_weighting):
            return self.layer_weighting(layer_idx)
        weights = {"log": 1 / (1 + math.log(1 + layer_idx)), "linear": 1 / (1 + layer_idx)}
        return weights.get(self.layer_weighting, 1.0)


class Layers(nn.Module):
    """A model seen through several of its layers: its ``sentence_embedding`` is (n, layers, d).

    Args:
        model: A sequence of modules; the first returns ``all_layer_embeddings`` if its encoder is configured
            to.
        layers: Indices into that tuple.
    """

    def __init__(self, model: nn.Module, layers: Sequence[int]) -> None:
        super().__init__()
        self.model, self.layers = model, layers

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """The features with ``sentence_embedding`` (n, layers, d)."""
        modules: list[Any] = list(self.model.children())
        first, *others = modules
        config = first.auto_model.config
        before, config.output_hidden_states = config.output_hidden_states, True
        try:
            tokens = dict(first(dict(features)))
        finally:
            config.output_hidden_states = before
        states = tokens.pop("all_layer_embeddings")
        embeddings = []
        for layer in self.layers:
            part = {**tokens, "token_embeddings": states[layer] if layer >= 0 else tokens["token_embeddings"]}
            for module in others:
                part = module(part)
            embeddings.append(part["sentence_embedding"])
        return {"sentence_embedding": torch.stack(embeddings, dim=1)}


def _number_of_layers(model: nn.Module) -> int:
    match first_encoder(model):
        case object(config=object(num_hidden_layers=int(layers))):
            return layers
    raise ValueError(
        "AdaptiveLayerLoss needs a model whose first module has an encoder with several layers; "
        f"{type(model).__name__} has none."
    )
