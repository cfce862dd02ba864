"""Which words of a phrase speak of its subject, and which of other things, by rules.

The subject is the head noun with its modifiers, what a copula says of it and what quantity nouns
stand for; all after a preposition, a verb or a relative pronoun is of others, and so are owners
("the man's hat").
"""

from collections.abc import Container
from enum import Enum, auto

from dynrefer.tags import word_classes as classes
from dynrefer.tags.lemmas import noun_bases, verb_bases


class Kind(Enum):
    """What a word does in its phrase."""

    NOMINAL = auto()
    VERB = auto()
    ARTICLE = auto()
    QUANTIFIER = auto()
    DENIAL = auto()
    PREPOSITION = auto()
    COPULA = auto()
    HAVING = auto()
    AUXILIARY = auto()
    JOINER = auto()
    RELATIVE = auto()
    PRONOUN = auto()
    ADVERB = auto()
    OWNER = auto()  # the 's after one
    SHADE = auto()  # the "light" of "light blue"


class Side(Enum):
    """Whom a word speaks of; NONE for words that name nothing, or what is denied."""

    NONE = auto()
    SUBJECT = auto()
    OTHERS = auto()


_CLOSED_KINDS = {
    word: kind
    for words, kind in (
        (classes.ADVERBS, Kind.ADVERB),
        (classes.QUANTIFIERS, Kind.QUANTIFIER),
        (classes.ARTICLES, Kind.ARTICLE),
        (classes.PREPOSITIONS, Kind.PREPOSITION),
        (classes.COPULAS, Kind.COPULA),
        (classes.HAVING, Kind.HAVING),
        (classes.AUXILIARIES, Kind.AUXILIARY),
        (classes.JOINERS, Kind.JOINER),
        (classes.RELATIVES, Kind.RELATIVE),
        (classes.PRONOUNS, Kind.PRONOUN),
        (classes.DENIALS, Kind.DENIAL),
    )
    for word in words
}
_START = Kind.JOINER  # a phrase begins as it goes on after a comma
_END = Kind.PREPOSITION  # and ends as before a preposition: what stood there is complete
_OPENS = frozenset(
    (
        Kind.ARTICLE,
        Kind.QUANTIFIER,
        Kind.DENIAL,
        Kind.PREPOSITION,
        Kind.COPULA,
        Kind.JOINER,
        Kind.RELATIVE,
        Kind.PRONOUN,
        Kind.ADVERB,
    )
)
_DOERS = frozenset((Kind.NOMINAL, Kind.PRONOUN, Kind.RELATIVE, Kind.AUXILIARY))


def kinds_of(words: list[str], names: Container[int] = ()) -> list[Kind]:
    """The kind of each word.

    Those at the positions ``names`` may be several words with one blank between them, that name one
    thing or deed.
    """
    kinds = [Kind.NOMINAL if i in names else _closed_kind(words, i) for i in range(len(words))]
    for i, word in enumerate(words):
        if i in names:
            # "playing golf" after someone is a deed
            if i and acts(words[i - 1]) and verb_bases(word.partition(" ")[0]):
                kinds[i] = Kind.VERB
        elif kinds[i] is Kind.NOMINAL:
            before = kinds[i - 1] if i else _START
            after = kinds[i + 1] if i + 1 < len(words) else _END
            if _is_verb(word, words[i - 1] if i else "", before, after):
                kinds[i] = Kind.VERB
    return kinds


def _closed_kind(words: list[str], i: int) -> Kind:
    """Kind of a word of a closed class; NOMINAL for any other."""
    word = words[i]
    before = words[i - 1] if i else ""
    after = words[i + 1] if i + 1 < len(words) else ""
    if word == "that":
        opens = not before or _CLOSED_KINDS.get(before) in (Kind.PREPOSITION, Kind.JOINER)
        return Kind.ARTICLE if opens else Kind.RELATIVE
    if word == "'s":
        is_short = _CLOSED_KINDS.get(before) in (Kind.PRONOUN, Kind.RELATIVE, Kind.ADVERB) or (
            _CLOSED_KINDS.get(after) in (Kind.ARTICLE, Kind.PREPOSITION)
        )
        return Kind.COPULA if is_short else Kind.OWNER
    if word == "can":
        is_able = _CLOSED_KINDS.get(before) in (Kind.PRONOUN, Kind.RELATIVE) or after == "be"
        return Kind.AUXILIARY if is_able else Kind.NOMINAL
    if word in classes.LINKING and after and _CLOSED_KINDS.get(after) is not Kind.PREPOSITION:
        return Kind.COPULA
    if word in classes.SHADES and after in classes.COLOURS:
        return Kind.SHADE
    if word in ("front", "top", "back", "between") and before in ("in", "on") and after == "of":
        return Kind.ADVERB  # "in front of" is a preposition, "in the front of" names a part
    if word.endswith("ly") and word not in classes.NO_ADVERBS:
        return Kind.ADVERB
    return _CLOSED_KINDS.get(word, Kind.NOMINAL)


