#!/usr/bin/env python3
"""Holds the running server to its OpenAPI document, with clients that were not written for it.

    python3 checks/api_contract.py BIN TOOLS [--examples N] [--sqlmap] [--route NAME ...]

BIN is the built `securebase`; TOOLS is a folder of ours, where the tools that api_tools.txt pins are installed with pip.
A server is started on a new home with two customers, the fixtures' usage and an issued invoice. Then:

1. openapi-python-client makes a client from api/openapi.json, and that client reads usage, pages, makes and revokes a key,
   and is told of problems; its figures must be those that the command line says.
2. schemathesis asks every operation of the document, with data that fits and data that does not: no 5xx, no status, type,
   header or body that the document does not name, no unknown method let in, no private operation without a key.
   N examples an operation, 20 without; the stream of usage as a long poll. Each tag has a customer of its own, so that the limit of requests is not in the way.

With --sqlmap instead: sqlmap tries to inject SQL into every parameter of the customers' routes, or of those that --route names,
slowly enough that no probe is refused by the limit of requests.

Exits 1 on any difference.
"""

import argparse
import concurrent.futures
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
import venv

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "api" / "openapi.json"
PINNED = ROOT / "checks" / "api_tools.txt"
SQLMAP = "sqlmap==1.10.10"
SCOPES = "read:usage,read:invoices,read:audit,write:keys"
ACCOUNT = "111122223333"
MONTH = ("2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z")
# The document's operations by tag; schemathesis runs once for each, with a key of its own.
OPERATORS = "operators"


class Wrong(Exception):
    """A difference, or a command that did not do what it promises."""


def install(tools, *packages):
    """A virtual environment with these packages, made once for each list of them."""
    environment = tools / "venv"
    wanted = "\n".join(packages) + PINNED.read_text()
    mark = environment / "installed.txt"
    if mark.exists() and mark.read_text() == wanted:
        return environment / "bin"
    shutil.rmtree(environment, ignore_errors=True)
    venv.create(environment, with_pip=True)
    pip = [environment / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*map(str, pip), "-r", str(PINNED), *packages])
    if done.returncode != 0:
        raise Wrong("pip cannot install the tools that checks/api_tools.txt names: is a package index reachable?")
    mark.write_text(wanted)
    return environment / "bin"


class Home:
    """The program on a new home."""

    def __init__(self, binary, directory, *options):
        self.binary, self.directory, self.options = str(pathlib.Path(binary).resolve()), str(directory), options

    def words(self, *words):
        return [self.binary, "--home", self.directory, *self.options, *words]

    def run(self, *words, fails=False):
        done = subprocess.run(self.words(*words, "--json"), stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0 and not fails:
            raise Wrong(f"{' '.join(words[:2])}: exit code {done.returncode}: {done.stderr.strip()[-500:]}")
        lines = done.stdout.strip().splitlines()
        return json.loads(lines[-1]) if lines else None

    @contextlib.contextmanager
    def serving(self):
        log = open(pathlib.Path(self.directory).with_suffix(".log"), "w+")
        environment = {**os.environ, "SECUREBASE_LOG": "info"}
        server = subprocess.Popen(
            self.words("serve", "--listen", "127.0.0.1:0", "--json"),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, env=environment,
        )
        try:
            line = server.stdout.readline()
            if not line:
                log.seek(0)
                raise Wrong(f"serve did not start: {log.read()[-500:]}")
            yield json.loads(line)["api"], log
        finally:
            server.send_signal(signal.SIGINT)
            try:
                code = server.wait(60)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
                raise Wrong("serve did not end within 60 s of being asked to") from None
        if code != 0:
            raise Wrong(f"serve ended with exit code {code}")

    def key(self, customer):
        return self.run("keys", "create", "--customer", customer, "--name", "a test", "--scopes", SCOPES)["key"]

    def admin_key(self):
        return self.run("keys", "create", "--admin", "--name", "a test")["key"]


def add_customer(home, customer, name, tax_rate="0"):
    home.run("customers", "add", customer, "--name", name, "--tier", "standard", "--contract-start",
             "2026-01-01T00:00:00Z", "--tax-rate", tax_rate)


def issue(home, customer):
    home.run("close", "--period", "2026-10", "--customer", customer, "--override", "a test", fails=True)
    home.run("invoice", "run", "--period", "2026-10", "--customer", customer, fails=True)


def ask(url, path, key, method="GET"):
    request = urllib.request.Request(url + path, headers={"Authorization": f"Bearer {key}"}, method=method)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def prepare(home):
    """Two customers, usage of the fixtures, and an invoice for it."""
    for customer in ("acme", "globex"):
        add_customer(home, customer, customer.title(), "0.08")
    home.run("accounts", "register", ACCOUNT, "--customer", "acme", "--from", "2026-01-01T00:00:00Z")
    home.run("replay", str(ROOT / "fixtures"))
    issue(home, "acme")


def make_client(bin_directory, tools):
    """The generated client, as a module."""
    output = tools / "client"
    # The generator knows JSON, forms and bytes; a rate card in TOML is sent as the bytes it is.
    settings = tools / "client.json"
    settings.write_text(json.dumps({"content_type_overrides": {"application/toml": "application/octet-stream"}}))
    environment = {**os.environ, "PATH": f"{bin_directory}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [str(bin_directory / "openapi-python-client"), "generate", "--path", str(DOCUMENT), "--output-path", str(output),
         "--overwrite", "--meta", "none", "--config", str(settings)],
        capture_output=True, text=True, env=environment,
    )
    said = done.stdout + done.stderr
    if done.returncode != 0 or "Warning" in said or "WARNING" in said:
        raise Wrong(f"no whole client can be made of the document:\n{said[-2000:]}")
    print("client: made from api/openapi.json without a warning")
    return output


