"""What predictions are judged against."""

import itertools
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

from dynrefer.datasets.annotations import AnnotationIndex, RegionRecord
from dynrefer.vocabulary import Vocabularies


@dataclass(frozen=True)
class GroundTruth:
    """What predictions are judged against.

    ``index`` holds the regions that are predicted, of which those of the first ``max_images``
    images count. They are annotated themselves; or ``annotated`` holds the annotated regions of the
    same images, where those of ``index`` are the boxes of a detector. ``instances`` is COCO's
    instances file where the dataset has one; ``vocabularies`` give attributes and classes their
    order. ``left_out`` are the positions of images that could not be read and do not count.
    """

    index: AnnotationIndex
    vocabularies: Vocabularies
    instances: Path | None = None
    max_images: int | None = None
    annotated: AnnotationIndex | None = None
    left_out: frozenset[int] = frozenset()

    @property
    def is_whole(self) -> bool:
        """Whether all images of the annotation file count."""
        return self.num_images == self.index.num_images

    @property
    def num_images(self) -> int:
        """How many images count."""
        return len(self.positions())

    def positions(self) -> list[int]:
        """Positions in ``index`` of the images that count."""
        number = self.index.num_images
        limit = number if self.max_images is None else min(self.max_images, number)
        return [position for position in range(limit) if position not in self.left_out]

    def region_positions(self) -> list[int]:
        """Positions in ``index`` of the predicted regions, in the order of the file."""
        return [i for image in self.positions() for i in self.index.regions_of_image(image)]

    def of_readable_images(self, predicted: Container[int | str]) -> "GroundTruth":
        """Without the images that could not be read: none of their regions is ``predicted``."""
        left_out = {
            position
            for position in self.positions()
            if (regions := _regions(self.index, position))
            and not any(region.id in predicted for region in regions)
        }
        return replace(self, left_out=self.left_out | left_out)

    def image_ids(self) -> dict[int | str, int]:
        """Position in ``index`` of each image that counts, by its id."""
        return {self.index.image(i).id: i for i in self.positions()}

    def images(self) -> Iterator[list[RegionRecord]]:
        """The predicted regions of each image that has any, in the order of the file."""
        return filter(None, (_regions(self.index, position) for position in self.positions()))

    def regions(self) -> Iterator[RegionRecord]:
        """All predicted regions, in the order of the file."""
        return itertools.chain.from_iterable(self.images())

    def annotated_regions(self, region: RegionRecord) -> list[RegionRecord]:
        """The annotated regions of a detector's box's image, which ``annotated`` holds."""
        return _regions(self.annotated, self._annotated_places[region.image_id])

    @cached_property
    def _annotated_places(self) -> dict[int | str, int]:
        return {self.annotated.image(i).id: i for i in range(self.annotated.num_images)}

    def annotated_images(self) -> Iterator[tuple[list[RegionRecord], list[RegionRecord]]]:
        """The annotated and the predicted regions of each image that has any of them.

        Raises ValueError where ``index`` has an image that ``annotated`` does not have.
        """
        if self.annotated is None:
            yield from ((regions, regions) for regions in self.images())
            return
        places = self.image_ids()
        missing = [id_ for id_ in places if id_ not in self._annotated_places]
        if missing:
            raise ValueError(
                f"{self.index.source}: {len(missing)} images are not in {self.annotated.source}, "
                f"e.g. image id {missing[0]!r}"
            )
        for image_id, position in self._annotated_places.items():
            if image_id in places or self.is_whole:
                predicted = _regions(self.index, places[image_id]) if image_id in places else []
                annotated = _regions(self.annotated, position)
                if annotated or predicted:
                    yield annotated, predicted


# A detector's boxes ask for the annotated regions of one image after the other.
@lru_cache(maxsize=1)
def _regions(index: AnnotationIndex, image: int) -> list[RegionRecord]:
    return [index.region(i) for i in index.regions_of_image(image)]
