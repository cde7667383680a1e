"""Options of the command line: one name and one meaning per concept, and former names for one release."""

from __future__ import annotations

import argparse
import difflib
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Number:
    """Type of an option that is a number in a range, ends included.

    Attributes:
        kind: int or float.
        low, high: the range; infinite `high`: also infinity is allowed.
    """

    kind: type[int] | type[float]
    low: float = -sys.float_info.max
    high: float = sys.float_info.max

    def __call__(self, text: str) -> float:
        """Parse the number; argparse.ArgumentTypeError, to which argparse adds the option's name, if it is no such."""
        try:
            value = self.kind(text)
        except ValueError:
            value = math.nan
        if not self.low <= value <= self.high:
            raise argparse.ArgumentTypeError(f"must be {self}, got {text!r}")
        return value

    def __str__(self) -> str:
        name = "a whole number" if self.kind is int else "a number"
        if self.low in (-sys.float_info.max, sys.float_info.min):
            return name + (" above 0" if self.low > 0 else "")
        return (
            f"{name} of at least {self.low:g}"
            if self.high >= sys.float_info.max
            else f"{name} in {self.low:g} to {self.high:g}"
        )


COUNT, NATURAL = Number(int, 1), Number(int, 0)
RATE = Number(float, 0.01, 1000.0)
NUMBER, POSITIVE = Number(float), Number(float, sys.float_info.min)
NOT_NEGATIVE, FRACTION = Number(float, 0.0), Number(float, 0.0, 1.0)


class Concept(NamedTuple):
    """Meaning and form of an option in every command: how its help begins, `type` (None: a flag) and `metavar`."""

    meaning: str
    type: Callable[[str], Any] | None = None
    metavar: str | None = None


