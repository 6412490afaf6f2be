"""Loss for models that are good with fewer layers."""

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
from ray_st.losses.modifier import Modifier
from ray_st.losses.parts import Value, add, scale

_WEIGHTINGS = ("uniform", "log", "linear")


class AdaptiveLayerLoss(Modifier):
    """A loss on the last layer, the same on some of those before, and how far these are from the last.

    The model runs once; pooling and what follows runs for each chosen layer.

    Inputs and labels: those of the loss.

    Args:
        model: A SentenceTransformer whose first module holds an encoder of transformers.
        loss: Any loss, cached ones and modifiers among them.
        n_layers_per_step: How many of the prior layers are used in a step, chosen at random; all of them if -1. The same
            on every rank, and a function of the number of steps.
        last_layer_weight: Factor on the loss of the last layer.
        prior_layers_weight: Factor on the mean loss of the chosen prior layers.
        kl_div_weight: Factor on the divergence of each chosen layer's embedding from the last one's, both taken as
            distributions.
        kl_temperature: Temperature of these distributions; 0 leaves the divergence out.
        layer_weighting: Factor on the loss of a prior layer i, counted from 0, the token embeddings: ``"uniform"`` 1,
            ``"log"`` 1 / (1 + log(1 + i)), ``"linear"`` 1 / (1 + i), or a function of i.

    Raises:
        ValueError: If the model has no layers to choose from, or an option is not among these.

    References:
        Li et al. 2024, arXiv:2402.14776.
    """

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
        """The other loss's columns, with embeddings (n, layers, d): of the last layer, then of the chosen ones."""
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

    def get_config_dict(self) -> dict[str, Any]:
        """The loss's options, for the model card."""
        weighting = self.layer_weighting
        return {
            **super().get_config_dict(),
            "n_layers_per_step": self.n_layers_per_step,
            "last_layer_weight": self.last_layer_weight,
            "prior_layers_weight": self.prior_layers_weight,
            "kl_div_weight": self.kl_div_weight,
            "kl_temperature": self.kl_temperature,
            "layer_weighting": weighting
            if isinstance(weighting, str)
            else getattr(weighting, "__name__", "custom"),
        }

    @property
    def citation(self) -> str:
        """BibTeX of the paper that the loss comes from."""
        return """
@misc{li20242d,
    title = {2D Matryoshka Sentence Embeddings},
    author = {Li, Xianming and Li, Zongxi and Li, Jing and Xie, Haoran and Li, Qing},
    year = {2024},
    eprint = {2402.14776},
    archivePrefix = {arXiv},
}
"""


class Layers(nn.Module):
    """A model seen through several of its layers: its ``sentence_embedding`` is (n, layers, d).

    Args:
        model: A row of modules, the first of which gives ``all_layer_embeddings`` when its encoder is asked to.
        layers: Which of them to take, as indices of that tuple.
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
    config = getattr(getattr(next(model.children(), None), "auto_model", None), "config", None)
    layers = getattr(config, "num_hidden_layers", None)
    if layers is None:
        raise ValueError(
            "AdaptiveLayerLoss needs a model whose first module has an encoder with several layers; "
            f"{type(model).__name__} has none."
        )
    return int(layers)
