"""Opens deliveries and judges what is in them, the naive way: everything parsed, one function a form.

The second half of recount.py, with which it shares the rules of CloudTrail events. Standard library only.

A delivery is no record; the records are what it carries, at whatever depth. `FrontDoor.judge` calls `usage`, `not_counted`,
`dead` or `beside` of its owner once for each thing it finds.
"""

import base64
import binascii
import hashlib
import json

import objects
import recount

LAYERS_MAX = 8
ACCOUNT_TYPE = "AWS::::Account"
SOURCES_OF_USAGE = ("aws.config", "aws.guardduty", "aws.organizations", "aws.securityhub")
CONFIG_NOTICES = {
    "ConfigurationItemChangeNotification": "config_item",
    "OversizedConfigurationItemChangeNotification": "config_item",
    "ComplianceChangeNotification": "config_notice",
    "ConfigRulesEvaluationStarted": "config_notice",
    "ConfigurationSnapshotDeliveryStarted": "config_notice",
    "ConfigurationSnapshotDeliveryCompleted": "config_notice",
    "ConfigurationSnapshotDeliveryFailed": "config_notice",
    "ConfigurationHistoryDeliveryCompleted": "config_notice",
    "ConfigurationHistoryDeliveryFailed": "config_notice",
    "ScheduledNotification": "config_notice",
}
DEFAULT_SOURCES = {
    "cloudtrail_events": "cloudtrail",
    "guardduty_findings": "guardduty",
    "security_hub_findings": "security_hub",
    "config_rule_evaluations": "rule_invocations",
    "accounts": "organizations",
    "organizational_units": "organizations",
    "service_control_policies": "organizations",
    "log_storage_gb": "usage_samples",
    "archive_storage_gb": "usage_samples",
    "nat_gateway_bytes": "usage_samples",
    "data_transfer_bytes": "usage_samples",
}


class Declared:
    """Which source each meter is counted from; rows of (meter, source, accounts or None, from)."""

    def __init__(self, rows=()):
        self.rows = list(rows)

    def counts(self, source, meter, account, hour):
        begun = [row for row in self.rows if row[0] == meter and row[3] <= hour]
        named = [row for row in begun if row[2] is not None and account in row[2]]
        others = [row for row in begun if row[2] is None]
        for rows in (named, others):
            if rows:
                return max(rows, key=lambda row: row[3])[1] == source
        return DEFAULT_SOURCES[meter] == source


def text(value):
    """A text that says something, or None."""
    return value if isinstance(value, str) and value else None


def first_of(members, *keys):
    """The first of these members that says something: neither missing, null nor empty."""
    for key in keys:
        if members.get(key) not in (None, ""):
            return members[key]
    return members.get(keys[-1])


def account_of(value):
    if value in (None, ""):
        raise recount.DeadLetter("account_missing")
    if isinstance(value, str) and recount.ACCOUNT.fullmatch(value):
        return value
    raise recount.DeadLetter("account_malformed")


def identity_of(*parts):
    hashed = hashlib.sha256()
    for part in parts:
        part = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
        hashed.update(len(part).to_bytes(8, "big") + part)
    return hashed.digest()[:16]


def arn_part(arn, number):
    parts = arn.split(":") if isinstance(arn, str) else []
    return parts[number] if number < len(parts) else None


def member(value, key):
    return value.get(key) if isinstance(value, dict) else None


