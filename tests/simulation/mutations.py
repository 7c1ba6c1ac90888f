#!/usr/bin/env python3
"""Deliberate bugs in the session's core: each must be found by the simulation.

Copies the sources, makes one bug at a time, and runs the worlds until one breaks. Builds go to
$CARGO_TARGET_DIR, or beside the copy.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

PROJECT = pathlib.Path(__file__).resolve().parents[2]
# (what is wrong, file, the right text, the wrong one)
BUGS = [
    (
        "a lifetime counts from the answer, not from the request",
        "src/session/events.rs",
        "live.take(response, &flight.asked, jitter);",
        "live.take(response, &super::live::Asked::at(now), jitter);",
    ),
    (
        "the keep-alive comes after the session's end",
        "src/session/schedule.rs",
        "jitter.0.mul_add(0.1, 0.5)",
        "jitter.0.mul_add(0.1, 1.0)",
    ),
    (
        "a rotated refresh token is not saved",
        "src/session/events.rs",
        "        self.want_saved(now);\n    }\n\n    fn failed(",
        "        if !rotated {\n            self.want_saved(now);\n        }\n    }\n\n    fn failed(",
    ),
    (
        "a keyring that comes back while it is being read is not read again",
        "src/session/stored.rs",
        "StoreState::Loading { stale } => *stale = true,",
        "StoreState::Loading { stale } => *stale = false,",
    ),
    (
        "Retry-After is not kept",
        "src/session/events.rs",
        ".map_or(now.boot, |after| now.boot.after(after.mul_f64(0.1_f64.mul_add(jitter.0, 1.0))));",
        ".map_or(now.boot, |after| now.boot.after(after.mul_f64(0.1_f64.mul_add(jitter.0, 0.0))));",
    ),
    (
        "a caller may wait for twenty seconds",
        "src/session/events.rs",
        "CALLER_BUDGET: Duration = Duration::from_secs(15)",
        "CALLER_BUDGET: Duration = Duration::from_secs(20)",
    ),
    (
        "a closed keyring is believed to hold no newer session",
        "src/session/stored.rs",
        "            Err(error) => self.store = StoreState::Closed { error, looked_at: now.boot },",
        "            Err(_) => self.store = StoreState::Loaded,",
    ),
    (
        "a session that is being read at its logout is taken up after it",
        "src/session/events.rs",
        "self.leaving = !matches!(self.store, StoreState::Loaded) || self.rereading.is_some();",
        "self.leaving = false;",
    ),
]


def main():
    passed = failed = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "bearerd"
        ignore = shutil.ignore_patterns("target", ".git")
        shutil.copytree(PROJECT, copy, ignore=ignore)
        environment = {"CARGO_TARGET_DIR": f"{folder}/target"} | os.environ
        environment |= {"BEARERD_SIMULATED_YEARS": "200", "RUST_BACKTRACE": "0"}
        for what, name, right, wrong in BUGS:
            source = copy / name
            text = source.read_text()
            if text.count(right) != 1:
                sys.exit(f"{name} has no longer: {right}")
            source.write_text(text.replace(right, wrong))
            command = ["cargo", "test", "--locked", "--test", "simulation", "no_fault_breaks_a_promise"]
            run = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=900)
            source.write_text(text)
            broken = [line for line in run.stdout.splitlines() if "VIOLATION" in line]
            if run.returncode == 101 and broken:
                passed += 1
                print(f"found: {what}: {broken[0].split('VIOLATION: ')[1]}", flush=True)
            else:
                failed += 1
                print(f"NOT FOUND: {what} (exit {run.returncode})\n{run.stderr[-2000:]}", flush=True)
    print(f"mutations: {passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
