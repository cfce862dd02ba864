import pytest

from dynrefer.tags.index import words_of
from dynrefer.tags.phrase_sides import Side, kinds_of, sides_of


def sides(phrase: str) -> tuple[str, str]:
    """Words of the subject, and those of others."""
    words = words_of(phrase)
    found = sides_of(words, kinds_of(words))
    pairs = list(zip(words, found, strict=True))
    subject = " ".join(word for word, side in pairs if side is Side.SUBJECT)
    return subject, " ".join(word for word, side in pairs if side is Side.OTHERS)


@pytest.mark.parametrize(
    ("phrase", "subject", "others"),
    [
        # modifiers and prepositions
        ("a small red star left of a blue ring", "small red star left", "blue ring"),
        ("cup and saucer on the tray", "cup saucer", "tray"),
        # what a copula says, also after a relative pronoun, but not of the nearest other thing
        ("the wall is white", "wall white", ""),
        ("a shirt that is red", "shirt red", ""),
        ("a dog on a bed that is white", "dog", "bed white"),
        ("the man in the boat is tall", "man tall", "boat"),
        ("there is a lamp by the bed", "lamp", "bed"),
        ("on the desk is a lamp", "lamp", "desk"),
        ("the room looks clean", "room clean", ""),
        # verbs
        ("man riding horse", "man", "riding horse"),
        ("dog runs on grass", "dog", "runs grass"),
        ("cows graze in a field", "cows", "graze field"),
        ("people building a wall", "people", "building wall"),
        ("car parked on the curb", "car", "parked curb"),
        ("the bus has windows", "bus", "windows"),
        ("wearing sunglasses", "", "wearing sunglasses"),
        # the same forms as modifiers and nouns
        ("a standing man", "standing man", ""),
        ("parked cars", "parked cars", ""),
        ("a brown building", "brown building", ""),
        ("snow covered hill", "snow covered hill", ""),
        ("the shirt is striped", "shirt striped", ""),
        ("street lights on poles", "street lights", "poles"),
        # owners
        ("the man's blue hat", "blue hat", "man"),
        ("girls' shoes on a mat", "shoes", "girls mat"),
        ("it's a boat", "boat", ""),
        # relative clauses without a pronoun
        ("the horse the girl is riding", "horse", "girl riding"),
        ("the part you can see", "part", "see"),
        # quantities
        ("a slice of pizza on a plate", "slice pizza", "plate"),
        ("the largest of the bears", "largest bears", ""),
        ("front of the bus", "front", "bus"),
        ("a cat on top of a car", "cat", "car"),
        # denials
        ("a tree without leaves", "tree", ""),
        ("man not wearing a hat on a bench", "man", "bench"),
        ("a room with no windows or doors and a bed", "room", "bed"),
        # shades of colours, "can" and "that"
        ("light blue shirt by a light", "blue shirt", "light"),
        ("a can that can be seen", "can", "seen"),
        ("that dog", "dog", ""),
        ("the birds can be seen", "birds", "seen"),
        # what ends a denial, and a relative clause
        ("a tree without leaves and a bench", "tree", "bench"),
        ("the man with no hat is tall", "man tall", ""),
        ("a man with no hat who holds a ball", "man", "holds ball"),
        ("the man that holds a ball is tall", "man tall", "holds ball"),
        # past forms after an article, nouns that are plurals as they are, a verb at the beginning
        ("a made bed", "made bed", ""),
        ("sheep graze on grass", "sheep", "graze grass"),
        ("standing on a road", "", "standing road"),
        ("a small flying bird", "small flying bird", ""),
        # an owner's modifiers, and what is none
        ("the very tall man's hat", "hat", "tall man"),
        ("on the desk there's one lamp", "lamp", "desk"),
        ("", "", ""),
    ],
)
def test_sides(phrase: str, subject: str, others: str) -> None:
    assert sides(phrase) == (subject, others)
