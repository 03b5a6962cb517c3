//! What events and lists of an organization say began, ended, or was live.

use crate::event::{account_of, event_time, said, says_nothing};
use crate::facts::{Fact, Key, Says, is_name};
use crate::json::Json;
use crate::number::Number;
use crate::time::instant;

const MALFORMED: &str = "life_cycle_malformed";

fn fact(meter: &str, account: &str, resource: &str, time: i64, says: Says) -> Fact {
    Fact {
        key: Key {
            meter: meter.to_owned(),
            account: account.to_owned(),
            resource: resource.to_owned(),
            time,
            export: None,
        },
        revision: 0,
        region: "none".to_owned(),
        category: "none".to_owned(),
        end: None,
        says,
    }
}

/// What began or ended beside a CloudTrail event, or why that cannot be read.
pub(crate) fn life_cycle(event: &Json, logged_for: &str, at: i64) -> Result<Option<Fact>, &'static str> {
    if !says_nothing(event.get("errorCode")) {
        return Ok(None);
    }
    let object = |path: &[&str]| match event.at(path) {
        Some(found @ Json::Object(_)) => Ok(found),
        _ => Err(MALFORMED),
    };
    let account = |id: Option<&Json>, says| {
        let id = account_of(id)?;
        Ok(Some(fact("accounts", &id, &id, at, says)))
    };
    let own = |says| Ok(Some(fact("accounts", logged_for, logged_for, at, says)));
    let named = |meter, id: Option<&Json>, says| {
        let id = said(id).filter(|id| is_name(id)).ok_or(MALFORMED)?;
        Ok(Some(fact(meter, logged_for, id, at, says)))
    };
    match said(event.get("eventName")).unwrap_or_default() {
        "CreateAccountResult" => result(event, "createAccountStatus", at, Says::Live),
        "CloseAccountResult" => result(event, "closeAccountStatus", at, Says::Gone),
        "AccountJoinedOrganization" => account(member_account(&details(event)?), Says::Live),
        "AccountDepartedOrganization" => account(member_account(&details(event)?), Says::Gone),
        "RemoveAccountFromOrganization" => account(object(&["requestParameters"])?.get("accountId"), Says::Gone),
        "LeaveOrganization" | "DeleteOrganization" => own(Says::Gone),
        "CreateOrganization" => own(Says::Live),
        "AcceptHandshake" => {
            let handshake = object(&["responseElements", "handshake"])?;
            let is = |key, value| handshake.get(key).and_then(Json::text) == Some(value);
            if !is("action", "INVITE") || !is("state", "ACCEPTED") {
                return Ok(None);
            }
            let parties = match handshake.get("parties") {
                Some(Json::Array(parties)) => parties.as_slice(),
                _ => &[],
            };
            let joins = parties.iter().find(|party| party.get("type").and_then(Json::text) == Some("ACCOUNT"));
            match joins {
                Some(party) => account(party.get("id"), Says::Live),
                None => own(Says::Live),
            }
        }
        "CreateOrganizationalUnit" => {
            let unit = object(&["responseElements", "organizationalUnit"])?;
            named("organizational_units", unit.get("id"), Says::Live)
        }
        "DeleteOrganizationalUnit" => {
            let id = object(&["requestParameters"])?.get("organizationalUnitId");
            named("organizational_units", id, Says::Gone)
        }
        "CreatePolicy" => {
            let summary = object(&["responseElements", "policy", "policySummary"])?;
            if summary.get("type").and_then(Json::text) != Some("SERVICE_CONTROL_POLICY") {
                return Ok(None);
            }
            named("service_control_policies", summary.get("id"), Says::Live)
        }
        "DeletePolicy" => {
            named("service_control_policies", object(&["requestParameters"])?.get("policyId"), Says::Gone)
        }
        _ => Ok(None),
    }
}

/// `serviceEventDetails`, which some tools fold into text.
fn details(event: &Json) -> Result<Json, &'static str> {
    let details = match event.get("serviceEventDetails") {
        Some(Json::Text(Some(text))) if !text.is_empty() => Json::parse(text.as_bytes()).map_err(|_| MALFORMED)?,
        Some(other) => other.clone(),
        None => return Err(MALFORMED),
    };
    if matches!(details, Json::Object(_)) { Ok(details) } else { Err(MALFORMED) }
}

fn result(event: &Json, key: &str, at: i64, says: Says) -> Result<Option<Fact>, &'static str> {
    let details = details(event)?;
    let Some(status @ Json::Object(_)) = details.get(key) else { return Err(MALFORMED) };
    match said(status.get("state")) {
        Some("SUCCEEDED") => {
            let id = account_of(status.get("accountId"))?;
            Ok(Some(fact("accounts", &id, &id, at, says)))
        }
        Some(_) => Ok(None),
        None => Err(MALFORMED),
    }
}

/// `accountId` of the details, or of the first object in them that has one.
fn member_account(details: &Json) -> Option<&Json> {
    let own = details.get("accountId");
    if !says_nothing(own) {
        return own;
    }
    let Json::Object(members) = details else { return None };
    let mut members: Vec<_> = members.iter().collect();
    members.sort_by(|(a, _), (b, _)| a.cmp(b));
    members.iter().map(|(_, member)| member.get("accountId")).find(|id| !says_nothing(*id)).flatten()
}

