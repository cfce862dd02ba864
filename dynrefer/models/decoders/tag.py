"""Tag decoder: which of the vocabulary's tags hold for a region."""

from torch import Tensor

from dynrefer.models.decoders.cross_attention import TextQueryDecoder
from dynrefer.models.losses import asymmetric_loss
from dynrefer.models.parts import in_float32


class TagDecoder(TextQueryDecoder):
    """Multi-label tagging with the tags' text embeddings as queries (paper section 3.3)."""

    @in_float32
    def forward(self, queries: Tensor, tag_embeddings: Tensor) -> Tensor:
        """Queries [N, Q, D] and tag embeddings [K, text_width] -> logits [N, K]."""
        memory = self.vision_projection(queries)
        hidden = self.decode(self.text_projection(tag_embeddings), memory)
        return self.classifier(hidden).squeeze(-1)

    def loss(self, queries: Tensor, tag_embeddings: Tensor, targets: Tensor) -> Tensor:
        """Asymmetric loss summed over regions and tags; targets bool [N, K]."""
        return asymmetric_loss(self(queries, tag_embeddings), targets)
