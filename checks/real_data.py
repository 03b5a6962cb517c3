#!/usr/bin/env python3
"""Compares the program's counts with the naive recount, on whatever events are given.

    python3 checks/real_data.py BIN EVENTS

BIN is the built `securebase`; EVENTS is a folder with a folder `cloudtrail` of log objects, and perhaps other folders of
records and deliveries (FOLDERS below). Every file is replayed: folder by folder, all together, twice, in another order, by
four processes at once on one home, and through three SIGKILLs. Each time the balance and every (meter, account, hour,
category) must be exactly what recount.py says.
FOCUS exports are compared with decimal sums of their own, and counted once more with account ids of 12 digits, since anonymised
ones may have 11. Events that known_answers.json knows, by their content, are compared with what their publisher's readers
counted. Prints a table; exits 1 on any difference. Standard library only.
"""

import collections
import csv
import datetime
import decimal
import gzip
import hashlib
import io
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time

import recount

SECONDS_MAX = 900
FOLDERS = ("envelopes", "guardduty", "config", "organizations", "usage", "events", "objects")
KNOWN = pathlib.Path(__file__).parent / "known_answers.json"
LIVES = ("accounts", "organizational_units", "service_control_policies")
BALANCE = ("read", "counted", "duplicates", "not_counted", "dead_letters")


class Wrong(Exception):
    """A difference, or a command that did not do what it promises."""


class Securebase:
    """The program on one home."""

    def __init__(self, binary, home):
        self.binary, self.home = binary, home

    def start(self, *words):
        command = [self.binary, "--home", self.home, *words]
        environment = {name: value for name, value in os.environ.items() if name != "SECUREBASE_HOME"}
        # Files, not pipes: a pipe that nobody reads would stop the program when it is full.
        out, err = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment)
        child.out, child.err, child.words = out, err, " ".join(map(str, words[:2]))
        return child

    @staticmethod
    def finish(child):
        """The last line of output, as JSON; a failure or silence is wrong."""
        try:
            code = child.wait(SECONDS_MAX)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            raise Wrong(f"{child.words}: not finished after {SECONDS_MAX} s") from None
        child.out.seek(0)
        child.err.seek(0)
        lines = child.out.read().strip().splitlines()
        complaint = " / ".join(child.err.read().strip().splitlines()[-3:]) or "nothing on standard error"
        if code != 0:
            raise Wrong(f"{child.words}: exit code {code}: {complaint}")
        if not lines:
            raise Wrong(f"{child.words}: no output: {complaint}")
        try:
            return json.loads(lines[-1])
        except ValueError:
            raise Wrong(f"{child.words}: the last line is not JSON: {lines[-1][:200]}") from None

    def run(self, *words):
        return self.finish(self.start(*words))

    def replay(self, *paths):
        return self.run("replay", "--json", *map(str, paths))

    def usage(self, meters):
        rows = collections.Counter()
        for meter in meters:
            answer = self.run(
                *("usage", "--json", "--all", "--meter", meter, "--group-by", "account,hour,category"),
                *("--from", "2000-01-01T00:00:00Z", "--to", "2100-01-01T00:00:00Z"),
            )
            for row in answer["rows"]:
                quantity = row["quantity"]
                if not isinstance(quantity, str) or not re.fullmatch(r"-?[0-9]+(\.[0-9]{1,18})?", quantity):
                    raise Wrong(f"usage: quantity {quantity!r} is no decimal string")
                rows[meter, row["account"], row["hour"], row["category"]] += decimal.Decimal(quantity)
        return {key: quantity for key, quantity in rows.items() if quantity}


def show(difference, most=3):
    lines = [f"{key}: should be {wanted}, is {got}" for key, (wanted, got) in list(difference.items())[:most]]
    more = len(difference) - most
    return "; ".join(lines) + (f"; and {more} more" if 0 < more else "")


def differences(wanted, got):
    keys = sorted(wanted.keys() | got.keys(), key=str)
    return {key: (wanted.get(key, 0), got.get(key, 0)) for key in keys if wanted.get(key, 0) != got.get(key, 0)}


def balances(balance):
    """Every record read became exactly one thing."""
    missing = [key for key in (*BALANCE, "files", "skipped_files", "seconds", "write_units") if key not in balance]
    if missing:
        raise Wrong(f"replay: the last line has no {', '.join(missing)}")
    parts = balance["counted"] + balance["duplicates"]
    parts += sum(balance["not_counted"].values()) + sum(balance["dead_letters"].values())
    if parts != balance["read"]:
        raise Wrong(f"replay: read {balance['read']} records, but accounts for {parts}")


