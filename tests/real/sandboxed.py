"""A sandbox that lasts as long as a test, entered by its environment."""

import os
import pathlib
import urllib.error
import urllib.request

from processes import Process, required, run


class Sandbox:
    """`bearerd-sandbox` around a command that only waits; `env` is what its programs see."""

    def __init__(self, binaries, folder, *options):
        self.folder = pathlib.Path(folder)
        self._stop = self.folder / "stop"
        told = self.folder / "environment"
        wait = f"env -0 >{told}.new && mv {told}.new {told}; until [ -e {self._stop} ]; do sleep 0.1; done"
        outside = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "LANG": "C.UTF-8", "TMPDIR": "/tmp"}
        argv = [binaries / "bearerd-sandbox", *options, "--", required("sh"), "-c", wait]
        self._process = Process(argv, log=self.folder / "sandbox.log", env=outside)
        self._process.ready("the sandbox is logged in", told.exists, 60)
        self.env = dict(pair.split("=", 1) for pair in told.read_text().split("\0") if pair)
        self.api = self.env["BEARERD_SANDBOX_API"]

    def run(self, *argv, **options):
        """A program in the sandbox, to its end; `env` adds to its environment."""
        env = {**self.env, **options.pop("env", {})}
        return run(argv, env=env, **options)

    def token(self):
        return self.run("bearerctl", "token", check=True).stdout.strip()

    def allow(self, origin):
        """Puts an origin into the account's api_origins."""
        config = pathlib.Path(self.env["XDG_CONFIG_HOME"]) / "bearerd" / "config.toml"
        config.write_text(f'{config.read_text()}api_origins = ["{origin}"]\n')
        self.run("bearerctl", "reload", check=True)

    def accepts(self, token):
        """Whether the provider's API takes this token."""
        request = urllib.request.Request(self.api, headers={"Authorization": f"Bearer {token}"})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status == 200
        except urllib.error.HTTPError as error:
            assert error.code == 401, error
            return False

    def close(self):
        self._stop.touch()
        assert self._process.wait(30) == 0, self._process.output()
