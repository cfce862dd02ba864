"""Checksums of files, written as ``sha256sum -c`` reads them."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path


def sha256_of(path: Path) -> str:
    """Checksum of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while chunk := content.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def read_checksums(path: Path) -> dict[str, str]:
    """Checksums by file name; none where there is no such list, ValueError for anything else."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    found = [re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line) for line in lines]
    if not all(found):
        raise ValueError(f"{path} is broken: lines of a checksum and a file name are expected")
    return {match[2]: match[1] for match in found}


def checksum_lines(checksums: Mapping[str, str]) -> str:
    """The text of a list of checksums by file name."""
    return "".join(f"{checksum}  {name}\n" for name, checksum in checksums.items())
