//! The life of accounts: a list of those there are, and events of what begins and ends, in no order and more than once.

use std::io;
use std::path::Path;

use serde_json::{Value, json};

use super::answer::Life;
use super::files::{lines, shuffle, uuid, write_file};
use super::{Answer, EVENTS_FOLDER, LandingZone};
use crate::cloudtrail::instant;
use crate::random::{Draws, Stream};

/// How long before the month the oldest accounts joined, in seconds.
const BEFORE: i64 = 60 * 86_400;

pub(super) fn write(dir: &Path, zone: &LandingZone, answer: &mut Answer) -> io::Result<()> {
    let mut draws = Draws::new(zone.seed, Stream::Organization, 0);
    let management = zone.account(0);
    let mut listed = Vec::new();
    for n in 0..zone.accounts() {
        let account = zone.account(n);
        let joined = zone.begin() - BEFORE + i64::from(n) * 3_600;
        listed.push(json!({
            "Id": account, "Arn": format!("arn:aws:organizations::{management}:account/o-exampleorg/{account}"),
            "Email": format!("aws+{n}@example.com"), "Name": format!("workload-{n}"), "Status": "ACTIVE",
            "JoinedMethod": "CREATED", "JoinedTimestamp": instant(joined),
        }));
        answer.accounts.push(Life { account, from: instant(joined), until: None });
    }
    write_file(
        dir,
        &format!("{EVENTS_FOLDER}/organizations/list-accounts.json"),
        json!({ "Accounts": listed }).to_string().as_bytes(),
    )?;
    answer.read(EVENTS_FOLDER, u64::from(zone.accounts()));

    // One account comes in the month, one comes and goes, one never comes.
    let day = 86_400;
    let (new, brief) = (zone.trail_account(zone.accounts()), zone.trail_account(zone.accounts() + 1));
    let created = zone.begin() + 5 * day + 3_723;
    let brief_created = zone.begin() + 7 * day + 60;
    let brief_closed = brief_created + 36 * 3_600 + 7;
    let mut events = vec![
        (
            created,
            service_event(
                &management,
                "CreateAccountResult",
                "createAccountStatus",
                &status(&new, created, "SUCCEEDED"),
                created,
                &mut draws,
            ),
        ),
        (
            brief_created,
            service_event(
                &management,
                "CreateAccountResult",
                "createAccountStatus",
                &status(&brief, brief_created, "SUCCEEDED"),
                brief_created,
                &mut draws,
            ),
        ),
        (
            brief_closed,
            service_event(
                &management,
                "CloseAccountResult",
                "closeAccountStatus",
                &status(&brief, brief_closed, "SUCCEEDED"),
                brief_closed,
                &mut draws,
            ),
        ),
        (
            created + 60,
            service_event(
                &management,
                "CreateAccountResult",
                "createAccountStatus",
                &failed(created + 60),
                created + 60,
                &mut draws,
            ),
        ),
    ];
    for (at, _) in &events {
        answer.add("cloudtrail_events", &management, *at, 1);
    }
    answer.accounts.push(Life { account: new, from: instant(created), until: None });
    answer.accounts.push(Life { account: brief, from: instant(brief_created), until: Some(instant(brief_closed)) });
    // Everything comes twice, the end of an account before its beginning.
    events.extend(events.clone());
    shuffle(&mut events, &mut draws);
    let events: Vec<String> = events.into_iter().map(|(_, event)| event).collect();
    answer.read(EVENTS_FOLDER, events.len() as u64);
    write_file(dir, &format!("{EVENTS_FOLDER}/organizations/eventbridge.jsonl"), lines(&events).as_bytes())
}

fn status(account: &str, at: i64, state: &str) -> Value {
    json!({
        "id": "car-examplecreateaccountrequestid", "state": state, "accountName": "****", "accountId": account,
        "requestedTimestamp": instant(at - 240), "completedTimestamp": instant(at),
    })
}

fn failed(at: i64) -> Value {
    json!({
        "id": "car-examplefailedrequestid111", "state": "FAILED", "accountName": "****", "failureReason": "EMAIL_ALREADY_EXISTS",
        "requestedTimestamp": instant(at - 240), "completedTimestamp": instant(at),
    })
}

fn service_event(management: &str, name: &str, details: &str, status: &Value, at: i64, draws: &mut Draws) -> String {
    json!({
        "version": "0", "id": uuid(draws), "detail-type": "AWS Service Event via CloudTrail", "source": "aws.organizations",
        "account": management, "time": instant(at), "region": "us-east-1", "resources": [],
        "detail": {
            "eventVersion": "1.08", "userIdentity": {"accountId": management, "invokedBy": "AWS Internal"}, "eventTime": instant(at),
            "eventSource": "organizations.amazonaws.com", "eventName": name, "awsRegion": "us-east-1",
            "sourceIPAddress": "AWS Internal", "userAgent": "AWS Internal", "requestParameters": null, "responseElements": null,
            "eventID": uuid(draws), "readOnly": false, "eventType": "AwsServiceEvent", "managementEvent": true,
            "recipientAccountId": management, "serviceEventDetails": {details: status}, "eventCategory": "Management",
        },
    })
    .to_string()
}
