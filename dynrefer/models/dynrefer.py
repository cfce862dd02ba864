"""DynRefer: the composition of its parts (paper figure 2)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import compress

import torch
from torch import Tensor

from dynrefer.config.schema import DECODERS, LossConfig
from dynrefer.datasets.batch import RegionBatch
from dynrefer.distributed import mean_over_processes, world_size
from dynrefer.models.decoders.caption import CaptionDecoder, Generation, NoCaptionDecoder
from dynrefer.models.decoders.region_text import RegionTextDecoder
from dynrefer.models.decoders.tag import TagDecoder
from dynrefer.models.fusion import ViewFusion
from dynrefer.models.parts import NonFiniteError, check_finite, naming_regions
from dynrefer.models.pretrained import PretrainedModel
from dynrefer.models.qformer import QFormer
from dynrefer.models.text_encoder import TextEncoder
from dynrefer.models.text_encoder.kept import KeptEmbeddings
from dynrefer.models.vision import VisionEncoder
from dynrefer.processors.control_words import join_control_words
from dynrefer.vocabulary import Vocabularies


@dataclass(frozen=True)
class Losses:
    """Weighted losses of a batch, scalars; ``total`` is their sum."""

    total: Tensor
    caption: Tensor
    tag: Tensor
    region_text: Tensor


@dataclass
class RegionPrediction:
    """What the decoders say of one region; a field stays None where its decoder did not run.

    ``attributes`` holds a score in [0, 1] for each attribute, ``class_logits`` a similarity for
    each class; both in the order of the vocabulary.
    """

    id: int | str
    image_id: int | str
    caption: str | None = None
    score: float | None = None
    tags: list[str] | None = None
    attributes: list[float] | None = None
    class_logits: list[float] | None = None
    class_name: str | None = None
    ratios: list[float] = field(default_factory=list)


class DynRefer(PretrainedModel):
    """Vision -> fusion of views -> Q-Former -> tag, region-text and caption decoders.

    The parts are built elsewhere (``dynrefer.models.builders``) and each is usable alone.

    Args:
        tag_threshold: a tag is predicted where its probability is above this.
    """

    def __init__(
        self,
        vision: VisionEncoder,
        fusion: ViewFusion,
        qformer: QFormer,
        tag_decoder: TagDecoder,
        region_text_decoder: RegionTextDecoder,
        caption_decoder: CaptionDecoder | NoCaptionDecoder,
        text_encoder: TextEncoder,
        vocabularies: Vocabularies,
        loss_weights: LossConfig | None = None,
        generation: Generation | None = None,
        tag_threshold: float = 0.7,
    ) -> None:
        super().__init__()
        self.vision = vision
        self.fusion = fusion
        self.qformer = qformer
        self.tag_decoder = tag_decoder
        self.region_text_decoder = region_text_decoder
        self.caption_decoder = caption_decoder
        self.text_encoder = text_encoder
        self.vocabularies = vocabularies
        self.loss_weights = loss_weights or LossConfig()
        self.generation = generation or Generation()
        self.tag_threshold = tag_threshold
        self._kept = KeptEmbeddings()

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return self.qformer.query_tokens.device

    def encode(self, batch: RegionBatch) -> Tensor:
        """Queries [N, Q, D] of the batch's regions."""
        return self._features(batch)["queries"]

    def _features(self, batch: RegionBatch) -> dict[str, Tensor]:
        """What leads to the queries, in the order in which it is computed."""
        tokens = self.vision(batch.crops)
        regions = self.fusion(tokens, batch.view_index, batch.region_boxes)
        return {"vision tokens": tokens, "region tokens": regions, "queries": self.qformer(regions)}

    def forward(self, batch: RegionBatch) -> Losses:
        """Losses of a training batch.

        Raises:
            NonFiniteError: a loss is not finite; the message names the first quantity on the way to
                it that is not, and the regions.
        """
        features = self._features(batch)
        queries = features["queries"]
        weights, shared = self.loss_weights, self.loss_weights.reduction == "global"

        total, count = self.caption_decoder.loss(queries, batch.control_words, batch.captions)
        caption = total / (mean_over_processes(count.float()) if shared else count)
        tag = self.tag_decoder.loss(queries, self.phrase_embeddings("tags"), batch.tags)
        tag = tag * (world_size() if shared else 1)
        region_text = self.region_text_decoder.loss(queries, self.text_encoder(batch.captions))

        caption, tag, region_text = (
            weights.caption * caption,
            weights.tag * tag,
            weights.region_text * region_text,
        )
        losses = Losses(caption + tag + region_text, caption, tag, region_text)
        if not torch.isfinite(losses.total):
            _check_features(features, batch)
            bad = [name for name, value in vars(losses).items() if not torch.isfinite(value)]
            raise NonFiniteError(f"losses ({', '.join(bad)})", batch.ids)
        return losses

    @torch.no_grad()
    def predict(
        self,
        batch: RegionBatch,
        decoders: Collection[str] = DECODERS,
        controls: Sequence[Sequence[str]] | None = None,
    ) -> list[RegionPrediction]:
        """Runs the decoders asked for, and no other.

        Args:
            batch: N regions.
            decoders: of "caption", "tags", "attributes", "classes"; captions need tags, which
                steer them.
            controls: the user's control words, a list for each region, put before the tags.

        Raises:
            ValueError: an unknown decoder, or control words for another number of regions.
            NonFiniteError: a feature, logit or score is not finite; the message names it and the
                regions.
        """
        unknown = set(decoders) - set(DECODERS)
        if unknown:
            raise ValueError(f"unknown decoders {sorted(unknown)}; valid: {', '.join(DECODERS)}")
        if controls is not None and len(controls) != len(batch):
            raise ValueError(f"control words of {len(controls)} regions for {len(batch)} regions")
        queries = self.queries(batch)
        predictions = [
            RegionPrediction(id=id_, image_id=image_id, ratios=ratios)
            for id_, image_id, ratios in zip(
                batch.ids, batch.image_ids, batch.ratios.tolist(), strict=True
            )
        ]
        self.judge(queries, predictions, decoders)
        if "caption" in decoders:
            self.write_captions(queries, predictions, controls)
        return predictions

    @torch.no_grad()
    def queries(self, batch: RegionBatch) -> Tensor:
        """As :meth:`encode`, without a graph; NonFiniteError names a feature that is not finite."""
        features = self._features(batch)
        _check_features(features, batch)
        return features["queries"]

    @torch.no_grad()
    def judge(
        self,
        queries: Tensor,
        predictions: Sequence[RegionPrediction],
        decoders: Collection[str] = DECODERS,
        vocabularies: Vocabularies | None = None,
        tag_threshold: float | None = None,
    ) -> None:
        """Fills in tags (which captions need too), attributes and classes of N predictions.

        Args:
            queries: [N, Q, D]; predictions: N.
            decoders: those asked for.
            vocabularies, tag_threshold: instead of the model's own.

        Raises:
            NonFiniteError: a logit is not finite; the message names it and the regions.
        """
        known = vocabularies or self.vocabularies
        with naming_regions([prediction.id for prediction in predictions]):
            if "tags" in decoders or "caption" in decoders:
                threshold = self.tag_threshold if tag_threshold is None else tag_threshold
                chosen = self.tag_logits(queries, vocabularies).sigmoid() > threshold
                for prediction, row in zip(predictions, chosen.tolist(), strict=True):
                    prediction.tags = list(compress(known.tags.names, row))
            if "attributes" in decoders:
                scores = self.attribute_scores(queries, vocabularies).tolist()
                for prediction, row in zip(predictions, scores, strict=True):
                    prediction.attributes = row
            if "classes" in decoders:
                logits = self.class_logits(queries, vocabularies)
                best = logits.argmax(dim=1).tolist()
                for prediction, row, index in zip(predictions, logits.tolist(), best, strict=True):
                    prediction.class_logits = row
                    prediction.class_name = known.classes.names[index]

    @torch.no_grad()
    def write_captions(
        self,
        queries: Tensor,
        predictions: Sequence[RegionPrediction],
        controls: Sequence[Sequence[str]] | None = None,
        generation: Generation | None = None,
    ) -> None:
        """Fills in captions and scores of N predictions that have their tags.

        Args:
            queries: [N, Q, D]; predictions: N.
            controls: the user's control words, a list for each region, put before the tags.
            generation: instead of the model's own.

        Raises:
            NonFiniteError: a logit or score is not finite; the message names it and the regions.
        """
        controls = controls or [()] * len(predictions)
        control_words = [
            join_control_words([*words, *prediction.tags])
            for words, prediction in zip(controls, predictions, strict=True)
        ]
        generation = generation or self.generation
        with naming_regions([prediction.id for prediction in predictions]):
            captions = self.caption_decoder.generate(queries, control_words, generation)
        for prediction, text, score in zip(
            predictions, captions.texts, captions.scores, strict=True
        ):
            prediction.caption, prediction.score = text, score

    def tag_logits(self, queries: Tensor, vocabularies: Vocabularies | None = None) -> Tensor:
        """Queries [N, Q, D] -> logits [N, number of tags]."""
        logits = self.tag_decoder(queries, self.phrase_embeddings("tags", vocabularies))
        check_finite("tag logits", logits)
        return logits

    def attribute_scores(self, queries: Tensor, vocabularies: Vocabularies | None = None) -> Tensor:
        """Queries [N, Q, D] -> scores in [0, 1], the best phrase of each attribute, [N, A]."""
        phrases = self.phrase_embeddings("attributes", vocabularies)
        similarity = self.region_text_decoder(queries, phrases)
        check_finite("attribute similarities", similarity)
        counts = (vocabularies or self.vocabularies).attributes.phrase_counts
        by_attribute = similarity.sigmoid().split(counts, dim=1)
        return torch.stack([phrases.amax(dim=1) for phrases in by_attribute], dim=1)

    def class_logits(self, queries: Tensor, vocabularies: Vocabularies | None = None) -> Tensor:
        """Queries [N, Q, D] -> similarities [N, number of classes]."""
        phrases = self.phrase_embeddings("classes", vocabularies)
        similarity = self.region_text_decoder(queries, phrases)
        check_finite("class similarities", similarity)
        return similarity

    def phrase_embeddings(self, kind: str, vocabularies: Vocabularies | None = None) -> Tensor:
        """Text embeddings of a vocabulary, of the model's own unless others are given.

        They are kept between calls where the text encoder is frozen (:class:`KeptEmbeddings`).
        """
        own = getattr(self.vocabularies, kind)
        wanted = own if vocabularies is None else getattr(vocabularies, kind)
        if self.text_encoder.trainable:
            return self.text_encoder(wanted.phrases)
        if wanted == own:
            return self._kept.own(kind, own, self.text_encoder, self.device)
        return self._kept.other(wanted, self.text_encoder, self.device)


def _check_features(features: dict[str, Tensor], batch: RegionBatch) -> None:
    """Raises NonFiniteError for the first feature that is not finite, with the regions' ids.

    Vision tokens belong to crops, which regions share.
    """
    for name, values in features.items():
        finite = torch.isfinite(values).flatten(1).all(dim=1)
        with naming_regions(batch.ids):
            check_finite(name, finite[batch.view_index] if name == "vision tokens" else finite)
