//! What other prices would have meant: the whole base rated again over real past usage, before anything changes.

use std::collections::BTreeMap;

use aggregator::directory::CustomerId;
use chrono::{DateTime, NaiveDate, Utc};
use ingest::{Meter, Timestamp};
use sqlx::{Connection, PgConnection};
use thiserror::Error;

use crate::agreement::{Agreement, AgreementError, AgreementsError, load_agreements};
use crate::catalogue::{Catalogue, CatalogueError};
use crate::days::Days;
use crate::fraction::Fraction;
use crate::invoice::{DraftError, Invoice, draft};
use crate::money::{AmountError, Money};
use crate::period::Month;
use crate::quantity::SECONDS_PER_WINDOW;
use crate::rate_card::RateCard;
use crate::rating::RatingError;
use crate::statements::Statement;
use crate::terms::{Terms, TermsError};
use crate::usage::{Usage, UsageError, UsagePart, Windows};

/// Customers whose usage is in memory at a time.
const CUSTOMERS_AT_A_TIME: usize = 200;

/// Where usage was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageState {
    /// The newest close of the period.
    Closed,
    /// What has arrived so far.
    Open,
}

/// One customer's month at the stored prices and at those that are tried out.
#[derive(Debug)]
pub struct Comparison {
    /// Who.
    pub customer: CustomerId,
    /// The month.
    pub month: Month,
    /// Where its usage was read from.
    pub usage: UsageState,
    /// At the stored prices.
    pub before: (Terms, Invoice),
    /// At those that are tried out.
    pub after: (Terms, Invoice),
}

impl Comparison {
    /// By how much the total changes.
    pub fn difference(&self) -> Result<Money, AmountError> {
        self.after.1.totals.total.checked_sub(self.before.1.totals.total)
    }
}

/// What became of a customer's month.
#[derive(Debug)]
pub enum Simulated {
    /// Both could be rated.
    Compared(Box<Comparison>),
    /// No day of the month is under contract.
    NotUnderContract {
        /// Who.
        customer: CustomerId,
        /// The month.
        month: Month,
    },
    /// It cannot be rated, at the one prices or the other.
    Failed {
        /// Who.
        customer: CustomerId,
        /// The month.
        month: Month,
        /// Why.
        error: CompareError,
    },
}