USE_CLIENT = """
import datetime, json, sys
sys.path.insert(0, sys.argv[1])
import client
from client.api.audit import list_audit_events
from client.api.customer import get_customer, list_accounts
from client.api.invoices import get_invoice, list_invoices
from client.api.keys import create_api_key, list_api_keys, revoke_api_key
from client.api.operators import admin_list_customers
from client.api.server import health
from client.api.usage import get_metrics, get_usage
from client.models import NewKey, Problem
url, key, admin, start, end = sys.argv[2:7]
def connected(token):
    return client.AuthenticatedClient(base_url=url, token=token)
acme, nobody, operator = connected(key), connected("sk_live_acme_0"), connected(admin)
assert health.sync_detailed(client=client.Client(base_url=url)).status_code == 200
instant = datetime.datetime.fromisoformat
asked = dict(meter="cloudtrail_events", from_=instant(start), to=instant(end))
answer = get_usage.sync(client=acme, **asked)
total = answer.rows[0].quantity
pages, cursor, summed = 0, None, 0
while True:
    more = {} if cursor is None else {"cursor": cursor}
    page = get_usage.sync(client=acme, group_by="account,hour,category", limit=1, **asked, **more)
    summed += sum(int(row.quantity) for row in page.rows)
    pages += 1
    cursor = page.next_cursor or None
    if not cursor:
        break
assert pages > 1 and summed == int(total), (pages, summed, total)
problem = get_usage.sync(client=nobody, **asked)
assert isinstance(problem, Problem) and problem.status == 401, problem
problem = get_usage.sync(client=acme, meter="cloudtrail_events", group_by="week")
assert isinstance(problem, Problem) and problem.parameter == "group_by", problem
made = create_api_key.sync(client=acme, body=NewKey(name="made by a client", scopes=["read:usage"]), idempotency_key="1")
again = create_api_key.sync(client=acme, body=NewKey(name="made by a client", scopes=["read:usage"]), idempotency_key="1")
assert made.key_id == again.key_id and made.key, made
assert get_usage.sync(client=connected(made.key), **asked).rows[0].quantity == total
refused = list_invoices.sync(client=connected(made.key))
assert isinstance(refused, Problem) and refused.status == 403
assert made.key_id in [key.key_id for key in list_api_keys.sync(client=acme).keys]
revoke_api_key.sync(client=acme, key=made.key_id)
assert get_usage.sync(client=connected(made.key), **asked).status == 401
customer = get_customer.sync(client=acme, customer="acme")
assert customer.id == "acme" and customer.accounts.used == 1, customer
assert get_customer.sync(client=acme, customer="globex").status == 404
assert list_accounts.sync(client=acme).accounts[0].account == sys.argv[7]
invoices = list_invoices.sync(client=acme).invoices
for one in invoices:
    # Typed through and through: parties, lines and their amounts.
    whole = get_invoice.sync(client=acme, invoice=one.number)
    assert (whole.number, whole.buyer.name, whole.period.start) == (one.number, "Acme", one.period.start), whole
    assert whole.lines and all(line.amount and line.days.end for line in whole.lines), whole
assert get_metrics.sync(client=acme, month=start[:7]).metrics["cloudtrail_events"] == total
actions = {event.action for event in list_audit_events.sync(client=acme).events}
assert "api_key.created" in actions, actions
assert {"acme", "globex"} <= {one.id for one in admin_list_customers.sync(client=operator).customers}
assert admin_list_customers.sync(client=acme).status == 403
print(json.dumps({"total": total, "pages": pages, "invoices": len(invoices)}))
"""


