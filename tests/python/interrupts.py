"""That Ctrl-C ends a call that would go on for long."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest


def check_interrupt(call: Callable[[], Any], within: float = 0.5) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    sent: list[float] = []

    def send() -> None:
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.3, send)
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            call()
        assert time.perf_counter() - sent[0] < within, "0.2 s, and some for a busy machine"
    finally:
        timer.cancel()  # a call that ended too soon must not be followed by a signal
        signal.signal(signal.SIGINT, before)
