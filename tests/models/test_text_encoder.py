import numpy as np
import pytest
import torch
from open_clip.model import QuickGELU

from dynrefer.datasets.shapes.vocabularies import write_vocabularies
from dynrefer.models.text_encoder.towers import (
    WordFeatureEncoder,
    clip_vit_l_text_encoder,
    eva_clip_text_encoder,
    word_transformer,
)

PHRASES = ["a red star", "a star red", "the Red Star", "", "star"]


def test_word_features_are_the_mean_of_words_and_pairs():
    encoder = WordFeatureEncoder(16)
    embeddings = encoder(PHRASES)
    assert embeddings.shape == (5, 16) and embeddings.dtype == torch.float32
    a, red, star = encoder(["a", "red", "star"])
    with_pairs = encoder(["a red"])[0] * 3 - a - red, encoder(["red star"])[0] * 3 - red - star
    expected = (a + red + star + with_pairs[0] + with_pairs[1]) / 5
    torch.testing.assert_close(embeddings[0], expected, rtol=1e-4, atol=1e-5)


def test_word_features_tell_order_apart_and_not_case():
    embeddings = WordFeatureEncoder(64)(["a red star", "a star red", "A Red STAR"])
    assert torch.equal(embeddings[0], embeddings[2])
    assert (embeddings[0] - embeddings[1]).abs().max() > 0.1


def test_word_features_follow_from_the_word_alone():
    star = np.random.default_rng(3386595860).standard_normal(4)  # the CRC-32 of "star"
    np.testing.assert_allclose(WordFeatureEncoder(4)(["star"])[0], star, rtol=1e-6)


def test_word_features_have_no_weights():
    encoder = WordFeatureEncoder(8)
    assert not encoder.trainable and not encoder.state_dict() and not list(encoder.parameters())


@pytest.fixture
def tower(tmp_path):
    write_vocabularies(tmp_path)
    torch.manual_seed(0)
    return word_transformer(str(tmp_path / "tokenizer"), width=16, heads=2, output_width=12).eval()


def test_word_transformer_is_trained(tower):
    assert tower.trainable and tower.width == 12
    tower.train()(PHRASES[:3]).square().sum().backward()
    assert all(parameter.grad is not None for parameter in tower.parameters())


def test_word_transformer_does_not_see_padding_or_neighbours(tower):
    phrases = ["a red star", "a small striped red star left of a blue ring", "ring"]
    with torch.no_grad():
        together = tower(phrases)
        alone = torch.cat([tower([phrase]) for phrase in phrases])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert together.shape == (3, 12)
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_word_transformer_cuts_long_phrases(tower):
    with torch.no_grad():
        assert torch.equal(tower(["red " * 60]), tower(["red " * 39]))


def test_word_transformer_runs_without_graph_where_asked(tower):
    with torch.no_grad():
        assert not tower(["red"]).requires_grad
    assert tower(["red"]).requires_grad
    tower.requires_grad_(False)
    assert not tower.trainable and not tower(["red"]).requires_grad


def test_missing_tokenizer(tmp_path):
    with pytest.raises(FileNotFoundError, match="model.text_encoder.options.tokenizer: no token"):
        word_transformer(str(tmp_path / "nowhere"))


def test_clip_towers_read_their_files_and_refuse_others(tmp_path):
    key = "model.text_encoder.options.checkpoint"
    with pytest.raises(FileNotFoundError, match=f"{key}: no checkpoint at .*missing.pt"):
        eva_clip_text_encoder(str(tmp_path / "missing.pt"))
    # One number a tensor, seen as often as its shape wants: the file stays small.
    state = {
        f"text.{name}": torch.tensor(0.01 + len(name) / 1e4).expand(tensor.shape)
        for name, tensor in eva_clip_text_encoder().transformer.state_dict().items()
    }
    state["visual.other"] = torch.zeros(1)
    torch.save(state, tmp_path / "whole.pt")
    encoder = eva_clip_text_encoder(str(tmp_path / "whole.pt"))
    assert encoder.width == 1024 and not encoder.trainable
    assert torch.equal(encoder.transformer.text_projection, state["text.text_projection"])
    assert encoder(["the dog"]).shape == (1, 1024)
    with pytest.raises(ValueError, match="(?s)has 1 that .*file: text.text_projection"):
        clip_vit_l_text_encoder(str(tmp_path / "whole.pt"))


def test_clip_towers_without_a_file_take_no_memory():
    for encoder, width in ((eva_clip_text_encoder(), 1024), (clip_vit_l_text_encoder(), 768)):
        assert encoder.width == width
        activation = encoder.transformer.transformer.resblocks[0].mlp.gelu
        assert isinstance(activation, torch.nn.GELU if width == 1024 else QuickGELU)
        assert all(parameter.is_meta for parameter in encoder.parameters())
