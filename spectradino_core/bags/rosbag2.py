"""The reader and writer of rosbags, with YAML read and written in Python.

rosbags uses ruamel.yaml, which calls libyaml if ruamel.yaml.clib is installed (its releases before 0.19 require it).
libyaml crashes the process on deeply nested metadata or QoS of a bag, and writes other bytes for the same metadata.
"""

from __future__ import annotations

from functools import partial

from rosbags.rosbag2 import Reader, Writer, metadata, reader, writer
from ruamel.yaml import YAML

for _module in (metadata, reader, writer):
    _module.YAML = partial(YAML, pure=True)  # type: ignore[attr-defined]

__all__ = ["Reader", "Writer"]
