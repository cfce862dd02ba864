"""Which words of a phrase speak of its subject, and which of other things, by rules.

The subject is the head noun with its modifiers, what a copula says of it and what quantity nouns
stand for; all after a preposition, a verb or a relative pronoun is of others, and so are owners
("the man's hat").
"""

from collections.abc import Container
from enum import Enum, IntEnum, auto

from dynrefer.tags.lemmas import noun_bases, verb_bases
from dynrefer.tags.word_classes import CLOSED_KINDS, WORDS


class Kind(IntEnum):
    """What a word does in its phrase; ``english.yaml`` holds the words of the closed kinds."""

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


_CLOSED_KINDS = {word: Kind[kind.upper()] for word, kind in CLOSED_KINDS.items()}
_OPENS = {Kind.ARTICLE, Kind.QUANTIFIER, Kind.DENIAL, Kind.PREPOSITION, Kind.COPULA, Kind.JOINER}
_OPENS |= {Kind.RELATIVE, Kind.PRONOUN, Kind.ADVERB}
_DOERS = {Kind.NOMINAL, Kind.PRONOUN, Kind.RELATIVE, Kind.AUXILIARY}
# a noun phrase begins after one of these
_BOUNDS = {Kind.PREPOSITION, Kind.VERB, Kind.HAVING, Kind.COPULA, Kind.RELATIVE, Kind.ARTICLE}
_BOUNDS |= {Kind.PRONOUN, Kind.JOINER}


def kinds_of(words: list[str], names: Container[int] = ()) -> list[Kind]:
    """The kind of each word.

    Those at the positions ``names`` may be several words with one blank between them, that name one
    thing or deed.
    """
    kinds = [Kind.NOMINAL if i in names else _closed_kind(words, i) for i in range(len(words))]
    for i, word in enumerate(words):
        before = words[i - 1] if i else ""
        if i in names:
            # "playing golf" after someone is a deed
            is_verb = acts(before) and verb_bases(word.partition(" ")[0])
        else:
            # a phrase begins as it goes on after a comma, and ends as before a preposition
            kind_before = kinds[i - 1] if i else Kind.JOINER
            kind_after = kinds[i + 1] if i + 1 < len(words) else Kind.PREPOSITION
            is_verb = kinds[i] is Kind.NOMINAL and _is_verb(word, before, kind_before, kind_after)
        if is_verb:
            kinds[i] = Kind.VERB
    return kinds


def _closed_kind(words: list[str], i: int) -> Kind:
    """Kind of a word of a closed class; NOMINAL for any other."""
    word = words[i]
    before = words[i - 1] if i else ""
    after = words[i + 1] if i + 1 < len(words) else ""
    kind_before, kind_after = _CLOSED_KINDS.get(before), _CLOSED_KINDS.get(after)
    if word == "that":
        opens = not before or kind_before in (Kind.PREPOSITION, Kind.JOINER)
        return Kind.ARTICLE if opens else Kind.RELATIVE
    if word == "'s":
        is_short = kind_before in (Kind.PRONOUN, Kind.RELATIVE, Kind.ADVERB)
        is_short = is_short or kind_after in (Kind.ARTICLE, Kind.PREPOSITION)
        return Kind.COPULA if is_short else Kind.OWNER
    if word == "can":
        is_able = kind_before in (Kind.PRONOUN, Kind.RELATIVE) or after == "be"
        return Kind.AUXILIARY if is_able else Kind.NOMINAL
    if word in WORDS["linking"] and after and kind_after is not Kind.PREPOSITION:
        return Kind.COPULA
    if word in WORDS["shades"] and after in WORDS["colours"]:
        return Kind.SHADE
    if word in ("front", "top", "back", "between") and before in ("in", "on") and after == "of":
        return Kind.ADVERB  # "in front of" is a preposition, "in the front of" names a part
    if word.endswith("ly") and word not in WORDS["no_adverbs"]:
        return Kind.ADVERB
    return _CLOSED_KINDS.get(word, Kind.NOMINAL)


