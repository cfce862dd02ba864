"""The words of the shapes world: what can be true of a figure, and what it is called.

Everything here is fixed by the world's grammar and not by what a sample of images happens to hold.
"""

from dataclasses import dataclass

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
SYNONYMS = {
    "small": "little",
    "medium": "midsize",
    "large": "big",
    "plain": "solid",
    "striped": "lined",
    "dotted": "spotted",
    "checkered": "checked",
}
# place in the image -> its two phrases and its share of the figures (measured)
PLACES = {
    "left": ("on the left", "on the left side", 0.07),
    "right": ("on the right", "on the right side", 0.07),
    "top": ("at the top", "in the upper middle", 0.07),
    "bottom": ("at the bottom", "in the lower middle", 0.07),
    "middle": ("in the middle", "in the center", 0.06),
    "top left": ("in the top left corner", "at the upper left", 0.09),
    "top right": ("in the top right corner", "at the upper right", 0.09),
    "bottom left": ("in the bottom left corner", "at the lower left", 0.09),
    "bottom right": ("in the bottom right corner", "at the lower right", 0.09),
}
# what a figure lies on -> its two phrases and its share
GROUNDS = {
    "grass": ("on the grass", "on grass", 0.18),
    "sand": ("on the sand", "on sand", 0.18),
    "water": ("on the water", "on water", 0.18),
    "bricks": ("on the bricks", "on bricks", 0.18),
    "wood": ("on the wood", "on wood", 0.18),
}
# relation -> its two phrases and its share of the figures (measured: it follows from the layout)
RELATIONS = {
    "left": ("left of", "to the left of", 0.14),
    "right": ("right of", "to the right of", 0.14),
    "above": ("above", "higher than", 0.14),
    "below": ("below", "lower than", 0.14),
    "inside": ("inside", "within", 0.05),
    "around": ("around", "surrounding", 0.05),
    "front": ("in front of", "partly covering", 0.045),
    "behind": ("behind", "partly hidden by", 0.045),
    "near": ("near", "close to", 0.05),
}
# What a figure's surroundings tell, by kind: value -> two phrases and a share.
SURROUNDINGS = {"relation": RELATIONS, "place": PLACES, "ground": GROUNDS}
CLASSES = FIGURES


@dataclass(frozen=True)
class Facts:
    """What is true of a figure in its image; None where it is unclear.

    ``neighbour`` is (colour, figure) of the figure that ``relation`` refers to.
    """

    figure: str
    colour: str
    texture: str
    size: str
    place: str | None = None
    ground: str | None = None
    relation: str | None = None
    neighbour: tuple[str, str] | None = None


TAGS = (*FIGURES, *COLOURS, *TEXTURES, *SIZES, *PLACES, *GROUNDS)
TAGS += tuple(first for first, _, _ in RELATIONS.values())


def tags_of(facts: Facts) -> tuple[list[int], list[int]]:
    """Indices into TAGS of what a figure is and where, and of what is beside it; both sorted."""
    own = (facts.figure, facts.colour, facts.texture, facts.size, facts.place, facts.ground)
    relation = facts.relation and RELATIONS[facts.relation][0]
    beside = (relation, *(facts.neighbour or ()))
    sides = [sorted(TAGS.index(tag) for tag in side if tag) for side in (own, beside)]
    return sides[0], sides[1]


def attribute_entries() -> list[dict[str, str | int]]:
    """The attributes in OVAD's form, in the order of an ``att_vec``."""
    rows = [("color", "is", (name,), share) for name, share in COLOURS.items()]
    rows += [("pattern", "has", (n, SYNONYMS[n]), share) for n, share in TEXTURES.items()]
    rows += [("size", "is", (n, SYNONYMS[n]), share) for n, share in SIZES.items()]
    for kind, table in SURROUNDINGS.items():
        rows += [(kind, "is", phrases, share) for *phrases, share in table.values()]
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


def attribute_labels(facts: Facts, alone: bool) -> list[int]:
    """1 true, 0 false, -1 unclear for each attribute; ``alone``: the image has no other figure."""
    labels = []
    for value, table in (
        (facts.colour, COLOURS),
        (facts.texture, TEXTURES),
        (facts.size, SIZES),
        *((getattr(facts, kind), table) for kind, table in SURROUNDINGS.items()),
    ):
        unclear = value is None and not (alone and table is RELATIONS)
        labels += [-1 if unclear else int(name == value) for name in table]
    return labels
