#!/usr/bin/env python3
"""Checks the oracle: recount.py over the fixtures gives what is expected there, file by file and over all.

    python3 checks/fixtures_agree.py

The expectations were written by hand (fixtures/make.py), so an error in recount.py shows here. Standard library only.
"""

import datetime
import json
import pathlib
import subprocess
import sys

import recount

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "fixtures"
MAKE = FIXTURES / "make.py"
COLUMNS = {"cloudtrail": ("account", "hour", "category"), "events": ("meter", "account", "hour", "category"),
           "objects": ("meter", "account", "hour", "category")}


def outcome(counts, columns):
    rows = counts.counts(columns).items()
    return {**counts.balance(), "rows": [dict(zip(columns, key), quantity=recount.quantity_text(quantity)) for key, quantity in rows]}


def main():
    passed = failed = 0

    def check(name, wanted, got):
        nonlocal passed, failed
        wrong = [key for key in wanted if wanted[key] != got.get(key)]
        failed += bool(wrong)
        passed += not wrong
        for key in wrong:
            print(f"FAIL {name}: {key} should be {wanted[key]}, is {got.get(key)}")

    written = subprocess.run([sys.executable, str(MAKE), "--check"], capture_output=True, text=True)
    check("the files are as fixtures/make.py writes them", {"differences": ""}, {"differences": written.stderr.strip()})
    for folder, columns in COLUMNS.items():
        files = FIXTURES / folder
        expected = json.loads((files / "expected.json").read_text())
        now = datetime.datetime.fromisoformat(expected["now"].rstrip("Z"))
        together, backwards = recount.Recount(now), recount.Recount(now)
        for name, wanted in expected["files"].items():
            alone = recount.Recount(now)
            alone.add_file(files / name)
            check(f"{folder}/{name}", wanted, outcome(alone, columns))
            together.add_file(files / name)
        for name in reversed(expected["files"]):
            backwards.add_file(files / name)
        check(f"all of {folder}", expected["all"], outcome(together, columns))
        check(f"all of {folder} in the other order", expected["all"], outcome(backwards, columns))
        balance = together.balance()
        parts = balance["counted"] + balance["duplicates"]
        parts += sum(balance["not_counted"].values()) + sum(balance["dead_letters"].values())
        check(f"the balance of {folder}", {"read": balance["read"]}, {"read": parts})
    print(f"the recount agrees with the fixtures: {passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
