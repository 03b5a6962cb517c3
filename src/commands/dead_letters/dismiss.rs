//! `securebase dead-letters dismiss`.

use std::process::ExitCode;

use ingest::dead_letter::{DeadLetterHead, Dismissal};
use serde_json::json;
use sqlx::PgPool;

use crate::cli::{self, Global};
use crate::platform::{Platform, Work};
use crate::stores::{Role, Stores};
use crate::{edge, print};

const REASON_CHARS_MAX: usize = 2_000;

pub(super) async fn run(global: &Global, arguments: cli::DeadLettersDismiss) -> anyhow::Result<ExitCode> {
    let dismissal = Dismissal { by: arguments.by, because: arguments.reason };
    anyhow::ensure!(
        !dismissal.because.trim().is_empty() && dismissal.because.chars().count() <= REASON_CHARS_MAX,
        "--reason: say why, in at most {REASON_CHARS_MAX} characters"
    );
    let platform = Platform::open(global, Work::Stores).await?;
    let dismissed =
        super::super::with_platform(
            platform,
            |stores| async move { dismiss(&stores, &arguments.ids, &dismissal).await },
        )
        .await?;
    if global.json {
        print::json(&json!({ "dismissed": dismissed }));
    } else {
        print::line(&format!("{dismissed} dismissed"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Dismisses open letters; everything is looked at before the first is.
async fn dismiss(stores: &Stores, ids: &[String], dismissal: &Dismissal) -> anyhow::Result<usize> {
    let letters = stores.dead_letters();
    let heads = letters.heads().await?;
    let mut chosen = Vec::new();
    for id in ids {
        let head = heads.iter().find(|head| head.id == *id && head.is_open());
        let head =
            head.ok_or_else(|| anyhow::anyhow!("there is no open dead letter {id}; see securebase dead-letters list"))?;
        chosen.push(head);
    }
    let pool = stores.database.pool(Role::Operator)?;
    for head in &chosen {
        // Before the letter is marked: a word that nobody recorded must not take usage out of a close.
        record(&pool, head, dismissal).await?;
        letters.dismiss(&head.id, dismissal, edge::now()).await?;
    }
    Ok(chosen.len())
}

async fn record(pool: &PgPool, head: &DeadLetterHead, dismissal: &Dismissal) -> anyhow::Result<()> {
    sqlx::query(AUDIT)
        .bind(&dismissal.by)
        .bind(&head.id)
        .bind(&dismissal.because)
        .bind(head.reason.as_str())
        .bind(&head.object)
        .bind(head.offset.to_string())
        .execute(pool)
        .await?;
    Ok(())
}

const AUDIT: &str = "
    select record_audit_event(null, $1, 'dead_letter.dismissed', $2, jsonb_build_object(
        'because', $3::text, 'reason', $4::text, 'object', $5::text, 'offset', $6::text))";
