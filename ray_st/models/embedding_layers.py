"""Modules over the pooled embedding: a linear layer, dropout and two kinds of normalization."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from ray_st.models.activations import activation_name, read_activation, warn_of_arguments
from ray_st.models.folder_files import write_weights
from ray_st.models.module import Features, LoadOptions, Module, WeightedModule, read_config, take_weights
from ray_st.util.tensors import normalize_embeddings

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


class Dense(Module):
    """Maps embeddings from one dimension to another.

    Args:
        in_features: Dimension of the input.
        out_features: Dimension of the output.
        bias: Whether to add a bias.
        activation_function: Applied after the linear map; None leaves it linear.
        init_weight: (out_features, in_features), the weight to start from.
        init_bias: (out_features,), the bias to start from.
        module_input_name: The feature to map.
        module_output_name: The feature that receives the result; by default the same.
        use_residual: Whether to add the input to the output, through a linear map of its own if the
            dimensions differ.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation_function: Callable[[Tensor], Tensor] | None = nn.Tanh(),  # noqa: B008 (holds no state)
        init_weight: Tensor | None = None,
        init_bias: Tensor | None = None,
        module_input_name: str = "sentence_embedding",
        module_output_name: str | None = None,
        use_residual: bool = False,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.bias = bias
        self.activation_function = activation_function or nn.Identity()
        self.module_input_name = module_input_name
        self.module_output_name = module_output_name or module_input_name
        self.use_residual = use_residual
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        self.residual = _residual(in_features, out_features) if use_residual else None
        if init_weight is not None:
            self.linear.weight = nn.Parameter(init_weight)
        if init_bias is not None and bias:
            self.linear.bias = nn.Parameter(init_bias)

    def forward(self, features: Features) -> Features:
        """The features with the embedding mapped: (n, in_features) to (n, out_features)."""
        value = features[self.module_input_name]
        result = self.activation_function(self.linear(value))
        if self.residual is not None:
            result = result + self.residual(value)
        return {**features, self.module_output_name: result}

    def get_embedding_dimension(self) -> int:
        """Dimension of the output."""
        return self.out_features

    get_sentence_embedding_dimension = get_embedding_dimension

    def get_config_dict(self) -> dict[str, Any]:
        """The constructor's arguments; defaults that older readers do not know are left out."""
        config: dict[str, Any] = {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.bias,
            "activation_function": activation_name(self.activation_function),
        }
        if {self.module_input_name, self.module_output_name} != {"sentence_embedding"}:
            config["module_input_name"] = self.module_input_name
            config["module_output_name"] = self.module_output_name
        return config | ({"use_residual": True} if self.use_residual else {})

    def save(self, folder: str | Path) -> None:
        """Writes settings and weights into an existing folder."""
        warn_of_arguments(self.activation_function)
        super().save(folder)
        write_weights(Path(folder), self.state_dict())

    @classmethod
    def load(cls, folder: str | Path, **options: Unpack[LoadOptions]) -> Self:
        """Reads a module from its folder.

        Args:
            folder: Where :meth:`save` wrote it.
            **options: With ``trust_remote_code`` the activation may be a class from outside ``torch.nn``.

        Raises:
            ModelFolderError: If the activation is unknown, or weights are missing, pickled or of another
                shape.
        """
        config = read_config(cls, Path(folder))
        if name := config.get("activation_function"):
            trust = options.get("trust_remote_code", False)
            config["activation_function"] = read_activation(name, trust, "The Dense module's activation")
        dense = cls(**config)
        take_weights(dense, Path(folder))
        return dense


def _residual(in_features: int, out_features: int) -> nn.Module:
    return nn.Identity() if in_features == out_features else nn.Linear(in_features, out_features, bias=False)


class Dropout(Module):
    """Sets a fraction of the embedding's values to zero during training, and scales up the others.

    Args:
        dropout: The fraction, from 0 to 1.

    Raises:
        ValueError: If it is outside that range.
    """

    config_keys: ClassVar[tuple[str, ...]] = ("dropout",)

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.dropout = dropout
        self.dropout_layer = nn.Dropout(dropout)

    def forward(self, features: Features) -> Features:
        """The features with ``sentence_embedding`` (n, d) after dropout."""
        return {**features, "sentence_embedding": self.dropout_layer(features["sentence_embedding"])}


class LayerNorm(WeightedModule):
    """Shifts and scales each embedding to mean 0 and variance 1, then by learned weights.

    Args:
        dimension: Dimension of the embedding.
    """

    config_keys: ClassVar[tuple[str, ...]] = ("dimension",)

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.dimension = dimension
        self.norm = nn.LayerNorm(dimension)

    def forward(self, features: Features) -> Features:
        """The features with ``sentence_embedding`` (n, dimension) normalized."""
        return {**features, "sentence_embedding": self.norm(features["sentence_embedding"])}

    def get_embedding_dimension(self) -> int:
        """Dimension of the embedding."""
        return self.dimension

    get_sentence_embedding_dimension = get_embedding_dimension


class Normalize(Module):
    """Scales embeddings to unit length, so that dot product and cosine similarity are equal.

    Args:
        module_input_name: The feature to scale.
        module_output_name: The feature that receives the result; by default the same.
    """

    config_keys: ClassVar[tuple[str, ...]] = ("module_input_name", "module_output_name")

    def __init__(
        self, module_input_name: str = "sentence_embedding", module_output_name: str | None = None
    ) -> None:
        super().__init__()
        self.module_input_name = module_input_name
        self.module_output_name = module_output_name or module_input_name

    def forward(self, features: Features) -> Features:
        """The features with the embedding scaled: (n, d) to (n, d)."""
        return {**features, self.module_output_name: normalize_embeddings(features[self.module_input_name])}
