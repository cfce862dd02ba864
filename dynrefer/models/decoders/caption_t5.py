"""Captions by an encoder-decoder language model (FLAN-T5)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, T5Config, T5ForConditionalGeneration

from dynrefer.models.decoders.caption import (
    CaptionDecoder,
    Captions,
    Generation,
    after_end,
    check_fields,
)
from dynrefer.models.losses import token_loss


def build_t5(config: Mapping[str, Any], pad_token: int, end_token: int) -> nn.Module:
    """An untrained T5 of the FLAN kind.

    Args:
        config: fields of transformers' T5Config (d_model, num_layers, vocab_size, ...).
        pad_token, end_token: token ids; T5 starts decoding with the padding token.
    """
    check_fields(config, T5Config())
    ids = {"pad_token_id": pad_token, "eos_token_id": end_token}
    options = {"feed_forward_proj": "gated-gelu", **config}
    model = t5_of(T5Config(**options, **ids, decoder_start_token_id=pad_token))
    # T5 draws an untied output matrix with deviation 1: logits of sqrt(d_model) swamp training.
    model.lm_head.weight.data.mul_(model.config.d_model**-0.5)
    return model


def t5_of(config: PreTrainedConfig) -> T5ForConditionalGeneration:
    """The T5 of a configuration, as BLIP-2 has it: exact GELU, an output matrix of its own.

    Raises:
        ValueError: the configuration is of another model.
    """
    if not isinstance(config, T5Config):
        raise ValueError(f"its configuration is a {type(config).__name__}")
    config.dense_act_fn = "gelu"  # "gated-gelu" means gelu_new to transformers
    model = T5ForConditionalGeneration(config)
    untie_output(model)
    return model


def untie_output(model: nn.Module) -> None:
    """Gives ``lm_head`` a matrix of its own: transformers 5 ties it whatever the config says."""
    model.config.tie_word_embeddings = False
    model.config.scale_decoder_outputs = False
    if model.lm_head.weight is model.shared.weight:
        model.lm_head.weight = nn.Parameter(model.shared.weight.detach().clone())


class T5CaptionDecoder(CaptionDecoder):
    """Encoder input: projected queries, then the embedded control words; target: the caption."""

    def encoder_input(self, queries: Tensor, control_words: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Embeddings [N, Q + T, width] and mask [N, Q + T] of queries and control words."""
        ids, mask = self.truncated(control_words)
        controls = self.language_model.get_input_embeddings()(ids) + self.control_memory
        prefix = self.prefix(queries)
        return (
            torch.cat([prefix, controls.to(prefix.dtype)], dim=1),
            torch.cat([mask.new_ones(prefix.shape[:2]), mask], dim=1),
        )

    def loss(
        self, queries: Tensor, control_words: Sequence[str], captions: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Sum over caption tokens and their number; see :class:`CaptionDecoder`."""
        with self.autocast(queries):
            inputs, mask = self.encoder_input(queries, control_words)
            ids, caption_mask = self.truncated(captions)
            targets = ids.masked_fill(ids == self.tokenizer.pad_token_id, -100)
            logits = self.language_model(
                inputs_embeds=inputs,
                attention_mask=mask,
                decoder_attention_mask=caption_mask,
                labels=targets,
                use_cache=False,
            ).logits
        return token_loss(logits, targets)

    def generate(
        self, queries: Tensor, control_words: Sequence[str], generation: Generation
    ) -> Captions:
        """One caption a region; see :class:`CaptionDecoder`."""
        with self.autocast(queries):
            inputs, mask = self.encoder_input(queries, control_words)
            output = self.write(len(queries), generation, inputs_embeds=inputs, attention_mask=mask)
        texts = self.tokenizer.batch_decode(output.sequences, skip_special_tokens=True)
        # transformers fills finished beams with the end token where the padding token's id is 0.
        behind = after_end(output.sequences, self.tokenizer.eos_token_id)
        token_ids = output.sequences.masked_fill(behind, self.tokenizer.pad_token_id)
        return self.with_scores(output, generation, texts, token_ids)
