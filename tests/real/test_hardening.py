"""What the unit's settings and the daemon itself deny, by trying it; what stays open is written in docs/hardening.md."""

import platform
import re

import pytest

import booted
import bus
from conftest import PROJECT
from installed import UNIT
from matrix import Table
from processes import until

UNIT_FILE = PROJECT / "systemd" / UNIT
_START = "a user's service with it does not start: it can't give up capabilities, and has none"
_NO_EFFECT = (
    "no effect in a user's manager, unless `PrivateUsers=` is set: from behind that the callers' `/proc` entries can't be "
    "read, by which they are told apart"
)
# Why each setting that systemd-analyze misses is open.
REASONS = (
    (r"RestrictAddressFamilies=~AF_UNIX", "the bus"),
    (r"RestrictAddressFamilies=~AF_\(INET\|INET6\)|PrivateNetwork=", "the provider, and the login's loopback address"),
    (r"RestrictAddressFamilies=~AF_NETLINK", "tells of changes of the network, after which it tries again at once"),
    (r"User=/DynamicUser=", "it runs as the user whose sessions it keeps; systemd-analyze takes that for root"),
    (r"CapabilityBoundingSet=.*|PrivateDevices=|ProtectKernel(Logs|Modules)=", _START),
    (r"IPAddressDeny=|DeviceAllow=", "no effect in a user's manager"),
    (r"(Private|Protect).*|ProcSubset=|RootDirectory=.*", _NO_EFFECT),
)
_MMAP, _PTRACE, _KEYCTL = {"x86_64": (9, 101, 250), "aarch64": (222, 117, 219)}[platform.machine()]
# What, and a command that works without the unit's settings and must fail with them.
PROBES = (
    ("a packet socket", "perl -e 'socket(S, 17, 3, 0) or exit($! =~ /family/ ? 1 : 0)'"),
    ("memory to write and to execute", f"perl -e 'exit(syscall({_MMAP}, 0, 4096, 7, 0x22, -1, 0) == -1)'"),
    ("another priority", "test $(nice -n 5 nice) = 5"),
    ("another personality", "setarch -R true"),
    ("a set-user-id file", "cd && touch probe && chmod u+s probe"),
    ("tracing", f"perl -e 'exit(syscall({_PTRACE}, 0, 0, 0, 0) == -1)'"),
    ("a user namespace", "unshare -U true"),
    ("the kernel's keyring", f"perl -e 'exit(syscall({_KEYCTL}, 0, -3, 1) == -1)'"),
    ("a core dump", "test $(ulimit -c -H) != 0"),
)


@pytest.fixture(scope="module")
def machine(prepared, binaries, tmp_path_factory):
    """A booted Debian in which the daemon runs from its unit."""
    machine = booted.Booted(prepared["BEARERD_ROOT_TAR"], tmp_path_factory.mktemp("hardening"))
    try:
        for program in ("bearerd", "bearerctl"):
            machine.install(binaries / program, f"/usr/bin/{program}", 0o755)
        machine.install(UNIT_FILE, f"/usr/lib/systemd/user/{UNIT}")
        machine.write_home(".config/bearerd/config.toml", "[accounts.dev]\nsource = 'personal'\n")
        machine.boot()
        machine.run("systemctl", "--user", "start", UNIT, check=True)
        yield machine
    finally:
        machine.stop()


def each_open_item_of_systemds_list_has_its_reason(machine):
    """Design section 6 (Unit)."""
    said = machine.run("systemd-analyze", "--user", "security", "--no-pager", UNIT, check=True).stdout
    figure = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)[1]
    version = machine.run("systemctl", "--version").stdout.split()[1]

    explained = {}
    for item in re.findall(r"^✗ (\S+)", said, re.MULTILINE):
        why = next((why for pattern, why in REASONS if re.fullmatch(pattern, item)), None)
        assert why, f"{item} is open, and nobody has said why"
        group = re.sub(r"(CapabilityBoundingSet=)~.*", r"\1", item).replace("|", "\\|")  # a cell ends at any bar
        explained.setdefault(why, set()).add(f"`{group}`")

    table = Table("hardening.md", "exposure", f"open (exposure {figure} of 10, systemd {version})", "why")
    for number, (_, why) in enumerate(REASONS):
        assert why in explained, f"{why}: of which item?"
        table.row(number, ", ".join(sorted(explained[why])), why)
    table.check(whole=True)  # this test makes all of it


