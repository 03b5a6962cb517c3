//! Rate cards in the form of the first schema: a row for the card and one for each price, always per unit.
//!
//! Cards that were stored so stay valid history. The four that every database begins with say exactly what the seeded files say.

use chrono::NaiveDate;
use ingest::{Meter, Meters};
use rust_decimal::Decimal;

use crate::currency::Currency;
use crate::money::Money;
use crate::rate_card::file::{
    Amount, AnnualPrepaymentFile, CardFile, Day, FeeFile, Number, PriceFile, VolumeDiscountFile,
};
use crate::rate_card::{RateCard, RateCardError, RateCardFault};

/// A rate card as it is stored, unchecked.
#[derive(Clone, Debug)]
pub(crate) struct RateCardRow {
    /// A tier's name.
    pub(crate) tier: String,
    /// The card's version within its tier.
    pub(crate) version: i32,
    /// The first day the card is in force.
    pub(crate) valid_from: NaiveDate,
    /// The first day it no longer is.
    pub(crate) valid_to: Option<NaiveDate>,
    /// A code of ISO 4217.
    pub(crate) currency: String,
    /// The fee of a whole month, in minor units.
    pub(crate) base_fee_minor: i64,
    /// The subtotal that must be exceeded for the volume discount, in minor units.
    pub(crate) discount_threshold_minor: i64,
    /// The volume discount's share of the subtotal.
    pub(crate) discount_rate: Decimal,
}

/// A price as it is stored, unchecked.
#[derive(Clone, Debug)]
pub(crate) struct PriceRow {
    /// A meter's name.
    pub(crate) meter: String,
    /// The unit's name.
    pub(crate) unit: String,
    /// How many raw units make one unit.
    pub(crate) raw_units_per_unit: Decimal,
    /// The price of one unit.
    pub(crate) unit_price: Decimal,
}

/// What paying for a year at once saved on every card of that form: it was offered to all, and had no column.
const ANNUAL_PREPAYMENT_OFF: Decimal = Decimal::from_parts(15, 0, 0, false, 2);
const BASE: &str = "base";

impl RateCard {
    /// Checks a card that is stored in rows. Its lines come in the order of the meters, as they always have.
    pub(crate) fn of_rows(card: RateCardRow, mut prices: Vec<PriceRow>) -> Result<Self, RateCardError> {
        let source = format!("rate card {} version {}", card.tier, card.version);
        let place = |price: &PriceRow| {
            let known = Meter::PRICED.into_iter().position(|meter| meter.as_str() == price.meter);
            known.unwrap_or(usize::MAX)
        };
        prices.sort_by_key(place);
        let currency = Currency::parse(&card.currency).map_err(|error| {
            RateCardError(vec![RateCardFault {
                source_name: source.clone(),
                row: "card".to_owned(),
                rule: error.to_string(),
            }])
        })?;
        let amount = |minor| Amount(Money::from_minor(minor, currency).to_decimal_text());
        let file = CardFile {
            version: card.version,
            customer: None,
            currency: card.currency,
            valid_from: Day(card.valid_from),
            valid_to: card.valid_to.map(Day),
            order: None,
            fees: vec![FeeFile {
                id: BASE.to_owned(),
                kind: "base".to_owned(),
                description: format!("Base fee, {} tier", card.tier),
                amount: amount(card.base_fee_minor),
                on: None,
                tax_category: None,
            }],
            prices: prices
                .into_iter()
                .map(|price| PriceFile {
                    meter: price.meter,
                    description: None,
                    unit: price.unit,
                    raw_unit: None,
                    raw_units_per_unit: Some(Number(price.raw_units_per_unit)),
                    aggregation: None,
                    included: None,
                    model: "per_unit".to_owned(),
                    price: Some(Number(price.unit_price)),
                    size: None,
                    tiers: Vec::new(),
                    tax_category: None,
                })
                .collect(),
            commitment: None,
            volume_discount: Some(VolumeDiscountFile {
                above: amount(card.discount_threshold_minor),
                rate: Number(card.discount_rate),
            }),
            phases: Vec::new(),
            annual_prepayment: Some(AnnualPrepaymentFile { fee: BASE.to_owned(), off: Number(ANNUAL_PREPAYMENT_OFF) }),
            tier: card.tier,
        };
        Self::check(file, &source, Some(&Meters::built_in()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate_card::seeded;
    use crate::tier::Tier;

    #[test]
    fn a_broken_row_is_named() {
        let row = RateCardRow {
            tier: "standard".into(),
            version: 1,
            valid_from: "2020-01-01".parse().unwrap(),
            valid_to: None,
            currency: "USD".into(),
            base_fee_minor: -1,
            discount_threshold_minor: 500_000,
            discount_rate: "0.05".parse().unwrap(),
        };
        let price = PriceRow {
            meter: "vpn".into(),
            unit: "hour".into(),
            raw_units_per_unit: Decimal::ONE,
            unit_price: Decimal::ONE,
        };
        let error = RateCard::of_rows(row.clone(), vec![price]).unwrap_err().to_string();
        assert_eq!(
            error,
            "rate card standard version 1: fee base: `amount` is negative\n\
             rate card standard version 1: price of vpn: unknown meter\n\
             rate card standard version 1: annual_prepayment: \"base\" is no monthly fee of this card"
        );
        let good = RateCard::of_rows(RateCardRow { base_fee_minor: 200_000, ..row }, Vec::new()).unwrap();
        assert_eq!(good.base_fee(), seeded(Tier::Standard).base_fee());
    }
}
