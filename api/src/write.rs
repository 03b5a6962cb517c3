//! A write of a customer: one transaction with its tenant, its idempotency key, its work, its audit event and its answer.

use std::ops::{Deref, DerefMut};

use aggregator::directory::CustomerId;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use ingest::Timestamp;
use serde::Serialize;
use sqlx::PgConnection;

use crate::idempotency::{Before, Repeatable};
use crate::problem::Problem;
use crate::state::ApiState;
use crate::tenant::TenantTransaction;

/// A write that has begun. Dropped, it has not happened.
#[derive(Debug)]
pub(crate) struct Write {
    transaction: TenantTransaction,
    customer: CustomerId,
    repeatable: Option<Repeatable>,
}

/// What came of beginning.
#[derive(Debug)]
pub(crate) enum Begun {
    /// The work is to be done.
    New(Write),
    /// It was done before; this was the answer.
    Done(Response),
}

impl Write {
    pub(crate) async fn begin(
        state: &ApiState,
        customer: &CustomerId,
        repeatable: Option<Repeatable>,
        now: Timestamp,
    ) -> Result<Begun, Problem> {
        let mut transaction = TenantTransaction::begin_writing(&state.pool, &state.mac_key, customer).await?;
        if let Some(repeatable) = &repeatable {
            if let Before::Done(status, body) = repeatable.begin(&mut transaction, Some(customer), now).await? {
                transaction.end().await?;
                return Ok(Begun::Done(json(status, body)));
            }
        }
        Ok(Begun::New(Self { transaction, customer: customer.clone(), repeatable }))
    }

    /// Commits the work with what of its answer may be repeated, and answers.
    pub(crate) async fn finish(
        mut self,
        status: StatusCode,
        answer: &impl Serialize,
        repeated: &impl Serialize,
    ) -> Result<Response, Problem> {
        if let Some(repeatable) = &self.repeatable {
            let kept = text(repeated);
            repeatable.keep(&mut self.transaction, Some(&self.customer), status, &kept).await?;
        }
        self.transaction.end().await?;
        Ok(json(status, text(answer)))
    }
}

impl Deref for Write {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.transaction
    }
}

impl DerefMut for Write {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }
}

fn text(answer: &impl Serialize) -> String {
    serde_json::to_string(answer).expect("an answer is made of maps with text keys")
}

fn json(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
