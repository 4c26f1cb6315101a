"""``python -m datalab`` is the ``datalab`` command.

What reads a record, which may be a stranger's, does so in a process of its own: files can be made on which the
libraries that read them crash, or go on where neither an alarm nor Ctrl-C reaches them. Then that process is lost and
nothing else, and a line says so.
"""

import importlib
import os
import signal
import sys

# `python -m` looks for modules in the working directory first, which may be a stranger's record: a file there that is
# called like a library would be run. The console script `datalab` does not look there at all.
if sys.path and os.path.realpath(sys.path[0]) == os.getcwd() != os.path.dirname(os.path.dirname(__file__)):
    del sys.path[0]

READERS = frozenset({"verify", "compare", "report", "claims"})
PATIENCE = 5  # seconds from Ctrl-C to the end of a process that does not hear it


def program() -> None:
    """The command as it is installed."""
    if READERS.isdisjoint(sys.argv[1:2]):
        _main()
    elif child := os.fork():
        sys.exit(_status(child))
    else:
        from datalab.record import folder

        folder.limit_memory()
        _main()


def _main() -> None:
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # a job in the background does not hear it
    if heard:
        signal.signal(signal.SIGINT, _interrupted)
    from datalab.cli import main  # after the fork: the process that waits need not hold it

    if sys.argv[1:2] == ["advise"] and {"-h", "--help"}.isdisjoint(sys.argv):
        importlib.import_module("datalab.advise")  # which takes torch
    if heard:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
    finally:
        exec("")  # or Python ends by the signal, whatever the status, where it met code made from text, as dataclasses


def _interrupted(*_: object) -> None:
    """End where nothing has begun: some libraries that are being loaded swallow an exception, or abort on it."""
    os.write(2, b"datalab: interrupted\n")
    os._exit(130)


def _status(child: int) -> int:
    """The exit status of the process that reads, once it has ended; a signal that ended it is told in a line."""
    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        signal.alarm(PATIENCE)  # the terminal tells the child, too

    def end(*_: object) -> None:
        import psutil

        for process in (*psutil.Process(child).children(recursive=True), psutil.Process(child)):
            process.kill()

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGALRM, end)
    signal.signal(signal.SIGTERM, end)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code >= 0:
        return code
    if not interrupted:
        words = "it holds what no honest one does, or this machine has too little memory"
        print(f"datalab: what read the record was ended by {signal.Signals(-code).name}: {words}", file=sys.stderr)
    return 130 if interrupted else 1


if __name__ == "__main__":
    program()
