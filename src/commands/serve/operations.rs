//! What operators ask for over HTTP, carried out with the stores of `serve`, by the functions that the commands call.
//!
//! Each may be called again after a crash: a cut that was made stands, an invoice that was issued is found, and a dead letter that
//! was put right is.

use std::sync::Arc;

use aggregator::close::{Blocker, CloseError, CustomerClose, Outcome, Period, Request};
use aggregator::directory::CustomerId;
use api::{Operation, OperationFailure, OperationQueue, OperationTask, OperationWorker};
use billing::{Customers, Month, RunError, RunRequest, issue};
use ingest::Declarations;
use serde_json::{Map, Value, json};
use tokio::task::JoinHandle;

use crate::edge;
use crate::reading::Reading;
use crate::stores::{Role, Stores};

/// Of each customer: so many things that are missing, and so many gaps, are named; others are counted. The command line names all.
const NAMED_MAX: usize = 100;
/// One holds the turn, one says that an operation is under way.
const CONNECTIONS: u32 = 2;

type Carried = Result<Value, OperationFailure>;

/// Carries out what this queue's server, or another one of the deployment, is asked for, until the task is aborted.
pub(super) fn start(
    stores: &Stores,
    declared: Arc<Declarations>,
    queue: OperationQueue,
) -> anyhow::Result<JoinHandle<()>> {
    let worker = OperationWorker::new(stores.database.pool_of(Role::Operator, CONNECTIONS)?, queue);
    let stores = stores.clone();
    Ok(tokio::spawn(worker.run(move |task| carry_out(stores.clone(), declared.clone(), task))))
}

async fn carry_out(stores: Stores, declared: Arc<Declarations>, task: OperationTask) -> Carried {
    let OperationTask { operation_id, requested_by, operation } = task;
    tracing::info!(operation_id, "an operation begins");
    match operation {
        Operation::Close { period, customer, override_because } => {
            close(&stores, period, customer, override_because, requested_by).await
        }
        Operation::Run { period, customer, grace_hours, workers } => {
            run(&stores, period, customer, grace_hours, workers).await
        }
        Operation::Replay { dead_letter } => replay(&stores, declared, &dead_letter).await,
    }
}

fn failed(error: &anyhow::Error) -> OperationFailure {
    tracing::error!(error = format!("{error:#}"), "an operation failed");
    OperationFailure::failed(format!("{error:#}"))
}

async fn close(
    stores: &Stores,
    month: Month,
    customer: Option<CustomerId>,
    override_because: Option<String>,
    actor: String,
) -> Carried {
    let period = Period::parse(&month.to_string()).map_err(|error| OperationFailure::refused(error.to_string()))?;
    let customers = customer.map(|customer| vec![customer]);
    let request = Request { period, customers, actor, override_because, is_dry_run: false };
    let closes = super::super::close::close(stores, &request).await.map_err(|error| {
        match error.downcast_ref::<CloseError>() {
            Some(CloseError::NotOver(_) | CloseError::UnknownCustomer(_) | CloseError::NoReason) => {
                OperationFailure::refused(error.to_string())
            }
            _ => failed(&error),
        }
    })?;
    let documents: Vec<Value> = closes.iter().map(close_as_json).collect();
    let refused: Vec<&CustomerClose> = closes.iter().filter(|close| close.outcome == Outcome::Refused).collect();
    let Some(first) = refused.first() else {
        return Ok(json!({ "period": month.to_string(), "closes": documents }));
    };
    let more = match refused.len() - 1 {
        0 => String::new(),
        more => format!("; nor {more} other customers'"),
    };
    let detail = format!(
        "{} of {} cannot be closed, {} things are missing{more}: see `closes`; put them right, or say why to close all the same",
        month,
        first.customer,
        first.blockers.len()
    );
    Err(OperationFailure::refused(detail).with("period", month.to_string().into()).with("closes", documents.into()))
}

fn close_as_json(close: &CustomerClose) -> Value {
    let (outcome, cut, evidence) = match &close.outcome {
        Outcome::Closed { cut, evidence_sha256 } => ("closed", Some(cut), Some(hex::encode(evidence_sha256))),
        Outcome::Unchanged { cut, evidence_sha256 } => ("unchanged", Some(cut), Some(hex::encode(evidence_sha256))),
        Outcome::Refused => ("refused", None, None),
        Outcome::WouldClose => ("would_close", None, None),
    };
    let gaps = close.sources.iter().flat_map(|report| {
        report.accounts.iter().flat_map(move |account| {
            account.lanes.iter().flat_map(move |lane| {
                lane.gaps.iter().map(move |(from, until)| {
                    json!({
                        "meter": report.source.meter.as_str(),
                        "account": account.account.as_str(),
                        "lane": lane.lane,
                        "from": from.to_string(),
                        "until": until.to_string(),
                    })
                })
            })
        })
    });
    json!({
        "customer": close.customer.as_str(),
        "outcome": outcome,
        "cut": cut,
        "evidence_sha256": evidence,
        "source_class": close.class.as_str(),
        "entries_after": close.entries_after,
        "missing": close.blockers.iter().take(NAMED_MAX).map(blocker_as_json).collect::<Vec<_>>(),
        "missing_count": close.blockers.len(),
        "gaps": gaps.take(NAMED_MAX).collect::<Vec<_>>(),
    })
}

