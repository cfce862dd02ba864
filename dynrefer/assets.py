"""The published files that DynRefer can use: where they come from and where they are put.

``scripts/download_assets.py`` fetches them; nothing else does. Targets are relative to the working
directory, as the paths of configurations are.
"""

from dataclasses import dataclass
from pathlib import Path

COMMAND = "python scripts/download_assets.py"

# Licences as the sources state them.
_SALESFORCE = "BSD-3-Clause (LAVIS)"
_EVA = "MIT (baaivision/EVA)"
_CLIP = "MIT (openai/CLIP)"
_AUTHORS = "Apache-2.0 (callsys/DynRefer; the files themselves name none)"

_LAVIS = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/"
# The authors' OneDrive folder; it needs a browser.
_RELEASE = (
    "https://mailsucasaccn-my.sharepoint.com/:f:/g/personal/zhaoyuzhong20_mails_ucas_ac_cn/"
    "EkLua8BRCwRKq_DE8r9SGYABZWrTS1Rr8VXJNMX5FMHa6Q"
)


@dataclass(frozen=True)
class Asset:
    """One published file, or one folder of a Hugging Face repository.

    Exactly one of ``url``, ``repository`` and ``page`` is set.

    Attributes:
        name: what the command line calls it.
        target: file or folder that it becomes.
        holds: what it is.
        licence: as its source states it.
        keys: configuration keys that take it.
        url: of the file.
        repository: "owner/name" on the Hugging Face hub, which publishes size and sha256 of each
            of its files.
        file: the only file wanted of ``repository``; without it the target is a folder.
        only: what the names of the files wanted of ``repository`` begin with.
        page: where people fetch it by hand.
        member: the file wanted of a zip archive at ``url``.
        size: bytes, where published.
        sha256: where published.
    """

    name: str
    target: str
    holds: str
    licence: str
    keys: tuple[str, ...]
    url: str | None = None
    repository: str | None = None
    file: str | None = None
    only: str = ""
    page: str | None = None
    member: str | None = None
    size: int | None = None
    sha256: str | None = None

    @property
    def is_folder(self) -> bool:
        """Whether the target is a folder."""
        return self.repository is not None and self.file is None

    @property
    def source(self) -> str:
        """An address that a person can open."""
        if self.repository is None:
            return self.url or self.page or ""
        base = f"https://huggingface.co/{self.repository}"
        return f"{base}/resolve/main/{self.file}" if self.file else f"{base}/tree/main"


_PRETRAINED = ("model.pretrained",)
_VISION = ("model.vision.checkpoint",)
_TEXT = ("model.text_encoder.options.checkpoint",)
_LANGUAGE = ("model.caption_decoder.language_model", "model.caption_decoder.tokenizer")

