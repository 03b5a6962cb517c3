//! From terms and usage to lines. Pure: the same terms and usage give the same lines, in the same order.

mod fees;
mod true_up;
mod usage_lines;

pub(crate) use fees::unit_price;

use ingest::Meter;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::currency::Currency;
use crate::days::Days;
use crate::fraction::Fraction;
use crate::money::{AmountError, Money};
use crate::price::{Marginal, Step};
use crate::quantity::{Aggregation, Quantity};
use crate::share::Share;
use crate::terms::{Reduction, Terms, TermsError};
use crate::usage::{Usage, UsageError, Windows};

/// What a line charges for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineKind {
    /// The tier's fee for the days under contract.
    BaseFee,
    /// Another monthly fee.
    RecurringFee,
    /// A fee that is charged once.
    OneOffFee,
    /// The usage of one meter.
    Usage,
    /// What is missing to a minimum commitment.
    TrueUp,
    /// A fee paid for twelve months at once.
    Prepayment,
}

impl LineKind {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::BaseFee, Self::RecurringFee, Self::OneOffFee, Self::Usage, Self::TrueUp, Self::Prepayment];

    /// The name used in SQL and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BaseFee => "base_fee",
            Self::RecurringFee => "recurring_fee",
            Self::OneOffFee => "one_off_fee",
            Self::Usage => "usage",
            Self::TrueUp => "true_up",
            Self::Prepayment => "prepayment",
        }
    }
}

/// How a line's amount came about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pricing {
    /// `flat`, `per_unit`, `graduated`, `volume` or `package`; `fee` of a fee.
    pub model: String,
    /// How windows became the quantity, on a usage line.
    pub aggregation: Option<Aggregation>,
    /// The prices used, in the order of the units.
    pub steps: Vec<Step>,
    /// What further usage costs.
    pub marginal: Marginal,
    /// The part of a month's charge that these days are: 1 unless the charge is for the whole month.
    pub part_of_month: Fraction,
    /// What the line costs less by.
    pub reduction: Option<Reduction>,
    /// The amount in minor units before it is reduced and rounded.
    pub list_minor: Fraction,
}

/// One line of an invoice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// What the line charges for.
    pub kind: LineKind,
    /// The fee's name, the meter's, or `commitment`.
    pub item: String,
    /// The line in words.
    pub description: String,
    /// The days it is for.
    pub days: Days,
    /// Which of the terms' stretches it belongs to, from 0.
    pub stretch: usize,
    /// How much.
    pub quantity: Quantity,
    /// Of what.
    pub unit: String,
    /// How the amount came about.
    pub pricing: Pricing,
    /// The windows of a usage line.
    pub windows: Option<Windows>,
    /// Which tax rate holds for it.
    pub tax_category: String,
    /// The amount in minor units before rounding.
    pub exact_minor: Fraction,
    /// What is charged.
    pub amount: Money,
}

impl Line {
    /// The meter of a usage line.
    pub fn meter(&self) -> Option<Meter> {
        if self.kind == LineKind::Usage { Meter::parse_stored(&self.item).ok() } else { None }
    }
}

/// Usage cannot be rated. Stop for this customer: the figures are wrong, and trying again gives the same.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RatingError {
    /// The terms contradict themselves.
    #[error(transparent)]
    Terms(#[from] TermsError),
    /// The usage cannot be summed.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// A line's amount does not fit.
    #[error("line {line}: {source}")]
    Line {
        /// The line's fee or meter.
        line: String,
        /// What is wrong with the amount.
        source: AmountError,
    },
}

/// The lines of a month, and the priced meters that reported nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rated {
    /// The lines in their order: fees, usage, true-ups; each in the order of days, then of the card.
    pub lines: Vec<Line>,
    /// Priced meters that no window reported: nothing was charged for them, which does not mean that nothing was used.
    pub meters_without_usage: Vec<Meter>,
}

/// Rates a month.
///
/// A line ends where its price changes: at 00:00 UTC of a change of tier or card, and where a phase that holds for it begins or
/// ends. Monthly charges of a part are prorated by day, so that the parts sum to the month. Usage is split by its windows;
/// tiers, packages and allowances begin anew and are not prorated.
pub fn rate(terms: &Terms, usage: &Usage) -> Result<Rated, RatingError> {
    let days = terms.check()?;
    let mut lines = Vec::new();
    for (index, stretch) in terms.stretches.iter().enumerate() {
        lines.extend(fees::lines(terms, index, stretch)?);
    }
    let mut meters_without_usage = Vec::new();
    for (index, stretch) in terms.stretches.iter().enumerate() {
        for price in stretch.card.prices() {
            lines.extend(usage_lines::lines(terms, index, stretch, price, usage)?);
            let is_used = usage.of(price.meter, days)?.is_some();
            if !is_used && !meters_without_usage.contains(&price.meter) {
                meters_without_usage.push(price.meter);
            }
        }
    }
    for (index, stretch) in terms.stretches.iter().enumerate() {
        let true_up = true_up::line(terms, index, stretch, &lines)?;
        lines.extend(true_up);
    }
    Ok(Rated { lines, meters_without_usage })
}

/// An exact amount of minor units, less a reduction.
fn reduced(list_minor: &Fraction, reduction: Option<&Reduction>) -> Option<Fraction> {
    list_minor.checked_mul(&reduction.map_or(Share::WHOLE, |reduction| reduction.off.rest()).exact())
}

fn minor_per_major(currency: Currency) -> Fraction {
    Fraction::whole(i128::from(currency.minor_per_major()))
}

fn failed(line: &str) -> impl Fn(AmountError) -> RatingError + '_ {
    move |source| RatingError::Line { line: line.to_owned(), source }
}

/// The meter's name for people; a sample meter's own name.
pub fn describe(meter: Meter) -> &'static str {
    match meter {
        Meter::LogStorageGb => "Log storage",
        Meter::NatGatewayBytes => "NAT gateway traffic",
        Meter::CloudTrailEvents => "CloudTrail events",
        Meter::ConfigRuleEvaluations => "Config rule evaluations",
        Meter::GuardDutyFindings => "GuardDuty findings",
        Meter::SecurityHubFindings => "Security Hub findings",
        Meter::Accounts => "Accounts",
        Meter::OrganizationalUnits => "Organizational units",
        Meter::ServiceControlPolicies => "Service control policies",
        Meter::ArchiveStorageGb => "Archive storage",
        Meter::DataTransferBytes => "Data transfer",
        Meter::ExportGenerations | Meter::Sample(_) => meter.as_str(),
    }
}

#[cfg(test)]
mod tests;
