"""What the two caption decoders share: their interface, and how captions are generated."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.generation.utils import GenerateOutput
from transformers.modeling_layers import GradientCheckpointingLayer

from dynrefer.config.schema import GenerationConfig, LoraConfig
from dynrefer.models.parts import Part, check_finite, is_frozen
from dynrefer.registry import nearest

# The usual reason where captions are not finite.
ADVICE = "run the language model in bf16 or fp32 (model.caption_decoder.precision)"


@dataclass
class Generation(GenerationConfig):
    """Beam search as published; the demo uses 5 beams and 30 new tokens."""

    def arguments(self) -> dict[str, Any]:
        """Arguments of transformers' ``generate``; those of sampling and beams where they apply."""
        values = asdict(self)
        if not self.do_sample:
            del values["top_p"], values["temperature"]
        if self.num_beams == 1:
            del values["length_penalty"]
        return values


@dataclass(frozen=True)
class Captions:
    """Generated captions of N regions; score = exp(log-likelihood of the beam)."""

    texts: list[str]
    scores: list[float]
    token_ids: Tensor


class CaptionDecoder(Part, ABC):
    """A language model that reads a region's queries and control words and writes a caption.

    Args:
        language_model: the transformers model.
        tokenizer: its tokenizer.
        query_width: width D of the Q-Former's queries.
        max_text_length: longest caption and longest control sequence in tokens.
        freeze: whether the language model's own weights stay as they are.
        adapters: LoRA settings; None for no adapters.
        gradient_checkpointing: recompute the language model's layers in the backward pass.
    """

    def __init__(
        self,
        language_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        query_width: int,
        max_text_length: int = 32,
        freeze: bool = True,
        adapters: LoraConfig | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        width = language_model.get_input_embeddings().embedding_dim
        # Nothing but `model.generation` and the tokenizer says how captions are generated.
        pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
        start = pad if language_model.config.is_encoder_decoder else None
        language_model.generation_config = transformers.GenerationConfig(
            pad_token_id=pad, eos_token_id=end, decoder_start_token_id=start
        )
        language_model.requires_grad_(not freeze)
        if adapters is not None:
            from dynrefer.models.lora import add_adapters  # peft takes over a second to import

            language_model = add_adapters(language_model, adapters)
        if gradient_checkpointing:
            _checkpoint_layers(language_model)
        self.language_model = language_model
        self.tokenizer = tokenizer
        self.max_text_length = max_text_length
        self.projection = nn.Linear(query_width, width)
        self.control_memory = nn.Parameter(torch.zeros(width))

    def train(self, mode: bool = True) -> "CaptionDecoder":
        """A frozen language model stays in evaluation mode."""
        super().train(mode)
        if is_frozen(self.language_model):
            self.language_model.eval()
            for module in self.language_model.modules():
                # This flag alone switches checkpointing, which a frozen model needs as well:
                # gradients pass through it. Dropout lies in submodules of its own.
                if isinstance(module, GradientCheckpointingLayer):
                    module.training = mode and module.gradient_checkpointing
        return self

    @property
    def has_adapters(self) -> bool:
        """Whether the language model is peft's wrapper around one: it has LoRA adapters."""
        return not isinstance(self.language_model, PreTrainedModel)

    def save_adapters(self, directory: str | Path) -> None:
        """Writes the LoRA adapters alone, as a new folder; see ``models.lora.save_adapters``.

        Raises ValueError where there are no adapters.
        """
        self._check_adapters()
        from dynrefer.models.lora import save_adapters

        save_adapters(self.language_model, Path(directory))

    def merge_adapters(self) -> None:
        """Adds the LoRA adapters to the language model's weights, which then is a plain one.

        Raises ValueError where there are no adapters, or a merged weight is not finite.
        """
        self._check_adapters()
        from dynrefer.models.lora import merge_adapters

        self.language_model = merge_adapters(self.language_model)
        self.train(self.training)

    def _check_adapters(self) -> None:
        if not self.has_adapters:
            raise ValueError(
                "the language model has no adapters; model.caption_decoder.lora gives it some"
            )

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

    def prefix(self, queries: Tensor) -> Tensor:
        """Queries [N, Q, D] as embeddings of the language model, in its precision."""
        return self.projection(queries).to(self.language_model.dtype)

    def write(
        self, regions: int, generation: Generation, **inputs: Tensor | None
    ) -> GenerateOutput:
        """What transformers' ``generate`` returns for N regions, with the scores of the beams.

        Raises:
            NonFiniteError: a logit is not finite, at any step.
        """
        return self.language_model.generate(
            **inputs,
            **generation.arguments(),
            logits_processor=LogitsProcessorList([_FiniteLogits(regions)]),
            output_scores=True,
            return_dict_in_generate=True,
        )

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

    def with_scores(
        self, output: Any, generation: Generation, texts: list[str], token_ids: Tensor
    ) -> Captions:
        """Captions with the scores of what ``generate`` returned.

        Raises:
            NonFiniteError: a score is not finite.
        """
        scores = self._log_likelihood(output, generation).float().exp()
        check_finite("caption scores", scores, ADVICE)
        return Captions(texts, scores.tolist(), token_ids)

    def _log_likelihood(self, output: Any, generation: Generation) -> Tensor:
        """Of each beam [N]; what follows the end of a caption in a longer batch does not count."""
        if generation.num_beams > 1:
            return output.sequences_scores
        steps = self.language_model.compute_transition_scores(
            output.sequences, output.scores, normalize_logits=True
        )
        written = output.sequences[:, -steps.shape[1] :]
        return steps.masked_fill(after_end(written, self.tokenizer.eos_token_id), 0).sum(dim=1)


class NoCaptionDecoder(nn.Module):
    """The place of a caption decoder in a model that shall not write captions.

    It has no parameters, and weights of caption decoders are left out of what is loaded.
    """

    left_out = {".*": "the model is built without its caption decoder, which no task needs"}

    def __init__(self) -> None:
        super().__init__()
        self.language_model = nn.Module()

    def loss(self, *_: Any) -> tuple[Tensor, Tensor]:
        """Raises RuntimeError."""
        raise RuntimeError("the model was built without its caption decoder; it cannot train")

    def generate(self, *_: Any) -> Captions:
        """Raises RuntimeError."""
        raise RuntimeError("the model was built without its caption decoder; it writes no captions")


class _FiniteLogits(LogitsProcessor):
    """Ends a generation at the first logit of a region that is not finite.

    Minus infinity is how other processors forbid a token.
    """

    def __init__(self, regions: int) -> None:
        self.regions = regions

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        finite = ~(scores.isnan() | scores.isposinf()).any(dim=1)
        check_finite("caption logits", finite.view(self.regions, -1), ADVICE)
        return scores


def _checkpoint_layers(language_model: PreTrainedModel) -> None:
    # transformers 5 has renamed it along the way; the old name warns where the new one is there.
    new = getattr(language_model, "activation_checkpointing_enable", None)
    (new or language_model.gradient_checkpointing_enable)({"use_reentrant": False})
    # That also makes the embeddings require gradients, which only reentrant checkpoints need.
    language_model.disable_input_require_grads()


def check_fields(fields: Iterable[str], config: PreTrainedConfig) -> None:
    """Raises ValueError for a field that a configuration does not have; transformers takes any."""
    valid = {*config.to_dict(), *config.attribute_map}
    for name in fields:
        if name not in valid:
            raise ValueError(
                f"'{name}' is no field of {type(config).__name__}; " + nearest(name, list(valid))
            )


def after_end(token_ids: Tensor, end_token: int) -> Tensor:
    """Token ids [N, T] -> bool [N, T], True behind each row's first end token."""
    is_end = (token_ids == end_token).long()
    return is_end.cumsum(dim=1) > is_end
