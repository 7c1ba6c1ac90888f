"""A terminal with a shell in it, as a person sees it: what is typed, what is on the screen, and how that changed."""

import errno
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time

import pyte

from processes import required

PROMPT = "$ "
SHELL = ["bash", "--noprofile", "--norc", "-i"]
_SHELL_ENV = {"PS1": PROMPT, "TERM": "xterm-256color", "HISTFILE": "/dev/null"}


class Terminal:
    """`argv` runs in a new pseudo-terminal; without one it is a shell, and its prompt is waited for."""

    def __init__(self, argv=None, *, env, within=(), columns=100, rows=24):
        self.columns, self.rows = columns, rows
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._began = time.monotonic()
        self.frames = []  # (seconds since the start, rows of runs), one for each change
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        shell_env = [f"{name}={value}" for name, value in _SHELL_ENV.items()]
        command = [*within, *(map(str, argv) if argv else ["/usr/bin/env", *shell_env, *SHELL])]
        # The kernel ends the program when pytest dies; the session is new, and the terminal its own.
        guarded = [required("setpriv"), "--pdeathsig", "KILL", "--", required("setsid"), "--ctty", "--wait", *command]
        self._popen = subprocess.Popen(guarded, env=env, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        if not argv:
            self.until_prompt()

    # --- what a person does

    def type(self, text):
        os.write(self._master, text.encode())

    def command(self, line, seconds=30):
        """Types a line and waits for the next prompt; returns what was said between them."""
        before = self._prompts()
        self.type(f"{line}\n")
        self.until(f"the end of {line!r}", lambda: self._prompts() > before and self._at_prompt(), seconds)
        return self.text.rpartition(f"{PROMPT}{line}\n")[2].rpartition(f"\n{PROMPT.strip()}")[0]

    def interrupt(self):
        self.type("\x03")

    # --- what a person sees

    @property
    def text(self):
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    @property
    def echoes(self):
        """Whether what is typed is shown."""
        return bool(termios.tcgetattr(self._master)[3] & termios.ECHO)

    def until(self, what, probe, seconds=30):
        """Follows the screen until `probe` is true."""
        deadline = time.monotonic() + seconds
        while not probe():
            left = deadline - time.monotonic()
            open_ = left > 0 and self._read(min(left, 0.1))
            assert left > 0 and open_ is not False or probe(), f"waited {seconds} s for {what}; the screen:\n{self.text}"

    def until_shows(self, words, seconds=30):
        self.until(repr(words), lambda: words in self.text, seconds)

    def until_prompt(self, seconds=30):
        self.until("a prompt", self._at_prompt, seconds)

    def wait(self, seconds=30):
        """The exit status of what runs in it."""
        self.until("the end of the program", lambda: self._popen.poll() is not None, seconds)
        while self._read(0):
            pass
        return self._popen.returncode

    def _prompts(self):
        return sum(line.startswith(PROMPT) for line in self._screen.display)

    def _at_prompt(self):
        cursor = self._screen.cursor
        line = self._screen.display[cursor.y]
        return cursor.x == len(PROMPT) and line.rstrip() == PROMPT.strip()

    def _read(self, seconds):
        """Takes what comes within this time: `True` for something, `None` for nothing, `False` at the end."""
        if not select.select([self._master], [], [], seconds)[0]:
            return None
        try:
            data = os.read(self._master, 65536)
        except OSError as error:
            if error.errno != errno.EIO:  # the other side is closed
                raise
            return False
        self._stream.feed(data)
        shown = [_runs(self._screen.buffer[row], self.columns) for row in range(self.rows)]
        if not self.frames or self.frames[-1][1] != shown:
            self.frames.append((time.monotonic() - self._began, shown))
        return True

    def close(self):
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGHUP)
        os.close(self._master)  # hangs up whatever still runs in it
        try:
            self._popen.wait(10)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()


def _runs(line, columns):
    """A line of the screen as runs of one look: (column, text, colour, bold)."""
    runs = []
    for column in range(columns):
        char = line[column]
        look = (char.fg, char.bold)
        if runs and runs[-1][2:] == look:
            runs[-1] = (runs[-1][0], runs[-1][1] + char.data, *look)
        else:
            runs.append((column, char.data, *look))
    trimmed = [(column, text.rstrip(), *look) for column, text, *look in runs]
    return tuple(run for run in trimmed if run[1])
