"""The paper's ablations (Tables 9 to 14) as one matrix of runs.

- `recipe.py`: what a matrix is; `matrix.py`: the paper's rows for any data set; `recipes.py`: those there are.
- `paper.py`: the paper's figures; `pool.py`: scenes rendered once for all cells.
- `work.py`: what one job does; `runner.py`: jobs in order, several at a time, taken up where they stopped.
- `layout.py`: the tables as in the paper, as Markdown, CSV, pictures and a page.
"""

from __future__ import annotations
