"""Losses of the decoders, as functions of logits and targets, computed in float32."""

import torch
from torch import Tensor
from torch.nn import functional


def asymmetric_loss(
    logits: Tensor,
    targets: Tensor,
    gamma_negative: float = 7.0,
    gamma_positive: float = 0.0,
    clip: float = 0.05,
    epsilon: float = 1e-8,
) -> Tensor:
    """Asymmetric loss for multi-label classification (arXiv 2009.14119), summed.

    Args:
        logits: any shape.
        targets: same shape, bool.

    Returns:
        A scalar; the focusing weight carries no gradient.
    """
    positive = logits.float().sigmoid()
    negative = (1 - positive + clip).clamp(max=1)
    targets = targets.bool()
    probability = torch.where(targets, positive, negative)
    gamma = torch.where(targets, gamma_positive, gamma_negative)
    focus = (1 - probability.detach()) ** gamma
    return -(focus * probability.clamp(min=epsilon).log()).sum()


def sigmoid_pair_loss(similarity: Tensor, own_pair: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Sigmoid loss over all pairs of one direction (SigLIP, arXiv 2303.15343).

    Args:
        similarity: [local, all].
        own_pair: the column of each row's true partner, int64 [local].
        scale: log of the temperature; bias: added to the logits; both scalars.

    Returns:
        Sum of -log sigmoid(label * logit) divided by the number of rows.
    """
    labels = -torch.ones_like(similarity, dtype=torch.float32)
    labels = labels.scatter(1, own_pair.unsqueeze(1), 1.0)
    logits = similarity.float() * scale.exp() + bias
    return -functional.logsigmoid(labels * logits).sum() / len(similarity)


def token_loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of a language model: the sum over tokens and their number.

    Args:
        logits: [N, T, vocabulary].
        targets: int64 [N, T]; -100 is ignored.
    """
    total = functional.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum"
    )
    return total, (targets != -100).sum()
