"""Other people's programs, as they are, with tokens from bearerd: git, kubectl, a mail client, curl."""

import base64
import contextlib
import http.server
import json
import os
import re
import socketserver
import ssl
import subprocess
import threading

import pytest

from conftest import PROJECT
from processes import required, run, until
from sandboxed import Sandbox


@pytest.fixture
def sandbox(binaries, tmp_path):
    sandbox = Sandbox(binaries, tmp_path)
    yield sandbox
    sandbox.close()


# --- git


class GitServer(http.server.BaseHTTPRequestHandler):
    """git's own smart HTTP backend behind a door that wants a token as the password."""

    def _serve(self):
        header = self.headers.get("Authorization", "")
        password = base64.b64decode(header.removeprefix("Basic ")).decode().partition(":")[2] if header else ""
        self.server.seen.append(password)
        if not password or password in self.server.refused or not self.server.accepts(password):
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        env = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.server.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "REMOTE_USER": "robin",
        }
        done = subprocess.run(
            [required("git"), "http-backend"], env=env, input=body, capture_output=True, timeout=30, check=True
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(headers.pop("Status", "200 OK").split()[0]))
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = _serve

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(handler, **attributes):
    """An HTTP server on loopback, for as long as the block lasts."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        vars(server).update(attributes)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def git_server(sandbox, tmp_path):
    root = tmp_path / "repositories"
    run([required("git"), "init", "--quiet", "--bare", "-b", "main", root / "notes.git"], check=True)
    run([required("git"), "-C", root / "notes.git", "config", "http.receivepack", "true"], check=True)
    with serving(GitServer, root=root, accepts=sandbox.accepts, refused=set(), seen=[]) as server:
        server.origin = f"http://127.0.0.1:{server.server_address[1]}"
        yield server


def _git(sandbox, *arguments, **options):
    identity = ["-c", "user.name=Robin", "-c", "user.email=robin@example.com"]
    helper = ["-c", "credential.helper=", "-c", "credential.helper=!bearerctl git-credential"]
    env = {"GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1"}
    return sandbox.run(required("git"), *identity, *helper, *arguments, env=env, timeout=60, **options)


def git_clones_and_pushes_with_the_token_as_the_password(sandbox, git_server, tmp_path):
    sandbox.allow(git_server.origin)
    clone = tmp_path / "clone"

    _git(sandbox, "clone", "--quiet", f"{git_server.origin}/notes.git", clone, check=True)
    (clone / "note").write_text("kept\n")
    _git(sandbox, "-C", clone, "add", "note", check=True)
    _git(sandbox, "-C", clone, "commit", "--quiet", "-m", "a note", check=True)
    _git(sandbox, "-C", clone, "push", "--quiet", "origin", "HEAD:main", check=True)

    shown = run([required("git"), "-C", git_server.root / "notes.git", "show", "main:note"], check=True)
    assert shown.stdout == "kept\n"
    assert sandbox.token() in git_server.seen


def a_token_that_the_git_server_refuses_is_renewed_for_the_next_try(sandbox, git_server, tmp_path):
    """E4: git says `erase` after a 401, and the next command has another token."""
    sandbox.allow(git_server.origin)
    first = sandbox.token()
    git_server.refused.add(first)

    failed = _git(sandbox, "clone", "--quiet", f"{git_server.origin}/notes.git", tmp_path / "refused")
    again = _git(sandbox, "clone", "--quiet", f"{git_server.origin}/notes.git", tmp_path / "accepted")

    assert failed.returncode != 0 and first in git_server.seen
    assert again.returncode == 0, again.stderr
    assert git_server.seen[-1] != first


def a_git_server_that_no_account_names_gets_no_token(sandbox, git_server, tmp_path):
    """E5."""
    url = f"{git_server.origin}/notes.git"

    unnamed = _git(sandbox, "clone", "--quiet", url, tmp_path / "clone")
    named = sandbox.run(
        "bearerctl", "git-credential", "--account", "sandbox", "get",
        stdin=f"protocol=http\nhost={git_server.origin.removeprefix('http://')}\n\n",
    )

    assert unnamed.returncode != 0
    assert not any(git_server.seen), "a token was sent"
    assert (named.returncode, named.stdout) == (2, "")
    assert f'add api_origins = ["{git_server.origin}"]' in named.stderr


def the_cookbooks_lines_keep_the_token_from_gits_store(sandbox, git_server, tmp_path):
    """git tells every configured helper what a server took."""
    sandbox.allow(git_server.origin)
    home = tmp_path / "home"
    home.mkdir()
    env = {"HOME": str(home), "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1"}
    git = required("git")
    sandbox.run(git, "config", "--global", "credential.helper", "store", env=env, check=True)
    lines = _cookbook("git").replace("https://git.example.com", git_server.origin)
    assert lines.count(git_server.origin) == 2, lines

    sandbox.run("sh", "-ec", lines, env=env, check=True)
    done = sandbox.run(git, "clone", "--quiet", f"{git_server.origin}/notes.git", tmp_path / "clone", env=env, timeout=60)

    assert done.returncode == 0, done.stderr
    assert sandbox.token() in git_server.seen
    assert not [*tmp_path.rglob(".git-credentials")]
    other = "protocol=https\nhost=other.example\nusername=robin\npassword=other\n\n"
    sandbox.run(git, "credential", "approve", stdin=other, env=env, check=True)
    assert (home / ".git-credentials").read_text() == "https://robin:other@other.example\n"


def _cookbook(heading):
    """The first shell lines below a heading of docs/cookbook.md."""
    below = (PROJECT / "docs/cookbook.md").read_text().partition(f"\n## {heading}\n")[2]
    return below.partition("```sh\n")[2].partition("```")[0]


def git_asks_the_helper_for_passwords(sandbox, git_server, binaries, tmp_path):
    sandbox.allow(git_server.origin)
    helper = tmp_path / "bearerctl-askpass"
    helper.symlink_to(binaries / "bearerctl")
    plain = ["-c", "credential.helper="]

    done = sandbox.run(
        required("git"), *plain, "clone", "--quiet", f"{git_server.origin}/notes.git", tmp_path / "clone",
        env={"GIT_ASKPASS": str(helper), "GIT_CONFIG_NOSYSTEM": "1"}, timeout=60,
    )

    assert done.returncode == 0, done.stderr
    assert sandbox.token() in git_server.seen


# --- kubectl


class Cluster(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.server.seen.append(token)
        good = self.server.accepts(token)
        body = json.dumps({"major": "1", "minor": "32", "gitVersion": "v1.32.0"}).encode()
        self.send_response(200 if good else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def kubectl_takes_its_token_from_the_exec_plugin(sandbox, tmp_path, version):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=cluster", "-addext", "subjectAltName=IP:127.0.0.1"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    run([required("openssl"), "req", "-x509", *curve, *subject, "-keyout", key, "-out", certificate], check=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(Cluster, accepts=sandbox.accepts, seen=[]) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "clusters": [
                {
                    "name": "here",
                    "cluster": {
                        "server": f"https://127.0.0.1:{server.server_address[1]}",
                        "certificate-authority": str(certificate),
                    },
                }
            ],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
            "users": [
                {
                    "name": "me",
                    "user": {
                        "exec": {
                            "apiVersion": f"client.authentication.k8s.io/{version}",
                            "command": "bearerctl",
                            "args": ["token", "sandbox", "--format", "exec-credential"],
                            "interactiveMode": "Never",
                        }
                    },
                }
            ],
        }
        path = tmp_path / "kubeconfig"
        path.write_text(json.dumps(config))

        done = sandbox.run(
            required("kubectl"), "--kubeconfig", path, "get", "--raw", "/version",
            env={"HOME": str(tmp_path)}, timeout=60,
        )

        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["minor"] == "32"
        assert set(server.seen) == {sandbox.token()}


# --- mail


class MailServer(socketserver.StreamRequestHandler):
    """As much of SMTP as a client needs to log in with XOAUTH2 and hand over a mail."""

    timeout = 30

    def handle(self):
        def say(line):
            self.wfile.write(f"{line}\r\n".encode())

        say("220 mail ready")
        while line := self.rfile.readline().decode().strip():
            verb = line.split()[0].upper()
            if verb == "EHLO":
                say("250-mail")
                say("250 AUTH XOAUTH2")
            elif verb == "AUTH":
                _, mechanism, *initial = line.split()
                if not initial:
                    say("334 ")
                    initial = [self.rfile.readline().decode().strip()]
                response = initial[0]
                self.server.logins.append((mechanism, response))
                token = re.search(r"auth=Bearer ([^\x01]+)\x01\x01$", base64.b64decode(response).decode())
                if not token or not self.server.accepts(token[1]):
                    say("535 5.7.8 refused")
                    return
                say("235 2.7.0 accepted")
            elif verb == "DATA":
                say("354 go on")
                mail = []
                while (text := self.rfile.readline().decode().rstrip("\r\n")) != ".":
                    mail.append(text)
                self.server.mails.append("\n".join(mail))
                say("250 queued")
            elif verb == "QUIT":
                say("221 bye")
                return
            else:
                say("250 ok")


def a_mail_client_logs_in_with_xoauth2(sandbox, tmp_path):
    """The client's own exchange, and the same response from us, byte for byte."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), MailServer) as server:
        server.accepts, server.logins, server.mails = sandbox.accepts, [], []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        config = tmp_path / "msmtprc"
        config.write_text(
            "account default\nhost 127.0.0.1\n"
            f"port {server.server_address[1]}\nfrom me@example.com\nuser me@example.com\n"
            "auth xoauth2\ntls off\npasswordeval bearerctl token sandbox\n"
        )
        config.chmod(0o600)

        done = sandbox.run(
            required("msmtp"), "--file", config, "you@example.com", stdin="Subject: hello\n\nfrom here\n"
        )
        ours = sandbox.run(
            "bearerctl", "token", "sandbox", "--format", "xoauth2", "--user", "me@example.com", check=True
        )
        server.shutdown()

    assert done.returncode == 0, done.stderr
    assert "from here" in server.mails[0]
    assert server.logins == [("XOAUTH2", ours.stdout.strip())]


