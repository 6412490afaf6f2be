"""``CrossEncoder.fit``: a run of the reranker trainer, from a loader of examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ray_st.cross_encoder.reranker_trainer import CrossEncoderTrainer
from ray_st.legacy.fit import FitRun, fit_with
from ray_st.losses.scores import ScoreLoss, Scores
from ray_st.models.fit_methods import FitOptions, Loader

if TYPE_CHECKING:
    from ray_st.models.reranker.cross_encoder import CrossEncoder


class RerankerFitTrainer(FitRun, CrossEncoderTrainer):
    """The trainer of a reranker's ``fit``."""


class GivenLoss(ScoreLoss):
    """A function of a pair's logits and its label, such as those of torch.

    Args:
        model: The reranker.
        loss_fct: Maps logits, (n,) for a model of one label and otherwise (n, k), and labels (n,) to the
            loss; by default binary cross-entropy of one label, cross-entropy of several.
        activation_fct: Applied to the logits before.
    """

    text_columns = (2, 2)

    def __init__(
        self,
        model: CrossEncoder,
        loss_fct: Callable[[Tensor, Tensor], Tensor] | None = None,
        activation_fct: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(model)
        self._single = model.num_labels == 1
        self.labels = "float score" if self._single else "class"
        self.loss_fct = loss_fct or (nn.BCEWithLogitsLoss() if self._single else nn.CrossEntropyLoss())
        self.activation_fct = activation_fct or nn.Identity()

    def compute(self, scores: Scores) -> Tensor:
        """The loss of a batch."""
        logits = scores.logits[:, 0] if self._single else scores.logits
        loss: Tensor = self.loss_fct(self.activation_fct(logits), scores.labels)
        return loss


def fit_reranker(
    model: CrossEncoder,
    train_dataloader: Loader,
    options: FitOptions,
    loss_fct: Callable[[Tensor, Tensor], Tensor] | None,
    activation_fct: Callable[[Tensor], Tensor] | None,
    scaling_config: object,
    run_config: object,
) -> None:
    """Trains a reranker on the cluster; see :meth:`ray_st.CrossEncoder.fit`.

    Args:
        model: The reranker.
        train_dataloader: Its examples, each with two texts and a label.
        options: The other arguments.
        loss_fct: As for :class:`GivenLoss`.
        activation_fct: As for :class:`GivenLoss`.
        scaling_config: Ray Train's.
        run_config: Ray Train's.
    """
    objectives = [(train_dataloader, GivenLoss(model, loss_fct, activation_fct))]
    fit_with(RerankerFitTrainer, model, objectives, options, scaling_config, run_config)
