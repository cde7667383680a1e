"""Omnivorous pretraining: align the features of all modalities by training the last third of a DINOv2's blocks.

Letters: B samples on this process, D width, S sampled patch positions.

There are two bases. "plain" is the paper's: a plain ViT whose input is always three-channel; maps and infrared are
coloured by their own values (`colourise`) and blended with the paired RGB image. "both" is ours, Omnivorous on top of
SpectraDINO: infrared passes through trainable stems and adapters and is blended with the image's luminance; maps are
coloured as above. The teacher of the anchoring loss is a frozen copy of the initial student, on the same images.

A run's `<folder>/` receives `last.safetensors` (a plain DINOv2 in the official layout, or a SpectraDINO),
`start.safetensors` (the initial weights, which the anchoring loss and a resumed run need), `recipe.json`, `log.jsonl`,
`losses.png` and `checkpoints/`.

Source: "A Mixed Diet Makes DINO an Omnivorous Vision Encoder", Section 3.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from spectradino_core.data.pretraining import (
    OmnivorousBatch,
    available_groups,
    from_imagenet,
    omnivorous_batches,
    to_imagenet,
)
from spectradino_core.data.sources import ImageSource, fingerprint, refuse_overlap
from spectradino_core.data.views import DEPTH_RANGE_M
from spectradino_core.evaluation.representations import evaluate_pairs, extract_features
from spectradino_core.files import make_folder
from spectradino_core.losses.alignment import sample_positions
from spectradino_core.losses.omnivorous import (
    LogitScale,
    alignment_loss,
    anchoring_loss,
    colourise,
    dense_alignment_loss,
    luminance,
    mixup,
)
from spectradino_core.models.checkpoints import save_spectradino, save_state
from spectradino_core.models.encoders import BandedEncoder, PlainEncoder, Prefix
from spectradino_core.models.perception_checkpoint import load_network
from spectradino_core.models.spectradino import SpectraDINO, parameter_roles, train_only
from spectradino_core.models.vit import VARIANTS, Features, ViT, ViTConfig
from spectradino_core.models.weight_files import read_header
from spectradino_core.training.checkpoints import ResumeError, resume_step
from spectradino_core.training.distributed import DistEnv, parallelise, process_group
from spectradino_core.training.loop import train
from spectradino_core.training.optimiser import adamw_for
from spectradino_core.training.runs import RunOptions, StepRecorder, record_run
from spectradino_core.training.teacher import load_teacher, weights_hash
from spectradino_core.training.train_logger import plot_losses

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OmnivorousRecipe:
    """Recipe of one run; values are the paper's unless marked assumed.

    Attributes:
        variant: key of `VARIANTS`; the paper's is B.
        batch: samples per step over all processes.
        lr: peak learning rate.
        tokens: patch tokens sampled per image.
        anchor: weight of the anchoring losses.
        alpha_max: maximum fraction of RGB in the blend.
        colourise: colour maps and infrared as the RGB image is where they have a value; otherwise they are grey.
        dense: weight of the losses on patch tokens relative to those on CLS. Assumed: equal.
        weight_decay, clip: as in `StageRecipe`. Assumed.
        warmup: fraction of the steps with a rising learning rate. Assumed.
        crop: side of the square views in pixels.
        depth_range_m: see `data.views.depth_values`. Ours.
    """

    variant: str
    steps: int = 20_000
    batch: int = 512
    lr: float = 1e-4
    tokens: int = 64
    anchor: float = 10.0
    alpha_max: float = 0.5
    colourise: bool = True
    dense: float = 1.0
    weight_decay: float = 0.05
    warmup: float = 0.05
    clip: float = 3.0
    crop: int = 224
    depth_range_m: tuple[float, float] = DEPTH_RANGE_M

    def __post_init__(self) -> None:
        if not 0 <= self.alpha_max <= 1:
            raise ValueError(f"the maximum fraction of RGB (alpha) must lie in 0 to 1, got {self.alpha_max:g}")
        if self.tokens < 1:
            raise ValueError(f"at least one patch token is sampled per image, got {self.tokens}")
        if not 0 < self.depth_range_m[0] < self.depth_range_m[1]:
            raise ValueError(f"the depth range needs 0 < near < far, got {self.depth_range_m} m")


def omnivorous_recipe(variant: str) -> OmnivorousRecipe:
    """Return the recipe of a variant: the paper's values; ours for `tiny` and `test`."""
    if variant not in VARIANTS:
        raise ValueError(f"no Omnivorous recipe for variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    if variant == "tiny":
        return OmnivorousRecipe(variant, steps=600, batch=32, lr=5e-4, tokens=16, crop=112)
    if variant == "test":
        return OmnivorousRecipe(variant, steps=20, batch=4, lr=1e-3, tokens=4, crop=56)
    return OmnivorousRecipe(variant)


def frozen_blocks(config: ViTConfig) -> int:
    """Return the number of first blocks that stay frozen: 8 of 12, two thirds of any other depth (assumed)."""
    return config.depth - max(1, round(config.depth / 3))


def trainable(model: ViT | SpectraDINO) -> list[str]:
    """Return the names of the parameters that are trained.

    These are the last third of the blocks and the final norm, which lies behind the stop-gradient in the official code,
    and, in a SpectraDINO, also the infrared stems, the adapters and the modality embedding (ours).
    """
    config = model.config
    roles = {f"blocks.{index}" for index in range(frozen_blocks(config), config.depth)} | {"norm"}
    if isinstance(model, SpectraDINO) and len(model.bands) > 1:
        roles |= {f"stems.{band.key}" for band in model.bands if band.band.channels == 1}
        roles |= {"adapters", "modality_embedding"}
    return [name for name, role in parameter_roles(model).items() if role in roles]


def encoder_inputs(
    batch: OmnivorousBatch, encoder: PlainEncoder | BandedEncoder, paint: bool = True, blend: bool = True
) -> dict[str, Tensor]:
    """Return the encoder's input of each modality: colourised, blended, and with the channels that it takes.

    Args:
        batch: RGB [B, 3, H, W]; other modalities [B, 1, H, W].
        encoder: defines the number of channels of each modality.
        paint: colour three-channel inputs by `colourise`; otherwise they are grey.
        blend: mix each modality with RGB by the batch's alpha.
    """
    rgb = batch.images["rgb"]
    colours = from_imagenet(rgb)
    out = {"rgb": rgb}
    for key, image in batch.images.items():
        if key == "rgb":
            continue
        if encoder.channels(key) == 1:
            out[key] = mixup(image, luminance(colours)[:, None], batch.alpha[key]) if blend else image
            continue
        if paint:
            coloured = colourise(image, colours, classes=key == "segmentation")
        else:
            coloured = image.expand(-1, 3, -1, -1)
        out[key] = to_imagenet(mixup(coloured, colours, batch.alpha[key]) if blend else coloured)
    return out


class OmnivorousStudent(nn.Module):
    """The trained backbone, with one learned temperature for CLS and one for tokens (two are assumed)."""

    def __init__(self, backbone: ViT | SpectraDINO) -> None:
        super().__init__()
        train_only(backbone, trainable(backbone))
        self.encoder: PlainEncoder | BandedEncoder = (
            PlainEncoder(backbone, frozen_blocks(backbone.config))
            if isinstance(backbone, ViT)
            else BandedEncoder(backbone)
        )
        self.cls_scale, self.dense_scale = LogitScale(), LogitScale()

    @property
    def backbone(self) -> ViT | SpectraDINO:
        return self.encoder.vit if isinstance(self.encoder, PlainEncoder) else self.encoder.backbone

    def forward(self, images: Mapping[str, Tensor], positions: Tensor) -> dict[str, object]:
        """Embed images by modality.

        Returns:
            "cls" [B, D] and "tokens" [B, S, D], the patch tokens at the sampled positions, by modality; "cls_scale" and
            "dense_scale", factors on similarities; "prefix", the tokens after the frozen blocks, which the teacher
            reuses (None for a SpectraDINO, where they differ).
        """
        prefix: Prefix | None = None
        if isinstance(self.encoder, PlainEncoder):
            prefix = self.encoder.begin(images)
            features = self.encoder.finish(prefix)
        else:
            features = self.encoder(images)
        cls, tokens = _pick(features, positions)
        scales = {"cls_scale": self.cls_scale(), "dense_scale": self.dense_scale()}
        return {"cls": cls, "tokens": tokens, **scales, "prefix": prefix}


class OmnivorousTask:
    """Loss of a step, called by the loop with (student as this process runs it, batch).

    Its `teacher` is a frozen copy of the student, which must have its initial weights; `first` is the first step.
    """

    def __init__(self, student: OmnivorousStudent, recipe: OmnivorousRecipe, seed: int, first: int = 0) -> None:
        self.teacher: PlainEncoder | BandedEncoder = deepcopy(student.encoder)
        self.teacher.requires_grad_(False).eval()
        self._patch = student.backbone.config.patch
        self._recipe, self._seed, self.step = recipe, seed, first

    def __call__(self, student: nn.Module, batch: OmnivorousBatch) -> dict[str, Tensor]:
        """Return the named scalar losses of a batch, of which "total" is minimised, and both scales."""
        recipe = self._recipe
        images = encoder_inputs(batch, self.teacher, recipe.colourise, recipe.alpha_max > 0)
        positions = self._positions(images["rgb"])
        output = student(images, positions)
        with torch.no_grad():
            if output["prefix"] is not None and isinstance(self.teacher, PlainEncoder):
                features = self.teacher.finish(output["prefix"])  # both have the same frozen blocks
            else:
                features = self.teacher(images)
            teacher_cls, teacher_tokens = _pick(features, positions)
        losses = {
            "align_cls": alignment_loss(output["cls"], output["cls_scale"]),
            "align_dense": dense_alignment_loss(output["tokens"], output["dense_scale"]),
            "anchor_cls": anchoring_loss(output["cls"], teacher_cls),
            "anchor_dense": anchoring_loss(output["tokens"], teacher_tokens),
        }
        align = losses["align_cls"] + recipe.dense * losses["align_dense"]
        anchor = losses["anchor_cls"] + recipe.dense * losses["anchor_dense"]
        self.step += 1
        return {
            "total": align + recipe.anchor * anchor,
            **losses,
            "scale_cls": output["cls_scale"].detach(),
            "scale_dense": output["dense_scale"].detach(),
        }

    def _positions(self, rgb: Tensor) -> Tensor:
        """Return the patch positions [S] compared in this step, the same in all processes."""
        patch = self._patch
        patches = (rgb.shape[-2] // patch) * (rgb.shape[-1] // patch)
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self.step)
        return sample_positions(patches, min(1.0, self._recipe.tokens / patches), generator).to(rgb.device)


def _pick(features: Mapping[str, Features], positions: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return CLS, and the patch tokens at `positions`, by modality."""
    return {k: f.cls for k, f in features.items()}, {k: f.patches[:, positions] for k, f in features.items()}


# ----------------------------------------------------------------------------------------------------------------- run


@dataclass(frozen=True)
class OmnivorousOptions(RunOptions):
    """Options of an Omnivorous run that are not part of the recipe.

    Attributes:
        start: DINOv2 weights in any layout, or a SpectraDINO backbone or fine-tuned model; None: random weights.
        checkpoint_every: steps between checkpoints.
        base: "plain": all inputs are three-channel images (of a SpectraDINO the RGB path is used); "both": infrared
            passes through the stems and adapters of a SpectraDINO.
    """

    checkpoint_every: int = 500
    base: str = "plain"


def pretrain_omnivorous(
    recipe: OmnivorousRecipe,
    sources: Sequence[ImageSource],
    options: OmnivorousOptions,
    validation: Sequence[ImageSource] = (),
) -> Path:
    """Train, or resume the run in `options.folder`, and return the path of its `last.safetensors`.

    Args:
        recipe, options: of the run.
        sources: image sources, in which the two maps and each infrared band are registered to RGB.
        validation: held-out items, on which each checkpoint logs retrieval from RGB by the mean patch token
            ("val_r1_<modality>") and how well RGB is retained ("val_retention").

    Raises:
        CheckpointError, ResumeError, ValueError: as by `pretrain`; also, the run was started from other weights.
    """
    folder = options.folder
    refuse_overlap(sources, validation)
    steps = options.steps or recipe.steps
    groups = available_groups(sources)
    with process_group(options.device) as (env, device):
        torch.manual_seed(options.seed)
        first = resume_step(folder)
        backbone, origin = _start(recipe.variant, options, first, env)
        student = OmnivorousStudent(backbone).to(device)
        task = OmnivorousTask(student, recipe, options.seed, first)
        runner = parallelise(student, [], "ddp", device)
        optimiser = adamw_for(student, backbone, recipe.lr, recipe.weight_decay)
        recorder = StepRecorder(list(groups), steps, options)
        content = {
            "system": "omnivorous",
            "recipe": {name: value for name, value in dataclasses.asdict(recipe).items() if name != "steps"},
            "steps": steps,
            "groups": groups,
            "sources": {source.name: len(source) for source in sources},
            "data": [fingerprint(source) for source in sources],
            "views": dataclasses.asdict(options.views),
            "base": options.base,
            "start": origin,
            "teacher_hash": weights_hash(backbone),
            "seed": options.seed,
            "amp": options.amp,
            "adaptive": options.adaptive,
        }
        record_run(folder, content, first, options.override)
        train(
            student,
            task,
            omnivorous_batches(
                sources, groups, recipe.batch, recipe.crop, options.seed, steps, first, env.rank, env.world,
                recipe.alpha_max, recorder.sampling, options.workers, options.views,
                max_damaged=options.max_damaged, pin=device.type == "cuda", depth_range_m=recipe.depth_range_m,
            ),
            optimiser,
            options.loop(steps, options.checkpoint_every, recipe.warmup, recipe.clip),
            folder,
            device,
            every=partial(_validate, validation, task, recipe, device, env) if validation else None,
            runner=runner,
            after_step=lambda step, batch, losses: recorder.after_step(step, losses),
            stateful=recorder.stateful,
        )  # fmt: skip
        path = folder / "last.safetensors"
        if env.first:
            metadata = {"system": "omnivorous", "start": origin, "recipe": json.dumps(dataclasses.asdict(recipe))}
            _save(student.backbone, path, metadata)
            plot_losses({"omnivorous": folder / "log.jsonl"}, folder / "losses.png")
        env.wait()
    return path


def _validate(
    validation: Sequence[ImageSource], task: OmnivorousTask, recipe: OmnivorousRecipe, device: torch.device,
    env: DistEnv, step: int, student: OmnivorousStudent,
) -> dict[str, float]:  # fmt: skip
    """Return retrieval and retention on held-out items, in the first process only."""
    rows: dict[str, list[float]] = {}
    for source in validation if env.first else ():
        for key in sorted({key for item in range(len(source)) for key in source.modalities(item)}):
            found = extract_features(
                student.encoder, source, (key,), recipe.crop, device=device, teacher=task.teacher,
                depth_range_m=recipe.depth_range_m,
            )  # fmt: skip
            rows.setdefault(f"val_r1_{key}", []).append(evaluate_pairs(found)[key]["gap"]["from_rgb"]["r1"])
            rows.setdefault("val_retention", []).append(found.retained["retention_patches"])
    return {name: round(sum(values) / len(values), 6) for name, values in rows.items()}


def _start(variant: str, options: OmnivorousOptions, first: int, env: DistEnv) -> tuple[ViT | SpectraDINO, str]:
    """Return the initial backbone of student and teacher and its origin; a copy is saved for resuming."""
    kept = options.folder / "start.safetensors"
    if first:
        model, origin = _open(kept, variant, options.base), str(read_header(kept).get("origin", kept.name))
        given = options.start
        if given is not None and weights_hash(_open(given, variant, options.base)) != weights_hash(model):
            raise ResumeError(
                f"{options.folder} was started from {origin}, whose weights differ from those of {given}: give the "
                "former file or none, or start in a new folder (--out)"
            )
        return model, origin
    if options.start is not None:
        model, origin = _open(options.start, variant, options.base), options.start.name
    elif options.base == "plain":
        model, origin = ViT(variant), f"random weights, seed {options.seed}"
        log.warning("no weights to start from: the student learns to align random features; give --start FILE")
    else:
        raise ValueError('base "both" starts from a SpectraDINO backbone: give one (--start FILE)')
    if env.first:
        make_folder(options.folder)
        _save(model, kept, {"origin": origin})
    env.wait()
    return model, origin


def _open(path: Path, variant: str, base: str) -> ViT | SpectraDINO:
    """Load the initial backbone; ValueError: an unknown base, or one that the file does not support."""
    if base not in ("plain", "both"):
        raise ValueError(f"unknown base {base!r}: choose plain or both")
    if base == "plain":
        return load_teacher(path, variant).network.requires_grad_(True)
    model = load_network(path)
    if model.config.name != variant:
        raise ValueError(f"{path} is a {model.config.title}; the recipe is for variant {variant!r}")
    if isinstance(model, ViT) or len(model.bands) < 2:
        raise ValueError(f'{path} holds no infrared band; use base "plain"')
    return model


def _save(model: ViT | SpectraDINO, path: Path, metadata: dict[str, str]) -> None:
    if isinstance(model, SpectraDINO):
        save_spectradino(model, path, metadata)
    else:
        save_state(model, path, metadata)
