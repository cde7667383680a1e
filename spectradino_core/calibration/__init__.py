"""Registration of an IR camera to an RGB camera.

`registration.py`: homography and warp; `camera_geometry.py`: homography from CameraInfo, poses and a plane;
`checkerboard.py`: both bands in tiles, to judge a registration by eye. `estimation/` estimates homography and clock
offset from recordings.
"""

from __future__ import annotations
