"""Rigid transforms between coordinate frames, composed from the messages of /tf_static."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from spectradino_core.calibration.camera_geometry import rotation_matrix
from spectradino_core.calibration.registration import RegistrationError

__all__ = ["StaticTransforms"]

_MAX_FRAMES = 4096
"""More frames than any robot has; a publisher that invents names must not fill the memory."""


@dataclass(frozen=True)
class _Link:
    """Pose of a frame in its parent: X_parent = rotation X + translation; `problem` if it is unusable."""

    parent: str
    rotation: np.ndarray
    translation: np.ndarray
    problem: str = ""


class StaticTransforms:
    """Forest of coordinate frames, in which each has one parent, as in tf2. Not thread-safe."""

    def __init__(self) -> None:
        self._links: dict[str, _Link] = {}
        self._is_full = False

    def take(self, transforms: Iterable[Any]) -> None:
        """Store transforms; a newer one of the same child frame replaces the older one.

        An unusable transform raises no error before `between` needs it. Frames beyond the first 4096 are ignored.

        Args:
            transforms: geometry_msgs/TransformStamped messages.
        """
        for message in transforms:
            child = _name(message.child_frame_id)
            if child not in self._links and len(self._links) >= _MAX_FRAMES:
                self._is_full = True
                continue
            self._links[child] = _link(_name(message.header.frame_id), message.transform)

    def between(self, target: str, source: str) -> tuple[np.ndarray, np.ndarray]:
        """Compose the transform that tf2's `lookup_transform(target, source)` returns.

        Args:
            target, source: frame ids; a leading slash is ignored.

        Returns:
            R [3, 3] and t [3] in metres, so that X_target = R X_source + t.

        Raises:
            RegistrationError: a frame is unknown, the two are not connected, or a transform between them is unusable;
                the message names both frames.
        """
        target, source = _name(target), _name(source)
        what = f"no transform from frame {_quoted(source)} to frame {_quoted(target)} in /tf_static: "
        known = self._links.keys() | {link.parent for link in self._links.values()}
        if unknown := [_quoted(name) for name in dict.fromkeys((source, target)) if name not in known]:
            ignored = f" (frames beyond the first {_MAX_FRAMES} are ignored)" if self._is_full else ""
            raise RegistrationError(
                f"{what}{' and '.join(unknown)} {'is' if len(unknown) == 1 else 'are'} not known there{ignored}"
            )
        try:
            above_target, above_source = self._with_ancestors(target), self._with_ancestors(source)
            common = next((name for name in above_source if name in above_target), None)
            if common is None:
                raise RegistrationError(
                    f"they are not connected: their topmost frames are {_quoted(above_source[-1])} and "
                    f"{_quoted(above_target[-1])}"
                )
            rotation, translation = self._to_ancestor(source, common)
            from_target, offset = self._to_ancestor(target, common)
        except RegistrationError as error:
            raise RegistrationError(f"{what}{error}") from None
        return from_target.T @ rotation, from_target.T @ (translation - offset)

    def _with_ancestors(self, name: str) -> list[str]:
        """Return the frame, its parent and so on up to the topmost one; raise if they form a loop."""
        names = {name: None}  # in order
        while (link := self._links.get(name)) is not None:
            name = link.parent
            if name in names:
                raise RegistrationError(f"the parents of frame {_quoted(name)} form a loop")
            names[name] = None
        return list(names)

    def _to_ancestor(self, name: str, ancestor: str) -> tuple[np.ndarray, np.ndarray]:
        """Compose R [3, 3] and t [3] with X_ancestor = R X_name + t."""
        rotation, translation = np.eye(3), np.zeros(3)
        while name != ancestor:
            link = self._links[name]
            if link.problem:
                raise RegistrationError(
                    f"that of frame {_quoted(name)} in {_quoted(link.parent)} is unusable: {link.problem}"
                )
            rotation, translation = link.rotation @ rotation, link.rotation @ translation + link.translation
            name = link.parent
        return rotation, translation


def _link(parent: str, transform: Any) -> _Link:
    moved, turned = transform.translation, transform.rotation
    translation = np.array([moved.x, moved.y, moved.z], np.float64)
    if not np.isfinite(translation).all():
        return _Link(parent, np.eye(3), np.zeros(3), f"its translation is {translation.tolist()}")
    try:
        return _Link(parent, rotation_matrix((turned.x, turned.y, turned.z, turned.w)), translation)
    except RegistrationError:
        values = [turned.x, turned.y, turned.z, turned.w]
        return _Link(parent, np.eye(3), np.zeros(3), f"its quaternion x y z w is {values}, which is no rotation")


def _name(frame_id: str) -> str:
    return str(frame_id).removeprefix("/")


def _quoted(name: str) -> str:
    return repr(name[:200])  # escapes what is not printable: other nodes choose the names
