"""Neighbourhood distillation loss and its teacher queue (Section 3.2.4).

B samples on this process    D width    Q queue entries    K neighbours    W processes
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectradino_core.losses.gathering import gather

log = logging.getLogger(__name__)

_NO_KEY = -1
_MASKED = -1e4
"""Similarity of masked entries: their softmax is 0, and unlike -inf it has no NaN in the KL divergence."""


def neighbourhood_loss(
    student: Tensor, teacher: Tensor, entries: Tensor, top_k: int, temperature: float, own_entries: Tensor | None = None
) -> Tensor:
    """KL divergence over the teacher's nearest neighbours (Equations 10 and 11).

    For each sample, `KL(teacher ‖ student)` of the softmaxed similarities to the K entries nearest to its *teacher*
    embedding, averaged over the batch. With fewer than K entries all are used, with none the loss is 0.

    Args:
        student: CLS of the infrared images, [B, D].
        teacher: teacher CLS of the paired RGB images, [B, D].
        entries: L2-normalised teacher CLS of *previous* batches, [Q, D]; if they included this batch, every sample
            would be its own nearest neighbour.
        top_k: K.
        temperature: temperature of both softmaxes.
        own_entries: entries that stem from the sample itself, bool [B, Q]; they are no neighbours. None: there are
            none. A sample without other entries has loss 0.
    """
    if not len(entries):
        return student.sum() * 0
    wide = student.dtype if student.dtype == torch.float64 else torch.float32
    entries = entries.to(wide)
    # fp32 also under autocast: bf16 similarities have an error of 0.004, 6 % after division by the temperature.
    with torch.autocast(student.device.type, enabled=False):
        s, t = F.normalize(student.to(wide), dim=-1), F.normalize(teacher.to(wide), dim=-1)
        to_teacher = t @ entries.T
        if own_entries is not None:
            to_teacher = to_teacher.masked_fill(own_entries, _MASKED)
        nearest = to_teacher.topk(min(top_k, len(entries)), dim=-1)
        teacher_log_probabilities = F.log_softmax(nearest.values / temperature, dim=-1)
        similarity = torch.einsum("bd,bkd->bk", s, entries[nearest.indices])
        if own_entries is not None:
            similarity = similarity.masked_fill(own_entries.gather(1, nearest.indices), _MASKED)
        student_log_probabilities = F.log_softmax(similarity / temperature, dim=-1)
        return F.kl_div(student_log_probabilities, teacher_log_probabilities, reduction="batchmean", log_target=True)


def queue_capacity(requested: int, items: Mapping[str, int]) -> int:
    """Limit the capacity Q that is asked for to half of the embeddings between two visits of an item, with a warning.

    In a larger queue a sample's own previous embedding would be its nearest neighbour and make the loss useless. Bands
    take turns, so an item of the band with the fewest (`items` counts them by band) is visited most often.
    """
    smallest = min(items, key=lambda band: items[band])
    limit = max(1, len(items) * items[smallest] // 2)
    if requested <= limit:
        return requested
    log.warning(
        "teacher queue reduced to %d embeddings from %d: the %d items of %s come round every %d embeddings, and a "
        "queue of more than half of that would hold a sample's own previous embedding as its nearest neighbour",
        limit, requested, items[smallest], smallest, len(items) * items[smallest],
    )  # fmt: skip
    return limit


class TeacherQueue(nn.Module):
    """FIFO queue of the last Q teacher embeddings and their items' keys, the same on all processes."""

    stored: Tensor
    item_keys: Tensor
    written: Tensor

    def __init__(self, capacity: int, width: int) -> None:
        super().__init__()
        if capacity < 1:
            raise ValueError(f"queue capacity must be at least 1, not {capacity}")
        self.register_buffer("stored", torch.zeros(capacity, width))
        self.register_buffer("item_keys", torch.full((capacity,), _NO_KEY))
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))
        self._known: int | None = 0  # `written` on the host, to avoid a GPU synchronisation per step
        self.register_load_state_dict_post_hook(lambda queue, _: queue._forget())

    @property
    def capacity(self) -> int:
        return len(self.stored)

    def __len__(self) -> int:
        """Number of valid entries."""
        return min(self._count(), self.capacity)

    @property
    def entries(self) -> Tensor:
        """Entries [len, D] in arbitrary order; read them before putting the batch of the current step."""
        return self.stored[: len(self)]

    def own(self, keys: Tensor) -> Tensor:
        """Return which entries stem from the items of `keys`, int64 [B], as bool [B, len]."""
        return keys.to(self.item_keys.device)[:, None] == self.item_keys[None, : len(self)]

    @torch.no_grad()
    def put(self, teacher: Tensor, keys: Tensor | None = None) -> None:
        """Add teacher CLS [B, D] and their items' numbers, int64 [B], of all processes, after the optimiser step."""
        rows = gather(F.normalize(teacher.detach().to(self.stored.dtype), dim=-1))[-self.capacity :]
        keys = torch.full((len(teacher),), _NO_KEY) if keys is None else keys
        count = self._count()
        places = (torch.arange(len(rows), device=rows.device) + count) % self.capacity
        self.stored[places] = rows
        self.item_keys[places] = gather(keys.to(self.item_keys))[-self.capacity :]
        self.written += len(rows)
        self._known = count + len(rows)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a state, also one of another capacity (see `take_over`) or without keys, as earlier versions wrote."""
        if len(state_dict["stored"]) != self.capacity:
            return self.take_over(state_dict)
        return super().load_state_dict(_with_keys(state_dict), strict, assign)

    @torch.no_grad()
    def take_over(self, state: Mapping[str, Tensor]) -> None:
        """Load another queue's `state_dict()`, keeping the newest entries if the capacities differ.

        Raises:
            ValueError: the embeddings have another width.
        """
        state = _with_keys(state)
        stored, written = state["stored"], int(state["written"])
        if stored.shape[1] != self.stored.shape[1]:
            raise ValueError(
                f"the teacher queue to load has embeddings of width {stored.shape[1]}, the teacher has width "
                f"{self.stored.shape[1]}: it is of another variant"
            )
        held = min(written, len(stored))
        in_order = (torch.arange(held, device=stored.device) + written - held) % len(stored)
        newest = in_order[-self.capacity :]
        self.stored.zero_()
        self.item_keys.fill_(_NO_KEY)
        self.stored[: len(newest)] = stored[newest].to(self.stored)
        self.item_keys[: len(newest)] = state["item_keys"][newest].to(self.item_keys)
        self.written.fill_(len(newest))
        self._known = len(newest)

    def _count(self) -> int:
        if self._known is None:
            self._known = int(self.written)
        return self._known

    def _forget(self) -> None:  # `written` was loaded
        self._known = None


def _with_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state with unknown keys if it has none."""
    return {"item_keys": torch.full((len(state["stored"]),), _NO_KEY), **state}