def same_balance(expected, balance, **instead):
    balances(balance)
    wanted = {**expected.balance(), **instead}
    wrong = differences({key: wanted[key] for key in (*BALANCE, "files")}, {**balance})
    wrong = {key: value for key, value in wrong.items() if key in (*BALANCE, "files")}
    beside = balance.get("beside", {}).get("dead_letters", {})
    wrong.update(differences(dict(expected.beside["dead_letters"]), beside))
    if wrong:
        raise Wrong(f"replay: {show(wrong)}")


def same_lives(expected, one):
    """How long accounts, units and policies were live, for every hour that was over a while ago."""
    over = recount.hour_of(expected.now - datetime.timedelta(hours=1))
    wanted, got = collections.Counter(), collections.Counter()
    for (meter, account, hour), seconds in expected.lives().items():
        if hour < over:
            wanted[meter, account, hour] += seconds
    if not wanted:
        return
    for (meter, account, hour, _), seconds in one.usage(LIVES).items():
        if hour < over:
            got[meter, account, hour] += seconds
    wrong = differences(wanted, got)
    if wrong:
        raise Wrong(f"lives: {show(wrong)}")


def same_usage(expected, one):
    """The program's usage of every meter that there should be some of, and of CloudTrail events."""
    same_lives(expected, one)
    got = one.usage(sorted({*expected.meters(), "cloudtrail_events"}))
    wanted = expected.counts(("meter", "account", "hour", "category"))
    undecided = expected.undecided()
    # Where copies of one event differ in category, the first one committed decides: the hour's total must be right.
    hours, wanted_hours = collections.Counter(), collections.Counter()
    for target, rows in ((hours, got), (wanted_hours, wanted)):
        for (meter, account, hour, _), quantity in rows.items():
            target[meter, account, hour] += quantity
    wrong = differences(wanted_hours, hours) or {
        key: pair for key, pair in differences(wanted, got).items() if (key[1], key[2]) not in undecided
    }
    if wrong:
        raise Wrong(f"usage: {show(wrong)}")


