"""Cleaning of captions, as the published training did it."""

import re

from dynrefer.registry import registry

_PUNCTUATION = str.maketrans(dict.fromkeys('.!"()*#:;~', " "))


@registry.register("processor", "blip_caption")
class CaptionProcessor:
    """Lower-cases a caption, turns punctuation into spaces and cuts it after ``max_words`` words.

    The characters ``. ! " ( ) * # : ; ~`` become spaces, any run of two or more blanks (tabs and
    line breaks included) one space, and blanks at the ends go. Commas, hyphens, apostrophes and
    question marks stay.

    Raises ValueError where ``max_words`` is below 1, and TypeError for a caption that is no string.
    """

    def __init__(self, max_words: int = 50) -> None:
        if max_words < 1:
            raise ValueError(f"max_words is {max_words}; valid is 1 or more")
        self.max_words = max_words

    def __call__(self, caption: str) -> str:
        if not isinstance(caption, str):
            raise TypeError(f"caption is {caption!r}; valid is a string")
        text = re.sub(r"\s{2,}", " ", caption.lower().translate(_PUNCTUATION))
        return " ".join(text.rstrip("\n").strip(" ").split(" ")[: self.max_words])
