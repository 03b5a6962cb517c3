#!/usr/bin/env python3
"""How long after it was sent usage is visible in the API, on this machine.

    python3 checks/visible.py BIN [--samples N] [--flush-ms MS]

BIN is the built `securebase`. A server is started on a new home; N usage samples are sent to it, one after another, and
after each `GET /v1/usage` is asked until it shows the new total. What is measured begins before the sample is sent and ends
with the answer that shows it: intake, the stream, the wait for a batch (at most MS), the commit, the roll-up and the
question itself. So it is an upper bound of what passes between a commit and its being visible. Standard library only.

Exits 1 when a total is not what was sent, or not visible within 30 seconds.
"""

import argparse
import http.client
import json
import pathlib
import sys
import tempfile
import time
import urllib.parse

from api_contract import Home, Wrong

ACCOUNT = "111122223333"
SECONDS_MAX = 30


class Api:
    """One connection that is kept."""

    def __init__(self, url):
        self.connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=SECONDS_MAX)

    def ask(self, method, path, key, body=None):
        headers = {"Authorization": f"Bearer {key}"}
        if body is not None:
            headers["Content-Type"] = "application/cloudevents+json"
        self.connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = self.connection.getresponse()
        return answer.status, json.loads(answer.read())


def sample(number, start):
    """Bytes through one gateway; the resource makes it a fact of its own."""
    return {
        "specversion": "1.0", "id": f"visible-{number}", "source": "/checks/visible", "type": "nat_gateway_bytes",
        "subject": ACCOUNT, "time": start, "datacontenttype": "application/json",
        "data": {"resource": f"nat-{number}", "unit": "bytes", "value": "1000"},
    }


def quantile(sorted_values, share):
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * share))]


def main():
    parser = argparse.ArgumentParser(usage=__doc__.splitlines()[2].strip())
    parser.add_argument("binary")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--flush-ms", type=int, default=1000)
    arguments = parser.parse_args()
    day = time.strftime("%Y-%m-%dT00:00:00Z", time.gmtime(time.time() - 86_400))
    end = time.strftime("%Y-%m-%dT00:00:00Z", time.gmtime())
    question = f"/v1/usage?meter=nat_gateway_bytes&from={day}&to={end}"
    with tempfile.TemporaryDirectory(prefix="securebase-visible-") as directory:
        home = Home(arguments.binary, pathlib.Path(directory) / "home", "--flush-ms", str(arguments.flush_ms))
        with home.serving() as (url, _):
            home.run("customers", "add", "acme", "--name", "Acme", "--tier", "standard", "--contract-start",
                     "2026-01-01T00:00:00Z", "--tax-rate", "0")
            home.run("accounts", "register", ACCOUNT, "--customer", "acme", "--from", "2026-01-01T00:00:00Z")
            key, admin, api = home.key("acme"), home.admin_key(), Api(url)
            seconds = []
            for number in range(arguments.samples + 1):
                began = time.monotonic()
                status, taken = api.ask("POST", "/v1/samples", admin, sample(number, day))
                if status != 202:
                    raise Wrong(f"a sample was not taken: {status} {taken}")
                while True:
                    status, answer = api.ask("GET", question, key)
                    if status == 429:
                        time.sleep(0.05)
                        continue
                    if status != 200:
                        raise Wrong(f"{status}: {answer}")
                    total = int(answer["rows"][0]["quantity"].split(".")[0]) if answer["rows"] else 0
                    if total == 1000 * (number + 1):
                        break
                    if total > 1000 * (number + 1) or time.monotonic() - began > SECONDS_MAX:
                        raise Wrong(f"{number + 1} samples of 1000 bytes were sent, the API shows {total}")
                    # 1,000 requests a minute are allowed.
                    time.sleep(0.06)
                # The first opens connections and tables.
                if number > 0:
                    seconds.append(time.monotonic() - began)
    seconds.sort()
    shown = ", ".join(f"{name} {quantile(seconds, share) * 1000:.0f} ms" for name, share in
                      (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)))
    print(f"sent to visible, {len(seconds)} samples, batches of at most {arguments.flush_ms} ms: {shown}")
    print("aimed at: from commit to visible, a part of this, p99 below 2000 ms")


if __name__ == "__main__":
    try:
        main()
    except Wrong as wrong:
        sys.exit(f"visible: {wrong}")