class Checks:
    def __init__(self, binary, scratch):
        self.binary, self.scratch = binary, scratch
        self.passed = self.failed = 0

    def home(self):
        return Securebase(self.binary, tempfile.mkdtemp(prefix="home-", dir=self.scratch))

    def check(self, name, body):
        started = time.monotonic()
        try:
            note = body() or ""
            self.passed += 1
            outcome = "pass"
        except Wrong as wrong:
            note, outcome = str(wrong), "FAIL"
            self.failed += 1
        except (KeyError, TypeError, AttributeError, OSError) as unusable:
            note, outcome = f"{type(unusable).__name__}: {unusable}", "FAIL"
            self.failed += 1
        print(f"{outcome}  {name:<44} {time.monotonic() - started:6.1f} s  {note}", flush=True)
        for home in pathlib.Path(self.scratch).iterdir():
            shutil.rmtree(home, ignore_errors=True)

    def whole(self, paths):
        def body():
            expected, one = recount.recount(paths), self.home()
            same_balance(expected, one.replay(*paths))
            same_usage(expected, one)
            return f"{expected.read} records, {expected.counted} counted, {sum(expected.dead_letters.values())} set aside"

        return body

    def twice(self, paths):
        def body():
            expected, one = recount.recount(paths), self.home()
            same_balance(expected, one.replay(*paths))
            again = expected.counted + expected.duplicates
            same_balance(expected, one.replay(*paths), counted=0, duplicates=again)
            same_usage(expected, one)
            return f"{again} duplicates"

        return body

    def other_order(self, paths):
        def body():
            files = recount.files_below(paths)
            random.Random(7).shuffle(files)
            expected, one = recount.recount(files), self.home()
            same_balance(expected, one.replay(*files))
            same_usage(expected, one)
            return f"{len(files)} files"

        return body

    def one_by_one(self, paths, most):
        """File by file on one home: the balance of each is what the recount adds for it."""

        def body():
            one = self.home()
            expected = recount.recount([])
            for file in recount.files_below(paths)[:most]:
                before = expected.counted, expected.duplicates, expected.read
                expected.add_file(file)
                after = expected.counted, expected.duplicates, expected.read
                balance = one.replay(file)
                balances(balance)
                got = balance["counted"], balance["duplicates"], balance["read"]
                wanted = tuple(late - early for late, early in zip(after, before))
                if got != wanted:
                    raise Wrong(f"{file.name}: counted, duplicates, read should be {wanted}, are {got}")
            same_usage(expected, one)
            return f"{expected.files} runs"

        return body

    def known(self, paths, answer):
        """What others counted in these very files."""

        def body():
            balance = self.home().replay(*paths)
            balances(balance)
            wrong = differences(answer, {key: balance[key] for key in answer})
            if wrong:
                raise Wrong(f"replay: {show(wrong)}")
            return ", ".join(f"{key} {value}" for key, value in answer.items())

        return body

    def inspected(self, export, answer):
        """An export summed up by the program, by ourselves, and by others, if they did."""

        def body():
            got = self.home().run("sources", "inspect", "--json", str(export))
            content = export.read_bytes()
            content = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
            rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))
            of_aws = [row for row in rows if row["ProviderName"] == "AWS"]
            sums = collections.Counter()
            for row in of_aws:
                quantity = recount.objects.number(row["ConsumedQuantity"])
                if quantity is not None:
                    unit = row["ConsumedUnit"] if row["ConsumedUnit"] != "NULL" else ""
                    sums[f"{row['ServiceName']} / {unit}"] += quantity
            told = {f"{one['service']} / {one['unit']}": decimal.Decimal(one["quantity"]) for one in got["sums"]}
            # A sum of nothing is no difference, but a sum that is not told is one.
            missing = sums.keys() ^ told.keys()
            wrong = {key: (str(sums.get(key)), str(told.get(key))) for key in missing} | differences(sums, told)
            wrong |= differences({"rows": len(rows), "AWS": len(of_aws)}, {"rows": got["rows"], "AWS": got["providers"].get("AWS", 0)})
            if answer:
                known = {key: decimal.Decimal(value) for key, value in answer["sums"].items()}
                wrong |= differences(known, {key: told.get(key, 0) for key in known})
                counts = {"rows": got["rows"], "rows of AWS": got["providers"]["AWS"], "sub-accounts": len(got["sub_accounts"])}
                wrong |= differences({key: answer[key] for key in counts}, counts)
            if wrong:
                raise Wrong(f"inspect: {show(wrong)}")
            return f"{len(sums)} sums of {len(of_aws)} rows" + (", as known" if answer else "")

        return body

    def exported(self, export):
        """The export with account ids of 12 digits, declared for every meter, through the whole chain."""

        def body():
            content = export.read_bytes()
            content = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
            table = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))
            place = table[0].index("SubAccountId")
            for row in table[1:]:
                row[place] = row[place].rjust(12, "0")
            folder = pathlib.Path(tempfile.mkdtemp(prefix="export-", dir=self.scratch))
            twin, declared = folder / "20300101T000000Z-twin.csv", folder / "declared.toml"
            with open(twin, "w", newline="") as file:
                csv.writer(file).writerows(table)
            meters = sorted({rule[0] for rule in recount.objects.RULES})
            declared.write_text("".join(f'[[declared]]\nmeter = "{meter}"\nsource = "focus_export"\n' for meter in meters))
            one = self.home()
            expected = recount.recount([twin], declared=recount.declared_in(declared))
            same_balance(expected, one.replay("--sources", declared, twin))
            same_usage(expected, one)
            # The sums of what was counted are those of the inspection, meter by meter.
            sums = collections.Counter()
            for (meter, *_), quantity in one.usage(meters).items():
                sums[meter] += quantity
            told = one.run("sources", "inspect", "--json", twin)["meters"]
            wrong = differences({one["meter"]: decimal.Decimal(one["quantity"]) for one in told}, sums)
            if wrong:
                raise Wrong(f"usage: {show(wrong)}")
            return f"{expected.counted} rows counted: " + ", ".join(f"{meter} {total}" for meter, total in sorted(sums.items()))

        return body

    def four_at_once(self, paths):
        def body():
            expected, one = recount.recount(paths), self.home()
            children = [one.start("replay", "--json", *map(str, paths)) for _ in range(4)]
            answers, wrongs = [], []
            for child in children:
                try:
                    answers.append(one.finish(child))
                except Wrong as wrong:
                    wrongs.append(str(wrong))
            if wrongs:
                raise Wrong(" | ".join(wrongs))
            for balance in answers:
                balances(balance)
                if balance["read"] != expected.read:
                    raise Wrong(f"replay: one of four read {balance['read']} records instead of {expected.read}")
                if balance["dead_letters"] != expected.balance()["dead_letters"]:
                    raise Wrong(f"replay: one of four set aside {balance['dead_letters']}")
            counted = sum(balance["counted"] for balance in answers)
            if counted != expected.counted:
                raise Wrong(f"replay: four at once counted {counted} instead of {expected.counted}")
            same_usage(expected, one)
            return "counted " + " + ".join(str(balance["counted"]) for balance in answers)

        return body

    def killed(self, paths):
        def body():
            started = time.monotonic()
            self.home().replay(*paths)
            whole = time.monotonic() - started
            expected, one = recount.recount(paths), self.home()
            in_the_middle = 0
            for part in (0.3, 0.6, 0.9):
                child = one.start("replay", "--json", *map(str, paths))
                try:
                    child.wait(whole * part)
                except subprocess.TimeoutExpired:
                    in_the_middle += 1
                child.kill()
                child.wait()
            balance = one.replay(*paths)
            balances(balance)
            if balance["read"] != expected.read:
                raise Wrong(f"replay: read {balance['read']} records instead of {expected.read}")
            if expected.counted < balance["counted"]:
                raise Wrong(f"replay: counted {balance['counted']} of {expected.counted}")
            same_usage(expected, one)
            return f"{in_the_middle} of 3 kills hit a run; the last run counted {balance['counted']}"

        return body


