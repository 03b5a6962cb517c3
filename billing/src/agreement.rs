//! What a customer and its operator have agreed on, from the tables; and the terms of a month that follow from it.

pub(crate) mod changes;

use aggregator::directory::CustomerId;
use chrono::{DateTime, NaiveDate, Utc};
use ingest::Timestamp;
use rust_decimal::Decimal;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sqlx::PgConnection;
use thiserror::Error;

use crate::catalogue::{Catalogue, covered};
use crate::coupon::{Coupon, CouponValue, RedeemedCoupon};
use crate::currency::Currency;
use crate::days::{Days, day_of};
use crate::document::Party;
use crate::money::Money;
use crate::period::Month;
use crate::rate_card::{Phase, RateCardError, Selector, Span};
use crate::share::Share;
use crate::statements::{READERS, Statement};
use crate::tax::{Exemption, JurisdictionRate, TaxRate, rates_on};
use crate::terms::{PrepaidFee, Stretch, Terms};
use crate::tier::Tier;

/// Everything agreed on with a customer, over all time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// Who.
    pub customer: String,
    /// As invoices name it.
    pub buyer: Party,
    /// The currency of its invoices.
    pub currency: Currency,
    /// The first day of the contract, and the first day after it.
    pub contract: (NaiveDate, Option<NaiveDate>),
    /// The tier it began in.
    pub first_tier: Tier,
    /// The tiers it changed to, by their first day.
    pub tiers: Vec<(NaiveDate, Tier)>,
    /// Its promotional phases.
    pub promotions: Vec<Phase>,
    /// The tax rate it has in no jurisdiction.
    pub tax_rate: Share,
    /// Its jurisdictions, by their first day.
    pub jurisdictions: Vec<(NaiveDate, Option<String>)>,
    /// Its exemptions from tax.
    pub exemptions: Vec<Exemption>,
    /// Its coupons, as they stand before the month that was asked for.
    pub coupons: Vec<RedeemedCoupon>,
    /// The fees it has paid in advance.
    pub prepaid: Vec<PrepaidFee>,
}

