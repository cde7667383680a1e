"""`python -m spectradino_ros.demo`, see `run`; names what to install if a package is missing."""

from __future__ import annotations

import sys

from spectradino_ros.entry import import_failure

if __name__ == "__main__":
    try:
        from spectradino_ros.demo.run import main
    except ImportError as error:
        sys.exit(f"the demo cannot start: {import_failure(error)}")
    sys.exit(main())
