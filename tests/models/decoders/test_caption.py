import copy
import math
from pathlib import Path

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch.nn import functional
from transformers.modeling_layers import GradientCheckpointingLayer

from dynrefer.checkpoints.tokenizers import load_tokenizer
from dynrefer.config.schema import LoraConfig
from dynrefer.datasets.shapes.vocabularies import write_vocabularies
from dynrefer.models.decoders.caption import Generation, after_end
from dynrefer.models.decoders.caption_causal import CausalCaptionDecoder, build_causal
from dynrefer.models.decoders.caption_t5 import T5CaptionDecoder, build_t5

PARITY = Path(__file__).parents[2] / "data" / "parity"
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 2, "num_layers": 1, "dropout_rate": 0.5}
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "attention_dropout": 0.5,
}
CONTROLS = ["red,dog|", "|", "ball|", "green,red,grass,tree|"]
CAPTIONS = ["a red dog", "the black ball near the tree and the road", "a cat", "a"]


def build(kind, folder, freeze=True, **options):
    if kind == "t5":
        write_vocabularies(folder)
        tokenizer = load_tokenizer(str(folder / "tokenizer"), "test")
        decoder_class, build_model, sizes = T5CaptionDecoder, build_t5, T5
    else:
        tokenizer = load_tokenizer(str(PARITY / "official_tiny_vicuna" / "tokenizer"), "test")
        decoder_class, build_model, sizes = CausalCaptionDecoder, build_causal, LLAMA
    torch.manual_seed(0)
    language_model = build_model(
        {**sizes, "vocab_size": len(tokenizer)}, tokenizer.pad_token_id, tokenizer.eos_token_id
    )
    decoder = decoder_class(language_model, tokenizer, 16, freeze=freeze, **options)
    for parameter in decoder.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.5 / parameter.shape[1] ** 0.5)
    return decoder.eval()


