"""Render a scene at a moment: paint back to front, shade per band, read the ground truth off the canvas."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import cv2
import numpy as np

from spectradino_core.modality import INFRARED, Modality
from spectradino_core.scenes.camera import Camera, seeded_homography
from spectradino_core.scenes.canvas import Canvas
from spectradino_core.scenes.layout import Street, draw_street
from spectradino_core.scenes.scene import Scene, SceneOptions
from spectradino_core.scenes.sensors import expose_lwir, expose_nir, expose_rgb, expose_swir
from spectradino_core.scenes.shading import Shader
from spectradino_core.scenes.street import paint_ground, paint_shadows, paint_sky
from spectradino_core.scenes.weather import Weather

_MIN_VISIBLE = 0.25
_MIN_HEIGHT = 6.0 / 512.0
_NOISE = 7
_DEFAULT = SceneOptions()


def render_scene(seed: int, options: SceneOptions = _DEFAULT) -> Scene:
    """Render the scene of `seed` (not negative) at time 0; the same arguments give the same bytes."""
    return next(render_sequence(seed, 1, options=options))


def render_sequence(seed: int, frames: int, rate_hz: float = 10.0, options: SceneOptions = _DEFAULT) -> Iterator[Scene]:
    """Render the scene of `seed` over time: people walk, cars drive, the ego car may roll.

    Args:
        seed, frames, options: see `render_moments`; number of frames.
        rate_hz: frames per second; frame k is stamped `options.start_ns` + k / rate.

    Raises:
        ValueError: a negative seed or a rate that is not positive.
    """
    if not rate_hz > 0.0:
        raise ValueError(f"rate_hz {rate_hz} must be positive")
    return render_moments(seed, (round(frame * 1e9 / rate_hz) for frame in range(frames)), options)


def render_moments(
    seed: int,
    elapsed_ns: Iterable[int],
    options: SceneOptions = _DEFAULT,
    ir_to_rgb: np.ndarray | None = None,
    ir_size: tuple[int, int] | None = None,
) -> Iterator[Scene]:
    """Render the scene of `seed` at arbitrary moments, as unsynchronised cameras in one recording see it.

    Args:
        seed: not negative.
        elapsed_ns: the moments, in nanoseconds since the start; the first frame is number 0.
        options: what to render.
        ir_to_rgb: float64 [3, 3] homography that replaces the seeded one; as in `Scene`, the centre of the first
            pixel is (0.5, 0.5).
        ir_size: (width, height) of the IR images; None: that of the RGB image.

    Raises:
        ValueError: a negative seed.
    """
    if seed < 0:
        raise ValueError(f"seed {seed} is negative: seeds are 0, 1, 2, ...")

    def moments() -> Iterator[Scene]:
        street = draw_street(seed, options.time_of_day, options.traffic)
        rng, size = np.random.default_rng([seed, 5]), (options.width, options.height)
        warp = seeded_homography(rng, *size, options.misregistration_px) if ir_to_rgb is None else ir_to_rgb
        for frame, moment in enumerate(elapsed_ns):
            yield _moment(seed, frame, street, moment, warp, options, ir_size)

    return moments()


def _moment(
    seed: int,
    frame: int,
    street: Street,
    elapsed_ns: int,
    ir_to_rgb: np.ndarray,
    options: SceneOptions,
    ir_size: tuple[int, int] | None,
) -> Scene:
    offset_ns = round(options.clock_offset_ms * 1e6)
    canvas = _paint(street, _camera(street, elapsed_ns, options, np.eye(3)), elapsed_ns)
    shader = ir_shader = Shader(canvas, street)
    ir_options = options
    own_view = offset_ns != 0 or ir_size is not None or not np.array_equal(ir_to_rgb, np.eye(3))
    if own_view and any(band in INFRARED for band in options.bands):
        later = elapsed_ns + offset_ns
        camera = _camera(street, later, options, np.linalg.inv(ir_to_rgb), ir_size)
        ir_shader = Shader(_paint(street, camera, later), street)
        if ir_size is not None:
            ir_options = replace(options, width=ir_size[0], height=ir_size[1], misregistration_px=0.0)
    images = {}
    for band in options.bands:
        rng = np.random.default_rng([seed, _NOISE, frame, int(band)])
        seen_by, settings = (ir_shader, ir_options) if band in INFRARED else (shader, options)
        images[band] = _expose(band, seen_by, street.weather, settings, rng)
    stamps = {band: options.start_ns + elapsed_ns + (offset_ns if band in INFRARED else 0) for band in options.bands}
    return Scene(
        images=images,
        **_truth(canvas, shader, street, options),
        depth=_pick(shader.depth, options),
        stamps_ns=stamps,
        time_of_day=street.weather.time_of_day,
        ir_to_rgb=ir_to_rgb,
        seed=seed,
    )


def _camera(
    street: Street, elapsed_ns: int, options: SceneOptions, warp: np.ndarray, size: tuple[int, int] | None = None
) -> Camera:
    """Return the RGB camera, or a camera of `size` behind the homography `warp` from its pixels to the RGB camera's."""
    view, fine = street.view, options.supersample
    width, height = options.width * fine, options.height * fine
    c, s = np.cos(view.roll), np.sin(view.roll)
    x, y = 0.5 * width, 0.5 * height
    roll = np.array([[c, -s, x - c * x + s * y], [s, c, y - s * x - c * y], [0.0, 0.0, 1.0]])
    scale = np.diag([fine, fine, 1.0])
    return Camera(
        width=width if size is None else size[0] * fine,
        height=height if size is None else size[1] * fine,
        focal=view.focal * width,
        u0=view.column * width,
        v0=view.horizon * height,
        eye=(0.0, view.eye_height, view.travelled(elapsed_ns * 1e-9)),
        post=scale @ warp @ np.linalg.inv(scale) @ roll,
        pinhole_width=width,
    )


