"""Image sources of synthetic recordings: a scene rendered at any time, or a folder of pairs in sequence.

Letters: h x w the RGB image, N objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import cv2
import numpy as np

from spectradino_core.bags import BagError
from spectradino_core.calibration.registration import Registration
from spectradino_core.data.paired_folder import PairedFolder, PairedItem
from spectradino_core.datasets.benchmark import LabelledItem, LabelledPairs
from spectradino_core.modality import Modality
from spectradino_core.scenes import BOX_CLASSES, MASK_CLASSES, SceneOptions, render_moments
from spectradino_core.streams.queues import Stream

_HALF = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
"""From pixel coordinates with the first pixel's centre at (0, 0) to those with it at (0.5, 0.5)."""


@dataclass(frozen=True)
class CameraView:
    """Image of one camera at one time, with ground truth.

    Attributes:
        pixels: RGB uint8 [h, w, 3], or IR uint8 or uint16 [h', w'].
        boxes, labels: float32 [N, 4] x1 y1 x2 y2 in RGB pixels, and int64 [N], indices into the source's classes; None
            for an IR image, or if unlabelled.
        tracks, visible: N track names ("" if unknown), and visible fractions float [N], 0..1.
        mask: uint8 [h, w], indices into the source's mask classes, 255 unlabelled; None: no mask.
        ignored, ignored_labels: boxes float32 [I, 4] and labels int64 [I] of regions to ignore; None: none.
    """

    pixels: np.ndarray
    boxes: np.ndarray | None = None
    labels: np.ndarray | None = None
    tracks: tuple[str, ...] = ()
    visible: np.ndarray | None = None
    mask: np.ndarray | None = None
    ignored: np.ndarray | None = None
    ignored_labels: np.ndarray | None = None


class ViewSource(Protocol):
    """Interface of an image source.

    Attributes:
        name: for the labels file.
        band: of the IR camera.
        classes, mask_classes: names that labels and masks index; empty without labels.
        registration: true mapping from IR to RGB pixels, with both sizes; None: the IR image covers the whole RGB
            image, whatever its size.
    """

    name: str
    band: Modality
    classes: tuple[str, ...]
    mask_classes: tuple[str, ...]
    registration: Registration | None

    def views(self, stream: Stream, moments_ns: Sequence[int]) -> Iterator[CameraView]:
        """Yield a camera's view at each of the times, in nanoseconds from the start."""
        ...


class SceneViews:
    """One synthetic scene, rendered at each camera's exposure times."""

    name = "scenes"
    classes = BOX_CLASSES
    mask_classes = MASK_CLASSES

    def __init__(
        self,
        seed: int,
        band: Modality = Modality.LWIR,
        size: tuple[int, int] = (640, 512),
        ir_size: tuple[int, int] | None = None,
        ir_to_rgb: Sequence[float] | None = None,
        misregistration_px: float = 0.0,
        time_of_day: str | None = None,
        noise: bool = True,
    ) -> None:
        """
        Args:
            seed, band: of the scene, and of the IR camera.
            size, ir_size: (width, height) of the RGB and IR images; IR as RGB by default.
            ir_to_rgb: nine numbers, row by row, of the homography from IR to RGB pixels (first centre at (0, 0)); None:
                the IR image covers the RGB image, except for `misregistration_px`.
            misregistration_px: maximum displacement of a seeded random homography.
            time_of_day: "day", "dusk", "night"; None: by the seed.
            noise: whether to simulate sensor noise.

        Raises:
            ValueError, RegistrationError: invalid sizes, seed, time of day or homography.
        """
        if ir_to_rgb is not None and misregistration_px:
            raise BagError("give the homography or a misregistration in pixels, not both")
        if misregistration_px and ir_size not in (None, size):
            raise BagError("a misregistration in pixels needs two images of one size: give the homography instead")
        self.band = band
        self._seed, self._ir_size = seed, ir_size
        self._options = SceneOptions(
            width=size[0], height=size[1], time_of_day=time_of_day, misregistration_px=misregistration_px, noise=noise
        )
        if seed < 0:
            raise BagError(f"seed must be 0 or more, got {seed}")
        of_ir = size if ir_size is None else ir_size
        if ir_to_rgb is not None:
            matrix = np.reshape(Registration(tuple(ir_to_rgb), of_ir, size, "--ir-to-rgb").matrix, (3, 3))
            self._matrix: np.ndarray | None = _HALF @ matrix @ np.linalg.inv(_HALF)
        elif of_ir != size:
            self._matrix = np.diag([size[0] / of_ir[0], size[1] / of_ir[1], 1.0])
        else:
            self._matrix = None
        truth = np.eye(3) if self._matrix is None else self._matrix
        if self._matrix is None and misregistration_px:
            truth = next(render_moments(seed, [0], self._options_for(Modality.RGB))).ir_to_rgb
        truth = np.linalg.inv(_HALF) @ truth @ _HALF
        self.registration: Registration | None = Registration(
            tuple((truth / truth[2, 2]).reshape(-1)), of_ir, size, "how it was rendered"
        )

    def views(self, stream: Stream, moments_ns: Sequence[int]) -> Iterator[CameraView]:
        """See `ViewSource`."""
        band = Modality.RGB if stream is Stream.RGB else self.band
        for scene in render_moments(self._seed, moments_ns, self._options_for(band), self._matrix, self._ir_size):
            if band is not Modality.RGB:
                yield CameraView(scene.images[band])
                continue
            tracks = tuple(str(track) for track in scene.tracks.tolist())
            yield CameraView(scene.images[band], scene.boxes, scene.labels, tracks, scene.visible, scene.mask)

    def _options_for(self, band: Modality) -> SceneOptions:
        return replace(self._options, bands=(band,))


