"""The layer that tag and region-text decoder share: texts look at the queries of a region."""

from torch import Tensor, nn
from torch.nn import functional

from dynrefer.models.parts import Part


class CrossAttentionLayer(nn.Module):
    """Post-norm cross-attention and MLP; there is no self-attention between the texts."""

    def __init__(self, width: int, heads: int, intermediate: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"decoder width {width} is not a multiple of its {heads} heads")
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=1e-12)
        self.expand = nn.Linear(width, intermediate)
        self.contract = nn.Linear(intermediate, width)
        self.mlp_norm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, texts: Tensor, memory: Tensor) -> Tensor:
        """Texts [N or 1, T, width] and memory [N, Q, width] -> texts [N, T, width]."""
        query, key, value = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection, x in (
                (self.query, texts),
                (self.key, memory),
                (self.value, memory),
            )
        )
        attended = functional.scaled_dot_product_attention(
            query.expand(len(memory), -1, -1, -1),
            key,
            value,
            dropout_p=self.dropout if self.training else 0.0,
        )
        attended = self.output(attended.transpose(1, 2).flatten(2))
        texts = self.attention_norm(self._drop(attended) + texts)
        return self.mlp_norm(self._drop(self.contract(functional.gelu(self.expand(texts)))) + texts)

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training)


class TextQueryDecoder(Part):
    """Scores texts against regions: the body of the tag and of the region-text decoder.

    Args:
        query_width: width D of the Q-Former's queries.
        text_width: width of the text embeddings.
        width, heads, layers, intermediate, dropout: of the cross-attention layers.
    """

    def __init__(
        self,
        query_width: int,
        text_width: int,
        width: int = 256,
        heads: int = 4,
        layers: int = 2,
        intermediate: int = 1024,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.vision_projection = nn.Linear(query_width, width)
        self.text_projection = nn.Linear(text_width, width)
        self.layers = nn.ModuleList(
            CrossAttentionLayer(width, heads, intermediate, dropout) for _ in range(layers)
        )
        self.classifier = nn.Linear(width, 1)

    def decode(self, texts: Tensor, memory: Tensor) -> Tensor:
        """Projected texts [T, width] and memories [N, Q, width] -> hidden [N, T, width]."""
        hidden = texts.unsqueeze(0)
        for layer in self.layers:
            hidden = layer(hidden, memory)
        return hidden
