"""Times and checks the full-size models, with random weights, and prints Markdown tables.

    python scripts/benchmark_full_size.py            # FLAN-T5-XL and Vicuna-7B on a GPU of 80 GB
    python scripts/benchmark_full_size.py --tiny     # the same code, tiny models on the CPU

Training steps hold forward, backward and AdamW, every region on three crops of its own; prediction
runs all decoders, and its captions never end early. Precision compares bf16 (vision: fp16) with
fp32 on the same weights.
"""

import argparse

from dynrefer.command_line import entry_point, plain_parser


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = plain_parser(__doc__)
    parser.add_argument("--tiny", action="store_true", help="tiny models on the CPU")
    return parser.parse_args(arguments)


if __name__ == "__main__":  # before the imports that take seconds
    arguments = parse()

import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from dynrefer.config import load_config
from dynrefer.datasets.batch import RegionBatch
from dynrefer.datasets.shapes.vocabularies import write_vocabularies
from dynrefer.models.builders import build_model
from dynrefer.models.dynrefer import DynRefer
from dynrefer.runners.precision import autocast
from dynrefer.runners.updates import parameter_groups

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "base" / "models"

# Fields of the language models' configurations, as published with their weights.
FLAN_T5_XL = {
    "vocab_size": 32128,
    "d_model": 2048,
    "d_kv": 64,
    "d_ff": 5120,
    "num_layers": 24,
    "num_heads": 32,
}
VICUNA_7B = {
    "vocab_size": 32001,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
}
TINY_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 2, "num_layers": 1}
TINY_LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


@dataclass(frozen=True)
class Run:
    """What is measured of one model: a file in configs/base/models with its language model.

    ``batches`` are the regions of the training steps, ``regions`` those of the prediction.
    """

    config: str
    language_model: dict[str, Any]
    tiny_language_model: dict[str, Any]
    batches: tuple[int, ...]
    regions: int


RUNS = (
    Run("dynrefer_flant5xl", FLAN_T5_XL, TINY_T5, (8, 32, 64), 64),
    Run("dynrefer_vicuna", VICUNA_7B, TINY_LLAMA, (16,), 16),
)
# A text tower of EVA-CLIP's size over a small vocabulary; sizes that make the rest tiny.
TEXT_TOWER = {"width": 768, "heads": 12, "layers": 12, "output_width": 1024, "context_length": 77}
TINY = (
    "model.image_size=32",
    "model.vision.name=vit_tiny_patch16_224",
    "model.vision.options={patch_size: 8, embed_dim: 64, depth: 2, num_heads: 2}",
    "model.qformer={num_query_tokens: 4, hidden_size: 32, num_hidden_layers: 2,"
    " num_attention_heads: 2, intermediate_size: 64}",
    "model.tag_decoder={width: 32, heads: 2, intermediate: 64}",
    "model.region_text_decoder={width: 32, heads: 2, intermediate: 64}",
)
VOCABULARIES = {"tags": 4585, "attributes": 117, "classes": 80}
WORDS = ("a", "small", "red", "striped", "star", "left", "of", "the", "blue", "ring", "circle")


def full_config(
    name: str, language_model: dict[str, Any], folder: Path, tiny: bool = False
) -> DictConfig:
    """A published configuration without its files: random weights, lists of the same lengths.

    Args:
        name: of a file in configs/base/models.
        language_model: fields of its configuration.
        folder: is made, with vocabularies and a word tokenizer.
    """
    folder.mkdir(parents=True)
    write_vocabularies(folder)
    config = load_config(CONFIGS / f"{name}.yaml", TINY if tiny else ())
    model = config.model
    for key, count in VOCABULARIES.items():
        model.vocabulary[key] = str(folder / f"{key}.txt")
        lines = (f"{key} {index}\n" for index in range(20 if tiny else count))
        Path(model.vocabulary[key]).write_text("".join(lines))
    model.pretrained = model.vision.checkpoint = model.caption_decoder.language_model = None
    model.freeze = ["text_encoder"]
    # With the published start an untrained model hides the image; see models/builders.py.
    model.from_scratch = True
    tokenizer = str(folder / "tokenizer")
    model.text_encoder.name = "word_transformer"
    model.text_encoder.options = {"tokenizer": tokenizer, **({} if tiny else TEXT_TOWER)}
    model.caption_decoder.config, model.caption_decoder.tokenizer = language_model, tokenizer
    # Untrained models never stop, so every caption has all its tokens.
    model.generation.min_length = model.generation.max_new_tokens
    return config


