//! `securebase dead-letters`.

mod dismiss;
mod export;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ingest::dead_letter::{DeadLetter, DeadLetterHead};
use ingest::notice::NamedObject;
use ingest::object_store::OpenError;
use ingest::{Beside, Judged, Reason, RunId, SliceId, Verdict, read_object, stream_format};
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::runtime::Handle;

use crate::cli::{self, Global};
use crate::platform::{Platform, Work};
use crate::reading::Reading;
use crate::replay::{Balance, Replay, Source};
use crate::stores::Stores;
use crate::{declared, edge, print};

/// Bytes of dead letters that are counted together.
const TOGETHER_BYTES_MAX: usize = 32 << 20;
/// Characters of a record shown in a list.
const EXCERPT_CHARS: usize = 80;

pub(super) async fn run(global: &Global, command: cli::DeadLetters) -> anyhow::Result<ExitCode> {
    match command {
        cli::DeadLetters::List { all } => list(global, all).await,
        cli::DeadLetters::Export(arguments) => export::run(global, arguments).await,
        cli::DeadLetters::Dismiss(arguments) => dismiss::run(global, arguments).await,
        cli::DeadLetters::Replay { ids, objects } => replay(global, ids, objects).await,
    }
}

async fn list(global: &Global, all: bool) -> anyhow::Result<ExitCode> {
    let platform = Platform::open(global, Work::Stores).await?;
    let mut letters =
        super::with_platform(platform, |stores| async move { Ok(stores.dead_letters().heads().await?) }).await?;
    letters.retain(|letter| all || letter.resolved_at.is_none());
    if global.json {
        let letters = letters.iter().map(|letter| {
            json!({
                "id": letter.id,
                "reason": letter.reason.as_str(),
                "advice": letter.reason.advice(),
                "object": letter.object,
                "offset": letter.offset,
                "number": letter.number,
                "record": String::from_utf8_lossy(&letter.excerpt),
                "length": letter.length,
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

fn row(letter: &DeadLetterHead) -> Vec<String> {
    let text = String::from_utf8_lossy(&letter.excerpt);
    let line = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let record = line.take(EXCERPT_CHARS).collect();
    let file = letter.object.rsplit('/').next().unwrap_or_default().to_owned();
    vec![letter.id.clone(), letter.reason.to_string(), format!("{file}:{}", letter.offset), record]
}

/// What a second look at a dead letter says.
enum SecondLook {
    /// Reading this again puts it right.
    Read(Source),
    /// It is as before.
    StillDead(Reason),
}

async fn replay(global: &Global, ids: Vec<String>, objects: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let declared = declared::load(global)?;
    let platform = Platform::open(global, Work::Stores).await?;
    let (balance, resolved, still_dead) = super::with_platform(platform, |stores| async move {
        let reading = Reading::new(&stores, declared, objects).await?;
        replay_with(&stores, &ids, reading).await
    })
    .await?;
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

pub(super) type StillDead = BTreeMap<String, u64>;

/// Reads open letters again: what became of their records, how many letters are put right, and how many are as before.
pub(super) async fn replay_with(
    stores: &Stores,
    ids: &[String],
    reading: Reading,
) -> anyhow::Result<(Balance, u64, StillDead)> {
    let store = stores.dead_letters();
    let mut open = store.heads().await?;
    open.retain(|letter| letter.resolved_at.is_none());
    for id in ids {
        let is_open = open.iter().any(|letter| letter.id == *id);
        anyhow::ensure!(is_open, "there is no open dead letter {id}; see securebase dead-letters list");
    }
    let mut again = Again::new(reading);
    for head in open.iter().filter(|letter| ids.is_empty() || ids.contains(&letter.id)) {
        // Gone or resolved by another replay in between: nothing is left to do.
        let Some(letter) = store.load(&head.id).await? else { continue };
        again.look_at(&head.id, letter).await?;
        if TOGETHER_BYTES_MAX < again.bytes {
            again.count(stores).await?;
        }
    }
    again.count(stores).await?;
    Ok((again.balance, again.resolved, again.still_dead))
}

/// Dead letters looked at again, some of them waiting to be counted together.
struct Again {
    reading: Reading,
    sources: Vec<Source>,
    bytes: usize,
    /// The letters that are put right once the sources are counted: their ids, and what they were set aside by.
    waiting: Vec<(String, String)>,
    /// Objects that are read again; several pieces of one need it read once.
    objects: BTreeSet<PathBuf>,
    balance: Balance,
    resolved: u64,
    still_dead: StillDead,
}

impl Again {
    fn new(reading: Reading) -> Self {
        Self {
            reading,
            sources: Vec::new(),
            bytes: 0,
            waiting: Vec::new(),
            objects: BTreeSet::new(),
            balance: Balance::default(),
            resolved: 0,
            still_dead: StillDead::new(),
        }
    }

    async fn look_at(&mut self, id: &str, letter: DeadLetter) -> anyhow::Result<()> {
        let (reading, length, name) = (self.reading.clone(), letter.bytes.len(), letter.object.clone());
        let runtime = Handle::current();
        // Reading blocks, most of all where objects are fetched.
        let look = tokio::task::spawn_blocking(move || second_look(&letter, &reading, &runtime)).await??;
        match look {
            SecondLook::StillDead(reason) => {
                *self.still_dead.entry(reason.to_string()).or_default() += 1;
                return Ok(());
            }
            SecondLook::Read(Source::File(path)) => {
                if self.objects.insert(path.clone()) {
                    self.sources.push(Source::File(path));
                }
            }
            SecondLook::Read(source) => {
                self.bytes += length;
                self.sources.push(source);
            }
        }
        self.waiting.push((id.to_owned(), name));
        Ok(())
    }

    async fn count(&mut self, stores: &Stores) -> anyhow::Result<()> {
        self.bytes = 0;
        let sources = std::mem::take(&mut self.sources);
        let balance = Replay { stores, resume: false, reading: self.reading.clone() }.run(sources).await?;
        let sent_again = balance.sent_again.clone();
        let again = set_aside_again(stores, &sent_again).await?;
        self.balance.add(balance);
        // Only now: a kill in between leaves them open, and another replay counts nothing twice.
        for (id, name) in self.waiting.drain(..) {
            let Some(copies) = again.get(name.as_str()) else {
                stores.dead_letters().resolve(&id, edge::now()).await?;
                self.resolved += 1;
                continue;
            };
            // The letter that was there stays open, and stands for what was sent again.
            for copy in copies {
                stores.dead_letters().resolve(&copy.id, edge::now()).await?;
            }
            *self.still_dead.entry(Reason::PartitionUntrusted.to_string()).or_default() += 1;
        }
        Ok(())
    }
}

/// The open letters of slices that were sent again under these runs and set aside again, by the name they were first set
/// aside by: their log can still not be trusted.
async fn set_aside_again<'a>(
    stores: &Stores,
    sent_again: &'a [(String, RunId)],
) -> anyhow::Result<BTreeMap<&'a str, Vec<DeadLetterHead>>> {
    let mut again = BTreeMap::<_, Vec<DeadLetterHead>>::new();
    if sent_again.is_empty() {
        return Ok(again);
    }
    let names: BTreeMap<RunId, &str> = sent_again.iter().map(|(name, run)| (*run, name.as_str())).collect();
    for head in stores.dead_letters().heads().await? {
        let name = SliceId::of_letter_name(&head.object).and_then(|slice| names.get(&slice.run));
        if let Some(name) = name.filter(|_| head.is_open()) {
            again.entry(*name).or_default().push(head);
        }
    }
    Ok(again)
}

fn second_look(letter: &DeadLetter, reading: &Reading, runtime: &Handle) -> anyhow::Result<SecondLook> {
    if matches!(letter.reason, Reason::SliceMalformed | Reason::PartitionUntrusted) {
        return Ok(match stream_format::decode(&letter.bytes) {
            Ok(slices) => SecondLook::Read(Source::Slices { name: letter.object.clone(), slices }),
            Err(_) => SecondLook::StillDead(letter.reason),
        });
    }
    if !letter.is_whole {
        return look_at_object(letter, reading, runtime);
    }
    if serde_json::from_slice::<IgnoredAny>(&letter.bytes).is_err() {
        return Ok(SecondLook::StillDead(letter.reason));
    }
    // As the only element of an array: a record alone may be read as lines.
    let bytes = [b"[", letter.bytes.as_slice(), b"]"].concat();
    // Looked at again it is no nearer to its object, so only its bytes can tell whether it is the same.
    let found = found_again(letter, bytes.as_slice(), reading, runtime, |found, _, _| found == letter.bytes)?;
    Ok(match found {
        Some(reason) => SecondLook::StillDead(reason),
        None => SecondLook::Read(Source::Kept { name: letter.object.clone(), bytes }),
    })
}

/// A piece that was not kept whole is put right when its object, read again, no longer has it.
fn look_at_object(letter: &DeadLetter, reading: &Reading, runtime: &Handle) -> anyhow::Result<SecondLook> {
    let id = letter.id();
    let is_same = |found: &[u8], offset, number| {
        DeadLetter { bytes: found.to_vec(), offset, number, ..letter.clone() }.id() == id
    };
    let (found, source) = match NamedObject::of_name(&letter.object) {
        Some(object) => {
            let opened = match reading.open(runtime, &object) {
                Ok(opened) => opened,
                Err(error) => return still_closed(letter, error),
            };
            (found_again(letter, opened.body, reading, runtime, is_same)?, Source::Named(object))
        }
        None => {
            let path = Path::new(&letter.object);
            let Ok(file) = File::open(path) else { return Ok(SecondLook::StillDead(letter.reason)) };
            (found_again(letter, file, reading, runtime, is_same)?, Source::File(path.to_owned()))
        }
    };
    Ok(match found {
        Some(reason) => SecondLook::StillDead(reason),
        None => SecondLook::Read(source),
    })
}

/// An object that cannot be opened leaves its dead letter as it is; a store that fails stops the command.
fn still_closed(letter: &DeadLetter, error: OpenError) -> anyhow::Result<SecondLook> {
    match error.reason() {
        Some(_) => Ok(SecondLook::StillDead(letter.reason)),
        None => Err(error.into()),
    }
}

/// Reads content as the letter's object would be read now: the reason why a record that `is_same` is a dead letter again, for
/// all of it or for a part beside its verdict.
fn found_again(
    letter: &DeadLetter,
    content: impl io::Read,
    reading: &Reading,
    runtime: &Handle,
    is_same: impl Fn(&[u8], u64, u32) -> bool,
) -> anyhow::Result<Option<Reason>> {
    let mut again = None;
    let mut failure = None;
    let read = read_object(&letter.object, content, reading.rules(edge::now()), |judged: Judged<'_>| {
        let beside = judged.beside.iter().find_map(|beside| match beside {
            Beside::DeadLetter(reason) => Some(*reason),
            Beside::Object(object) => match reading.open(runtime, object) {
                Ok(_) => None,
                Err(error) => {
                    let reason = error.reason();
                    failure = failure.take().or(reason.is_none().then_some(error));
                    reason
                }
            },
            Beside::Usage(_) | Beside::Fact(_) | Beside::Digest(_) => None,
        });
        let reason = match judged.verdict {
            Verdict::DeadLetter(reason) => Some(reason),
            Verdict::Usage(_) | Verdict::Facts(_) | Verdict::NotCounted(_) => beside,
        };
        if reason.is_some() && is_same(judged.bytes, judged.offset, judged.number) {
            again = reason;
        }
        Ok::<_, Infallible>(())
    });
    read?;
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(again),
    }
}
