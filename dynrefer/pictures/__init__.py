"""Pictures by matplotlib: regions, their views and what was predicted of them."""

from dynrefer.pictures.results import (
    FORMATS,
    REGIONS_PER_PAGE,
    check_picture_path,
    draw_regions,
    draw_views,
    page_paths,
    save_picture,
)

__all__ = [
    "FORMATS",
    "REGIONS_PER_PAGE",
    "check_picture_path",
    "draw_regions",
    "draw_views",
    "page_paths",
    "save_picture",
]
