//! AWS Organizations: what its events say about the life of accounts, organizational units and service control policies.
//!
//! Every one of them is a CloudTrail event too, logged for the management account or for the member that acted. A call that
//! failed, or a request whose result is another event, begins and ends nothing.
//!
//! Sources: AWS Organizations User Guide, "Logging API calls with AWS CloudTrail"; AWS Organizations API Reference.

use std::borrow::Cow;

use crate::json::{Members, Scalar};
use crate::rules::account_of;
use crate::{AccountId, Dimensions, FactKey, FactValue, Meter, Reason, Rules, Source, UsageEvent, UsageFact};

/// What an event says began or ended, as far as it counts from Organizations; or why it cannot be read.
///
/// An end without a beginning ends nothing, so that a policy of another kind, whose deletion does not name its kind, does no
/// harm; and so do two events about one change.
pub(crate) fn life_cycle<'a>(
    event: &'a [u8],
    logged: &UsageEvent<'_>,
    rules: Rules<'_>,
) -> Result<Vec<UsageFact<'a>>, Reason> {
    let members = Members::read(event).ok_or(Reason::LifeCycleMalformed)?;
    if !members.text("errorCode").says_nothing() {
        return Ok(Vec::new());
    }
    let Some((meter, account, resource, value)) = change(&members, logged.account)? else { return Ok(Vec::new()) };
    if !UsageFact::is_name(&resource) {
        return Err(Reason::LifeCycleMalformed);
    }
    let time = logged.event_time;
    if !rules.declared.is_declared(Source::Organizations, meter, account, time) {
        return Ok(Vec::new());
    }
    Ok(vec![UsageFact {
        key: FactKey { meter, account, resource, time, export: None },
        revision: 0,
        // An organization is in no Region.
        dimensions: Dimensions { region: Dimensions::NONE.into(), category: Dimensions::NONE.into() },
        end: None,
        value,
    }])
}

/// Which meter's, whose, of what, and whether it is live from now on.
type Change<'a> = (Meter, AccountId, Cow<'a, str>, FactValue);

fn change<'a>(event: &Members<'a>, logged_for: AccountId) -> Result<Option<Change<'a>>, Reason> {
    let request = || event.object("requestParameters").ok_or(Reason::LifeCycleMalformed);
    let response = |key: &str| {
        event.object("responseElements").and_then(|response| response.object(key)).ok_or(Reason::LifeCycleMalformed)
    };
    let account = |id: &Scalar<'_>, value| {
        let id = account_of(id)?;
        Ok(Some((Meter::Accounts, id, Cow::Owned(id.to_string()), value)))
    };
    let other = |meter, id: Scalar<'a>, value| {
        let id = id.into_text().ok_or(Reason::LifeCycleMalformed)?;
        Ok(Some((meter, logged_for, id, value)))
    };
    let own = Scalar::Text(Cow::Owned(logged_for.to_string()));
    match event.text("eventName").into_text().as_deref() {
        Some("CreateAccountResult") => result(event, "createAccountStatus", FactValue::Live),
        Some("CloseAccountResult") => result(event, "closeAccountStatus", FactValue::Gone),
        Some("AccountJoinedOrganization") => account(&member_account(event)?, FactValue::Live),
        Some("AccountDepartedOrganization") => account(&member_account(event)?, FactValue::Gone),
        Some("RemoveAccountFromOrganization") => account(&request()?.text("accountId"), FactValue::Gone),
        // Logged for the member that leaves.
        Some("LeaveOrganization") | Some("DeleteOrganization") => account(&own, FactValue::Gone),
        Some("CreateOrganization") => account(&own, FactValue::Live),
        Some("AcceptHandshake") => {
            let handshake = response("handshake")?;
            let joins = handshake.text("action").is("INVITE") && handshake.text("state").is("ACCEPTED");
            // Who accepts an invitation to join is the account that joins.
            if joins { account(&party(&handshake).unwrap_or(own), FactValue::Live) } else { Ok(None) }
        }
        Some("CreateOrganizationalUnit") => {
            other(Meter::OrganizationalUnits, response("organizationalUnit")?.text("id"), FactValue::Live)
        }
        Some("DeleteOrganizationalUnit") => {
            other(Meter::OrganizationalUnits, request()?.text("organizationalUnitId"), FactValue::Gone)
        }
        Some("CreatePolicy") => {
            let summary = response("policy")?.object("policySummary").ok_or(Reason::LifeCycleMalformed)?;
            if summary.text("type").is("SERVICE_CONTROL_POLICY") {
                other(Meter::ServiceControlPolicies, summary.text("id"), FactValue::Live)
            } else {
                Ok(None)
            }
        }
        Some("DeletePolicy") => other(Meter::ServiceControlPolicies, request()?.text("policyId"), FactValue::Gone),
        _ => Ok(None),
    }
}

