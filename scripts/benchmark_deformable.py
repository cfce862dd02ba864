"""Times three exact forms of the deformable step against each other, and checks that they agree.

    python scripts/benchmark_deformable.py
    python scripts/benchmark_deformable.py --maps 8 --channels 256 --grid 14
    python scripts/benchmark_deformable.py --device cuda --dtype bf16

Without --maps, --channels or --grid it runs two sizes: that of the published model and that of the
shapes model. The forms take turns, so that what else the machine does falls on all of them.
"""

import argparse

from dynrefer.command_line import plain_parser


def parse() -> argparse.Namespace:
    """Command line."""
    parser = plain_parser(__doc__)
    parser.add_argument("--maps", type=int, help="maps N, regions times views but one")
    parser.add_argument("--channels", type=int, help="channels C")
    parser.add_argument("--grid", type=int, help="side g of the map")
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    return parser.parse_args()


if __name__ == "__main__":  # before the imports that take seconds
    arguments = parse()

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import deform_conv2d

from dynrefer.models.deformable import TAPS, deformable_sample

# maps (regions times views other than view 0), channels C, side g of the map; the shapes model's
# is that of configs/base/models/dynrefer_shapes.yaml with 16 regions a step
SIZES = {"published width": (4, 1408, 16), "shapes model": (32, 128, 4)}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Form = Callable[[Tensor, Tensor, int, int], Tensor]


def with_grid_sample(values: Tensor, offset_mask: Tensor, groups: int, side: int) -> Tensor:
    """Nine bilinear samples a position by ``grid_sample``, then their weighted sum."""
    count, positions, _ = values.shape
    field = offset_mask[..., : groups * 3 * TAPS].unflatten(-1, (groups, 3 * TAPS)).transpose(1, 2)
    offsets = field[..., : 2 * TAPS].unflatten(-1, (TAPS, 2))  # [N, groups, P, 9, (x, y)]
    weights = field[..., 2 * TAPS :].flatten(0, 1)
    cell = torch.arange(positions, device=values.device)
    tap = torch.arange(TAPS, device=values.device)
    x = (cell % side).unsqueeze(1) - 1 + tap // 3
    y = (cell // side).unsqueeze(1) - 1 + tap % 3
    points = torch.stack([x, y], dim=-1) + offsets.flatten(0, 1)
    maps = values.transpose(1, 2).reshape(count * groups, -1, side, side)
    sampled = functional.grid_sample(
        maps, (points * (2 / (side - 1)) - 1).to(maps.dtype), align_corners=True
    )
    out = torch.einsum("ncpk,npk->npc", sampled, weights.to(sampled.dtype))
    return out.unflatten(0, (count, groups)).transpose(1, 2).flatten(2)


def with_deform_conv2d(values: Tensor, offset_mask: Tensor, groups: int, side: int) -> Tensor:
    """torchvision's modulated deformable convolution with a depthwise kernel of ones."""
    field = offset_mask[..., : groups * 3 * TAPS].transpose(1, 2).unflatten(1, (groups, 3 * TAPS))
    # torchvision wants (dy, dx) and counts taps row by row; here they run column by column.
    order = torch.arange(TAPS, device=values.device).view(3, 3).T.flatten()
    offsets = field[:, :, : 2 * TAPS].unflatten(2, (TAPS, 2))[:, :, order].flip(3)
    weights = field[:, :, 2 * TAPS :][:, :, order]
    maps = values.transpose(1, 2).unflatten(2, (side, side)).contiguous()
    channels = maps.shape[1]
    out = deform_conv2d(
        maps,
        offsets.flatten(1, 3).unflatten(2, (side, side)).to(maps.dtype),
        torch.ones(channels, 1, 3, 3, device=maps.device, dtype=maps.dtype),
        padding=1,
        mask=weights.flatten(1, 2).unflatten(2, (side, side)).to(maps.dtype),
    )
    return out.flatten(2).transpose(1, 2)


FORMS: dict[str, Form] = {
    "sampling matrix (ours)": deformable_sample,
    "grid_sample": with_grid_sample,
    "deform_conv2d": with_deform_conv2d,
}


def inputs(
    maps: int, channels: int, side: int, groups: int, dtype: torch.dtype, device: str
) -> tuple[Tensor, Tensor]:
    """Random values [N, g * g, C] and offsets of about a cell with weights, both with gradient."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(maps, side * side, channels, generator=generator)
    offset_mask = torch.randn(maps, side * side, -(-groups * 27 // 8) * 8, generator=generator)
    return tuple(x.to(device, dtype).requires_grad_() for x in (values, offset_mask))


def run(form: Form, data: tuple[Tensor, Tensor], groups: int, side: int, backward: bool) -> None:
    """One forward pass, with the gradient of both inputs where it is asked for."""
    with torch.set_grad_enabled(backward):
        out = form(*data, groups, side)
    if backward:
        torch.autograd.grad(out, data, torch.ones_like(out))


def disagreement(form: Form, data: tuple[Tensor, Tensor], groups: int, side: int) -> float:
    """Largest difference to ours in outputs and gradients, relative to the largest value."""
    worst = 0.0
    results = []
    for candidate in (deformable_sample, form):
        out = candidate(*data, groups, side)
        results.append((out, *torch.autograd.grad(out.float().square().sum(), data)))
    for ours, theirs in zip(*results, strict=True):
        difference = (ours - theirs).abs().max() / ours.abs().max()
        worst = max(worst, difference.item())
    return worst


def seconds(
    data: tuple[Tensor, Tensor], groups: int, side: int, backward: bool, repeats: int
) -> dict[str, float]:
    """Median time of each form; the forms take turns."""
    times: dict[str, list[float]] = {name: [] for name in FORMS}
    for turn in range(repeats + 1):
        for name, form in FORMS.items():
            start = time.perf_counter()
            run(form, data, groups, side, backward)
            if data[0].is_cuda:
                torch.cuda.synchronize()
            if turn:  # the first turn warms up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def measure(size: tuple[int, int, int], options: argparse.Namespace) -> None:
    """Prints the table of one size."""
    maps, channels, side = size
    data = inputs(*size, options.groups, DTYPES[options.dtype], options.device)
    forward = seconds(data, options.groups, side, False, options.repeats)
    both = seconds(data, options.groups, side, True, options.repeats)
    first = next(iter(FORMS))
    print(f"{maps} maps, {channels} channels, {side} x {side} positions, {options.groups} groups")
    print(f"{'':24}{'forward':>12}{'ratio':>8}{'with backward':>16}{'ratio':>8}{'difference':>13}")
    for name, form in FORMS.items():
        print(
            f"{name:24}{1000 * forward[name]:9.1f} ms{forward[name] / forward[first]:8.2f}"
            f"{1000 * both[name]:13.1f} ms{both[name] / both[first]:8.2f}"
            f"{disagreement(form, data, options.groups, side):13.1e}"
        )


def main(options: argparse.Namespace) -> None:
    """Runs the benchmark and prints its tables."""
    torch.set_num_threads(options.threads)
    given = (options.maps, options.channels, options.grid)
    sizes = SIZES
    if any(given):
        filled = zip(given, SIZES["published width"], strict=True)
        sizes = {"given size": tuple(value or default for value, default in filled)}
    print(f"torch {torch.__version__}, {options.device}, {options.dtype}")
    for name, size in sizes.items():
        print(f"\n{name}: ", end="")
        measure(size, options)


if __name__ == "__main__":
    main(arguments)
