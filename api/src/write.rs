//! A write of a customer or an operator: one transaction with its tenant, its idempotency key, its work, its audit event
//! and its answer.

use aggregator::directory::CustomerId;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use ingest::Timestamp;
use serde::Serialize;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};

use crate::idempotency::{Before, Repeatable};
use crate::problem::Problem;
use crate::state::ApiState;
use crate::tenant::{BEGIN_WRITING, TenantError, TenantTransaction};

/// A write that has begun. Dropped, it has not happened.
#[derive(Debug)]
pub(crate) struct Write {
    transaction: Writing,
    repeatable: Option<Repeatable>,
}

/// Whose transaction.
#[derive(Debug)]
enum Writing {
    Tenant(TenantTransaction, CustomerId),
    Operator(Transaction<'static, Postgres>),
}

impl Writing {
    fn customer(&self) -> Option<CustomerId> {
        match self {
            Self::Tenant(_, customer) => Some(customer.clone()),
            Self::Operator(_) => None,
        }
    }

    fn connection(&mut self) -> &mut PgConnection {
        match self {
            Self::Tenant(transaction, _) => transaction,
            Self::Operator(transaction) => transaction,
        }
    }

    async fn end(self) -> Result<(), TenantError> {
        match self {
            Self::Tenant(transaction, _) => transaction.end().await,
            Self::Operator(transaction) => Ok(transaction.commit().await?),
        }
    }
}

/// What came of beginning.
#[derive(Debug)]
pub(crate) enum Begun {
    /// The work is to be done.
    New(Write),
    /// It was done before; this was the answer.
    Done(Repeated),
}

/// The answer that was given before.
#[derive(Debug)]
pub(crate) struct Repeated {
    status: StatusCode,
    pub(crate) body: String,
}

impl IntoResponse for Repeated {
    fn into_response(self) -> Response {
        json(self.status, self.body)
    }
}

impl Write {
    pub(crate) async fn begin(
        state: &ApiState,
        customer: &CustomerId,
        repeatable: Option<Repeatable>,
        now: Timestamp,
    ) -> Result<Begun, Problem> {
        let transaction = TenantTransaction::begin_writing(&state.pool, &state.mac_key, customer).await?;
        Self::begun(Writing::Tenant(transaction, customer.clone()), repeatable, now).await
    }

    /// Begins a write of an operator.
    pub(crate) async fn begin_as_operator(
        pool: &PgPool,
        repeatable: Option<Repeatable>,
        now: Timestamp,
    ) -> Result<Begun, Problem> {
        let transaction = pool.begin_with(BEGIN_WRITING).await.map_err(TenantError::from)?;
        Self::begun(Writing::Operator(transaction), repeatable, now).await
    }

    async fn begun(mut writing: Writing, repeatable: Option<Repeatable>, now: Timestamp) -> Result<Begun, Problem> {
        if let Some(repeatable) = &repeatable {
            let customer = writing.customer();
            if let Before::Done(status, body) = repeatable.begin(writing.connection(), customer.as_ref(), now).await? {
                writing.end().await?;
                return Ok(Begun::Done(Repeated { status, body }));
            }
        }
        Ok(Begun::New(Self { transaction: writing, repeatable }))
    }

    /// The connection, within the transaction.
    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        self.transaction.connection()
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
            let customer = self.transaction.customer();
            repeatable.keep(self.transaction.connection(), customer.as_ref(), status, &kept).await?;
        }
        self.transaction.end().await?;
        Ok(json(status, text(answer)))
    }
}

fn text(answer: &impl Serialize) -> String {
    serde_json::to_string(answer).expect("an answer is made of maps with text keys")
}

fn json(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
