"""Regression of the cosine similarity of pairs on their scores."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from ray_st.losses.columns import Columns
from ray_st.losses.loss import Loss


class CosineSimilarityLoss(Loss):
    r"""Regresses the cosine of each pair on its label: ``loss_fct(transformation(cos(u, v)), label)``.

    Inputs: (input_A, input_B) with a float score as label, usually between 0 and 1.

    Args:
        model: Maps features to a dict with ``sentence_embedding`` (n, d).
        loss_fct: Maps transformed similarities (n,) and labels (n,) to a scalar, a mean over the rows.
        cos_score_transformation: Applied to the similarities (n,) first.

    References:
        Reimers and Gurevych 2019, arXiv:1908.10084, section 3 (regression objective).
    """

    text_columns: tuple[int, int | None] = (2, 2)
    labels: str = "float score"

    def __init__(
        self,
        model: nn.Module,
        loss_fct: nn.Module = nn.MSELoss(),  # noqa: B008 (documented default, without state)
        cos_score_transformation: nn.Module = nn.Identity(),  # noqa: B008
    ) -> None:
        super().__init__(model)
        self.loss_fct = loss_fct
        self.cos_score_transformation = cos_score_transformation

    def compute(self, columns: Columns) -> Tensor:
        """Loss of this rank's pairs."""
        assert columns.labels is not None  # ensured by check_labels
        first, second = columns.mine
        scores = self.cos_score_transformation(cosine_similarity(first, second))
        return self.loss_fct(scores, columns.labels.to(scores.dtype))

    def get_config_dict(self) -> dict[str, Any]:
        """The loss's options, for the model card."""
        return {
            "loss_fct": _full_name(self.loss_fct),
            "cos_score_transformation": _full_name(self.cos_score_transformation),
        }


def _full_name(part: nn.Module) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"