def use_client(bin_directory, tools, url, home, key, admin):
    done = subprocess.run(
        [str(bin_directory / "python"), "-c", USE_CLIENT, str(tools), url, key, admin, *MONTH, ACCOUNT],
        capture_output=True, text=True,
    )
    if done.returncode != 0:
        raise Wrong(f"the generated client does not work:\n{done.stderr[-2000:]}")
    seen = json.loads(done.stdout)
    said = home.run("usage", "--customer", "acme", "--meter", "cloudtrail_events", "--from", MONTH[0], "--to", MONTH[1])
    counted = sum(int(row["quantity"]) for row in said["rows"])
    if int(seen["total"]) != counted or counted == 0:
        raise Wrong(f"the client read {seen['total']} events, the command line says {counted}")
    if seen["invoices"] == 0:
        raise Wrong("no invoice was issued, so none was read")
    print(f"client: {counted} events in {seen['pages']} pages as the command line says; {seen['invoices']} invoice, keys, audit, problems")


def tags():
    document = json.loads(DOCUMENT.read_text())
    found = {operation["tags"][0] for path in document["paths"].values() for operation in path.values()}
    return sorted(found)


# Answers when there is news, or after 8 seconds; as a stream, which only `Accept` opens, it would last a quarter of an hour,
# and the Rust tests read that.
LONG_POLL = "watch_usage"


def explore(bin_directory, url, home, admin, examples, tools):
    """Runs schemathesis over the document, a tag at a time."""
    failed = []
    for tag in tags():
        if tag == OPERATORS:
            key = admin
        else:
            add_customer(home, f"of-{tag}", tag)
            key = home.key(f"of-{tag}")
        rest = ["--exclude-operation-id", LONG_POLL] if tag == "usage" else []
        if not schemathesis(bin_directory, url, key, examples, tools, tag, ["--include-tag", tag, *rest]):
            failed.append(tag)
    add_customer(home, "of-long-poll", "long poll")
    key = home.key("of-long-poll")
    chosen = ["--include-operation-id", LONG_POLL, "--header", "Accept: application/json"]
    if not schemathesis(bin_directory, url, key, examples, tools, LONG_POLL, chosen):
        failed.append(LONG_POLL)
    if failed:
        raise Wrong(f"schemathesis found differences in: {', '.join(failed)}")


