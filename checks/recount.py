#!/usr/bin/env python3
"""Counts usage events the naive way: the reference that the product's counts are compared with.

It follows the rules of counting and shares nothing with the product: whole files in memory, Python's own JSON parser,
one dictionary of everything seen. Standard library only.

    python3 checks/recount.py PATH...            files and folders, everything below them
    python3 checks/recount.py --by account PATH  other columns than meter,account,hour,category
    python3 checks/recount.py --sources FILE PATH   with the declared sources of this file

Prints {"balance": {..}, "rows": [..]} in the words of `securebase replay --json` and `securebase usage --json`.

Left to the product's own tests, because they are limits of its reader and not rules of counting: records over 4 MiB and
gzip bombs.
"""

import argparse
import collections
import datetime
import hashlib
import json
import pathlib
import re
import sys
import tomllib
import zlib

import forms
import objects

BLANKS = " \t\r\n"
NESTING_MAX = 100
DIMENSION_BYTES_MAX = 64
AHEAD_MAX = datetime.timedelta(hours=1)

ACCOUNT = re.compile(r"[0-9]{12}", re.ASCII)
OBJECT_NAME = re.compile(r"([0-9]{12})_CloudTrail(-Insight)?_", re.ASCII)
UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
INSTANT = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(\.[0-9]+)?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})?",
    re.ASCII,
)


class Number:
    """A number as written: 1.0 and 1 are different texts, and no digit is lost."""

    def __init__(self, text):
        self.text = text


class DeadLetter(Exception):
    """A record set aside; its first argument is the reason."""


def refuse(word):
    raise ValueError(f"{word} is not JSON")


class Members(dict):
    """An object that also has the members whose key comes again."""

    def __init__(self, pairs):
        super().__init__(pairs)
        self.pairs = pairs


DECODER = json.JSONDecoder(parse_int=Number, parse_float=Number, parse_constant=refuse)
# Slower, and only needed where a wrapper may have `Records` twice.
ALL_MEMBERS = json.JSONDecoder(
    parse_int=Number, parse_float=Number, parse_constant=refuse, object_pairs_hook=Members
)


def parse(text):
    """The JSON value that `text` is, or a dead letter."""
    try:
        value, end = DECODER.raw_decode(text, skip_blanks(text, 0, len(text)))
    except (ValueError, RecursionError):
        return not_parsed(text, 0, len(text))
    return value if skip_blanks(text, end, len(text)) == len(text) else not_parsed(text, 0, len(text))


def not_parsed(text, at, end):
    """What becomes of a stretch that does not parse: one that nests too deep is not looked into any further."""
    is_too_deep = text[at] in "{[" and NESTING_MAX < bracket_depth(text, at, end)
    return DeadLetter("nested_too_deep" if is_too_deep else "broken_json")


# Stored bytes to text. -----------------------------------------------------------------------------------------------


def gunzip(stored):
    """The content of one or more gzip members, and the reason if it is not whole."""
    content = bytearray()
    while stored:
        if not stored.startswith(b"\x1f\x8b"[: len(stored)]):
            return bytes(content), "gzip_corrupt"
        member = zlib.decompressobj(wbits=31)
        try:
            content += member.decompress(stored)
        except zlib.error:
            # Again byte by byte: what comes before the fault still stands.
            member = zlib.decompressobj(wbits=31)
            try:
                for byte in stored:
                    content += member.decompress(bytes([byte]))
            except zlib.error:
                return bytes(content), "gzip_corrupt"
        if not member.eof:
            return bytes(content), "gzip_truncated"
        stored = member.unused_data
    return bytes(content), None


# Text to records. ----------------------------------------------------------------------------------------------------


def skip_blanks(text, at, end):
    while at < end and text[at] in BLANKS:
        at += 1
    return at


def skip_string(text, at, end):
    """Behind the string that begins at `at`; None if it does not end."""
    at += 1
    while at < end:
        if text[at] == "\\":
            at += 1
        elif text[at] == '"':
            return at + 1
        at += 1
    return None


def skip_balanced(text, at, end, depth=0):
    """Behind the bracket that closes what is open; None if there is none."""
    while at < end:
        if text[at] == '"':
            at = skip_string(text, at, end)
            if at is None:
                return None
            continue
        if text[at] in "{[":
            depth += 1
        elif text[at] in "}]":
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    return None


