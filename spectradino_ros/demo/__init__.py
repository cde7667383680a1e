"""Demo: replays pairs to a detector node in another process, scores its results and draws them.

`__main__.py` runs it · `synthetic.py` renders a folder of pairs · `player.py` publishes a folder's pairs ·
`processes.py` starts and ends both processes · `results.py` collects the results and their figures · `overlays.py`
draws them. Start it with `python -m spectradino_ros.demo --help`.
"""

from __future__ import annotations
