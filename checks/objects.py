"""Notices, digest files, usage samples and FOCUS exports, the naive way.

The third part of recount.py: everything parsed into memory, exact decimals. Standard library only.

Facts are a keyed map: of two with one key the higher (revision, content hash) stands. An export's rows count when its
edition was read to its end, and then instead of every earlier edition's.
"""

import base64
import binascii
import collections
import csv
import datetime
import decimal
import email.utils
import hashlib
import io
import re

import forms
import recount

decimal.getcontext().prec = 60
GIB = 1 << 30
AHEAD_MAX = datetime.timedelta(hours=1)
BYTES = {"bytes": 1, "Bytes": 1, "By": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
ONE = dict.fromkeys(("each", "count", "Count", "1"), 1)
# Meter to (units of amounts, units of levels); those of samples that are code.
UNITS = {
    "nat_gateway_bytes": (BYTES, {}),
    "data_transfer_bytes": (BYTES, {}),
    "log_storage_gb": ({"byte_seconds": 1, "byte_hours": 3600, "GiB_hours": 3600 * GIB}, BYTES),
    "archive_storage_gb": ({"byte_seconds": 1, "byte_hours": 3600, "GiB_hours": 3600 * GIB}, BYTES),
    "cloudtrail_events": (ONE, {}),
    "guardduty_findings": (ONE, {}),
    "security_hub_findings": (ONE, {}),
    "config_rule_evaluations": (ONE, {}),
}
NO_SAMPLES = {"accounts", "organizational_units", "service_control_policies", "export_generations"}
STORAGE_GAP_SECONDS = 48 * 3600
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,9})?", re.ASCII)
BUCKET = re.compile(r"(?!\.)[A-Za-z0-9._-]{3,255}", re.ASCII)


def number(text):
    """An exact number with at most 18 digits before and behind the point, or None."""
    if not isinstance(text, str) or 64 < len(text) or not NUMBER.fullmatch(text):
        return None
    value = decimal.Decimal(text)
    if value == 0:
        return decimal.Decimal(0)
    sign, digits, exponent = value.normalize().as_tuple()
    if exponent < -18 or 18 < len(digits) + exponent:
        return None
    return value


def plain(value):
    """A decimal as it is written: no exponent, no needless zeros."""
    if value == 0:
        return "0"
    return format(value.normalize(), "f")


def instant(value, declared_utc=False):
    """An instant of RFC 3339, or None; one without an offset only where the source defines it as UTC."""
    if not isinstance(value, str):
        return None
    try:
        at = recount.event_instant(value, datetime.datetime.max - AHEAD_MAX)
    except recount.DeadLetter:
        return None
    has_offset = re.search(r"([Zz]|[+-][0-9]{2}:[0-9]{2})$", value)
    return at if declared_utc or has_offset else None


# Notices. ------------------------------------------------------------------------------------------------------------


def decoded_key(key):
    """A key as S3 encodes it in its notices."""
    if not isinstance(key, str) or re.search("%(?![0-9A-Fa-f]{2})", key):
        return None
    raw = re.sub(
        b"%([0-9A-Fa-f]{2})", lambda digits: bytes([int(digits[1], 16)]), key.replace("+", " ").encode("utf-8", "surrogatepass")
    )
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def member(value, *path):
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def s3_record(owner, record):
    version, name = record.get("eventVersion"), record.get("eventName")
    if not isinstance(version, str):
        raise recount.DeadLetter("notice_malformed")
    if version.split(".")[0] != "2":
        raise recount.DeadLetter("notice_version")
    if not isinstance(name, str):
        raise recount.DeadLetter("notice_malformed")
    name = name.removeprefix("s3:")
    if name == "TestEvent":
        return owner.not_counted("s3_test_event")
    if not name.startswith("ObjectCreated:"):
        return owner.not_counted("s3_other_notice")
    named(owner, member(record, "s3", "bucket", "name"), decoded_key(member(record, "s3", "object", "key")))


def s3_event(owner, envelope):
    if envelope["detail-type"] != "Object Created":
        return owner.not_counted("s3_other_notice")
    detail = envelope.get("detail")
    version = member(detail, "event-version")
    if isinstance(detail, dict) and "event-version" in detail:
        if not isinstance(version, str) or version.split(".")[0] != "1":
            raise recount.DeadLetter("notice_version")
    named(owner, member(detail, "bucket", "name"), member(detail, "object", "key"))


