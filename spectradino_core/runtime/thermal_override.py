"""What a user may ask of a model's thermal contract: the parameters `ir_normalization`, `ir_range_*` and the like.

The contract is the model's, stored with it. A user may still know better how the camera's counts are to be shown: a
range that fits the site, or what one count of this camera is worth. What contradicts the model is refused.
"""

from __future__ import annotations

from dataclasses import replace

from spectradino_core.thermal import KINDS, ThermalContract, ThermalError

__all__ = ["NORMALIZATIONS", "override_contract", "override_invalid_counts"]

NORMALIZATIONS = ("model", *KINDS)
"""Values of the parameter `ir_normalization`."""


def override_contract(
    model: ThermalContract,
    normalization: str = "model",
    low: float = 0.0,
    high: float = 0.0,
    kelvin_per_count: float = 0.0,
) -> ThermalContract:
    """The contract that a user's parameters make of the model's own.

    Args:
        model: the model's contract.
        normalization: parameter `ir_normalization`, one of `NORMALIZATIONS`; "model" keeps the model's own.
        low, high: parameters `ir_range_low` and `ir_range_high`: percentiles (0 to 100) for "percentile", counts for
            "fixed", or kelvin where `kelvin_per_count` is given. Both 0: not given, the model's own if it is of that
            kind, else 1 and 99 for "percentile".
        kelvin_per_count: parameter `ir_kelvin_per_count`, what one count of this camera is worth; 0: not given. With
            "model" it replaces the scale of a model whose range is in kelvin.

    Raises:
        ThermalError: the parameters contradict each other or the model; the message names parameter and remedy.
    """
    if normalization not in NORMALIZATIONS:
        raise ThermalError(f"ir_normalization {normalization!r} is not one of {', '.join(NORMALIZATIONS)}")
    has_range, has_kelvin = (low, high) != (0.0, 0.0), kelvin_per_count != 0.0
    if has_range and not low < high:
        raise ThermalError(f"ir_range_low {low:g} is not below ir_range_high {high:g}")
    if has_kelvin and not kelvin_per_count > 0:
        raise ThermalError(f"ir_kelvin_per_count must be above 0, or 0 for a camera without, got {kelvin_per_count:g}")

    if normalization == "model":
        if has_range:
            raise ThermalError(
                f"ir_range_low and ir_range_high have no effect while ir_normalization is 'model' (the model's is "
                f"{model.describe()}): set it to 'fixed' or 'percentile', or leave the range at 0"
            )
        if not has_kelvin:
            return model
        if model.kind != "fixed" or model.kelvin_per_count is None:
            raise ThermalError(
                f"ir_kelvin_per_count {kelvin_per_count:g} has no effect: the model's range is not in kelvin "
                f"({model.describe()}). Leave it at 0, or set ir_normalization to 'fixed' with a range in kelvin"
            )
        return _in_reach(replace(model, kelvin_per_count=kelvin_per_count))
    if normalization == "none":
        if has_range or has_kelvin:
            raise ThermalError("ir_normalization 'none' takes neither a range nor ir_kelvin_per_count: leave them at 0")
        return _like(model, ThermalContract(kind="none", depths=model.depths))
    if normalization == "percentile":
        if has_kelvin:
            raise ThermalError("ir_kelvin_per_count has no effect with ir_normalization 'percentile': leave it at 0")
        own = model if model.kind == "percentile" else _like(model, ThermalContract(depths=model.depths))
        if has_range and not 0 <= low < high <= 100:
            raise ThermalError(f"ir_range_low and ir_range_high are percentiles, 0 to 100, got {low:g} and {high:g}")
        return replace(own, low=low, high=high) if has_range else own
    return _fixed(model, (low, high) if has_range else None, kelvin_per_count if has_kelvin else None)


def override_invalid_counts(contract: ThermalContract, counts: str) -> ThermalContract:
    """The contract with other rules on which counts are no measurement.

    Args:
        contract: the model's, or what `override_contract` made of it.
        counts: parameter `ir_invalid_counts`: "model" keeps the contract's rules; "none": every count is a measurement;
            else counts separated by commas that are invalid in every frame, and "auto" among them, or alone, for
            those that are recognised in each 16-bit frame.

    Raises:
        ThermalError: it is none of these; the message says what is allowed.
    """
    words = [word.strip() for word in counts.split(",")]
    if words == ["model"]:
        return contract
    if words == ["none"]:
        return replace(contract, invalid_counts=(), recognise_invalid=False)
    numbers = [word for word in words if word != "auto"]
    if not all(word.isascii() and word.isdigit() and len(word) <= 5 and int(word) <= 65535 for word in numbers):
        raise ThermalError(
            f"ir_invalid_counts {counts!r} is not understood: give model, auto, none or counts in 0 to 65535 separated "
            "by commas, such as '0, 65535' or 'auto, 4095'"
        )
    return replace(
        contract, invalid_counts=tuple(sorted({int(word) for word in numbers})), recognise_invalid="auto" in words
    )


def _fixed(
    model: ThermalContract, given: tuple[float, float] | None, kelvin_per_count: float | None
) -> ThermalContract:
    if given is None:
        if model.kind != "fixed":
            raise ThermalError(
                "ir_normalization 'fixed' needs ir_range_low and ir_range_high, in counts or, with "
                f"ir_kelvin_per_count, in kelvin: the model has no fixed range of its own ({model.describe()})"
            )
        return override_contract(model, kelvin_per_count=kelvin_per_count or 0.0)
    low, high = given
    depth = model.depths[0] if len(model.depths) == 1 else 16 if kelvin_per_count is not None or high > 255 else 8
    if kelvin_per_count is not None and depth != 16:
        raise ThermalError(
            f"a range in kelvin needs a camera with 16 bits, the model takes {depth}-bit frames: leave "
            "ir_kelvin_per_count at 0 and give the range in counts, or use a model for 16 bits"
        )
    contract = ThermalContract(kind="fixed", low=low, high=high, kelvin_per_count=kelvin_per_count, depths=(depth,))
    return _in_reach(_like(model, contract))


def _like(model: ThermalContract, contract: ThermalContract) -> ThermalContract:
    """A contract with the model's rules on invalid counts."""
    return replace(contract, invalid_counts=model.invalid_counts, recognise_invalid=model.recognise_invalid)


def _in_reach(contract: ThermalContract) -> ThermalContract:
    """Refuses a fixed range that no frame of the contract's depth can reach."""
    largest = 2 ** contract.depths[0] - 1
    per_count = contract.kelvin_per_count or 1.0
    if contract.low < 0 or contract.high / per_count > largest:
        raise ThermalError(
            f"the fixed range {contract.low:g} to {contract.high:g} is {contract.low / per_count:.0f} to "
            f"{contract.high / per_count:.0f} counts, a {contract.depths[0]}-bit frame holds 0 to {largest}: "
            "check ir_range_low, ir_range_high and ir_kelvin_per_count"
        )
    return contract
