//! The audit trail, followed: what was changed behind its back shows.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use api::audit::archive::{Archive, ArchiveError, archive, witnesses};
use api::audit::chain::ChainedEvent;
use api::audit::{FolderArchive, Verification, archived_months, verify, verify_after};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use ingest::Timestamp;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::get;
use crate::stage::Stage;

/// Three chains with four events each.
async fn recorded(stage: &Stage) -> PgConnection {
    let mut superuser = stage.superuser().await;
    for number in 0..4 {
        for customer in ["'acme'", "'globex'", "null"] {
            let sql = format!(
                "select record_audit_event({customer}, 'tester', 'test.done', 'subject {number}', '{{\"n\": {number}}}')"
            );
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut superuser).await.unwrap();
        }
    }
    superuser
}

async fn operator(stage: &Stage) -> PgConnection {
    PgConnection::connect(&stage.url("securebase_operator")).await.unwrap()
}

fn breaks(found: &Verification) -> Vec<String> {
    found.breaks.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn an_untouched_trail_verifies_and_every_kind_of_change_shows() {
    let stage = Stage::new().await;
    let mut superuser = recorded(&stage).await;
    let found = verify(&mut operator(&stage).await, &[]).await.unwrap();
    assert_eq!((found.chains, found.events, breaks(&found)), (3, 12, vec![]));

    for (tampering, says) in [
        (
            "update audit_events set actor = 'nobody' where chain = 'acme' and sequence = 2",
            "chain acme: event 2 was changed",
        ),
        (
            "update audit_events set details = '{}' where chain = '' and sequence = 4",
            "chain of the platform: event 4 was changed",
        ),
        (
            "update audit_events set occurred_at = occurred_at + interval '1 microsecond' where chain = 'acme' and sequence = 1",
            "chain acme: event 1 was changed",
        ),
        (
            "delete from audit_events where chain = 'globex' and sequence = 3",
            "chain globex: event 3 is missing; event 4 stands in its place",
        ),
        (
            "delete from audit_events where chain = 'globex' and sequence > 2",
            "chain globex: it ends at event 2, but the chain's head knows event 4",
        ),
        (
            "update audit_events set hash = sha256('x') where chain = 'acme' and sequence = 4",
            "chain acme: event 4 was changed",
        ),
        (
            "delete from audit_heads where chain = 'acme'",
            "chain acme: it goes on to event 4, but the chain's head ends at event 0",
        ),
        (
            "delete from audit_events where chain = 'acme'",
            "chain acme: it ends at event 0, but the chain's head knows event 4",
        ),
        (
            "update audit_heads set hash = sha256('x') where chain = 'acme'",
            "chain acme: event 4 has another hash than the chain's head remembers",
        ),
    ] {
        let mut transaction = superuser.begin().await.unwrap();
        // The superuser turns the triggers off, as only the owner of the machine could.
        sqlx::raw_sql("set local session_replication_role = replica").execute(&mut *transaction).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(tampering)).execute(&mut *transaction).await.unwrap();
        transaction.commit().await.unwrap();
        let found = verify(&mut operator(&stage).await, &[]).await.unwrap();
        assert_eq!(breaks(&found), [says], "{tampering}");
        // Back to what it was: everything anew.
        sqlx::raw_sql("set session_replication_role = replica; delete from audit_events; delete from audit_heads; reset session_replication_role")
            .execute(&mut superuser)
            .await
            .unwrap();
        superuser = recorded(&stage).await;
    }
}

