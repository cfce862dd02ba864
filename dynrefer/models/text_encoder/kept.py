"""Embeddings of vocabularies that a frozen text encoder has made, kept between calls."""

import torch
from torch import Tensor

from dynrefer.models.text_encoder.towers import TextEncoder
from dynrefer.vocabulary import AttributeVocabulary, Vocabulary

OTHERS_KEPT = 12  # embeddings of vocabularies that are not the model's


class KeptEmbeddings:
    """Those of the model's own vocabularies for good, and the last ``OTHERS_KEPT`` of others."""

    def __init__(self) -> None:
        self._own: dict[str, Tensor] = {}
        self._others: dict[Vocabulary | AttributeVocabulary, Tensor] = {}

    def own(
        self,
        kind: str,
        vocabulary: Vocabulary | AttributeVocabulary,
        encoder: TextEncoder,
        device: torch.device,
    ) -> Tensor:
        """Embeddings [P, width] of the model's own tags, attributes or classes."""
        if kind not in self._own:
            self._own[kind] = encoder.embed_vocabulary(vocabulary.phrases)
        self._own[kind] = self._own[kind].to(device)
        return self._own[kind]

    def other(
        self,
        vocabulary: Vocabulary | AttributeVocabulary,
        encoder: TextEncoder,
        device: torch.device,
    ) -> Tensor:
        """Embeddings [P, width] of a vocabulary that is not the model's own."""
        embeddings = self._others.pop(vocabulary, None)
        if embeddings is None:
            embeddings = encoder.embed(vocabulary.phrases)
        self._others[vocabulary] = embeddings = embeddings.to(device)
        if len(self._others) > OTHERS_KEPT:
            del self._others[next(iter(self._others))]
        return embeddings