class _LoadedPair:
    """A pair of a labelled data set with the interface of `PairedItem`; images are read on demand."""

    def __init__(self, pairs: LabelledPairs, item: LabelledItem) -> None:
        self._pairs, self._item = pairs, item
        sample = pairs.load(item)
        self.boxes, self.labels, self.size = sample.boxes, sample.labels, sample.size
        self.ignored, self.ignored_labels = sample.ignored, sample.ignored_labels

    def load_rgb(self) -> np.ndarray:
        return self._pairs.load(self._item).rgb

    def load_infrared(self) -> np.ndarray:
        return self._pairs.load(self._item).infrared

    def load_mask(self) -> np.ndarray | None:
        return self._pairs.load(self._item).mask


class FolderViews:
    """Still pairs of a folder in sequence, each shown for one period of the slower camera."""

    def __init__(
        self,
        folder: PairedFolder | LabelledPairs,
        rate_hz: float,
        size: tuple[int, int] | None = None,
        ir_size: tuple[int, int] | None = None,
        ir_to_rgb: Sequence[float] | None = None,
        limit: int | None = None,
    ) -> None:
        """
        Args:
            folder: the pairs; images of a single camera are skipped.
            rate_hz: pairs per second.
            size, ir_size: (width, height) to which images are resized, IR as RGB by default; None: unchanged, each pair
                in its own size.
            ir_to_rgb: as in `SceneViews`: the IR images, which are registered in the folder, are warped so that this
                homography maps them back. Beyond their edges the border is replicated.
            limit: maximum number of pairs.

        Raises:
            BagError: no pairs; or several sizes where one is needed.
            BenchmarkError, ImageFileError, RegistrationError: an image is missing or damaged, or the homography wrong.
        """
        self.band = Modality.parse(folder.infrared)
        self.items: tuple[PairedItem | _LoadedPair, ...]
        if isinstance(folder, PairedFolder):
            self.name, classes, self.items = folder.name, folder.classes, folder.items[:limit]
            has_masks = any(item.mask_path is not None for item in folder.items[:limit])
        else:
            self.name, classes, has_masks = folder.benchmark.name, folder.box_classes, bool(folder.mask_classes)
            self.items = tuple(_LoadedPair(folder, item) for item in folder if all(item.present))[:limit]
        self.classes = tuple(classes) if any(item.boxes is not None for item in self.items) else ()
        self.mask_classes = tuple(folder.mask_classes) if has_masks else ()
        self._rate_hz = rate_hz
        if not self.items:
            raise BagError(
                f"{folder.root} has no pairs in its split {folder.split!r}: give a folder or --split with images of "
                "both cameras"
            )
        sizes = {item.size for item in self.items}
        if size is None and len(sizes) == 1:
            size = sizes.pop()
        if size is None and (ir_size is not None or ir_to_rgb is not None):
            raise BagError(
                f"{folder.root}: its images have {len(sizes)} sizes: give one size to resize them to (--size)"
            )
        self._size, self._ir_size = size, ir_size or size
        self._matrix: np.ndarray | None = None
        self.registration: Registration | None = None
        if size is not None and self._ir_size is not None:
            if ir_to_rgb is None:
                self.registration = Registration.whole(self._ir_size, size)
            else:
                self.registration = Registration(tuple(ir_to_rgb), self._ir_size, size, "--ir-to-rgb")
                self._matrix = np.reshape(self.registration.matrix, (3, 3))

    @property
    def duration_s(self) -> float:
        """Time to show all pairs."""
        return len(self.items) / self._rate_hz

    def views(self, stream: Stream, moments_ns: Sequence[int]) -> Iterator[CameraView]:
        """See `ViewSource`."""
        known: tuple[int, CameraView] | None = None
        for moment in moments_ns:
            # A pair is shown around the slower camera's exposure time, not from then on, so that the nearest frame of
            # the faster camera shows it too, even if it is a little earlier.
            place = min(int(moment * self._rate_hz / 1e9 + 0.5), len(self.items) - 1)
            if known is None or known[0] != place:
                view = self._infrared if stream is Stream.IR else self._colour
                known = place, view(self.items[place])
            yield known[1]

    def _infrared(self, item: PairedItem | _LoadedPair) -> CameraView:
        pixels = item.load_infrared()
        if self._matrix is None:
            return CameraView(_resized(pixels, self._ir_size))
        pixels, flags = _resized(pixels, self._size), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return CameraView(
            cv2.warpPerspective(pixels, self._matrix, self._ir_size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        )

    def _colour(self, item: PairedItem | _LoadedPair) -> CameraView:
        mask = item.load_mask() if self.mask_classes else None
        count = 0 if item.boxes is None else len(item.boxes)
        scale = np.array([s / o for s, o in zip(self._size or item.size, item.size)] * 2, np.float32)
        boxes, ignored = (None if found is None else found * scale for found in (item.boxes, item.ignored))
        return CameraView(
            _resized(item.load_rgb(), self._size),
            boxes,
            item.labels,
            ("",) * count,
            np.ones(count),
            None if mask is None else _resized(mask, self._size, cv2.INTER_NEAREST),
            ignored,
            item.ignored_labels,
        )


def _resized(image: np.ndarray, size: tuple[int, int] | None, method: int | None = None) -> np.ndarray:
    if size is None or (image.shape[1], image.shape[0]) == size:
        return image
    if method is None:
        method = cv2.INTER_AREA if size[0] < image.shape[1] else cv2.INTER_LINEAR
    return cv2.resize(image, size, interpolation=method)
