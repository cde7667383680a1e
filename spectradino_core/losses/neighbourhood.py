"""The fourth pretraining loss: the student keeps the teacher's neighbours (Section 3.2.4), and the queue they live in.

B samples on this process    D width    Q entries of the queue    K neighbours    W processes
"""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectradino_core.losses.gathering import gather

__all__ = ["TeacherQueue", "neighbourhood_loss", "queue_capacity"]

log = logging.getLogger(__name__)


def neighbourhood_loss(student: Tensor, teacher: Tensor, entries: Tensor, top_k: int, temperature: float) -> Tensor:
    """KL divergence of the student's similarities to the teacher's nearest neighbours (Equations 10 and 11).

    For each sample the K entries most like its *teacher* embedding are taken; `KL(teacher ‖ student)` of the two
    softmax distributions over them, averaged over the batch. With fewer than K entries all are taken, with none the
    loss is 0.

    Args:
        student: CLS of the infrared images, [B, D].
        teacher: teacher CLS of the paired RGB images, [B, D].
        entries: L2-normalised teacher CLS of *earlier* batches, [Q, D]: in a queue that already holds this batch every
            sample would find itself as its nearest neighbour.
        top_k: K.
        temperature: of both softmaxes.
    """
    if not len(entries):
        return student.sum() * 0
    wide = student.dtype if student.dtype == torch.float64 else torch.float32
    entries = entries.to(wide)
    # In fp32 also under autocast: a bf16 similarity is off by 0.004, which the temperature turns into 6 %.
    with torch.autocast(student.device.type, enabled=False):
        s, t = F.normalize(student.to(wide), dim=-1), F.normalize(teacher.to(wide), dim=-1)
        nearest = (t @ entries.T).topk(min(top_k, len(entries)), dim=-1)
        wanted = F.log_softmax(nearest.values / temperature, dim=-1)
        similarity = torch.einsum("bd,bkd->bk", s, entries[nearest.indices])
        given = F.log_softmax(similarity / temperature, dim=-1)
        return F.kl_div(given, wanted, reduction="batchmean", log_target=True)


def queue_capacity(asked: int, items: int) -> int:
    """Q: what was asked for, but at most half of the data set, of which the log then tells.

    A queue that holds more than about half of the items meets a sample again before it has left: the sample's own stale
    embedding becomes its nearest neighbour, and the loss teaches nothing.
    """
    most = max(1, items // 2)
    if asked <= most:
        return asked
    log.warning(
        "the teacher queue holds %d embeddings, not %d: the data set has %d items, and a queue of more than half of "
        "them would hold a sample's own earlier embedding, which then is its nearest neighbour",
        most, asked, items,
    )  # fmt: skip
    return most


class TeacherQueue(nn.Module):
    """The last Q teacher embeddings, first in, first out. All of it is buffers, so checkpoints carry it.

    The same on all processes: what is put in is gathered from all, in order of rank.

    Args:
        capacity: Q.
        width: D.
    """

    stored: Tensor
    written: Tensor

    def __init__(self, capacity: int, width: int) -> None:
        super().__init__()
        if capacity < 1:
            raise ValueError(f"a queue of {capacity} entries can hold nothing")
        self.register_buffer("stored", torch.zeros(capacity, width))
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))
        self._known: int | None = 0  # `written` on the host: read from a GPU, every step would wait for it
        self.register_load_state_dict_post_hook(lambda queue, _: queue._forget())

    @property
    def capacity(self) -> int:
        return len(self.stored)

    def __len__(self) -> int:
        """Entries held."""
        return min(self._count(), self.capacity)

    @property
    def entries(self) -> Tensor:
        """[len, D], in no particular order. Read it before this step's batch is put in."""
        return self.stored[: len(self)]

    @torch.no_grad()
    def put(self, teacher: Tensor) -> None:
        """Add this step's teacher CLS [B, D] of all processes; the oldest leave. Call it after the optimiser's step."""
        rows = gather(F.normalize(teacher.detach().to(self.stored.dtype), dim=-1))[-self.capacity :]
        count = self._count()
        places = (torch.arange(len(rows), device=rows.device) + count) % self.capacity
        self.stored[places] = rows
        self.written += len(rows)
        self._known = count + len(rows)

    def take_over(self, state: dict[str, Tensor]) -> None:
        """Another queue's state (`state_dict()`), also one of another capacity: then its newest entries.

        Raises:
            ValueError: embeddings of another width.
        """
        stored, written = state["stored"], int(state["written"])
        if stored.shape[1] != self.stored.shape[1]:
            raise ValueError(
                f"the teacher queue to take over holds embeddings {stored.shape[1]} wide, the teacher's are "
                f"{self.stored.shape[1]} wide: it is of another variant"
            )
        held = min(written, len(stored))
        in_order = stored[(torch.arange(held, device=stored.device) + written - held) % len(stored)]
        newest = in_order[-self.capacity :].to(self.stored)
        self.stored.zero_()
        self.stored[: len(newest)] = newest
        self.written.fill_(len(newest))
        self._known = len(newest)

    def _count(self) -> int:
        if self._known is None:
            self._known = int(self.written)
        return self._known

    def _forget(self) -> None:
        self._known = None