def _is_verb(word: str, word_before: str, before: Kind, after: Kind) -> bool:
    """Whether a word of an open class is a verb where it stands, and not a noun or a modifier."""
    if word.endswith("ing") and len(word) > 4:
        # "a building", but "people building a wall"
        is_noun = word in classes.NOUNS_IN_ING and after is not Kind.ARTICLE
        return not is_noun and _is_progressive(word, word_before, before, after)
    if word in classes.PAST_FORMS and before is not Kind.ARTICLE:
        return True
    if word in classes.PARTICIPLES or (word.endswith("ed") and verb_bases(word)):
        is_used = word in classes.ADJECTIVES_IN_ED
        return not is_used and before is not Kind.ARTICLE and after in _OPENS
    if before not in _DOERS:
        return False
    return _is_finite(word, word_before, before, after)


def _is_progressive(word: str, word_before: str, before: Kind, after: Kind) -> bool:
    if before is Kind.NOMINAL:
        return after is not Kind.NOMINAL or word_before not in classes.ADJECTIVES
    if before in (Kind.COPULA, Kind.AUXILIARY, Kind.RELATIVE, Kind.PRONOUN, Kind.ADVERB):
        return True
    if before in (Kind.ARTICLE, Kind.OWNER, Kind.SHADE):
        return False
    return word in classes.TRANSITIVE_ING or after in _OPENS


def _is_finite(word: str, word_before: str, before: Kind, after: Kind) -> bool:
    """A verb in the present: "the dog runs", "dogs run"."""
    bases = {word, *verb_bases(word)}
    is_verb, is_noun_too = bases & classes.VERBS, bases & classes.NOUN_LIKE_VERBS
    if before is not Kind.NOMINAL:
        return bool(is_verb or is_noun_too)
    if not is_verb and not is_noun_too:
        return False
    singulars = noun_bases(word_before) or ((word_before,) if word_before in _PLURALS else ())
    agrees = bool(singulars) != word.endswith("s")
    if not agrees or (is_verb and word.endswith("s")):
        return agrees
    return after in _OPENS and (bool(is_verb or singulars) or acts(word_before))


_PLURALS = frozenset(("people", "sheep", "cattle", "fish", "deer", "police", "crowd"))


def acts(word: str) -> bool:
    """Whether a word, or a name by its last word, is of someone or something that does things."""
    last = word.rpartition(" ")[2]
    return not classes.ACTORS.isdisjoint((last, *noun_bases(last)))


def sides_of(words: list[str], kinds: list[Kind]) -> list[Side]:
    """The side of each word, given their kinds."""
    reader = _Reader(words, kinds)
    for i in range(len(words)):
        reader.read(i)
    return reader.sides


class _Reader:
    """Goes through a phrase from left to right and keeps whom it speaks of."""

    def __init__(self, words: list[str], kinds: list[Kind]) -> None:
        self.words, self.kinds = words, kinds
        self.sides: list[Side] = []
        self._side = Side.SUBJECT
        self._in_relative = False  # the next copula speaks of what stands before "that"
        self._denied = False
        self._noun_phrase = 0  # where the present one begins

    def read(self, i: int) -> None:
        """Gives word ``i`` its side."""
        kind = self.kinds[i]
        if kind is not Kind.NOMINAL:
            self._turn(i, kind)
        names = kind in (Kind.NOMINAL, Kind.VERB)
        self.sides.append(self._side if names and not self._denied else Side.NONE)

    def _turn(self, i: int, kind: Kind) -> None:
        """What a word of another kind than NOMINAL changes."""
        if kind is Kind.PREPOSITION:
            self._denied = False
            if self.words[i] != "of" or not self._is_quantity(i):
                self._side = Side.OTHERS
            self._noun_phrase = i + 1
        elif kind in (Kind.VERB, Kind.HAVING):
            self._side, self._in_relative = Side.OTHERS, False
            self._noun_phrase = i + 1
        elif kind is Kind.COPULA:
            if not self._in_relative:
                self._side = Side.SUBJECT
            self._in_relative = self._denied = False
            self._noun_phrase = i + 1
        elif kind is Kind.RELATIVE:
            self._begin_relative(i)
        elif kind in (Kind.ARTICLE, Kind.PRONOUN):
            # "the horse the girl is riding", "the part you see"
            if i and self.kinds[i - 1] is Kind.NOMINAL:
                self._side, self._in_relative = Side.OTHERS, True
            self._noun_phrase = i
        elif kind is Kind.JOINER:
            self._denied = self._denied and self.words[i] == "or"
            self._noun_phrase = i + 1
        elif kind is Kind.OWNER:
            for j in range(self._noun_phrase, i):
                if self.sides[j] is Side.SUBJECT:
                    self.sides[j] = Side.OTHERS
        elif kind is Kind.DENIAL:
            self._denied = True
            if self.words[i] == "without":
                self._side = Side.OTHERS

    def _begin_relative(self, i: int) -> None:
        self._in_relative, self._denied = True, False
        if i + 1 < len(self.kinds) and self.kinds[i + 1] is not Kind.COPULA:
            self._side = Side.OTHERS
        self._noun_phrase = i + 1

    def _is_quantity(self, i: int) -> bool:
        """Whether "of" at ``i`` follows a quantity: "a pair of", "three of", "the largest of"."""
        if not i:
            return False
        word = self.words[i - 1]
        bases = (word, *noun_bases(word))
        return word.endswith("est") or not classes.QUANTITIES.isdisjoint(bases)
