"""Fresh weights for training everything from scratch.

The published model starts from BLIP-2, and its own new parts start as the release starts them. In
a narrow model without any pretrained part those starts hide the image: with BERT's deviation of
0.02 and a deformable step that begins at zero, queries differ by 0.002 from region to region
where they should by 0.3, and training stays on a plateau for hundreds of steps.
"""

from torch import nn

from dynrefer.models.deformable import TAPS, DeformableAlignment
from dynrefer.models.dynrefer import DynRefer


def start_from_scratch(model: DynRefer) -> None:
    """Draws weights that keep the variance of what passes from vision to the decoders."""
    parts = (model.fusion, model.qformer, model.tag_decoder, model.region_text_decoder)
    for module in (module for part in parts for module in part.modules()):
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.kaiming_uniform_(model.fusion.mlp[0].weight, nonlinearity="relu")
    nn.init.normal_(model.qformer.query_tokens)
    if model.fusion.alignment is not None:
        _pass_through(model.fusion.alignment)


def _pass_through(alignment: DeformableAlignment) -> None:
    """No offsets, weight 1 at the centre: at first each map passes as it is."""
    nn.init.zeros_(alignment.offset_mask.weight)
    nn.init.zeros_(alignment.offset_mask.bias)
    centre = 2 * TAPS + TAPS // 2
    for group in range(alignment.groups):
        alignment.offset_mask.bias.data[group * 3 * TAPS + centre] = 1.0
