"""The documentation's examples, run as they are printed, in the sandbox."""

import os
import pathlib
import sys

import pytest

from conftest import PROJECT
from processes import required, run

EXAMPLES = PROJECT / "docs" / "examples"
NAMES = ["shell", "busctl", "python-dbus", "python-gio", "python-asyncio", "node", "c"]


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """How each example is started; the one in C is built first."""
    program = tmp_path_factory.mktemp("examples") / "get_token"
    flags = run([required("pkg-config"), "--cflags", "--libs", "libsystemd", "libcurl"], check=True).stdout.split()
    strict = ["-Wall", "-Wextra", "-Werror", "-O1"]
    run([required("cc"), EXAMPLES / "get_token.c", "-o", program, *strict, *flags], check=True)
    return {
        "shell": [required("sh"), EXAMPLES / "get_token.sh"],
        "busctl": [required("bash"), EXAMPLES / "get_token_busctl.sh"],
        "python-dbus": ["/usr/bin/python3", EXAMPLES / "get_token.py"],
        "python-gio": ["/usr/bin/python3", EXAMPLES / "get_token_gio.py"],
        "python-asyncio": [sys.executable, EXAMPLES / "get_token_asyncio.py"],
        "node": [required("node"), EXAMPLES / "get_token.js"],
        "c": [program],
    }


@pytest.mark.parametrize("name", NAMES)
def an_example_gets_a_token_that_the_api_accepts(binaries, commands, tmp_path, name):
    done = _sandbox(binaries, tmp_path, f'{_line(commands[name])} "$BEARERD_SANDBOX_API" sandbox')

    assert (done.returncode, done.stdout.strip()) == (0, "200"), done


@pytest.mark.parametrize("name", NAMES)
def an_example_reports_a_refused_token_and_tries_a_newer_one(binaries, commands, tmp_path, name):
    """The API refuses the token that the account has now, and takes the next."""
    api = PROJECT / "tests" / "real" / "refusing_api.py"
    script = (
        f'bearerctl token >first; {sys.executable} {api} first address "$BEARERD_SANDBOX_API" & server=$!; '
        f"until [ -e address ]; do sleep 0.05; done; {_line(commands[name])} \"$(cat address)\" sandbox; code=$?; "
        "kill $server; exit $code"
    )

    done = _sandbox(binaries, tmp_path, script)

    assert (done.returncode, done.stdout.strip().splitlines()[-1:]) == (0, ["200"]), done


@pytest.mark.parametrize("name", NAMES)
def an_example_says_what_to_do_when_there_is_no_session(binaries, commands, tmp_path, name):
    line = f'bearerctl logout; {_line(commands[name])} "$BEARERD_SANDBOX_API" sandbox'

    done = _sandbox(binaries, tmp_path, line)

    assert done.returncode != 0
    assert "run: bearerctl login sandbox" in done.stderr, done


def _line(command):
    return " ".join(map(str, command))


def _sandbox(binaries, folder, script):
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "NODE_PATH": str(pathlib.Path(os.environ["BEARERD_NODE_MODULES"])),
    }
    inside = f"cd {folder} && {script}"
    return run([binaries / "bearerd-sandbox", "--", required("sh"), "-c", inside], env=env, timeout=60)
