//! Changing what is agreed on: each change is one transaction with its event in the audit trail.

use aggregator::directory::CustomerId;
use chrono::{DateTime, NaiveDate, Utc};
use ingest::Timestamp;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use thiserror::Error;

use crate::books::lock_customer;
use crate::coupon::{Coupon, CouponValue, RedeemError};
use crate::rate_card::loading::Retroactive;
use crate::rate_card::{Phase, Span};
use crate::statements::Statement;
use crate::tax::{Exemption, JurisdictionRate};
use crate::tier::Tier;

/// A change of what is agreed on. Days are UTC days, ranges half-open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The customer is in another tier from 00:00 UTC of a day on. A change of the same day is replaced.
    Tier {
        /// Who.
        customer: CustomerId,
        /// To which.
        tier: Tier,
        /// The day.
        from: NaiveDate,
    },
    /// The contract ends, or goes on after all.
    ContractEnd {
        /// Who.
        customer: CustomerId,
        /// The first day after it.
        on: Option<NaiveDate>,
    },
    /// The customer has a promotional phase beside those of its cards.
    Promotion {
        /// Who.
        customer: CustomerId,
        /// The phase; its description is its name.
        phase: Phase,
    },
    /// A jurisdiction has another rate from a day on; the one before ends.
    TaxRate(JurisdictionRate),
    /// The customer is taxed elsewhere from a day on; `None`: by the rate it was added with.
    Jurisdiction {
        /// Who.
        customer: CustomerId,
        /// Where.
        jurisdiction: Option<String>,
        /// The day.
        from: NaiveDate,
    },
    /// The customer pays no tax, or none of a category.
    Exemption {
        /// Who.
        customer: CustomerId,
        /// What and why.
        exemption: Exemption,
    },
    /// There is a coupon.
    Coupon(Coupon),
    /// A customer redeems a coupon.
    Redemption {
        /// Who.
        customer: CustomerId,
        /// The coupon's code.
        code: String,
        /// When.
        on: NaiveDate,
    },
}

