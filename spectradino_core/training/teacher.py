"""The frozen teacher: where it comes from, and a store of what it said.

B images    D width
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from spectradino_core.data.pretraining import PretrainBatch
from spectradino_core.files import written_atomically
from spectradino_core.modality import Modality
from spectradino_core.models.checkpoints import CheckpointError
from spectradino_core.models.perception_checkpoint import load_network
from spectradino_core.models.spectradino import SpectraDINO
from spectradino_core.models.vit import ViT, ViTConfig, vit_config

__all__ = ["Teacher", "TeacherCache", "load_teacher", "random_teacher"]

log = logging.getLogger(__name__)


class Teacher(nn.Module):
    """A frozen RGB model.

    Args:
        network: DINOv2, or a SpectraDINO of which RGB is used.
        origin: where its weights are from, in words.
    """

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
        """[B, 3, H, W] to CLS [B, D]."""
        if isinstance(self.network, SpectraDINO):
            return self.network({Modality.RGB: rgb})[Modality.RGB].cls
        return self.network(rgb).cls

    def train(self, mode: bool = True) -> Teacher:
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def student(self) -> SpectraDINO:
        """A SpectraDINO of all bands that sees RGB as this teacher does, but for its fresh adapters' 0.02 %."""
        student = SpectraDINO(self.config)
        if isinstance(self.network, ViT):
            student.vit.load_state_dict(self.network.state_dict())
            return student
        student.vit.load_state_dict(self.network.vit.state_dict())
        student.stems["rgb"].load_state_dict(self.network.stems["rgb"].state_dict())
        slot = student.bands.index(Modality.RGB)
        student.modality_embedding[slot] = self.network.modality_embedding[0]
        for ours, theirs in zip(student.adapters, self.network.adapters, strict=True):
            for (_, stack), (_, row) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
                stack[slot] = row[0]
        return student

    def fingerprint(self) -> str:
        """Tells this teacher's weights from others'."""
        digest = hashlib.sha256()
        for name, value in sorted(self.network.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def load_teacher(path: Path, variant: str) -> Teacher:
    """A teacher from a file: DINOv2 in any layout, one of our backbones, or one of our fine-tuned models.

    Raises:
        CheckpointError: the file is none of these, damaged, or of another variant.
    """
    network = load_network(path)
    if network.config.name != variant or network.config.depth != vit_config(variant).depth:
        raise CheckpointError(
            f"{path} holds a {network.config.title} of {network.config.depth} blocks; --variant asks for '{variant}'"
        )
    return Teacher(network, f"{path.name}")


def random_teacher(variant: str, seed: int, path: Path) -> Teacher:
    """A teacher of random weights, the same for all stages of a run: kept at `path`, in DINOv2's layout."""
    if path.is_file():
        teacher = load_teacher(path, variant)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            teacher = Teacher(ViT(variant), "")
        with written_atomically(path) as scratch:
            save_file(dict(teacher.network.state_dict()), scratch)
    teacher.origin = f"random weights, seed {seed}"
    log.warning(
        "THE TEACHER IS RANDOM: no --teacher was given, so the student learns to imitate a network that knows nothing. "
        "Good for trying things out and for tests; for features worth having, give DINOv2's weights (--teacher FILE)"
    )
    return teacher


class TeacherCache:
    """What the teacher said of each seeded view, kept in a file of the run.

    Holds only where a view comes again, that is with a fixed number of views per item (`ViewOptions.count`): views
    drawn afresh each time would be answered with another view's embedding, so that is refused.

    Args:
        teacher: asked where nothing is known yet.
        path: the file; `<path>.json` beside it says what it is of.
        views: how many there are: items times views per item; batches' keys count them.
        views_per_item: `ViewOptions.count`.
        about: all else that the answers depend on (seed, crop, data, precision).

    Raises:
        ValueError: views are drawn afresh each time, or the file is of another teacher or other views.
    """

    def __init__(self, teacher: Teacher, path: Path, views: int, views_per_item: int, about: dict[str, Any]) -> None:
        if views_per_item < 1:
            raise ValueError(
                "the teacher's answers can't be kept: every view is drawn afresh, so none comes again. Give a fixed "
                "number of views per item (--views N), or leave the cache out"
            )
        self._teacher = teacher
        identity = json.dumps(about | {"teacher": teacher.fingerprint(), "views": views, "count": views_per_item})
        label, width = path.with_name(path.name + ".json"), teacher.config.width
        if label.is_file() and path.is_file() and label.read_text(encoding="utf-8") != identity:
            raise ValueError(
                f"{path} keeps answers about other views or of another teacher: delete it, or {label.name}"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.is_file() and path.stat().st_size == views * (width + 1) * 4
        # One more column: 1 once the row is written, after it, so that a process killed between leaves no half row.
        self._rows = np.memmap(path, np.float32, "r+" if whole else "w+", shape=(views, width + 1))
        with written_atomically(label) as scratch:
            scratch.write_text(identity, encoding="utf-8")
        self.asked = 0

    def __call__(self, batch: PretrainBatch) -> Tensor:
        """CLS [B, D] of the batch's RGB images; asks the teacher unless all of them are known."""
        keys = batch.keys.cpu().numpy()
        if (self._rows[keys, -1] == 1).all():
            return torch.from_numpy(self._rows[keys, :-1]).to(batch.rgb.device)
        self.asked += 1
        said = self._teacher(batch.rgb).float()
        self._rows[keys, :-1] = said.cpu().numpy()
        self._rows[keys, -1] = 1
        return said
