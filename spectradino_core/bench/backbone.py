"""Backbone benchmark: both streams compared with two sequential passes of transformers' DINOv2.

Weights are random, which does not affect the timing. All cases are interleaved and use the same pair of images.

Letters: H x W image, N patches, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spectradino_core.bench.limits import (
    PRODUCTS,
    best_rates,
    cpu_session,
    in_openvino,
    limit_rows,
    operations,
    product,
    twice_plain,
)
from spectradino_core.bench.plain import plain_dinov2
from spectradino_core.bench.tables import Row
from spectradino_core.bench.timing import Case, peak_memory_mb, take_turns
from spectradino_core.modality import Modality
from spectradino_core.models.spectradino import SpectraDINO
from spectradino_core.models.vit import ViT

SIZES = ((392, 490), (518, 644))
"""H x W."""

REFERENCE = "DINOv2 twice, torch fp32"
CASES = (
    REFERENCE,
    "torch fp32, one band after the other",
    "torch fp32",
    "torch fp32, folded",
    "torch bf16, folded",
    "onnx fp32",
    "onnx fp32, fused",
    "onnx fp32, fused, spinning",
    "onnx int8, fused",
    "onnx int8, fused, spinning",
    *(("openvino fp32", "openvino bf16") if find_spec("openvino") else ()),
)
"""The reference, two passes of the plain network, and variants of SpectraDINO with both streams.

- folded: fixed position embedding and LayerScale folded into the preceding layer, as in an export.
- fused: attention as one ONNX Runtime operator (`export/attention.py`).
- spinning: ONNX Runtime's threads busy-wait within a run, but not between runs. In `OnnxEngine` they sleep, which
  leaves a core to the node.
"""


class Streams(nn.Module):
    """Exportable backbone from both images to the patch tokens of both."""

    def __init__(self, model: SpectraDINO) -> None:
        super().__init__()
        self.model = model

    def forward(self, rgb: Tensor, ir: Tensor) -> tuple[Tensor, Tensor]:
        """Return patches [B, N, D] of RGB [B, 3, H, W] and of IR [B, 1, H, W]."""
        features = self.model({Modality.RGB: rgb, Modality.LWIR: ir})
        return features[Modality.RGB].patches, features[Modality.LWIR].patches


def backbone_rows(
    variant: str, size: tuple[int, int], folder: Path, rounds: int, cases: Sequence[str] = CASES, memory: bool = True
) -> tuple[list[Row], list[Row]]:
    """Measure one row per case (time, ratio to `REFERENCE`, rate as a fraction of the machine's limit, difference from
    torch fp32, peak memory), and the limits, see `limits.limit_rows`, in the same rounds.

    A case's limit is the highest rate of matrix products in its precision, of all libraries. What a case computes
    beside products (softmax, norms), or in another precision, counts as time but not as operations.

    Args:
        variant, size: ViT variant; (H, W), multiples of the patch size.
        folder: cache of exported graphs.
        rounds: timed rounds, after one warm-up.
        cases: subset of `CASES`; the reference always runs.
        memory: measure peak memory, which runs every case again.
    """
    names = [REFERENCE, *(name for name in cases if name != REFERENCE)]
    given: dict[str, Any] = {"variant": variant, "height": size[0], "width": size[1], "folder": str(folder)}
    runs = {name: case(name=name, **given) for name in names}
    precisions = {_precision(name) for name in names}
    products = {name: product(name, folder) for name in PRODUCTS if _precision(name) in precisions}
    # All in turns: the limits hold for the state that the machine was in. The names of both overlap.
    timings = take_turns(runs | {f"product {name}": run for name, run in products.items()}, rounds)
    limits = limit_rows({name: timings.pop(f"product {name}") for name in products})
    rates = best_rates(limits)
    work, ours = {REFERENCE: twice_plain(variant, size)}, forward_operations(variant, size, 1)
    plain = _arrays(case(name="torch fp32", **given)())
    rows: list[Row] = []
    for name, timing in timings.items():
        row: Row = {"variant": variant, "height": size[0], "width": size[1], "case": name} | timing.columns()
        row["ratio"] = timing.median_ms / timings[REFERENCE].median_ms
        rate = work.get(name, ours) / timing.median_ms / 1e6
        limit = rates.get(_precision(name))
        row |= {"gflop_per_s": rate, "of limit": "-" if limit is None else rate / limit}
        row["mean difference"] = "-" if name == REFERENCE else _difference(_arrays(runs[name]()), plain)
        rows.append(row)
    del runs
    for row in rows:
        row["peak_mb"] = peak_memory_mb(__name__, given | {"name": row["case"]}) if memory else "-"
    return rows, limits


def forward_operations(variant: str, size: tuple[int, int], batch: int) -> float:
    """Count the FLOP of both streams of `batch` pairs, on meta tensors."""
    with torch.device("meta"):
        model = Streams(SpectraDINO(variant, (Modality.RGB, Modality.LWIR)).eval())
        return operations(model, torch.randn(batch, 3, *size), torch.rand(batch, 1, *size))


def case(name: str, variant: str, height: int, width: int, folder: str) -> Case:
    """Prepare one of `CASES`; it returns the patches of both streams."""
    generator = torch.Generator().manual_seed(0)
    rgb = torch.randn(1, 3, height, width, generator=generator)
    ir = torch.rand(1, 1, height, width, generator=generator)
    if name == REFERENCE:
        return _inference(twice, reference(variant), rgb)
    if name.startswith("openvino"):
        graph = export_backbone(variant, (height, width), Path(folder))
        return in_openvino(graph, name.split()[1], {"rgb": rgb.numpy(), "ir": ir.numpy()})
    if name.startswith("onnx"):
        precision = name.split()[1].rstrip(",")
        path = export_backbone(variant, (height, width), Path(folder), "fused" in name, precision)
        session = cpu_session(path, "spinning" in name)
        inputs = {"rgb": rgb.numpy(), "ir": ir.numpy()}
        return lambda: session.run(None, inputs)
    model = _model(variant, (height, width), folded="folded" in name)
    if name == "torch fp32, one band after the other":
        return _inference(_one_by_one, model, rgb, ir)
    kind = torch.bfloat16 if "bf16" in name else torch.float32
    return _inference(Streams(model).to(kind), rgb.to(kind), ir.to(kind))


def reference(variant: str) -> nn.Module:
    """Return transformers' DINOv2 with random weights, or our ViT if it is not installed."""
    torch.manual_seed(0)
    try:
        return plain_dinov2(variant).eval()
    except ImportError:
        return ViT(variant).eval()


