"""A login in a real Chromium, headless, driven through chromedriver."""

import json
import pathlib
import tempfile

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from processes import required


class Chromium:
    """One browser with an empty profile; screenshots go to `pictures`."""

    def __init__(self, pictures):
        self._pictures = pathlib.Path(pictures)
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        options = webdriver.ChromeOptions()
        options.binary_location = required("chromium")
        for argument in (
            "--headless=new",
            "--no-sandbox",  # the suite runs as root
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--window-size=900,900",
            f"--user-data-dir={self._profile.name}",
        ):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
        # A named driver keeps selenium from downloading one.
        self._driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(required("chromedriver")))
        self._driver.set_page_load_timeout(60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._driver.quit()
        self._profile.cleanup()

    def log_in(self, url, user, password, consent=True):
        """Opens an authorization URL, fills Keycloak's pages, and tells the last page: (title, url, text)."""
        driver, wait = self._driver, WebDriverWait(self._driver, 40)
        provider = _origin(url)
        driver.get(url)
        wait.until(lambda d: d.find_elements(By.ID, "username") or _origin(d.current_url) != provider)
        if _origin(driver.current_url) == provider:
            driver.find_element(By.ID, "username").send_keys(user)
            driver.find_element(By.ID, "password").send_keys(password)
            driver.find_element(By.ID, "kc-login").click()
        wait.until(lambda d: d.find_elements(By.NAME, "accept") or _origin(d.current_url) != provider)
        if _origin(driver.current_url) == provider:
            self.picture("consent")
            driver.find_element(By.NAME, "accept" if consent else "cancel").click()
        wait.until(lambda d: _origin(d.current_url) != provider)
        wait.until(lambda d: d.execute_script("return document.readyState") == "complete")
        self.picture("end")
        return driver.title, driver.current_url, driver.find_element(By.TAG_NAME, "body").text

    def enter_code(self, url, code, user, password, consent=True):
        """A device login as its user sees it: types the code, logs in, answers, and tells the last page's text."""
        driver, wait = self._driver, WebDriverWait(self._driver, 40)
        driver.get(url)
        driver.find_element(By.NAME, "device_user_code").send_keys(code + "\n")
        wait.until(lambda d: d.find_elements(By.ID, "username"))
        driver.find_element(By.ID, "username").send_keys(user)
        driver.find_element(By.ID, "password").send_keys(password)
        driver.find_element(By.ID, "kc-login").click()
        wait.until(lambda d: d.find_elements(By.NAME, "accept"))
        self.picture("device-consent")
        driver.find_element(By.NAME, "accept" if consent else "cancel").click()
        wait.until(lambda d: not d.find_elements(By.NAME, "accept"))
        wait.until(lambda d: d.execute_script("return document.readyState") == "complete")
        return driver.find_element(By.TAG_NAME, "body").text

    def press(self, url, button, end):
        """Opens a page, presses its button of this name, and tells the page at `end`: (title, url, text)."""
        driver = self._driver
        driver.get(url)
        driver.find_element(By.NAME, button).click()
        WebDriverWait(driver, 40).until(lambda d: d.current_url.endswith(end))
        return driver.title, driver.current_url, driver.find_element(By.TAG_NAME, "body").text

    def show(self, width, dark):
        """A window of this width, in light or dark."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        size = {"width": width, "height": 560, "deviceScaleFactor": 1, "mobile": width < 600}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def evaluate(self, expression):
        return self._driver.execute_script(f"return {expression}")

    def requests(self):
        """Every request since the last look, redirected ones too: addresses and headers."""
        events = (json.loads(entry["message"])["message"] for entry in self._driver.get_log("performance"))
        sent = (event["params"]["request"] for event in events if event["method"] == "Network.requestWillBeSent")
        return [(request["url"], request["headers"]) for request in sent]

    def history(self):
        """The addresses that "back" leads to, and where we are."""
        return [entry["url"] for entry in self._driver.execute_cdp_cmd("Page.getNavigationHistory", {})["entries"]]

    def picture(self, name):
        self._driver.save_screenshot(str(self._pictures / f"{name}.png"))


def _origin(url):
    return url.split("/")[2] if "//" in url else url
