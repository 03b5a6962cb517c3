//! `securebase dead-letters`.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ingest::dead_letter::DeadLetter;
use ingest::{Judged, Reason, Verdict, cloudtrail, read_object, stream_format};
use serde_json::json;

use crate::cli::{self, Global};
use crate::platform::{Platform, Work};
use crate::replay::{Replay, Source};
use crate::stores::Stores;
use crate::{edge, print};

/// Characters of a record shown in a list.
const EXCERPT_CHARS: usize = 80;

pub(super) async fn run(global: &Global, command: cli::DeadLetters) -> anyhow::Result<ExitCode> {
    match command {
        cli::DeadLetters::List { all } => list(global, all).await,
        cli::DeadLetters::Replay { ids } => replay(global, ids).await,
    }
}

async fn list(global: &Global, all: bool) -> anyhow::Result<ExitCode> {
    let platform = Platform::open(global, Work::Stores).await?;
    let mut letters =
        super::with_platform(platform, |stores| async move { Ok(stores.dead_letters().list().await?) }).await?;
    letters.retain(|letter| all || letter.resolved_at.is_none());
    if global.json {
        let letters = letters.iter().map(|letter| {
            json!({
                "id": letter.id(),
                "reason": letter.reason.as_str(),
                "advice": letter.reason.advice(),
                "object": letter.object,
                "offset": letter.offset,
                "record": String::from_utf8_lossy(&letter.bytes),
                "is_whole": letter.is_whole,
                "seen_at": letter.seen_at.to_string(),
                "resolved_at": letter.resolved_at.map(|at| at.to_string()),
            })
        });
        print::json(&json!({ "dead_letters": letters.collect::<Vec<_>>() }));
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<_> = letters.iter().map(row).collect();
    print::table(&["id", "reason", "object", "record"], &rows);
    let reasons: BTreeSet<Reason> = letters.iter().map(|letter| letter.reason).collect();
    for reason in reasons {
        print::line(&format!("{reason}: {}", reason.advice()));
    }
    Ok(ExitCode::SUCCESS)
}

fn row(letter: &DeadLetter) -> Vec<String> {
    let text = String::from_utf8_lossy(&letter.bytes);
    let line = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let record = line.take(EXCERPT_CHARS).collect();
    let file = letter.object.rsplit('/').next().unwrap_or_default().to_owned();
    vec![letter.id(), letter.reason.to_string(), format!("{file}:{}", letter.offset), record]
}

/// What a second look at a dead letter says.
enum SecondLook {
    /// It can be counted by reading this.
    Read(Source),
    /// It is understood now, and not usage.
    NotCounted,
    /// It is as before.
    StillDead(Reason),
}

async fn replay(global: &Global, ids: Vec<String>) -> anyhow::Result<ExitCode> {
    let platform = Platform::open(global, Work::Stores).await?;
    let (balance, resolved, still_dead) =
        super::with_platform(platform, |stores| async move { replay_with(&stores, &ids).await }).await?;
    if global.json {
        let mut answer = serde_json::to_value(&balance)?;
        answer["resolved"] = json!(resolved);
        answer["still_open"] = json!(still_dead.values().sum::<u64>());
        answer["still_open_by_reason"] = json!(still_dead);
        print::json(&answer);
    } else {
        super::replay::report(global, &balance);
        print::line(&format!("{resolved} resolved"));
        for (reason, count) in &still_dead {
            print::line(&format!("{count} still set aside: {reason}"));
        }
    }
    Ok(if balance.balances() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

type StillDead = BTreeMap<String, u64>;

async fn replay_with(stores: &Stores, ids: &[String]) -> anyhow::Result<(crate::replay::Balance, u64, StillDead)> {
    let store = stores.dead_letters();
    let letters = store.list().await?;
    for id in ids {
        let known = letters.iter().any(|letter| letter.id() == *id && letter.resolved_at.is_none());
        anyhow::ensure!(known, "there is no open dead letter {id}; see securebase dead-letters list");
    }
    let is_meant = |letter: &DeadLetter| ids.is_empty() || ids.contains(&letter.id());
    let mut sources = Vec::new();
    let mut resolved = Vec::new();
    let mut still_dead = StillDead::new();
    let mut objects = BTreeSet::<PathBuf>::new();
    for letter in letters.iter().filter(|letter| letter.resolved_at.is_none() && is_meant(letter)) {
        match second_look(letter)? {
            SecondLook::StillDead(reason) => *still_dead.entry(reason.to_string()).or_default() += 1,
            SecondLook::NotCounted => resolved.push(letter.id()),
            SecondLook::Read(source) => {
                resolved.push(letter.id());
                // Several pieces of one object need it read once.
                match source {
                    Source::File(path) if !objects.insert(path.clone()) => {}
                    source => sources.push(source),
                }
            }
        }
    }
    let balance = Replay { stores, resume: false }.run(sources).await?;
    // Only now: a kill in between leaves them open, and another replay counts nothing twice.
    for id in &resolved {
        store.resolve(id, edge::now()).await?;
    }
    Ok((balance, resolved.len() as u64, still_dead))
}

fn second_look(letter: &DeadLetter) -> anyhow::Result<SecondLook> {
    if matches!(letter.reason, Reason::SliceMalformed | Reason::PartitionUntrusted) {
        return Ok(match stream_format::decode(&letter.bytes) {
            Ok(slices) => SecondLook::Read(Source::Slices { name: letter.object.clone(), slices }),
            Err(_) => SecondLook::StillDead(letter.reason),
        });
    }
    if !letter.is_whole {
        return look_at_object(letter);
    }
    let account = cloudtrail::account_in_object_name(&letter.object);
    Ok(match cloudtrail::judge(&letter.bytes, account, edge::now()) {
        Verdict::DeadLetter(reason) => SecondLook::StillDead(reason),
        Verdict::NotCounted(_) => SecondLook::NotCounted,
        Verdict::Usage(_) => {
            // As the only element of an array: a record alone may be read as lines.
            let bytes = [b"[", letter.bytes.as_slice(), b"]"].concat();
            SecondLook::Read(Source::Kept { name: letter.object.clone(), bytes })
        }
    })
}

/// A piece that was not kept whole is put right when its object, read again, no longer has it.
fn look_at_object(letter: &DeadLetter) -> anyhow::Result<SecondLook> {
    let path = Path::new(&letter.object);
    let Ok(file) = File::open(path) else { return Ok(SecondLook::StillDead(letter.reason)) };
    let mut found_again = false;
    let id = letter.id();
    read_object(&letter.object, file, edge::now(), |judged: Judged<'_>| {
        if let Verdict::DeadLetter(reason) = judged.verdict {
            let again = DeadLetter { reason, bytes: judged.bytes.to_vec(), offset: judged.offset, ..letter.clone() };
            found_again |= again.id() == id;
        }
        Ok::<_, Infallible>(())
    })?;
    Ok(if found_again { SecondLook::StillDead(letter.reason) } else { SecondLook::Read(Source::File(path.to_owned())) })
}
