//! Files of a landing zone: lines in a shuffled order, and records that cannot be counted.

use std::fs;
use std::io;
use std::path::Path;

use super::{Answer, EVENTS_FOLDER, LandingZone};
use crate::cloudtrail::gzip;
use crate::random::{Draws, Stream};

/// Writes a file and the folders above it, gzipped where its name says so.
pub(super) fn write_file(dir: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().expect("a file has a folder"))?;
    if name.ends_with(".gz") { fs::write(path, gzip(content)?) } else { fs::write(path, content) }
}

/// One JSON value a line.
pub(super) fn lines(values: &[String]) -> String {
    values.iter().map(|value| format!("{value}\n")).collect()
}

/// Puts things into an order of their own: what was sent later may arrive earlier.
pub(super) fn shuffle<T>(values: &mut [T], draws: &mut Draws) {
    for n in (1..values.len()).rev() {
        let other = draws.below(n as u64 + 1);
        values.swap(n, usize::try_from(other).expect("below a length"));
    }
}

/// A UUID in its written form.
pub(super) fn uuid(draws: &mut Draws) -> String {
    let mut text = String::with_capacity(36);
    crate::random::push_uuid(&mut text, draws.uuid());
    text
}

/// Hexadecimal digits.
pub(super) fn hex(draws: &mut Draws, digits: usize) -> String {
    let mut text = String::with_capacity(digits);
    draws.push_hex(&mut text, digits);
    text
}

/// Poison of several kinds among events that count: each is set aside alone.
pub(super) fn write_faults(dir: &Path, zone: &LandingZone, answer: &mut Answer) -> io::Result<()> {
    let account = zone.account(0);
    let at = crate::cloudtrail::instant(zone.begin() + 3_600);
    let mut draws = Draws::new(zone.seed, Stream::Envelope, 0);
    let mut event = |more: &str| format!(r#"{{"eventName":"X","eventID":"{}",{more}}}"#, uuid(&mut draws));
    let good = event(&format!(r#""eventTime":"{at}","recipientAccountId":"{account}""#));
    let poison = [
        (event(&format!(r#""eventTime":"{at}","recipientAccountId":"12345""#)), "account_malformed"),
        (event(&format!(r#""recipientAccountId":"{account}""#)), "event_time_missing"),
        (event(&format!(r#""eventTime":"soon","recipientAccountId":"{account}""#)), "event_time_malformed"),
        (event(&format!(r#""eventTime":"{at}""#)), "account_missing"),
        (r#"{"eventName":nope}"#.to_owned(), "broken_json"),
        (r#"{"hello":"world"}"#.to_owned(), "not_recognized"),
        (r#"{"detail-type":"GuardDuty Finding","source":"aws.guardduty","detail":{}}"#.to_owned(), "detail_missing"),
    ];
    let mut records = vec![good];
    for (record, reason) in poison {
        records.push(record);
        *answer.dead_letters.entry(reason.to_owned()).or_default() += 1;
    }
    answer.read(EVENTS_FOLDER, records.len() as u64);
    answer.add("cloudtrail_events", &account, zone.begin() + 3_600, 1);
    write_file(dir, &format!("{EVENTS_FOLDER}/poison.jsonl"), lines(&records).as_bytes())
}
