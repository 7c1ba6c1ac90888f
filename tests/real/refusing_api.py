"""An API that answers 401 to one token, and asks another API about the rest.

usage: refusing_api.py FILE-WITH-THE-TOKEN ADDRESS-FILE URL
"""

import http.server
import os
import pathlib
import sys
import urllib.error
import urllib.request


class Api(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        header = self.headers.get("Authorization", "")
        status = 401 if header.endswith(self.server.refused) else self._ask(header)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _ask(self, header):
        request = urllib.request.Request(self.server.url, headers={"Authorization": header})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def log_message(self, *_):
        pass


def main(token, address, url):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        server.refused, server.url = pathlib.Path(token).read_text().strip(), url
        new = pathlib.Path(f"{address}.new")
        new.write_text(f"http://127.0.0.1:{server.server_address[1]}/")
        os.rename(new, address)
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