@pytest.fixture(scope="module", params=["t5", "causal"])
def shared_decoder(request, tmp_path_factory):
    return build(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def decoder(shared_decoder):
    return copy.deepcopy(shared_decoder)


@pytest.fixture
def queries():
    return torch.randn(4, 3, 16, generator=torch.Generator().manual_seed(1))


def test_loss_is_a_sum_over_regions(decoder, queries):
    """Neither padding nor the other regions of a batch change what a region costs."""
    total, count = decoder.loss(queries, CONTROLS, CAPTIONS)
    rows = [slice(i, i + 1) for i in range(4)]
    alone = [decoder.loss(queries[row], CONTROLS[row], CAPTIONS[row]) for row in rows]
    assert count.item() == sum(number.item() for _, number in alone)
    torch.testing.assert_close(total, sum(loss for loss, _ in alone), rtol=1e-4, atol=1e-4)
    order = [2, 0, 3, 1]
    shuffled, _ = decoder.loss(
        queries[order], [CONTROLS[i] for i in order], [CAPTIONS[i] for i in order]
    )
    torch.testing.assert_close(total, shuffled, rtol=1e-4, atol=1e-4)


def test_count_is_caption_words_and_end(decoder, queries):
    _, count = decoder.loss(queries, CONTROLS, CAPTIONS)
    assert count.item() == sum(len(caption.split()) + 1 for caption in CAPTIONS)


def test_long_texts_are_cut(decoder, queries):
    decoder.max_text_length = 5
    _, count = decoder.loss(queries[:1], ["red,dog,cat,tree,road,grass|"], ["a " * 40])
    ids, _ = decoder.truncated(["a " * 40])
    assert ids.shape[1] == 5
    assert count.item() == (5 if isinstance(decoder, T5CaptionDecoder) else 4)


def words_of(decoder, texts):
    return decoder.tokenizer(texts, add_special_tokens=False).input_ids


def test_long_control_words_of_a_causal_model_lose_their_beginning(tmp_path, queries):
    """As in the release: the words that a person gives last, and the closing bar, count."""
    decoder = build("causal", tmp_path, max_text_length=6)
    long, caption = "red,dog,cat,tree,road,grass|", "a red dog near the black ball"
    controls, words = words_of(decoder, [long, caption])
    ids, mask, targets = decoder._joined(["red|", long], ["a", caption])
    assert ids[1].tolist() == [decoder.start_token, *controls[-5:], *words[:5]]
    assert mask[1].all() and mask[0].sum() < len(ids[0])
    assert targets[1].tolist() == [-100] * 6 + words[:5]


def test_long_texts_of_t5_lose_their_end(tmp_path, queries):
    decoder = build("t5", tmp_path, max_text_length=6)
    (controls,) = words_of(decoder, ["red,dog,cat,tree,road,grass|"])
    embeddings, mask = decoder.encoder_input(queries[:1], ["red,dog,cat,tree,road,grass|"])
    table = decoder.language_model.get_input_embeddings().weight
    end = decoder.tokenizer.eos_token_id
    expected = table[[*controls[:5], end]] + decoder.control_memory
    assert mask.shape == (1, 3 + 6) and mask.all()
    torch.testing.assert_close(embeddings[0, 3:], expected)
    torch.testing.assert_close(embeddings[0, :3], decoder.projection(queries[0]))


def test_loss_depends_on_queries_and_control_words(decoder, queries):
    decoder.control_memory.data.normal_()
    loss, _ = decoder.loss(queries, CONTROLS, CAPTIONS)
    for others in ((queries.flip(0), CONTROLS), (queries, CONTROLS[::-1])):
        assert (decoder.loss(*others, CAPTIONS)[0] - loss).abs() > 0.1


def test_frozen_language_model_has_no_dropout_and_no_gradient(decoder, queries):
    queries.requires_grad_()
    decoder.train()
    assert decoder.training and not decoder.language_model.training
    loss, _ = decoder.loss(queries, CONTROLS, CAPTIONS)
    assert torch.equal(loss, decoder.loss(queries, CONTROLS, CAPTIONS)[0])
    loss.backward()
    assert queries.grad.abs().max() > 0 and decoder.projection.weight.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in decoder.language_model.parameters())


@pytest.mark.parametrize("kind", ["t5", "causal"])
def test_trained_language_model_has_dropout_and_gradients(kind, tmp_path, queries):
    decoder = build(kind, tmp_path, freeze=False).train()
    loss, _ = decoder.loss(queries, CONTROLS, CAPTIONS)
    assert not torch.equal(loss, decoder.loss(queries, CONTROLS, CAPTIONS)[0])
    loss.backward()
    trained = {name for name, p in decoder.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in decoder.named_parameters() if p.grad is not None}
    assert ("control_memory" in trained) is (kind == "t5")


@pytest.mark.parametrize("kind", ["t5", "causal"])
@pytest.mark.parametrize(
    ("freeze", "adapters"), [(True, None), (False, None), (True, LoraConfig(rank=2, dropout=0.5))]
)
def test_checkpointing_gives_the_same_gradients(kind, freeze, adapters, tmp_path, queries):
    runs = []
    for checkpointing in (False, True):
        folder = tmp_path / str(checkpointing)
        folder.mkdir()
        decoder = build(
            kind, folder, freeze, adapters=adapters, gradient_checkpointing=checkpointing
        ).train()
        calls = count_calls(decoder.language_model)
        inputs = queries.clone().requires_grad_()
        torch.manual_seed(3)  # of dropout
        loss, _ = decoder.loss(inputs, CONTROLS, CAPTIONS)
        in_forward = sum(calls)
        loss.backward()
        gradients = {name: p.grad for name, p in decoder.named_parameters() if p.requires_grad}
        runs.append((loss, inputs.grad, gradients))
        assert sum(calls) == in_forward * (2 if checkpointing else 1)
    (loss, grad, gradients), (other_loss, other_grad, others) = runs
    assert torch.equal(loss, other_loss) and torch.equal(grad, other_grad)
    assert gradients.keys() == others.keys()
    assert all(torch.equal(gradients[name], others[name]) for name in gradients)