def _paint(street: Street, camera: Camera, elapsed_ns: int) -> Canvas:
    t = elapsed_ns * 1e-9
    canvas = Canvas(camera, street.weather.sun_direction)
    paint_sky(canvas, street.materials, street.cloud_offset)
    paint_ground(canvas, street.road, street.materials)
    still, passing = canvas.add_shaded_ground(0.8, still=True), canvas.add_shaded_ground(0.8, still=False)
    under = canvas.add_shaded_ground(0.35, still=True, warmer=1.5)
    paint_shadows(canvas, [actor.footprint(t) for actor in street.actors], under)
    if street.weather.sun.any():
        standing = [thing.shadow_points() for thing in street.things] + [
            actor.shadow_points(t) for actor in street.actors if actor.speed == 0.0
        ]
        paint_shadows(canvas, [hull for hull in standing if len(hull)], still)
        paint_shadows(canvas, [actor.shadow_points(t) for actor in street.actors if actor.speed > 0.0], passing)
    far_first = [(-thing.far, thing.paint) for thing in street.things]
    far_first += [(-actor.position(t)[1], actor.paint) for actor in street.actors]
    for _, paint in sorted(far_first, key=lambda entry: entry[0]):
        paint(canvas, t)
    return canvas


def _expose(
    band: Modality, shader: Shader, weather: Weather, options: SceneOptions, rng: np.random.Generator
) -> np.ndarray:
    if band is Modality.RGB:
        return expose_rgb([_average(shader.radiance(k), options) for k in range(3)], weather, options, rng)
    if band is Modality.NIR:
        return expose_nir(_average(shader.radiance(3), options), weather, options, rng)
    if band is Modality.SWIR:
        return expose_swir(_average(shader.radiance(4), options), weather, options, rng)
    return expose_lwir(_average(shader.temperature(), options), options, rng)


def _average(plane: np.ndarray, options: SceneOptions) -> np.ndarray:
    if options.supersample == 1:
        return plane
    return cv2.resize(plane, (options.width, options.height), interpolation=cv2.INTER_AREA)


def _pick(plane: np.ndarray, options: SceneOptions) -> np.ndarray:
    """Return the sample nearest each output pixel's centre (classes and depths are not averaged)."""
    fine = options.supersample
    return np.ascontiguousarray(plane[fine // 2 :: fine, fine // 2 :: fine])


def _truth(canvas: Canvas, shader: Shader, street: Street, options: SceneOptions) -> dict[str, np.ndarray]:
    """Return boxes, labels, visible, tracks, mask and instances of a `Scene`."""
    numbers = shader.instances()
    seen = np.bincount(numbers.reshape(-1), minlength=len(street.actors) + 1)
    found: list[tuple[tuple[float, ...], int, float, int]] = []
    renumber = np.zeros(len(street.actors) + 1, np.uint16)
    for actor in street.actors:
        silhouette = canvas.silhouettes.get(actor.instance)
        if silhouette is None:
            continue
        fraction = seen[actor.instance] / silhouette.pixels * silhouette.in_image
        box = tuple(edge / options.supersample for edge in silhouette.box)
        if fraction >= _MIN_VISIBLE and box[3] - box[1] >= _MIN_HEIGHT * options.height:
            found.append((box, actor.label, fraction, actor.instance))
            renumber[actor.instance] = len(found)
    boxes, labels, visible, tracks = zip(*found, strict=True) if found else ((), (), (), ())
    return {
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "labels": np.array(labels, np.int64),
        "visible": np.array(visible, np.float32),
        "tracks": np.array(tracks, np.int64),
        "mask": _pick(shader.classes(), options),
        "instances": _pick(renumber[numbers], options),
    }
