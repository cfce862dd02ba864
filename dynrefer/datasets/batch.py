"""RegionBatch: what the model gets, with every distinct view of the batch held once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from dynrefer.processors.region_image import RegionViews


@dataclass
class RegionSample:
    """Some regions of one image (or of several), as a dataset yields them.

    ``views`` holds the crops of N regions; ``tags`` is bool [N, K]; the lists have N entries.
    ``source`` names the annotation file, so that equal image ids of two files stay apart.
    """

    views: RegionViews
    ids: list[int | str]
    image_ids: list[int | str]
    captions: list[str]
    control_words: list[str]
    tags: Tensor
    source: str = ""


@dataclass
class RegionBatch:
    """N regions with V views each, which show U distinct crops of S x S pixels.

    ``crops`` uint8 [U, 3, S, S]; ``view_index`` int64 [N, V] into crops; ``region_boxes`` float32
    [N, V, 4], xyxy pixels of the region inside each crop; ``ratios`` float32 [N, V];
    ``tags`` bool [N, K]; ``captions``, ``control_words``, ``ids``, ``image_ids`` lists of N.
    Raises ValueError where these counts disagree.
    """

    crops: Tensor
    view_index: Tensor
    region_boxes: Tensor
    ratios: Tensor
    captions: list[str]
    ids: list[int | str]
    image_ids: list[int | str]
    tags: Tensor
    control_words: list[str]

    def __post_init__(self) -> None:
        counts = {name: len(getattr(self, name)) for name in _PER_REGION}
        if len(set(counts.values())) != 1:
            raise ValueError(f"a RegionBatch needs one entry a region in each field, got {counts}")

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "RegionBatch":
        """The batch with its tensors on ``device``."""
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "RegionBatch":
        """The batch with its tensors in pinned memory; a DataLoader calls this."""
        return self._with_tensors(Tensor.pin_memory)

    def chunks(self, size: int) -> Iterator["RegionBatch"]:
        """Consecutive batches of at most ``size`` regions, each with the crops it uses alone."""
        if size < 1:
            raise ValueError(f"the chunk size is {size}, must be at least 1")
        for start in range(0, len(self), size):
            yield self.rows(range(start, min(start + size, len(self))))

    def rows(self, positions: Sequence[int]) -> "RegionBatch":
        """Some of the regions, with the crops they use alone."""
        part = {
            name: value[list(positions)]
            if torch.is_tensor(value)
            else [value[i] for i in positions]
            for name in _PER_REGION
            for value in [getattr(self, name)]
        }
        used, part["view_index"] = torch.unique(part["view_index"], return_inverse=True)
        return RegionBatch(crops=self.crops[used], **part)

    @classmethod
    def collate(cls, samples: Sequence[RegionSample]) -> "RegionBatch":
        """Joins samples; regions of one image share the crops of equal pixel boxes.

        Raises ValueError for no samples, or for samples that differ in number of views or tags or
        in crop size.
        """
        if not samples:
            raise ValueError("a batch needs at least one sample")
        for name, values in (
            ("crop sizes", {tuple(sample.views.crops.shape[1:]) for sample in samples}),
            ("numbers of views", {sample.views.view_index.shape[1] for sample in samples}),
            ("numbers of tags", {sample.tags.shape[1] for sample in samples}),
        ):
            if len(values) > 1:
                raise ValueError(f"the samples of a batch differ in {name}: {sorted(values)}")
        crops, view_index = _shared_crops(samples)
        return cls(
            crops=crops,
            view_index=view_index,
            region_boxes=torch.cat([sample.views.region_boxes for sample in samples]),
            ratios=torch.cat([sample.views.ratios for sample in samples]),
            captions=[caption for sample in samples for caption in sample.captions],
            ids=[region_id for sample in samples for region_id in sample.ids],
            image_ids=[image_id for sample in samples for image_id in sample.image_ids],
            tags=torch.cat([sample.tags for sample in samples]),
            control_words=[words for sample in samples for words in sample.control_words],
        )

    def _with_tensors(self, change: Callable[[Tensor], Tensor]) -> "RegionBatch":
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: change(value) for name, value in values.items() if torch.is_tensor(value)}
        return replace(self, **tensors)


_PER_REGION = tuple(field.name for field in fields(RegionBatch) if field.name != "crops")


def _shared_crops(samples: Sequence[RegionSample]) -> tuple[Tensor, Tensor]:
    """Crops uint8 [U, 3, S, S] of all samples, each once, and the view index int64 [N, V]."""
    position: dict[tuple, int] = {}
    crops: list[Tensor] = []
    view_index: list[list[int]] = []
    for sample in samples:
        rows = sample.views.view_index.tolist()
        boxes = sample.views.view_boxes.tolist()
        for image_id, row, row_boxes in zip(sample.image_ids, rows, boxes, strict=True):
            view_index.append([])
            for crop, box in zip(row, row_boxes, strict=True):
                key = (sample.source, image_id, *box)
                if key not in position:
                    position[key] = len(crops)
                    crops.append(sample.views.crops[crop])
                view_index[-1].append(position[key])
    first = samples[0].views
    index = torch.tensor(view_index, dtype=torch.int64).reshape(-1, first.view_index.shape[1])
    return torch.stack(crops) if crops else first.crops, index
