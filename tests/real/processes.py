"""Starting, waiting for and ending the programs that make up a test: by process id, with deadlines, never by luck."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time


def until(what, probe, seconds=10.0, every=0.02):
    """Polls `probe` until it is truthy and returns what it gave; fails saying what was waited for."""
    deadline = time.monotonic() + seconds
    while not (value := probe()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s for {what}; last answer: {value!r}")
        time.sleep(every)
    return value


def free_port():
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def required(program):
    """The program's path; setup.sh installs all of them."""
    path = shutil.which(program)
    assert path, f"{program} is not installed: run tests/real/setup.sh"
    return path


class Process:
    """A program started by this suite: own process group, output in a file, gone when the suite is gone."""

    def __init__(self, argv, *, log, env=None, stdin=b"", parent_death="KILL", **popen):
        self.name = os.path.basename(str(argv[0]))
        self.log = pathlib.Path(log)
        # The kernel ends the program when pytest dies, however that happens.
        guarded = [required("setpriv"), "--pdeathsig", parent_death, "--", *map(str, argv)]
        with open(self.log, "ab") as output:
            self._popen = subprocess.Popen(
                guarded,
                env=env,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **popen,
            )
        self._popen.stdin.write(stdin)
        self._popen.stdin.close()

    @property
    def pid(self):
        return self._popen.pid

    @property
    def running(self):
        return self._popen.poll() is None

    def output(self):
        return self.log.read_text(errors="replace")

    def ready(self, what, probe, seconds):
        """Waits for `probe`, and fails at once with the program's output when it has ended instead."""

        def ready_or_dead():
            ended = not self.running  # looked at first: it may end right after having become ready
            value = probe()
            assert value or not ended, f"{self.name} ended before {what}:\n{self.output()[-4000:]}"
            return value

        return until(f"{what} ({self.log})", ready_or_dead, seconds)

    def signal(self, number):
        if self.running:
            self._popen.send_signal(number)

    def wait(self, seconds=20):
        """The exit status; negative is a signal's number."""
        return self._popen.wait(seconds)

    def stop(self, seconds=20):
        """SIGTERM, then SIGKILL for the whole group; returns the exit status."""
        self.signal(signal.SIGTERM)
        try:
            return self.wait(seconds)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self):
        """SIGKILL for the program and what it started."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        return self.wait()


def run(argv, *, timeout=30, env=None, stdin=None, check=False):
    """Runs a program to its end with a time limit; text in, text out."""
    done = subprocess.run(
        list(map(str, argv)),
        timeout=timeout,
        env=env,
        input=stdin if stdin is not None else "",
        capture_output=True,
        text=True,
    )
    if check:
        assert done.returncode == 0, f"{argv}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done