# --- curl, and any command


def curl_reads_the_token_from_stdin_and_shows_it_to_nobody(sandbox):
    """E3: the token is in no command line."""
    script = (
        'bearerctl token --format curl | curl --silent --show-error --config - '
        '--output /dev/null --write-out "%{http_code}" "$BEARERD_SANDBOX_API"'
    )

    done = sandbox.run("sh", "-c", script)

    assert done.stdout == "200", done.stderr


def a_header_goes_to_curl_through_a_file(sandbox):
    script = (
        'bearerctl token --format header | curl --silent --show-error --header @- '
        '--output /dev/null --write-out "%{http_code}" "$BEARERD_SANDBOX_API"'
    )

    done = sandbox.run("sh", "-c", script)

    assert done.stdout == "200", done.stderr


def a_shell_exports_the_token_as_the_cookbook_says(sandbox):
    line = next(line for line in _cookbook("Any program that reads a variable or a header").splitlines() if "eval" in line)
    script = f"{line.replace('ACCOUNT', 'sandbox')}\nsh -c 'printf %s \"$BEARER_TOKEN\"'"

    done = sandbox.run("sh", "-ec", script)

    assert done.stdout == sandbox.token(), done.stderr


def a_command_reads_a_token_file_that_nobody_else_can_and_that_ends_with_it(sandbox):
    script = 'stat -c "%a %u" "$BEARER_TOKEN_FILE"; echo "${BEARER_TOKEN-unset}"; cat "$BEARER_TOKEN_FILE"; exit 3'

    done = sandbox.run("bearerctl", "exec", "--", "sh", "-c", script, env={"BEARER_TOKEN": "an old one"})

    assert done.stdout == f"600 {os.getuid()}\nunset\n{sandbox.token()}"
    assert done.returncode == 3
    path = sandbox.run("bearerctl", "exec", "sandbox", "--", "sh", "-c", 'echo "$BEARER_TOKEN_FILE"').stdout.strip()
    assert path and not os.path.exists(path) and not os.path.exists(os.path.dirname(path))


def a_command_that_wants_it_has_the_token_in_its_environment(sandbox):
    done = sandbox.run("bearerctl", "exec", "--env", "--", "sh", "-c", 'printf %s "$BEARER_TOKEN"')

    assert done.stdout == sandbox.token()


def a_token_file_is_kept_fresh_and_a_signal_reaches_the_command(binaries, tmp_path):
    sandbox = Sandbox(binaries, tmp_path, "--access-ttl", "6s")
    script = 'trap "exit 9" TERM; echo "$BEARER_TOKEN_FILE"; while :; do sleep 0.1; done'
    argv = ["bearerctl", "exec", "--", "sh", "-c", script]
    child = subprocess.Popen(
        [required("env"), *argv], env=sandbox.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    try:
        path = child.stdout.readline().strip()
        with open(path, encoding="ascii") as file:
            first = file.read()
        second = until("another token", lambda: (text := open(path, encoding="ascii").read()) != first and text, 30)

        assert sandbox.accepts(second)
        child.terminate()
        assert child.wait(20) == 9
    finally:
        if child.poll() is None:
            child.kill()
        sandbox.close()