/// A list of accounts, units or policies, and when it was made.
pub(crate) struct List<'a> {
    kind: &'a str,
    pub(crate) elements: &'a [Json],
    listed_at: Option<Json>,
}

/// The list that an object is, if it is one of AWS Organizations.
pub(crate) fn list_of(record: &Json) -> Option<List<'_>> {
    let kinds = ["Accounts", "OrganizationalUnits", "Policies"];
    let (kind, elements) = kinds.into_iter().find_map(|kind| match record.get(kind) {
        Some(Json::Array(elements)) => Some((kind, elements.as_slice())),
        _ => None,
    })?;
    // IAM lists policies, too.
    let is_ours = match elements.first() {
        Some(first) => arn(first.get("Arn")).is_some(),
        None => kind != "Policies",
    };
    let said_at = record.get("listedAt").filter(|at| !says_nothing(Some(at))).cloned();
    let date = record.at(&["ResponseMetadata", "HTTPHeaders", "date"]).and_then(Json::text).and_then(http_date);
    let listed_at = said_at.or_else(|| date.map(|date| Json::Text(Some(date))));
    is_ours.then_some(List { kind, elements, listed_at })
}

impl List<'_> {
    /// What an element says; `None` if it is a policy that is not metered.
    pub(crate) fn facts(&self, element: &Json, now: i64) -> Result<Option<Vec<Fact>>, &'static str> {
        if !matches!(element, Json::Object(_)) {
            return Err("list_malformed");
        }
        let arn = arn(element.get("Arn"));
        let listed_at = match &self.listed_at {
            None => Err("list_time_missing"),
            at => event_time(at.as_ref(), now),
        };
        let organization = arn.and_then(|(_, resource)| resource.split('/').nth(1));
        let organization = organization.filter(|id| id.starts_with("o-") && crate::event::is_dimension(id));
        let of_list = |fact: Fact, region: &str| Fact {
            region: region.to_owned(),
            category: organization.unwrap_or("none").to_owned(),
            ..fact
        };
        if self.kind == "Accounts" {
            let id = account_of(element.get("Id"))?;
            let joined_at = joined_at(element.get("JoinedTimestamp"), now)?;
            let joined = of_list(fact("accounts", &id, &id, joined_at, Says::Live), "none");
            let state = if says_nothing(element.get("State")) { element.get("Status") } else { element.get("State") };
            let says = match said(state) {
                Some("ACTIVE" | "PENDING_ACTIVATION" | "PENDING_CLOSURE") => Says::Live,
                Some("SUSPENDED" | "CLOSED") => Says::Gone,
                _ => return Err("list_malformed"),
            };
            return match listed_at {
                Ok(at) => Ok(Some(vec![joined, of_list(fact("accounts", &id, &id, at, says), "listed")])),
                Err("list_time_missing") if says == Says::Live => Ok(Some(vec![joined])),
                Err(reason) => Err(reason),
            };
        }
        let meter = if self.kind == "Policies" { "service_control_policies" } else { "organizational_units" };
        let is_metered = |resource: &str| self.kind != "Policies" || resource.contains("/service_control_policy/");
        let account = match arn {
            Some((account, resource)) if is_metered(resource) && (self.kind != "Policies" || account != "aws") => {
                account
            }
            Some(_) => return Ok(None),
            None => return Err("list_malformed"),
        };
        let id = said(element.get("Id")).filter(|id| is_name(id)).ok_or("list_malformed")?;
        if !crate::event::is_account(account) {
            return Err("account_malformed");
        }
        Ok(Some(vec![of_list(fact(meter, account, id, listed_at?, Says::Live), "listed")]))
    }
}

/// The account and the resource of an ARN of AWS Organizations.
fn arn(arn: Option<&Json>) -> Option<(&str, &str)> {
    let parts: Vec<&str> = arn.and_then(Json::text)?.splitn(6, ':').collect();
    match parts.as_slice() {
        ["arn", partition, "organizations", _, account, resource] if partition.starts_with("aws") => {
            Some((account, resource))
        }
        _ => None,
    }
}

/// RFC 3339, or seconds since 1970 with decimals.
fn joined_at(at: Option<&Json>, now: i64) -> Result<i64, &'static str> {
    let Some(Json::Number(seconds)) = at else { return event_time(at, now) };
    let seconds = Number::read(seconds).ok_or("event_time_malformed")?;
    // Finer than a microsecond is not kept.
    let text = seconds.to_string();
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let micros = format!("{whole}{:0<6.6}", fraction).parse::<i64>().map_err(|_| "event_time_malformed")?;
    event_time(Some(&Json::Text(Some(crate::time::written(micros)))), now)
}

/// `Thu, 01 Oct 2026 00:00:00 GMT` in RFC 3339.
fn http_date(text: &str) -> Option<String> {
    let parts: Vec<&str> = text.split_whitespace().collect();
    let [_, day, month, year, clock, "GMT" | "UTC" | "+0000"] = parts.as_slice() else { return None };
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months.iter().position(|name| name == month)? + 1;
    let text = format!("{year}-{month:02}-{day:0>2}T{clock}Z");
    instant(&text).map(|_| text)
}