def twice(model: nn.Module, rgb: Tensor) -> None:
    """Run two passes, as a plain network needs for two cameras."""
    model(rgb)
    model(rgb)


def reference_name() -> str:
    """Name of the implementation used by `reference`."""
    try:
        import transformers
    except ImportError:
        return "our plain ViT (transformers is not installed)"
    return f"transformers {transformers.__version__}, Dinov2Model with scaled_dot_product_attention"


def export_backbone(
    variant: str, size: tuple[int, int], folder: Path, fused: bool = False, precision: str = "fp32"
) -> Path:
    """Export the graph of a case like `export.py` and `convert.py`, unless the file exists."""
    import onnx

    from spectradino_core.export.attention import fuse_attention
    from spectradino_core.export.onnx_model import write_graph
    from spectradino_core.export.precision import quantise_weights

    path = folder / f"{variant}_{size[0]}x{size[1]}_{precision}{'_fused' if fused else ''}.onnx"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    if not fused and precision == "fp32":
        examples = {"rgb": torch.randn(1, 3, *size), "ir": torch.rand(1, 1, *size)}
        write_graph(Streams(_model(variant, size, folded=True)).eval(), examples, ["rgb_patches", "ir_patches"], path)
        return path
    model = onnx.load(str(export_backbone(variant, size, folder)))
    if fused and not fuse_attention(model):
        raise ValueError("the exported backbone has no attention of the known form")
    if precision == "int8":
        model, _ = quantise_weights(model)
    onnx.save(model, str(path))
    return path


def _model(variant: str, size: tuple[int, int], folded: bool) -> SpectraDINO:
    torch.manual_seed(0)
    model = SpectraDINO(variant, (Modality.RGB, Modality.LWIR)).eval()
    if folded:
        model.freeze_grid(size[0] // model.config.patch, size[1] // model.config.patch)
        model.vit.fold_layer_scale()
    return model


def _precision(case: str) -> str:
    return next(kind for kind in ("bf16", "int8", "fp32") if kind in case)


def _inference(run: Any, *arguments: Any) -> Case:
    @torch.inference_mode()
    def once() -> object:
        return run(*arguments)

    return once


def _one_by_one(model: SpectraDINO, rgb: Tensor, ir: Tensor) -> tuple[Tensor, ...]:
    return tuple(model({band: x})[band].patches for band, x in ((Modality.RGB, rgb), (Modality.LWIR, ir)))


def _arrays(streams: Any) -> list[np.ndarray]:
    return [x.float().numpy() if isinstance(x, Tensor) else x for x in streams]


def _difference(streams: Sequence[np.ndarray], plain: Sequence[np.ndarray]) -> float:
    """Mean absolute difference over patches and channels, which have variance 1 after the final norm."""
    return float(np.mean([np.abs(a - b).mean() for a, b in zip(streams, plain, strict=True)]))
