"""Options shared by the commands on recordings."""

from __future__ import annotations

from typing import Any

from spectradino_core.options import add_option

__all__ = ["add_clock", "add_container", "add_topics"]


def add_topics(group: Any, none: str = '; "": none') -> None:
    """Add the cameras' topics; `none` is the part of the help that says how to read without a camera."""
    add_option(group, "--rgb-topic", f" (default: found by name{none})")
    add_option(group, "--ir-topic", f" (default: found by name{none})")


def add_clock(group: Any) -> None:
    """Add `--clock` of a replay."""
    add_option(
        group, "--clock", ": as recorded, or its stamp if recording times are useless (default: %(default)s)",
        default="received", choices=("received", "stamp"),
    )  # fmt: skip


def add_container(group: Any) -> None:
    """Add the options of a bag that is written."""
    add_option(group, "--storage", " (default: sqlite3)", choices=("mcap", "sqlite3"))
    add_option(
        group, "--compression", " (default: %(default)s)", default="none",
        choices=("none", "message", "file", "chunk"),
    )  # fmt: skip
    add_option(group, "--overwrite")
