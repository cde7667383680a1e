"""Registration of an IR camera to an RGB camera.

`registration.py`: homography and warp; `camera_geometry.py`: homography from CameraInfo, extrinsics and a plane;
`static_transforms.py`: extrinsics from /tf_static; `checkerboard.py`: both bands in tiles, for visual inspection.
`estimation/`: homography and clock offset estimated from recordings.
"""

from __future__ import annotations
