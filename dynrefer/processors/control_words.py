"""Control words: what steers a caption, drawn from the caption itself and its tags.

A caption decoder reads them as one string, words joined by "," and closed by "|"; "|" alone means
no control. Order is always that of the words given (or of the generator that shuffles them), never
that of a set, so a run can be repeated.
"""

import itertools
from collections.abc import Iterable
from functools import lru_cache

import numpy as np


def join_control_words(words: Iterable[str]) -> str:
    """Control string of some words, e.g. ``"dog,grass|"``; repeated and blank words are dropped."""
    return ",".join(_distinct(words)) + "|"


def caption_control_words(caption: str) -> list[str]:
    """Nouns and adjectives of a caption, each with the nouns that directly follow it.

    Words are tagged by textblob's PatternTagger, whose lexicon comes with the package (the
    published code uses NLTK's tagger, a download). As published, punctuation is left out before
    words are joined, and a word that occurs again is extended at its first place. Returns the
    phrases in the caption's order, without repeats.
    """
    return list(_control_words(caption))


class ControlWordSampler:
    """Training: a random part of a region's tags and caption words, as a control string.

    With probability ``full_drop_ratio`` the string is empty ("|"); otherwise each word is dropped
    with probability ``drop_ratio`` and the rest are shuffled.

    Raises ValueError where a ratio is not in [0, 1].
    """

    def __init__(self, full_drop_ratio: float = 0.5, drop_ratio: float = 0.5) -> None:
        for name, ratio in (("full_drop_ratio", full_drop_ratio), ("drop_ratio", drop_ratio)):
            if not 0 <= ratio <= 1:
                raise ValueError(f"{name} is {ratio}; valid is a probability, 0 to 1")
        self.full_drop_ratio = full_drop_ratio
        self.drop_ratio = drop_ratio

    def __call__(self, caption: str, tag_names: list[str], rng: np.random.Generator) -> str:
        """Control string of a region: of its cleaned caption and the names of its tags, those of
        tag_set1 before those of tag_set2; ``rng`` decides which words stay and in which order.
        """
        if rng.random() < self.full_drop_ratio:
            return join_control_words([])
        words = _distinct([*tag_names, *_control_words(caption)])
        kept = np.flatnonzero(rng.random(len(words)) >= self.drop_ratio)
        return join_control_words(words[index] for index in rng.permutation(kept))


def _distinct(words: Iterable[str]) -> list[str]:
    return [word for word in dict.fromkeys(word.strip() for word in words) if word]


@lru_cache(maxsize=2**14)
def _control_words(caption: str) -> tuple[str, ...]:
    tagged = _tagged(caption)
    words = [word for word, _ in tagged]
    nouns = {word for word, tag in tagged if "NN" in tag}
    phrases = []
    for word in (word for word, tag in tagged if "NN" in tag or "JJ" in tag):
        start = words.index(word)
        after = itertools.takewhile(nouns.__contains__, words[start + 1 :])
        phrases.append(" ".join([word, *after]))
    return tuple(dict.fromkeys(phrases))


def _tagged(caption: str) -> list[tuple[str, str]]:
    """Words of a caption and their tags, punctuation left out."""
    # Imported on first use: nltk, which textblob builds on, takes about a second to import, and
    # only training needs control words from captions.
    from nltk.tokenize import NLTKWordTokenizer
    from textblob.taggers import PatternTagger

    # The tagger's own tokens would split "isn't" into "is n ' t" and call "n" and "t" nouns.
    words = NLTKWordTokenizer().tokenize(caption)
    tagged = PatternTagger().tag(" ".join(words), tokenize=False) if words else []
    return [(word, tag) for word, tag in tagged if any(map(str.isalnum, word))]
