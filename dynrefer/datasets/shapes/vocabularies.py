"""The files of words that a shapes world comes with: tags, attributes, classes, a tokenizer."""

import json
import re
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Punctuation, Sequence, WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from dynrefer.datasets.shapes.language import SHORT_TEMPLATES, TEMPLATES
from dynrefer.datasets.shapes.words import (
    CLASSES,
    SURROUNDINGS,
    SYNONYMS,
    TAGS,
    attribute_entries,
)


def words() -> list[str]:
    """Every word of captions, tags, attribute phrases and class phrases, sorted."""
    texts = [re.sub(r"{\w+}", " ", template) for template in (*TEMPLATES, *SHORT_TEMPLATES)]
    texts += [*TAGS, *SYNONYMS.values(), "a an the is has another"]
    texts += [entry["type"] for entry in attribute_entries()]
    for table in SURROUNDINGS.values():
        texts += [phrase for row in table.values() for phrase in row[:2]]
    return sorted({word for text in texts for word in text.split()})


def write_tokenizer(folder: Path) -> None:
    """Writes a word-level tokenizer that ``transformers.AutoTokenizer`` reads.

    Like T5's it has ``<pad>`` 0, ``</s>`` 1, ``<unk>`` 2 and closes every text with ``</s>``;
    "," and "|" are tokens.
    """
    specials = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokens = [*specials.values(), "|", ",", *words()]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Sequence([WhitespaceSplit(), Punctuation("isolated")])
    tokenizer.post_processor = TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", vocabulary["</s>"])]
    )
    tokenizer.add_special_tokens(list(specials.values()))
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
        **specials,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(specials, indent=2) + "\n")


def write_vocabularies(folder: Path) -> None:
    """Writes ``tags.txt``, ``attributes.json``, ``classes.json`` and ``tokenizer/``."""
    (folder / "tags.txt").write_text("\n".join(TAGS) + "\n")
    attributes = json.dumps({"attributes": attribute_entries()}, indent=1)
    (folder / "attributes.json").write_text(attributes + "\n")
    (folder / "classes.json").write_text(json.dumps(CLASSES) + "\n")
    write_tokenizer(folder / "tokenizer")
