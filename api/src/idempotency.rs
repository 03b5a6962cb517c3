//! Writes that may be sent again: `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header).
//!
//! The key, the work and the answer are one transaction. Two requests of one key at once: the second waits for the first,
//! and then finds its answer, or does the work when the first failed. Only answers of work that was done are kept.

use aggregator::directory::CustomerId;
use axum::http::{HeaderMap, StatusCode};
use chrono::{DateTime, Utc};
use ingest::Timestamp;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use crate::problem::Problem;
use crate::tenant::TenantError;

/// How long an answer is kept.
pub const ANSWERS_KEPT_SECS: i64 = 24 * 3_600;

const KEY_BYTES_MAX: usize = 255;

pub(crate) const FORGET: &str =
    "delete from idempotent_answers where customer_id is not distinct from $1 and created_at < $2";
pub(crate) const BEGIN: &str = "insert into idempotent_answers (customer_id, idempotency_key, request_sha256, created_at) \
     values ($1, $2, $3, $4) on conflict (owner, idempotency_key) do nothing";
pub(crate) const FIND: &str = "select request_sha256, status, body from idempotent_answers \
     where customer_id is not distinct from $1 and idempotency_key = $2";
pub(crate) const KEEP: &str = "update idempotent_answers set status = $3, body = $4 \
     where customer_id is not distinct from $1 and idempotency_key = $2";

/// A write that its caller may send again.
#[derive(Clone, Debug)]
pub(crate) struct Repeatable {
    key: String,
    request_sha256: [u8; 32],
}

/// What is known of a write before it is done.
#[derive(Debug)]
pub(crate) enum Before {
    /// Nothing: do it.
    New,
    /// It was done; this was the answer.
    Done(StatusCode, String),
}

impl Repeatable {
    /// Reads the header; `None` without one.
    pub(crate) fn read(headers: &HeaderMap, method: &str, path: &str, body: &[u8]) -> Result<Option<Self>, Problem> {
        let mut given = headers.get_all("idempotency-key").iter();
        let Some(value) = given.next() else { return Ok(None) };
        let text = value.to_str().unwrap_or_default().trim();
        if given.next().is_some() || text.is_empty() || text.len() > KEY_BYTES_MAX {
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "invalid-idempotency-key",
                "The header Idempotency-Key is wrong",
                format!("send one `Idempotency-Key` of 1 to {KEY_BYTES_MAX} visible ASCII characters, such as a UUID"),
            ));
        }
        let mut hash = Sha256::new();
        for part in [method.as_bytes(), path.as_bytes(), body] {
            hash.update(u64::try_from(part.len()).expect("a length fits 64 bits").to_be_bytes());
            hash.update(part);
        }
        Ok(Some(Self { key: text.to_owned(), request_sha256: hash.finalize().into() }))
    }

    /// Takes the key for this transaction, or finds the answer that was given.
    pub(crate) async fn begin(
        &self,
        connection: &mut PgConnection,
        customer: Option<&CustomerId>,
        now: Timestamp,
    ) -> Result<Before, Problem> {
        let owner = customer.map(CustomerId::as_str);
        let forgotten_before = DateTime::<Utc>::from(now.saturating_add_secs(-ANSWERS_KEPT_SECS));
        let forget = sqlx::query(FORGET).bind(owner).bind(forgotten_before).persistent(false);
        forget.execute(&mut *connection).await.map_err(TenantError::from)?;
        let begun = sqlx::query(BEGIN)
            .bind(owner)
            .bind(&self.key)
            .bind(self.request_sha256.as_slice())
            .bind(DateTime::<Utc>::from(now))
            .persistent(false)
            .execute(&mut *connection)
            .await
            .map_err(TenantError::from)?;
        if begun.rows_affected() == 1 {
            return Ok(Before::New);
        }
        let (request, status, body): (Vec<u8>, Option<i32>, Option<String>) = sqlx::query_as(FIND)
            .bind(owner)
            .bind(&self.key)
            .persistent(false)
            .fetch_one(connection)
            .await
            .map_err(TenantError::from)?;
        if request != self.request_sha256 {
            return Err(Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency-key-reused",
                "The idempotency key belongs to another request",
                "this `Idempotency-Key` came with another method, path or body before; use a new key for a new request",
            ));
        }
        let status = status.and_then(|status| u16::try_from(status).ok()).and_then(|s| StatusCode::from_u16(s).ok());
        match (status, body) {
            (Some(status), Some(body)) => Ok(Before::Done(status, body)),
            // Whoever took the key committed without an answer, which no code of ours does.
            _ => Err(Problem::internal()),
        }
    }

    /// Keeps the answer, to commit with the work.
    pub(crate) async fn keep(
        &self,
        connection: &mut PgConnection,
        customer: Option<&CustomerId>,
        status: StatusCode,
        body: &str,
    ) -> Result<(), Problem> {
        sqlx::query(KEEP)
            .bind(customer.map(CustomerId::as_str))
            .bind(&self.key)
            .bind(i32::from(status.as_u16()))
            .bind(body)
            .persistent(false)
            .execute(connection)
            .await
            .map_err(TenantError::from)?;
        Ok(())
    }
}