/// What was agreed on cannot be used. Stop for this customer until it is corrected.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum AgreementError {
    /// A stored value is none.
    #[error("the customer's {0} is broken")]
    Broken(&'static str),
    /// A card that is in force breaks a rule.
    #[error(transparent)]
    RateCard(#[from] RateCardError),
}

/// Agreements cannot be read at all.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AgreementsError {
    /// Retry: the database did not answer, or refused.
    #[error("cannot read customers: {0}")]
    Database(#[from] sqlx::Error),
    /// Stop: a stored id is no customer id.
    #[error("stored customer {0:?} has no valid id")]
    BrokenCustomerId(String),
}

/// The agreements with some customers, or all, by their ids, each on its own: a broken one stops no other. `month` is the one
/// that is to be billed: coupons stand as they do for it, whatever its own earlier invoices took.
pub async fn load_agreements(
    connection: &mut PgConnection,
    customers: Option<&[CustomerId]>,
    month: Month,
) -> Result<Vec<(CustomerId, Result<Agreement, AgreementError>)>, AgreementsError> {
    let wanted: Option<Vec<&str>> = customers.map(|ids| ids.iter().map(CustomerId::as_str).collect());
    let rows: Vec<Row> = sqlx::query_as(AGREEMENTS).bind(wanted).bind(month.first_day()).fetch_all(connection).await?;
    let read = |row: Row| {
        let id = CustomerId::parse(&row.customer_id)
            .map_err(|_| AgreementsError::BrokenCustomerId(row.customer_id.clone()))?;
        Ok((id, row.agreement()))
    };
    rows.into_iter().map(read).collect()
}

impl Agreement {
    /// The tier of a day.
    pub fn tier_on(&self, day: NaiveDate) -> Tier {
        self.tiers.iter().rev().find(|(from, _)| *from <= day).map_or(self.first_tier, |(_, tier)| *tier)
    }

    /// The terms of a month at these prices. Days without a card are left out; [`Terms::check`] finds them.
    pub fn terms(&self, catalogue: &Catalogue, month: Month) -> Result<Terms, AgreementError> {
        let (contract_start, contract_end) = self.contract;
        let days = month.all_days().meet_open(contract_start, contract_end);
        let stretches = days.map_or_else(|| Ok(Vec::new()), |days| self.stretches(catalogue, days))?;
        Ok(Terms {
            customer: self.customer.clone(),
            month,
            contract_start,
            contract_end,
            currency: self.currency,
            stretches,
            promotions: self.promotions.clone(),
            prepaid: self.prepaid.clone(),
            coupons: self.coupons.clone(),
            taxes: self.taxes(catalogue, days.unwrap_or(month.all_days()).last()),
        })
    }

    /// The tax rates of a day.
    pub fn taxes(&self, catalogue: &Catalogue, day: NaiveDate) -> Vec<TaxRate> {
        let jurisdiction = self.jurisdictions.iter().rev().find(|(from, _)| *from <= day);
        match jurisdiction.and_then(|(_, jurisdiction)| jurisdiction.as_deref()) {
            Some(jurisdiction) => rates_on(day, jurisdiction, catalogue.tax_rates(), &self.exemptions),
            None => {
                let own = TaxRate::of_customer(self.tax_rate);
                let rate = JurisdictionRate {
                    jurisdiction: own.jurisdiction,
                    category: None,
                    name: own.name,
                    rate: own.rate,
                    valid_from: NaiveDate::MIN,
                    valid_to: None,
                };
                rates_on(day, "", &[rate], &self.exemptions)
            }
        }
    }

    fn stretches(&self, catalogue: &Catalogue, days: Days) -> Result<Vec<Stretch>, AgreementError> {
        let mut cuts: Vec<NaiveDate> = self.tiers.iter().map(|(from, _)| *from).collect();
        cuts.extend(Tier::ALL.into_iter().flat_map(|tier| catalogue.changes(tier, &self.customer)));
        let mut stretches: Vec<Stretch> = Vec::new();
        for part in days.split_at(cuts) {
            let tier = self.tier_on(part.start());
            let Some(stored) = catalogue.in_force(tier, &self.customer, part.start()) else { continue };
            let Some(days) = covered(part, stored) else { continue };
            let card = stored.card.as_ref().map_err(Clone::clone)?;
            match stretches.last_mut() {
                // Another card's begin or end cut the days, but not these prices.
                Some(last) if last.card == *card && last.days.end() == days.start() => {
                    last.days = Days::new(last.days.start(), days.end()).unwrap_or(last.days);
                }
                _ => stretches.push(Stretch { days, rate_card_id: stored.id, card: card.clone() }),
            }
        }
        Ok(stretches)
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    customer_id: String,
    name: String,
    tier: String,
    currency: String,
    tax_rate: Decimal,
    contract_start: DateTime<Utc>,
    billing_address: String,
    tax_id: String,
    ends_on: Option<NaiveDate>,
    tiers: Option<String>,
    promotions: Option<String>,
    jurisdictions: Option<String>,
    exemptions: Option<String>,
    coupons: Option<String>,
    prepaid: Option<String>,
}

#[derive(Deserialize)]
struct TierChange {
    valid_from: NaiveDate,
    tier: String,
}

#[derive(Deserialize)]
struct Promotion {
    name: String,
    off: Share,
    applies_to: Vec<Selector>,
    first_months: Option<u32>,
    starts_on: Option<NaiveDate>,
    ends_on: Option<NaiveDate>,
}

#[derive(Deserialize)]
struct Jurisdiction {
    valid_from: NaiveDate,
    jurisdiction: Option<String>,
}

#[derive(Deserialize)]
struct StoredExemption {
    category: Option<String>,
    reason: String,
    valid_from: NaiveDate,
    valid_to: Option<NaiveDate>,
}

#[derive(Deserialize)]
struct Redemption {
    code: String,
    description: String,
    kind: String,
    rate: Option<Share>,
    amount_minor: Option<i64>,
    valid_from: NaiveDate,
    valid_to: Option<NaiveDate>,
    redemptions_max: Option<u32>,
    invoices_max: Option<u32>,
    currency: Option<String>,
    redeemed_on: NaiveDate,
    invoices_used: u32,
    taken: String,
}

#[derive(Deserialize)]
struct Prepayment {
    covers: PrepaidFee,
    number: String,
}

impl Row {
    fn agreement(self) -> Result<Agreement, AgreementError> {
        let broken = AgreementError::Broken;
        let currency = Currency::parse(&self.currency).map_err(|_| broken("currency"))?;
        let tier = |name: &str| Tier::parse(name).map_err(|_| broken("tier"));
        let tiers: Vec<TierChange> = list(self.tiers.as_deref(), "tiers")?;
        let promotions: Vec<Promotion> = list(self.promotions.as_deref(), "promotions")?;
        let jurisdictions: Vec<Jurisdiction> = list(self.jurisdictions.as_deref(), "jurisdictions")?;
        let exemptions: Vec<StoredExemption> = list(self.exemptions.as_deref(), "exemptions")?;
        let coupons: Vec<Redemption> = list(self.coupons.as_deref(), "coupons")?;
        let prepaid: Vec<Prepayment> = list(self.prepaid.as_deref(), "prepayments")?;
        Ok(Agreement {
            first_tier: tier(&self.tier)?,
            tiers: tiers
                .iter()
                .map(|change| Ok((change.valid_from, tier(&change.tier)?)))
                .collect::<Result<_, AgreementError>>()?,
            contract: (day_of(Timestamp::from(self.contract_start)), self.ends_on),
            tax_rate: Share::new(self.tax_rate).map_err(|_| broken("tax rate"))?,
            promotions: promotions.into_iter().map(Promotion::phase).collect::<Result<_, _>>()?,
            jurisdictions: jurisdictions.into_iter().map(|row| (row.valid_from, row.jurisdiction)).collect(),
            exemptions: exemptions
                .into_iter()
                .map(|row| Exemption {
                    category: row.category,
                    reason: row.reason,
                    valid_from: row.valid_from,
                    valid_to: row.valid_to,
                })
                .collect(),
            coupons: coupons.into_iter().map(|row| row.coupon(currency)).collect::<Result<_, _>>()?,
            prepaid: prepaid.into_iter().map(|row| PrepaidFee { invoice: row.number, ..row.covers }).collect(),
            buyer: Party { name: self.name, address: self.billing_address, tax_id: self.tax_id },
            customer: self.customer_id,
            currency,
        })
    }
}

impl Promotion {
    fn phase(self) -> Result<Phase, AgreementError> {
        let span = match (self.first_months, self.starts_on, self.ends_on) {
            (Some(months), None, None) => Some(Span::FirstMonths(months)),
            (None, Some(from), Some(to)) => Days::new(from, to).map(Span::Days),
            _ => None,
        };
        let span = span.ok_or(AgreementError::Broken("promotions"))?;
        Ok(Phase { description: self.name, off: self.off, applies_to: self.applies_to, span })
    }
}

impl Redemption {
    fn coupon(self, of_customer: Currency) -> Result<RedeemedCoupon, AgreementError> {
        let broken = || AgreementError::Broken("coupons");
        let currency = self.currency.as_deref().map_or(Ok(of_customer), Currency::parse).map_err(|_| broken())?;
        let amount = self.amount_minor.map(|minor| Money::from_minor(minor, currency));
        let value = match (self.kind.as_str(), self.rate, amount) {
            ("percent", Some(rate), None) => CouponValue::Percent(rate),
            ("fixed", None, Some(amount)) => CouponValue::Fixed(amount),
            ("balance", None, Some(amount)) => CouponValue::Balance(amount),
            _ => return Err(broken()),
        };
        Ok(RedeemedCoupon {
            coupon: Coupon {
                code: self.code,
                description: self.description,
                value,
                valid_from: self.valid_from,
                valid_to: self.valid_to,
                redemptions_max: self.redemptions_max,
                invoices_max: self.invoices_max,
            },
            redeemed_on: self.redeemed_on,
            invoices_used: self.invoices_used,
            taken: Money::parse(&self.taken, currency).ok_or_else(broken)?,
        })
    }
}

fn list<T: DeserializeOwned>(json: Option<&str>, name: &'static str) -> Result<Vec<T>, AgreementError> {
    json.map_or_else(|| Ok(Vec::new()), |json| serde_json::from_str(json).map_err(|_| AgreementError::Broken(name)))
}

/// One row a customer, with lists as JSON: one question however many tables an agreement has. Rates are text, because JSON's
/// numbers would pass through binary floating point. What a coupon has taken off is read from the issued invoices and their
/// corrections themselves.
const AGREEMENTS: &str = "
    select c.customer_id, c.name, c.tier::text, c.currency::text, c.tax_rate, c.contract_start, c.billing_address, c.tax_id,
        (select e.ends_on from contract_ends e where e.customer_id = c.customer_id) as ends_on,
        (select json_agg(json_build_object('valid_from', t.valid_from, 'tier', t.tier) order by t.valid_from)
            from customer_tiers t where t.customer_id = c.customer_id)::text as tiers,
        (select json_agg(json_build_object(
                'name', p.name, 'off', p.off::text, 'applies_to', p.applies_to, 'first_months', p.first_months,
                'starts_on', p.starts_on, 'ends_on', p.ends_on) order by p.name)
            from customer_promotions p where p.customer_id = c.customer_id)::text as promotions,
        (select json_agg(json_build_object('valid_from', j.valid_from, 'jurisdiction', j.jurisdiction) order by j.valid_from)
            from customer_jurisdictions j where j.customer_id = c.customer_id)::text as jurisdictions,
        (select json_agg(json_build_object(
                'category', x.category, 'reason', x.reason, 'valid_from', x.valid_from, 'valid_to', x.valid_to)
                order by x.category nulls first, x.valid_from)
            from tax_exemptions x where x.customer_id = c.customer_id)::text as exemptions,
        (select json_agg(json_build_object(
                'code', k.code, 'description', k.description, 'kind', k.kind, 'rate', k.rate::text,
                'amount_minor', k.amount_minor, 'currency', k.currency, 'valid_from', k.valid_from, 'valid_to', k.valid_to,
                'redemptions_max', k.redemptions_max, 'invoices_max', k.invoices_max, 'redeemed_on', r.redeemed_on,
                'invoices_used', used.invoices, 'taken', used.taken) order by r.redeemed_on, r.code)
            from coupon_redemptions r
            join coupons k on k.code = r.code
            cross join lateral (
                select count(distinct t.invoice_id) filter (where t.amount <> 0) as invoices,
                    coalesce(sum(t.amount), 0)::text as taken
                from (
                    select i.invoice_id, split_part(d ->> 'amount', ' ', 1)::numeric as amount
                    from invoices i
                    cross join lateral jsonb_array_elements(i.snapshot -> 'invoice' -> 'taken') d
                    where i.customer_id = r.customer_id and i.status in ('issued', 'paid')
                        and i.period_start <> $2::date and d ->> 'code' = r.code
                        and not exists (
                            select from credit_notes n where n.invoice_id = i.invoice_id and n.kind = 'cancellation')
                    union all
                    select i.invoice_id, split_part(n.snapshot -> 'correction' -> 'coupons' ->> r.code, ' ', 1)::numeric
                    from credit_notes n
                    join invoices i on i.invoice_id = n.invoice_id
                    where n.customer_id = r.customer_id and n.kind = 'late_usage' and i.period_start <> $2::date
                        and n.snapshot -> 'correction' -> 'coupons' ? r.code
                        and not exists (
                            select from credit_notes x where x.invoice_id = i.invoice_id and x.kind = 'cancellation')
                    union all
                    select i.invoice_id, split_part(a.correction -> 'coupons' ->> r.code, ' ', 1)::numeric
                    from invoice_adjustments a
                    join invoices i on i.invoice_id = a.adjusted_invoice_id
                    join invoices c on c.invoice_id = a.invoice_id and c.status in ('issued', 'paid')
                    where a.customer_id = r.customer_id and i.period_start <> $2::date and a.correction -> 'coupons' ? r.code
                        and not exists (
                            select from credit_notes x
                            where x.adjustment_id = a.adjustment_id
                                or (x.kind = 'cancellation' and x.invoice_id in (a.invoice_id, a.adjusted_invoice_id)))
                ) t
            ) used
            where r.customer_id = c.customer_id)::text as coupons,
        (select json_agg(json_build_object('covers', i.snapshot -> 'covers', 'number', i.invoice_number)
                order by i.period_start, i.invoice_number)
            from invoices i
            where i.customer_id = c.customer_id and i.kind = 'prepayment' and i.status in ('issued', 'paid')
                and i.snapshot ? 'covers'
                and not exists (
                    select from credit_notes n where n.invoice_id = i.invoice_id and n.kind = 'cancellation'))::text as prepaid
    from customers c
    where $1::text[] is null or c.customer_id = any($1::text[])
    order by c.customer_id";

pub(crate) const STATEMENTS: &[Statement] = &[Statement { name: "agreements", sql: AGREEMENTS, roles: READERS }];