/// A change was not made. Nothing was written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// Stop: there is no such customer.
    #[error("there is no customer {0}")]
    UnknownCustomer(CustomerId),
    /// Stop: there is no such coupon.
    #[error("there is no coupon {0}")]
    UnknownCoupon(String),
    /// Stop: invoices of days it would hold for are issued.
    #[error(
        "{customer} has {invoices} issued invoices of days from {from} on: give a later day, or allow it and credit and \
         reissue those invoices"
    )]
    Invoiced {
        /// Who.
        customer: CustomerId,
        /// The day.
        from: NaiveDate,
        /// How many invoices.
        invoices: i64,
    },
    /// Stop: the coupon cannot be redeemed.
    #[error(transparent)]
    Redeem(#[from] RedeemError),
    /// Stop: a coupon of this code is something else.
    #[error("coupon {0} exists with other terms, and a coupon never changes: give the new one another code")]
    CouponDiffers(String),
    /// Stop: the value breaks a rule of the tables, which is named.
    #[error("the change breaks the rule {0}")]
    Rule(String),
    /// Retry: the transaction was rolled back.
    #[error("cannot record the change: {0}")]
    Database(#[source] sqlx::Error),
}

impl From<sqlx::Error> for ChangeError {
    fn from(error: sqlx::Error) -> Self {
        match error.as_database_error().and_then(|error| error.constraint()) {
            Some(rule) => Self::Rule(rule.replace('_', " ")),
            None => Self::Database(error),
        }
    }
}

/// Makes a change as the operator, and says whether it changed anything.
pub async fn change(
    connection: &mut PgConnection,
    change: &Change,
    retroactive: Retroactive,
    actor: &str,
    now: Timestamp,
) -> Result<bool, ChangeError> {
    let mut transaction = connection.begin().await?;
    if let Some(customer) = change.customer() {
        let found: Option<i32> =
            sqlx::query_scalar(CUSTOMER).bind(customer.as_str()).fetch_optional(&mut *transaction).await?;
        found.ok_or_else(|| ChangeError::UnknownCustomer(customer.clone()))?;
        // No run bills the customer by what was agreed on before while this is looked at and written.
        lock_customer(&mut transaction, customer.as_str()).await?;
    }
    let from = match change {
        Change::ContractEnd { customer, on } => {
            let ends_on: Option<Option<NaiveDate>> =
                sqlx::query_scalar(ENDS_ON).bind(customer.as_str()).fetch_optional(&mut *transaction).await?;
            moved_end(ends_on.flatten(), *on)
        }
        other => other.from(),
    };
    if let (Some(customer), Some(from), Retroactive::Refused) = (change.customer(), from, retroactive) {
        let invoices: i64 =
            sqlx::query_scalar(INVOICED).bind(customer.as_str()).bind(from).fetch_one(&mut *transaction).await?;
        if 0 < invoices {
            return Err(ChangeError::Invoiced { customer: customer.clone(), from, invoices });
        }
    }
    let is_new = change.write(&mut transaction, DateTime::<Utc>::from(now)).await?;
    if is_new {
        let (action, subject, details) = change.event();
        sqlx::query(RECORD)
            .bind(change.customer().map(CustomerId::as_str))
            .bind(actor)
            .bind(action)
            .bind(subject)
            .bind(details.to_string())
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    Ok(is_new)
}

impl Change {
    fn customer(&self) -> Option<&CustomerId> {
        match self {
            Self::Tier { customer, .. }
            | Self::ContractEnd { customer, .. }
            | Self::Promotion { customer, .. }
            | Self::Jurisdiction { customer, .. }
            | Self::Exemption { customer, .. }
            | Self::Redemption { customer, .. } => Some(customer),
            Self::TaxRate(_) | Self::Coupon(_) => None,
        }
    }

    /// The first day whose invoices it would have changed.
    fn from(&self) -> Option<NaiveDate> {
        match self {
            Self::Tier { from, .. } | Self::Jurisdiction { from, .. } => Some(*from),
            Self::Promotion { phase: Phase { span: Span::Days(days), .. }, .. } => Some(days.start()),
            Self::Exemption { exemption, .. } => Some(exemption.valid_from),
            // A phase of the first months is for a contract that begins; what lies behind it stays as it was billed. For an end
            // see `moved_end`.
            Self::Promotion { .. } | Self::ContractEnd { .. } => None,
            Self::TaxRate(_) | Self::Coupon(_) | Self::Redemption { .. } => None,
        }
    }

    async fn write(&self, connection: &mut PgConnection, now: DateTime<Utc>) -> Result<bool, ChangeError> {
        let written = match self {
            Self::Tier { customer, tier, from } => {
                let change = sqlx::query(TIER).bind(customer.as_str()).bind(from).bind(tier.as_str()).bind(now);
                change.execute(connection).await?
            }
            Self::ContractEnd { customer, on } => {
                sqlx::query(CONTRACT_END).bind(customer.as_str()).bind(on).bind(now).execute(connection).await?
            }
            Self::Promotion { customer, phase } => {
                let (first_months, starts_on, ends_on) = match phase.span {
                    Span::FirstMonths(months) => (Some(i32::try_from(months).unwrap_or(i32::MAX)), None, None),
                    Span::Days(days) => (None, Some(days.start()), Some(days.end())),
                };
                let applies_to: Vec<String> = phase.applies_to.iter().cloned().map(String::from).collect();
                sqlx::query(PROMOTION)
                    .bind(customer.as_str())
                    .bind(&phase.description)
                    .bind(phase.off.decimal())
                    .bind(applies_to)
                    .bind(first_months)
                    .bind(starts_on)
                    .bind(ends_on)
                    .bind(now)
                    .execute(connection)
                    .await?
            }
            Self::TaxRate(rate) => {
                sqlx::query(END_TAX_RATE)
                    .bind(&rate.jurisdiction)
                    .bind(&rate.category)
                    .bind(rate.valid_from)
                    .execute(&mut *connection)
                    .await?;
                sqlx::query(TAX_RATE)
                    .bind(&rate.jurisdiction)
                    .bind(&rate.category)
                    .bind(&rate.name)
                    .bind(rate.rate.decimal())
                    .bind(rate.valid_from)
                    .bind(rate.valid_to)
                    .bind(now)
                    .execute(connection)
                    .await?
            }
            Self::Jurisdiction { customer, jurisdiction, from } => {
                let change = sqlx::query(JURISDICTION).bind(customer.as_str()).bind(from).bind(jurisdiction).bind(now);
                change.execute(connection).await?
            }
            Self::Exemption { customer, exemption } => {
                sqlx::query(EXEMPTION)
                    .bind(customer.as_str())
                    .bind(&exemption.category)
                    .bind(&exemption.reason)
                    .bind(exemption.valid_from)
                    .bind(exemption.valid_to)
                    .bind(now)
                    .execute(connection)
                    .await?
            }
            Self::Coupon(coupon) => return write_coupon(connection, coupon, now).await,
            Self::Redemption { customer, code, on } => return redeem(connection, customer, code, *on, now).await,
        };
        Ok(0 < written.rows_affected())
    }

    /// Action, subject and details of the audit event.
    fn event(&self) -> (&'static str, String, Value) {
        let of = |customer: &CustomerId| customer.as_str().to_owned();
        match self {
            Self::Tier { customer, tier, from } => {
                ("customer.tier_changed", of(customer), json!({ "tier": tier.as_str(), "from": from }))
            }
            Self::ContractEnd { customer, on } => ("customer.contract_end_set", of(customer), json!({ "on": on })),
            Self::Promotion { customer, phase } => ("customer.promotion_added", of(customer), json!(phase)),
            Self::TaxRate(rate) => (
                "tax_rate.added",
                rate.jurisdiction.clone(),
                json!({ "category": rate.category, "rate": rate.rate, "from": rate.valid_from, "to": rate.valid_to }),
            ),
            Self::Jurisdiction { customer, jurisdiction, from } => {
                ("customer.jurisdiction_changed", of(customer), json!({ "jurisdiction": jurisdiction, "from": from }))
            }
            Self::Exemption { customer, exemption } => (
                "customer.exemption_added",
                of(customer),
                json!({
                    "category": exemption.category, "reason": exemption.reason,
                    "from": exemption.valid_from, "to": exemption.valid_to,
                }),
            ),
            Self::Coupon(coupon) => ("coupon.added", coupon.code.clone(), json!(coupon)),
            Self::Redemption { code, on, .. } => ("coupon.redeemed", code.clone(), json!({ "on": on })),
        }
    }
}

/// The first day that a contract whose end moves was under and is no longer, or the other way round; `None` where it stays.
fn moved_end(before: Option<NaiveDate>, after: Option<NaiveDate>) -> Option<NaiveDate> {
    if before == after { None } else { [before, after].into_iter().flatten().min() }
}

async fn write_coupon(connection: &mut PgConnection, coupon: &Coupon, now: DateTime<Utc>) -> Result<bool, ChangeError> {
    let (kind, rate, amount) = match coupon.value {
        CouponValue::Percent(rate) => ("percent", Some(rate.decimal()), None),
        CouponValue::Fixed(amount) => ("fixed", None, Some(amount)),
        CouponValue::Balance(amount) => ("balance", None, Some(amount)),
    };
    let most = |most: Option<u32>| most.map(|most| i32::try_from(most).unwrap_or(i32::MAX));
    // A row of the same code counts as this coupon only if it is this coupon.
    let (is_new, is_same): (bool, bool) = sqlx::query_as(COUPON)
        .bind(&coupon.code)
        .bind(&coupon.description)
        .bind(kind)
        .bind(rate)
        .bind(amount.map(|amount| amount.minor()))
        .bind(amount.map(|amount| amount.currency().as_str()))
        .bind(coupon.valid_from)
        .bind(coupon.valid_to)
        .bind(most(coupon.redemptions_max))
        .bind(most(coupon.invoices_max))
        .bind(now)
        .fetch_one(connection)
        .await?;
    if is_new || is_same { Ok(is_new) } else { Err(ChangeError::CouponDiffers(coupon.code.clone())) }
}

async fn redeem(
    connection: &mut PgConnection,
    customer: &CustomerId,
    code: &str,
    on: NaiveDate,
    now: DateTime<Utc>,
) -> Result<bool, ChangeError> {
    type Limits = (NaiveDate, Option<NaiveDate>, Option<i32>);
    let limits: Option<Limits> = sqlx::query_as(LOCK_COUPON).bind(code).fetch_optional(&mut *connection).await?;
    let (valid_from, valid_to, most) = limits.ok_or_else(|| ChangeError::UnknownCoupon(code.to_owned()))?;
    let (others, own): (i64, bool) =
        sqlx::query_as(REDEMPTIONS).bind(code).bind(customer.as_str()).fetch_one(&mut *connection).await?;
    if own {
        return Ok(false);
    }
    let others = u32::try_from(others).unwrap_or(u32::MAX);
    let most = most.map(|most| u32::try_from(most).unwrap_or_default());
    crate::coupon::check_redemption(code, (valid_from, valid_to), most, on, others)?;
    sqlx::query(REDEEM).bind(customer.as_str()).bind(code).bind(on).bind(now).execute(connection).await?;
    Ok(true)
}

const CUSTOMER: &str = "select 1 from customers where customer_id = $1::text";

const INVOICED: &str = "
    select count(*) from invoices
    where customer_id = $1::text and kind in ('monthly', 'final') and status in ('issued', 'paid') and period_end > $2::date";

const ENDS_ON: &str = "select ends_on from contract_ends where customer_id = $1::text";

const TIER: &str = "
    insert into customer_tiers as t (customer_id, valid_from, tier, recorded_at)
    values ($1::text, $2::date, $3::text::customer_tier, $4::timestamptz)
    on conflict (customer_id, valid_from) do update set tier = excluded.tier, recorded_at = excluded.recorded_at
        where t.tier <> excluded.tier";

const CONTRACT_END: &str = "
    insert into contract_ends as e (customer_id, ends_on, recorded_at) values ($1::text, $2::date, $3::timestamptz)
    on conflict (customer_id) do update set ends_on = excluded.ends_on, recorded_at = excluded.recorded_at
        where e.ends_on is distinct from excluded.ends_on";

const PROMOTION: &str = "
    insert into customer_promotions (customer_id, name, off, applies_to, first_months, starts_on, ends_on, recorded_at)
    values ($1::text, $2::text, $3::numeric, $4::text[], $5::int, $6::date, $7::date, $8::timestamptz)";

const END_TAX_RATE: &str = "
    update tax_rates set valid_to = $3::date
    where jurisdiction = $1::text and category is not distinct from $2::text and valid_to is null and valid_from < $3::date";

const TAX_RATE: &str = "
    insert into tax_rates (jurisdiction, category, name, rate, valid_from, valid_to, recorded_at)
    values ($1::text, $2::text, $3::text, $4::numeric, $5::date, $6::date, $7::timestamptz)";

const JURISDICTION: &str = "
    insert into customer_jurisdictions as j (customer_id, valid_from, jurisdiction, recorded_at)
    values ($1::text, $2::date, $3::text, $4::timestamptz)
    on conflict (customer_id, valid_from) do update
        set jurisdiction = excluded.jurisdiction, recorded_at = excluded.recorded_at
        where j.jurisdiction is distinct from excluded.jurisdiction";

const EXEMPTION: &str = "
    insert into tax_exemptions (customer_id, category, reason, valid_from, valid_to, recorded_at)
    values ($1::text, $2::text, $3::text, $4::date, $5::date, $6::timestamptz)";

const COUPON: &str = "
    with added as (
        insert into coupons (
            code, description, kind, rate, amount_minor, currency, valid_from, valid_to, redemptions_max, invoices_max,
            recorded_at)
        values (
            $1::text, $2::text, $3::text, $4::numeric, $5::bigint, $6::text, $7::date, $8::date, $9::int, $10::int,
            $11::timestamptz)
        on conflict (code) do nothing
        returning code)
    select exists (select from added), exists (
        select from coupons
        where code = $1::text and description = $2::text and kind = $3::text and rate is not distinct from $4::numeric
            and amount_minor is not distinct from $5::bigint and currency::text is not distinct from $6::text
            and valid_from = $7::date and valid_to is not distinct from $8::date
            and redemptions_max is not distinct from $9::int and invoices_max is not distinct from $10::int)";

/// One redemption of a coupon at a time, so that it is never redeemed more often than it allows.
const LOCK_COUPON: &str = "
    select valid_from, valid_to, redemptions_max from coupons where code = $1::text for update";

const REDEMPTIONS: &str = "
    select count(*), coalesce(bool_or(customer_id = $2::text), false) from coupon_redemptions where code = $1::text";

const REDEEM: &str = "
    insert into coupon_redemptions (customer_id, code, redeemed_on, recorded_at)
    values ($1::text, $2::text, $3::date, $4::timestamptz)";

const RECORD: &str = "select record_audit_event($1::text, $2::text, $3::text, $4::text, $5::text::jsonb)";

const OPERATOR: &[&str] = &["securebase_operator"];

pub(crate) const STATEMENTS: &[Statement] = &[
    Statement { name: "customer of a change", sql: CUSTOMER, roles: OPERATOR },
    Statement { name: "invoiced days of a customer", sql: INVOICED, roles: OPERATOR },
    Statement { name: "end of a contract", sql: ENDS_ON, roles: OPERATOR },
    Statement { name: "change tier", sql: TIER, roles: OPERATOR },
    Statement { name: "end contract", sql: CONTRACT_END, roles: OPERATOR },
    Statement { name: "add promotion", sql: PROMOTION, roles: OPERATOR },
    Statement { name: "end tax rate", sql: END_TAX_RATE, roles: OPERATOR },
    Statement { name: "add tax rate", sql: TAX_RATE, roles: OPERATOR },
    Statement { name: "change jurisdiction", sql: JURISDICTION, roles: OPERATOR },
    Statement { name: "add exemption", sql: EXEMPTION, roles: OPERATOR },
    Statement { name: "add coupon", sql: COUPON, roles: OPERATOR },
    Statement { name: "lock coupon", sql: LOCK_COUPON, roles: OPERATOR },
    Statement { name: "redemptions", sql: REDEMPTIONS, roles: OPERATOR },
    Statement { name: "redeem coupon", sql: REDEEM, roles: OPERATOR },
    Statement { name: "record change", sql: RECORD, roles: OPERATOR },
];
