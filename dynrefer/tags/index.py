"""Finding the tags of a vocabulary in the words of a phrase."""

import re
from collections.abc import Iterable
from itertools import product
from typing import NamedTuple

from dynrefer.tags.lemmas import noun_bases, verb_bases
from dynrefer.tags.synonyms import Synonyms
from dynrefer.tags.word_classes import CLOSED_KINDS, WORDS
from dynrefer.vocabulary import TagVocabulary

_TOKEN = re.compile(r"'s\b|[^\W_]+(?:[-'][^\W_]+)*|[,.;&/]")
_NEGATION = re.compile(r"n't\b")
_PLURAL_OWNER = re.compile(r"s'(?=\s|$)")
_POSSESSIVE = re.compile(r"'s\b")
_PREPOSITIONS = {word for word, kind in CLOSED_KINDS.items() if kind == "preposition"}
_VERBS = WORDS["verbs"] | WORDS["noun_like_verbs"]
_NO_DEEDS = WORDS["things_not_deeds"] | WORDS["empty_verbs"]


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

    ``synonyms`` are pairs of a term and the tags that it may count as, best first; pairs whose tags
    the vocabulary lacks, and terms that are tags themselves, have no effect. Raises ValueError for
    an empty vocabulary.
    """

    def __init__(self, vocabulary: TagVocabulary, synonyms: Synonyms = ()) -> None:
        if not len(vocabulary):
            raise ValueError("the tag vocabulary is empty; valid is one tag or more")
        self.vocabulary = vocabulary
        self._entries: dict[tuple[str, ...], int] = {}
        self._add((name, tag) for tag, name in enumerate(vocabulary.names))
        terms = []  # before any is added: synonyms of synonyms count for nothing
        for term, targets in synonyms:
            tag = self._first_tag(tuple(words_of(target)) for target in targets)
            if tag is not None:
                terms.append((term, tag))
        self._add(terms)
        self._entries.pop((), None)  # a tag of punctuation alone
        self._longest = max(map(len, self._entries), default=0)
        self._last_words = {words[-1] for words in self._entries if len(words) > 1}

    def split(self, phrase: str) -> list[str]:
        """Words of a phrase; hyphens split what is no name with them."""
        words = words_of(phrase)
        if "-" not in phrase:
            return words
        known = ([word] if (word,) in self._entries else word.split("-") for word in words)
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
        """Tag of a lower-case word, or None.

        ``is_deed`` says that it is the verb of the phrase, so "riding" is rather ride than riding.
        """
        deeds = [form for form in (*verb_bases(word), word) if form not in _NO_DEEDS]
        forms = deeds if is_deed else [word, *noun_bases(word), *deeds]
        return self._first_tag([(form,) for form in forms])

    def _longest_span(self, words: list[str], end: int) -> Span | None:
        """The longest name that ends before ``end``, or that two words there are as one."""
        first, last = words[end - 2 : end]
        lasts = [last, *noun_bases(last)]
        if not self._last_words.isdisjoint(lasts):
            for start in range(max(0, end - self._longest), end - 1):
                middle = words[start + 1 : end - 1]
                # a verb in a name may be in another form: "playing tennis"
                verbs = [base for base in verb_bases(words[start]) if base in _VERBS]
                firsts = [words[start], *verbs]
                tag = self._first_tag([(a, *middle, b) for a, b in product(firsts, lasts)])
                if tag is not None:
                    return Span(start, end, tag)
        if len(first) < 3 or len(last) < 3 or {first, last} & _PREPOSITIONS:
            return None
        tag = self._first_tag([(first + form,) for form in lasts])
        return None if tag is None else Span(end - 2, end, tag)

    def _first_tag(self, names: Iterable[tuple[str, ...]]) -> int | None:
        for words in names:
            if words in self._entries:
                return self._entries[words]
        return None

    def _add(self, names: Iterable[tuple[str, int]]) -> None:
        """Each name by its own spelling, then all by other forms: no form hides another's name."""
        split = [(tuple(words_of(name)), tag) for name, tag in names]
        for forms in (_spelled, _singular, _joined):
            for words, tag in split:
                for form in forms(words):
                    self._entries.setdefault(form, tag)


def _spelled(words: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [words, tuple(part for word in words for part in word.split("-"))]


def _singular(words: tuple[str, ...]) -> list[tuple[str, ...]]:
    if not words or words[-1] in WORDS["plurals_apart"]:
        return []
    return [(*words[:-1], base) for base in noun_bases(words[-1])]


def _joined(words: tuple[str, ...]) -> list[tuple[str, ...]]:
    is_pair = len(words) == 2 and all(len(word) > 2 for word in words)
    return [("".join(words),)] if is_pair else []