#[tokio::test]
async fn a_trail_written_anew_with_right_hashes_is_found_by_the_heads_of_a_day() {
    let stage = Stage::new().await;
    let mut superuser = recorded(&stage).await;
    let folder = tempfile::tempdir().unwrap();
    let place = FolderArchive::new(folder.path());
    let now = Timestamp::parse_rfc3339("2026-11-22T12:00:00Z").unwrap();
    let archived = archive(&mut operator(&stage).await, &place, now).await.unwrap();
    assert_eq!(archived.day.as_deref(), Some("2026-11-22"));
    let again = archive(&mut operator(&stage).await, &place, now).await.unwrap();
    assert_eq!((again.day, again.months), (None, vec![]), "once a day");
    assert_eq!(place.names("heads/").await.unwrap(), ["heads/2026-11-22.json"]);

    let known = witnesses(&place).await.unwrap();
    let found = verify(&mut operator(&stage).await, &known).await.unwrap();
    assert_eq!((found.witnessed, breaks(&found)), (3, vec![]));

    sqlx::raw_sql("set session_replication_role = replica; delete from audit_events; delete from audit_heads; reset session_replication_role")
        .execute(&mut superuser)
        .await
        .unwrap();
    let found = verify(&mut operator(&stage).await, &known).await.unwrap();
    assert_eq!(found.breaks.len(), 3, "nothing is left, and the heads know: {found:?}");
    drop(recorded(&stage).await);
    assert_eq!(
        breaks(&verify(&mut operator(&stage).await, &[]).await.unwrap()),
        Vec::<String>::new(),
        "in itself it is right"
    );
    let found = verify(&mut operator(&stage).await, &known).await.unwrap();
    assert_eq!(
        breaks(&found)[1],
        "chain acme: event 4 has another hash than heads/2026-11-22.json remembers",
        "{found:?}"
    );
    assert_eq!(found.breaks.len(), 3);
}

#[tokio::test]
async fn a_month_is_archived_whole_90_days_after_its_end() {
    let stage = Stage::new().await;
    drop(recorded(&stage).await);
    let folder = tempfile::tempdir().unwrap();
    let place = FolderArchive::new(folder.path());
    let mut operator = operator(&stage).await;
    let month: String = sqlx::query_scalar("select to_char(now() at time zone 'UTC', 'YYYY-MM')")
        .fetch_one(&mut operator)
        .await
        .unwrap();
    let end: String = sqlx::query_scalar(
        "select to_char((date_trunc('month', now() at time zone 'UTC') + interval '1 month')::date + 90, 'YYYY-MM-DD')",
    )
    .fetch_one(&mut operator)
    .await
    .unwrap();
    let due = Timestamp::parse_rfc3339(&format!("{end}T00:00:00Z")).unwrap();
    let early = archive(&mut operator, &place, due.saturating_add_secs(-1)).await.unwrap();
    assert_eq!(early.months, Vec::<String>::new());
    let archived = archive(&mut operator, &place, due).await.unwrap();
    assert_eq!(archived.months, std::slice::from_ref(&month));
    assert_eq!(
        place.names("events/").await.unwrap(),
        ["_platform.jsonl.gz", "acme.jsonl.gz", "globex.jsonl.gz", "index.json"]
            .map(|name| format!("events/{month}/{name}"))
    );
    let again = archive(&mut operator, &place, due.saturating_add_secs(86_400)).await.unwrap();
    assert_eq!(again.months, Vec::<String>::new());
}

/// Two chains with events in May, June and July, and one each in November; archived until July.
async fn archived(stage: &Stage, folder: &Path) -> (PgConnection, FolderArchive) {
    let mut superuser = stage.superuser().await;
    let days = ["2026-05-03", "2026-05-31", "2026-06-01", "2026-06-30", "2026-07-01", "2026-07-31", "2026-11-20"];
    for (number, day) in days.iter().enumerate() {
        for customer in ["'acme'", "null"] {
            let append = format!(
                "select append_audit_event({customer}, 'securebase_app', '{day}T12:00:00Z', 'tester', 'test.done', 'subject {number}', '{{}}')"
            );
            sqlx::raw_sql(AssertSqlSafe(append)).execute(&mut superuser).await.unwrap();
        }
    }
    let place = FolderArchive::new(folder);
    let june = Timestamp::parse_rfc3339("2026-06-15T12:00:00Z").unwrap();
    let now = Timestamp::parse_rfc3339("2026-11-22T12:00:00Z").unwrap();
    let archived = archive(&mut operator(stage).await, &place, now).await.unwrap();
    assert_eq!(archived.months, ["2026-05", "2026-06", "2026-07"]);
    // What a server that ran in June would have written down: the heads in the middle of an archived month.
    let heads: Vec<serde_json::Value> = sqlx::query_as::<_, (String, i64, String)>(
        "select chain, sequence, encode(hash, 'hex') from audit_events where subject = 'subject 2'",
    )
    .fetch_all(&mut superuser)
    .await
    .unwrap()
    .into_iter()
    .map(|(chain, sequence, hash)| json!({"chain": chain, "sequence": sequence, "hash": hash}))
    .collect();
    let daily = json!({"taken_at": june.to_string(), "heads": heads}).to_string();
    assert!(place.put_once("heads/2026-06-15.json", daily.into_bytes()).await.unwrap());
    (superuser, place)
}

