//! From lines to what is due: the declared order of the arithmetic, in one place.
//!
//! lines → commitment true-up → subtotal → volume discount and coupons, in the order of the card → net → tax → total →
//! adjustments of earlier periods → prepaid credit → due.

use chrono::NaiveDate;
use ingest::Meter;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::allocation::allocate;
use crate::correction::Correction;
use crate::coupon::{CouponValue, RedeemedCoupon};
use crate::currency::Currency;
use crate::days::Days;
use crate::money::{AmountError, Money};
use crate::rate_card::{Deduction, Order, VolumeDiscount};
use crate::rating::{self, Line, RatingError};
use crate::share::Share;
use crate::tax::{TaxRate, rate_for};
use crate::terms::{Terms, TermsError};
use crate::usage::Usage;

/// What an invoice is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InvoiceKind {
    /// A month, in arrears.
    Monthly,
    /// The last month of a contract.
    Final,
    /// A fee for twelve months at once, in advance.
    Prepayment,
    /// Late usage of earlier periods, where no next invoice can carry it.
    Adjustment,
}

/// The amounts below the lines, of an invoice or of a difference between two. Discounts and coupons are positive where they
/// lower the net.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// The sum of the lines.
    pub subtotal: Money,
    /// The volume discount.
    pub volume_discount: Money,
    /// What coupons take off.
    pub coupons: Money,
    /// What is taxed: subtotal less discount and coupons.
    pub net: Money,
    /// The sum of the taxes.
    pub tax: Money,
    /// Net and tax.
    pub total: Money,
}

/// Something that is taken off the subtotal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// `volume discount`, `percent coupons` or `fixed coupons`.
    pub deduction: String,
    /// The coupon.
    pub code: Option<String>,
    /// The words on the invoice.
    pub description: String,
    /// What was left when its turn came.
    pub basis: Money,
    /// The share of it, of a discount or a percent coupon.
    pub rate: Option<Share>,
    /// What is taken off.
    pub amount: Money,
    /// The parts of it, one for each line in their order; they sum to the amount.
    pub parts: Vec<Money>,
}

/// The tax of the lines that have the same rate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaxLine {
    /// The rate, where it holds, and why it may be nothing.
    pub rate: TaxRate,
    /// What of the net it is on.
    pub basis: Money,
    /// The tax.
    pub amount: Money,
}

/// What follows after the total.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settlement {
    /// Late usage of earlier periods, which this invoice carries beside its own total.
    pub adjustments: Vec<Correction>,
    /// The total with the adjustments.
    pub payable: Money,
    /// What is paid from prepaid credit. It lowers what is due, never a tax.
    pub credit: Money,
    /// What is left to pay.
    pub due: Money,
}

/// An invoice as a value: everything that is calculated, nothing of numbers, dates of issue or states.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invoice {
    /// What it is for.
    pub kind: InvoiceKind,
    /// Whose.
    pub customer: String,
    /// The days it is for.
    pub period: Days,
    /// When the supply counts as made, by tax law: the last day of the period.
    pub tax_point: NaiveDate,
    /// The currency of every amount.
    pub currency: Currency,
    /// What is charged.
    pub lines: Vec<Line>,
    /// What each line comes to after its parts of discounts and coupons, in the order of the lines.
    pub line_nets: Vec<Money>,
    /// What is taken off, in the order in which it is.
    pub taken: Vec<Taken>,
    /// The taxes, by rate.
    pub taxes: Vec<TaxLine>,
    /// The amounts below the lines.
    pub totals: Totals,
    /// What follows after the total.
    pub settlement: Settlement,
    /// The order of the arithmetic, by the names of its steps.
    pub order: Vec<String>,
    /// Priced meters that no window reported: nothing was charged for them, which does not mean that nothing was used.
    #[serde(with = "meter_names")]
    pub meters_without_usage: Vec<Meter>,
}

