"""A process that is asked to end leaves in order, however early and however often it is asked."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import pytest

from cyclegan.signals import ENDING, handled, held_back

CHILD = """
import sys, time
{ready}
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.5)  # writes its checkpoint
    print("left", flush=True)
    sys.exit(130)
"""
READY = "from cyclegan.signals import interrupt_on_ending; interrupt_on_ending()"


@pytest.mark.parametrize("number", ENDING)
def test_all_signals_of_batch_systems_end_a_process_in_order_and_only_once(number: int) -> None:
    code = CHILD.format(ready=READY)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        child.send_signal(number)
        time.sleep(0.1)
        child.send_signal(signal.SIGTERM)  # the batch system's, and the parent's own
        assert child.stdout.read() == "left\n"
    assert child.returncode == 130


def test_a_process_born_with_signals_held_back_gets_them_when_it_is_ready() -> None:
    with held_back():
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "workbench", "study", "list"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
    with child:
        child.send_signal(signal.SIGUSR1)  # before Python runs its first line
        _, said = child.communicate()
    # Python dies of SIGINT if it was just importing when it was interrupted.
    assert child.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in said


def test_handlers_come_back_after_the_block() -> None:
    came: list[int] = []
    before = [signal.getsignal(number) for number in ENDING]
    with handled(lambda number, frame: came.append(number)):
        for number in ENDING:
            signal.raise_signal(number)
    assert came == list(ENDING)
    assert [signal.getsignal(number) for number in ENDING] == before


def test_other_threads_have_no_handlers() -> None:
    found: list[object] = []

    def look() -> None:
        before = signal.getsignal(signal.SIGTERM)
        with handled(lambda number, frame: None):
            found.append(signal.getsignal(signal.SIGTERM) is before)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [True]
