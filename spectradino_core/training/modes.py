"""Fine-tuning modes: which parameters each trains, and at which learning rate.

Source: Section 4.3 and Appendix A of the paper. Layer-wise learning rate decay is our option.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from spectradino_core.models.encoders import RepeatedViT
from spectradino_core.models.perception import Perception, perception_roles
from spectradino_core.models.spectradino import train_only
from spectradino_core.training.optimiser import is_decayed

MODES = {
    "head": "the heads and fusions",
    "adapters": "also the adapters, all stems and the modality embedding",
    "half": "also the deeper half of the blocks and the final norm",
    "full": "everything",
}
"""Trained parts by mode. "half" is the paper's default: the best on most data sets, where "full" loses (Table 11)."""

LR_GROUPS = ("head", "adapters", "blocks")


def refuse_random_blocks(mode: str, has_weights: bool) -> None:
    """Raise ValueError for a mode that freezes blocks of a model without pretrained weights."""
    if mode != "full" and not has_weights:
        raise ValueError(
            f"mode {mode} freezes blocks of the backbone, and without weights they are random: give a model to start "
            "from (--start, such as models/lwir_box.safetensors) or a backbone (--backbone), or train everything "
            "(--mode full)"
        )


def trainable(mode: str, model: Perception) -> list[str]:
    """Return the names of the parameters that the mode trains.

    "half" trains the deeper half of the blocks (of an odd number the smaller half) and the final LayerNorm; only "full"
    trains patch embedding, tokens and positions.
    """
    if mode not in MODES:
        raise ValueError(f"unknown fine-tuning mode {mode!r}: choose one of {', '.join(MODES)}")
    if mode == "adapters" and isinstance(model.backbone, RepeatedViT):
        raise ValueError("a plain DINOv2 has no adapters or stems to train: choose mode head, half or full")
    depth = model.backbone.config.depth
    upper = {f"blocks.{index}" for index in range(depth - depth // 2, depth)}

    def wanted(role: str) -> bool:
        if mode == "full" or role == "head":
            return True
        if lr_group(role) == "adapters":
            return mode in ("adapters", "half")
        return mode == "half" and (role in upper or role == "norm")

    return [name for name, role in perception_roles(model).items() if wanted(role)]


def lr_group(role: str) -> str:
    """Return which of `LR_GROUPS` sets the learning rate of a role (see `perception_roles`)."""
    if role == "head":
        return "head"
    if role.startswith("stems") or role in ("adapters", "modality_embedding"):
        return "adapters"
    return "blocks"


def freeze_for(mode: str, model: Perception, frozen: Sequence[str] = ()) -> None:
    """Freeze all parameters but those of `trainable`, and among these the roles that begin with one of `frozen`."""
    roles = perception_roles(model)
    for prefix in frozen:
        if not any(role.startswith(prefix) for role in roles.values()):
            raise ValueError(
                f"can't freeze {prefix!r}: choose one of the roles {', '.join(dict.fromkeys(roles.values()))}"
            )
    train_only(model, [name for name in trainable(mode, model) if not roles[name].startswith(tuple(frozen))])


def parameter_groups(
    model: Perception, lr: dict[str, float], weight_decay: float, layer_decay: float = 1.0
) -> list[dict]:
    """Return AdamW parameter groups of the trainable parameters; `is_decayed` says which have a weight decay.

    Args:
        model: with `requires_grad` set; parameters with a learning rate of 0 are frozen here.
        lr: peak learning rate of each of `LR_GROUPS`.
        weight_decay: AdamW's weight decay.
        layer_decay: learning rate of a block relative to the next deeper one; 1: no decay. Patch embedding and tokens
            count as one block before the first.
    """
    roles = perception_roles(model)
    depth = model.backbone.config.depth
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        role = roles[name]
        rate = lr[lr_group(role)] * layer_decay ** _layers_above(role, depth)
        if rate == 0:
            parameter.requires_grad_(False)
        if parameter.requires_grad:
            decay = weight_decay if is_decayed(name, parameter) else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    if not groups:
        raise ValueError("nothing to train: every parameter is frozen")
    return [{"params": p, "lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]


def _layers_above(role: str, depth: int) -> int:
    if role.startswith("blocks."):
        return depth - 1 - int(role.removeprefix("blocks."))
    return depth if role in ("patch_embed", "tokens") else 0


def count_trainable(module: nn.Module) -> tuple[int, int]:
    """Return the numbers of trainable and of all parameters."""
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)