def count_calls(language_model):
    """Counts how often the attention of a layer runs."""
    calls = []
    attention = [m for n, m in language_model.named_modules() if n.endswith(("_attn", "Attention"))]
    assert attention
    for module in attention:
        module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_checkpointing_leaves_generation_as_it_is(tmp_path, queries):
    texts = []
    for checkpointing in (False, True):
        folder = tmp_path / str(checkpointing)
        folder.mkdir()
        decoder = build("t5", folder, gradient_checkpointing=checkpointing)
        texts.append(decoder.generate(queries, CONTROLS, generation(2)).texts)
        modules = list(decoder.train().language_model.modules())
        layers = [one for one in modules if isinstance(one, GradientCheckpointingLayer)]
        assert {one.training for one in layers} == {checkpointing}
        decoder.eval()
        assert not any(one.training for one in modules)
    assert texts[0] == texts[1]


def generation(beams, **options):
    return Generation(num_beams=beams, max_new_tokens=8, **options)


@pytest.mark.parametrize("beams", [1, 2, 3])
def test_a_caption_does_not_depend_on_the_batch(decoder, queries, beams):
    together = decoder.generate(queries, CONTROLS, generation(beams))
    for i in range(4):
        alone = decoder.generate(queries[i : i + 1], CONTROLS[i : i + 1], generation(beams))
        assert alone.texts == together.texts[i : i + 1]
        assert alone.scores[0] == pytest.approx(together.scores[i], rel=1e-3)


def test_regions_and_control_words_change_the_caption(decoder, queries):
    torch.manual_seed(0)  # of a memory with which a random model says something else of each
    decoder.control_memory.data.normal_()
    texts = decoder.generate(queries, ["|"] * 4, generation(2)).texts
    assert len(set(texts)) == 4
    assert decoder.generate(queries, ["red,dog|"] * 4, generation(2)).texts != texts
    assert not any("</s>" in text or "PAD" in text or "<pad>" in text for text in texts)


@pytest.mark.parametrize("beams", [1, 2])
def test_a_score_is_the_likelihood_of_the_caption(decoder, beams):
    """Without repetition penalty the score is what the model's own loss says of the caption."""
    queries = torch.randn(24, 3, 16, generator=torch.Generator().manual_seed(2))
    controls, tokenizer, head = CONTROLS * 6, decoder.tokenizer, decoder.language_model.lm_head
    end = tokenizer.eos_token_id
    # Captions that end soon and hold no token that the tokenizer would not write.
    head.bias = torch.nn.Parameter(torch.zeros(head.out_features))
    with torch.no_grad():
        head.bias[[0, tokenizer.pad_token_id, tokenizer.unk_token_id]] = -1e4
        head.bias[end] = 2.5
    search = Generation(num_beams=beams, repetition_penalty=1.0, min_length=0)
    captions = decoder.generate(queries, controls, search)
    checked = 0
    for i, (_, *ids) in enumerate(captions.token_ids.tolist()):
        words = ids[: ids.index(end)] if end in ids else []
        plain = tokenizer.decode(words)
        if not words or tokenizer(plain, add_special_tokens=False).input_ids != words:
            continue
        loss, _ = decoder.loss(queries[i : i + 1], controls[i : i + 1], [plain])
        assert captions.scores[i] == pytest.approx(math.exp(-loss.item()), rel=1e-3)
        checked += 1
    assert checked >= 4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("beams", [1, 2])
def test_logits_that_are_not_finite_end_the_generation_where_they_arise(
    decoder, queries, beams, value
):
    steps = []

    def poison(head, inputs, logits):
        steps.append(len(steps))
        if len(steps) == 3:
            logits[2 * beams, 0, 5] = value

    decoder.language_model.lm_head.register_forward_hook(poison)
    message = r"^caption logits of region\(s\) \[2\] are not finite; .* bf16 or fp32"
    with pytest.raises(FloatingPointError, match=message):
        decoder.generate(queries, CONTROLS, generation(beams))
    assert len(steps) == 3


