"""RegionDataset: annotated regions as samples of views, captions, control words and tags."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from dynrefer.datasets.annotations.index import AnnotationIndex, RegionRecord
from dynrefer.datasets.batch import RegionSample
from dynrefer.datasets.images import read_image
from dynrefer.processors.control_words import ControlWordSampler
from dynrefer.processors.images import ImageError
from dynrefer.processors.region_image import RegionImageProcessor
from dynrefer.vocabulary import TagVocabulary

MAX_TRIES = 100  # images drawn in the place of one that cannot be read


class RegionDataset(Dataset[RegionSample]):
    """Samples of an annotation file: one region each (training) or one image each (evaluation).

    A sample depends on (seed, epoch, its position) alone, never on workers or ranks. ``by`` says
    what it is: "region", or "image" for all regions of each image that has any. A region with
    several captions gives one at random by region and the first by image. Without a
    ``tag_vocabulary``, which ``tag_set1`` and ``tag_set2`` index, samples have no tags; without
    ``control_words``, which draws them in training, theirs are empty. ``max_samples`` keeps the
    first so many.

    An image that cannot be read raises; with ``skip_images`` it is noted in ``unreadable`` and
    gives no region by image, and by region the sample of another position, drawn from (seed, epoch,
    position) too.
    """

    def __init__(
        self,
        index: AnnotationIndex,
        image_processor: RegionImageProcessor,
        caption_processor: Callable[[str], str],
        tag_vocabulary: TagVocabulary | None = None,
        by: str = "region",
        control_words: ControlWordSampler | None = None,
        seed: int = 0,
        max_samples: int | None = None,
        skip_images: bool = False,
    ) -> None:
        if by not in ("region", "image"):
            raise ValueError(f"by is {by!r}, must be 'region' or 'image'")
        if max_samples is not None and max_samples < 1:
            raise ValueError(f"max_samples is {max_samples}, must be at least 1, or null for all")
        if tag_vocabulary is not None and index.largest_tag >= len(tag_vocabulary):
            raise ValueError(
                f"{index.source}: region {index.region_of_largest_tag!r} has tag "
                f"{index.largest_tag}, must be an index in 0..{len(tag_vocabulary) - 1}, the "
                f"vocabulary has {len(tag_vocabulary)} tags"
            )
        self.index = index
        self.image_processor = image_processor
        self.caption_processor = caption_processor
        self.tag_vocabulary = tag_vocabulary
        self.by = by
        self.control_words = control_words
        self.seed = seed
        self._images = np.flatnonzero(index.region_counts) if by == "image" else None
        available = len(index) if self._images is None else len(self._images)
        self._length = available if max_samples is None else min(available, max_samples)
        self.skip_images = skip_images
        # In shared memory: workers that outlive an epoch see its number, and all note images.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._unreadable = torch.zeros(index.num_images, dtype=torch.bool).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Moves the random choices to those of another epoch."""
        self._epoch.fill_(epoch)

    def has_tags(self) -> bool:
        """Whether any region of the annotation file has a tag."""
        return self.tag_vocabulary is not None and self.index.largest_tag >= 0

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> RegionSample:
        """Sample ``i``, 0 <= i < len; IndexError otherwise.

        Raises ValueError that names the annotation file, the image and the regions where an image
        cannot be read or a record does not fit it.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} is outside 0..{len(self) - 1}")
        rng = self._rng(i)
        sample = self._read(i)
        if sample is None and self._images is not None:
            return self._sample(Image.new("RGB", (1, 1)), [], [], rng)
        tries = 0
        while sample is None:
            sample, tries = self._read(int(rng.integers(len(self)))), tries + 1
            if sample is None and tries == MAX_TRIES:
                raise ValueError(f"{self.index.source}: none of {tries} images drawn can be read")
        return sample

    @property
    def unreadable(self) -> list[int]:
        """Positions in ``index`` of the images that could not be read so far."""
        return self._unreadable.nonzero().flatten().tolist()

    def _rng(self, i: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, int(self._epoch), i])

    def _read(self, i: int) -> RegionSample | None:
        """Sample ``i``; None where its image cannot be read and such images are skipped."""
        if self._images is None:
            positions = range(i, i + 1)
            place = self.index.image_of_region(i)
        else:
            place = int(self._images[i])
            positions = self.index.regions_of_image(place)
        image = self.index.image(place)
        regions = [self.index.region(position) for position in positions]
        try:
            pixels = read_image(self.index, image)
            return self._sample(pixels, regions, [image.id] * len(regions), self._rng(i))
        except (ValueError, OSError) as error:
            if self.skip_images and isinstance(error, ImageError):
                self._unreadable[place] = True
                return None
            ids = ", ".join(repr(region.id) for region in regions)
            where = f"{self.index.source}: image id {image.id!r}, region ids {ids}"
            raise ValueError(f"{where}: {error}") from error

    def _sample(
        self,
        pixels: Image.Image,
        regions: list[RegionRecord],
        image_ids: list[int | str],
        rng: np.random.Generator,
    ) -> RegionSample:
        boxes = np.array([region.box for region in regions]).reshape(-1, 4)
        views = self.image_processor(pixels, boxes, rng)
        names = () if self.tag_vocabulary is None else self.tag_vocabulary.names
        tag_rows = torch.zeros(len(regions), len(names), dtype=torch.bool)
        captions, control_words = [], []
        for region, row in zip(regions, tag_rows, strict=True):
            caption = region.caption
            if self.by == "region" and len(region.captions) > 1:
                caption = region.captions[int(rng.integers(len(region.captions)))]
            captions.append(self.caption_processor(caption))
            # Tags of the region's subject, then of the other objects, each once.
            parsed = region.extra_info.get("parser_result", {}) if names else {}
            tags = list(dict.fromkeys([*parsed.get("tag_set1", ()), *parsed.get("tag_set2", ())]))
            row[tags] = True
            draw, known = self.control_words, [names[tag] for tag in tags]
            control_words.append("" if draw is None else draw(captions[-1], known, rng))
        ids, source = [region.id for region in regions], str(self.index.source)
        return RegionSample(views, ids, image_ids, captions, control_words, tag_rows, source)
