#!/usr/bin/env python3
"""Lets the disk below a home, and below its PostgreSQL alone, really fill up, again and again, in the middle of counting.

    python3 checks/full_disk.py BIN [--events N]

Each stage has a small file system of its own (tmpfs). A command may end and say that there is no room, or wait and go on; once
room was made, what is read again counts what is missing and nothing twice: the difference to the recount is 0.
Needs to mount: root, or a kernel that lets users have namespaces of their own. Where neither is so it says that and exits with 2.
Standard library only.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

MONTH = "2024-03"
KB, MB = 1 << 10, 1 << 20
# How long a command may wait for room before some is made, and how long it may then take to its end.
PATIENCE_SECONDS = 15
END_SECONDS = 300
# Set for the run within a mount namespace.
INSIDE = "SECUREBASE_FULL_DISK_INSIDE"


def fail(said):
    sys.exit(f"full_disk: {said}")


def mounts():
    """Whether this process may mount; otherwise it becomes one that may, or ends with 2."""
    with tempfile.TemporaryDirectory() as folder:
        tried = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
        if tried.returncode == 0:
            subprocess.run(["umount", folder], check=True)
            return
    if INSIDE not in os.environ:
        names = ["unshare", "--user", "--map-root-user", "--mount"]
        if subprocess.run([*names, "true"], capture_output=True).returncode == 0:
            os.execvpe("unshare", [*names, sys.executable, *sys.argv], {**os.environ, INSIDE: "1"})
    print(f"full_disk: NOT TRIED: this machine lets nobody mount a file system here ({tried.stderr.strip()})", file=sys.stderr)
    sys.exit(2)


class Disk:
    """A small file system, and a file that fills it."""

    def __init__(self, folder, megabytes):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        options = f"size={megabytes}m,mode=0755"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
        self.filler = folder / "filler"

    def free(self):
        space = os.statvfs(self.folder)
        return space.f_bavail * space.f_frsize

    def fill(self, but):
        """Leaves so many bytes."""
        with open(self.filler, "ab") as file:
            while (left := self.free() - but) > 0:
                try:
                    file.write(b"\0" * min(left, MB))
                    file.flush()
                except OSError:
                    break

    def make_room(self):
        self.filler.unlink(missing_ok=True)

    def unmount(self):
        # A server that is on its way out may hold on for a moment.
        for _ in range(100):
            if subprocess.run(["umount", str(self.folder)], capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
        subprocess.run(["umount", "-l", str(self.folder)], check=False)


def record(number):
    # Spread over accounts and hours, so that there is a usage row for nearly each event.
    account, hour = f"{100_000_000_000 + number % 40}", number // 40 % 672
    return {
        "eventVersion": "1.08",
        "userIdentity": {"type": "IAMUser", "accountId": account},
        "eventTime": f"2024-03-{hour // 24 + 1:02}T{hour % 24:02}:20:30Z",
        "eventSource": "s3.amazonaws.com",
        "eventName": "ListBuckets",
        "awsRegion": "eu-central-1",
        "eventID": f"{number:08x}-0000-4000-8000-{number:012x}",
        "eventType": "AwsApiCall",
        "managementEvent": True,
        "recipientAccountId": account,
        "eventCategory": "Management",
    }


def write_log(path, numbers):
    path.write_text(json.dumps({"Records": [record(number) for number in numbers]}))


class Stage:
    """A home, commands on it, and what must be counted so far."""

    def __init__(self, binary, home, logs):
        self.binary, self.home, self.logs = binary, home, logs
        self.files = 0
        self.events = 0
        self.said = {"said so": 0, "waited": 0, "had room": 0}

    def command(self, *words):
        environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        return subprocess.Popen(
            [self.binary, "--home", str(self.home), *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )

    def end(self, process, seconds):
        """Its exit code and what it said; None if it still runs after so long."""
        try:
            out, err = process.communicate(timeout=seconds)
            return process.returncode, out, err
        except subprocess.TimeoutExpired:
            return None

    def run(self, *words):
        ended = self.end(self.command(*words), END_SECONDS)
        if ended is None or ended[0] != 0:
            fail(f"{' '.join(words)} should succeed: {ended}")
        return ended[1]

    def json(self, *words):
        return json.loads(self.run(*words, "--json").strip().splitlines()[-1])

    def next_log(self, events):
        path = self.logs / f"log-{self.files:03}.json"
        # One in ten of the last log once more: copies.
        copies = range(max(0, self.events - events // 10), self.events)
        write_log(path, [*copies, *range(self.events, self.events + events)])
        self.files += 1
        self.events += events
        return str(path)

    def check(self, when):
        rows = self.json("usage", "--all", "--meter", "cloudtrail_events", "--group-by", "account",
                         "--from", f"{MONTH}-01T00:00:00Z", "--to", "2024-04-01T00:00:00Z")["rows"]
        counted = sum(int(row["quantity"]) for row in rows)
        if counted != self.events:
            fail(f"{when}: {counted} events are counted, there are {self.events}")
        verified = self.json("verify", "--period", MONTH, str(self.logs))
        if not verified["agrees"]:
            fail(f"{when}: the recount differs: {verified}")


def squeeze(stage, disk, left, events):
    """Counts a log with so much room left; then makes room and counts it to its end."""
    log = stage.next_log(events)
    disk.fill(left)
    process = stage.command("replay", log, "--json")
    ended = stage.end(process, PATIENCE_SECONDS)
    disk.make_room()
    if ended is None:
        # It waits for room: now there is some.
        stage.said["waited"] += 1
        ended = stage.end(process, END_SECONDS)
        if ended is None:
            process.kill()
            fail(f"{left} bytes left: the command still waits although there is room")
    elif ended[0] == 0:
        stage.said["had room"] += 1
    else:
        stage.said["said so"] += 1
        said = ended[2].lower()
        if ended[0] != 1 or "panicked" in said or not any(word in said for word in ("space", "room", "disk full", "53100")):
            fail(f"{left} bytes left: the command ended without saying that the disk is full: {ended}")
    stage.run("replay", log, "--json")


def play(binary, name, home, disk_folder, megabytes, events):
    disk = Disk(disk_folder, megabytes)
    try:
        with tempfile.TemporaryDirectory() as logs:
            stage = Stage(binary, home, pathlib.Path(logs))
            first = stage.next_log(events)
            stage.run("replay", first, "--json")
            for left in (0, 64 * KB, 400 * KB, 1 * MB, 3 * MB):
                squeeze(stage, disk, left, events)
            stage.check(name)
            met = ", ".join(f"{many} {what}" for what, many in stage.said.items())
            print(f"{name}: {stage.events} events, difference 0; of {sum(stage.said.values())} commands on a full disk: {met}")
            if stage.said["had room"] == sum(stage.said.values()):
                fail(f"{name}: the disk was never full, this shows nothing")
    finally:
        disk.unmount()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--events", type=int, default=3000)
    given = parser.parse_args()
    binary = os.path.abspath(given.binary)
    mounts()
    # Below the servers' own user as well, which is not this one.
    with tempfile.TemporaryDirectory(prefix="securebase-full-disk-") as folder:
        os.chmod(folder, 0o755)
        folder = pathlib.Path(folder)
        play(binary, "the whole home", folder / "home", folder / "home", 160, given.events)
        home = folder / "other-home"
        home.mkdir()
        play(binary, "PostgreSQL alone", home, home / "postgres", 128, given.events)


if __name__ == "__main__":
    main()
