"""Child processes of the demo: the detector node and the player."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_LOG_LINES = 15


class DemoError(RuntimeError):
    """The demo can't continue; the message names the cause and where to look."""


def ros_environment(domain: int, profiles: Path, log_folder: Path) -> dict[str, str]:
    """Return the environment of the demo's processes: a local ROS domain, the Fast DDS profile, ROS's log folder.

    Raises:
        DemoError: the profile does not exist.
    """
    if not profiles.is_file():
        raise DemoError(
            f"the Fast DDS profile {profiles} is missing: install the package again, as large images are lost without"
        )
    return {
        "ROS_DOMAIN_ID": str(domain),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "FASTRTPS_DEFAULT_PROFILES_FILE": str(profiles),  # the only name that Fast DDS 2.14 reads
        "ROS_LOG_DIR": str(log_folder),
        "AMENT_PREFIX_PATH": os.environ.get("AMENT_PREFIX_PATH") or sys.prefix,
        "PYTHONUNBUFFERED": "1",
    }


class Child:
    """Child process that runs Python, with its output in a log file."""

    _stdout: int | None = None
    """None: stdout goes to the log file, as stderr does."""

    def __init__(self, name: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        """
        Args:
            name: used in messages.
            arguments: arguments of `python`, such as "-m" and a module.
            environment: variables added to those of this process.
            log: the log file, which is appended to.
        """
        self.name = name
        self.log = log
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=sink if self._stdout is None else self._stdout,
                stderr=sink,
            )

    def check(self) -> None:
        """Raise `DemoError`, with the last lines of the log, if the process has ended."""
        code = self.process.poll()
        if code is None:
            return
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        raise DemoError(f"the {self.name} {how}. The last lines of {self.log}:\n{self.last_lines()}")

    def last_lines(self) -> str:
        """Return the end of the log, indented."""
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return "\n".join(f"    {line}" for line in lines) or "    (it wrote nothing)"

    def finish(self, patience_s: float = 8.0) -> int:
        """Wait until the process ends, stop it after `patience_s` seconds; returns its exit code."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(patience_s)
        return self.stop()

    def stop(self, patience_s: float = 8.0) -> int:
        """Stop the process with SIGINT, then SIGTERM, then SIGKILL; returns its exit code."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is None:
                self.process.send_signal(number)
                try:
                    self.process.wait(patience_s)
                except subprocess.TimeoutExpired:
                    continue
        return self.process.wait()


class PlayerProcess(Child):
    """The player process, which reports on stdout what it sent."""

    _stdout = subprocess.PIPE

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        super().__init__("player", ["-m", "spectradino_ros.demo.player", *arguments], environment, log)
        self._events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="player's stdout", daemon=True)
        self._reader.start()

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield the events received since the last call."""
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._events.get_nowait()

    def check(self) -> None:
        """Check once all events are taken, because the last one may be "done"."""
        if not self._reader.is_alive() and self._events.empty():
            super().check()

    def _read(self) -> None:
        stdout = self.process.stdout
        assert stdout is not None
        for line in stdout:
            try:
                self._events.put(json.loads(line))
            except ValueError:
                print(f"player: {line.decode(errors='replace').rstrip()}", file=sys.stderr)
