"""Several workers of one study on this host, each a process with its own GPU or CPU threads.

A worker that is killed is replaced, and the new worker continues its trial. So is one that leaves
after an error of its GPU (see `search.study.gpu_faults`); its place is given up if the GPU does not
answer the new one. Workers end with the process that started them, even if that process is killed:
they notice the closed pipe, write a checkpoint and exit.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType

from cyclegan.errors import CycleGANError, UsageError
from cyclegan.precision import choose_device
from cyclegan.signals import handled, held_back, interrupt_on_ending
from search.study.places import Host, how_shared, places
from search.study.progress import LocalProgress, Message, RemoteProgress, StudyProgress
from search.study.study import StudyHandle

_OVER = "over"
_SECONDS = 0.5
_INTERRUPTED = 130
_AFRESH = 75
"""Exit code of a worker that a fresh process is to replace."""
_DEATHS = 12
"""Number of deaths in a row after which the run stops: more than one trial must be at fault."""


@dataclass(frozen=True, kw_only=True)
class _Order:
    """The settings that a worker process receives."""

    study: str
    storage: str | None
    """Address of the database with its password, if it has one; None for the journal."""
    trials: int
    tracking_uri: str
    parent: str
    precision: str
    command: str
    gpu: str
    """Name of the GPU that the worker must find, as `torch.device` knows it; empty on a CPU."""


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    over: tuple[int, str] | None = None
    """Exit code and message, once the worker has sent them."""


def run_workers(
    handle: StudyHandle,
    progress: LocalProgress,
    *,
    count: int,
    tracking_uri: str,
    parent: str,
    precision: str,
) -> bool:
    """Let `count` processes work on the study. Return True if they were interrupted.

    Errors: `CycleGANError` of the first worker that stopped with an error; the others end in order.
    """
    definition = handle.definition
    name = str(definition.base.get("device", "auto"))
    gpu = choose_device(name).type == "cuda"
    order = _Order(
        study=definition.name,
        storage=handle.storage.secret,
        trials=definition.trials,
        tracking_uri=tracking_uri,
        parent=parent,
        precision=precision,
        command=uuid.uuid4().hex,
        gpu=name.replace("auto", "cuda") if gpu else "",
    )
    host = Host.here()
    if (line := how_shared(count, name, host)) is not None:
        progress.say(f"study {definition.name}: {line}")
    crew = _Crew(order, progress, places(count, name, host))
    with _forwarding(crew):
        crew.start()
        while crew.workers:
            crew.listen()
    if crew.problem is not None:
        code, message = crew.problem
        raise (UsageError if code == UsageError.exit_code else CycleGANError)(message)
    return crew.stopping


class _Crew:
    """The workers that are alive."""

    def __init__(self, order: _Order, progress: LocalProgress, places: Sequence[Mapping[str, str]]):
        self.order, self.progress, self.places = order, progress, places
        self.workers: dict[int, _Worker] = {}
        self.stopping = False
        self.problem: tuple[int, str] | None = None
        self.deaths = 0
        """Number of deaths since a trial last ended."""

    def start(self) -> None:
        for number in range(len(self.places)):
            self._start(number)

    def _start(self, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_child, args=(self.order, theirs), name=f"worker-{number}")
        with _environment(self.places[number]), held_back(), _main_hidden():
            process.start()
        theirs.close()
        self.workers[number] = _Worker(process, ours)

    def listen(self) -> None:
        """Show the workers' progress for up to half a second, and replace killed workers."""
        ready = wait([worker.pipe for worker in self.workers.values()], timeout=_SECONDS)
        for number, worker in list(self.workers.items()):
            if worker.pipe not in ready:
                continue
            try:
                message: Message = worker.pipe.recv()
            except (EOFError, OSError):
                self._ended(number, worker)
                continue
            if message[0] == _OVER:
                code, text = message[1]
                worker.over = (code, text)
            else:
                if message[0] == "ended":
                    self.deaths = 0
                self.progress.receive(message)

    def _ended(self, number: int, worker: _Worker) -> None:
        worker.pipe.close()
        worker.process.join()
        del self.workers[number]
        code, text = worker.over or (worker.process.exitcode or 1, "")
        if code == _INTERRUPTED:
            self.stopping = True
        elif code == _AFRESH:
            if not self.stopping:
                self._start(number)
        elif worker.over and code != 0:
            self.problem = self.problem or (code, text)
            self.stop()
        elif not worker.over and not self.stopping:
            why = f"signal {-code}" if code < 0 else f"exit code {code}"
            self.deaths += 1
            if self.deaths >= _DEATHS:
                self.problem = (1, f"{self.deaths} workers died in a row, the last with {why}")
                self.stop()
                return
            self.progress.warn(f"warning: worker {number} died ({why}); another takes its place")
            self._start(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask all workers to write a checkpoint and exit."""
        self.stopping = True
        for worker in self.workers.values():
            with contextlib.suppress(ProcessLookupError):
                if worker.process.pid and worker.process.is_alive():
                    os.kill(worker.process.pid, number)


@contextlib.contextmanager
def _forwarding(crew: _Crew) -> Iterator[None]:
    """Pass Ctrl-C and the like on to the workers as SIGTERM, a second Ctrl-C as SIGKILL."""

    def handle(number: int, frame: FrameType | None) -> None:
        impatient = crew.stopping and number == signal.SIGINT
        crew.stop(signal.SIGKILL if impatient else signal.SIGTERM)

    try:
        with handled(handle):
            yield
    finally:
        for worker in crew.workers.values():  # after an error in this process
            worker.process.terminate()


def apart(function: Callable[..., None], *arguments: object) -> None:
    """Call a function of a module in a process of its own, and raise the error that it raises.

    What it takes of a GPU is gone afterwards. Errors: its `CycleGANError`, with the same message.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_called, args=(theirs, function, arguments))
    with held_back(), _main_hidden():
        process.start()
    theirs.close()
    try:
        error: CycleGANError | None = ours.recv()
    except EOFError:
        process.join()
        name = function.__name__.strip("_").replace("_", " ")
        raise CycleGANError(f"{name}: the process died, exit code {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
    if error is not None:
        raise error


def _called(pipe: Connection, function: Callable[..., None], arguments: Sequence[object]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that waits gets it, too
    try:
        function(*arguments)
    except CycleGANError as error:
        pipe.send(error)
    except Exception as error:  # noqa: BLE001  (the process that waits reports it)
        pipe.send(CycleGANError(f"{type(error).__name__}: {error}"))
    else:
        pipe.send(None)


@contextlib.contextmanager
def _main_hidden() -> Iterator[None]:
    """Let new processes not import this one's main script: it may start studies when imported."""
    main = sys.modules["__main__"]
    missing = object()
    before = {name: getattr(main, name, missing) for name in ("__spec__", "__file__")}
    main.__spec__, main.__file__ = None, None
    try:
        yield
    finally:
        for name, value in before.items():
            if value is missing:
                delattr(main, name)
            else:
                setattr(main, name, value)


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def _child(order: _Order, pipe: Connection) -> None:
    """Run a worker process, from its settings to its last message."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # only the parent gets the terminal's Ctrl-C, and passes it on once
    interrupt_on_ending()
    threading.Thread(target=_end_with_parent, args=(pipe,), daemon=True).start()
    lock = threading.Lock()

    def send(message: Message) -> None:
        with lock, contextlib.suppress(OSError):
            pipe.send(message)

    end = _work(order, RemoteProgress(send))
    send((_OVER, end))
    pipe.close()
    if end[0] == _AFRESH:
        os._exit(_AFRESH)  # CUDA's own cleanup may hang or abort after such an error


def _work(order: _Order, progress: StudyProgress) -> tuple[int, str]:
    """Work on the study, and return the exit code and message."""
    import torch

    from cyclegan.gpu_errors import require_gpu
    from search.study.lease import Owner
    from search.study.progress import ProgressConsole
    from search.study.study import open_study
    from search.study.trial import WorkerContext
    from search.study.worker import work
    from tracking import Store

    console = ProgressConsole(progress)
    console.log_to_here()
    ends = {"done": 0, "interrupted": _INTERRUPTED, "afresh": _AFRESH}
    try:
        if order.gpu:
            require_gpu(torch.device(order.gpu))
        handle = open_study(order.study, order.storage).with_trials(order.trials)
        with Owner(handle.folder, order.command) as owner:
            context = WorkerContext(
                handle=handle,
                store=Store.open(order.tracking_uri),
                console=console,
                progress=progress,
                owner=owner,
                parent=order.parent,
                precision=order.precision,
            )
            end = work(context)
            return ends[end], "" if end == "done" else end
    except KeyboardInterrupt:
        return _INTERRUPTED, "interrupted"
    except CycleGANError as error:
        return error.exit_code, str(error)
    except Exception as error:  # noqa: BLE001  (the parent reports it in one line)
        return CycleGANError.exit_code, f"a worker failed: {type(error).__name__}: {error}"


def _end_with_parent(pipe: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        pipe.recv()  # the parent never sends anything, so this returns when the parent is gone
    os.kill(os.getpid(), signal.SIGTERM)
