//! What one row of an export counts as.

use std::borrow::Cow;

use super::columns::Fields;
use super::mapping::{Measure, Rule, rule_for};
use crate::{
    AccountId, Dimensions, ExportGeneration, FactKey, FactValue, Meter, NotCounted, Quantity, Reason, Rules, Source,
    Timestamp, UsageFact,
};

/// The provider whose rows count.
const PROVIDER: &str = "AWS";
/// The charge category that is usage; credits, taxes, purchases and adjustments are money.
const USAGE: &str = "Usage";
/// How far a charge may lie ahead of the reader's clock, in seconds.
const AHEAD_SECONDS_MAX: i64 = 3_600;
/// Bytes of a resource's name that are kept before the row's number.
const RESOURCE_BYTES_MAX: usize = 480;

/// One payer's billing period, whose rows come and go together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Scope {
    pub(super) billing_account: String,
    pub(super) period: Timestamp,
}

impl Scope {
    /// Its name: `focus/EXPORT/PAYER/2026-10-01`.
    pub(super) fn name(&self, export: &str) -> String {
        format!("focus/{export}/{}/{}", self.billing_account, self.period.day())
    }
}

/// The period of a row and what the row counts as.
pub(super) struct RowRead {
    /// `None` where the row does not say.
    pub(super) scope: Option<Scope>,
    pub(super) outcome: Outcome,
}

#[derive(Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one exists at a time, and most are the large one")]
pub(super) enum Outcome {
    Fact(UsageFact<'static>),
    NotCounted(NotCounted),
    DeadLetter(Reason),
}

/// Reads a row, the `number`th of its file from 1, of this edition of this export.
pub(super) fn read(row: &Fields<'_>, number: u64, export: &str, generation: u64, rules: Rules<'_>) -> RowRead {
    let scope = scope(row);
    let outcome = match outcome(row, scope.as_ref(), number, export, generation, rules) {
        Ok(outcome) => outcome,
        Err(reason) => Outcome::DeadLetter(reason),
    };
    RowRead { scope, outcome }
}

fn scope(row: &Fields<'_>) -> Option<Scope> {
    let is_ours = row.provider == PROVIDER && UsageFact::is_name(row.billing_account);
    let period = Timestamp::parse_declared_utc(row.billing_period_start).ok().filter(|_| is_ours)?;
    Some(Scope { billing_account: row.billing_account.to_owned(), period })
}

fn outcome(
    row: &Fields<'_>,
    scope: Option<&Scope>,
    number: u64,
    export: &str,
    generation: u64,
    rules: Rules<'_>,
) -> Result<Outcome, Reason> {
    if row.provider != PROVIDER {
        return Ok(Outcome::NotCounted(NotCounted::FocusOtherProvider));
    }
    // A sub-account that is none is looked at before all else: nobody could say whose usage the row is.
    let account = match row.sub_account {
        "" => return Err(Reason::AccountMissing),
        text => AccountId::parse(text).map_err(|_| Reason::AccountMalformed)?,
    };
    if row.charge_category != USAGE {
        return Ok(Outcome::NotCounted(NotCounted::FocusNotUsage));
    }
    let Some(rule) = rule_for(row) else { return Ok(Outcome::NotCounted(NotCounted::FocusNoMeter)) };
    let scope = scope.ok_or(Reason::RowMalformed)?;
    let time = instant(row.charge_period_start)?;
    if rules.now.saturating_add_secs(AHEAD_SECONDS_MAX) < time {
        return Err(Reason::EventTimeInFuture);
    }
    let end = instant(row.charge_period_end)?;
    let value = value(row, rule, scope.period)?;
    let region = match row.region {
        "" => Cow::Borrowed(Dimensions::NONE),
        region if Dimensions::is_value(region) => Cow::Owned(region.to_owned()),
        _ => return Err(Reason::DimensionMalformed),
    };
    let generation_of = ExportGeneration { scope: Cow::Owned(scope.name(export)), number: generation };
    let key = FactKey {
        meter: rule.meter,
        account,
        resource: Cow::Owned(resource(row, number)),
        time,
        export: Some(generation_of),
    };
    let dimensions = Dimensions { region, category: Cow::Borrowed(Dimensions::NONE) };
    let fact = UsageFact { key, revision: generation, dimensions, end: Some(end), value: FactValue::Amount(value) };
    if !rules.takes(Source::FocusExport, &fact) {
        return Ok(Outcome::NotCounted(NotCounted::NotTheDeclaredSource));
    }
    let definition = rules.meters.get(fact.key.meter).ok_or(Reason::MeterUnknown)?;
    fact.check(definition).map_err(|_| Reason::FactMalformed)?;
    Ok(Outcome::Fact(fact))
}

/// The columns of times are UTC by definition (FOCUS, "Date/Time Format"); AWS and others write no zone.
fn instant(text: &str) -> Result<Timestamp, Reason> {
    if text.is_empty() {
        return Err(Reason::EventTimeMissing);
    }
    Timestamp::parse_declared_utc(text).map_err(|_| Reason::EventTimeMalformed)
}

/// The quantity in the meter's raw units, exact: bytes, byte-seconds, or one by one.
fn value(row: &Fields<'_>, rule: &Rule, period: Timestamp) -> Result<Quantity, Reason> {
    let quantity: Quantity = row.consumed_quantity.parse().map_err(|_| Reason::QuantityMalformed)?;
    let factor = match rule.measure {
        Measure::Each => 1,
        Measure::Gib => 1 << 30,
        Measure::GibMonths => {
            let period_end = instant(row.billing_period_end).map_err(|_| Reason::RowMalformed)?;
            let seconds = (period_end.micros() - period.micros()) / 1_000_000;
            if seconds <= 0 {
                return Err(Reason::RowMalformed);
            }
            i128::from(seconds) << 30
        }
    };
    quantity.checked_mul(factor).ok_or(Reason::QuantityMalformed)
}

/// What a row measures, whoever's it is and whatever it is declared for; `None` if it is usage of no meter, or unreadable.
pub(super) fn measured(row: &Fields<'_>) -> Option<(Meter, Quantity)> {
    let rule = rule_for(row).filter(|_| row.provider == PROVIDER && row.charge_category == USAGE)?;
    let period = scope(row)?.period;
    Some((rule.meter, value(row, rule, period).ok()?))
}

/// A name of its own for every row: rows of one resource and hour add up, they do not replace each other.
fn resource(row: &Fields<'_>, number: u64) -> String {
    let named = if row.resource.is_empty() { row.service } else { row.resource };
    let mut name: String = named.chars().filter(|c| !c.is_control()).collect();
    let cut = (0..=RESOURCE_BYTES_MAX.min(name.len())).rev().find(|at| name.is_char_boundary(*at));
    name.truncate(cut.unwrap_or_default());
    format!("{name}#{number}")
}
