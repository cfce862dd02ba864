"""Captions by a causal language model (Vicuna, or any of transformers')."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from dynrefer.models.decoders.caption import CaptionDecoder, Captions, Generation, check_fields
from dynrefer.models.losses import token_loss


def build_causal(config: Mapping[str, Any], pad_token: int, end_token: int) -> nn.Module:
    """An untrained causal language model.

    Args:
        config: fields of its transformers configuration; ``model_type`` names the architecture
            ("llama", "qwen2", "mistral", ...).
        pad_token, end_token: token ids.
    """
    options = dict(config)
    model_type = options.pop("model_type", "llama")
    check_fields(options, AutoConfig.for_model(model_type))
    tokens = {"pad_token_id": pad_token, "bos_token_id": end_token, "eos_token_id": end_token}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **options, **tokens))


class CausalCaptionDecoder(CaptionDecoder):
    """One sequence: projected queries, start token, control words, caption, end token.

    The start token is the tokenizer's, or its end token where it has none; in the published model
    the two are the same.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # The published files hold it for this variant too, but nothing reads it.
        self.control_memory.requires_grad_(False)

    @property
    def start_token(self) -> int:
        """The id with which the words of a sequence begin."""
        start, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        return end if start is None else start

    def tokenize(self, texts: Sequence[str], **options: Any) -> tuple[Tensor, Tensor]:
        """Ids and mask; whether the tokenizer itself puts a start token in front is no matter."""
        ids = self.tokenizer(list(texts), add_special_tokens=False, **options).input_ids
        rows = [[self.start_token, *row] for row in ids]
        tokens = self.tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(
            self.projection.weight.device
        )
        return tokens.input_ids, tokens.attention_mask

    def truncated(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """As :meth:`tokenize`, cut at ``max_text_length`` tokens, the first one included."""
        return self.tokenize(texts, truncation=True, max_length=self.max_text_length - 1)

    def loss(
        self, queries: Tensor, control_words: Sequence[str], captions: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Sum over caption tokens and their number; see :class:`CaptionDecoder`."""
        with self.autocast(queries):
            prefix = self.prefix(queries)
            ids, mask, targets = self._joined(control_words, captions)
            words = self.language_model.get_input_embeddings()(ids)
            logits = self.language_model(
                inputs_embeds=torch.cat([prefix, words], dim=1),
                attention_mask=torch.cat([mask.new_ones(prefix.shape[:2]), mask], dim=1),
                use_cache=False,
            ).logits
        # The logits at position t predict token t + 1; the last query predicts the first word.
        return token_loss(logits[:, prefix.shape[1] - 1 : -1], targets)

    def _joined(
        self, control_words: Sequence[str], captions: Sequence[str]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, mask and targets [N, T] of control words followed by the caption, right-padded."""
        self.tokenizer.padding_side = "right"
        self.tokenizer.truncation_side = "left"
        control_ids, control_mask = self.truncated(control_words)
        self.tokenizer.truncation_side = "right"
        ended = [caption + self.tokenizer.eos_token for caption in captions]
        caption_ids, caption_mask = self.truncated(ended)
        # Captions continue the control words, so they carry no start token of their own.
        caption_ids, caption_mask = caption_ids[:, 1:], caption_mask[:, 1:]
        rows = [
            torch.cat([control[keep.bool()], caption[keep_caption.bool()]])
            for control, keep, caption, keep_caption in zip(
                control_ids, control_mask, caption_ids, caption_mask, strict=True
            )
        ]
        starts = control_mask.sum(dim=1)
        pad = self.tokenizer.pad_token_id
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
        lengths = torch.tensor([len(row) for row in rows], device=ids.device)
        position = torch.arange(ids.shape[1], device=ids.device)
        mask = position < lengths.unsqueeze(1)
        is_caption = mask & (position >= starts.unsqueeze(1))
        return ids, mask.long(), ids.masked_fill(~is_caption, -100)

    def generate(
        self, queries: Tensor, control_words: Sequence[str], generation: Generation
    ) -> Captions:
        """One caption a region; see :class:`CaptionDecoder`.

        The history begins with one start token that counts towards the length and towards the
        repetition penalty, as in the release.
        """
        self.tokenizer.padding_side = "left"
        rest = replace(generation, max_new_tokens=generation.max_new_tokens - 1)
        with self.autocast(queries):
            prefix = self.prefix(queries)
            ids, mask = self.tokenize(control_words)
            words = self.language_model.get_input_embeddings()(ids)
            output = self.write(
                len(queries),
                rest,
                input_ids=ids.new_full((len(ids), 1), self.start_token),
                inputs_embeds=torch.cat([prefix, words], dim=1),
                attention_mask=torch.cat([mask.new_ones(prefix.shape[:2]), mask], dim=1),
            )
        token_ids = output.sequences
        if 0 in self.tokenizer.added_tokens_decoder:
            # The release reads token 0 (Vicuna's unknown word) as the end token.
            token_ids = token_ids.masked_fill(token_ids == 0, self.tokenizer.eos_token_id)
        texts = self.tokenizer.batch_decode(token_ids, skip_special_tokens=True)
        return self.with_scores(output, generation, [text.strip() for text in texts], token_ids)
