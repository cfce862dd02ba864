"""Finding the tags of a vocabulary in the words of a phrase."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from dynrefer.tags.lemmas import noun_bases, verb_bases
from dynrefer.tags.synonyms import Synonyms
from dynrefer.tags.word_classes import (
    EMPTY_VERBS,
    NOUN_LIKE_VERBS,
    PLURALS_APART,
    PREPOSITIONS,
    THINGS_NOT_DEEDS,
    VERBS,
)
from dynrefer.vocabulary import TagVocabulary

_TOKEN = re.compile(r"'s\b|[^\W_]+(?:[-'][^\W_]+)*|[,.;&/]")
_NEGATION = re.compile(r"n't\b")
_PLURAL_OWNER = re.compile(r"s'(?=\s|$)")
_POSSESSIVE = re.compile(r"'s\b")


def words_of(phrase: str) -> list[str]:
    """Lower-case words and separators of a phrase; "man's" is two words, "isn't" is "is not"."""
    text = phrase.lower().replace("\u2019", "'")
    if "'" in text:
        text = _NEGATION.sub(" not", text)
        text = _PLURAL_OWNER.sub("s 's", text)
        text = _POSSESSIVE.sub(" 's", text)
    return _TOKEN.findall(text)


class Span(NamedTuple):
    """Words [start, end) of a phrase that name one tag."""

    start: int
    end: int
    tag: int


class TagIndex:
    """Looks up tags by their words, by other forms of these and by synonyms.

    A name is found by its own spelling first, then with its last word in the singular ("autumn
    leaves"), written as one word or with hyphens ("streetlight"), and last by synonyms. Where two
    names share a form, the one earlier in the vocabulary has it.

    Args:
        vocabulary: the tags; at least one.
        synonyms: pairs of a term and the tags that it may count as, best first. Pairs whose tags
            the vocabulary lacks, and terms that are tags themselves, have no effect.

    Raises ValueError for an empty vocabulary.
    """

    def __init__(self, vocabulary: TagVocabulary, synonyms: Synonyms = ()) -> None:
        if not len(vocabulary):
            raise ValueError("the tag vocabulary is empty; valid is one tag or more")
        self.vocabulary = vocabulary
        self._entries: dict[tuple[str, ...], int] = {}
        names = [tuple(words_of(name)) for name in vocabulary.names]
        for forms in (_spelled, _singular, _joined):
            self._add((form, tag) for tag, name in enumerate(names) for form in forms(name))
        self._add_synonyms(synonyms)
        self._entries.pop((), None)  # a tag of punctuation alone
        self._first_words: dict[str, int] = {}
        self._last_words = {words[-1] for words in self._entries if len(words) > 1}
        for words in self._entries:
            longest = max(len(words), self._first_words.get(words[0], 1))
            self._first_words[words[0]] = longest
        self._longest = max(self._first_words.values())
        self._word_tags: dict[tuple[str, bool], int | None] = {}

    def __contains__(self, word: str) -> bool:
        """Whether one word, hyphens and all, is a name."""
        return (word,) in self._entries

    def split(self, phrase: str) -> list[str]:
        """Words of a phrase; hyphens split what is no name with them."""
        words = words_of(phrase)
        if "-" not in phrase:
            return words
        known = ((word,) if word in self else word.split("-") for word in words)
        return [part for parts in known for part in parts]

    def spans(self, words: list[str]) -> list[Span]:
        """Names of two words or more, longest first from the right, for English heads stand last.

        Two words that are one in the vocabulary ("skate board") count as such a name. Returned
        from left to right, without overlaps.
        """
        spans, end = [], len(words)
        while end > 1:
            span = self._longest_span(words, end)
            if span is not None:
                spans.append(span)
            end = end - 1 if span is None else span.start
        return spans[::-1]

    def word_tag(self, word: str, is_deed: bool = False) -> int | None:
        """Tag of one word, or None.

        Args:
            word: in lower case.
            is_deed: it is the verb of the phrase, so "riding" is rather ride than riding.
        """
        key = word, is_deed
        if key not in self._word_tags:
            if len(self._word_tags) >= 2**18:  # misspellings of millions of phrases
                self._word_tags.clear()
            self._word_tags[key] = self._find_word(word, is_deed)
        return self._word_tags[key]

    def _find_word(self, word: str, is_deed: bool) -> int | None:
        deeds = [base for base in verb_bases(word) if base not in THINGS_NOT_DEEDS | EMPTY_VERBS]
        if is_deed:
            own = () if word in THINGS_NOT_DEEDS | EMPTY_VERBS else (word,)
            forms = (*deeds, *own)
        else:
            forms = (word, *noun_bases(word), *deeds)
        return next((self._entries[(form,)] for form in forms if (form,) in self._entries), None)

    def _longest_span(self, words: list[str], end: int) -> Span | None:
        last = words[end - 1]
        lasts = [last, *noun_bases(last)]
        if self._last_words.isdisjoint(lasts):
            lasts = []
        for start in range(max(0, end - self._longest), end - 1) if lasts else ():
            middle = tuple(words[start + 1 : end - 1])
            for first in (words[start], *_verbs(words[start])):
                if self._first_words.get(first, 0) < end - start:
                    continue
                for form in lasts:
                    tag = self._entries.get((first, *middle, form))
                    if tag is not None:
                        return Span(start, end, tag)
        return self._two_as_one(words, end)

    def _two_as_one(self, words: list[str], end: int) -> Span | None:
        first, last = words[end - 2 : end]
        if len(first) < 3 or len(last) < 3 or {first, last} & PREPOSITIONS:
            return None
        for form in (last, *noun_bases(last)):
            tag = self._entries.get((first + form,))
            if tag is not None:
                return Span(end - 2, end, tag)
        return None

    def _add(self, entries: Iterable[tuple[tuple[str, ...], int]]) -> None:
        for words, tag in entries:
            self._entries.setdefault(words, tag)

    def _add_synonyms(self, synonyms: Synonyms) -> None:
        """Targets are looked up among the tags alone, so synonyms of synonyms count for nothing."""
        found = []
        for term, targets in synonyms:
            tags = (self._entries.get(tuple(words_of(target))) for target in targets)
            tag = next((tag for tag in tags if tag is not None), None)
            if tag is not None:
                found.append((tuple(words_of(term)), tag))
        for forms in (_spelled, _singular, _joined):
            self._add((form, tag) for words, tag in found for form in forms(words))


def _verbs(word: str) -> list[str]:
    """Verbs that a word is a form of, for names such as "play tennis"."""
    return [base for base in verb_bases(word) if base in VERBS or base in NOUN_LIKE_VERBS]


def _spelled(words: tuple[str, ...]) -> list[tuple[str, ...]]:
    apart = tuple(part for word in words for part in word.split("-"))
    return [words, apart]


def _singular(words: tuple[str, ...]) -> list[tuple[str, ...]]:
    if not words or words[-1] in PLURALS_APART:
        return []
    return [(*words[:-1], base) for base in noun_bases(words[-1])]


def _joined(words: tuple[str, ...]) -> list[tuple[str, ...]]:
    is_pair = len(words) == 2 and all(len(word) > 2 for word in words)
    return [(words[0] + words[1],)] if is_pair else []