@pytest.mark.parametrize("beams", [1, 2])
def test_scores_that_are_not_finite(decoder, queries, beams):
    queries[2, 0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"region\(s\) \[2\] .* bf16 or fp32"):
        decoder.generate(queries, CONTROLS, generation(beams))
    with torch.no_grad():
        decoder.projection.weight[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"region\(s\) \[0, 1, 2, 3\]"):
        decoder.generate(queries, CONTROLS, generation(beams))


def test_the_language_model_leaves_fp16(decoder, queries):
    seen = []
    decoder.projection.register_forward_hook(
        lambda *_: seen.append(torch.get_autocast_dtype("cpu"))
    )
    for dtype, expected in ((torch.float16, torch.bfloat16), (torch.bfloat16, torch.bfloat16)):
        with torch.autocast("cpu", dtype):
            decoder.loss(queries, CONTROLS, CAPTIONS)
            decoder.generate(queries, CONTROLS, generation(1))
            assert torch.get_autocast_dtype("cpu") == dtype
        assert seen == [expected] * 2
        seen.clear()
    assert not torch.is_autocast_enabled("cpu")
    with decoder.autocast(queries):
        assert not torch.is_autocast_enabled("cpu")


def test_causal_sequences_begin_with_the_start_token_where_there_is_one(tmp_path, queries):
    decoder = build("causal", tmp_path)
    tokenizer = decoder.tokenizer
    tokenizer.bos_token = "<s>"
    start, end = tokenizer.convert_tokens_to_ids(["<s>", "</s>"])
    assert start != end and tokenizer.eos_token_id == end
    ids, _ = decoder.tokenize(["a red dog"])
    assert ids[0, 0] == start and end not in ids
    captions = decoder.generate(queries, CONTROLS, generation(2))
    assert (captions.token_ids[:, 0] == start).all()
    tokenizer.bos_token = None
    assert decoder.start_token == end


def test_causal_sequences_begin_with_the_end_token_whatever_the_tokenizer_adds(tmp_path, queries):
    decoder = build("causal", tmp_path)
    loss, count = decoder.loss(queries, CONTROLS, CAPTIONS)
    texts = decoder.generate(queries, CONTROLS, generation(2)).texts
    assert decoder.tokenizer("a").input_ids[0] == decoder.tokenizer.eos_token_id
    decoder.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A")
    assert len(decoder.tokenizer("a").input_ids) == 1
    other_loss, other_count = decoder.loss(queries, CONTROLS, CAPTIONS)
    assert torch.equal(loss, other_loss) and torch.equal(count, other_count)
    assert decoder.generate(queries, CONTROLS, generation(2)).texts == texts
    assert decoder.tokenize(["a"])[0][0, 0] == decoder.tokenizer.eos_token_id


def test_t5_is_of_the_flan_kind(tmp_path):
    model = build("t5", tmp_path).language_model
    assert model.lm_head.weight is not model.shared.weight
    assert model.encoder.embed_tokens.weight is model.shared.weight
    hidden = torch.randn(2, 3, 32)
    dense = model.encoder.block[0].layer[1].DenseReluDense
    expected = dense.wo(functional.gelu(dense.wi_0(hidden)) * dense.wi_1(hidden))
    torch.testing.assert_close(dense(hidden), expected)


def test_arguments_hold_what_applies():
    assert "temperature" not in Generation().arguments()
    assert "length_penalty" not in Generation(num_beams=1).arguments()
    sampling = Generation(do_sample=True, top_p=0.5, temperature=2.0).arguments()
    assert (sampling["top_p"], sampling["temperature"], sampling["length_penalty"]) == (0.5, 2, 0)


def test_after_end():
    ids = torch.tensor([[5, 1, 0, 1], [1, 1, 2, 3], [4, 5, 6, 7]])
    assert after_end(ids, 1).int().tolist() == [[0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0]]