def random_batch(model: DynRefer, regions: int, device: torch.device) -> RegionBatch:
    """Regions on crops of their own, captions of 12 words, 8 control words."""
    generator = torch.Generator().manual_seed(regions)
    views, side = model.fusion.num_views, model.vision.image_size

    def text(words: int, separator: str) -> str:
        chosen = torch.randint(len(WORDS), (words,), generator=generator).tolist()
        return separator.join(WORDS[index] for index in chosen)

    shape = (regions * views, 3, side, side)
    corners = torch.rand(regions, views, 2, 2, generator=generator).mul(side).sort(dim=2)[0]
    batch = RegionBatch(
        crops=torch.randint(256, shape, dtype=torch.uint8, generator=generator),
        view_index=torch.arange(regions * views).view(regions, views),
        region_boxes=corners.flatten(2).floor(),
        ratios=torch.zeros(regions, views),
        captions=[text(12, " ") for _ in range(regions)],
        ids=list(range(regions)),
        image_ids=list(range(regions)),
        tags=torch.rand(regions, len(model.vocabularies.tags), generator=generator) < 0.002,
        control_words=[text(8, ",") + "|" for _ in range(regions)],
    )
    return batch.to(device)


class Benchmark:
    """One model on a device, in the precision of a run's configuration."""

    def __init__(self, config: DictConfig, device: torch.device) -> None:
        self.config, self.device, self.is_cuda = config, device, device.type == "cuda"
        config.model.vision.precision = config.model.caption_decoder.precision = "fp32"
        torch.manual_seed(0)
        with device:
            self.model = build_model(config.model).to(device).eval()

    @torch.no_grad()
    def outputs(self, batch: RegionBatch) -> dict[str, Tensor]:
        """What the decoders compute, with the logits of the given captions."""
        model, logits = self.model, []
        hook = model.caption_decoder.language_model.register_forward_hook(
            lambda module, inputs, output: logits.append(output.logits)
        )
        queries = model.encode(batch)
        total, count = model.caption_decoder.loss(queries, batch.control_words, batch.captions)
        hook.remove()
        found = {
            "queries": queries,
            "tag logits": model.tag_logits(queries),
            "attribute scores": model.attribute_scores(queries),
            "class similarities": model.class_logits(queries),
            "caption logits": logits[0],
            "caption loss": total / count,
        }
        return {name: value.float() for name, value in found.items()}

    def precision(self, batch: RegionBatch) -> Iterator[list[str]]:
        """Rows of outputs in fp32 and in the published precisions, which stay."""
        exact = self.outputs(batch)
        self.model.vision.tower.to(torch.float16 if self.is_cuda else torch.bfloat16)
        for parameter in self.model.caption_decoder.language_model.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
        with autocast(self.config, self.device):
            half = self.outputs(batch)
        for name, reference in exact.items():
            error = half[name] - reference
            finite = torch.isfinite(half[name]).all() and torch.isfinite(reference).all()
            yield [
                name,
                f"{reference.abs().max():.3f}",
                f"{error.abs().max():.1e}",
                f"{error.norm() / reference.norm():.1e}",
                "yes" if finite else "NO",
            ]

    def training_step(self, batch: RegionBatch, optimizer: torch.optim.Optimizer) -> bool:
        """One step; returns whether the gradients are finite (the model refuses such losses)."""
        with autocast(self.config, self.device):
            losses = self.model(batch)
        losses.total.backward()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = nn.utils.get_total_norm(p.grad for p in parameters if p.grad is not None)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return bool(torch.isfinite(norm))

    def prediction(self, batch: RegionBatch) -> bool:
        """All decoders; returns whether what they say is finite."""
        with autocast(self.config, self.device):
            predictions = self.model.predict(batch, controls=[["red", "star"]] * len(batch))
        scores = [[p.score, *p.attributes, *p.class_logits] for p in predictions]
        return bool(torch.isfinite(torch.tensor(scores)).all())

    def measure(self, what: str, regions: int, work: Callable[[], bool]) -> list[str]:
        """Cells of a row: median time of three runs after a first one, and peak memory."""
        times, finite = [], True
        try:
            for run in range(4):
                if run == 1 and self.is_cuda:
                    torch.cuda.reset_peak_memory_stats()
                start = time.perf_counter()
                finite = work() and finite
                if self.is_cuda:
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - start)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            return [what, str(regions), "out of memory", "", "", ""]
        except FloatingPointError as error:
            return [what, str(regions), "", "", "", f"NO: {error}"]
        seconds = statistics.median(times[1:])
        peak = f"{torch.cuda.max_memory_allocated() / 2**30:.1f}" if self.is_cuda else "-"
        rate = f"{regions / seconds:.1f}"
        return [what, str(regions), f"{seconds:.3f}", rate, peak, "yes" if finite else "NO"]

    def sizes(self) -> str:
        """Millions of parameters of each part."""
        parts = dict(self.model.named_children())
        parts["language model"] = self.model.caption_decoder.language_model
        counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
        return ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in counts.items())


