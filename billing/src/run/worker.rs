//! Workers: each takes claims one after the other and bills them, until nobody waits.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;
use ingest::Timestamp;
use sqlx::{Connection as _, PgConnection, PgPool};
use tokio::task::JoinSet;

use super::agreement::Catalog;
use super::bill::{Billing, Plan, Written};
use super::interruption::{Interruptions, Point, pass};
use super::report::{CustomerResult, Outcome};
use super::{ACTOR, BillingError, RunError, RunRequest, claims};
use aggregator::directory::CustomerId;

/// Tries of one customer whose connection breaks, before it counts as failed: it may be what breaks it.
const TRIES_MAX: u32 = 3;

/// Bills whoever waits, with as many workers as asked for. A worker whose connection cannot be had again ends the others' work
/// no earlier than they end it themselves; then the error is returned, and whoever is left waits for the next call.
pub(super) async fn work(
    pool: &PgPool,
    request: &RunRequest,
    run_id: i64,
    catalog: Arc<Catalog>,
    now: Timestamp,
    interruptions: Arc<dyn Interruptions>,
) -> Result<(), RunError> {
    let mut workers = JoinSet::new();
    for _ in 0..request.workers.max(1) {
        let worker = Worker {
            pool: pool.clone(),
            request: request.clone(),
            run_id,
            catalog: Arc::clone(&catalog),
            now,
            interruptions: Arc::clone(&interruptions),
        };
        workers.spawn(worker.run());
    }
    let mut outcome = Ok(());
    while let Some(ended) = workers.join_next().await {
        let ended = ended.unwrap_or(Err(RunError::Panicked));
        if outcome.is_ok() {
            outcome = ended;
        }
    }
    outcome
}

struct Worker {
    pool: PgPool,
    request: RunRequest,
    run_id: i64,
    catalog: Arc<Catalog>,
    now: Timestamp,
    interruptions: Arc<dyn Interruptions>,
}

/// What became of one claim.
enum Claim {
    /// The customer is done.
    Done(String),
    /// Nobody waits.
    None,
}

/// A claim was rolled back by a broken connection.
struct Broken {
    customer: Option<String>,
    error: sqlx::Error,
}

impl Worker {
    async fn run(self) -> Result<(), RunError> {
        let mut connection = self.pool.acquire().await?;
        let mut tries = BTreeMap::<String, u32>::new();
        let mut idle_tries = 0;
        let mut after = Some(String::new());
        loop {
            match self.claim(&mut connection, after.as_deref()).await {
                Ok(Claim::Done(customer)) => {
                    idle_tries = 0;
                    after = after.map(|_| customer);
                }
                // Whoever was passed over is being billed by another worker, or was let go by one that died: from here on
                // the others are waited for, so that who comes back from a run comes back from all of it.
                Ok(Claim::None) if after.is_some() => after = None,
                Ok(Claim::None) => return Ok(()),
                Err(Broken { customer, error }) => {
                    tracing::warn!(customer, %error, "a worker's connection broke; the customer is tried again");
                    // Not back into the pool: the next one is a new one.
                    drop(connection.detach());
                    let tried = customer
                        .as_ref()
                        .map_or(&mut idle_tries, |customer| tries.entry(customer.clone()).or_default());
                    *tried += 1;
                    let is_given_up = TRIES_MAX <= *tried;
                    connection = match self.pool.acquire().await {
                        Ok(connection) if !is_given_up || customer.is_some() => connection,
                        Ok(_) => return Err(error.into()),
                        Err(error) => return Err(error.into()),
                    };
                    if let (true, Some(customer)) = (is_given_up, customer) {
                        self.give_up(&mut connection, &customer, &error).await?;
                    }
                    after = Some(String::new());
                }
            }
        }
    }

