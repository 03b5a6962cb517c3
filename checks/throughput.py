#!/usr/bin/env python3
"""Replays generated logs once on a fresh home: rate, memory, write units, and whether the count is right.

    python3 checks/throughput.py BIN DIR      DIR as `generate --out DIR` made it: AWSLogs/ and answer.json

Exits 1 unless every (account, hour, region, category) is exactly what answer.json says. Standard library only.
"""

import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

COLUMNS = ("account", "hour", "region", "category")


def last_line(binary, home, *words):
    done = subprocess.run([binary, "--home", home, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"throughput: {words[0]} ended with exit code {done.returncode}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def counts(rows):
    return {tuple(row[column] for column in COLUMNS): int(row["quantity"]) for row in rows}


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: throughput.py BIN DIR")
    binary, logs = sys.argv[1], pathlib.Path(sys.argv[2])
    answer = json.loads((logs / "answer.json").read_text())
    with tempfile.TemporaryDirectory(prefix="securebase-bench-") as home:
        began = time.monotonic()
        balance = last_line(binary, home, "replay", "--json", str(logs / "AWSLogs"))
        seconds = time.monotonic() - began
        memory_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
        usage = last_line(
            *(binary, home, "usage", "--json", "--all", "--meter", "cloudtrail_events", "--group-by", ",".join(COLUMNS)),
            *("--from", "2000-01-01T00:00:00Z", "--to", "2100-01-01T00:00:00Z"),
        )
    got = balance["read"], balance["counted"], balance["duplicates"], balance["files"]
    wanted = answer["records"], answer["events"], answer["duplicates"], answer["files"]
    right = got == wanted and counts(usage["rows"]) == counts(answer["rows"])
    print(f"{answer['records']} records in {answer['files']} files, {answer['raw_bytes'] // 1_000_000} MB raw")
    print(f"replay          {balance['seconds']:.1f} s, {answer['records'] / balance['seconds']:,.0f} events/s")
    print(f"start to exit   {seconds:.1f} s, {answer['records'] / seconds:,.0f} events/s")
    print(f"memory          {memory_mb} MB at most in one process")
    print(f"write units     {balance['write_units'] * 1_000_000 / max(1, balance['counted']):,.0f} per million events counted")
    print("the count is right" if right else f"the count is WRONG: read, counted, duplicates, files {got}, should be {wanted}")
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