def table(header: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table; numbers stand to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def report(run: Run, device: torch.device, tiny: bool, folder: Path) -> str:
    """The section on one model."""
    fields = run.tiny_language_model if tiny else run.language_model
    batches, regions = ((2,), 2) if tiny else (run.batches, run.regions)
    config = full_config(run.config, fields, folder, tiny)
    bench = Benchmark(config, device)
    model = bench.model
    precision = list(bench.precision(random_batch(model, min(8, regions), device)))
    model.train()
    optimizer = torch.optim.AdamW(parameter_groups(model, config.run.weight_decay), lr=1e-5)
    rows = []
    for size in batches:
        step = functools.partial(bench.training_step, random_batch(model, size, device), optimizer)
        rows.append(bench.measure("training step", size, step))
    optimizer.zero_grad(set_to_none=True)
    model.eval()
    work = functools.partial(bench.prediction, random_batch(model, regions, device))
    rows.append(bench.measure("prediction", regions, work))
    steps = table(["", "regions", "seconds", "regions a second", "peak GiB", "all finite"], rows)
    header = ["", "largest value", "largest difference", "relative error", "all finite"]
    return f"### {run.config}\n\n{bench.sizes()}\n\n{steps}\n\n{table(header, precision)}\n"


def main(arguments: argparse.Namespace) -> None:
    """Prints a section for each model."""
    if not arguments.tiny and not torch.cuda.is_available():
        raise ValueError("this needs an NVIDIA GPU; --tiny runs the same code on the CPU")
    device = torch.device("cpu" if arguments.tiny else "cuda")
    # The reference is fp32 throughout.
    torch.backends.cudnn.allow_tf32 = False
    where = torch.cuda.get_device_name() if device.type == "cuda" else "CPU, tiny models"
    print(f"{where}, torch {torch.__version__}\n")
    with tempfile.TemporaryDirectory() as folder:
        for run in RUNS:
            print(report(run, device, arguments.tiny, Path(folder) / run.config), flush=True)
            torch.cuda.empty_cache()


if __name__ == "__main__":
    entry_point(main, arguments)
