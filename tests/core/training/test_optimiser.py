"""AdamW on stacked bands: bands in the batch are updated as if alone, others are unchanged."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from spectradino_core.modality import Modality
from spectradino_core.models.spectradino import SpectraDINO
from spectradino_core.training.optimiser import BandedAdamW, active_bands, adamw_for
from spectradino_core.training.stages import freeze, stage_recipe


def gradients(step: int) -> torch.Tensor:
    return torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(step))


def test_each_band_moves_as_if_it_had_parameters_of_its_own():
    start = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(99))
    stack = nn.Parameter(start.clone())
    alone = [nn.Parameter(start[band].clone()) for band in range(3)]
    shown: list[int] = []
    ours = BandedAdamW([{"params": [stack], "lr": 0.1, "weight_decay": 0.3}], [stack], lambda: shown)
    theirs = torch.optim.AdamW(alone, lr=0.1, weight_decay=0.3)
    for step in range(12):
        shown[:] = [0, 1 + step % 2]
        grad = gradients(step)
        grad[3 - shown[1]] = 0  # of the band that was not shown
        stack.grad = grad
        for band, parameter in enumerate(alone):
            parameter.grad = grad[band].clone() if band in shown else None
        ours.step()
        theirs.step()
    for band, parameter in enumerate(alone):
        torch.testing.assert_close(stack[band], parameter, rtol=1e-6, atol=1e-7)


def test_plain_adamw_would_move_what_was_not_shown():
    """Reason for this optimiser."""
    stack = nn.Parameter(torch.ones(2, 3))
    plain = torch.optim.AdamW([stack], lr=0.1, weight_decay=0.0)
    stack.grad = torch.ones(2, 3)
    plain.step()
    moved = stack[1].clone()
    stack.grad = torch.tensor([[1.0] * 3, [0.0] * 3])
    plain.step()
    assert (stack[1] < moved).all()


def test_everything_shown_is_plain_adamw():
    torch.manual_seed(0)
    ours_model, theirs_model = nn.Linear(4, 3), nn.Linear(4, 3)
    theirs_model.load_state_dict(ours_model.state_dict())
    groups = [{"params": list(ours_model.parameters()), "lr": 0.05, "weight_decay": 0.1}]
    ours = BandedAdamW(groups, [], list)
    theirs = torch.optim.AdamW(theirs_model.parameters(), lr=0.05, weight_decay=0.1)
    for step in range(5):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        for model, optimiser in ((ours_model, ours), (theirs_model, theirs)):
            optimiser.zero_grad()
            model(x).square().mean().backward()
            optimiser.step()
    for a, b in zip(ours_model.parameters(), theirs_model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_state_survives():
    def fresh() -> tuple[nn.Parameter, BandedAdamW]:
        stack = nn.Parameter(torch.ones(3, 4, 2))
        return stack, BandedAdamW([{"params": [stack], "lr": 0.1, "weight_decay": 0.3}], [stack], lambda: [0, 2])

    def steps(stack: nn.Parameter, optimiser: BandedAdamW, numbers: range) -> None:
        for step in numbers:
            stack.grad = gradients(step)
            optimiser.step()

    whole, optimiser = fresh()
    steps(whole, optimiser, range(6))
    part, first = fresh()
    steps(part, first, range(3))
    resumed, second = fresh()
    resumed.data.copy_(part.data)
    second.load_state_dict(first.state_dict())
    steps(resumed, second, range(3, 6))
    assert torch.equal(whole, resumed)
    assert second.state[resumed]["step"].tolist() == [6, 0, 6]


@pytest.mark.parametrize("band", [Modality.NIR, Modality.LWIR])
def test_a_step_on_one_band_does_not_change_the_others(band):
    torch.manual_seed(0)
    model = SpectraDINO("test")
    freeze(stage_recipe("test", 1), model)
    optimiser = adamw_for(model, model, 1e-2, 0.05)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(2):
        out = model({Modality.RGB: torch.randn(2, 3, 28, 28), band: torch.rand(2, 1, 28, 28)})
        optimiser.zero_grad()
        (out[Modality.RGB].cls.sin().sum() + out[band].cls.cos().sum()).backward()
        assert active_bands(model) == [0, int(band)]
        optimiser.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert {name.split(".")[1] for name in moved if name.startswith("stems")} == {band.key}
    for name, parameter in model.named_parameters():
        if name.startswith("adapters") or name == "modality_embedding":
            changed = [not torch.equal(parameter[slot], before[name][slot]) for slot in range(4)]
            assert changed == [slot in (0, int(band)) for slot in range(4)], name


def test_norms_biases_and_embeddings_do_not_decay():
    model = SpectraDINO("test")
    freeze(stage_recipe("test", 3), model)
    optimiser = adamw_for(model, model, 1e-3, 0.05)
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, plain = ({names[id(p)] for p in group["params"]} for group in optimiser.param_groups)
    assert optimiser.param_groups[0]["weight_decay"] == 0.05
    assert optimiser.param_groups[1]["weight_decay"] == 0.0
    assert {"adapters.0.down", "adapters.1.up", "stems.nir.conv1.weight", "vit.blocks.1.mlp.fc1.weight"} <= decayed
    assert {"adapters.0.down_bias", "modality_embedding", "stems.nir.norm.weight", "vit.norm.bias"} <= plain
    assert decayed | plain == {name for name, p in model.named_parameters() if p.requires_grad}


def test_nothing_to_train_is_refused():
    model = SpectraDINO("test").requires_grad_(False)
    with pytest.raises(ValueError, match="every parameter is frozen"):
        adamw_for(model, model, 1e-3, 0.05)
