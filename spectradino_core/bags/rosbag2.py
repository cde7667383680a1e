"""The reader and writer of rosbags, with YAML read and written in Python.

rosbags uses ruamel.yaml, which calls libyaml if ruamel.yaml.clib is installed (its releases before 0.19 require it).
libyaml crashes the process on deeply nested metadata or QoS of a bag, and writes other bytes for the same metadata.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from rosbags.rosbag2 import Reader, Writer, metadata, reader, writer
from ruamel.yaml import YAML

__all__ = ["Reader", "Writer"]

_LONGEST_QOS = 4096
"""Longest text, in characters, whose values are cached: topics share a few QoS profiles, each of which takes 5 ms."""


class _PythonYAML(YAML):
    def __init__(self, **options: Any) -> None:
        super().__init__(pure=True, **options)

    def load(self, stream: Any) -> Any:
        return _qos(stream) if isinstance(stream, str) and len(stream) <= _LONGEST_QOS else super().load(stream)


@lru_cache(maxsize=64)
def _qos(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


for _module in (metadata, reader, writer):
    _module.YAML = _PythonYAML  # type: ignore[attr-defined]