def bracket_depth(text, at, end):
    """How deep brackets nest, whether or not they match."""
    depth = deepest = 0
    while at < end:
        if text[at] == '"':
            at = skip_string(text, at, end)
            if at is None:
                return deepest
            continue
        if text[at] in "{[":
            depth += 1
            deepest = max(deepest, depth)
        elif text[at] in "}]":
            depth -= 1
        at += 1
    return deepest


def newline_in_string(text, at, end):
    """The first newline inside a string of the object at `at`; None if it closes, or the text ends, before one."""
    depth, in_string = 0, False
    while at < end:
        if in_string:
            if text[at] == "\n":
                return at
            if text[at] == "\\" and text[at + 1 : at + 2] != "\n":
                at += 1
            elif text[at] == '"':
                in_string = False
        elif text[at] == '"':
            in_string = True
        elif text[at] in "{[":
            depth += 1
        elif text[at] in "}]":
            depth -= 1
            if depth == 0:
                return None
        at += 1
    return None


def skip_scalar(text, at, end, ends):
    while at < end and text[at] not in ends:
        if text[at] == '"':
            at = skip_string(text, at, end)
            if at is None:
                return None
        else:
            at += 1
    return at if at < end else None


def elements(text, at, end):
    """The elements of an array whose opening bracket is before `at`, and where it closed (None: it did not)."""
    found = []
    while True:
        at = skip_blanks(text, at, end)
        if at == end:
            return found + [DeadLetter("broken_json")], None
        if text[at] == "]":
            return found, at + 1
        if text[at] == ",":
            at += 1
            continue
        behind = skip_balanced(text, at, end) if text[at] in "{[" else skip_scalar(text, at, end, ",]")
        if behind is None:
            return found + [DeadLetter("broken_json")], None
        found.append(parse(text[at:behind]))
        at = behind


def follow_members(text, at, end, expected="key"):
    """What stops the members of an object, from inside it on, and where: `Records` as an array or not, the closing
    brace, something that no object has there, or the end."""
    while True:
        at = skip_blanks(text, at, end)
        if at == end:
            return "end", None
        if expected in ("key", "comma") and text[at] == "}":
            return "close", at + 1
        if expected == "comma" and text[at] == ",":
            expected = "key"
            at += 1
            continue
        if expected != "key" or text[at] != '"':
            return "unusual", at
        behind = skip_string(text, at, end)
        if behind is None:
            return "end", None
        key = parse(text[at:behind])
        at = skip_blanks(text, behind, end)
        if at == end:
            return "end", None
        if text[at] != ":":
            return "unusual", at
        at = skip_blanks(text, at + 1, end)
        if at == end:
            return "end", None
        if key == "Records":
            return ("records", at + 1) if text[at] == "[" else ("not_an_array", at)
        if text[at] in ",}]:":
            return "unusual", at
        if text[at] == '"':
            at = skip_string(text, at, end)
        elif text[at] in "{[":
            at = skip_balanced(text, at, end)
        else:
            while at < end and text[at] not in ',}]\n"{[':
                at += 1
        if at is None:
            return "end", None
        expected = "comma"


NAMES = {"unusual": "broken_json", "not_an_array": "records_not_an_array"}


def salvage(text, at, end):
    """The records of a value that does not parse as a whole, and where reading goes on (None: there is no more)."""
    if text[at] == "[":
        return elements(text, at + 1, end)
    what, place = follow_members(text, at + 1, end)
    # No string holds a newline as it is: an object that breaks there was one of JSON lines.
    newline = newline_in_string(text, at, end)
    if newline is not None and not (what == "records" and place < newline):
        return [DeadLetter("broken_json")], newline
    if what == "close":
        return [not_parsed(text, at, place)], place
    found = []
    while what == "records":
        inside, place = elements(text, place, end)
        found += inside
        if place is None:
            return found, None
        what, place = follow_members(text, place, end, expected="comma")
    if what in NAMES:
        place = skip_balanced(text, place, end, depth=1)
    if place is None:
        return found + [DeadLetter("broken_json")], None
    return found + [DeadLetter(NAMES[what])] if what in NAMES else found, place