def names(text: str) -> tuple[str, ...]:
    """Parse "person,car" to its names."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def number_range(text: str) -> tuple[float, float]:
    """Parse "0.5,10", near and far in metres, to its two numbers."""
    try:
        near, far = map(POSITIVE, text.split(","))
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"{text!r}: give NEAR,FAR in metres, such as 0.5,10") from None
    return near, far


CONCEPTS = {
    # data
    "--data": Concept("folder of one data set", Path, "DIR"),
    "--data-root": Concept("folder that holds data sets", Path, "DIR"),
    "--manifest": Concept("manifest of pairs (JSON lines, see 'spectradino data make-manifest')", Path, "FILE"),
    "--val-manifest": Concept("manifest of held-out pairs", Path, "FILE"),
    "--dataset": Concept("published data set, see 'spectradino data list'", str, "NAME"),
    "--split": Concept("split of the data set", str, "NAME"),
    "--rgb": Concept("own data: folder of the RGB images", str, "DIR"),
    "--ir": Concept("own data: folder of the IR images", str, "DIR"),
    "--band": Concept("IR band", str),
    "--bands": Concept("IR bands to use (default: all)", names, "A,B"),
    "--classes": Concept("own data: classes to use", names, "A,B"),
    "--scenes": Concept("number of synthetic scenes", COUNT, "N"),
    "--score-scenes": Concept("score mAP50 on this number of synthetic scenes", COUNT, "N"),
    "--time-of-day": Concept("time of day of the scenes", str),
    "--limit": Concept("maximum number of pairs", COUNT, "N"),
    "--draw": Concept("number of frames to draw", NATURAL, "N"),
    "--maps": Concept("use depth and segmentation maps"),
    "--depth-range": Concept(
        "metres of depth maps that become white and black (default: 1,100, for streets; indoors 0.5,10)",
        number_range,
        "NEAR,FAR",
    ),
    "--views": Concept("number of views of each item", COUNT, "N"),
    "--crop": Concept("side of square views, pixels", COUNT, "N"),
    # model
    "--model": Concept("model file", Path, "FILE"),
    "--start": Concept("model to start from", Path, "FILE"),
    "--teacher": Concept("DINOv2 or DINOv3 weights", Path, "FILE"),
    "--baseline": Concept("baseline, i.e. plain DINOv2 with IR repeated to three channels"),
    "--variant": Concept(
        "ViT variant: s, b, l, g, omnivorous_b; DINOv3: v3_s, v3_s+, v3_b, v3_l; tiny, test: for trials", str, "NAME"
    ),
    "--input-size": Concept("network input size, multiples of the patch size (14; DINOv3: 16)", None, "WxH"),
    "--score-threshold": Concept("score threshold", FRACTION, "V"),
    "--nms-iou": Concept("NMS IoU threshold", FRACTION, "V"),
    "--max-detections": Concept("maximum number of detections per frame", COUNT, "N"),
    # training
    "--recipe": Concept("recipe", str, "NAME"),
    "--epochs": Concept("number of epochs", COUNT, "N"),
    "--steps": Concept("number of optimiser steps", COUNT, "N"),
    "--batch": Concept("pairs per step", COUNT, "N"),
    "--lr": Concept("peak learning rate", POSITIVE, "LR"),
    "--ema": Concept("decay of the moving average of the weights; 0: none", FRACTION, "DECAY"),
    "--grad-accum": Concept("gradient accumulation steps per batch", COUNT, "N"),
    "--amp": Concept("precision", str),
    "--activation-checkpointing": Concept("use less memory at the cost of another forward pass"),
    "--checkpoint-every": Concept("steps between checkpoints", COUNT, "STEPS"),
    "--log-every": Concept("steps between log lines", COUNT, "STEPS"),
    "--tensorboard": Concept("also log to TensorBoard"),
    # recordings
    "--rgb-topic": Concept("topic of the RGB camera", str, "T"),
    "--ir-topic": Concept("topic of the IR camera", str, "T"),
    "--clock": Concept("arrival time of a frame", str),
    "--duration": Concept("duration of the recording [s]", POSITIVE, "S"),
    "--ir-time-offset-ms": Concept("IR stamp minus RGB stamp of the same moment", NUMBER, "MS"),
    "--storage": Concept("format of a bag folder", str),
    "--compression": Concept("zstd compression of the bag", str),
    # output and machine
    "--out": Concept("output", Path),
    "--overwrite": Concept("replace what --out already holds"),
    "--seed": Concept("seed", NATURAL, "SEED"),
    "--device": Concept("device", str),
    "--jobs": Concept("number of parallel jobs", COUNT, "N"),
    "--threads": Concept("number of CPU threads", COUNT, "N"),
    "--workers": Concept("number of data loading workers", NATURAL, "N"),
}
"""Concepts that several commands share; an option of a single command is declared there."""

TRAINING_DEVICES = ("auto", "cpu", "cuda")
"""Devices of commands that run PyTorch; those that serve model files take `runtime.engine.DEVICES`."""


_ALIASES = {"--start": ("--start-from",)}
"""Other names of options: torchrun takes --start for an abbreviation of its own --start-method."""


class Parser(argparse.ArgumentParser):
    """Argument parser that stores its full name as `prog`, and makes help that needs heavy imports when it is shown."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.set_defaults(prog=self.prog)

    def format_help(self) -> str:
        """Return the help text, with the names that options list by `listed`."""
        for action in self._actions:
            if (listed := getattr(action, "listed", None)) is not None:
                try:
                    action.help = f"{action.help}: {', '.join(listed())}".replace("%", "%%")
                except ModuleNotFoundError as error:
                    action.help = f"{action.help} (names need the Python module {error.name})"
                action.listed = None  # type: ignore[attr-defined]
        return super().format_help()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse unknown options here: argparse does it at the top, after former positionals took their values."""
        words = list(sys.argv[1:] if args is None else args)
        own = words[:1] if self._subparsers is not None else words[: words.index("--")] if "--" in words else words
        if unknown := [word for word in own if self._is_unknown(word)]:
            self._refuse_unknown(unknown)
        parsed, unknown = super().parse_known_args(words, namespace)
        if unknown:
            self._refuse_unknown(unknown)
        return parsed, unknown

    def _is_unknown(self, word: str) -> bool:
        name = word.partition("=")[0]
        is_option = re.match(r"-[^\d.\s]", word) is not None and " " not in name
        return is_option and not any(one.startswith(name) for one in self._option_string_actions)

    def _refuse_unknown(self, unknown: Sequence[str]) -> None:
        known = [
            one for action in self._actions if action.help is not argparse.SUPPRESS for one in action.option_strings
        ]
        near = difflib.get_close_matches(unknown[0].partition("=")[0], known, 1, cutoff=0.75)
        self.error(f"unrecognized arguments: {' '.join(unknown)}{f' (did you mean {near[0]}?)' if near else ''}")


def add_option(
    group: Any, option: str, detail: str = "", *, listed: Callable[[], Sequence[str]] | None = None, **settings: Any
) -> argparse.Action:
    """Add an option of `CONCEPTS` to a parser or a group of one; `settings` are for `add_argument`.

    `detail` is what this command adds to the meaning, with its own punctuation; `listed` gives the allowed values for
    the help, and is called only if help is shown.
    """
    concept = CONCEPTS[option]
    form: dict[str, Any] = {"help": concept.meaning + detail}
    if concept.type is None and concept.metavar is None:
        form |= {} if "type" in settings else {"action": "store_true"}
    else:
        form |= {"type": concept.type, "metavar": None if settings.get("choices") else concept.metavar}
    action: argparse.Action = group.add_argument(option, *_ALIASES.get(option, ()), **form | settings)
    if listed is not None:
        list_names(action, listed)
    return action


def list_names(action: argparse.Action, names: Callable[[], Sequence[str]]) -> None:
    """Append names, such as those of a registry, to an option's help; `names` is called only if help is shown."""
    action.listed = names  # type: ignore[attr-defined]