def schemathesis(bin_directory, url, key, examples, tools, name, chosen):
    """Whether all chosen operations keep to the document."""
    command = [
        str(bin_directory / "schemathesis"), "run", str(DOCUMENT), "--url", url, *chosen,
        "--header", f"Authorization: Bearer {key}",
        "--max-examples", str(examples), "--seed", "1", "--workers", "1", "--request-timeout", "30",
        # Text that happens to be a good cursor or number is no fault; a header that is not asked for is not read.
        "--exclude-checks", "positive_data_acceptance,negative_data_rejection",
        "--suppress-health-check", "all", "--no-shrink", "--continue-on-failure",
        # One deadline for waiting answers and streams, which take what they promise.
        "--phases", "examples,coverage,fuzzing",
        "--warnings", "off",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tools)
    summary = [line for line in done.stdout.splitlines() if "generated" in line or "passed" in line or "failed" in line]
    print(f"schemathesis {name}: {summary[-1].strip() if summary else 'no summary'}", flush=True)
    if done.returncode != 0:
        print(done.stdout[-8000:], done.stderr[-2000:], sep="\n")
    return done.returncode == 0


def check_log(log):
    """What the server logged meanwhile: no alarm of isolation but for ids of others, no panic, no key."""
    log.seek(0)
    text = log.read()
    for never in ("panicked", "sk_live_"):
        if never in text:
            raise Wrong(f"the server's log holds {never!r}")
    print(f"log: {text.count(chr(10))} lines, none with a key or a panic")


# Seconds between two requests of sqlmap: fewer than the 1,000 a minute that a customer may ask, so that none is refused.
PACE = 0.07
# Statuses that tell sqlmap nothing is wrong with its connection. Not among them: 401, because a key that is not let in tries
# nothing, and 429, because what is refused unread tries nothing either.
EXPECTED = "400,403,404,406,409,415,422"


def attacked(customer, key_id, invoice):
    """Every route of a customer, with a mark behind each value that sqlmap replaces: path, further options."""
    hours = "from=2026-10-01T00:00:00Z*&to=2026-11-01T00:00:00Z*"
    repeated, json_body = "Idempotency-Key: a*", "Content-Type: application/json"
    body = '{"name":"a test*","scopes":["read:usage*"],"expires_at":"2036-01-01T00:00:00Z*"}'
    return {
        "usage": (f"/v1/usage?meter=cloudtrail_events*&{hours}&group_by=account*&limit=5*", []),
        "usage-pages": ("/v1/usage?meter=cloudtrail_events&cursor=abc*", []),
        "stream": ("/v1/usage/stream?since=2020-01.1*", ["Last-Event-ID: 2020-01.1*"]),
        "metrics": ("/v1/metrics?month=2026-10*", []),
        "history": ("/v1/metrics/history?months=3*&until=2026-10*", []),
        "invoices": ("/v1/invoices?status=issued*&kind=monthly*&from=2026-01*&to=2026-12*&limit=5*", []),
        "invoice-pages": ("/v1/invoices?cursor=INV-2026-01-0001*", []),
        "invoice": (f"/v1/invoices/{invoice}*", []),
        "download": (f"/v1/invoices/{invoice}*/download", ["Accept: text/csv"]),
        "evidence": (f"/v1/invoices/{invoice}*/evidence", []),
        "preview": ("/v1/invoices/preview?month=2026-10*", []),
        "customer": (f"/v1/customers/{customer}*", []),
        "accounts": ("/v1/accounts?limit=5*&cursor=abc*", []),
        "audit": (f"/v1/audit-events?actor=a*&action=b*&subject=c*&{hours}&format=jsonl*&limit=5*&cursor=1*", []),
        "keys": ("/v1/api-keys?limit=5*&cursor=abc*", []),
        # Not both at once: another body under the same Idempotency-Key is refused before it is looked at.
        "key-made": ("/v1/api-keys", [json_body], "--method", "POST", "--data", body),
        "key-made-once": ("/v1/api-keys", [json_body, repeated], "--method", "POST", "--data", body.replace("*", "")),
        "key-rotated": (f"/v1/api-keys/{key_id}*/rotate", [json_body], "--method", "POST", "--data",
                        '{"overlap_seconds":60*}'),
        "key-revoked": (f"/v1/api-keys/{key_id}*", [repeated], "--method", "DELETE"),
    }