/// What became of a request to create or close an account. One that failed adds and removes none.
fn result<'a>(event: &Members<'_>, key: &str, value: FactValue) -> Result<Option<Change<'a>>, Reason> {
    let text = details_text(event);
    let details = details(event, text.as_deref()).ok_or(Reason::LifeCycleMalformed)?;
    let status = details.object(key).ok_or(Reason::LifeCycleMalformed)?;
    match status.text("state").into_text().as_deref() {
        Some("SUCCEEDED") => {
            let id = account_of(&status.text("accountId"))?;
            Ok(Some((Meter::Accounts, id, Cow::Owned(id.to_string()), value)))
        }
        Some(_) => Ok(None),
        None => Err(Reason::LifeCycleMalformed),
    }
}

/// `serviceEventDetails` where a tool made text of it.
fn details_text<'a>(event: &Members<'a>) -> Option<Cow<'a, str>> {
    event.text("serviceEventDetails").into_text()
}

fn details<'a>(event: &Members<'a>, text: Option<&'a str>) -> Option<Members<'a>> {
    match text {
        Some(text) => Members::read(text.as_bytes()),
        None => event.object("serviceEventDetails"),
    }
}

/// The account that joined or departed: `accountId` of the details, or of the one object in them that has it.
fn member_account(event: &Members<'_>) -> Result<Scalar<'static>, Reason> {
    let text = details_text(event);
    let details = details(event, text.as_deref()).ok_or(Reason::LifeCycleMalformed)?;
    let direct = details.text("accountId");
    let found = if direct.says_nothing() {
        let nested = details.objects().map(|inner| inner.text("accountId")).find(|id| !id.says_nothing());
        nested.unwrap_or(Scalar::Absent)
    } else {
        direct
    };
    Ok(found.into_owned())
}

/// The account among the parties of a handshake.
fn party<'a>(handshake: &Members<'a>) -> Option<Scalar<'a>> {
    let parties = handshake.array("parties")?;
    let accounts = parties.into_iter().filter_map(Members::read).filter(|party| party.text("type").is("ACCOUNT"));
    accounts.map(|party| party.text("id")).next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Declarations, Identity, NOTHING_DECLARED, Timestamp};

    const MANAGEMENT: &str = "999999999999";

    fn read(
        name: &str,
        members: &str,
        declared: &Declarations,
    ) -> Result<Vec<(String, String, String, FactValue)>, Reason> {
        let event = format!(r#"{{"eventSource":"organizations.amazonaws.com","eventName":"{name}",{members}}}"#);
        let now = Timestamp::parse_rfc3339("2026-10-01T12:00:00Z").unwrap();
        let logged = UsageEvent {
            meter: Meter::CloudTrailEvents,
            account: AccountId::parse(MANAGEMENT).unwrap(),
            identity: Identity::from_bytes([1; 16]),
            event_time: now,
            dimensions: Dimensions { region: "us-east-1".into(), category: "Management".into() },
        };
        let facts = life_cycle(event.as_bytes(), &logged, Rules { declared, ..Rules::at(now) })?;
        let told = facts.into_iter().map(|fact| {
            assert_eq!((fact.key.time, fact.revision, &*fact.dimensions.region), (now, 0, "none"));
            (fact.key.meter.to_string(), fact.key.account.to_string(), fact.key.resource.into_owned(), fact.value)
        });
        Ok(told.collect())
    }

    #[track_caller]
    fn check(name: &str, members: &str, expected: Result<Option<(&str, &str, &str, FactValue)>, Reason>) {
        let expected = expected.map(|fact| {
            let own = |(meter, account, resource, value): (&str, &str, &str, _)| {
                (meter.to_owned(), account.to_owned(), resource.to_owned(), value)
            };
            fact.map(own).into_iter().collect::<Vec<_>>()
        });
        assert_eq!(read(name, members, &NOTHING_DECLARED), expected, "{name} {members}");
    }

    #[test]
    fn accounts_begin_and_end_by_results_and_members_own_calls() {
        use FactValue::{Gone, Live};
        let member = "111111111111";
        let account = |value| Ok(Some(("accounts", member, member, value)));
        let created =
            r#""serviceEventDetails":{"createAccountStatus":{"state":"SUCCEEDED","accountId":"111111111111"}}"#;
        check("CreateAccountResult", created, account(Live));
        check("CreateAccountResult", &created.replace("SUCCEEDED", "FAILED"), Ok(None));
        check("CreateAccountResult", &created.replace("SUCCEEDED", "IN_PROGRESS"), Ok(None));
        let as_text =
            serde_json::to_string(r#"{"createAccountStatus":{"state":"SUCCEEDED","accountId":"111111111111"}}"#);
        check("CreateAccountResult", &format!(r#""serviceEventDetails":{}"#, as_text.unwrap()), account(Live));
        check("CloseAccountResult", &created.replace("create", "close"), account(Gone));
        check("AccountJoinedOrganization", r#""serviceEventDetails":{"accountId":"111111111111"}"#, account(Live));
        let nested = r#""serviceEventDetails":{"joinedMethod":"Invited","member":{"accountId":"111111111111"}}"#;
        check("AccountJoinedOrganization", nested, account(Live));
        check("AccountDepartedOrganization", nested, account(Gone));
        let removed = r#""requestParameters":{"accountId":"111111111111"},"responseElements":null"#;
        check("RemoveAccountFromOrganization", removed, account(Gone));
        check("LeaveOrganization", r#""requestParameters":null"#, Ok(Some(("accounts", MANAGEMENT, MANAGEMENT, Gone))));
        check("CreateOrganization", r#""responseElements":{}"#, Ok(Some(("accounts", MANAGEMENT, MANAGEMENT, Live))));
        let accepted = r#""responseElements":{"handshake":{"action":"INVITE","state":"ACCEPTED","parties":[
            {"id":"o-1","type":"ORGANIZATION"},{"id":"111111111111","type":"ACCOUNT"}]}}"#;
        check("AcceptHandshake", accepted, account(Live));
        check(
            "AcceptHandshake",
            &accepted.replace("\"ACCOUNT\"", "\"EMAIL\""),
            Ok(Some(("accounts", MANAGEMENT, MANAGEMENT, Live))),
        );
        check("AcceptHandshake", &accepted.replace("INVITE", "ENABLE_ALL_FEATURES"), Ok(None));
    }

    #[test]
    fn units_and_policies_are_their_management_accounts() {
        use FactValue::{Gone, Live};
        let unit = |value| Ok(Some(("organizational_units", MANAGEMENT, "ou-1", value)));
        let policy = |value| Ok(Some(("service_control_policies", MANAGEMENT, "p-1", value)));
        check("CreateOrganizationalUnit", r#""responseElements":{"organizationalUnit":{"id":"ou-1"}}"#, unit(Live));
        check("DeleteOrganizationalUnit", r#""requestParameters":{"organizationalUnitId":"ou-1"}"#, unit(Gone));
        let created = r#""responseElements":{"policy":{"policySummary":{"id":"p-1","type":"SERVICE_CONTROL_POLICY"}}}"#;
        check("CreatePolicy", created, policy(Live));
        check("CreatePolicy", &created.replace("SERVICE_CONTROL", "TAG"), Ok(None));
        check("DeletePolicy", r#""requestParameters":{"policyId":"p-1"}"#, policy(Gone));
    }

    #[test]
    fn what_fails_or_only_asks_changes_nothing() {
        for name in ["CreateAccount", "CloseAccount", "InviteAccountToOrganization", "MoveAccount", "DescribeAccount"] {
            check(name, r#""requestParameters":{"accountId":"111111111111"}"#, Ok(None));
        }
        for name in ["LeaveOrganization", "RemoveAccountFromOrganization", "DeletePolicy"] {
            check(name, r#""errorCode":"AccessDenied","requestParameters":null"#, Ok(None));
        }
        let samples = "[[declared]]\nmeter = \"accounts\"\nsource = \"usage_samples\"";
        let samples = Declarations::parse(samples).unwrap();
        assert_eq!(read("LeaveOrganization", r#""a":1"#, &samples), Ok(Vec::new()), "counted from another source");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let status = |status: &str| format!(r#""serviceEventDetails":{{"createAccountStatus":{status}}}"#);
        for (name, members, reason) in [
            ("CreateAccountResult", r#""serviceEventDetails":null"#.to_owned(), Reason::LifeCycleMalformed),
            ("CreateAccountResult", status("{}"), Reason::LifeCycleMalformed),
            ("CreateAccountResult", status(r#"{"state":"SUCCEEDED"}"#), Reason::AccountMissing),
            (
                "CreateAccountResult",
                status(r#"{"state":"SUCCEEDED","accountId":"1111111111111111"}"#),
                Reason::AccountMalformed,
            ),
            ("AccountJoinedOrganization", r#""serviceEventDetails":"{""#.to_owned(), Reason::LifeCycleMalformed),
            ("AccountJoinedOrganization", r#""serviceEventDetails":{}"#.to_owned(), Reason::AccountMissing),
            ("RemoveAccountFromOrganization", r#""requestParameters":null"#.to_owned(), Reason::LifeCycleMalformed),
            ("CreateOrganizationalUnit", r#""responseElements":null"#.to_owned(), Reason::LifeCycleMalformed),
            ("DeletePolicy", r#""requestParameters":{"policyId":"p\u0000"}"#.to_owned(), Reason::LifeCycleMalformed),
        ] {
            check(name, &members, Err(reason));
        }
    }
}
