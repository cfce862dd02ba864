"""BLIP-2's Q-Former: a fixed number of queries read the region tokens."""

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from dynrefer.models.parts import Part


class QFormer(Part):
    """Query branch of BLIP-2's Q-Former (section 3 of BLIP-2; transformers' implementation).

    Args:
        encoder_width: channels C of the region tokens.
        num_query_tokens: queries Q.
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, dropout: the BERT
            layout; cross-attention stands in layers 0, 2, 4, ...
        freeze_query_tokens: True as published, where no trainable name matches them.
    """

    def __init__(
        self,
        encoder_width: int,
        num_query_tokens: int = 32,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        dropout: float = 0.1,
        freeze_query_tokens: bool = True,
    ) -> None:
        super().__init__()
        self.width = hidden_size
        self.model = Blip2QFormerModel(
            Blip2QFormerConfig(
                hidden_size=hidden_size,
                num_hidden_layers=num_hidden_layers,
                num_attention_heads=num_attention_heads,
                intermediate_size=intermediate_size,
                hidden_dropout_prob=dropout,
                attention_probs_dropout_prob=dropout,
                encoder_hidden_size=encoder_width,
                cross_attention_frequency=2,
                use_qformer_text_input=False,
            )
        )
        self.query_tokens = nn.Parameter(
            torch.empty(1, num_query_tokens, hidden_size), requires_grad=not freeze_query_tokens
        )
        nn.init.normal_(self.query_tokens, std=0.02)

    def forward(self, region_tokens: Tensor) -> Tensor:
        """Region tokens [N, L, C] -> queries [N, Q, D]."""
        queries = self.query_tokens.expand(len(region_tokens), -1, -1)
        return self.model(
            query_embeds=queries, encoder_hidden_states=region_tokens
        ).last_hidden_state