class _Former(argparse.Action):
    """Former name of an option: hidden, warns, and does what the option does."""

    def __init__(self, *args: Any, target: argparse.Action, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.target = target

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        name, former = self.target.option_strings[0], option_string or f"{self.metavar} without an option"
        print(f"{parser.prog}: warning: {former} is deprecated, use {name}", file=sys.stderr)
        self.target.required = False  # it was given
        self.target(parser, namespace, values, name)


def add_former(group: Any, target: argparse.Action, *former: str, **changes: Any) -> None:
    """Add former names of an option, which work for one release; one without dashes is a former positional.

    `changes` are settings that differ from the option's, such as `nargs`.
    """
    for name in former:
        form = {
            "nargs": target.nargs, "type": target.type, "choices": target.choices, "default": argparse.SUPPRESS,
            "metavar": target.metavar, "help": argparse.SUPPRESS, "action": _Former, "target": target,
        } | changes  # fmt: skip
        if name.startswith("-"):
            group.add_argument(name, dest=target.dest, **form)
        else:
            group.add_argument(name, **form | {"metavar": name.upper()}).required = False


def refuse(options: argparse.Namespace, listed: str, reason: str) -> None:
    """Raise ValueError if an option in `listed`, such as "split limit", was given: is not None, False or empty.

    `reason` is the rest of the sentence that begins with the option, such as "has no effect without --data".
    """
    for name in listed.split():
        value = getattr(options, name.replace("-", "_"))
        if not (value is None or value is False or value in ((), [])):
            raise ValueError(f"--{name} {reason}")


def claim_file(
    path: Path, endings: Sequence[str], overwrite: bool, option: str = "--out", *, own: str | None = None
) -> None:
    """Raise ValueError unless a file may be written: its name has one of the endings, if any, and nothing is lost.

    `own` is a text in files of the command's own kind, which are replaced without `overwrite`.
    """
    if endings and path.suffix.lower() not in endings:
        raise ValueError(f"{option} {path}: give a name that ends in {' or '.join(endings)}")
    if path.is_dir():
        raise ValueError(f"{option} {path} is a folder: give the name of a file")
    is_own = own is not None and path.is_file() and own.encode() in path.read_bytes()
    if path.exists() and not overwrite and not is_own:
        raise ValueError(f"{option} {path} exists already: give --overwrite to replace it, or another name")


def claim_folder(folder: Path, outputs: str, made: str, text: bytes, overwrite: bool | None = None) -> None:
    """Raise ValueError unless a command may write what `outputs` lists into --out; other files may lie beside it.

    Args:
        folder: the folder, which need not exist.
        outputs: files and folders that the command replaces, such as "report.html result.json".
        made, text: pattern of files, and text in one of them, that show that the command wrote these in an earlier run.
        overwrite: replace them in any case; None: the command has no --overwrite.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file: give a folder")
    taken = [name for name in outputs.split() if _is_taken(folder / name)]
    if taken and not overwrite and not any(text in path.read_bytes() for path in folder.glob(made) if path.is_file()):
        remedy = "move it away" if overwrite is None else "give --overwrite to replace it"
        raise ValueError(
            f"--out {folder} holds {', '.join(taken[:3])}, which no finished run of this command wrote: choose another "
            f"folder, or {remedy}"
        )


def _is_taken(path: Path) -> bool:
    """Return whether a file exists, or a folder holds any; names with a dot are left behind by atomic writing."""
    return any(one.name[0] != "." for one in path.iterdir()) if path.is_dir() else path.exists()


def require_model(path: Path, option: str = "--model") -> None:
    """Raise ValueError, naming the option, if a model file does not exist."""
    if not path.exists():
        raise ValueError(f"model file {path} does not exist: check {option}")