def named(owner, bucket, key):
    if not isinstance(bucket, str) or not BUCKET.fullmatch(bucket):
        raise recount.DeadLetter("notice_malformed")
    if not isinstance(key, str) or not 1 <= len(key.encode("utf-8", "surrogatepass")) <= 1024:
        raise recount.DeadLetter("notice_malformed")
    owner.not_counted("object_notice")
    # Nobody says where the objects are.
    owner.beside_dead("object_missing")


# Digest files. -------------------------------------------------------------------------------------------------------

DIGEST_NAME = re.compile(r"(?:.*/)?[^/]*?_CloudTrail-Digest_[^/_]+_[^/]*?\.json(\.gz)?")
HASH = re.compile("[0-9A-Fa-f]{64}")


def is_digest(digest):
    """Whether a digest file has the form that AWS documents."""
    texts = ("awsAccountId", "digestStartTime", "digestEndTime", "digestS3Bucket", "digestS3Object")
    if not all(isinstance(digest.get(key), str) for key in texts) or not isinstance(digest["logFiles"], list):
        return False
    start, end = instant(digest["digestStartTime"]), instant(digest["digestEndTime"])
    before = [digest.get(f"previousDigestS3{part}") for part in ("Bucket", "Object")]
    hashed = [(digest.get("previousDigestHashAlgorithm") or "SHA-256", digest.get("previousDigestHashValue"))] if all(before) else []
    for file in digest["logFiles"]:
        if not all(isinstance(member(file, key), str) for key in ("s3Bucket", "s3Object", "hashValue", "hashAlgorithm")):
            return False
        hashed.append((file["hashAlgorithm"], file["hashValue"]))
    return bool(
        start and end and start < end
        and recount.ACCOUNT.fullmatch(digest["awsAccountId"])
        and DIGEST_NAME.fullmatch(digest["digestS3Object"])
        and all(before) == any(before)
        and all(algorithm == "SHA-256" and HASH.fullmatch(str(value)) for algorithm, value in hashed)
    )


# Facts. --------------------------------------------------------------------------------------------------------------

Fact = collections.namedtuple(
    "Fact", "meter account resource time export revision region end kind value category", defaults=["none"]
)
LIVES = ("live", "gone")


class Facts:
    """The facts that stand."""

    def __init__(self):
        self.standing = {}
        self.expected = {}

    def add(self, fact):
        """Whether it stands now and did not before."""
        key = fact.meter, fact.account, fact.resource, fact.time, fact.export
        version = fact.revision, content_hash(fact)
        known = self.standing.get(key)
        if known and version <= known[0]:
            return False
        self.standing[key] = version, fact
        return True

    def end_export(self, export, facts):
        self.expected[export] = max(facts, self.expected.get(export, 0))

    def in_force(self):
        """The editions that count, by scope."""
        seen = collections.Counter(fact.export for _, fact in self.standing.values() if fact.export)
        best = {}
        for (scope, edition), expected in self.expected.items():
            if expected <= seen[scope, edition]:
                best[scope] = max(edition, best.get(scope, -1))
        return best

    def usage(self):
        """(meter, account, hour, region) to an exact total in raw units."""
        force = self.in_force()
        series = collections.defaultdict(list)
        total = collections.Counter()
        for _, fact in self.standing.values():
            if fact.export and force.get(fact.export[0]) != fact.export[1]:
                continue
            if fact.kind in LIVES:
                continue
            if fact.kind == "amount":
                total[fact.meter, fact.account, recount.hour_of(fact.time), fact.region] += fact.value
            else:
                series[fact.meter, fact.account, fact.resource].append(fact)
        for (meter, account, _), facts in series.items():
            facts.sort(key=lambda fact: fact.time)
            for fact, after in zip(facts, facts[1:] + [None]):
                for hour, seconds in hours(fact, after):
                    total[meter, account, hour, fact.region] += fact.value * seconds
        return dict(total)

    def lives(self, now):
        """(meter, account, hour) to seconds live, for every hour that is over."""
        series = collections.defaultdict(list)
        for _, fact in self.standing.values():
            if fact.kind in LIVES:
                series[fact.meter, fact.account, fact.resource].append(fact)
        total = collections.Counter()
        over = now.replace(minute=0, second=0, microsecond=0)
        for (meter, account, _), facts in series.items():
            facts.sort(key=lambda fact: fact.time)
            since = None
            for fact in facts + [None]:
                if fact is None or (fact.kind == "gone" and since):
                    for hour, seconds in stretch(since, min(fact.time, over) if fact else over) if since else ():
                        total[meter, account, hour] += seconds
                    since = None
                elif fact.kind == "live" and not since:
                    since = fact.time
        return dict(total)