ASSETS: tuple[Asset, ...] = (
    Asset(
        "blip2_pretrained_flant5xl",
        "weights/blip2_pretrained_flant5xl.pth",
        "BLIP-2's Q-Former for FLAN-T5-XL, query tokens, projection, norm behind the tower",
        _SALESFORCE,
        _PRETRAINED,
        url=_LAVIS + "blip2_pretrained_flant5xl.pth",
    ),
    Asset(
        "blip2_pretrained",
        "weights/blip2_pretrained.pth",
        "BLIP-2's Q-Former before a language model was attached",
        _SALESFORCE,
        _PRETRAINED,
        url=_LAVIS + "blip2_pretrained.pth",
    ),
    Asset(
        "blip2_pretrained_flant5xl_vitL",
        "weights/blip2_pretrained_flant5xl_vitL.pth",
        "as blip2_pretrained_flant5xl, for CLIP ViT-L/14",
        _SALESFORCE,
        _PRETRAINED,
        url=_LAVIS + "blip2_pretrained_flant5xl_vitL.pth",
    ),
    Asset(
        "eva_vit_g",
        "weights/eva_vit_g.pth",
        "EVA-CLIP g/14, vision tower",
        _EVA,
        _VISION,
        url=_LAVIS + "eva_vit_g.pth",
    ),
    Asset(
        "clip_vit_L",
        "weights/clip_vit_L.pth",
        "CLIP ViT-L/14, vision tower",
        _CLIP,
        _VISION,
        url=_LAVIS + "clip_vit_L.pth",
    ),
    Asset(
        "clip-vit-large-patch14",
        "weights/clip-vit-large-patch14",
        "CLIP ViT-L/14, vision and text, in transformers' naming",
        _CLIP,
        (*_VISION, *_TEXT),
        repository="openai/clip-vit-large-patch14",
    ),
    Asset(
        "eva_clip_psz14",
        "weights/eva_clip_psz14.pt",
        "EVA-CLIP g/14, vision and text",
        _EVA,
        (*_VISION, *_TEXT),
        repository="BAAI/EVA",
        file="eva_clip_psz14.pt",
    ),
    Asset(
        "EVA01-g-14",
        "weights/eva_giant_patch14_clip_224.laion400m_s11b_b41k",
        "EVA-CLIP g/14, vision and text, in open_clip's naming",
        _EVA,
        (*_VISION, *_TEXT),
        repository="timm/eva_giant_patch14_clip_224.laion400m_s11b_b41k",
        only="open_clip",
    ),
    Asset(
        "blip2-flan-t5-xl",
        "weights/blip2-flan-t5-xl",
        "BLIP-2 with FLAN-T5-XL, whole, in transformers' naming",
        "MIT (Salesforce/blip2-flan-t5-xl)",
        _PRETRAINED,
        repository="Salesforce/blip2-flan-t5-xl",
    ),
    Asset(
        "flan-t5-xl",
        "weights/flan-t5-xl",
        "FLAN-T5-XL and its tokenizer",
        "Apache-2.0 (google/flan-t5-xl)",
        _LANGUAGE,
        repository="google/flan-t5-xl",
    ),
    Asset(
        "vicuna-7b-v1.5",
        "weights/vicuna-7b-v1.5",
        "Vicuna-7B v1.5 and its tokenizer",
        "Llama 2 Community License (lmsys/vicuna-7b-v1.5)",
        _LANGUAGE,
        repository="lmsys/vicuna-7b-v1.5",
    ),
    Asset(
        "vg1.2_5e",
        "weights/vg1.2_5e.pth",
        "DynRefer trained on Visual Genome: what training changed",
        _AUTHORS,
        ("model.pretrained", "run.load_ckpt_path"),
        page=_RELEASE,
    ),
    Asset(
        "refcocog_ft",
        "weights/refcocog_ft.pth",
        "DynRefer fine-tuned on RefCOCOg: what training changed",
        _AUTHORS,
        ("model.pretrained", "run.load_ckpt_path"),
        page=_RELEASE,
    ),
    Asset(
        "ram_tag_list",
        "data/ram_tag_list.txt",
        "the 4,585 tags of RAM",
        "Apache-2.0 (xinyu1205/recognize-anything)",
        ("model.vocabulary.tags",),
        url="https://raw.githubusercontent.com/xinyu1205/recognize-anything/"
        "7cb804a8609e9f4b1a50b7f31436d2df40bb9481/ram/data/ram_tag_list.txt",
        size=41904,
        sha256="5d96d2f7225527480ad773aaac76b6e5c08a18adf6eae9ca7d2ab923d5e7bd8b",
    ),
    Asset(
        "ovad2000",
        "data/ovad2000.json",
        "OVAD: 117 attributes, 80 classes, the boxes of the benchmark",
        "CC BY-NC-SA 4.0 (ovad-benchmark.github.io)",
        ("model.vocabulary.attributes", "model.vocabulary.classes"),
        url="https://lmb.informatik.uni-freiburg.de/resources/datasets/ovad.zip",
        member="ovad2000.json",
    ),
)


def find_asset(value: str) -> Asset | None:
    """The asset that a configuration's value means: its name, target, URL, repository or file."""
    for asset in ASSETS:
        if value.rstrip("/") in (asset.name, asset.target, asset.url, asset.repository):
            return asset
    name = Path(value).name
    return next((asset for asset in ASSETS if name == Path(asset.target).name), None)


def local_path(value: str) -> str:
    """Where a value that is a URL or a Hugging Face name was put; other values as they are.

    "google/flan-t5-xl" becomes "weights/flan-t5-xl" where that folder was fetched and there is no
    "google/flan-t5-xl" in the working directory.
    """
    asset = find_asset(value)
    if asset is None or value not in (asset.url, asset.repository) or Path(value).exists():
        return value
    return asset.target if Path(asset.target).exists() else value


def fetch_hint(value: str) -> str:
    """The end of the message that a file is missing: the command that fetches it."""
    asset = find_asset(value)
    if asset is None:
        return f"; `{COMMAND}` lists the published files and fetches them"
    return f"; `{COMMAND} {asset.name}` fetches it to {asset.target}"
