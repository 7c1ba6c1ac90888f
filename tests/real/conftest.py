"""The real parts as fixtures. `tests/real/run` installs them and starts pytest with their places in the environment."""

import os
import pathlib
import shutil

import pytest

from browser import Chromium
from keycloak import Keycloak
from processes import Process, run
from relay import Relay
from session import Session, closing

PROJECT = pathlib.Path(__file__).resolve().parents[2]
_FILTERED = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items):
    """The parts are proven first, then the product; what must wait for minutes begins early and is looked at last."""

    def place(item):
        if item.path.name == "test_parts.py":
            return 0
        if item.name == "the_table_in_the_docs_is_what_happened":
            return 4
        return 1 if item.get_closest_marker("first") else 3 if item.get_closest_marker("last") else 2

    items.sort(key=place)


def pytest_deselected(items):
    """Tests that -k, -m or --deselect take away."""
    for item in items:
        item.config.stash[_FILTERED] = True


@pytest.fixture
def whole(request):
    """Whether everything but the tables ran, and held: a table has the rows of this run then, and no others."""
    session, config = request.session, request.config
    files = {path.name for path in pathlib.Path(__file__).parent.glob("test_*.py")}
    filtered = config.stash.get(_FILTERED, False) or any("::" in argument for argument in config.args)
    return not filtered and not session.testsfailed and files == {item.path.name for item in session.items}


@pytest.fixture(scope="session")
def prepared():
    """Where setup.sh put things."""
    names = ("BEARERD_KEYCLOAK", "BEARERD_ROOT_TAR")
    missing = [name for name in names if name not in os.environ]
    assert not missing, f"{missing} not set: start the suite with tests/real/run"
    return {name: pathlib.Path(os.environ[name]) for name in names}


@pytest.fixture(scope="session")
def binaries():
    """The folder with the product's programs."""
    folder = pathlib.Path(os.environ.get("BEARERD_BIN_DIR") or PROJECT / "target" / "release")
    for program in ("bearerd", "bearerctl", "bearerd-sandbox"):
        assert os.access(folder / program, os.X_OK), f"no {program} in {folder}: cargo build --release --locked"
    return folder


@pytest.fixture(scope="session")
def package(binaries, tmp_path_factory):
    """bearerd's package, made from the programs under test."""
    out = tmp_path_factory.mktemp("packages")
    run(
        [PROJECT / "packaging/build", out, "deb"],
        env=os.environ | {"BEARERD_BIN_DIR": str(binaries)},
        timeout=300,
        check=True,
    )
    (made,) = out.glob("bearerd_*.deb")
    return made


@pytest.fixture(scope="session")
def keycloak(prepared, tmp_path_factory):
    """One Keycloak for the whole run; every test has users of its own in it."""
    folder = tmp_path_factory.mktemp("keycloak")
    server = Keycloak(prepared["BEARERD_KEYCLOAK"], folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.home, ignore_errors=True)


@pytest.fixture
def relay(keycloak):
    relay = Relay(keycloak)
    yield relay
    relay.close()


@pytest.fixture
def desktop(tmp_path_factory, binaries, keycloak, relay):
    """A session with an unlocked keyring; the daemon is the test's to start."""
    session = Session(tmp_path_factory.mktemp("s"), binaries, keycloak, relay)
    session.keyring.start()
    yield from closing(session)


@pytest.fixture
def bare_desktop(tmp_path_factory, binaries, keycloak, relay):
    """A session in which no keyring has been started."""
    yield from closing(Session(tmp_path_factory.mktemp("s"), binaries, keycloak, relay))


@pytest.fixture
def chromium(tmp_path):
    with Chromium(tmp_path) as browser:
        yield browser


@pytest.fixture
def served(desktop):
    """Starts programs that serve a name on the session's bus."""
    processes = []

    def serve(name, *argv):
        process = Process(argv, log=desktop.folder / f"{name}.log", env=desktop.env)
        processes.append(process)
        process.ready(name, lambda: desktop.connection.owner(name), 20)

    yield serve
    for process in processes:
        process.kill()
