"""Run lengths of masks as COCO writes them; read without torch, by data tools too."""

_LONGEST = 60  # bits


def run_lengths(text: str | bytes) -> list[int]:
    """Run lengths in COCO's text form: five bits a character, lowest first, then differences.

    Raises ValueError where a number has no end, or the text cannot be encoded.
    """
    runs: list[int] = []
    value = shift = 0
    for code in text.encode() if isinstance(text, str) else text:
        if shift > _LONGEST:
            raise ValueError("a run length has no end")
        bits = code - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:  # the sign
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return runs
