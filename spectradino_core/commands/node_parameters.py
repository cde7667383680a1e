"""The node's parameters as command line options for bag replay: same names, defaults, ranges and checks."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import Any

__all__ = ["DECODING", "add_parameters", "settings_of"]

DECODING = ("max_image_megapixels", "ir_crop", "ir_encoding", "ir_float_unit")
"""Parameters of image decoding."""

_WITHOUT_EFFECT = {
    "model", "autostart", "enabled", "lazy_subscription", "rgb_transport", "ir_transport", "publish_overlay",
    "deadline_ms", "no_message_timeout_s", "warning_period_s", "max_engine_rebuilds", "allow_cpu_fallback",
}  # fmt: skip
"""Parameters of a running node that do not affect a replay."""
_PREFIX = "parameter_"


def add_parameters(
    command: argparse.ArgumentParser, names: Collection[str] = (), without: Collection[str] = ()
) -> None:
    """Add `--params-file` and options for parameters.

    Args:
        command: the parser to extend.
        names: names of the parameters; empty: all that affect a replay.
        without: names of parameters that have no effect on this command.
    """
    from spectradino_core.streams.settings import specs

    group = command.add_argument_group("parameters of the node", "as listed in docs/node.md; options override the file")
    group.add_argument("--params-file", type=Path, metavar="YAML", help="the node's own parameter file")
    for spec in specs().values():
        if spec.name in _WITHOUT_EFFECT or spec.name in without or (names and spec.name not in names):
            continue
        option = f"--{spec.name.replace('_', '-')}"
        text = spec.description.replace("%", "%%")
        if spec.kind is not tuple and spec.default != "":
            text += f" (default: {spec.default})"
        more: dict[str, Any] = {"dest": _PREFIX + spec.name, "help": text}
        if spec.kind is bool:
            more |= {"action": argparse.BooleanOptionalAction}
        elif spec.kind is tuple:
            more |= {"type": float, "nargs": "+", "metavar": "N"}
        else:
            more |= {"type": spec.kind, "choices": spec.choices or None, "metavar": None if spec.choices else "V"}
        group.add_argument(option, **more)


def settings_of(options: argparse.Namespace) -> Any:
    """Return the `Settings` from the parameter file, if given, and the options.

    Raises:
        ParameterError: the file can't be read, or a value is invalid.
    """
    from spectradino_core.streams.parameter_values import check, settings_from_file
    from spectradino_core.streams.settings import Settings

    given = {
        name.removeprefix(_PREFIX): value
        for name, value in vars(options).items()
        if name.startswith(_PREFIX) and value is not None
    }
    if options.params_file is not None:
        return settings_from_file(options.params_file, given)
    return Settings(**{name: check(name, value) for name, value in given.items()})
