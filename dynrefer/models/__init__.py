"""The network: vision, fusion of views, Q-Former and three decoders."""
