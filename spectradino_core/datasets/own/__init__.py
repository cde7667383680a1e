"""A user's own folder of images and labels, read in any of the usual layouts, with one camera or both.

- `scan.py`: finds images with their camera and split, and label files.
- `labels.py`: matches label files to images.
- `folder.py`: both together as a data set like the published ones.
"""

from __future__ import annotations

from spectradino_core.datasets.own.folder import OwnFolder, open_own

__all__ = ["OwnFolder", "open_own"]