class FrontDoor:
    """Tells forms apart for one owner, which keeps the counts."""

    def __init__(self, owner, declared):
        self.owner, self.declared = owner, declared

    def judge(self, record, object_account, layer=0):
        """One JSON value inside so many deliveries."""
        try:
            self.open(record, object_account, layer)
        except recount.DeadLetter as letter:
            self.owner.dead(letter.args[0])

    def open(self, record, object_account, layer):
        if isinstance(record, recount.DeadLetter):
            raise record
        if recount.NESTING_MAX < recount.nesting(record):
            raise recount.DeadLetter("nested_too_deep")
        if not isinstance(record, dict):
            raise recount.DeadLetter("not_recognized")
        if "digestStartTime" in record and "logFiles" in record:
            if not objects.is_digest(record):
                self.owner.beside_dead("digest_malformed")
            return self.owner.not_counted("cloudtrail_digest")
        if recount.is_event(record):
            return self.cloudtrail(record, None, object_account)
        if "detail-type" in record:
            return self.envelope(record, object_account)
        if isinstance(record.get("awslogs"), dict):
            return self.encoded(record["awslogs"].get("data"), object_account, layer)
        if "messageType" in record and "logEvents" in record:
            return self.log_messages(record, object_account, layer)
        if isinstance(record.get("kinesis"), dict):
            return self.encoded(record["kinesis"].get("data"), object_account, layer)
        if "data" in record and ("recordId" in record or len(record) == 1):
            return self.encoded(record["data"], object_account, layer)
        if "Data" in record and "PartitionKey" in record:
            return self.encoded(record["Data"], object_account, layer)
        if "records" in record and ("deliveryStreamArn" in record or "requestId" in record):
            if not isinstance(record["records"], list):
                raise recount.DeadLetter("payload_malformed")
            return self.elements(record["records"], object_account, layer)
        if record.get("eventSource") == "aws:s3":
            return objects.s3_record(self.owner, record)
        if "specversion" in record:
            return self.sample(record)
        if record.get("Event") == "s3:TestEvent":
            return self.owner.not_counted("s3_test_event")
        if record.get("Type") in ("SubscriptionConfirmation", "UnsubscribeConfirmation"):
            return self.owner.not_counted("sns_confirmation")
        if record.get("eventSource") == "aws:sqs":
            return self.text(record.get("body"), object_account, layer)
        if isinstance(record.get("Sns"), dict):
            return self.text(record["Sns"].get("Message"), object_account, layer)
        if record.get("Type") == "Notification" and "Message" in record:
            return self.text(record["Message"], object_account, layer)
        if "invokingEvent" in record:
            return self.usage("rule_invocations", *self.invocation(record))
        if "configurationItemCaptureTime" in record and "resourceType" in record:
            return self.owner.not_counted("config_item")
        if text(record.get("messageType")) in CONFIG_NOTICES:
            return self.owner.not_counted(CONFIG_NOTICES[record["messageType"]])
        services = member(record.get("service"), "serviceName"), member(record.get("Service"), "ServiceName")
        if arn_part(first_of(record, "arn", "Arn"), 2) == "guardduty" or "guardduty" in services:
            return self.guardduty(record)
        if arn_part(record.get("ProductArn"), 2) == "securityhub" or record.get("SchemaVersion") == "2018-10-08":
            return self.security_hub(record)
        listed = objects.list_of(record)
        if listed:
            return self.listed(*listed)
        for key in ("Findings", "findings", "configurationItems", "baseConfigurationItems"):
            if isinstance(record.get(key), list):
                return self.elements(record[key], object_account, layer)
        raise recount.DeadLetter("not_recognized")

    # Deliveries. -----------------------------------------------------------------------------------------------------

    def encoded(self, payload, object_account, layer):
        try:
            content = base64.b64decode(payload if isinstance(payload, str) else "?", validate=True)
        except (binascii.Error, ValueError):
            raise recount.DeadLetter("payload_malformed") from None
        self.content(content, object_account, layer)

    def text(self, text, object_account, layer):
        """Text that a delivery carries: one JSON value, or a dead letter as a whole."""
        if not isinstance(text, str):
            raise recount.DeadLetter("payload_malformed")
        bare = text.strip(recount.BLANKS)
        if bare and bare[0] not in "{[":
            raise recount.DeadLetter("not_json")
        value = recount.parse(bare) if bare else None
        if isinstance(value, recount.DeadLetter):
            raise value
        self.content(text.encode("utf-8", "surrogatepass"), object_account, layer)

    def content(self, content, object_account, layer):
        """What a delivery carries as bytes: gzip or not, one record or many."""
        if LAYERS_MAX <= layer:
            raise recount.DeadLetter("wrapped_too_deep")
        found = recount.records_in(content)
        for record in found:
            self.judge(record, object_account, layer + 1)
        if not found:
            self.owner.not_counted("empty_delivery")

    def elements(self, elements, object_account, layer):
        if LAYERS_MAX <= layer:
            raise recount.DeadLetter("wrapped_too_deep")
        for element in elements:
            self.judge(element, object_account, layer + 1)
        if not elements:
            self.owner.not_counted("empty_delivery")

    def log_messages(self, delivery, object_account, layer):
        if delivery["messageType"] == "CONTROL_MESSAGE":
            return self.owner.not_counted("cloudwatch_logs_control")
        messages = delivery["logEvents"]
        if not isinstance(messages, list):
            raise recount.DeadLetter("payload_malformed")
        for one in messages:
            try:
                self.text(member(one, "message"), object_account, layer)
            except recount.DeadLetter as letter:
                self.owner.dead(letter.args[0])
        if not messages:
            self.owner.not_counted("empty_delivery")

    def envelope(self, envelope, object_account):
        kind, source = text(envelope["detail-type"]) or "", text(envelope.get("source")) or ""
        detail = envelope.get("detail")
        is_finding = kind == "GuardDuty Finding"
        are_findings = kind in ("Security Hub Findings - Imported", "Security Hub Findings - Custom Action")
        if kind.endswith(" via CloudTrail") or is_finding or are_findings:
            if not isinstance(detail, dict) or not detail:
                raise recount.DeadLetter("detail_missing")
            if is_finding:
                return self.guardduty(detail)
            if are_findings:
                return self.findings(detail.get("findings"))
            if not recount.is_event(detail):
                raise recount.DeadLetter("not_recognized")
            return self.cloudtrail(detail, envelope.get("account"), object_account)
        if kind.startswith("GuardDuty "):
            return self.owner.not_counted("guardduty_notice")
        if kind == "Security Hub Insight Results":
            return self.owner.not_counted("security_hub_insight")
        if kind == "Config Configuration Item Change":
            return self.owner.not_counted("config_item")
        if kind.startswith("Config "):
            return self.owner.not_counted("config_notice")
        if kind.startswith("Object ") and source == "aws.s3":
            return objects.s3_event(self.owner, envelope)
        if source.startswith("aws.") and source not in SOURCES_OF_USAGE:
            return self.owner.not_counted("other_event")
        raise recount.DeadLetter("not_recognized")

    def sample(self, event):
        fact = objects.sample(event, self.owner.now)
        if self.declared.counts("usage_samples", fact.meter, fact.account, recount.hour_of(fact.time)):
            self.owner.usage_fact(fact)
        else:
            self.owner.not_counted("not_the_declared_source")

    def listed(self, kind, elements, listed_at):
        """A list of an organization: each element is a record."""
        for element in elements:
            try:
                facts = objects.listed(kind, element, listed_at, self.owner.now)
                if facts is None:
                    self.owner.not_counted("other_policy")
                    continue
                facts = [fact for fact in facts if self.counts_fact("organizations", fact)]
                if facts:
                    self.owner.usage_facts(facts)
                else:
                    self.owner.not_counted("not_the_declared_source")
            except recount.DeadLetter as letter:
                self.owner.dead(letter.args[0])
        if not elements:
            self.owner.not_counted("empty_delivery")

    def counts_fact(self, source, fact):
        return self.declared.counts(source, fact.meter, fact.account, recount.hour_of(fact.time))

    # Records. --------------------------------------------------------------------------------------------------------

    def usage(self, source, meter, account, identity, hour, dimensions):
        if self.declared.counts(source, meter, account, hour):
            self.owner.usage(meter, account, identity, hour, dimensions)
        else:
            self.owner.not_counted("not_the_declared_source")

    def cloudtrail(self, event, envelope_account, object_account):
        account = recount.account(event, envelope_account, object_account)
        hour = recount.event_hour(event.get("eventTime"), self.owner.now)
        dimensions = recount.dimension(event, "awsRegion"), recount.dimension(event, "eventCategory")
        identity = recount.identity(event)
        self.usage("cloudtrail", "cloudtrail_events", account, identity, hour, dimensions)
        if event.get("eventSource") == "organizations.amazonaws.com":
            self.life_cycle(event, account, recount.event_instant(event["eventTime"], self.owner.now))
        if event.get("eventSource") == "config.amazonaws.com" and event.get("eventName") == "PutEvaluations":
            self.evaluations(event, account, identity, hour, dimensions[0])

    def life_cycle(self, event, logged_for, at):
        """What began or ended: (meter, account, id, is live) beside the event, or why that cannot be read."""
        try:
            change = self.change(event, logged_for)
        except recount.DeadLetter as letter:
            return self.owner.beside_dead(letter.args[0])
        if change:
            fact = objects.life(*change, at)
            if self.counts_fact("organizations", fact):
                self.owner.fact(fact)

    def change(self, event, logged_for):
        malformed = recount.DeadLetter("life_cycle_malformed")
        name = text(event.get("eventName"))
        if event.get("errorCode") not in (None, ""):
            return None

        def inside(*keys):
            found = event
            for key in keys:
                found = member(found, key)
            if not isinstance(found, dict):
                raise malformed
            return found

        def named(meter, value, is_live):
            if not text(value) or 512 < len(value.encode()) or any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in value):
                raise malformed
            return meter, logged_for, value, is_live

        def account(value, is_live):
            return "accounts", account_of(value), value, is_live

        details = event.get("serviceEventDetails")
        if text(details):
            try:
                details = json.loads(details)
            except ValueError:
                details = None
        results = {"CreateAccountResult": ("createAccountStatus", True), "CloseAccountResult": ("closeAccountStatus", False)}
        if name in results:
            key, is_live = results[name]
            status = member(details, key)
            if not isinstance(status, dict) or not text(status.get("state")):
                raise malformed
            return account(status.get("accountId"), is_live) if status["state"] == "SUCCEEDED" else None
        if name in ("AccountJoinedOrganization", "AccountDepartedOrganization"):
            if not isinstance(details, dict):
                raise malformed
            found = [details] + [one for key, one in sorted(details.items()) if isinstance(one, dict)]
            found = [one["accountId"] for one in found if one.get("accountId") not in (None, "")]
            return account(found[0] if found else None, name == "AccountJoinedOrganization")
        if name == "RemoveAccountFromOrganization":
            return account(inside("requestParameters").get("accountId"), False)
        if name in ("LeaveOrganization", "DeleteOrganization", "CreateOrganization"):
            return account(logged_for, name == "CreateOrganization")
        if name == "AcceptHandshake":
            handshake = inside("responseElements", "handshake")
            if (handshake.get("action"), handshake.get("state")) != ("INVITE", "ACCEPTED"):
                return None
            parties = handshake.get("parties") if isinstance(handshake.get("parties"), list) else []
            ids = [one.get("id") for one in parties if member(one, "type") == "ACCOUNT"]
            return account(ids[0] if ids else logged_for, True)
        if name == "CreateOrganizationalUnit":
            return named("organizational_units", inside("responseElements", "organizationalUnit").get("id"), True)
        if name == "DeleteOrganizationalUnit":
            return named("organizational_units", inside("requestParameters").get("organizationalUnitId"), False)
        if name == "CreatePolicy":
            summary = inside("responseElements", "policy", "policySummary")
            is_scp = summary.get("type") == "SERVICE_CONTROL_POLICY"
            return named("service_control_policies", summary.get("id"), True) if is_scp else None
        if name == "DeletePolicy":
            return named("service_control_policies", inside("requestParameters").get("policyId"), False)
        return None

    def evaluations(self, event, account, identity, hour, region):
        meter = "config_rule_evaluations"
        if not self.declared.counts("put_evaluations", meter, account, hour):
            return
        if event.get("errorCode") not in (None, ""):
            return
        parameters = event.get("requestParameters")
        if isinstance(parameters, dict) and parameters.get("testMode") is True:
            return
        if not isinstance(parameters, dict) or not isinstance(parameters.get("evaluations"), list):
            return self.owner.beside_dead("evaluations_malformed")
        for position in range(len(parameters["evaluations"])):
            at = identity_of(identity, str(position))
            self.owner.beside_usage(meter, account, at, hour, (region, "none"))

    def guardduty(self, finding):
        fields = (first_of(finding, *pair) for pair in (("accountId", "AccountId"), ("id", "Id"), ("createdAt", "CreatedAt"), ("region", "Region")))
        self.finding("guardduty", "guardduty_findings", *fields)

    def security_hub(self, finding):
        fields = (finding.get(key) for key in ("AwsAccountId", "Id", "CreatedAt", "Region"))
        self.finding("security_hub", "security_hub_findings", *fields)

    def findings(self, findings):
        if not isinstance(findings, list):
            raise recount.DeadLetter("not_recognized")
        for finding in findings:
            try:
                if not isinstance(finding, dict) or not finding:
                    raise recount.DeadLetter("not_recognized")
                self.security_hub(finding)
            except recount.DeadLetter as letter:
                self.owner.dead(letter.args[0])
        if not findings:
            self.owner.not_counted("empty_delivery")

    def finding(self, source, meter, account, identifier, created_at, region):
        account = account_of(account)
        if not text(identifier):
            raise recount.DeadLetter("finding_id_missing")
        hour = recount.event_hour(created_at, self.owner.now)
        region = recount.dimension({"region": region}, "region")
        self.usage(source, meter, account, identity_of(identifier), hour, (region, "none"))

    def invocation(self, invocation):
        malformed = recount.DeadLetter("invoking_event_malformed")
        invoking = invocation["invokingEvent"]
        if isinstance(invoking, str):
            try:
                invoking = json.loads(invoking)
            except ValueError:
                raise malformed from None
        if not isinstance(invoking, dict):
            raise malformed
        items = {
            "ConfigurationItemChangeNotification": "configurationItem",
            "OversizedConfigurationItemChangeNotification": "configurationItemSummary",
            "ScheduledNotification": None,
            "ConfigurationSnapshotDeliveryCompleted": None,
        }
        kind = text(invoking.get("messageType"))
        if kind not in items:
            raise malformed
        item = invoking.get(items[kind]) if items[kind] else None
        if items[kind] and not isinstance(item, dict):
            raise malformed
        rule = text(invocation.get("configRuleName"))
        if not rule:
            raise recount.DeadLetter("rule_missing")
        given = invocation.get("accountId")
        account = account_of((item or invoking).get("awsAccountId") if given in (None, "") else given)
        resource = ACCOUNT_TYPE, account
        if items[kind]:
            resource = text(item.get("resourceType")), text(item.get("resourceId"))
            if not all(resource):
                raise recount.DeadLetter("resource_missing")
        time = invoking.get("notificationCreationTime")
        if time in (None, ""):
            time = (item or {}).get("configurationItemCaptureTime")
        instant = recount.event_instant(time, self.owner.now)
        region = text(arn_part(invocation.get("configRuleArn"), 3)) or (item or {}).get("awsRegion")
        region = recount.dimension({"region": region}, "region")
        identity = identity_of(region, rule, *resource, recount.written(instant))
        return "config_rule_evaluations", account, identity, recount.hour_of(instant), (region, "none")
