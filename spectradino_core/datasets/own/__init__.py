"""A user's own folder of images and labels, read as it is: any of the usual layouts, one camera or both.

- `scan.py`: which files are images of which camera and split, and which are labels.
- `labels.py`: what the label files say about each image.
- `folder.py`: both together, as a data set like the published ones.
"""

from __future__ import annotations

from spectradino_core.datasets.own.folder import OwnFolder, open_own

__all__ = ["OwnFolder", "open_own"]
