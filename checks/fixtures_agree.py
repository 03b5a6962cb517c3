#!/usr/bin/env python3
"""Checks the oracle: recount.py over fixtures/cloudtrail gives what is expected there, file by file and over all.

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
FIXTURES = ROOT / "fixtures" / "cloudtrail"
MAKE = ROOT / "fixtures" / "make.py"


def outcome(counts):
    rows = [
        {"account": account, "hour": hour, "category": category, "quantity": str(quantity)}
        for (account, hour, category), quantity in counts.counts().items()
    ]
    return {**counts.balance(), "rows": rows}


def main():
    expected = json.loads((FIXTURES / "expected.json").read_text())
    now = datetime.datetime.fromisoformat(expected["now"].rstrip("Z"))
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
    together, backwards = recount.Recount(now), recount.Recount(now)
    for name, wanted in expected["files"].items():
        alone = recount.Recount(now)
        alone.add_file(FIXTURES / name)
        check(name, wanted, outcome(alone))
        together.add_file(FIXTURES / name)
    for name in reversed(expected["files"]):
        backwards.add_file(FIXTURES / name)
    check("all files", expected["all"], outcome(together))
    check("all files in the other order", expected["all"], outcome(backwards))
    balance = together.balance()
    parts = balance["counted"] + balance["duplicates"]
    parts += sum(balance["not_counted"].values()) + sum(balance["dead_letters"].values())
    check("the balance", {"read": balance["read"]}, {"read": parts})
    print(f"the recount agrees with the fixtures: {passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