def stretch(at, until):
    """The hours from one instant to another, with how many seconds of each."""
    while at < until:
        begin = at.replace(minute=0, second=0, microsecond=0)
        behind = min(until, begin + datetime.timedelta(hours=1))
        yield recount.hour_of(at), decimal.Decimal((behind - at) // datetime.timedelta(microseconds=1)) / 1_000_000
        at = behind


def hours(fact, after):
    """The hours a level lasts, with how many seconds of each; one that is told again too late is not known to have lasted."""
    stated = min(fact.end or fact.time, after.time) if after else fact.end or fact.time
    until = stated
    if after and (fact.value == 0 or after.time <= stated + datetime.timedelta(seconds=STORAGE_GAP_SECONDS)):
        until = after.time
    yield from stretch(fact.time, until)


def content_hash(fact):
    end = recount.written(fact.end) if fact.end else ""
    texts = (fact.region, fact.category, end, fact.kind, "" if fact.kind in LIVES else plain(fact.value))
    return hashlib.sha256(b"".join(text.encode() + b"\0" for text in texts)).digest()[:16]


def is_dimension(text):
    try:
        return text != "" and recount.dimension({"of": text}, "of") == text
    except recount.DeadLetter:
        return False


def name(text):
    has_control = any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in text)
    return 1 <= len(text.encode()) <= 512 and not has_control


# Organizations. ------------------------------------------------------------------------------------------------------

LISTS = {"Accounts": "accounts", "OrganizationalUnits": "organizational_units", "Policies": "service_control_policies"}
STATES = dict.fromkeys(("ACTIVE", "PENDING_ACTIVATION", "PENDING_CLOSURE"), "live") | dict.fromkeys(("SUSPENDED", "CLOSED"), "gone")


def life(meter, account, resource, is_live, at):
    """What an event says: live, or gone, from then on."""
    return Fact(meter, account, resource, at, None, 0, "none", None, "live" if is_live else "gone", 0)


def organizations_arn(arn):
    """The account and the resource of an ARN of AWS Organizations, or None."""
    parts = arn.split(":", 5) if isinstance(arn, str) else []
    if len(parts) == 6 and parts[0] == "arn" and parts[1].startswith("aws") and parts[2] == "organizations":
        return parts[4], parts[5]
    return None


def list_of(record):
    """Kind, elements and time of a list of an organization; None for anything else."""
    kind = next((kind for kind in LISTS if isinstance(record.get(kind), list)), None)
    if not kind:
        return None
    elements = record[kind]
    if organizations_arn(member(elements[0], "Arn")) is None if elements else kind == "Policies":
        return None
    listed_at = record.get("listedAt")
    if listed_at in (None, ""):
        date = member(record, "ResponseMetadata", "HTTPHeaders", "date")
        try:
            listed_at = email.utils.parsedate_to_datetime(date).isoformat()
        except (TypeError, ValueError):
            listed_at = None
    return kind, elements, listed_at


