"""Fresh weights for training everything from scratch.

The published model starts from BLIP-2, and its own new parts start as the release starts them. Of
a narrow model without any pretrained part those starts hide the image: BERT's deviation of 0.02
and a deformable step that begins at zero leave the queries alike for all regions (a deviation of
0.002 across regions in the shapes model, against 0.2 with the weights below), and training stays
on a plateau for hundreds of steps.
"""

from torch import nn

from dynrefer.models.deformable import TAPS, DeformableAlignment
from dynrefer.models.fusion import ViewFusion
from dynrefer.models.qformer import QFormer


def start_from_scratch(fusion: ViewFusion, qformer: QFormer) -> None:
    """Draws weights that keep the variance of what passes through fusion and Q-Former."""
    for module in (*fusion.modules(), *qformer.modules()):
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.kaiming_uniform_(fusion.mlp[0].weight, nonlinearity="relu")
    nn.init.normal_(qformer.query_tokens)
    if fusion.alignment is not None:
        _pass_through(fusion.alignment)


def _pass_through(alignment: DeformableAlignment) -> None:
    """No offsets, weight 1 at the centre: at first each map passes as it is."""
    nn.init.zeros_(alignment.offset_mask.weight)
    nn.init.zeros_(alignment.offset_mask.bias)
    centre = 2 * TAPS + TAPS // 2
    for group in range(alignment.groups):
        alignment.offset_mask.bias.data[group * 3 * TAPS + centre] = 1.0
