"""The words of the shapes world: captions, tags, attributes, classes and a tokenizer for them.

Everything here is fixed by the world's grammar and not by what a sample of images happens to hold.
"""

import json
import re
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Punctuation, Sequence, WhitespaceSplit
from tokenizers.processors import TemplateProcessing

FIGURES = ("circle", "square", "triangle", "star", "ring", "cross", "heart", "diamond")
# name -> chance to be drawn; uneven on purpose, so that some attributes are rare
COLOURS = {
    "red": 0.22,
    "blue": 0.20,
    "green": 0.18,
    "yellow": 0.13,
    "orange": 0.11,
    "purple": 0.09,
    "pink": 0.04,
    "cyan": 0.03,
}
TEXTURES = {"plain": 0.34, "striped": 0.29, "dotted": 0.24, "checkered": 0.13}
SIZES = {"small": 0.36, "medium": 0.38, "large": 0.26}
# relation -> its two phrases and its share of the figures (measured: it follows from the layout)
RELATIONS = {
    "left": ("left of", "to the left of", 0.12),
    "right": ("right of", "to the right of", 0.12),
    "above": ("above", "higher than", 0.12),
    "below": ("below", "lower than", 0.12),
    "inside": ("inside", "within", 0.075),
    "around": ("around", "surrounding", 0.075),
    "front": ("in front of", "partly covering", 0.08),
    "behind": ("behind", "partly hidden by", 0.08),
    "near": ("near", "close to", 0.055),
}
SYNONYMS = {
    "small": "little",
    "medium": "midsize",
    "large": "big",
    "plain": "solid",
    "striped": "lined",
    "dotted": "spotted",
    "checkered": "checked",
}
CLASSES = FIGURES
TAGS = (*FIGURES, *COLOURS, *TEXTURES, *SIZES)

# {relation} and {relation2} are the two phrases, {size2} and {texture2} synonyms
TEMPLATES = (
    "a {size} {texture} {colour} {figure} {relation} {other}",
    "a {size} {colour} {texture} {figure} {relation2} {other}",
    "a {size} {colour} {figure} that has a {texture} pattern {relation} {other}",
    "the {size2} {texture2} {colour} {figure} {relation2} {other}",
    "a {size} {figure} that is {colour} and {texture} {relation} {other}",
    "a {texture} {colour} {figure} of {size} size {relation2} {other}",
)
# Many of people's captions say only one thing, often without a noun. Without such captions colour
# and texture tell most pairs of a batch apart, and a model has little need to learn the figures, or
# sizes and relations, or to read an attribute alone.
RELATION_TEMPLATES = (
    "the one {relation} another",
    "the one that is {relation2} another",
    "the one {relation} {other}",
)
SHORT_TEMPLATES = (
    "the {figure}",
    "the {colour} one",
    "the one that is {colour}",
    "the {texture} one",
    "the one that has a {texture} pattern",
    "the {size} one",
    "the one that is {size}",
    *RELATION_TEMPLATES,
)
# Templates of the captions of training and validation, with their shares. "The one" must stay rarer
# than "a small", or a beam search takes the short ones.
TRAIN_TEMPLATES = (*TEMPLATES[:4], *SHORT_TEMPLATES)
TRAIN_TEMPLATE_SHARES = (0.27, 0.13, 0.1, 0.03)
TRAIN_TEMPLATE_SHARES += (0.08, 0.04, 0.01, 0.04, 0.02, 0.09, 0.02, 0.06, 0.05, 0.06)


def caption(
    template: str,
    size: str,
    texture: str,
    colour: str,
    figure: str,
    relation: str | None = None,
    other: tuple[str, str] | None = None,
) -> str:
    """Fills a template; ``other`` is (colour, figure) of the related figure.

    Without a relation the caption ends before it; nothing but "the one" becomes "the {figure}".
    """
    first, second = RELATIONS[relation][:2] if relation else ("", "")
    if not relation and template in RELATION_TEMPLATES:
        template = "the {figure}"
    text = template.format(
        size=size,
        size2=SYNONYMS[size],
        texture=texture,
        texture2=SYNONYMS[texture],
        colour=colour,
        figure=figure,
        relation=first,
        relation2=second,
        other=f"a {other[0]} {other[1]}" if relation and other else "",
    )
    return re.sub(r"\ba(?= [aeiou])", "an", " ".join(text.split()))


def attribute_entries() -> list[dict[str, str | int]]:
    """The attributes in OVAD's form, in the order of an ``att_vec``."""
    rows = [("color", "is", (name,), share) for name, share in COLOURS.items()]
    rows += [("pattern", "has", (n, SYNONYMS[n]), share) for n, share in TEXTURES.items()]
    rows += [("size", "is", (n, SYNONYMS[n]), share) for n, share in SIZES.items()]
    rows += [("relation", "is", phrases, share) for *phrases, share in RELATIONS.values()]
    return [
        {
            "id": index,
            "name": f"{kind}:{'/'.join(phrases)}",
            "type": kind,
            "parent_type": kind,
            "is_has_att": verb,
            "freq_set": "head" if share >= 0.17 else "tail" if share < 0.065 else "medium",
        }
        for index, (kind, verb, phrases, share) in enumerate(rows)
    ]


def attribute_values() -> list[str]:
    """The world's own name of each attribute, in the order of an ``att_vec``."""
    return [*COLOURS, *TEXTURES, *SIZES, *RELATIONS]


def words() -> list[str]:
    """Every word of captions, tags, attribute phrases and class phrases, sorted."""
    texts = [re.sub(r"{\w+}", " ", template) for template in (*TEMPLATES, *SHORT_TEMPLATES)]
    texts += [*TAGS, *SYNONYMS.values(), "a an the is has color pattern size relation"]
    texts += [phrase for entry in RELATIONS.values() for phrase in entry[:2]]
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
