"""What can be asked of a prediction beside image and regions."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from typing import Any

from dynrefer.config.schema import DECODERS
from dynrefer.predictor.inputs import BOX_FORMATS
from dynrefer.views.selectors import ViewSelector


@dataclass(frozen=True)
class PredictionOptions:
    """How regions are given, which decoders run, and of which names they choose.

    Equal ones can be compared and used as keys. Raises ValueError for values that are not valid.

    Attributes:
        decoders: of "caption", "tags", "attributes", "classes" those that run.
        classes, attributes, tags: names instead of the model's own, as plain text; an attribute is
            "striped", with synonyms "striped/lined".
        tag_threshold: a tag is found where its probability is above this; None for the model's.
        num_beams: beams of the search for captions; None for the model's.
        selector: chooses the views; None for the predictor's.
        box_format, relative: see :func:`dynrefer.predictor.regions_of`.
    """

    decoders: Collection[str] | None = None
    classes: Iterable[str] | None = None
    attributes: Iterable[str] | None = None
    tags: Iterable[str] | None = None
    tag_threshold: float | None = None
    num_beams: int | None = None
    selector: ViewSelector | None = None
    box_format: str = "xyxy"
    relative: bool = False

    def __post_init__(self) -> None:
        chosen = DECODERS if self.decoders is None else self.decoders
        if isinstance(chosen, str) or not isinstance(chosen, Collection):
            raise ValueError(f"decoders is {chosen!r:.60}; valid is a list of {DECODERS}")
        if unknown := set(chosen) - set(DECODERS):
            raise ValueError(f"unknown decoders {sorted(unknown)}; valid: {', '.join(DECODERS)}")
        self._set(decoders=frozenset(chosen))
        for kind in ("classes", "attributes", "tags"):
            names = getattr(self, kind)
            if names is not None and not isinstance(names, str | dict):
                names = tuple(names) if isinstance(names, Iterable) else names
            self._set(**{kind: names})
        threshold, beams = self.tag_threshold, self.num_beams
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"tag_threshold is {threshold!r}; valid is 0 to 1")
        if beams is not None and (type(beams) is not int or beams < 1):
            raise ValueError(f"num_beams is {beams!r}; valid is a whole number from 1 on")
        if self.box_format not in BOX_FORMATS:
            valid = " or ".join(BOX_FORMATS)
            raise ValueError(f"box_format is {self.box_format!r}; valid is {valid}")

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)


def options_of(values: dict[str, Any]) -> PredictionOptions:
    """Options of keyword arguments; TypeError for an unknown one."""
    known = [field.name for field in fields(PredictionOptions)]
    if unknown := [name for name in values if name not in known]:
        raise TypeError(f"unknown argument '{unknown[0]}'; valid are {', '.join(known)}")
    return PredictionOptions(**values)