def records_of(value):
    """The records a whole JSON value at top level holds: every `Records` of a wrapper counts."""
    if isinstance(value, list):
        return value
    if "Records" not in value:
        return [value]
    found = []
    for key, member in value.pairs if isinstance(value, Members) else value.items():
        if key == "Records" and not isinstance(member, list):
            return found + [DeadLetter("records_not_an_array")]
        if key == "Records":
            found += member
    return found


def decode(text, at, end):
    """The JSON value at `at` and where it ends, as long as it ends before `end`."""
    before = 0
    if end < len(text):
        text, at, before = text[at:end], 0, at
    value, behind = DECODER.raw_decode(text, at)
    if isinstance(value, dict) and "Records" in value:
        # An escape may spell it, too.
        if 1 < text.count("Records", at, behind) + text.count("\\u00", at, behind):
            value, behind = ALL_MEMBERS.raw_decode(text, at)
    return value, before + behind


def records(text):
    """Every record of a file, as parsed or as a dead letter; and whether the last one is a tail that does not end."""
    end = len(text)
    at = skip_blanks(text, 0, end)
    if at == end:
        return [], False
    if text[at] not in "{[":
        return [DeadLetter("not_json")], False
    found = []
    # Once a value began and ended on one line, these are JSON lines: each line is for itself.
    are_lines = False
    while True:
        while at < end and text[at] in BLANKS + ",":
            at += 1
        if at == end:
            return found, False
        newline = text.find("\n", at)
        line_end = end if newline < 0 else newline
        if text[at] not in "{[":
            found.append(parse(text[at:line_end]))
            if line_end == end:
                return found, True
            at = line_end
            continue
        limit = line_end if are_lines else end
        try:
            value, behind = decode(text, at, limit)
            found += records_of(value)
        except (ValueError, RecursionError):
            salvaged, behind = salvage(text, at, limit)
            found += salvaged
            if behind is None:
                if limit == end:
                    return found, True
                at = limit
                continue
        are_lines |= behind <= line_end
        at = behind


# Records to counts. --------------------------------------------------------------------------------------------------


def canonical(value):
    """Keys in code point order, no blanks, the shortest escapes, numbers as written."""
    if isinstance(value, Number):
        return value.text
    if isinstance(value, dict):
        members = (f"{canonical(key)}:{canonical(value[key])}" for key in sorted(value))
        return "{" + ",".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def identity(event):
    event_id = event.get("eventID")
    if isinstance(event_id, str) and UUID.fullmatch(event_id):
        return bytes.fromhex(event_id.replace("-", ""))
    return hashlib.sha256(canonical(event).encode("utf-8", "surrogatepass")).digest()[:16]


def nesting(value):
    deepest, level = 0, [value]
    while level:
        inner = []
        for item in level:
            if isinstance(item, dict):
                inner.append(item.values())
            elif isinstance(item, list):
                inner.append(item)
        deepest += bool(inner)
        level = [item for items in inner for item in items]
    return deepest


def account(event, envelope_account, object_account):
    given = event.get("recipientAccountId")
    if given in (None, ""):
        given = envelope_account
    if given in (None, ""):
        if object_account:
            return object_account
        user = event.get("userIdentity")
        given = user.get("accountId") if isinstance(user, dict) else None
        if given in (None, ""):
            raise DeadLetter("account_missing")
    if isinstance(given, str) and ACCOUNT.fullmatch(given):
        return given
    raise DeadLetter("account_malformed")


def event_instant(text, now):
    if text is None:
        raise DeadLetter("event_time_missing")
    parts = INSTANT.fullmatch(text) if isinstance(text, str) else None
    if not parts:
        raise DeadLetter("event_time_malformed")
    year, month, day, hour, minute, second = (int(part) for part in parts.groups()[:6])
    fraction = int((parts[7] or ".0")[1:7].ljust(6, "0"))
    offset = datetime.timedelta()
    if parts[8] and parts[8] not in "Zz":
        sign = -1 if parts[8][0] == "-" else 1
        hours, minutes = int(parts[8][1:3]), int(parts[8][4:6])
        if 23 < hours or 59 < minutes:
            raise DeadLetter("event_time_malformed")
        offset = sign * datetime.timedelta(hours=hours, minutes=minutes)
    try:
        # A leap second (RFC 3339 section 5.7) is the first of the next minute.
        leap = datetime.timedelta(seconds=1) if second == 60 else datetime.timedelta()
        instant = datetime.datetime(year, month, day, hour, minute, min(second, 59) if leap else second, fraction)
        instant += leap - offset
    except (ValueError, OverflowError):
        raise DeadLetter("event_time_malformed") from None
    if now + AHEAD_MAX < instant:
        raise DeadLetter("event_time_in_future")
    return instant


