//! `securebase dead-letters export`.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ingest::dead_letter::{DeadLetter, DeadLetterHead};
use serde_json::{Value, json};

use crate::cli::{self, Global};
use crate::platform::{Platform, Work};
use crate::print;
use crate::stores::Stores;

pub(super) async fn run(global: &Global, arguments: cli::DeadLettersExport) -> anyhow::Result<ExitCode> {
    let platform = Platform::open(global, Work::Stores).await?;
    let out = arguments.out.clone();
    let exported = super::super::with_platform(platform, |stores| async move {
        let mut out = open(out.as_deref())?;
        export(&stores, &arguments, &mut out).await
    })
    .await?;
    print::note(&format!("securebase: {exported} dead letters written"));
    Ok(ExitCode::SUCCESS)
}

fn open(path: Option<&Path>) -> anyhow::Result<Box<dyn Write + Send>> {
    Ok(match path {
        None => Box::new(io::stdout()),
        Some(path) => {
            let file = File::create(path).with_context(|| format!("--out {}", path.display()))?;
            Box::new(BufWriter::new(file))
        }
    })
}

/// Writes one line a letter, each loaded on its own.
async fn export(
    stores: &Stores,
    arguments: &cli::DeadLettersExport,
    out: &mut (dyn Write + Send),
) -> anyhow::Result<usize> {
    let store = stores.dead_letters();
    let heads = store.heads().await?;
    for id in &arguments.ids {
        anyhow::ensure!(heads.iter().any(|head| head.id == *id), "there is no dead letter {id}");
    }
    let is_wanted = |head: &&DeadLetterHead| {
        if arguments.ids.is_empty() { arguments.all || head.is_open() } else { arguments.ids.contains(&head.id) }
    };
    let mut exported = 0;
    for head in heads.iter().filter(is_wanted) {
        let Some(letter) = store.load(&head.id).await? else { continue };
        serde_json::to_writer(&mut *out, &as_json(head, &letter))?;
        out.write_all(b"\n")?;
        exported += 1;
    }
    out.flush()?;
    Ok(exported)
}

fn as_json(head: &DeadLetterHead, letter: &DeadLetter) -> Value {
    let accounts = head.scope.accounts.as_ref();
    json!({
        "id": head.id,
        "reason": head.reason.as_str(),
        "object": head.object,
        "offset": head.offset,
        "is_whole": head.is_whole,
        "seen_at": head.seen_at.to_string(),
        "resolved_at": head.resolved_at.map(|at| at.to_string()),
        "dismissed_by": head.dismissed.as_ref().map(|dismissal| &dismissal.by),
        "dismissed_because": head.dismissed.as_ref().map(|dismissal| &dismissal.because),
        "accounts": accounts.map(|accounts| accounts.iter().map(|account| account.as_str()).collect::<Vec<_>>()),
        "first_at": head.scope.times.map(|(first, _)| first.to_string()),
        "last_at": head.scope.times.map(|(_, last)| last.to_string()),
        // The bytes as they are; a record that cannot be read need not be text.
        "record": STANDARD.encode(&letter.bytes),
    })
}
