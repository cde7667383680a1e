"""Override a model's thermal contract by the parameters `ir_normalization`, `ir_range_*` and similar.

The contract is stored with the model. A user may override it where the camera or site differs: a range that fits the
site, or the kelvin per count of this camera. Parameters that contradict the model are refused.
"""

from __future__ import annotations

from dataclasses import replace

from spectradino_core.thermal import KINDS, ThermalContract, ThermalError

__all__ = ["ABSOLUTE_ZERO", "NORMALIZATIONS", "override_contract", "override_invalid_counts"]

ABSOLUTE_ZERO = -273.15
"""Default of the parameter `ir_celsius_offset`: counts are proportional to kelvin."""

NORMALIZATIONS = ("model", *KINDS)
"""Values of the parameter `ir_normalization`."""


def override_contract(
    model: ThermalContract,
    normalization: str = "model",
    low: float = 0.0,
    high: float = 0.0,
    kelvin_per_count: float = 0.0,
    celsius_offset: float = ABSOLUTE_ZERO,
) -> ThermalContract:
    """Apply a user's parameters to the model's contract.

    Args:
        model: the model's contract.
        normalization: parameter `ir_normalization`, one of `NORMALIZATIONS`; "model" keeps the model's own.
        low, high: parameters `ir_range_low` and `ir_range_high`: percentiles (0 to 100) for "percentile", counts for
            "fixed", or kelvin if `kelvin_per_count` is given. Both 0: not given; the model's own if it is of that kind,
            else 1 and 99 for "percentile".
        kelvin_per_count: parameter `ir_kelvin_per_count` of this camera; 0: not given. With "model" it replaces the
            scale of a model whose range is in kelvin. A range that is not in kelvin does not depend on it.
        celsius_offset: parameter `ir_celsius_offset` of this camera, the temperature of count 0.

    Raises:
        ThermalError: the parameters contradict each other or the model; the message names parameter and remedy.
    """
    if normalization not in NORMALIZATIONS:
        raise ThermalError(f"ir_normalization must be one of {', '.join(NORMALIZATIONS)}, got {normalization!r}")
    has_range, has_kelvin = (low, high) != (0.0, 0.0), kelvin_per_count != 0.0
    if has_range and not low < high:
        raise ThermalError(f"ir_range_low {low:g} must be below ir_range_high {high:g}")
    if has_kelvin and not kelvin_per_count > 0:
        raise ThermalError(
            f"ir_kelvin_per_count must be above 0, or 0 for an uncalibrated camera, got {kelvin_per_count:g}"
        )
    if celsius_offset != ABSOLUTE_ZERO and not has_kelvin:
        raise ThermalError(
            f"ir_celsius_offset {celsius_offset:g} has no effect without ir_kelvin_per_count: set that too"
        )

    if normalization == "model":
        if has_range:
            raise ThermalError(
                f"ir_range_low and ir_range_high have no effect with ir_normalization 'model' (the model's is "
                f"{model.describe()}): set it to 'fixed' or 'percentile', or leave the range at 0"
            )
        if not has_kelvin or model.kind != "fixed" or model.kelvin_per_count is None:
            return model
        return _in_reach(replace(model, kelvin_per_count=kelvin_per_count), celsius_offset)
    if normalization == "none":
        if has_range:
            raise ThermalError("ir_normalization 'none' takes no range: leave ir_range_low and ir_range_high at 0")
        return _like(model, ThermalContract(kind="none", depths=model.depths))
    if normalization == "percentile":
        own = model if model.kind == "percentile" else _like(model, ThermalContract(depths=model.depths))
        if has_range and not 0 <= low < high <= 100:
            raise ThermalError(
                f"ir_range_low and ir_range_high must be percentiles, 0 to 100, got {low:g} and {high:g}"
            )
        return replace(own, low=low, high=high) if has_range else own
    given = (low, high) if has_range else None
    return _fixed(model, given, kelvin_per_count if has_kelvin else None, celsius_offset)


def override_invalid_counts(contract: ThermalContract, counts: str) -> ThermalContract:
    """Replace the contract's rules for invalid counts.

    Args:
        contract: the contract to change.
        counts: parameter `ir_invalid_counts`: "model" keeps the contract's rules; "none": every count is valid; else
            invalid counts separated by commas, and "auto", also by itself, to recognise them in each 16-bit frame.

    Raises:
        ThermalError: invalid value; the message lists the allowed ones.
    """
    words = [word.strip() for word in counts.split(",")]
    if words == ["model"]:
        return contract
    if words == ["none"]:
        return replace(contract, invalid_counts=(), recognise_invalid=False)
    numbers = [word for word in words if word != "auto"]
    if not all(word.isascii() and word.isdigit() and len(word) <= 5 and int(word) <= 65535 for word in numbers):
        raise ThermalError(
            f"ir_invalid_counts {counts!r} is invalid: give model, auto, none or counts in 0 to 65535 separated by "
            "commas, such as '0, 65535' or 'auto, 4095'"
        )
    return replace(
        contract, invalid_counts=tuple(sorted({int(word) for word in numbers})), recognise_invalid="auto" in words
    )


def _fixed(
    model: ThermalContract, given: tuple[float, float] | None, kelvin_per_count: float | None, celsius_offset: float
) -> ThermalContract:
    if given is None:
        if model.kind != "fixed":
            raise ThermalError(
                "ir_normalization 'fixed' needs ir_range_low and ir_range_high, in counts or, with "
                f"ir_kelvin_per_count, in kelvin: the model has no fixed range ({model.describe()})"
            )
        return override_contract(model, kelvin_per_count=kelvin_per_count or 0.0, celsius_offset=celsius_offset)
    low, high = given
    depth = model.depths[0] if len(model.depths) == 1 else 16 if kelvin_per_count is not None or high > 255 else 8
    if kelvin_per_count is not None and depth != 16:
        raise ThermalError(
            f"a range in kelvin needs a 16-bit camera, but the model takes {depth}-bit frames: leave "
            "ir_kelvin_per_count at 0 and give the range in counts, or use a 16-bit model"
        )
    contract = ThermalContract(kind="fixed", low=low, high=high, kelvin_per_count=kelvin_per_count, depths=(depth,))
    return _in_reach(_like(model, contract), celsius_offset)


def _like(model: ThermalContract, contract: ThermalContract) -> ThermalContract:
    """Return a contract with the model's rules for invalid counts."""
    return replace(contract, invalid_counts=model.invalid_counts, recognise_invalid=model.recognise_invalid)


def _in_reach(contract: ThermalContract, celsius_offset: float) -> ThermalContract:
    """Refuse a fixed range outside the counts of the contract's depth; one in kelvin may count from another zero."""
    largest = 2 ** contract.depths[0] - 1
    per_count = contract.kelvin_per_count or 1.0
    zero = 0.0 if contract.kelvin_per_count is None else celsius_offset - ABSOLUTE_ZERO
    low, high = ((end - zero) / per_count for end in (contract.low, contract.high))
    if low < 0 or high > largest:
        raise ThermalError(
            f"the fixed range {contract.low:g} to {contract.high:g} is {low:.0f} to {high:.0f} counts, but a "
            f"{contract.depths[0]}-bit frame has 0 to {largest}: check ir_range_low, ir_range_high, "
            "ir_kelvin_per_count and ir_celsius_offset"
        )
    # A contract in kelvin counts from absolute zero.
    return replace(contract, low=low, high=high, kelvin_per_count=None) if zero else contract
