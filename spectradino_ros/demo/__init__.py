"""The demo: a node in its own process, a player in another, and pictures of what came back.

`__main__.py` runs it · `street.py` makes a folder of synthetic pairs · `player.py` publishes a folder's pairs ·
`processes.py` starts and ends the two processes · `collector.py` gathers answers · `figures.py` scores them ·
`pictures.py` draws them. Start it with `python -m spectradino_ros.demo --help`.
"""

from __future__ import annotations
