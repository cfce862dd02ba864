"""Words that name the same thing as a tag: the built-in table, and tables of a user's own.

A line is either "a = b = c", words that may stand for each other (a phrase's "sofa" counts as the
tag "couch", and the other way round, whichever the vocabulary has), or "a, b -> c, d", words that
count as the first of c, d that is a tag, for kinds of a thing: every puppy is a dog, not every dog
a puppy. Empty lines and those that begin with "#" are left out.
"""

from pathlib import Path

from dynrefer.vocabulary import read_text

BUILT_IN = Path(__file__).with_name("synonyms.txt")
Synonyms = list[tuple[str, list[str]]]


class SynonymError(ValueError):
    """A line of a synonym table that cannot be read."""


def load_synonyms(path: str | Path = BUILT_IN) -> Synonyms:
    """Pairs of a term and the tags that it may count as, best first, in the order of the lines.

    Raises FileNotFoundError, ValueError for a file that is not UTF-8, and SynonymError naming file
    and line for one that is neither "a = b" nor "a -> b".
    """
    pairs = []
    for number, line in enumerate(read_text(path, "--synonyms").splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        left, arrow, right = line.partition("->")
        terms = [term.strip() for term in left.split("," if arrow else "=")]
        targets = [term.strip() for term in right.split(",")] if arrow else terms
        mixed = "=" in line or "->" in right if arrow else len(terms) < 2
        if not all(terms) or not all(targets) or mixed:
            raise SynonymError(
                f"{path}: line {number} is {line.strip()!r}; valid is 'a = b' or 'a, b -> c'"
            )
        pairs += [(term, [other for other in targets if other != term]) for term in terms]
    return pairs
