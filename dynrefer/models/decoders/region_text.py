"""Region-text decoder: how well a text describes a region (captions, attributes, classes)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from dynrefer.distributed import gather_constant
from dynrefer.models.decoders.cross_attention import TextQueryDecoder
from dynrefer.models.losses import sigmoid_pair_loss
from dynrefer.models.parts import in_float32


class RegionTextDecoder(TextQueryDecoder):
    """Open-vocabulary matching of regions and texts (paper section 3.3)."""

    def __init__(self, *args: int, **options: float) -> None:
        super().__init__(*args, **options)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10)))
        self.bias = nn.Parameter(torch.tensor(-10.0))

    def similarity(self, texts: Tensor, memory: Tensor) -> Tensor:
        """Projected texts [T, width] and memories [N, Q, width] -> similarities [N, T]."""
        hidden = functional.normalize(self.decode(texts, memory), dim=-1)
        return self.classifier(hidden).squeeze(-1)

    @in_float32
    def forward(self, queries: Tensor, text_embeddings: Tensor) -> Tensor:
        """Queries [N, Q, D] and texts [T, text_width] -> similarities [N, T], no temperature."""
        memory = self.vision_projection(queries)
        return self.similarity(self.text_projection(text_embeddings), memory)

    @in_float32
    def loss(self, queries: Tensor, text_embeddings: Tensor) -> Tensor:
        """Sigmoid loss over the (region, caption) pairs of the global batch, both directions.

        Row n of ``text_embeddings`` [N, text_width] describes region n of ``queries`` [N, Q, D].
        Local regions meet the texts of all processes and the reverse; the gathered side is a
        constant, in one process too.
        """
        memory = self.vision_projection(queries)
        texts = self.text_projection(text_embeddings)
        all_memory, start = gather_constant(memory)
        all_texts, _ = gather_constant(texts)
        own_pair = start + torch.arange(len(memory), device=memory.device)
        pair_loss = [
            sigmoid_pair_loss(similarity, own_pair, self.log_scale, self.bias)
            for similarity in (
                self.similarity(texts, all_memory).T,
                self.similarity(all_texts, memory),
            )
        ]
        return (pair_loss[0] + pair_loss[1]) / 2