/// An invoice cannot be drafted. Stop for this customer: the figures are wrong, and trying again gives the same.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DraftError {
    /// A line cannot be formed.
    #[error(transparent)]
    Rating(#[from] RatingError),
    /// The terms contradict themselves.
    #[error(transparent)]
    Terms(#[from] TermsError),
    /// An amount below the lines cannot be formed.
    #[error("total: {0}")]
    Total(#[from] AmountError),
}

/// Drafts the invoice of a month: rates the usage and adds it up. A pure function; the same figures give the same draft.
pub fn draft(terms: &Terms, usage: &Usage) -> Result<Invoice, DraftError> {
    let rated = rating::rate(terms, usage)?;
    let period = terms.days()?;
    let kind = if terms.contract_end == Some(period.end()) { InvoiceKind::Final } else { InvoiceKind::Monthly };
    let order = terms.closing_card().map_or_else(Order::default, |card| card.order());
    let discount = terms.closing_card().and_then(|card| card.volume_discount());
    let sums = Sums { period, lines: rated.lines, currency: terms.currency, order, discount };
    let mut invoice = sums.invoice(kind, &terms.customer, &terms.coupons, &terms.taxes)?;
    invoice.meters_without_usage = rated.meters_without_usage;
    Ok(invoice)
}

/// Lines that are to be added up.
pub(crate) struct Sums {
    pub(crate) period: Days,
    pub(crate) lines: Vec<Line>,
    pub(crate) currency: Currency,
    pub(crate) order: Order,
    pub(crate) discount: Option<VolumeDiscount>,
}

impl Sums {
    pub(crate) fn invoice(
        self,
        kind: InvoiceKind,
        customer: &str,
        coupons: &[RedeemedCoupon],
        taxes: &[TaxRate],
    ) -> Result<Invoice, DraftError> {
        let zero = Money::zero(self.currency);
        let subtotal = Money::sum(self.lines.iter().map(|line| line.amount), self.currency)?;
        let mut left = Left { whole: subtotal, lines: self.lines.iter().map(|line| line.amount).collect() };
        let mut taken = Vec::new();
        for deduction in self.order.deductions {
            match deduction {
                Deduction::VolumeDiscount => taken.extend(volume_discount(&mut left, self.discount)?),
                Deduction::PercentCoupons | Deduction::FixedCoupons => {
                    taken.extend(take_coupons(&mut left, deduction, coupons, self.period)?);
                }
            }
        }
        let sum = |is_discount: bool| {
            let of = |taken: &&Taken| taken.code.is_none() == is_discount;
            Money::sum(taken.iter().filter(of).map(|taken| taken.amount), self.currency)
        };
        let (volume_discount, coupons) = (sum(true)?, sum(false)?);
        let net = left.whole;
        let taxes = tax_lines(&self.lines, &left.lines, taxes, self.currency)?;
        let tax = Money::sum(taxes.iter().map(|tax| tax.amount), self.currency)?;
        let total = net.checked_add(tax)?;
        Ok(Invoice {
            kind,
            customer: customer.to_owned(),
            period: self.period,
            tax_point: self.period.last(),
            currency: self.currency,
            lines: self.lines,
            line_nets: left.lines,
            taken,
            taxes,
            totals: Totals { subtotal, volume_discount, coupons, net, tax, total },
            settlement: Settlement { adjustments: Vec::new(), payable: total, credit: zero, due: total },
            order: self.order.names().into_iter().map(str::to_owned).collect(),
            meters_without_usage: Vec::new(),
        })
    }
}

impl Invoice {
    /// An invoice of nothing of its own, which carries adjustments of periods within these days.
    pub fn of_adjustments(customer: &str, period: Days, currency: Currency) -> Self {
        let zero = Money::zero(currency);
        Self {
            kind: InvoiceKind::Adjustment,
            customer: customer.to_owned(),
            period,
            tax_point: period.last(),
            currency,
            lines: Vec::new(),
            line_nets: Vec::new(),
            taken: Vec::new(),
            taxes: Vec::new(),
            totals: Totals::zero(currency),
            settlement: Settlement { adjustments: Vec::new(), payable: zero, credit: zero, due: zero },
            order: Vec::new(),
            meters_without_usage: Vec::new(),
        }
    }

    /// The invoice with what follows after its total: adjustments of earlier periods that it carries, then as much of the
    /// customer's prepaid credit as there is and is needed.
    pub fn settled(mut self, adjustments: Vec<Correction>, credit_available: Money) -> Result<Self, AmountError> {
        let zero = Money::zero(self.currency);
        let carried = Money::sum(adjustments.iter().map(|correction| correction.totals.total), self.currency)?;
        let payable = self.totals.total.checked_add(carried)?;
        let credit = if payable.exceeds(zero)? { credit_available.at_most(payable)? } else { zero };
        let credit = if credit.is_negative() { zero } else { credit };
        self.settlement = Settlement { adjustments, payable, credit, due: payable.checked_sub(credit)? };
        Ok(self)
    }

    /// The one tax rate of the invoice; `None` where its lines have several.
    pub fn tax_rate(&self) -> Option<Share> {
        match self.taxes.as_slice() {
            [only] => Some(only.rate.rate),
            _ => None,
        }
    }
}

/// What is left while things are taken off: of the whole, and of each line. The lines always sum to the whole.
struct Left {
    whole: Money,
    lines: Vec<Money>,
}

impl Left {
    /// Takes an amount off, and off each line its part, by largest remainder.
    fn take(&mut self, amount: Money) -> Result<Vec<Money>, AmountError> {
        let parts = allocate(amount, &self.lines)?;
        for (line, part) in self.lines.iter_mut().zip(&parts) {
            *line = line.checked_sub(*part)?;
        }
        self.whole = self.whole.checked_sub(amount)?;
        Ok(parts)
    }
}

/// The volume discount; of nothing where the threshold is not exceeded, so that the invoice says that there is one.
fn volume_discount(left: &mut Left, discount: Option<VolumeDiscount>) -> Result<Option<Taken>, AmountError> {
    let Some(VolumeDiscount { threshold, rate }) = discount else { return Ok(None) };
    let basis = left.whole;
    let amount = if basis.exceeds(threshold)? { basis.share(rate)? } else { Money::zero(basis.currency()) };
    Ok(Some(Taken {
        deduction: Deduction::VolumeDiscount.as_str().to_owned(),
        code: None,
        description: format!("Volume discount ({} of a subtotal above {threshold})", rate.to_percent_text()),
        basis,
        rate: Some(rate),
        amount,
        parts: left.take(amount)?,
    }))
}

/// The coupons of one sort, one after the other, each off what the others left; never more than that.
fn take_coupons(
    left: &mut Left,
    deduction: Deduction,
    coupons: &[RedeemedCoupon],
    period: Days,
) -> Result<Vec<Taken>, AmountError> {
    let is_percent = |coupon: &RedeemedCoupon| matches!(coupon.coupon.value, CouponValue::Percent(_));
    let wanted = deduction == Deduction::PercentCoupons;
    let mut of_sort: Vec<&RedeemedCoupon> =
        coupons.iter().filter(|coupon| is_percent(coupon) == wanted && coupon.applies_to(period)).collect();
    of_sort.sort_by_key(|coupon| coupon.turn());
    let mut taken = Vec::new();
    for redeemed in of_sort {
        let basis = left.whole;
        let (rate, amount) = match redeemed.coupon.value {
            CouponValue::Percent(rate) => (Some(rate), basis.share(rate)?),
            CouponValue::Fixed(amount) => (None, amount.at_most(basis)?),
            CouponValue::Balance(whole) => (None, whole.checked_sub(redeemed.taken)?.at_most(basis)?),
        };
        let words = match rate {
            Some(rate) => {
                format!("{} ({}, {})", redeemed.coupon.description, redeemed.coupon.code, rate.to_percent_text())
            }
            None => format!("{} ({})", redeemed.coupon.description, redeemed.coupon.code),
        };
        taken.push(Taken {
            deduction: deduction.as_str().to_owned(),
            code: Some(redeemed.coupon.code.clone()),
            description: words,
            basis,
            rate,
            amount,
            parts: left.take(amount)?,
        });
    }
    Ok(taken)
}

/// The taxes by rate, in the order in which the lines first need them. An invoice without lines has the general rate, on
/// nothing.
fn tax_lines(
    lines: &[Line],
    nets: &[Money],
    rates: &[TaxRate],
    currency: Currency,
) -> Result<Vec<TaxLine>, DraftError> {
    let mut bases: Vec<(&TaxRate, Money)> = Vec::new();
    for (line, net) in lines.iter().zip(nets) {
        let rate =
            rate_for(rates, &line.tax_category).ok_or_else(|| TermsError::NoTaxRate(line.tax_category.clone()))?;
        match bases.iter_mut().find(|(known, _)| *known == rate) {
            Some((_, basis)) => *basis = basis.checked_add(*net)?,
            None => bases.push((rate, *net)),
        }
    }
    if bases.is_empty() {
        bases.extend(rates.iter().find(|rate| rate.category.is_none()).map(|rate| (rate, Money::zero(currency))));
    }
    let tax =
        |(rate, basis): (&TaxRate, Money)| Ok(TaxLine { rate: rate.clone(), basis, amount: basis.share(rate.rate)? });
    bases.into_iter().map(tax).collect()
}

impl Totals {
    /// Nothing.
    pub fn zero(currency: Currency) -> Self {
        let zero = Money::zero(currency);
        Self { subtotal: zero, volume_discount: zero, coupons: zero, net: zero, tax: zero, total: zero }
    }

    /// The sums, amount by amount.
    pub fn checked_add(&self, other: &Self) -> Result<Self, AmountError> {
        self.with(other, Money::checked_add)
    }

    /// The differences, amount by amount.
    pub fn checked_sub(&self, other: &Self) -> Result<Self, AmountError> {
        self.with(other, Money::checked_sub)
    }

    /// Whether net and total follow from the other amounts.
    pub fn add_up(&self) -> bool {
        let net = self.subtotal.checked_sub(self.volume_discount).and_then(|left| left.checked_sub(self.coupons));
        net == Ok(self.net) && self.net.checked_add(self.tax) == Ok(self.total)
    }

    fn with(&self, other: &Self, on: fn(Money, Money) -> Result<Money, AmountError>) -> Result<Self, AmountError> {
        Ok(Self {
            subtotal: on(self.subtotal, other.subtotal)?,
            volume_discount: on(self.volume_discount, other.volume_discount)?,
            coupons: on(self.coupons, other.coupons)?,
            net: on(self.net, other.net)?,
            tax: on(self.tax, other.tax)?,
            total: on(self.total, other.total)?,
        })
    }
}

impl InvoiceKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Monthly, Self::Final, Self::Prepayment, Self::Adjustment];

    /// The name used in SQL and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Monthly => "monthly",
            Self::Final => "final",
            Self::Prepayment => "prepayment",
            Self::Adjustment => "adjustment",
        }
    }
}

mod meter_names {
    use ingest::Meter;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(meters: &[Meter], serializer: S) -> Result<S::Ok, S::Error> {
        let names: Vec<&str> = meters.iter().map(|meter| meter.as_str()).collect();
        names.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Meter>, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        names.iter().map(|name| Meter::parse_stored(name).map_err(serde::de::Error::custom)).collect()
    }
}

#[cfg(test)]
mod tests;
