//! Billing by schedules: the monthly run, what each day brings, and mail; and what the mail service says, by SNS.
//!
//! Every task may be asked for again, and two of the same at once share the work or find it done. So a schedule can be as
//! frequent as its task is wanted to be, and a retry of Lambda does no harm.

use std::fmt;
use std::sync::Arc;

use billing::outbox::{
    FeedbackError, MailSettings, Mailer, OutboxError, REMINDERS, ReminderReport, SendReport, record_feedback, remind,
    send_due,
};
use billing::{DocumentError, Month, Party, RenderReport, Renderer, RunError, RunRequest, issue, render_due};
use ingest::Timestamp;
use lambda_runtime::Diagnostic;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use thiserror::Error;

use crate::answer::diagnostic;
use crate::deadline::{Deadline, DeadlineExceeded};
use crate::settings::{DatabaseSettings, Settings, SettingsError};

/// The role of the database that bills.
const ROLE: &str = "securebase_billing";
/// The most messages of one invocation.
const MESSAGES_MAX: u64 = 5_000;

/// The settings of the function.
#[derive(Clone)]
pub struct BillSettings {
    /// PostgreSQL.
    pub database: DatabaseSettings,
    /// Who bills: kept with each invoice.
    pub seller: Party,
    /// Hours after a month in which late usage is waited for.
    pub grace_hours: u32,
    /// How many customers are billed at once.
    pub workers: usize,
    /// How mail leaves; without it none does.
    pub mail: Option<MailSettings>,
    /// The configuration set of SES that publishes bounces and complaints.
    pub configuration_set: Option<String>,
    /// The bytes of one more typeface for documents, for characters that the embedded ones do not have.
    pub typeface: Option<Vec<u8>>,
}

impl fmt::Debug for BillSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BillSettings").field("database", &self.database).finish_non_exhaustive()
    }
}

impl BillSettings {
    /// Reads them.
    pub fn read(read: &dyn Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let mut settings = Settings::new(read);
        let database = settings.database(ROLE);
        let seller = Party {
            name: settings.required("SECUREBASE_SELLER_NAME", "the seller's name stands on every invoice"),
            address: settings.optional("SECUREBASE_SELLER_ADDRESS").unwrap_or_default(),
            tax_id: settings.optional("SECUREBASE_SELLER_TAX_ID").unwrap_or_default(),
        };
        let grace = settings.whole("SECUREBASE_GRACE_HOURS", 0..=720, u64::from(billing::GRACE_HOURS));
        let workers = settings.whole("SECUREBASE_WORKERS", 1..=64, billing::WORKERS as u64);
        let reply_to = settings.optional("SECUREBASE_MAIL_REPLY_TO");
        let mail = settings.optional("SECUREBASE_MAIL_FROM").map(|from| MailSettings::new(&from, reply_to.as_deref()));
        let mail = match mail.transpose() {
            Ok(mail) => mail,
            Err(error) => {
                settings.problem(format!("SECUREBASE_MAIL_FROM or SECUREBASE_MAIL_REPLY_TO: {error}"));
                None
            }
        };
        let configuration_set = settings.optional("SECUREBASE_MAIL_CONFIGURATION_SET");
        let typeface = match settings.optional("SECUREBASE_INVOICE_TYPEFACE").map(|path| (std::fs::read(&path), path)) {
            None => None,
            Some((Ok(bytes), _)) => Some(bytes),
            Some((Err(error), path)) => {
                settings.problem(format!("SECUREBASE_INVOICE_TYPEFACE: {path} cannot be read: {error}"));
                None
            }
        };
        settings.finish(Self {
            database,
            seller,
            grace_hours: u32::try_from(grace).unwrap_or(billing::GRACE_HOURS),
            workers: usize::try_from(workers).unwrap_or(billing::WORKERS),
            mail,
            configuration_set,
            typeface,
        })
    }
}