/// What is missing: its kind, what it concerns, and a sentence.
fn blocker_as_json(blocker: &Blocker) -> Value {
    let (kind, concerns) = match blocker {
        Blocker::SourceIncomplete { meter, account, waits_for } => (
            "source_incomplete",
            json!({ "meter": meter.as_str(), "account": account.as_str(), "waits_for": waits_for }),
        ),
        Blocker::DeadLetter { id, reason, object } => {
            ("dead_letter", json!({ "dead_letter": id, "reason": reason, "object": object }))
        }
        Blocker::NotCounted { object } => ("not_counted", json!({ "object": object })),
        Blocker::NotRolledUp { log, .. } => ("not_rolled_up", json!({ "log": log.to_string() })),
        Blocker::RowDiffers { total, .. } => (
            "usage_row_differs",
            json!({ "meter": total.meter.as_str(), "account": total.account.as_str(), "hour": total.window.to_string() }),
        ),
        Blocker::MoreRowsDiffer(_) => ("more_usage_rows_differ", json!({})),
        Blocker::Untrusted(_) => ("log_untrusted", json!({})),
    };
    let mut document =
        Map::from_iter([("kind".to_owned(), kind.into()), ("detail".to_owned(), blocker.to_string().into())]);
    if let Value::Object(concerns) = concerns {
        document.extend(concerns);
    }
    document.into()
}

async fn run(
    stores: &Stores,
    period: Month,
    customer: Option<CustomerId>,
    grace_hours: u32,
    workers: usize,
) -> Carried {
    let customers = customer.map_or(Customers::All, |customer| Customers::Only(vec![customer]));
    let seller = super::super::invoice::seller();
    let request = RunRequest { customers, grace_hours, workers, ..RunRequest::new(period, seller) };
    // One a worker, and one that opens and closes the run.
    let connections = u32::try_from(workers).unwrap_or(u32::MAX).saturating_add(1);
    let pool = stores.database.pool_of(Role::Billing, connections).map_err(|error| failed(&error))?;
    let report = issue(&pool, &request, edge::now()).await.map_err(|error| match error {
        RunError::PeriodNotEnded { .. } | RunError::UnknownCustomer(_) | RunError::Catalog(_) => {
            OperationFailure::refused(error.to_string())
        }
        error => failed(&error.into()),
    })?;
    let totals = report.totals().into_iter();
    let said = json!({
        "run": report.run_id,
        "period": period.to_string(),
        "outcomes": report.counts(),
        "issued": report.issued(),
        "failures": report.failures(),
        "totals": totals
            .map(|total| (total.currency().as_str().to_owned(), total.to_decimal_text().into()))
            .collect::<Map<String, Value>>(),
        "credit_notes": report.credit_notes(),
    });
    if report.is_finished {
        return Ok(said);
    }
    Err(OperationFailure::failed("some customers still wait to be billed; ask again, and it goes on")
        .with("report", said))
}

async fn replay(stores: &Stores, declared: Arc<Declarations>, id: &str) -> Carried {
    let heads = stores.dead_letters().heads().await.map_err(|error| failed(&error.into()))?;
    let head = heads.into_iter().find(|head| head.id == id);
    let head = head.ok_or_else(|| OperationFailure::refused("there is no such dead letter"))?;
    if let Some(dismissal) = &head.dismissed {
        return Err(OperationFailure::refused(format!("it was dismissed by {}", dismissal.by)));
    }
    if !head.is_open() {
        // By another replay, or by a try of this one that could not say so.
        return Ok(json!({ "dead_letter": id, "outcome": "resolved" }));
    }
    let replayed = async {
        let reading = Reading::new(stores, declared, None).await?;
        super::super::dead_letters::replay_with(stores, &[id.to_owned()], reading).await
    };
    let (balance, resolved, still_dead) = replayed.await.map_err(|error| failed(&error))?;
    if let Some(reason) = still_dead.keys().next() {
        let refused = OperationFailure::refused(format!("it is still set aside: {reason}: {}", head.reason.advice()));
        return Err(refused.with("dead_letter", id.into()).with("reason", reason.clone().into()));
    }
    Ok(json!({
        "dead_letter": id,
        "outcome": "resolved",
        "resolved": resolved,
        "read": balance.read,
        "counted": balance.counted,
        "duplicates": balance.duplicates,
        "not_counted": balance.not_counted,
        "dead_letters": balance.dead_letters,
    }))
}