def listed(kind, element, listed_at, now):
    """What an element of a list says; None for a policy that is not metered."""
    if not isinstance(element, dict):
        raise recount.DeadLetter("list_malformed")
    arn = organizations_arn(element.get("Arn"))
    parts = arn[1].split("/") if arn else []
    organization = parts[1] if 1 < len(parts) and parts[1].startswith("o-") and is_dimension(parts[1]) else "none"

    def made_at():
        if listed_at is None:
            raise recount.DeadLetter("list_time_missing")
        return recount.event_instant(listed_at, now)

    def said(account, resource, at, region, kind_of):
        return Fact(LISTS[kind], account, resource, at, None, 0, region, None, kind_of, 0, organization)

    if kind == "Accounts":
        account = forms.account_of(element.get("Id"))
        joined = said(account, account, joined_at(element.get("JoinedTimestamp"), now), "none", "live")
        state = element.get("Status") if element.get("State") in (None, "") else element["State"]
        if not isinstance(state, str) or state not in STATES:
            raise recount.DeadLetter("list_malformed")
        if listed_at is None and STATES[state] == "live":
            return [joined]
        return [joined, said(account, account, made_at(), "listed", STATES[state])]
    if kind == "Policies" and arn and (arn[0] == "aws" or "/service_control_policy/" not in arn[1]):
        return None
    if not arn or not isinstance(element.get("Id"), str) or not name(element["Id"]):
        raise recount.DeadLetter("list_malformed")
    if not recount.ACCOUNT.fullmatch(arn[0]):
        raise recount.DeadLetter("account_malformed")
    return [said(arn[0], element["Id"], made_at(), "listed", "live")]


def joined_at(value, now):
    """RFC 3339, or seconds since 1970 with decimals."""
    if isinstance(value, recount.Number):
        seconds = number(value.text)
        try:
            micros = (seconds * 1_000_000).to_integral_value(decimal.ROUND_FLOOR)
            value = (datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=int(micros))).isoformat()
        except (TypeError, OverflowError):
            raise recount.DeadLetter("event_time_malformed") from None
    return recount.event_instant(value, now)


# Usage samples. ------------------------------------------------------------------------------------------------------


def said(event, key):
    """A text that says something; a member of another type makes the whole event malformed."""
    value = event.get(key)
    if value is not None and not isinstance(value, str):
        raise recount.DeadLetter("cloud_event_malformed")
    return value or None


def sample(event, now):
    """The fact a CloudEvent tells."""
    texts = {key: said(event, key) for key in ("specversion", "id", "source", "type", "subject", "time", "data_base64")}
    if texts["specversion"] != "1.0" or not (texts["id"] and texts["source"] and texts["type"]):
        raise recount.DeadLetter("cloud_event_malformed")
    meter = texts["type"]
    if meter not in UNITS and meter not in NO_SAMPLES:
        raise recount.DeadLetter("meter_unknown")
    account = texts["subject"]
    if not account:
        raise recount.DeadLetter("account_missing")
    if not recount.ACCOUNT.fullmatch(account):
        raise recount.DeadLetter("account_malformed")
    if not texts["time"]:
        raise recount.DeadLetter("event_time_missing")
    at = instant(texts["time"])
    if at is None:
        raise recount.DeadLetter("event_time_malformed")
    if now + AHEAD_MAX < at:
        raise recount.DeadLetter("event_time_in_future")
    data = event.get("data")
    if texts["data_base64"] is not None and data is None:
        try:
            data = recount.parse(base64.b64decode(texts["data_base64"], validate=True).decode())
        except (binascii.Error, ValueError):
            raise recount.DeadLetter("cloud_event_malformed") from None
    elif texts["data_base64"] is not None:
        raise recount.DeadLetter("sample_malformed")
    return sample_fact(meter, account, at, data)


def sample_fact(meter, account, at, data):
    malformed = recount.DeadLetter("sample_malformed")
    if not isinstance(data, dict) or not isinstance(data.get("resource"), str) or not isinstance(data.get("unit"), str):
        raise malformed
    value = data.get("value")
    value = number(value.text if isinstance(value, recount.Number) else value)
    revision = data.get("revision", recount.Number("0"))
    if value is None or not isinstance(revision, recount.Number) or not revision.text.isdigit():
        raise malformed
    revision = int(revision.text)
    if 2**64 <= revision:
        raise malformed
    if meter in NO_SAMPLES:
        raise recount.DeadLetter("fact_malformed")
    amounts, levels = UNITS[meter]
    unit = data["unit"]
    if unit not in amounts and unit not in levels:
        raise recount.DeadLetter("unit_unknown")
    kind = "level" if unit in levels else "amount"
    value *= levels[unit] if kind == "level" else amounts[unit]
    end = data.get("end")
    if end is not None:
        end = instant(end)
        if end is None:
            raise malformed
    region = data.get("region")
    if region is not None and not isinstance(region, str):
        raise malformed
    if region is not None and not is_dimension(region):
        raise recount.DeadLetter("dimension_malformed")
    bad_level = kind == "level" and (value < 0 or value.normalize().as_tuple().exponent < -12)
    if not name(data["resource"]) or 2**63 <= revision or bad_level or (end is not None and end <= at):
        raise recount.DeadLetter("fact_malformed")
    return Fact(meter, account, data["resource"], at, None, revision, region or "none", end, kind, value)


