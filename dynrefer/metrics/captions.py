"""Region captioning: BLEU, METEOR, ROUGE-L and CIDEr of tokenised captions, as COCO scores them."""

import contextlib
from collections.abc import Mapping, Sequence

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from dynrefer.metrics.java import Meteor, ptb_tokenize

References = Mapping[str | int, Sequence[str]]


def caption_metrics(
    references: References, predictions: Mapping[str | int, str], meteor: Meteor | None = None
) -> dict[str, float]:
    """Scores one predicted caption per id against that id's reference captions.

    Returns BLEU_1 to BLEU_4, METEOR, ROUGE_L and CIDEr as fractions (the published tables give
    METEOR and CIDEr times 100). `meteor` is a running process to use; without it one is started
    and ended here. Raises ValueError where the two sides do not hold the same ids, or an id has no
    reference.
    """
    _check_ids(references, predictions)
    sentences = [sentence for key in references for sentence in references[key]]
    tokens = iter(ptb_tokenize(sentences + [predictions[key] for key in references]))
    accepted = {key: [next(tokens) for _ in references[key]] for key in references}
    candidates = {key: [next(tokens)] for key in references}
    if not any(sentence for group in accepted.values() for sentence in group):
        raise ValueError("no reference caption holds a word, so nothing can be scored")

    bleu, _ = Bleu(4).compute_score(accepted, candidates, verbose=0)
    rouge, _ = Rouge().compute_score(accepted, candidates)
    cider, _ = Cider().compute_score(accepted, candidates)
    with contextlib.nullcontext(meteor) if meteor else Meteor() as running:
        said = [candidate for (candidate,) in candidates.values()]
        score, _ = running.scores(list(accepted.values()), said)
    metrics = {f"BLEU_{n}": float(value) for n, value in enumerate(bleu, start=1)}
    return metrics | {"METEOR": score, "ROUGE_L": float(rouge), "CIDEr": float(cider)}


def _check_ids(references: References, predictions: Mapping[str | int, str]) -> None:
    if not references and not predictions:
        raise ValueError("no captions to score: references and predictions are empty")
    unpredicted = [key for key in references if key not in predictions]
    unknown = [key for key in predictions if key not in references]
    if unpredicted or unknown:
        raise ValueError(
            f"{len(unpredicted)} of {len(references)} references have no prediction (e.g. "
            f"{unpredicted[:3]}), {len(unknown)} of {len(predictions)} predictions have no "
            f"reference (e.g. {unknown[:3]})"
        )
    for key, group in references.items():
        if isinstance(group, str) or not group:
            raise ValueError(f"references[{key!r}] is {group!r}, not a list of captions")
