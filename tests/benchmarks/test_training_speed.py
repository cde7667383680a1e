"""Each measure is in effect when its row is measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.training_speed import VARIANTS, measure
from spectradino_core.models import perception
from spectradino_core.models.perception import Architecture
from spectradino_core.training.recipes import box_real


@pytest.mark.slow  # it trains; test_finetune covers the options
def test_variants_differ_by_what_their_names_say(monkeypatch) -> None:
    small = Architecture("test", "lwir", 3, 7, pyramid_width=16, tower_depth=1)
    recipe = replace(box_real(), architecture=small, input_size=(84, 70), early_size=(56, 42), scene_size=(80, 64))
    seen: list[int] = []
    run = perception.Perception.fuse

    def watched(self, images, present=None):
        seen.append(max(len(x) for x in images.values()))
        self.backbone.register_forward_pre_hook(lambda _, given: seen.append(min(len(x) for x in given[0].values())))
        return run(self, images, present)

    monkeypatch.setattr(perception.Perception, "fuse", watched)
    assert measure(VARIANTS["fp32"], recipe, 1) > 0
    assert set(seen) == {8}  # every stream of every sample
    seen.clear()
    assert measure(VARIANTS["at the early size"], recipe, 1) > 0
    assert set(seen) == {8, 6}
    steps = list(VARIANTS.values())
    assert [variant.bf16 for variant in steps] == [True] + [False] * (len(steps) - 1)
    assert all(later.reuse >= earlier.reuse for earlier, later in zip(steps, steps[1:], strict=False))