def _is_verb(word: str, word_before: str, before: Kind, after: Kind) -> bool:
    """Whether a word of an open class is a verb where it stands, and not a noun or a modifier."""
    if word.endswith("ing") and len(word) > 4:
        # "a building", but "people building a wall"
        is_noun = word in WORDS["nouns_in_ing"] and after is not Kind.ARTICLE
        return not is_noun and _is_progressive(word, word_before, before, after)
    if word in WORDS["past_forms"] and before is not Kind.ARTICLE:
        return True
    if word in WORDS["participles"] or (word.endswith("ed") and verb_bases(word)):
        is_used = word in WORDS["adjectives_in_ed"]
        return not is_used and before is not Kind.ARTICLE and after in _OPENS
    return before in _DOERS and _is_finite(word, word_before, before, after)


def _is_progressive(word: str, word_before: str, before: Kind, after: Kind) -> bool:
    if before is Kind.NOMINAL:
        return after is not Kind.NOMINAL or word_before not in WORDS["adjectives"]
    if before in (Kind.COPULA, Kind.AUXILIARY, Kind.RELATIVE, Kind.PRONOUN, Kind.ADVERB):
        return True
    if before in (Kind.ARTICLE, Kind.OWNER, Kind.SHADE):
        return False
    return word in WORDS["transitive_ing"] or after in _OPENS


def _is_finite(word: str, word_before: str, before: Kind, after: Kind) -> bool:
    """A verb in the present: "the dog runs", "dogs run"."""
    bases = {word, *verb_bases(word)}
    is_verb = not bases.isdisjoint(WORDS["verbs"])
    if not is_verb and bases.isdisjoint(WORDS["noun_like_verbs"]):
        return False
    if before is not Kind.NOMINAL:
        return True
    is_plural = bool(noun_bases(word_before)) or word_before in WORDS["plurals"]
    agrees = is_plural != word.endswith("s")
    if not agrees or (is_verb and word.endswith("s")):
        return agrees
    return after in _OPENS and (is_verb or is_plural or acts(word_before))


def acts(word: str) -> bool:
    """Whether a word, or a name by its last word, is of someone or something that does things."""
    last = word.rpartition(" ")[2]
    return not WORDS["actors"].isdisjoint((last, *noun_bases(last)))


def sides_of(words: list[str], kinds: list[Kind]) -> list[Side]:
    """The side of each word, given their kinds: reads from left to right whom it speaks of."""
    sides: list[Side] = []
    side, denied = Side.SUBJECT, False
    in_relative = False  # the next copula speaks of what stands before "that"
    noun_phrase = 0  # where the present one begins
    for i, (word, kind) in enumerate(zip(words, kinds, strict=True)):
        match kind:
            case Kind.NOMINAL:
                pass
            case Kind.PREPOSITION:
                denied = False
                if word != "of" or not i or not _is_quantity(words[i - 1]):
                    side = Side.OTHERS
            case Kind.VERB | Kind.HAVING:
                side, in_relative = Side.OTHERS, False
            case Kind.COPULA:
                if not in_relative:
                    side = Side.SUBJECT
                in_relative = denied = False
            case Kind.RELATIVE:
                in_relative, denied = True, False
                if kinds[i + 1 : i + 2] not in ([], [Kind.COPULA]):
                    side = Side.OTHERS
            case Kind.ARTICLE | Kind.PRONOUN:
                # "the horse the girl is riding", "the part you see"
                if i and kinds[i - 1] is Kind.NOMINAL:
                    side, in_relative = Side.OTHERS, True
            case Kind.JOINER:
                denied = denied and word == "or"
            case Kind.OWNER:
                for j in range(noun_phrase, i):
                    if sides[j] is Side.SUBJECT:
                        sides[j] = Side.OTHERS
            case Kind.DENIAL:
                denied = True
                if word == "without":
                    side = Side.OTHERS
        if kind in _BOUNDS:
            noun_phrase = i + 1
        names = kind in (Kind.NOMINAL, Kind.VERB)
        sides.append(side if names and not denied else Side.NONE)
    return sides


def _is_quantity(word: str) -> bool:
    """Whether "of" follows a quantity in this word: "a pair of", "three of", "the largest of"."""
    bases = (word, *noun_bases(word))
    return word.endswith("est") or not WORDS["quantities"].isdisjoint(bases)
