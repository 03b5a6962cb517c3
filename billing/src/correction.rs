//! What an issued invoice is corrected by when its period is counted again: the difference, split into its parts.
//!
//! A positive difference rides on the next invoice, a negative one is a credit note. Recounting uses the invoice's own terms, so
//! a correction only ever says what late usage, or another owner of an account, changed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::currency::Currency;
use crate::days::Days;
use crate::fraction::Fraction;
use crate::invoice::{Invoice, TaxLine, Totals};
use crate::money::{AmountError, Money};
use crate::rating::LineKind;
use crate::tax::TaxRate;

/// What one line is corrected by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineCorrection {
    /// What the line charges for.
    pub kind: LineKind,
    /// The fee's name, the meter's, or `commitment`.
    pub item: String,
    /// The days it is for.
    pub days: Days,
    /// The line in words.
    pub description: String,
    /// The unit.
    pub unit: String,
    /// By how much the quantity changes, in priced units.
    pub quantity: Fraction,
    /// By how much the amount changes.
    pub amount: Money,
}

/// What an invoice is corrected by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Correction {
    /// The number of the corrected invoice.
    pub invoice: String,
    /// The period that was counted again.
    pub period: Days,
    /// Why.
    pub cause: String,
    /// The lines that change.
    pub lines: Vec<LineCorrection>,
    /// The taxes that change, with the invoice's own rates.
    pub taxes: Vec<TaxLine>,
    /// The amounts below the lines that change.
    pub totals: Totals,
    /// By how much each coupon takes off more, by its code: what of a balance is used follows from it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub coupons: BTreeMap<String, Money>,
}

/// What an invoice and its corrections come to so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    currency: Currency,
    period: Days,
    lines: BTreeMap<(LineKind, String, Days), LineCorrection>,
    taxes: Vec<TaxLine>,
    totals: Totals,
    coupons: BTreeMap<String, Money>,
}

/// A correction cannot be taken off an invoice.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CorrectionError {
    /// Stop: more would be credited than was charged.
    #[error("a credit of {credit} would leave {left} of the {component}")]
    ExceedsInvoice {
        /// `net`, `tax` or `total`.
        component: &'static str,
        /// What is to be credited of it.
        credit: Money,
        /// What would be left, below nothing.
        left: Money,
    },
    /// Stop: the figures are wrong.
    #[error(transparent)]
    Amount(#[from] AmountError),
}

impl Standing {
    /// An invoice before any correction: its own amounts, without what it carried for others.
    pub fn of(invoice: &Invoice) -> Result<Self, AmountError> {
        let mut standing = Self {
            currency: invoice.currency,
            period: invoice.period,
            lines: BTreeMap::new(),
            taxes: invoice.taxes.clone(),
            totals: invoice.totals,
            coupons: BTreeMap::new(),
        };
        for taken in &invoice.taken {
            if let Some(code) = &taken.code {
                add_coupon(&mut standing.coupons, code, taken.amount)?;
            }
        }
        for line in &invoice.lines {
            standing.add_line(&LineCorrection {
                kind: line.kind,
                item: line.item.clone(),
                days: line.days,
                description: line.description.clone(),
                unit: line.unit.clone(),
                quantity: line.quantity.exact(),
                amount: line.amount,
            })?;
        }
        Ok(standing)
    }

    /// The same after a correction, positive or negative.
    pub fn corrected(mut self, correction: &Correction) -> Result<Self, AmountError> {
        for line in &correction.lines {
            self.add_line(line)?;
        }
        for tax in &correction.taxes {
            add_tax(&mut self.taxes, &tax.rate, tax.basis, tax.amount)?;
        }
        self.totals = self.totals.checked_add(&correction.totals)?;
        add_coupons(&mut self.coupons, &correction.coupons)?;
        Ok(self)
    }

