"""Scenes stored on disk equal the rendered scenes."""

from __future__ import annotations

import numpy as np
import pytest

from spectradino_core.ablation.pool import ScenePool
from spectradino_core.data.scene_sets import scene_sample
from spectradino_core.modality import Modality


def test_pairs_come_back_as_they_were_rendered(tmp_path):
    pool = ScenePool.render(tmp_path / "pool", range(40, 44), Modality.LWIR, (120, 96))
    assert len(pool) == 4
    again = ScenePool(tmp_path / "pool", Modality.LWIR)
    for place, (pair, time) in enumerate(zip(again.samples(), ("day", "dusk", "night", "day"), strict=True)):
        wanted = scene_sample(40 + place, Modality.LWIR, (120, 96), 0.0, time)
        for name in ("rgb", "infrared", "mask", "boxes", "labels"):
            ours, theirs = getattr(pair, name), getattr(wanted, name)
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)
        assert (pair.name, pair.subsets) == (wanted.name, (time,))
    assert sum(len(pair.boxes) for pair in pool.samples()) > 0


def test_a_damaged_pool_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere: not a pool of scenes"):
        ScenePool(tmp_path / "nowhere", Modality.LWIR)
    ScenePool.render(tmp_path / "pool", range(1), Modality.LWIR, (120, 96))
    (tmp_path / "pool" / "rgb.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match="delete it and start again"):
        ScenePool(tmp_path / "pool", Modality.LWIR)