    /// Takes the next claim and bills it, in one transaction. Without `after`, one that another worker holds is waited for.
    async fn claim(&self, connection: &mut PgConnection, after: Option<&str>) -> Result<Claim, Broken> {
        let unclaimed = |error| Broken { customer: None, error };
        let mut transaction = connection.begin().await.map_err(unclaimed)?;
        let taken = match after {
            Some(after) => claims::take(&mut transaction, self.run_id, after).await,
            None => claims::take_over(&mut transaction, self.run_id).await,
        };
        let taken = taken.map_err(unclaimed)?;
        let Some(customer) = taken else { return Ok(Claim::None) };
        let broken = |error| Broken { customer: Some(customer.clone()), error };
        claims::commit_without_waiting(&mut transaction).await.map_err(broken)?;

        // A panic of one customer is a failure of that customer.
        let billed = AssertUnwindSafe(self.bill(&mut transaction, &customer)).catch_unwind().await;
        let failed = match billed {
            Ok(Ok(())) => None,
            Ok(Err(error)) => match error.into_passing() {
                Ok(error) => return Err(broken(error)),
                Err(error) => Some(error.to_string()),
            },
            Err(_) => Some("billing panicked, which is a bug; the log has more".to_owned()),
        };
        if let Some(reason) = failed {
            // The savepoint is gone with what was written; the claim is still ours.
            tracing::error!(customer, period = %self.request.period, reason, "invoice failed");
            let result = self.result(&customer, Outcome::Failed { reason });
            claims::finish(&mut transaction, self.run_id, &customer, &result, self.now).await.map_err(broken)?;
        }
        transaction.commit().await.map_err(broken)?;
        pass(connection, &*self.interruptions, &customer, Point::Committed).await.map_err(broken)?;
        Ok(Claim::Done(customer))
    }

    /// Bills one customer between savepoints, and marks its claim before the numbers are taken.
    async fn bill(&self, connection: &mut PgConnection, customer: &str) -> Result<(), BillingError> {
        let mut savepoint = connection.begin().await?;
        let billing = Billing {
            period: self.request.period,
            seller: &self.request.seller,
            grace_hours: self.request.grace_hours,
            discarded: self.request.discarded,
            actor: ACTOR,
            catalog: &self.catalog,
            now: self.now,
            interruptions: &*self.interruptions,
        };
        let mut written = billing.write(&mut savepoint, customer, Plan::Bill).await?;
        let result = self.result_of(customer, &written);
        claims::finish(&mut savepoint, self.run_id, customer, &result, self.now).await?;
        pass(&mut savepoint, &*self.interruptions, customer, Point::Done).await?;
        billing.number(&mut savepoint, customer, &mut written).await?;
        savepoint.commit().await?;
        log(customer, &self.request, &written.outcome);
        Ok(())
    }

    /// Marks a customer failed whose connection broke again and again.
    async fn give_up(
        &self,
        connection: &mut PgConnection,
        customer: &str,
        error: &sqlx::Error,
    ) -> Result<(), RunError> {
        let reason = format!("the connection broke {TRIES_MAX} times while this customer was billed: {error}");
        tracing::error!(customer, period = %self.request.period, reason, "invoice failed");
        let result = self.result(customer, Outcome::Failed { reason });
        claims::finish(connection, self.run_id, customer, &result, self.now).await?;
        Ok(())
    }

    fn result_of(&self, customer: &str, written: &Written) -> CustomerResult {
        CustomerResult {
            credit_notes: i32::try_from(written.notes.len()).unwrap_or(i32::MAX),
            credited_minor: written.notes.iter().map(|note| note.total.minor()).sum(),
            ..self.result(customer, written.outcome.clone())
        }
    }

    fn result(&self, customer: &str, outcome: Outcome) -> CustomerResult {
        let customer = CustomerId::parse(customer).expect("claims refer to customers, whose ids the table checks");
        CustomerResult { customer, outcome, credit_notes: 0, credited_minor: 0 }
    }
}

fn log(customer: &str, request: &RunRequest, outcome: &Outcome) {
    let period = request.period;
    match outcome {
        Outcome::Issued(invoice) => {
            tracing::info!(customer, %period, number = invoice.number, total = %invoice.total, "invoice issued");
        }
        Outcome::Unproven { reason, .. } => {
            tracing::error!(alarm = "unproven period", customer, %period, reason, "invoice stays a draft");
        }
        _ => {}
    }
}