    /// The amounts below the lines.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// What is missing to another count of the same period; `None` where nothing is.
    pub fn correction_to(
        &self,
        recount: &Invoice,
        invoice: &str,
        cause: &str,
    ) -> Result<Option<Correction>, AmountError> {
        let target = Self::of(recount)?;
        let mut lines = Vec::new();
        let empty = |line: &LineCorrection| LineCorrection {
            quantity: Fraction::zero(),
            amount: Money::zero(self.currency),
            ..line.clone()
        };
        let keys: std::collections::BTreeSet<_> = self.lines.keys().chain(target.lines.keys()).collect();
        for key in keys {
            let (before, after) = match (self.lines.get(key), target.lines.get(key)) {
                (Some(before), Some(after)) => (before.clone(), after.clone()),
                (Some(before), None) => (before.clone(), empty(before)),
                (None, Some(after)) => (empty(after), after.clone()),
                (None, None) => continue,
            };
            let quantity = after.quantity.checked_sub(&before.quantity).ok_or(AmountError::OutOfRange)?;
            let amount = after.amount.checked_sub(before.amount)?;
            if !quantity.is_zero() || !amount.is_zero() {
                lines.push(LineCorrection { quantity, amount, ..after });
            }
        }
        let mut taxes = target.taxes;
        for tax in &self.taxes {
            add_tax(&mut taxes, &tax.rate, tax.basis.checked_neg()?, tax.amount.checked_neg()?)?;
        }
        taxes.retain(|tax| !tax.basis.is_zero() || !tax.amount.is_zero());
        let mut coupons = target.coupons;
        add_coupons(&mut coupons, &negated_coupons(&self.coupons)?)?;
        let totals = target.totals.checked_sub(&self.totals)?;
        if lines.is_empty() && taxes.is_empty() && totals == Totals::zero(self.currency) {
            return Ok(None);
        }
        Ok(Some(Correction {
            invoice: invoice.to_owned(),
            period: self.period,
            cause: cause.to_owned(),
            lines,
            taxes,
            totals,
            coupons,
        }))
    }

    /// The correction that takes everything back: a full credit.
    pub fn cancellation(&self, invoice: &str, cause: &str) -> Result<Correction, AmountError> {
        let lines = self.lines.values().map(|line| {
            let quantity = Fraction::zero().checked_sub(&line.quantity).ok_or(AmountError::OutOfRange)?;
            Ok(LineCorrection { quantity, amount: line.amount.checked_neg()?, ..line.clone() })
        });
        let taxes = self.taxes.iter().map(|tax| {
            Ok(TaxLine { rate: tax.rate.clone(), basis: tax.basis.checked_neg()?, amount: tax.amount.checked_neg()? })
        });
        Ok(Correction {
            invoice: invoice.to_owned(),
            period: self.period,
            cause: cause.to_owned(),
            lines: lines.collect::<Result<_, AmountError>>()?,
            taxes: taxes.collect::<Result<_, AmountError>>()?,
            totals: Totals::zero(self.currency).checked_sub(&self.totals)?,
            coupons: negated_coupons(&self.coupons)?,
        })
    }

    /// Whether a credit can be taken off: what is left of net, tax and total is never below nothing.
    pub fn check_credit(&self, correction: &Correction) -> Result<(), CorrectionError> {
        let left = self.totals.checked_add(&correction.totals)?;
        for (component, left, change) in [
            ("net", left.net, correction.totals.net),
            ("tax", left.tax, correction.totals.tax),
            ("total", left.total, correction.totals.total),
        ] {
            if left.is_negative() {
                return Err(CorrectionError::ExceedsInvoice { component, credit: change.checked_neg()?, left });
            }
        }
        Ok(())
    }

    fn add_line(&mut self, line: &LineCorrection) -> Result<(), AmountError> {
        let key = (line.kind, line.item.clone(), line.days);
        match self.lines.get_mut(&key) {
            None => drop(self.lines.insert(key, line.clone())),
            Some(known) => {
                known.quantity = known.quantity.checked_add(&line.quantity).ok_or(AmountError::OutOfRange)?;
                known.amount = known.amount.checked_add(line.amount)?;
            }
        }
        Ok(())
    }
}

impl Correction {
    /// Whether it is to be paid: then it rides on an invoice, else it is a credit note.
    pub fn is_charge(&self) -> bool {
        0 < self.totals.total.minor()
    }
}

/// Adds what coupons take off; one that takes off nothing is left out.
pub(crate) fn add_coupons(
    coupons: &mut BTreeMap<String, Money>,
    more: &BTreeMap<String, Money>,
) -> Result<(), AmountError> {
    more.iter().try_for_each(|(code, amount)| add_coupon(coupons, code, *amount))
}

pub(crate) fn negated_coupons(coupons: &BTreeMap<String, Money>) -> Result<BTreeMap<String, Money>, AmountError> {
    coupons.iter().map(|(code, amount)| Ok((code.clone(), amount.checked_neg()?))).collect()
}

fn add_coupon(coupons: &mut BTreeMap<String, Money>, code: &str, amount: Money) -> Result<(), AmountError> {
    let known = coupons.entry(code.to_owned()).or_insert_with(|| Money::zero(amount.currency()));
    *known = known.checked_add(amount)?;
    if known.is_zero() {
        coupons.remove(code);
    }
    Ok(())
}

fn add_tax(taxes: &mut Vec<TaxLine>, rate: &TaxRate, basis: Money, amount: Money) -> Result<(), AmountError> {
    match taxes.iter_mut().find(|tax| tax.rate == *rate) {
        Some(tax) => {
            tax.basis = tax.basis.checked_add(basis)?;
            tax.amount = tax.amount.checked_add(amount)?;
        }
        None => taxes.push(TaxLine { rate: rate.clone(), basis, amount }),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
