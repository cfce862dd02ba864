"""Base forms of English words by rules and the irregular ones of ``english.yaml``.

No lexicon: a rule gives every base that a form may have ("leaves" of noun "leaf" and verb "leave"),
and whoever asks keeps those that its vocabulary knows.
"""

import re
from functools import lru_cache

from dynrefer.tags.word_classes import BASES, SINGULARS, WORDS

_ENDS_LIKE_A_PLURAL = re.compile(r".+[^s]s$")


@lru_cache(maxsize=2**16)
def noun_bases(word: str) -> tuple[str, ...]:
    """Singulars that a lower-case word may be the plural of, likeliest first; () for a singular."""
    if word in SINGULARS:
        return (SINGULARS[word],)
    if word in WORDS["uninflected"] or not _ENDS_LIKE_A_PLURAL.match(word):
        return ()
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y", word[:-1]
    if word.endswith(("ses", "xes", "zes", "ches", "shes", "oes")):
        return word[:-1], word[:-2]
    return (word[:-1],)


@lru_cache(maxsize=2**16)
def verb_bases(word: str) -> tuple[str, ...]:
    """Verbs that a lower-case word may be a form of, likeliest first; () for a base form."""
    if word in BASES:
        return (BASES[word],)
    if word in WORDS["uninflected"]:
        return ()
    if word.endswith("ing"):
        return _of_stem(word[:-3])
    if word.endswith("ied") and len(word) > 4:
        return (word[:-3] + "y",)
    if word.endswith("ed"):
        return _of_stem(word[:-2])
    return noun_bases(word)  # the third person is formed as the plural is


def _of_stem(stem: str) -> tuple[str, ...]:
    """Bases of what is left without -ing or -ed: "runn" run, "rid" ride, "stand" stand."""
    if len(stem) < 2 or not re.search("[aeiouy]", stem):
        return ()
    if stem[-1] == stem[-2] and stem[-1] not in "aeiou":
        return stem[:-1], stem  # "runn" run; "pull" pull
    # a syllable of one vowel and one consonant would have doubled it: "rat" is of rate
    if len(stem) > 2 and re.fullmatch("[^aeiouy]*[aeiouy][^aeiouywx]", stem):
        return (stem + "e",)
    return stem, stem + "e"