def content_of(path):
    """SHA-256 of a file, or over those of everything below a folder, sorted; its names play no part."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    hashes = sorted(hashlib.sha256(file.read_bytes()).digest() for file in path.rglob("*") if file.is_file())
    return hashlib.sha256(b"".join(hashes)).hexdigest()


def is_export(path):
    """Whether a file is a whole FOCUS export, with a row for every column that decides."""
    try:
        stored = path.read_bytes()
        content = gzip.decompress(stored) if stored.startswith(b"\x1f\x8b") else stored
        table = recount.objects.rows_of(content)
    except (OSError, EOFError):
        return False
    return bool(table) and set(recount.objects.REQUIRED) <= set(table[0]) and all(len(row) == len(table[0]) for row in table[1])


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: real_data.py BIN EVENTS")
    binary, events = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2])
    if not os.access(binary, os.X_OK) or binary.is_dir():
        sys.exit(f"real_data: {binary} is not a program; build it first")
    cloudtrail = events / "cloudtrail"
    if not cloudtrail.is_dir():
        sys.exit(f"real_data: {events} has no folder cloudtrail with log objects")
    if not recount.files_below([cloudtrail]):
        sys.exit(f"real_data: no file below {cloudtrail}")

    with tempfile.TemporaryDirectory(prefix="securebase-checks-") as scratch:
        checks = Checks(str(binary), scratch)
        everything = [cloudtrail.resolve()]
        checks.check("cloudtrail", checks.whole(everything[:1]))
        for folder in sorted(path for path in everything[0].iterdir() if path.is_dir()):
            checks.check(f"cloudtrail/{folder.name}", checks.whole([folder]))
        for name in FOLDERS:
            folder = (events / name).resolve()
            if folder.is_dir():
                checks.check(name, checks.whole([folder]))
                everything.append(folder)
        known = json.loads(KNOWN.read_text())
        found = 0
        for folder in [folder for path in everything for folder in (path, *sorted(path.iterdir()))]:
            answer = known["replayed"].get(content_of(folder))
            if answer:
                found += 1
                checks.check(f"known: {answer['name']}", checks.known([folder], answer["balance"]))
        for export in sorted(path for path in everything[-1].parent.rglob("*.csv*") if is_export(path)):
            answer = known["exports"].get(content_of(export))
            found += bool(answer)
            checks.check(f"sums of {export.name}"[:44], checks.inspected(export, answer))
            if answer:
                checks.check(f"{export.name}, counted"[:44], checks.exported(export))
        print(f"      {found} known answers for these events", flush=True)
        checks.check("everything", checks.whole(everything))
        checks.check("a second replay", checks.twice(everything))
        checks.check("another order", checks.other_order(everything))
        checks.check("the first files one by one", checks.one_by_one(everything, most=8))
        checks.check("four processes at once", checks.four_at_once(everything))
        checks.check("SIGKILL in the middle, three times", checks.killed(everything))
    print(f"{checks.passed} passed, {checks.failed} failed")
    sys.exit(1 if checks.failed else 0)


if __name__ == "__main__":
    main()