/// A customer's month cannot be rated. The others can.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CompareError {
    /// At the stored prices.
    #[error("at the stored prices: {0}")]
    Before(#[source] DraftError),
    /// At the prices that are tried out.
    #[error("at these prices: {0}")]
    After(#[source] DraftError),
    /// What is agreed on cannot be used.
    #[error(transparent)]
    Agreement(#[from] AgreementError),
    /// The usage cannot be summed.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// A stored total is no number.
    #[error("usage of {meter} is no exact number: {total:?}")]
    UnreadableUsage {
        /// The meter's name.
        meter: String,
        /// What is stored.
        total: String,
    },
}

/// Nothing can be compared.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SimulationError {
    /// Stop: two cards are for the same customers.
    #[error("{0} and {1} are for the same tier or contract: try one card out at a time")]
    TwoCards(String, String),
    /// Stop or retry, as it says.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// Stop or retry, as it says.
    #[error(transparent)]
    Agreements(#[from] AgreementsError),
    /// Retry: the database did not answer, or refused.
    #[error("cannot read usage: {0}")]
    Database(#[from] sqlx::Error),
}

/// Rates a month of all customers, or of some, at the stored prices and with these cards instead, whatever days they say they
/// are in force on. Each result is given to `each` in the order of the customers' ids. Reads one moment and writes nothing.
pub async fn simulate(
    connection: &mut PgConnection,
    month: Month,
    customers: Option<&[CustomerId]>,
    trial: &[RateCard],
    mut each: impl FnMut(Simulated),
) -> Result<(), SimulationError> {
    for (index, card) in trial.iter().enumerate() {
        let same = |other: &&RateCard| (other.tier(), other.customer()) == (card.tier(), card.customer());
        if let Some(other) = trial[..index].iter().find(same) {
            return Err(SimulationError::TwoCards(other.to_string(), card.to_string()));
        }
    }
    let mut transaction = connection.begin().await?;
    sqlx::query(ONE_MOMENT).execute(&mut *transaction).await?;
    let stored = Catalogue::load(&mut transaction).await?;
    let in_force = trial.iter().map(|card| RateCard { valid_from: month.first_day(), valid_to: None, ..card.clone() });
    let tried = stored.with_cards(&in_force.collect::<Vec<_>>());
    let agreements = load_agreements(&mut transaction, customers, month).await?;
    for chunk in agreements.chunks(CUSTOMERS_AT_A_TIME) {
        let ids: Vec<&str> = chunk.iter().map(|(id, _)| id.as_str()).collect();
        let mut usage = read_usage(&mut transaction, month, &ids).await?;
        for (customer, agreement) in chunk {
            let used = usage.remove(customer.as_str()).unwrap_or_default();
            each(compare(customer, month, agreement, used, (&stored, &tried)));
        }
    }
    transaction.rollback().await?;
    Ok(())
}

fn compare(
    customer: &CustomerId,
    month: Month,
    agreement: &Result<Agreement, AgreementError>,
    usage: Read,
    (stored, tried): (&Catalogue, &Catalogue),
) -> Simulated {
    let customer = customer.clone();
    match rated(month, agreement, usage, (stored, tried)) {
        Ok(Some((usage, before, after))) => {
            Simulated::Compared(Box::new(Comparison { customer, month, usage, before, after }))
        }
        Ok(None) => Simulated::NotUnderContract { customer, month },
        Err(error) => Simulated::Failed { customer, month, error },
    }
}

type Drafted = (Terms, Invoice);

fn rated(
    month: Month,
    agreement: &Result<Agreement, AgreementError>,
    read: Read,
    (stored, tried): (&Catalogue, &Catalogue),
) -> Result<Option<(UsageState, Drafted, Drafted)>, CompareError> {
    let agreement = agreement.as_ref().map_err(Clone::clone)?;
    let (state, usage) = (read.state, read.usage?);
    let before = agreement.terms(stored, month)?;
    let after = agreement.terms(tried, month)?;
    let not_under_contract = DraftError::Rating(RatingError::Terms(TermsError::NotUnderContract(month)));
    let invoice = match draft(&before, &usage) {
        Err(error) if error == not_under_contract => return Ok(None),
        drafted => drafted.map_err(CompareError::Before)?,
    };
    let other = draft(&after, &usage).map_err(CompareError::After)?;
    Ok(Some((state, (before, invoice), (after, other))))
}

/// The usage of a customer, or why it cannot be summed.
#[derive(Debug)]
struct Read {
    state: UsageState,
    usage: Result<Usage, CompareError>,
}

impl Default for Read {
    fn default() -> Self {
        Self { state: UsageState::Open, usage: Ok(Usage::default()) }
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    customer_id: String,
    is_closed: bool,
    meter: Option<String>,
    day: Option<NaiveDate>,
    total: Option<String>,
    peak: Option<String>,
    windows: i64,
    first: Option<DateTime<Utc>>,
    last: Option<DateTime<Utc>>,
}

async fn read_usage(
    connection: &mut PgConnection,
    month: Month,
    customers: &[&str],
) -> Result<BTreeMap<String, Read>, SimulationError> {
    let rows: Vec<Row> = sqlx::query_as(USAGE)
        .bind(customers)
        .bind(month.first_day())
        .bind(DateTime::<Utc>::from(month.start()))
        .bind(DateTime::<Utc>::from(month.end()))
        .fetch_all(connection)
        .await?;
    let mut usage = BTreeMap::<String, Read>::new();
    for row in rows {
        let of_customer = usage.entry(row.customer_id.clone()).or_default();
        if row.is_closed {
            of_customer.state = UsageState::Closed;
        }
        if let Ok(known) = &mut of_customer.usage
            && let Err(error) = row.add_to(known)
        {
            of_customer.usage = Err(error);
        }
    }
    Ok(usage)
}

impl Row {
    fn add_to(self, usage: &mut Usage) -> Result<(), CompareError> {
        let (Some(meter), Some(day), Some(total), Some(peak), Some(first), Some(last)) =
            (self.meter, self.day, self.total, self.peak, self.first, self.last)
        else {
            // A close without any usage.
            return Ok(());
        };
        let known = (Meter::parse_stored(&meter), Fraction::parse(&total), Fraction::parse(&peak));
        let days = day.succ_opt().and_then(|next| Days::new(day, next));
        let (Ok(known), Ok(exact), Ok(peak), Some(days)) = (known.0, known.1, known.2, days) else {
            return Err(CompareError::UnreadableUsage { meter, total });
        };
        let end = Timestamp::from(last).saturating_add_secs(SECONDS_PER_WINDOW);
        let windows = Windows::new(first.into(), end, u64::try_from(self.windows).unwrap_or_default());
        usage.add(UsagePart { meter: known, days, total: exact, peak, windows })?;
        Ok(())
    }
}

const ONE_MOMENT: &str = "set transaction isolation level repeatable read read only";

/// By customer, meter and day: of the newest close of the period where there is one, else of the rows of now.
const USAGE: &str = "
    with closed as (
        select distinct on (customer_id) customer_id, close_id
        from closes
        where customer_id = any($1::text[]) and period_start = $2::date
        order by customer_id, cut desc
    ), windows as (
        select t.customer_id, t.meter, t.window_start, sum(t.total) as total
        from closed_totals t
        join closed c on c.close_id = t.close_id
        group by t.customer_id, t.meter, t.window_start
        union all
        select r.customer_id, r.meter, r.window_start, sum(r.total)
        from usage_rows r
        where r.customer_id = any($1::text[]) and r.customer_id not in (select customer_id from closed)
            and r.window_start >= $3::timestamptz and r.window_start < $4::timestamptz
        group by r.customer_id, r.meter, r.window_start
    ), days as (
        select customer_id, meter, (window_start at time zone 'utc')::date as day, sum(total)::text as total,
            max(total)::text as peak, count(*) as windows, min(window_start) as first, max(window_start) as last
        from windows
        group by customer_id, meter, day
    )
    select coalesce(d.customer_id, c.customer_id) as customer_id, c.customer_id is not null as is_closed, d.meter, d.day,
        d.total, d.peak, coalesce(d.windows, 0) as windows, d.first, d.last
    from days d
    full join closed c on c.customer_id = d.customer_id
    order by 1, d.meter, d.day";

pub(crate) const STATEMENTS: &[Statement] =
    &[Statement { name: "usage of many", sql: USAGE, roles: &["securebase_billing", "securebase_operator"] }];
