"""The network: vision, fusion of views, Q-Former and three decoders."""

from dynrefer.models import builders  # registers the models

__all__ = ["builders"]