# FOCUS exports. ------------------------------------------------------------------------------------------------------

REQUIRED = (
    "ProviderName BillingAccountId SubAccountId BillingPeriodStart BillingPeriodEnd ChargePeriodStart ChargePeriodEnd "
    "ChargeCategory ChargeDescription ServiceName ConsumedQuantity ConsumedUnit"
).split()
OPTIONAL = ["RegionId", "ResourceId", "x_UsageType"]
GB, GB_MONTHS = ("GB", "GiB"), ("GB-Months", "GB-Mo", "GiB-Months")
S3, LOGS = "Amazon Simple Storage Service", ("AmazonCloudWatch", "Amazon CloudWatch")
EC2 = ("Amazon Elastic Compute Cloud", "Amazon Virtual Private Cloud")
ARCHIVES = (S3, "Amazon Glacier", "Amazon S3 Glacier Deep Archive")
EVALUATIONS = ("ConfigRuleEvaluations", "Evaluations", "Rule Evaluations", "Count")
# meter, services, units, what a unit is, parts of usage types, parts of descriptions
RULES = [
    ("nat_gateway_bytes", EC2, GB, "gib", ("NatGateway-Bytes", "NatGateway-Prvd-Bytes"), ("processed by nat gateway",)),
    (
        "archive_storage_gb", ARCHIVES, GB_MONTHS, "months",
        ("TimedStorage-GlacierByteHrs", "TimedStorage-GDA-ByteHrs", "TimedStorage-GIR-ByteHrs"), ("glacier",),
    ),
    ("log_storage_gb", LOGS, GB_MONTHS, "months", ("TimedStorage-ByteHrs",), ("of log storage",)),
    ("log_storage_gb", (S3,), GB_MONTHS, "months", ("TimedStorage-",), ("of storage used",)),
    (
        "data_transfer_bytes", None, GB, "gib", ("DataTransfer-", "-In-Bytes", "-Out-Bytes"),
        ("data transfer", "datatransfer-", "-in-bytes", "-out-bytes"),
    ),
    ("config_rule_evaluations", ("AWS Config",), EVALUATIONS, "each", ("ConfigRuleEvaluations",), ("rule evaluation", "configruleevaluations")),
    ("cloudtrail_events", ("AWS CloudTrail",), ("Events",), "each", ("EventsRecorded",), ("event recorded", "events recorded", "eventsrecorded")),
]


def rows_of(content):
    """Header and rows of a CSV file, blank lines left out; None if it is no export."""
    table = csv.reader(io.StringIO(content.decode("utf-8-sig", "surrogateescape"), newline=""))
    header = [field.strip() for field in next(iter(table), [])]
    if not {"BillingPeriodStart", "ChargePeriodStart", "ConsumedQuantity"} <= set(header):
        return None
    return header, [row for row in table if row]


def rule_for(row):
    for rule in RULES:
        meter, services, units, measure, usage_types, descriptions = rule
        if row["x_UsageType"]:
            fits = any(part in row["x_UsageType"] for part in usage_types)
        else:
            fits = any(part in row["ChargeDescription"].lower() for part in descriptions)
        if fits and row["ConsumedUnit"] in units and (services is None or row["ServiceName"] in services):
            return rule
    return None


