"""The frozen teacher: loading it, and a cache of its embeddings.

Letters: B images, D width.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spectradino_core.data.pretraining import PretrainBatch
from spectradino_core.files import write_file
from spectradino_core.modality import Modality
from spectradino_core.models.checkpoints import CheckpointError, save_state
from spectradino_core.models.perception_checkpoint import load_network
from spectradino_core.models.spectradino import SpectraDINO
from spectradino_core.models.vit import Features, ViT, ViTConfig, vit_config
from spectradino_core.training.distributed import DistEnv

log = logging.getLogger(__name__)


class Teacher(nn.Module):
    """Frozen RGB model: DINOv2, or a SpectraDINO of which only RGB is used; `origin` describes its weights' source."""

    def __init__(self, network: ViT | SpectraDINO, origin: str) -> None:
        super().__init__()
        if isinstance(network, SpectraDINO):
            network = network.select_bands([Modality.RGB])
        self.network, self.origin = network.eval().requires_grad_(False), origin

    @property
    def config(self) -> ViTConfig:
        return self.network.config

    @torch.no_grad()
    def forward(self, rgb: Tensor) -> Tensor:
        """Map RGB [B, 3, H, W] to CLS [B, D]."""
        return self.features(rgb).cls

    @torch.no_grad()
    def features(self, rgb: Tensor) -> Features:
        """Map RGB [B, 3, H, W] to all tokens."""
        if isinstance(self.network, SpectraDINO):
            return self.network({Modality.RGB: rgb})[Modality.RGB]
        return self.network(rgb)

    def train(self, mode: bool = True) -> Teacher:
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def student(self) -> SpectraDINO:
        """Return a SpectraDINO of all bands; its RGB features differ by the new adapters' 0.02 % from the teacher's."""
        student = SpectraDINO(self.config)
        if isinstance(self.network, ViT):
            student.vit.load_state_dict(self.network.state_dict())
            return student
        student.vit.load_state_dict(self.network.vit.state_dict())
        student.stems["rgb"].load_state_dict(self.network.stems["rgb"].state_dict())
        slot = student.bands.index(Modality.RGB)
        student.modality_embedding[slot] = self.network.modality_embedding[0]
        for adapter, teacher_adapter in zip(student.adapters, self.network.adapters, strict=True):
            for (_, stack), (_, row) in zip(
                adapter.named_parameters(), teacher_adapter.named_parameters(), strict=True
            ):
                stack[slot] = row[0]
        return student

    def fingerprint(self) -> str:
        return weights_hash(self.network)


def weights_hash(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def load_teacher(path: Path, variant: str) -> Teacher:
    """Load a teacher: DINOv2 in any layout, a SpectraDINO backbone or a fine-tuned model; CheckpointError: none."""
    network = load_network(path)
    if network.config.name != variant or network.config.depth != vit_config(variant).depth:
        raise CheckpointError(
            f"{path} holds a {network.config.title} of {network.config.depth} blocks; --variant asks for '{variant}'"
        )
    return Teacher(network, f"{path.name}")


def random_teacher(variant: str, seed: int, path: Path) -> Teacher:
    """Return a teacher of random weights, stored at `path` in DINOv2's layout so that all stages of a run share it.

    All processes must call it; the first one makes the file.
    """
    env = DistEnv.current()
    if env.first and not path.is_file():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            save_state(ViT(variant), path)
    env.wait()
    teacher = load_teacher(path, variant)
    teacher.origin = f"random weights, seed {seed}"
    log.warning(
        "THE TEACHER IS RANDOM: no --teacher was given, so the student learns to imitate an untrained network, which "
        "is useful for tests only. For useful features give DINOv2's weights (--teacher FILE)"
    )
    return teacher


class TeacherCache:
    """Teacher embeddings of the seeded views, cached in a file of the run.

    Args:
        teacher: computes the embeddings that are not cached yet.
        path: cache file; `<path>.json` beside it identifies its content.
        views: number of views: items times views per item; the batches' keys index them.
        views_per_item: `ViewOptions.count`.
        settings: everything else that the embeddings depend on (seed, crop, data, precision).

    Raises:
        ValueError: every view is drawn anew, or the file belongs to another teacher or other views.
    """

    def __init__(self, teacher: Teacher, path: Path, views: int, views_per_item: int, settings: dict[str, Any]) -> None:
        if views_per_item < 1:
            raise ValueError(
                "the teacher's embeddings can't be cached, because every view is drawn anew and none repeats: give a "
                "fixed number of views per item (--views N), or train without the cache"
            )
        self._teacher = teacher
        identity = json.dumps(settings | {"teacher": teacher.fingerprint(), "views": views, "count": views_per_item})
        sidecar, width = path.with_name(path.name + ".json"), teacher.config.width
        if sidecar.is_file() and path.is_file() and sidecar.read_text(encoding="utf-8") != identity:
            raise ValueError(f"{path} caches other views or another teacher: delete it, or {sidecar.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        complete = path.is_file() and path.stat().st_size == views * (width + 1) * 4
        # The last column is set to 1 after its row is written, so that a killed process leaves no partial row as valid.
        self._rows = np.memmap(path, np.float32, "r+" if complete else "w+", shape=(views, width + 1))
        write_file(sidecar, identity)
        self.misses = 0

    def __call__(self, batch: PretrainBatch) -> Tensor:
        """Return CLS [B, D] of the batch's RGB images; runs the teacher unless all of them are cached."""
        keys = batch.keys.cpu().numpy()
        if (self._rows[keys, -1] == 1).all():
            return torch.from_numpy(self._rows[keys, :-1]).to(batch.rgb.device)
        self.misses += 1
        cls = self._teacher(batch.rgb).float()
        self._rows[keys, :-1] = cls.cpu().numpy()
        self._rows[keys, -1] = 1
        return cls