def hour_of(instant):
    return instant.strftime("%Y-%m-%dT%H:00:00Z").rjust(20, "0")


def event_hour(text, now):
    return hour_of(event_instant(text, now))


def written(instant):
    """RFC 3339 with no more fraction than it has, in steps of three digits."""
    whole, micros = instant.strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0"), instant.microsecond
    if micros == 0:
        return whole + "Z"
    return f"{whole}.{micros // 1000:03}Z" if micros % 1000 == 0 else f"{whole}.{micros:06}Z"


def dimension(event, name):
    value = event.get(name)
    if not isinstance(value, str) or value == "":
        return "none"
    if DIMENSION_BYTES_MAX < len(value.encode("utf-8", "surrogatepass")):
        raise DeadLetter("dimension_malformed")
    if any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in value):
        raise DeadLetter("dimension_malformed")
    return value


def starts(value, prefix):
    return isinstance(value, str) and value.startswith(prefix)


def is_event(record):
    if starts(record.get("eventSource"), "aws:") or starts(record.get("EventSource"), "aws:"):
        return False
    if "detail-type" in record:
        return False
    return (
        isinstance(record.get("eventName"), str)
        or starts(record.get("eventType"), "Aws")
        or record.get("eventCategory") == "Insight"
    )


def records_in(stored):
    """Every record of an object or of what a delivery carries: parsed, or as a dead letter."""
    fault = None
    if stored.startswith(b"\x1f\x8b"):
        stored, fault = gunzip(stored)
    found, ends_open = records(stored.decode("utf-8-sig", errors="replace"))
    if fault and not any(isinstance(one, DeadLetter) and one.args[0] == "not_json" for one in found):
        # One dead letter for what is missing, not a second one for the record it was cut in.
        found = (found[:-1] if ends_open else found) + [DeadLetter(fault)]
    return found


