"""A login as a person does it, without a browser: Keycloak's real pages, read and submitted over HTTP."""

import dataclasses
import html.parser
import urllib.parse

import requests


@dataclasses.dataclass
class Page:
    """The page that the login ended on."""

    status: int
    url: str
    html: str
    callback: str  # the loopback address that Keycloak redirected to


def login_through_pages(url, user, password, consent=True, get=None):
    """Follows an authorization URL to the end; `consent=False` presses No, `get` replaces the last step."""
    browser = Browser()
    callback = browser.through_the_pages(url, user, password, consent)
    return Page(*(get or browser.get_callback)(callback), callback)


def callback_of(url, user, password, consent=True):
    """The same up to the callback, which is returned and not fetched."""
    return Browser().through_the_pages(url, user, password, consent)


def answer_device(url, user, password):
    """The same for the address of a device login, up to the page that says that it is done."""
    Browser().through_the_pages(url, user, password, consent=True, end="Device Login Successful")


class Browser:
    """Just enough of a browser: cookies, redirects by hand, forms."""

    def __init__(self):
        self._http = requests.Session()

    def through_the_pages(self, url, user, password, consent, end=None):
        request = requests.Request("GET", url)
        for _ in range(12):
            answer = self._http.send(self._http.prepare_request(request), allow_redirects=False, timeout=20)
            for cookie in self._http.cookies:
                cookie.secure = False  # browsers send Secure cookies to 127.0.0.1 without TLS too
            if answer.is_redirect:
                target = urllib.parse.urljoin(answer.url, answer.headers["Location"])
                if urllib.parse.urlsplit(target).netloc != urllib.parse.urlsplit(url).netloc:
                    return target  # left the provider: this is the callback
                request = requests.Request("GET", target)
                continue
            assert answer.status_code == 200, f"{answer.url}: {answer.status_code}\n{answer.text[:2000]}"
            if end and end in answer.text:
                return answer.url
            form = Form(answer.text)
            assert form.action, f"{answer.url} has no form:\n{answer.text[:2000]}"
            fields = dict(form.hidden)
            if "password" in form.fields:
                fields |= {"username": user, "password": password}
            elif "accept" in form.fields:
                fields |= {"accept": "Yes"} if consent else {"cancel": "No"}
            else:
                raise AssertionError(f"a page that is neither login nor consent: {answer.text[:2000]}")
            request = requests.Request("POST", urllib.parse.urljoin(answer.url, form.action), data=fields)
        raise AssertionError("the login pages go round in circles")

    def open(self, url):
        """The first page that an address leads to."""
        answer = self._http.get(url, timeout=20)
        for cookie in self._http.cookies:
            cookie.secure = False
        return answer

    def submit(self, page, fields):
        """Fills in a page's form, and tells the address outside that it leads to."""
        form = Form(page.text)
        target = urllib.parse.urljoin(page.url, form.action)
        answer = self._http.post(target, data=dict(form.hidden) | fields, allow_redirects=False, timeout=20)
        for _ in range(5):
            location = urllib.parse.urljoin(answer.url, answer.headers.get("Location", ""))
            if urllib.parse.urlsplit(location).netloc != urllib.parse.urlsplit(page.url).netloc:
                return location
            answer = self._http.get(location, allow_redirects=False, timeout=20)
        raise AssertionError(f"the form leads nowhere: {answer.status_code} {answer.url} {answer.text[:2000]}")

    def forget(self, *names):
        """Loses cookies, as a browser does with those of an old page."""
        for cookie in list(self._http.cookies):
            if cookie.name in names:
                self._http.cookies.clear(cookie.domain, cookie.path, cookie.name)

    def next_of(self, url):
        """Where the product's listener sends the browser."""
        return self._http.get(url, allow_redirects=False, timeout=40).headers["Location"]

    def get_callback(self, callback):
        """Opens the product's listener and follows its redirect to the page that a person sees."""
        answer = self._http.get(callback, timeout=40)
        return answer.status_code, answer.url, answer.text


class Form(html.parser.HTMLParser):
    """The first form of a page: where it goes and what is in it."""

    def __init__(self, text):
        super().__init__()
        self.action = None
        self.fields = set()
        self.hidden = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "form" and not self.action:
            self.action = attrs.get("action")
        elif tag in ("input", "button") and attrs.get("name"):
            self.fields.add(attrs["name"])
            if attrs.get("type") == "hidden":
                self.hidden.append((attrs["name"], attrs.get("value", "")))