@pytest.mark.parametrize("command", [command for _, command in PROBES], ids=[what for what, _ in PROBES])
def the_units_settings_deny(machine, command):
    """R3: a probe under the unit's own lines, and without them, so that it is they who deny."""
    settings = UNIT_FILE.read_text().partition("\nNoNewPrivileges")
    lines = (settings[1] + settings[2]).partition("[Install]")[0].split("\n")
    properties = [f"--property={line}" for line in lines if line and not line.startswith("#")]
    start = ("systemd-run", "--user", "--wait", "--pipe", "--quiet")

    free = machine.run(*start, "--property=LimitCORE=infinity", "/bin/sh", "-c", command)
    denied = machine.run(*start, *properties, "/bin/sh", "-c", command)

    assert free.returncode == 0, free.stderr
    assert denied.returncode not in (0, 218), denied


def other_programs_of_the_user_cannot_look_into_it(machine):
    """R3: not dumpable; and that is no accident of this machine, for they can look into each other."""
    attach = "perl -e 'exit(syscall({0}, 0x4206, {1}, 0, 0) == -1)'"  # PTRACE_SEIZE, which stops nothing
    other, pid = machine.main_pid("dbus.service"), machine.main_pid(UNIT)
    for file in ("environ", "mem", "maps", "fd/0", "exe"):
        assert machine.shell(f": </proc/{other}/{file}").returncode == 0, file
        done = machine.shell(f": </proc/{pid}/{file}")
        assert done.returncode != 0 and "Permission denied" in done.stderr, (file, done)
    assert machine.shell(attach.format(_PTRACE, other)).returncode == 0
    assert machine.shell(attach.format(_PTRACE, pid)).returncode != 0

    status = machine.shell(f"cat /proc/{pid}/status", check=True).stdout
    for line in ("CapEff:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"):
        assert line in status, status


def a_crash_of_it_leaves_no_core(machine):
    """R3: a fault that aborts it; systemd would call a death with a core dumped, whoever collects it."""
    pid = machine.main_pid(UNIT)
    machine.run("kill", "-ABRT", str(pid), check=True)
    until("another main process", lambda: machine.main_pid(UNIT) not in (0, pid), 20)
    said = [entry["MESSAGE"] for entry in machine.journal(f"USER_UNIT={UNIT}") if "Main process" in entry["MESSAGE"]]
    assert said[-1].endswith("Main process exited, code=killed, status=6/ABRT"), said


def it_protects_itself_without_systemd_too(machine):
    """R3: on a bus that has no service manager behind it, as in a container."""
    script = (
        "bearerd 2>/dev/null & until busctl --user status org.bearerd.Broker1 >/dev/null 2>&1; do sleep 0.05; done; "
        "grep 'Max core' /proc/$!/limits; cat /proc/$!/environ >/dev/null; echo $?; kill $!; wait"
    )
    folders = {"XDG_RUNTIME_DIR": "/home/carol/own", "XDG_STATE_HOME": "/home/carol/own"}
    # A bus that starts no services: one that outlives it would hold this run's pipes open.
    machine.write_home("own/bus.conf", bus.configuration("unix:tmpdir=/tmp"))
    machine.shell("chmod 700 ~/own", check=True)
    session = ("dbus-run-session", "--config-file=/home/carol/own/bus.conf", "--")
    done = machine.run("timeout", "20", *session, "/bin/sh", "-c", script, env=folders)
    assert re.search(r"Max core file size +0 ", done.stdout), done
    assert done.stdout.split()[-1] == "1" and "Permission denied" in done.stderr, done