@contextlib.contextmanager
def revoking(url, key):
    """Revokes the keys that an attack makes: with a hundred in force no more are made, and nothing more would be tried."""
    ended = threading.Event()
    kept = {key.rsplit("_", 1)[1][:16]}

    def revoke():
        while not ended.wait(2):
            for made in ask(url, "/v1/api-keys?limit=100", key)["keys"]:
                if made["name"] != "to be changed" and made["key_id"] not in kept and not made.get("revoked_at"):
                    ask(url, f"/v1/api-keys/{made['key_id']}", key, method="DELETE")

    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        running = threads.submit(revoke)
        try:
            yield
        finally:
            ended.set()
        # What went wrong there is not lost.
        running.result()


def inject(bin_directory, url, home, tools, only):
    """sqlmap on every parameter of the customers' routes, each route as a customer of its own."""
    routes = attacked("of-customer", "0123456789abcdEF", "INV-2026-11-0001")
    for name in only:
        if name not in routes:
            raise Wrong(f"no route is named {name}; there are {', '.join(routes)}")
    for name in only or routes:
        customer = f"of-{name}"
        add_customer(home, customer, name)
        issue(home, customer)
        made = home.run("keys", "create", "--customer", customer, "--name", "a test", "--scopes", SCOPES)
        spare = home.run("keys", "create", "--customer", customer, "--name", "to be changed", "--scopes", SCOPES)
        issued = ask(url, "/v1/invoices", made["key"])["invoices"]
        if not issued:
            raise Wrong(f"no invoice was issued to {customer}, so none can be attacked")
        key_id = spare["key"].rsplit("_", 1)[1][:16]
        path, headers, *options = attacked(customer, key_id, issued[0]["number"])[name]
        makes_keys = "--data" in options
        with revoking(url, made["key"]) if makes_keys else contextlib.nullcontext():
            done = subprocess.run(
                [str(bin_directory / "sqlmap"), "-u", url + path, "--batch", "--dbms", "PostgreSQL", "--level", "1",
                 "--risk", "2", "--technique", "BEUSQ", "--time-sec", "2", "--delay", str(4 * PACE if makes_keys else PACE),
                 "--flush-session", "--ignore-code", EXPECTED, "--output-dir", str(tools / "sqlmap"),
                 "--headers", "\n".join([f"Authorization: Bearer {made['key']}", *headers]), *options],
                capture_output=True, text=True,
            )
        said = done.stdout
        if "is vulnerable" in said or "sqlmap identified the following injection" in said:
            raise Wrong(f"sqlmap injects into {path}:\n{said[-3000:]}")
        for blind in ("401 (Unauthorized)", "429 (Too Many Requests)"):
            if blind in said:
                raise Wrong(f"sqlmap was answered {blind}, so it did not try all of {path}:\n{said[-3000:]}")
        if "do not appear to be injectable" not in said:
            raise Wrong(f"sqlmap did not finish with {path}:\n{said[-2000:]}")
        print(f"sqlmap: nothing in {name}, {path}", flush=True)


def main():
    parser = argparse.ArgumentParser(usage=__doc__.splitlines()[2].strip())
    parser.add_argument("binary")
    parser.add_argument("tools", type=pathlib.Path)
    parser.add_argument("--examples", type=int, default=20)
    parser.add_argument("--sqlmap", action="store_true")
    parser.add_argument("--route", action="append", default=[])
    arguments = parser.parse_args()
    tools = arguments.tools.resolve()
    tools.mkdir(parents=True, exist_ok=True)
    try:
        bin_directory = install(tools, *([SQLMAP] if arguments.sqlmap else []))
        with tempfile.TemporaryDirectory(prefix="securebase-api-") as directory:
            home = Home(arguments.binary, pathlib.Path(directory) / "home")
            with home.serving() as (url, log):
                prepare(home)
                if arguments.sqlmap:
                    inject(bin_directory, url, home, tools, arguments.route)
                else:
                    key, admin = home.key("acme"), home.admin_key()
                    make_client(bin_directory, tools)
                    use_client(bin_directory, tools, url, home, key, admin)
                    explore(bin_directory, url, home, admin, arguments.examples, tools)
                check_log(log)
    except Wrong as wrong:
        sys.exit(f"api_contract: {wrong}")


if __name__ == "__main__":
    main()
