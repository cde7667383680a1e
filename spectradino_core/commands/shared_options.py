"""Options that several commands share, and how they are read."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectradino_core.modality import INFRARED, Modality
from spectradino_core.options import CONCEPTS, TRAINING_DEVICES, add_former, add_option, list_names, refuse

if TYPE_CHECKING:
    from spectradino_core.datasets import Benchmark
    from spectradino_core.datasets.own import OwnFolder

DECODING = ("max_image_megapixels", "ir_crop", "ir_encoding", "ir_float_unit")
"""Parameters of image decoding."""

_WITHOUT_EFFECT = {
    "model", "autostart", "enabled", "lazy_subscription", "rgb_transport", "ir_transport", "publish_overlay",
    "deadline_ms", "no_message_timeout_s", "warning_period_s", "max_engine_rebuilds", "allow_cpu_fallback",
}  # fmt: skip
"""Parameters of a running node that do not affect a replay."""
_PREFIX = "parameter_"


class SizeError(ValueError, argparse.ArgumentTypeError):
    """The text is not a size: wrong usage to argparse, a one-line error elsewhere."""


def parse_size(text: str, multiple: int = 1) -> tuple[int, int]:
    """Parse "644x518" to (644, 518).

    Raises:
        SizeError: the text is not such a size with sides that are multiples of `multiple`.
    """
    numbers = text.lower().split("x")
    if len(numbers) != 2 or not all(n.isdecimal() and int(n) and not int(n) % multiple for n in numbers):
        wanted = "WIDTHxHEIGHT in pixels" + (f", both multiples of {multiple}" if multiple > 1 else "")
        raise SizeError(f"{text!r} is not a size: give {wanted}, such as 644x518")
    return int(numbers[0]), int(numbers[1])


def option(
    group: Any,
    name: str,
    text: str = "",
    *,
    former: str = "",
    form: dict[str, Any] | None = None,
    listed: Callable[[], Sequence[str]] | None = None,
    **settings: Any,
) -> argparse.Action:
    """Add an option of `CONCEPTS`, or of one command alone.

    Args:
        group: a parser or a group of one.
        name: the option.
        text: its help; of a concept what this command adds to the meaning, with its own punctuation.
        former: former name, see `add_former`.
        form: what differs in the form of the former name.
        listed: see `list_names`.
        settings: for `add_argument`.
    """
    action: argparse.Action
    if name in CONCEPTS:
        action = add_option(group, name, text, **settings)
    else:
        action = group.add_argument(name, help=text, **settings)
    if listed is not None:
        list_names(action, listed)
    if former:
        add_former(group, action, former, **form or {})
    return action


def without_none(**values: Any) -> dict[str, Any]:
    """Return the keyword arguments that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def given(options: argparse.Namespace, names: str) -> dict[str, Any]:
    """Return the given options, of names such as "steps grad_accum", as keyword arguments of the same names."""
    return without_none(**{word: getattr(options, word) for word in names.split()})


def is_main_process() -> bool:
    """Return whether this is the process that prints, of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def add_own_options(group: Any, band: str = " of own data (default: by folder name)", former: str = "") -> None:
    """Add the options for a user's own folder; `band` continues the help of --band, whose former name is given."""
    option(group, "--rgb", " (default: found by name)")
    option(group, "--ir", " (default: found by name)", former="--thermal")
    option(group, "--classes", ", in this order (default: all)")
    option(group, "--band", band, former=former, choices=tuple(band.key for band in reversed(INFRARED)))


def open_own_of(options: argparse.Namespace, folder: Path, band: Modality | None = None) -> OwnFolder:
    """Open the user's own folder as the options describe it.

    Args:
        options: with those of `add_own_options`.
        folder: the user's folder.
        band: IR band if neither --band nor the folder name gives one; None: LWIR.

    Raises:
        LabelError: see `open_own`.
    """
    from spectradino_core.datasets.own import open_own

    if options.classes == ():
        raise ValueError("--classes names no class: give e.g. person,car")
    return open_own(folder, options.band, options.rgb, options.ir, options.classes, band or Modality.LWIR)


def print_remarks(own: OwnFolder) -> None:
    """Print the assumptions about an own folder to stderr, as the command's output may be a table."""
    for remark in own.remarks:
        print(f"  - {remark}", file=sys.stderr)


