"""Before-and-after checkerboards for judging a registration by eye.

Letters: h x w the RGB image.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from spectradino_core.calibration.checkerboard import checkerboard
from spectradino_core.calibration.estimation.recordings import ImagePair
from spectradino_core.calibration.registration import Registration

__all__ = ["before_and_after"]

_BAR = 24
_WIDEST = 960


def before_and_after(pairs: Sequence[ImagePair], registration: Registration) -> np.ndarray:
    """Draw one row per pair, without the registration left and with it right: uint8 RGB [h', w', 3].

    Args:
        pairs: at least one.
        registration: IR to RGB pixels.

    Raises:
        RegistrationError: the registration is not for images of these sizes.
    """
    rows = []
    for pair in pairs:
        boards = []
        for name, used in (("before", None), ("after", registration)):
            board = checkerboard(pair.rgb, pair.infrared, used)
            if board.shape[1] > _WIDEST:
                size = (_WIDEST, round(board.shape[0] * _WIDEST / board.shape[1]))
                board = cv2.resize(board, size, interpolation=cv2.INTER_AREA)
            bar = np.full((_BAR, board.shape[1], 3), 24, np.uint8)
            cv2.putText(bar, f"{name}: {pair.name}", (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (235,) * 3, 1, cv2.LINE_AA)
            boards.append(np.vstack([bar, board]))
        rows.append(np.hstack(boards))
    return np.vstack(rows)
