"""The documentation's examples, run as they are printed, in the sandbox."""

import os

import pytest

from conftest import PROJECT
from processes import required, run

EXAMPLES = PROJECT / "docs" / "examples"


@pytest.mark.parametrize("program", ["sh get_token.sh", "/usr/bin/python3 get_token.py"], ids=["shell", "python"])
def an_example_gets_a_token_that_the_api_accepts(binaries, tmp_path, program):
    interpreter, name = program.split()
    line = f'{required(interpreter)} {EXAMPLES / name} "$BEARERD_SANDBOX_API" sandbox'

    done = run([binaries / "bearerd-sandbox", "--", "sh", "-c", line], env=_env(tmp_path), timeout=60)

    assert (done.returncode, done.stdout.strip()) == (0, "200"), done


@pytest.mark.parametrize("program", ["sh get_token.sh", "/usr/bin/python3 get_token.py"], ids=["shell", "python"])
def an_example_says_what_to_do_when_there_is_no_session(binaries, tmp_path, program):
    interpreter, name = program.split()
    line = f'bearerctl logout; {required(interpreter)} {EXAMPLES / name} "$BEARERD_SANDBOX_API" sandbox'

    done = run([binaries / "bearerd-sandbox", "--", "sh", "-c", line], env=_env(tmp_path), timeout=60)

    assert done.returncode != 0
    assert "run: bearerctl login sandbox" in done.stderr, done


def _env(tmp_path):
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LANG": "C.UTF-8"}
