//! A rate card as it is written: TOML in files, the same form as JSON in the snapshot of an invoice.
//!
//! Amounts and prices are text, because an unquoted 0.03 would pass through binary floating point.

use std::fmt;

use chrono::NaiveDate;
use rust_decimal::Decimal;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::rate_card::{Fee, FeeKind, MeterPrice, Phase, RateCard, Selector, Span};

/// The least and the most decimals a written number can have is what [`Decimal`] holds: 28 digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Number(pub(crate) Decimal);

/// A day, as text or as a TOML date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Day(pub(crate) NaiveDate);

/// An amount, with or without its currency: `2000.00` or `2000.00 USD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Amount(pub(crate) String);

/// A rate card as it is written.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CardFile {
    pub(crate) tier: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) customer: Option<String>,
    pub(crate) version: i32,
    pub(crate) currency: String,
    pub(crate) valid_from: Day,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) valid_to: Option<Day>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) order: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) fees: Vec<FeeFile>,
    #[serde(default)]
    pub(crate) prices: Vec<PriceFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) commitment: Option<CommitmentFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) volume_discount: Option<VolumeDiscountFile>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) phases: Vec<PhaseFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annual_prepayment: Option<AnnualPrepaymentFile>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FeeFile {
    pub(crate) id: String,
    /// `base`, `recurring` or `one_off`.
    pub(crate) kind: String,
    pub(crate) description: String,
    pub(crate) amount: Amount,
    /// Of a one-off fee: its day; without, the first day of the contract.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) on: Option<Day>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tax_category: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PriceFile {
    pub(crate) meter: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    pub(crate) unit: String,
    /// What the meter's usage rows are in; written, so that a stored card needs no definition of its sample meters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) raw_unit: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) raw_units_per_unit: Option<Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) aggregation: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) included: Option<Number>,
    /// `flat`, `per_unit`, `graduated`, `volume` or `package`.
    pub(crate) model: String,
    /// The price of one unit, of a package, or the flat amount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) price: Option<Number>,
    /// Units in a package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) size: Option<Number>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) tiers: Vec<TierFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tax_category: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TierFile {
    pub(crate) from: Number,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) up_to: Option<Number>,
    pub(crate) price: Number,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) flat: Option<Number>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CommitmentFile {
    pub(crate) amount: Amount,
    pub(crate) counts: Vec<Selector>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tax_category: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VolumeDiscountFile {
    pub(crate) above: Amount,
    pub(crate) rate: Number,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PhaseFile {
    pub(crate) description: String,
    pub(crate) off: Number,
    pub(crate) applies_to: Vec<Selector>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) first_months: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<Day>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) to: Option<Day>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AnnualPrepaymentFile {
    pub(crate) fee: String,
    pub(crate) off: Number,
}

impl From<RateCard> for CardFile {
    fn from(card: RateCard) -> Self {
        Self {
            tier: card.tier.as_str().to_owned(),
            customer: card.customer,
            version: card.version,
            currency: card.currency.as_str().to_owned(),
            valid_from: Day(card.valid_from),
            valid_to: card.valid_to.map(Day),
            order: Some(card.order.names().into_iter().map(str::to_owned).collect()),
            fees: card.fees.iter().map(FeeFile::from).collect(),
            prices: card.prices.iter().map(PriceFile::from).collect(),
            commitment: card.commitment.map(|commitment| CommitmentFile {
                amount: Amount(commitment.amount.to_decimal_text()),
                counts: commitment.counts,
                description: Some(commitment.description),
                tax_category: Some(commitment.tax_category),
            }),
            volume_discount: card.volume_discount.map(|discount| VolumeDiscountFile {
                above: Amount(discount.threshold.to_decimal_text()),
                rate: Number(discount.rate.decimal()),
            }),
            phases: card.phases.iter().map(PhaseFile::from).collect(),
            annual_prepayment: card
                .annual_prepayment
                .map(|annual| AnnualPrepaymentFile { fee: annual.fee, off: Number(annual.off.decimal()) }),
        }
    }
}

impl From<&Fee> for FeeFile {
    fn from(fee: &Fee) -> Self {
        let (kind, on) = match fee.kind {
            FeeKind::Base => ("base", None),
            FeeKind::Recurring => ("recurring", None),
            FeeKind::OnceAtStart => ("one_off", None),
            FeeKind::OnceOn(day) => ("one_off", Some(Day(day))),
        };
        Self {
            id: fee.id.clone(),
            kind: kind.to_owned(),
            description: fee.description.clone(),
            amount: Amount(fee.amount.to_decimal_text()),
            on,
            tax_category: Some(fee.tax_category.clone()),
        }
    }
}

impl From<&MeterPrice> for PriceFile {
    fn from(price: &MeterPrice) -> Self {
        use crate::price::PriceModel::{Flat, Graduated, Package, PerUnit, Volume};
        let (unit_price, size, tiers) = match &price.model {
            Flat { amount: price } | PerUnit { price } => (Some(Number(price.decimal())), None, &[][..]),
            Package { size, price } => (Some(Number(price.decimal())), Some(Number(*size)), &[][..]),
            Graduated { tiers } | Volume { tiers } => (None, None, tiers.as_slice()),
        };
        let tiers = tiers.iter().map(|tier| TierFile {
            from: Number(tier.from),
            up_to: tier.up_to.map(Number),
            price: Number(tier.price.decimal()),
            flat: Some(Number(tier.flat.decimal())).filter(|flat| !flat.0.is_zero()),
        });
        Self {
            meter: price.meter.as_str().to_owned(),
            description: price.description.clone(),
            unit: price.unit.clone(),
            raw_unit: Some(price.raw_unit.as_str().to_owned()),
            raw_units_per_unit: Some(Number(price.raw_units_per_unit.into())),
            aggregation: Some(price.aggregation.as_str().to_owned()),
            included: Some(Number(price.included)).filter(|included| !included.0.is_zero()),
            model: price.model.as_str().to_owned(),
            price: unit_price,
            size,
            tiers: tiers.collect(),
            tax_category: Some(price.tax_category.clone()),
        }
    }
}

impl From<&Phase> for PhaseFile {
    fn from(phase: &Phase) -> Self {
        let (first_months, days) = match phase.span {
            Span::FirstMonths(months) => (Some(months), None),
            Span::Days(days) => (None, Some(days)),
        };
        Self {
            description: phase.description.clone(),
            off: Number(phase.off.decimal()),
            applies_to: phase.applies_to.clone(),
            first_months,
            from: days.map(|days| Day(days.start())),
            to: days.map(|days| Day(days.end())),
        }
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0.normalize())
    }
}

impl Serialize for Day {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

const QUOTE_IT: &str = "a number in quotes, such as \"0.03\": without them it would pass through binary floating point";

struct NumberText;

impl Visitor<'_> for NumberText {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(QUOTE_IT)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<String, E> {
        Ok(number.to_string())
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = deserializer.deserialize_any(NumberText)?;
        // `from_str_exact` refuses what `from_str` would round.
        Decimal::from_str_exact(&text)
            .map(Self)
            .map_err(|_| de::Error::custom(format!("{text:?} is no number of at most 28 digits")))
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberText).map(Self)
    }
}

struct DayText;

impl<'de> Visitor<'de> for DayText {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a day such as 2026-10-01")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    /// A TOML date comes as a map of one entry, whose value is its text.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<String, A::Error> {
        let entry: Option<(String, String)> = map.next_entry()?;
        entry.map(|(_, text)| text).ok_or_else(|| de::Error::custom("expected a day such as 2026-10-01"))
    }
}

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = deserializer.deserialize_any(DayText)?;
        text.parse()
            .map(Self)
            .map_err(|_| de::Error::custom(format!("{text:?} is no day: expected one such as 2026-10-01")))
    }
}
