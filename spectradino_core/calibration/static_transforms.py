"""Rigid transforms between coordinate frames, composed from the messages of /tf_static."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from spectradino_core.calibration.camera_geometry import rotation_matrix
from spectradino_core.calibration.registration import RegistrationError

log = logging.getLogger(__name__)

_MAX_FRAMES = 4096
"""More frames than any robot has; a publisher that invents names must not fill the memory."""


class _Link(NamedTuple):
    """Pose of a frame in its parent; the quaternion is x y z w, of any length."""

    parent: str
    translation: tuple[float, float, float]
    quaternion: tuple[float, float, float, float]

    @property
    def problem(self) -> str:
        """Why it is unusable; "" if it is not."""
        if not all(map(math.isfinite, self.translation)):
            return f"its translation is {list(self.translation)}"
        # as computed with it: the square of a large number is infinite
        if not 1e-6 < math.sqrt(sum(value * value for value in self.quaternion)) < math.inf:
            return f"its quaternion x y z w is {list(self.quaternion)}, which is no rotation"
        return ""


class StaticTransforms:
    """Forest of coordinate frames, in which each has one parent, as in tf2. Not thread-safe."""

    def __init__(self) -> None:
        self._links: dict[str, _Link] = {}
        self._is_full = False
        self._reported: set[str] = set()

    def take(self, transforms: Iterable[Any]) -> bool:
        """Store geometry_msgs/TransformStamped messages; return whether a transform changed.

        An unusable transform raises no error before `between` needs it, and replaces no usable one. As in tf2, a
        transform without a frame name, or of a frame in itself, is ignored. Frames beyond the first 4096 are ignored.
        """
        changed = False
        for message in transforms:
            child, link = _name(message.child_frame_id), _link(message)
            known = self._links.get(child)
            if link == known or not child or not link.parent or child == link.parent:
                continue
            if known is None and len(self._links) >= _MAX_FRAMES:
                self._is_full = True
                continue
            if known is not None and not known.problem and (problem := link.problem):
                if child not in self._reported:
                    self._reported.add(child)
                    where = f"frame {_quoted(child)} in {_quoted(link.parent)}"
                    log.warning("ignored a transform of %s in /tf_static: %s; the one before it holds", where, problem)
                continue
            self._links[child] = link
            changed = True
        return changed

    def between(self, target: str, source: str) -> tuple[np.ndarray, np.ndarray]:
        """Compose the transform that tf2's `lookup_transform(target, source)` returns, as R [3, 3] and t [3] in metres.

        X_target = R X_source + t. A leading slash of frame ids is ignored.

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
                for name in (above_source[-1], above_target[-1]):
                    if name in self._links:
                        raise RegistrationError(f"the parents of frame {_quoted(name)} form a loop")
                raise RegistrationError(
                    f"they are not connected: their topmost frames are {_quoted(above_source[-1])} and "
                    f"{_quoted(above_target[-1])}"
                )
            if common != next(name for name in above_target if name in above_source):
                raise RegistrationError(f"the parents of frame {_quoted(common)} form a loop")
            rotation, translation = self._to_ancestor(source, common)
            from_target, offset = self._to_ancestor(target, common)
        except RegistrationError as error:
            raise RegistrationError(f"{what}{error}") from None
        return from_target.T @ rotation, from_target.T @ (translation - offset)

    def _with_ancestors(self, name: str) -> list[str]:
        """Return the frame, its parent and so on up to the topmost one, or once around a loop."""
        names = {name: None}  # in order
        while (link := self._links.get(name)) is not None and link.parent not in names:
            name = link.parent
            names[name] = None
        return list(names)

    def _to_ancestor(self, name: str, ancestor: str) -> tuple[np.ndarray, np.ndarray]:
        """Compose R [3, 3] and t [3] with X_ancestor = R X_name + t."""
        rotation, translation = np.eye(3), np.zeros(3)
        while name != ancestor:
            link = self._links[name]
            if problem := link.problem:
                raise RegistrationError(
                    f"that of frame {_quoted(name)} in {_quoted(link.parent)} is unusable: {problem}"
                )
            step = rotation_matrix(link.quaternion)
            rotation, translation = step @ rotation, step @ translation + link.translation
            name = link.parent
        return rotation, translation


def _link(message: Any) -> _Link:
    moved, turned = message.transform.translation, message.transform.rotation
    return _Link(_name(message.header.frame_id), (moved.x, moved.y, moved.z), (turned.x, turned.y, turned.z, turned.w))


def _name(frame_id: str) -> str:
    return str(frame_id).removeprefix("/")


def _quoted(name: str) -> str:
    return repr(name[:200])  # escapes what is not printable: other nodes choose the names
