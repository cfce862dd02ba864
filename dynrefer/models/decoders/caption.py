"""What the two caption decoders share: their interface, and how captions are generated."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Generation:
    """Beam search as published; the demo uses 5 beams and 30 new tokens."""

    num_beams: int = 2
    max_new_tokens: int = 20
    min_length: int = 1
    length_penalty: float = 0.0
    repetition_penalty: float = 1.5
    num_return_sequences: int = 1
    do_sample: bool = False
    top_p: float = 0.9
    temperature: float = 1.0

    def arguments(self) -> dict[str, Any]:
        """Arguments of transformers' ``generate``; sampling settings only when sampling."""
        values = asdict(self)
        if not self.do_sample:
            del values["top_p"], values["temperature"]
        return values


@dataclass(frozen=True)
class Captions:
    """Generated captions of N regions; score = exp(log-likelihood of the beam)."""

    texts: list[str]
    scores: list[float]
    token_ids: Tensor


class CaptionDecoder(nn.Module, ABC):
    """A language model that reads a region's queries and control words and writes a caption.

    Args:
        language_model: the transformers model.
        tokenizer: its tokenizer.
        query_width: width D of the Q-Former's queries.
        max_text_length: longest caption and longest control sequence in tokens.
        freeze: whether the language model's own weights stay as they are.
    """

    def __init__(
        self,
        language_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        query_width: int,
        max_text_length: int = 32,
        freeze: bool = True,
    ) -> None:
        super().__init__()
        self.language_model = language_model
        self.tokenizer = tokenizer
        self.max_text_length = max_text_length
        width = language_model.get_input_embeddings().embedding_dim
        self.projection = nn.Linear(query_width, width)
        self.control_memory = nn.Parameter(torch.zeros(width))
        self.frozen = freeze
        language_model.requires_grad_(not freeze)

    def train(self, mode: bool = True) -> "CaptionDecoder":
        """A frozen language model stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.language_model.eval()
        return self

    @abstractmethod
    def loss(
        self, queries: Tensor, control_words: Sequence[str], captions: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Sum of the caption tokens' cross-entropies, and their number.

        Args:
            queries: [N, Q, D]; control_words: N strings such as "dog,grass|"; captions: N strings.
        """

    @abstractmethod
    def generate(
        self, queries: Tensor, control_words: Sequence[str], generation: Generation
    ) -> Captions:
        """Writes one caption for each of N regions, by beam search."""

    def tokenize(self, texts: Sequence[str], **options: Any) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask, both int64 [N, T], on the model's device."""
        tokens = self.tokenizer(list(texts), padding="longest", return_tensors="pt", **options).to(
            self.projection.weight.device
        )
        return tokens.input_ids, tokens.attention_mask

    def truncated(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """As :meth:`tokenize`, cut at ``max_text_length`` tokens."""
        return self.tokenize(texts, truncation=True, max_length=self.max_text_length)

    def autocast(self, queries: Tensor) -> AbstractContextManager[Any]:
        """No fp16 for the language model: it overflows there, and captions turn to "ssss"."""
        device = queries.device.type
        if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16:
            return torch.autocast(device, torch.bfloat16)
        return nullcontext()

    def with_scores(self, output: Any, generation: Generation, texts: list[str]) -> Captions:
        """Pairs texts with scores; raises FloatingPointError for a score that is not finite."""
        if generation.num_beams > 1:
            log_likelihood = output.sequences_scores
        else:
            steps = self.language_model.compute_transition_scores(
                output.sequences, output.scores, normalize_logits=True
            )
            log_likelihood = steps.masked_fill(steps.isneginf(), 0).sum(dim=1)
        scores = log_likelihood.float().exp()
        if not torch.isfinite(scores).all():
            bad = (~torch.isfinite(scores)).nonzero().flatten().tolist()
            raise FloatingPointError(
                f"caption decoder: the score of region(s) {bad} of the batch is not finite; run "
                "the language model in bf16 or fp32 (model.caption_decoder.precision)"
            )
        return Captions(texts, scores.tolist(), output.sequences)
