"""The metrics once more, as plain loops over their definitions: slow, and easy to check by eye."""

import numpy as np

from dynrefer.metrics.dense_captions import IOU_THRESHOLDS, METEOR_THRESHOLDS


class WordOverlap:
    """Stands in for METEOR: the shared fraction of words with the best reference."""

    def __init__(self):
        self.asked = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def scores(self, references, candidates):
        each = [
            max(self._overlap(set(candidate.split()), set(sentence.split())) for sentence in group)
            for group, candidate in zip(references, candidates, strict=True)
        ]
        self.asked.extend(zip(candidates, map(tuple, references), strict=True))
        return float(np.mean(each)), each

    @staticmethod
    def _overlap(first, second):
        return len(first & second) / max(1, len(first | second))


def iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    inside = width * height
    return inside / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside)


def merge_ground_truth(boxes, captions, threshold=0.7):
    """Greedy merging: [(mean box, captions)], the box with most remaining neighbours first."""
    remaining = list(range(len(boxes)))
    merged = []
    while remaining:
        neighbours = {
            i: [j for j in remaining if iou(boxes[i], boxes[j]) >= threshold] for i in remaining
        }
        most = max(len(group) for group in neighbours.values())
        group = next(neighbours[i] for i in remaining if len(neighbours[i]) == most)
        mean = [sum(boxes[j][side] for j in group) / len(group) for side in range(4)]
        merged.append((mean, [captions[j] for j in group]))
        remaining = [i for i in remaining if i not in group]
    return merged


def dense_caption_map(images, meteor):
    """mAP of dense captioning, one prediction, one pair of thresholds, one recall at a time."""
    ranked, num_targets = [], 0
    for image in images:
        targets = merge_ground_truth(image.target_boxes.tolist(), image.target_text)
        num_targets += len(targets)
        taken = set()
        for index in sorted(range(len(image.scores)), key=lambda i, s=image.scores: -s[i]):
            overlap, target = 0.0, None
            for candidate, (box, _) in enumerate(targets):
                if iou(image.boxes[index].tolist(), box) > overlap:
                    overlap, target = iou(image.boxes[index].tolist(), box), candidate
            similarity = -1.0
            if target is not None and target not in taken:
                taken.add(target)
                _, (similarity,) = meteor.scores([targets[target][1]], [image.text[index]])
            else:
                overlap = 0.0
            ranked.append((image.scores[index], overlap, similarity))
    ranked.sort(key=lambda entry: -entry[0])

    def average_precision(right):
        points = []
        for level in range(100):
            hits, best = 0, 0.0
            for rank, is_right in enumerate(right, start=1):
                hits += is_right
                if 100 * hits >= level * num_targets:
                    best = max(best, hits / rank)
            points.append(best)
        return sum(points) / 100

    detection = {
        f"iou_{least}": average_precision([overlap >= least for _, overlap, _ in ranked])
        for least in IOU_THRESHOLDS
    }
    captioning = {
        f"iou_{least}_meteor_{words}": average_precision(
            [overlap >= least and similarity > words for _, overlap, similarity in ranked]
        )
        for least in IOU_THRESHOLDS
        for words in METEOR_THRESHOLDS
    }
    return {
        "map": sum(captioning.values()) / 30,
        "ap_breakdown": captioning,
        "detmap": sum(detection.values()) / 5,
        "det_breakdown": detection,
    }


def average_precision(scores, positive):
    """Area under the precision-recall steps, one threshold for each distinct score."""
    area, recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        chosen = [
            label for score, label in zip(scores, positive, strict=True) if score >= threshold
        ]
        gained = sum(chosen) / sum(positive)
        area += (gained - recall) * sum(chosen) / len(chosen)
        recall = gained
    return area