/// Every break that database and archive together show.
async fn all_breaks(stage: &Stage, place: &FolderArchive) -> Vec<String> {
    let heads = witnesses(place).await.unwrap();
    let months = archived_months(place, &heads).await.unwrap();
    breaks(&verify_after(&mut operator(stage).await, &heads, &months).await.unwrap())
}

/// Lets the database lose what is older, as its owner does with partitions past their time.
async fn detach_before(superuser: &mut PgConnection, day: &str) {
    let sql = format!(
        "set session_replication_role = replica; delete from audit_events where occurred_at < '{day}Z';
         reset session_replication_role"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(superuser).await.unwrap();
}

/// A file of the archive, changed by somebody who owns the disk.
fn rewrite(folder: &Path, name: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let path = folder.join(name);
    let bytes = change(fs::read(&path).unwrap());
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
}

/// The lines of a chain in a month, changed, and the index made to fit: only the hashes of events can tell.
fn forge(folder: &Path, month: &str, change: impl FnOnce(Vec<String>) -> Vec<String>) {
    let mut bytes = Vec::new();
    rewrite(folder, &format!("events/{month}/acme.jsonl.gz"), |old| {
        let mut text = String::new();
        GzDecoder::new(&old[..]).read_to_string(&mut text).unwrap();
        let lines = change(text.lines().map(str::to_owned).collect());
        let mut file = GzEncoder::new(Vec::new(), Compression::default());
        lines.iter().for_each(|line| writeln!(file, "{line}").unwrap());
        bytes = file.finish().unwrap();
        bytes.clone()
    });
    let mut text = String::new();
    GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
    rewrite(folder, &format!("events/{month}/index.json"), |index| {
        let mut index: serde_json::Value = serde_json::from_slice(&index).unwrap();
        let chains = index["chains"].as_array_mut().unwrap();
        let chain = chains.iter_mut().find(|chain| chain["chain"] == "acme").unwrap();
        chain["events"] = json!(text.lines().count());
        chain["sha256"] = json!(hex(&Sha256::digest(&bytes)));
        index.to_string().into_bytes()
    });
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An event with another actor and the hash it then has, and so on to the last.
fn with_right_hashes(lines: Vec<String>) -> Vec<String> {
    let mut events: Vec<ChainedEvent> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    events[0].actor = "nobody".to_owned();
    let mut previous: [u8; 32] = [0; 32];
    for (place, event) in events.iter_mut().enumerate() {
        if place > 0 {
            event.previous_hash = hex(&previous);
        } else {
            for (byte, digits) in previous.iter_mut().zip(event.previous_hash.as_bytes().chunks(2)) {
                *byte = u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
            }
        }
        previous = event.hash_after(&previous);
        event.hash = hex(&previous);
    }
    events.iter().map(|event| serde_json::to_string(event).unwrap()).collect()
}

#[tokio::test]
async fn any_change_in_an_archived_month_shows_whether_or_not_the_database_still_has_it() {
    for is_detached in [false, true] {
        let stage = Stage::new().await;
        let folder = tempfile::tempdir().unwrap();
        let (mut superuser, place) = archived(&stage, folder.path()).await;
        if is_detached {
            detach_before(&mut superuser, "2026-08-01").await;
            assert!(
                !breaks(&verify(&mut operator(&stage).await, &[]).await.unwrap()).is_empty(),
                "it begins at event 7"
            );
        }
        assert_eq!(all_breaks(&stage, &place).await, Vec::<String>::new());
        let heads = witnesses(&place).await.unwrap();
        let months = archived_months(&place, &heads).await.unwrap();
        assert_eq!((months.months, months.events), (3, 12));

        let copy = tempfile::tempdir().unwrap();
        type Change<'a> = (&'a str, &'a str, Box<dyn Fn(&Path)>);
        let change = |what, says, change: Box<dyn Fn(&Path)>| -> Change<'_> { (what, says, change) };
        let changes = [
            change(
                "one byte of a file",
                "archive: events/2026-06/acme.jsonl.gz was changed",
                Box::new(|at| {
                    rewrite(at, "events/2026-06/acme.jsonl.gz", |mut bytes| {
                        let middle = bytes.len() / 2;
                        bytes[middle] ^= 1;
                        bytes
                    });
                }),
            ),
            change(
                "one word of an event",
                "archive: events/2026-06/acme.jsonl.gz breaks: chain acme: event 3 was changed",
                Box::new(|at| {
                    forge(at, "2026-06", |lines| {
                        lines.iter().map(|line| line.replace("subject 2", "subject 9")).collect()
                    });
                }),
            ),
            change(
                "an event taken out",
                "archive: events/2026-06/acme.jsonl.gz breaks: chain acme: event 3 is missing",
                Box::new(|at| {
                    forge(at, "2026-06", |lines| lines[1..].to_vec());
                }),
            ),
            change(
                "the end of a month cut off",
                "archive: events/2026-07/acme.jsonl.gz breaks: chain acme: event 4 is missing",
                Box::new(|at| {
                    forge(at, "2026-06", |lines| lines[..1].to_vec());
                }),
            ),
            change(
                "the end of the last month cut off",
                "chain acme",
                Box::new(|at| {
                    forge(at, "2026-07", |lines| lines[..1].to_vec());
                }),
            ),
            change(
                "two events swapped",
                "archive: events/2026-06/acme.jsonl.gz breaks: chain acme: event 3 is missing",
                Box::new(|at| {
                    forge(at, "2026-06", |lines| lines.into_iter().rev().collect());
                }),
            ),
            change(
                "a month written anew",
                "archive: events/2026-06/acme.jsonl.gz breaks: chain acme: event 3 has another hash than heads/2026-06-15.json remembers",
                Box::new(|at| {
                    forge(at, "2026-06", with_right_hashes);
                }),
            ),
            change(
                "the last month written anew",
                "chain acme",
                Box::new(|at| {
                    forge(at, "2026-07", with_right_hashes);
                }),
            ),
            change(
                "a file taken away",
                "archive: events/2026-06/acme.jsonl.gz is missing",
                Box::new(|at| {
                    fs::remove_file(at.join("events/2026-06/acme.jsonl.gz")).unwrap();
                }),
            ),
            change(
                "a chain left out of the index",
                "archive: events/2026-06/acme.jsonl.gz is not in the month's index",
                Box::new(|at| {
                    rewrite(at, "events/2026-06/index.json", |index| {
                        let mut index: serde_json::Value = serde_json::from_slice(&index).unwrap();
                        index["chains"].as_array_mut().unwrap().retain(|chain| chain["chain"] != "acme");
                        index.to_string().into_bytes()
                    });
                }),
            ),
            change(
                "an index taken away",
                "archive: events/2026-06/index.json is missing",
                Box::new(|at| {
                    fs::remove_file(at.join("events/2026-06/index.json")).unwrap();
                }),
            ),
            change(
                "a month taken away",
                "archive: events/2026-06/index.json is missing",
                Box::new(|at| {
                    fs::remove_dir_all(at.join("events/2026-06")).unwrap();
                }),
            ),
            change(
                "the first month taken away",
                "archive: events/2026-06/acme.jsonl.gz breaks: chain acme: event 1 is missing",
                Box::new(|at| {
                    fs::remove_dir_all(at.join("events/2026-05")).unwrap();
                }),
            ),
            change(
                "a month that is another",
                "archive: events/2026-06/index.json is of another month",
                Box::new(|at| {
                    fs::remove_dir_all(at.join("events/2026-06")).unwrap();
                    fs::create_dir(at.join("events/2026-06")).unwrap();
                    for name in ["index.json", "acme.jsonl.gz", "_platform.jsonl.gz"] {
                        fs::copy(at.join("events/2026-05").join(name), at.join("events/2026-06").join(name)).unwrap();
                    }
                }),
            ),
        ];
        for (number, (what, says, change)) in changes.iter().enumerate() {
            let at = copy.path().join(number.to_string());
            copy_of(folder.path(), &at);
            change(&at);
            let found = all_breaks(&stage, &FolderArchive::new(&at)).await;
            assert!(found.iter().any(|broken| broken.contains(says)), "{what}, detached {is_detached}: {found:?}");
        }
        // The border: what comes after the archive does not follow it any more.
        sqlx::raw_sql(
            "set session_replication_role = replica;
             update audit_events set previous_hash = sha256('x') where chain = 'acme' and sequence = 7;
             reset session_replication_role",
        )
        .execute(&mut superuser)
        .await
        .unwrap();
        let found = all_breaks(&stage, &place).await;
        assert_eq!(found[0], "chain acme: event 7 does not follow the event before it", "{found:?}");
        detach_before(&mut superuser, "2027-01-01").await;
        let found = all_breaks(&stage, &place).await;
        assert_eq!(
            found.len(),
            4,
            "the last months are gone, the chains' heads and the heads of a day know: {found:?}"
        );
    }
}

/// A folder and everything in it.
fn copy_of(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_of(&entry.path(), &target)
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn what_somebody_else_put_into_the_archive_is_not_taken_for_ours() {
    let stage = Stage::new().await;
    drop(recorded(&stage).await);
    let now = Timestamp::parse_rfc3339("2026-11-22T12:00:00Z").unwrap();
    let clock: chrono::DateTime<chrono::Utc> =
        sqlx::query_scalar("select now() + interval '1 hour'").fetch_one(&mut stage.superuser().await).await.unwrap();
    let (day, now_by_clock) = (clock.date_naive(), Timestamp::from(clock));
    let taken_at = now_by_clock.to_string();
    for heads in [
        "no json".to_owned(),
        json!({"taken_at": taken_at, "heads": []}).to_string(),
        json!({"taken_at": taken_at, "heads": [
            {"chain": "", "sequence": 4, "hash": "00"}, {"chain": "acme", "sequence": 4, "hash": "00"},
            {"chain": "globex", "sequence": 4, "hash": "00"},
        ]})
        .to_string(),
        json!({"taken_at": now.saturating_add_secs(-864_000).to_string(), "heads": []}).to_string(),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let place = FolderArchive::new(folder.path());
        assert!(place.put_once(&format!("heads/{day}.json"), heads.clone().into_bytes()).await.unwrap());
        let refused = archive(&mut operator(&stage).await, &place, now_by_clock).await.unwrap_err();
        assert!(matches!(refused, ArchiveError::Strange(_)), "{heads}: {refused}");
    }

    // A month whose file an attempt left that was cut short: the same events stay, others are refused.
    let stage = Stage::new().await;
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    archived(&stage, folder.path()).await;
    let name = "events/2026-05/acme.jsonl.gz";
    let first = fs::read(folder.path().join(name)).unwrap();
    let place = FolderArchive::new(other.path());
    let mut again = GzEncoder::new(Vec::new(), Compression::none());
    std::io::copy(&mut GzDecoder::new(&first[..]), &mut again).unwrap();
    place.put_once(name, again.finish().unwrap()).await.unwrap();
    archive(&mut operator(&stage).await, &place, now).await.unwrap();
    let months = archived_months(&place, &[]).await.unwrap();
    assert_eq!((months.months, months.breaks), (3, vec![]), "otherwise compressed, the same events");
    let third = tempfile::tempdir().unwrap();
    let place = FolderArchive::new(third.path());
    let strange = fs::read(folder.path().join("events/2026-06/acme.jsonl.gz")).unwrap();
    place.put_once(name, strange).await.unwrap();
    let refused = archive(&mut operator(&stage).await, &place, now).await.unwrap_err();
    assert!(matches!(refused, ArchiveError::Strange(_)), "{refused}");
}

#[tokio::test]
async fn files_of_an_archive_are_read_only_and_written_once() {
    let folder = tempfile::tempdir().unwrap();
    let place = FolderArchive::new(folder.path());
    assert!(place.put_once("heads/2026-11-22.json", b"first".to_vec()).await.unwrap());
    assert!(!place.put_once("heads/2026-11-22.json", b"second".to_vec()).await.unwrap());
    assert_eq!(place.get("heads/2026-11-22.json").await.unwrap(), b"first");
    let mode = fs::metadata(folder.path().join("heads/2026-11-22.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o444);
}

#[tokio::test]
async fn a_customer_reads_its_own_trail_with_filters_and_pages() {
    let stage = Stage::new().await;
    drop(recorded(&stage).await);
    let key = stage.key("acme");
    let page = get(stage.address, "/v1/audit-events?limit=3&action=test.done", &key).await.json();
    let sequences = |page: &serde_json::Value| -> Vec<i64> {
        page["events"].as_array().unwrap().iter().map(|event| event["sequence"].as_i64().unwrap()).collect()
    };
    assert_eq!(sequences(&page), [4, 3, 2]);
    assert_eq!(page["events"][0]["details"], json!({"n": 3}));
    let rest = format!("/v1/audit-events?limit=3&action=test.done&cursor={}", page["next_cursor"].as_str().unwrap());
    assert_eq!(sequences(&get(stage.address, &rest, &key).await.json()), [1]);
    let one = get(stage.address, "/v1/audit-events?subject=subject%202&actor=tester", &key).await.json();
    assert_eq!(sequences(&one), [3]);
    for (filter, parameter) in [
        ("from=x", "from"),
        ("to=2026", "to"),
        ("actor=", "actor"),
        ("subject=%00", "subject"),
        ("cursor=0", "cursor"),
        ("cursor=-1", "cursor"),
        ("limit=1001", "limit"),
        ("format=csv", "format"),
        ("customer_id=globex", "customer_id"),
    ] {
        let answer = get(stage.address, &format!("/v1/audit-events?{filter}"), &key).await;
        answer.problem(400, "invalid-parameter");
        assert_eq!(answer.json()["parameter"], parameter);
    }
    let export = get(stage.address, "/v1/audit-events?format=jsonl&limit=2&action=test.done", &key).await;
    assert_eq!(export.header("content-type"), Some("application/jsonl"));
    assert_eq!(export.header("x-next-cursor"), Some("3"));
    assert_eq!(export.body.lines().count(), 2);
    let other = get(stage.address, "/v1/audit-events?action=test.done", &stage.key("nobody")).await.json();
    assert_eq!(other["events"], json!([]));
}

/// Sends a request and hangs up once it waits for a lock.
async fn hang_up(stage: &Stage, gate: &mut PgConnection, request: &str) {
    let mut stream = TcpStream::connect(stage.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let waits = async { while count(gate, "select count(*) from pg_locks where not granted").await == 0 {} };
    timeout(Duration::from_secs(20), waits).await.expect("the request comes to its stop");
}

async fn count(connection: &mut PgConnection, sql: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(connection).await.unwrap()
}

#[tokio::test]
async fn a_caller_that_hangs_up_before_its_answer_is_in_the_trail_once() {
    let stage = Stage::new().await;
    let key = stage.key("acme");
    let mut superuser = stage.superuser().await;
    let head = format!("host: localhost\r\nauthorization: Bearer {key}\r\n");
    let body = json!({"name": "unheard", "scopes": ["read:usage"]}).to_string();
    let write = format!(
        "POST /v1/api-keys HTTP/1.1\r\n{head}content-type: application/json\r\nidempotency-key: unheard\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let read = format!("GET /v1/invoices HTTP/1.1\r\n{head}\r\n");
    for (request, path, table) in [(read, "/v1/invoices", "invoices"), (write, "/v1/api-keys", "idempotent_answers")] {
        let mut gate = stage.superuser().await;
        let mut gate = gate.begin().await.unwrap();
        let lock = format!("lock table {table} in access exclusive mode");
        sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut *gate).await.unwrap();
        hang_up(&stage, &mut gate, &request).await;

        let calls = format!(
            "select count(*) from audit_events where customer_id = 'acme' and subject = '{path}'
                 and details ->> 'status' = '499' and details ->> 'outcome' like '%gone%'"
        );
        let recorded = async { while count(&mut superuser, &calls).await == 0 {} };
        timeout(Duration::from_secs(20), recorded).await.expect("its caller has gone, and the call is recorded");
        gate.rollback().await.unwrap();
        // What comes after is recorded after it.
        assert_eq!(get(stage.address, "/v1/accounts", &key).await.status, 200);
        let after = format!(
            "select count(*) from audit_events e where subject = '/v1/accounts' and sequence >
                 (select sequence from audit_events where subject = '{path}' and details ->> 'status' = '499')"
        );
        let recorded = async { while count(&mut superuser, &after).await == 0 {} };
        timeout(Duration::from_secs(20), recorded).await.expect("the next call is recorded");
        let calls = format!("select count(*) from audit_events where subject = '{path}'");
        assert_eq!(count(&mut superuser, &calls).await, 1, "{path}: once");
    }
    let written = "select (select count(*) from api_keys where name = 'unheard')
                       + (select count(*) from idempotent_answers where idempotency_key = 'unheard')";
    assert_eq!(count(&mut superuser, written).await, 0, "what nobody waited for is not half done");
}
