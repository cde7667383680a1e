"""The paper's ablations (Tables 9 to 14) as one matrix of runs.

- `recipe.py`: types of a matrix; `matrix.py`: the paper's rows for any data set; `recipes.py`: the available ablations.
- `paper.py`: the paper's results; `pool.py`: scenes rendered once for all cells.
- `work.py`: one job; `runner.py`: runs jobs in order, several in parallel, and resumes them.
- `layout.py`: the paper's tables as Markdown, CSV, plots and an HTML page.
"""

from __future__ import annotations