class Recount:
    """What was read so far, and what became of it."""

    def __init__(self, now, declared=None):
        self.now = now
        self.files = self.read = self.duplicates = self.counted = 0
        self.kinds = collections.Counter()
        self.dead_letters = collections.Counter()
        self.beside = {"counted": 0, "duplicates": 0, "dead_letters": collections.Counter()}
        self.door = forms.FrontDoor(self, declared or forms.Declared())
        self.statements = objects.Facts()
        # (meter, account, identity, hour) to the dimensions of its first copy, and the categories of all its copies.
        self.seen = {}
        self.categories = collections.defaultdict(set)

    def add_file(self, path):
        self.add(str(path.resolve()), path.read_bytes(), path.stat().st_mtime_ns // 1000)

    def add(self, name, stored, written_at=0):
        """One object; `written_at` in microseconds since 1970."""
        self.files += 1
        content, fault = gunzip(stored) if stored.startswith(b"\x1f\x8b") else (stored, None)
        table = objects.rows_of(content)
        if table:
            return self.add_export(name, written_at, content, fault, *table)
        object_account = OBJECT_NAME.match(name.rsplit("/", 1)[-1])
        for record in records_in(stored):
            self.door.judge(record, object_account and object_account[1])

    def add_export(self, name, written_at, content, fault, header, rows):
        if fault:
            # What is behind the last whole row is not read, and the edition has no end.
            rows = rows[:-1] if not content.endswith(b"\n") else rows
        whole = dict(self.statements.expected)
        objects.export(self, name, written_at, header, rows)
        if fault:
            self.statements.expected = whole
            self.dead(fault)

    def usage_fact(self, fact):
        """A sample, or a row of an export."""
        self.usage_facts([fact])

    def usage_facts(self, facts):
        """What one record says; the first of it decides."""
        self.read += 1
        if [self.statements.add(fact) for fact in facts][0]:
            self.counted += 1
        else:
            self.duplicates += 1

    def is_new(self, meter, account, identity, hour, dimensions):
        key = meter, account, identity, hour
        self.categories[key].add(dimensions[1])
        if key in self.seen:
            return False
        self.seen[key] = dimensions
        return True

    def usage(self, *event):
        self.read += 1
        if self.is_new(*event):
            self.counted += 1
        else:
            self.duplicates += 1

    def not_counted(self, kind):
        self.read += 1
        self.kinds[kind] += 1

    def dead(self, reason):
        self.read += 1
        self.dead_letters[reason] += 1

    def beside_usage(self, *event):
        """An event beside a record that is in the balance already."""
        self.beside["counted" if self.is_new(*event) else "duplicates"] += 1

    def fact(self, fact):
        """Something began or ended beside a record that is in the balance already."""
        self.statements.add(fact)

    def beside_dead(self, reason):
        self.beside["dead_letters"][reason] += 1

    def balance(self):
        return {
            "read": self.read,
            "counted": self.counted,
            "duplicates": self.duplicates,
            "not_counted": dict(sorted(self.kinds.items())),
            "dead_letters": dict(sorted(self.dead_letters.items())),
            "files": self.files,
        }

    def counts(self, columns=("account", "hour", "category"), meter="cloudtrail_events"):
        """Quantities by the values of the columns; of one meter, or with `meter` among the columns of all."""
        total = collections.Counter()
        for (of, owner, _, hour), (region, category) in self.seen.items():
            if of == meter or "meter" in columns:
                row = {"meter": of, "account": owner, "hour": hour, "region": region, "category": category}
                total[tuple(row[column] for column in columns)] += 1
        for (of, owner, hour, region), quantity in self.statements.usage().items():
            if of == meter or "meter" in columns:
                row = {"meter": of, "account": owner, "hour": hour, "region": region, "category": "none"}
                total[tuple(row[column] for column in columns)] += quantity
        return dict(sorted(total.items()))

    def lives(self):
        """Seconds live by (meter, account, hour), for every hour that is over."""
        return self.statements.lives(self.now)

    def meters(self):
        """Those that have usage, but for those that are live as long as nobody says otherwise."""
        return sorted({key[0] for key in self.seen} | {key[0] for key in self.statements.usage()})

    def undecided(self, meter="cloudtrail_events"):
        """(account, hour) whose category depends on which copy is committed first."""
        several = (key for key, categories in self.categories.items() if 1 < len(categories))
        return {(key[1], key[3]) for key in several if key[0] == meter}


def files_below(paths):
    found = []
    for path in map(pathlib.Path, paths):
        if path.is_dir():
            found += sorted(file for file in path.rglob("*") if file.is_file())
        elif path.is_file():
            found.append(path)
        else:
            sys.exit(f"recount: {path} is no file and no folder")
    return found


def declared_in(path):
    """The declared sources of a TOML file."""
    rows = tomllib.loads(pathlib.Path(path).read_text())["declared"]
    ever = datetime.datetime.min
    begins = [hour_of(event_instant(row["from"], ever.max - AHEAD_MAX)) if "from" in row else "" for row in rows]
    return forms.Declared(
        (row["meter"], row["source"], row.get("accounts"), begin) for row, begin in zip(rows, begins)
    )


def recount(paths, now=None, declared=None):
    counts = Recount(now or datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None), declared)
    for path in files_below(paths):
        counts.add_file(path)
    return counts


def quantity_text(quantity):
    """As the program writes it: whole, or with the decimals it has."""
    return str(quantity) if isinstance(quantity, int) else objects.plain(quantity)


def main():
    parser = argparse.ArgumentParser(description="Count usage events the naive way.")
    parser.add_argument("paths", nargs="+", metavar="PATH")
    parser.add_argument("--by", default="meter,account,hour,category", help="columns: meter,account,hour,region,category")
    parser.add_argument("--sources", metavar="FILE", help="the declared sources, as `securebase --sources` takes them")
    arguments = parser.parse_args()
    columns = tuple(arguments.by.split(","))
    if not set(columns) <= {"meter", "account", "hour", "region", "category"}:
        parser.error("--by takes some of meter,account,hour,region,category")
    counts = recount(arguments.paths, declared=arguments.sources and declared_in(arguments.sources))
    rows = [dict(zip(columns, key), quantity=quantity_text(quantity)) for key, quantity in counts.counts(columns).items()]
    json.dump({"balance": counts.balance(), "rows": rows}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    # As the module that forms.py knows, not as a second one.
    import recount as itself

    itself.main()