/// Why an invocation has no answer: Lambda tries it again, and the schedule comes again.
#[derive(Debug, Error)]
pub enum BillError {
    /// Stop: something else invokes the function.
    #[error("neither a task of a schedule nor notifications of SNS: {0}")]
    NotRecognized(String),
    /// Stop: the period is none.
    #[error("{0:?} is no period: expected a month such as 2026-10, that has ended")]
    NotAPeriod(String),
    /// Retry: the next invocation goes on where this one ended.
    #[error(transparent)]
    Deadline(#[from] DeadlineExceeded),
    /// Retry if passing: the run did not begin or did not go on.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Retry if passing: documents cannot be rendered.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// Retry: the outbox cannot be sent.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// Retry or stop, as it says.
    #[error(transparent)]
    Feedback(#[from] FeedbackError),
    /// Retry: the database did not answer, or refused.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// Stop: mail is asked for and there is no address it may come from.
    #[error("SECUREBASE_MAIL_FROM is not set: mail needs an address that SES may send from")]
    NoSender,
}

impl From<BillError> for Diagnostic {
    fn from(error: BillError) -> Self {
        let kind = match &error {
            BillError::NotRecognized(_) | BillError::NotAPeriod(_) => "Delivery.NotRecognized",
            BillError::Feedback(FeedbackError::NotAnEvent(_)) => "Delivery.NotRecognized",
            BillError::Deadline(_) => "Deadline.Exceeded",
            BillError::NoSender => "Runtime.SettingsInvalid",
            _ => "Store.Failed",
        };
        diagnostic(kind, &error)
    }
}

/// What a schedule asks for.
#[derive(Debug, Deserialize)]
#[serde(tag = "task", rename_all = "snake_case", deny_unknown_fields)]
enum Task {
    /// The invoices of a month; of the last one that has ended without.
    Run { period: Option<String> },
    /// What customers are to be told today.
    Remind {},
    /// Documents and mail.
    Send {},
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Notifications {
    records: Vec<NotificationRecord>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NotificationRecord {
    sns: SnsMessage,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SnsMessage {
    message: String,
}

/// The answer to an invocation, for the log and for whoever invokes by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum BillAnswer {
    /// To a run.
    Run {
        /// The month.
        period: String,
        /// How many customers had each outcome.
        counts: std::collections::BTreeMap<&'static str, usize>,
        /// The totals of the issued invoices, by currency.
        totals: std::collections::BTreeMap<String, String>,
        /// Credit notes for late usage.
        credit_notes: i64,
        /// Why customers failed or stay unproven; the log has all, this the first ten.
        troubles: Vec<String>,
    },
    /// To a day.
    Reminded {
        /// Invoices due soon.
        reminders: u64,
        /// Notices of overdue invoices.
        overdue: u64,
        /// Limits that are near.
        thresholds: u64,
    },
    /// To mail.
    Sent {
        /// Documents rendered.
        rendered: u64,
        /// Documents that cannot be rendered; the log says which and why.
        not_rendered: u64,
        /// Messages taken.
        sent: u64,
        /// Messages to be tried again.
        retried: u64,
        /// Messages given up.
        failed: u64,
        /// Messages that wait for a document or an address.
        waiting: u64,
    },
    /// To notifications of SNS.
    Recorded {
        /// Events looked at.
        events: usize,
    },
}

/// How many troubles an answer names.
const TROUBLES_NAMED: usize = 10;

/// What billing works with, built once in each execution environment.
#[derive(Debug)]
pub struct Biller<M, R> {
    /// PostgreSQL, as `securebase_billing`, with a connection for each worker and one more.
    pub pool: PgPool,
    /// The settings.
    pub settings: BillSettings,
    /// The way out for mail.
    pub mailer: M,
    /// What makes the documents.
    pub renderer: Arc<R>,
    /// Spreads retries.
    pub random: fn() -> u64,
}

impl<M: Mailer, R: Renderer + Send + Sync + 'static> Biller<M, R> {
    /// Does what a delivery asks for.
    pub async fn bill(&self, event: &str, now: Timestamp, deadline: Deadline) -> Result<BillAnswer, BillError> {
        if let Ok(notifications) = serde_json::from_str::<Notifications>(event) {
            return deadline.keep(self.record(&notifications, now)).await?;
        }
        let task: Task = serde_json::from_str(event).map_err(|error| BillError::NotRecognized(error.to_string()))?;
        match task {
            Task::Run { period } => deadline.keep(self.run(period, now)).await?,
            Task::Remind {} => {
                let mut connection = self.pool.acquire().await?;
                let ReminderReport { reminders, overdue, thresholds } =
                    deadline.keep(remind(&mut connection, &REMINDERS, now)).await??;
                Ok(BillAnswer::Reminded { reminders, overdue, thresholds })
            }
            Task::Send {} => deadline.keep(self.send(now)).await?,
        }
    }

    async fn run(&self, period: Option<String>, now: Timestamp) -> Result<BillAnswer, BillError> {
        let period = match period {
            Some(text) => Month::parse(&text).map_err(|_| BillError::NotAPeriod(text))?,
            None => ended_before(now).ok_or_else(|| BillError::NotAPeriod(now.to_string()))?,
        };
        let request = RunRequest {
            grace_hours: self.settings.grace_hours,
            workers: self.settings.workers,
            ..RunRequest::new(period, self.settings.seller.clone())
        };
        let report = issue(&self.pool, &request, now).await?;
        let troubles = report.results.iter().filter(|result| result.outcome.is_trouble());
        let named = troubles.take(TROUBLES_NAMED).map(|result| {
            format!("{}: {}", result.customer, result.outcome.reason().unwrap_or(result.outcome.as_str()))
        });
        Ok(BillAnswer::Run {
            period: period.to_string(),
            counts: report.counts(),
            totals: report
                .totals()
                .into_iter()
                .map(|total| (total.currency().as_str().to_owned(), total.to_decimal_text()))
                .collect(),
            credit_notes: report.credit_notes(),
            troubles: named.collect(),
        })
    }

    async fn send(&self, now: Timestamp) -> Result<BillAnswer, BillError> {
        let mail = self.settings.mail.as_ref().ok_or(BillError::NoSender)?;
        let RenderReport { rendered, failed: not_rendered } =
            render_due(&self.pool, &self.renderer, self.settings.workers, now).await?;
        let report = send_due(&self.pool, &self.mailer, mail, now, self.random, MESSAGES_MAX).await?;
        let SendReport { sent, retried, failed, waiting } = report;
        Ok(BillAnswer::Sent { rendered, not_rendered, sent, retried, failed, waiting })
    }

    /// One that is no event fails the whole delivery, which then goes to the function's dead letters; those before it are
    /// recorded, and known when they come again.
    async fn record(&self, notifications: &Notifications, now: Timestamp) -> Result<BillAnswer, BillError> {
        let mut connection = self.pool.acquire().await?;
        for NotificationRecord { sns } in &notifications.records {
            record_feedback(&mut connection, &sns.message, now).await?;
        }
        Ok(BillAnswer::Recorded { events: notifications.records.len() })
    }
}

/// The last month that has ended.
fn ended_before(now: Timestamp) -> Option<Month> {
    let current = Month::containing(now)?;
    Month::containing(current.start().saturating_add_secs(-1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_month_that_has_ended_is_billed() {
        for (now, month) in [
            ("2026-11-01T00:00:00Z", "2026-10"),
            ("2026-11-30T23:59:59Z", "2026-10"),
            ("2027-01-01T00:00:00Z", "2026-12"),
        ] {
            let now = Timestamp::parse_rfc3339(now).unwrap();
            assert_eq!(ended_before(now).map(|month| month.to_string()).as_deref(), Some(month));
        }
    }

    #[test]
    fn settings_name_every_problem_at_once() {
        let read = |name: &str| match name {
            "SECUREBASE_MAIL_FROM" => Some("nobody".to_owned()),
            "SECUREBASE_WORKERS" => Some("0".to_owned()),
            _ => None,
        };
        let problems = BillSettings::read(&read).unwrap_err().problems;
        assert_eq!(problems.len(), 4, "{problems:?}");
        for (problem, word) in problems.iter().zip(["DATABASE_URL", "SELLER_NAME", "WORKERS", "no mail address"]) {
            assert!(problem.contains(word), "{problem}");
        }
    }

    #[test]
    fn a_typeface_is_read_with_the_settings_and_one_that_is_not_there_is_a_problem() {
        let here = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let missing = concat!(env!("CARGO_MANIFEST_DIR"), "/none.ttf");
        let settings = |path: &'static str| {
            BillSettings::read(&move |name: &str| match name {
                "SECUREBASE_DATABASE_URL" => Some("postgresql://securebase_billing@localhost/x".to_owned()),
                "SECUREBASE_SELLER_NAME" => Some("SecureBase Inc.".to_owned()),
                "SECUREBASE_INVOICE_TYPEFACE" => Some(path.to_owned()),
                _ => None,
            })
        };
        assert_eq!(settings(here).unwrap().typeface, Some(std::fs::read(here).unwrap()));
        assert_eq!(settings(" ").unwrap().typeface, None);
        let problems = settings(missing).unwrap_err().problems;
        assert!(problems.len() == 1 && problems[0].contains("none.ttf cannot be read"), "{problems:?}");
    }

    #[test]
    fn only_tasks_and_notifications_are_recognized() {
        for good in [r#"{"task":"run"}"#, r#"{"task":"run","period":"2026-10"}"#, r#"{"task":"send"}"#] {
            assert!(serde_json::from_str::<Task>(good).is_ok(), "{good}");
        }
        for bad in ["{}", r#"{"task":"pay"}"#, r#"{"task":"run","month":"2026-10"}"#, "[]", ""] {
            assert!(serde_json::from_str::<Task>(bad).is_err(), "{bad}");
        }
    }
}