def refuse_own_options(options: argparse.Namespace, reason: str, names: str = "rgb ir classes band") -> None:
    """Raise ValueError if an option for own data (of `names`) was given; `reason` is the rest of the sentence."""
    refuse(options, names, f"is for own data, {reason}")


def published(options: argparse.Namespace) -> Benchmark:
    """Return the data set that --dataset names.

    Raises:
        ValueError: there is none of that name, or options that have no effect on it.
    """
    from spectradino_core.datasets import find_benchmark

    one = find_benchmark(options.dataset)
    refuse_own_options(options, "which is --data without --dataset")
    if not one.needs_root:
        refuse(options, "data", f"has no effect on {one.name}, which is rendered; own data needs a command of its own")
    return one


def is_indexed(folder: Path, split: str) -> bool:
    """Return whether a folder has this project's own layout (see `paired_folder`)."""
    return (folder / f"index_{split}.json").is_file()


def add_run_options(group: Any, amp: str | None, checkpoint_every: str) -> None:
    """Add options of how a training runs, none of which changes what is trained.

    Args:
        group: a parser or a group of one.
        amp: default of --amp; None: that of the recipe.
        checkpoint_every: describes the default.
    """
    option(group, "--device", " (default: %(default)s)", default="auto", choices=TRAINING_DEVICES)
    precisions = ("bf16", "fp16", "fp32")
    if amp is None:
        text = ": auto, bf16, fp16 or fp32 (default: bf16; own data: auto; of --recipe: its own)"
        option(group, "--amp", text, choices=("auto", *precisions))
    else:
        option(group, "--amp", " (default: %(default)s)", default=amp, choices=precisions)
    option(group, "--grad-accum", " (default: 1)", former="--parts")
    option(group, "--activation-checkpointing")
    option(group, "--checkpoint-every", f" (default: {checkpoint_every})")
    option(group, "--log-every", " (default: 20)")
    option(group, "--tensorboard")


def add_topics(group: Any, none: str = '; "": none') -> None:
    """Add the cameras' topics; `none` is the part of the help that says how to read without a camera."""
    for name in ("--rgb-topic", "--ir-topic"):
        option(group, name, f" (default: found by name{none})")


def add_clock(group: Any) -> None:
    """Add `--clock` of a replay."""
    text = ": as recorded, or its stamp if recording times are useless (default: %(default)s)"
    option(group, "--clock", text, default="received", choices=("received", "stamp"))


def add_container(group: Any) -> None:
    """Add the options of a bag that is written."""
    option(group, "--storage", " (default: sqlite3)", choices=("mcap", "sqlite3"))
    forms = ("none", "message", "file", "chunk")
    option(group, "--compression", " (default: %(default)s)", default="none", choices=forms)
    option(group, "--overwrite")


def add_parameters(
    command: argparse.ArgumentParser, names: Collection[str] = (), without: Collection[str] = ()
) -> None:
    """Add `--params-file` and the node's parameters as options: same names, defaults, ranges and checks.

    Args:
        command: the parser to extend.
        names: names of the parameters; empty: all that affect a replay.
        without: names of parameters that have no effect on this command.
    """
    from spectradino_core.streams.settings import specs

    group = command.add_argument_group("parameters of the node", "as listed in docs/node.md; options override the file")
    option(group, "--params-file", "the node's own parameter file", type=Path, metavar="YAML")
    for spec in specs().values():
        if spec.name in _WITHOUT_EFFECT or spec.name in without or (names and spec.name not in names):
            continue
        text = spec.description.replace("%", "%%")
        if spec.kind is not tuple and spec.default != "":
            text += f" (default: {spec.default})"
        form: dict[str, Any]
        if spec.kind is bool:
            form = {"action": argparse.BooleanOptionalAction}
        elif spec.kind is tuple:
            form = {"type": float, "nargs": "+", "metavar": "N"}
        else:
            form = {"type": spec.kind, "choices": spec.choices or None, "metavar": None if spec.choices else "V"}
        group.add_argument(f"--{spec.name.replace('_', '-')}", dest=_PREFIX + spec.name, help=text, **form)


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