def export(owner, object_name, written_at, header, rows):
    """Judges every row of an export and ends its editions; `owner` keeps the counts."""
    ours = [column for column in header if column in REQUIRED + OPTIONAL]
    if set(REQUIRED) - set(header) or len(ours) != len(set(ours)):
        return owner.dead("export_columns")
    part = re.fullmatch(r".*-([0-9]{5})", object_name.rsplit("/", 1)[-1].split(".")[0])
    if part and 1 < int(part[1]):
        return owner.dead("export_in_parts")
    edition, named = edition_of(object_name, written_at), export_name(object_name)
    counted = collections.Counter()
    is_torn = False
    for place, fields in enumerate(rows, 1):
        is_torn = len(fields) != len(header)
        try:
            if is_torn:
                raise recount.DeadLetter("row_malformed")
            row = {key: "" if value == "NULL" else value for key, value in zip(header, fields)}
            row.update((key, row.get(key, "")) for key in OPTIONAL)
            scope = scope_of(row, named)
            if scope:
                counted[scope] += 0
            fact = row_fact(owner, row, place, scope, edition)
            if fact:
                counted[scope] += 1
                owner.usage_fact(fact)
        except recount.DeadLetter as letter:
            owner.dead(letter.args[0])
    if not is_torn:
        for scope, facts in counted.items():
            owner.statements.end_export((scope, edition), facts)


def scope_of(row, named):
    period = instant(row["BillingPeriodStart"], declared_utc=True)
    if row["ProviderName"] != "AWS" or not period or not name(row["BillingAccountId"]):
        return None
    return f"focus/{named}/{row['BillingAccountId']}/{period:%Y-%m-%d}"


def row_fact(owner, row, place, scope, edition):
    if row["ProviderName"] != "AWS":
        return owner.not_counted("focus_other_provider")
    if not row["SubAccountId"]:
        raise recount.DeadLetter("account_missing")
    if not recount.ACCOUNT.fullmatch(row["SubAccountId"]):
        raise recount.DeadLetter("account_malformed")
    if row["ChargeCategory"] != "Usage":
        return owner.not_counted("focus_not_usage")
    rule = rule_for(row)
    if not rule:
        return owner.not_counted("focus_no_meter")
    if not scope:
        raise recount.DeadLetter("row_malformed")
    at, end = (charge_time(row[key]) for key in ("ChargePeriodStart", "ChargePeriodEnd"))
    if owner.now + AHEAD_MAX < at:
        raise recount.DeadLetter("event_time_in_future")
    value = number(row["ConsumedQuantity"])
    if value is None:
        raise recount.DeadLetter("quantity_malformed")
    value *= factor(row, rule[3])
    if row["RegionId"] and not is_dimension(row["RegionId"]):
        raise recount.DeadLetter("dimension_malformed")
    if not owner.door.declared.counts("focus_export", rule[0], row["SubAccountId"], recount.hour_of(at)):
        return owner.not_counted("not_the_declared_source")
    if end <= at:
        raise recount.DeadLetter("fact_malformed")
    resource = f"{row['ResourceId'] or row['ServiceName']}#{place}"
    return Fact(rule[0], row["SubAccountId"], resource, at, (scope, edition), edition, row["RegionId"] or "none", end, "amount", value)


def charge_time(text):
    if not text:
        raise recount.DeadLetter("event_time_missing")
    at = instant(text, declared_utc=True)
    if at is None:
        raise recount.DeadLetter("event_time_malformed")
    return at


def factor(row, measure):
    if measure == "each":
        return 1
    if measure == "gib":
        return GIB
    start, end = (instant(row[f"BillingPeriod{edge}"], declared_utc=True) for edge in ("Start", "End"))
    if not start or not end or end <= start:
        raise recount.DeadLetter("row_malformed")
    return GIB * int((end - start).total_seconds())


def export_name(object_name):
    parts = object_name.split("/")
    periods = [place for place, part in enumerate(parts) if part.startswith("BILLING_PERIOD=")]
    if periods and 2 <= periods[-1] and parts[periods[-1] - 1] == "data" and parts[periods[-1] - 2]:
        return parts[periods[-1] - 2]
    return "default"


def edition_of(object_name, written_at):
    epoch = datetime.datetime(1970, 1, 1)
    for part in reversed(object_name.split("/")):
        begin = part.partition("Z")[0] + "Z" if "Z" in part else ""
        at = instant(begin)
        if at is None:
            try:
                at = datetime.datetime.strptime(begin, "%Y%m%dT%H%M%SZ")
            except ValueError:
                continue
        return (at - epoch) // datetime.timedelta(microseconds=1)
    return written_at
