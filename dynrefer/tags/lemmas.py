"""Base forms of English words by rules and a table of irregular ones.

No lexicon: a rule gives every base that a form may have ("leaves" of noun "leaf" and verb "leave"),
and whoever asks keeps those that its vocabulary knows.
"""

import re
from functools import lru_cache

_IRREGULAR_NOUNS = """
men man, women woman, children child, people person, persons person, feet foot, teeth tooth,
geese goose, mice mouse, oxen ox, dice die, cacti cactus, fungi fungus, larvae larva,
leaves leaf, loaves loaf, knives knife, wives wife, wolves wolf, calves calf, halves half,
shelves shelf, scarves scarf, hooves hoof, elves elf, thieves thief, sheaves sheaf, dwarves dwarf,
buses bus, gases gas, lenses lens, axes ax, quizzes quiz, octopi octopus, busses bus,
bookshelves bookshelf, snowmen snowman, firemen fireman, policemen policeman, fishermen fisherman,
businessmen businessman, cowgirls cowgirl, policewomen policewoman, salesmen salesman
"""
_IRREGULAR_VERBS = """
ate eat, eaten eat, beaten beat, bent bend, bit bite, bitten bite, blew blow, blown blow,
broke break, broken break, brought bring, built build, bought buy, caught catch, came come,
drew draw, drawn draw, drank drink, drove drive, driven drive, fed feed, fought fight, flew fly,
flown fly, froze freeze, frozen freeze, gave give, given give, went go, gone go, grew grow,
grown grow, held hold, hid hide, hidden hide, hung hang, kept keep, knelt kneel, laid lay,
lain lie, lying lie, made make, met meet, paid pay, ran run, ridden ride, rode ride, sang sing,
sat sit, shone shine, shook shake, shaken shake, shown show, slept sleep, slid slide, sold sell,
spoke speak, spoken speak, spread spread, stood stand, stuck stick, struck strike, swam swim,
swept sweep, swung swing, taken take, took take, thrown throw, threw throw, tied tie, tying tie,
dyed dye, dying die, torn tear, wore wear, worn wear, woven weave, wrote write, written write,
skies ski, skied ski, skiing ski
"""
# Words that end like an inflected form and are none (or stand for something else).
_UNINFLECTED = frozenset(
    re.findall(
        r"\w+",
        """
        left red bed shed sled seed weed speed breed hundred naked wicked sacred beloved reed
        thing king ring wing sing string spring sling swing bring ceiling morning evening nothing
        something anything everything during duckling dumpling earring building wedding bedding
        clothing painting icing frosting lightning pudding herring sibling stocking topping legging
        siding flooring awning sterling darling
        bus gas lens canvas atlas cactus octopus tennis iris bias chaos news plus
        as is was has this his its us yes
        """,
    )
)
_VOWELS = "aeiouy"


def _pairs(text: str) -> dict[str, str]:
    return dict(pair.split() for pair in text.split(","))


_NOUNS, _VERBS = _pairs(_IRREGULAR_NOUNS), _pairs(_IRREGULAR_VERBS)


@lru_cache(maxsize=2**16)
def noun_bases(word: str) -> tuple[str, ...]:
    """Singulars that a lower-case word may be the plural of, likeliest first; () for a singular."""
    if word in _NOUNS:
        return (_NOUNS[word],)
    if word in _UNINFLECTED or len(word) < 3 or not word.endswith("s"):
        return ()
    if word.endswith("ss"):
        return ()
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y", word[:-1]
    if word.endswith(("ses", "xes", "zes", "ches", "shes", "oes")):
        return word[:-1], word[:-2]
    return (word[:-1],)


@lru_cache(maxsize=2**16)
def verb_bases(word: str) -> tuple[str, ...]:
    """Verbs that a lower-case word may be a form of, likeliest first; () for a base form."""
    if word in _VERBS:
        return (_VERBS[word],)
    if word in _UNINFLECTED:
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
    if len(stem) < 2 or not any(letter in _VOWELS for letter in stem):
        return ()
    if stem[-1] == stem[-2] and stem[-1] not in "aeiou":
        return stem[:-1], stem  # "runn" run; "pull" pull
    if _needs_e(stem):
        return (stem + "e",)
    return stem, stem + "e"


def _needs_e(stem: str) -> bool:
    """A syllable of one vowel and one consonant would have doubled it: "rat" is of rate."""
    vowels = [letter for letter in stem if letter in _VOWELS]
    closed = stem[-1] not in _VOWELS and stem[-1] not in "wx"
    return len(vowels) == 1 and closed and len(stem) > 2 and stem[-2] in _VOWELS
