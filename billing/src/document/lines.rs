//! The lines of a document.

use serde::{Deserialize, Serialize};

use crate::correction::LineCorrection;
use crate::currency::Currency;
use crate::document::{PeriodDocument, price_text, quantity_text};
use crate::fraction::Fraction;
use crate::money::Money;
use crate::price::Step;
use crate::rating::{Line, LineKind};

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct LineDocument {
    /// The place in the invoice, from 1.
    pub position: i32,
    /// `base_fee`, `recurring_fee`, `one_off_fee`, `usage`, `true_up` or `prepayment`.
    pub kind: String,
    /// The fee's name on the rate card, the meter's, or `commitment`.
    pub item: String,
    /// What is counted, on a usage line.
    pub meter: Option<String>,
    /// The line in words.
    pub description: String,
    /// The days it is for.
    pub days: PeriodDocument,
    /// The quantity; cut off after 12 places where it does not end before.
    pub quantity: String,
    /// The exact quantity's dividend: what was counted, in raw units. None on a correction.
    pub quantity_raw: Option<String>,
    /// The exact quantity's divisor: how many raw units make one unit. None on a correction.
    pub quantity_raw_per_unit: Option<String>,
    /// The unit.
    pub unit: String,
    /// `fee`, `flat`, `per_unit`, `graduated`, `volume` or `package`. None on a correction.
    pub model: Option<String>,
    /// How windows became the quantity: `sum`, `peak` or `time_weighted`; on a usage line.
    pub aggregation: Option<String>,
    /// What one further unit costs, or so many as `unit_price_per` says. None on a correction.
    pub unit_price: Option<String>,
    /// How many units cost that: `1`, or the size of a package.
    pub unit_price_per: Option<String>,
    /// The prices used, in the order of the units.
    pub steps: Vec<StepDocument>,
    /// The part of a month's charge that the days are: `1` or a fraction `a/b`.
    pub part_of_month: Option<String>,
    /// What the line costs less by.
    pub reduction: Option<ReductionDocument>,
    /// The windows the usage came from.
    pub windows: Option<WindowsDocument>,
    /// Which tax rate holds for it.
    pub tax_category: Option<String>,
    /// The exact amount before rounding, in minor units: a whole number or a fraction `a/b`. None on a correction.
    pub exact_minor: Option<String>,
    /// What is charged.
    pub amount: String,
    /// What of it is left after its part of discounts and coupons. None on a correction.
    pub net: Option<String>,
}

/// Units charged at one price.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct StepDocument {
    /// Where these units begin, counted from 0.
    pub from: String,
    /// How many.
    pub quantity: String,
    /// What one costs, or so many as `per` says.
    pub price: String,
    /// How many cost that: `1`, or the size of a package.
    pub per: String,
    /// What the tier costs once reached; none where nothing.
    pub flat: Option<String>,
}

/// What a line costs less by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ReductionDocument {
    /// Why.
    pub name: String,
    /// The share that is taken off: `0.5`.
    pub off: String,
    /// The exact amount without it, in minor units.
    pub list_minor: String,
}

/// The windows that usage came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct WindowsDocument {
    /// The start of the first.
    pub start: String,
    /// The end of the last.
    pub end: String,
    /// How many reported something.
    pub count: u64,
}

impl LineDocument {
    /// A line at its place, from 1, with what it comes to after discounts.
    pub(crate) fn of(position: i32, line: &Line, net: Option<Money>) -> Self {
        let currency = line.amount.currency();
        let pricing = &line.pricing;
        Self {
            position,
            kind: line.kind.as_str().to_owned(),
            item: line.item.clone(),
            meter: (line.kind == LineKind::Usage).then(|| line.item.clone()),
            description: line.description.clone(),
            days: line.days.into(),
            quantity: quantity_text(&line.quantity.exact()),
            quantity_raw: Some(exact_text(line.quantity.raw())),
            quantity_raw_per_unit: Some(exact_text(line.quantity.raw_per_unit())),
            unit: line.unit.clone(),
            model: Some(pricing.model.clone()),
            aggregation: pricing.aggregation.map(|aggregation| aggregation.as_str().to_owned()),
            unit_price: Some(price_text(pricing.marginal.price.decimal(), currency)),
            unit_price_per: Some(exact_text(&pricing.marginal.per)),
            steps: pricing.steps.iter().map(|step| StepDocument::of(step, currency)).collect(),
            part_of_month: Some(pricing.part_of_month.to_string()),
            reduction: pricing.reduction.as_ref().map(|reduction| ReductionDocument {
                name: reduction.name.clone(),
                off: reduction.off.decimal().to_string(),
                list_minor: pricing.list_minor.to_string(),
            }),
            windows: line.windows.map(|windows| WindowsDocument {
                start: windows.start().to_string(),
                end: windows.end().to_string(),
                count: windows.count,
            }),
            tax_category: Some(line.tax_category.clone()),
            exact_minor: Some(line.exact_minor.to_string()),
            amount: line.amount.to_decimal_text(),
            net: net.map(Money::to_decimal_text),
        }
    }

    /// What a line changes by.
    pub(crate) fn of_correction(position: i32, line: &LineCorrection) -> Self {
        Self {
            position,
            kind: line.kind.as_str().to_owned(),
            item: line.item.clone(),
            meter: (line.kind == LineKind::Usage).then(|| line.item.clone()),
            description: line.description.clone(),
            days: line.days.into(),
            quantity: quantity_text(&line.quantity),
            quantity_raw: None,
            quantity_raw_per_unit: None,
            unit: line.unit.clone(),
            model: None,
            aggregation: None,
            unit_price: None,
            unit_price_per: None,
            steps: Vec::new(),
            part_of_month: None,
            reduction: None,
            windows: None,
            tax_category: None,
            exact_minor: None,
            amount: line.amount.to_decimal_text(),
            net: None,
        }
    }
}

impl StepDocument {
    fn of(step: &Step, currency: Currency) -> Self {
        Self {
            from: quantity_text(&step.from),
            quantity: quantity_text(&step.units),
            price: price_text(step.price.decimal(), currency),
            per: exact_text(&step.per),
            flat: Some(step.flat.decimal()).filter(|flat| !flat.is_zero()).map(|flat| price_text(flat, currency)),
        }
    }
}

/// A number that ends after at most 18 places, as every total does, as a decimal; another as a fraction.
fn exact_text(number: &Fraction) -> String {
    let decimal = number.to_decimal_text(crate::usage::USAGE_PLACES_MAX);
    if Fraction::parse(&decimal).as_ref() == Ok(number) { decimal } else { number.to_string() }
}
