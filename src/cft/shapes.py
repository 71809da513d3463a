"""The shape of a model: how many parameters it has and what they weigh, without loading it.

Everything follows in closed form from a model's published config.json. Counts equal those of transformers' models.
"""

from collections.abc import Sequence

from pydantic import Field, model_validator

from cft import CftError
from cft.settings import Settings

BYTES = {"bfloat16": 2, "float32": 4, "float64": 8}
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


class Shape(Settings):
    """The sizes of a decoder: grouped-query attention and gated multi-layer perceptrons, or experts, in every layer."""

    layers: int = Field(ge=1)
    hidden: int = Field(ge=1, description="width of a token's state")
    intermediate: int = Field(ge=1, description="width of the gated perceptron, or of each expert")
    heads: int = Field(ge=1)
    key_value_heads: int = Field(ge=1)
    head_dim: int = Field(ge=1)
    vocabulary: int = Field(ge=1, description="rows of the embedding")
    tied_embeddings: bool = Field(description="whether the output layer is the embedding")
    experts: int = Field(default=0, ge=0, description="experts of a layer; 0: one dense perceptron")
    experts_per_token: int = Field(default=0, ge=0, description="experts that a token passes through")
    norms: int = Field(default=2, ge=2, description="normalisations of the state in a layer; Gemma has four")
    query_key_norms: bool = Field(default=False, description="queries and keys are normalised by head")
    biases: bool = Field(default=False, description="attention, router and experts have biases")
    sinks: bool = Field(default=False, description="a learned sink for each attention head")
    other: int = Field(default=0, ge=0, description="parameters outside the language model: vision tower, projector")

    @model_validator(mode="after")
    def _experts_are_chosen(self) -> "Shape":
        if not (self.experts_per_token <= self.experts and bool(self.experts_per_token) == bool(self.experts)):
            raise ValueError(f"experts_per_token ({self.experts_per_token}) does not go with experts ({self.experts})")
        if self.heads % self.key_value_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of key_value_heads ({self.key_value_heads})")
        return self

    @property
    def parameters(self) -> int:
        """All parameters, tied ones once."""
        return self._language(self.experts) + self.other

    @property
    def active(self) -> int:
        """Parameters whose multiplications a token pays for: its experts only, no table look-up, no vision tower."""
        looked_up = 0 if self.tied_embeddings else self.vocabulary * self.hidden
        return self._language(self.experts_per_token) - looked_up

    @property
    def output_layer(self) -> int:
        """Parameters of the output layer: part of `active`, but paid for only where logits are computed."""
        return self.vocabulary * self.hidden

    def size_of(self, linear: str) -> tuple[int, int]:
        """Inputs and outputs of a linear layer; raises CftError for one that such a model has not."""
        queries, keys = self.heads * self.head_dim, self.key_value_heads * self.head_dim
        sizes = {
            "q_proj": (self.hidden, queries),
            "k_proj": (self.hidden, keys),
            "v_proj": (self.hidden, keys),
            "o_proj": (queries, self.hidden),
        }
        if not self.experts:
            sizes["gate_proj"] = sizes["up_proj"] = (self.hidden, self.intermediate)
            sizes["down_proj"] = (self.intermediate, self.hidden)
        if linear not in sizes:
            raise CftError(f"lora.targets: {linear} is no linear layer of this shape; known: {', '.join(sizes)}")
        return sizes[linear]

    def trainable(self, rank: int, targets: Sequence[str]) -> int:
        """Parameters of a LoRA adapter on the language model: two factors of `rank` for each target of each layer."""
        return self.layers * sum(rank * sum(self.size_of(target)) for target in targets)

    def weight_bytes(self, dtype: str) -> int:
        """Bytes of the weights in a dtype."""
        return self.parameters * BYTES[dtype]

    def cache_bytes(self, dtype: str) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.layers * self.key_value_heads * self.head_dim * BYTES[dtype]

    def _language(self, experts: int) -> int:
        """Parameters of the language model, with so many experts in a layer."""
        embeddings = self.vocabulary * self.hidden * (1 if self.tied_embeddings else 2)
        layer = self._attention() + self._perceptron(experts) + self.norms * self.hidden
        return embeddings + self.layers * layer + self.hidden

    def _attention(self) -> int:
        sizes = [self.size_of(name) for name in ATTENTION]
        weights = sum(inputs * outputs for inputs, outputs in sizes)
        biases = sum(outputs for _, outputs in sizes) if self.biases else 0
        norms = 2 * self.head_dim if self.query_key_norms else 0
        return weights + biases + norms + (self.heads if self.sinks else 0)

    def _perceptron(self, experts: int) -> int:
        """One dense perceptron, or a router over all experts and `experts` of them."""
        weights, biases = 3 * self.hidden * self.intermediate, 0
        if not self.experts:
            return weights
        if self.biases:
            biases = 2 * self.intermediate + self.hidden
        router = self.experts * (self.hidden + (1 if self.biases else 0))
        return router + experts * (weights + biases)
