"""A display without a monitor, a desktop's notification server on it, and a hand with a mouse."""

import glob
import re

from processes import Process, required, run

NOTIFICATIONS = "org.freedesktop.Notifications"
SIZE = (800, 400)


class Screen:
    """An Xvfb; `env` is what programs need to be on it."""

    def __init__(self, folder, env):
        self._folder = folder
        number = folder / "display"
        with open(number, "wb") as told:
            argv = [required("Xvfb"), "-displayfd", str(told.fileno()), "-nolisten", "tcp"]
            argv += ["-screen", "0", f"{SIZE[0]}x{SIZE[1]}x24"]
            self._processes = [Process(argv, log=folder / "xvfb.log", env=env, pass_fds=[told.fileno()])]
        self._processes[0].ready("its display", lambda: number.read_text().endswith("\n"), 20)
        self.env = env | {"DISPLAY": f":{number.read_text().strip()}"}

    def start_notifications(self, connection):
        """Xfce's own server, and where it keeps its settings; both are gone with the test."""
        for name, program in (("org.xfce.Xfconf", "xfconf/xfconfd"), (NOTIFICATIONS, "notifyd/xfce4-notifyd")):
            (path,) = glob.glob(f"/usr/lib/*/xfce4/{program}")
            log = self._folder / f"{path.rpartition('/')[2]}.log"
            process = Process([path], log=log, env=self.env | {"NO_AT_BRIDGE": "1"})
            self._processes.append(process)
            process.ready(f"{name} on the bus", lambda: connection.owner(name), 20)

    def card(self):
        """The place of all that is on the screen: (x, y, width, height); `None` while it is empty."""
        done = run([required("import"), "-window", "root", "-format", "%@", "info:"], env=self.env)
        place = re.fullmatch(r"(\d+)x(\d+)\+(\d+)\+(\d+)", done.stdout.strip())
        if not place:
            return None
        width, height, x, y = map(int, place.groups())
        return (x, y, width, height) if (width, height) != SIZE and width * height > 100 else None

    def picture(self, path):
        run([required("import"), "-window", "root", "-trim", "+repage", path], env=self.env, check=True)

    def click(self, x, y):
        run([required("xdotool"), "mousemove", str(x), str(y), "click", "1"], env=self.env, check=True)

    def close(self):
        for process in reversed(self._processes):
            process.kill()
