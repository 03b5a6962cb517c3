//! The rules of a card's prices.

use ingest::{Meter, Meters, RawUnit};
use rust_decimal::Decimal;

use crate::price::tiers::PriceTier;
use crate::price::{PriceModel, UnitPrice};
use crate::quantity::{Aggregation, is_level};
use crate::rate_card::MeterPrice;
use crate::rate_card::check::Faults;
use crate::rate_card::file::{Number, PriceFile};

/// The most units that a tier, a package or an allowance can name.
const UNITS_LIMIT: Decimal = Decimal::from_parts(0x6fc1_0000, 0x0023_86f2, 0, false, 0);

impl Faults<'_> {
    pub(super) fn price(&mut self, price: PriceFile) -> Option<MeterPrice> {
        let row = format!("price of {}", price.meter);
        let meter = self.meter(&row, &price);
        if price.unit.is_empty() {
            self.add(&row, "the unit has no name");
        }
        let raw = price.raw_units_per_unit.map_or(Decimal::ONE, |number| number.0);
        let raw_units_per_unit = i64::try_from(raw).ok().filter(|whole| 0 < *whole && raw.is_integer());
        if raw_units_per_unit.is_none() {
            self.add(&row, "the raw units of one unit are no positive whole number");
        }
        let included = price.included.map_or(Decimal::ZERO, |number| number.0);
        self.units(&row, "included", included);
        let aggregation = self.aggregation(&row, price.aggregation.as_deref(), meter);
        let tax_category = self.tax_category(&row, price.tax_category.clone());
        let model = self.model(&row, &price);
        let (meter, raw_unit, _) = meter?;
        Some(MeterPrice {
            meter,
            raw_unit,
            description: price.description,
            unit: price.unit,
            raw_units_per_unit: raw_units_per_unit?,
            aggregation: aggregation?,
            included,
            model: model?,
            tax_category,
        })
    }

    /// The meter, what its rows are in, and how it is aggregated by itself.
    fn meter(&mut self, row: &str, price: &PriceFile) -> Option<(Meter, RawUnit, Option<Aggregation>)> {
        let named = price.raw_unit.as_deref();
        let known = [RawUnit::Each, RawUnit::Byte, RawUnit::ByteSecond, RawUnit::UnitSecond, RawUnit::Second];
        let written = named.map(|name| known.into_iter().find(|raw_unit| raw_unit.as_str() == name));
        let built_in = Meters::built_in();
        let Some(definition) = self.meters.unwrap_or(&built_in).find(&price.meter) else {
            let sample = Meter::parse_stored(&price.meter).ok().filter(|_| self.meters.is_none());
            return match (sample, written) {
                (Some(meter), Some(Some(raw_unit))) => {
                    let aggregation = is_level(raw_unit).then_some(Aggregation::TimeWeighted);
                    Some((meter, raw_unit, aggregation))
                }
                (Some(_), _) => {
                    self.add(row, "unknown meter: one that is data says its `raw_unit`, each or unit_second");
                    None
                }
                (None, _) => {
                    self.add(row, "unknown meter");
                    None
                }
            };
        };
        if written.is_some_and(|written| written != Some(definition.raw_unit)) {
            self.add(row, format!("`raw_unit` is {}", definition.raw_unit.as_str()));
        }
        let aggregation = Aggregation::of(definition);
        if aggregation.is_none() {
            self.add(row, "the meter says what becomes of others and has no price");
            return None;
        }
        Some((definition.meter, definition.raw_unit, aggregation))
    }

    fn aggregation(
        &mut self,
        row: &str,
        name: Option<&str>,
        meter: Option<(Meter, RawUnit, Option<Aggregation>)>,
    ) -> Option<Aggregation> {
        let Some(name) = name else {
            let (_, _, of_meter) = meter?;
            if of_meter.is_none() {
                self.add(row, "needs its `aggregation`: sum or peak");
            }
            return of_meter;
        };
        let known = [Aggregation::Sum, Aggregation::Peak, Aggregation::TimeWeighted];
        let found = known.into_iter().find(|aggregation| aggregation.as_str() == name);
        match (found, meter) {
            (None, _) => self.add(row, format!("unknown aggregation {name:?}: expected sum, peak or time_weighted")),
            (Some(found), Some((_, raw_unit, _))) if !found.suits(raw_unit) => {
                self.add(row, "only a level that lasts, such as storage, is weighted by time");
            }
            _ => {}
        }
        found
    }

    fn model(&mut self, row: &str, price: &PriceFile) -> Option<PriceModel> {
        let needs = match price.model.as_str() {
            "flat" | "per_unit" => [true, false, false],
            "package" => [true, true, false],
            "graduated" | "volume" => [false, false, true],
            other => {
                let known = "flat, per_unit, graduated, volume or package";
                self.add(row, format!("unknown model {other:?}: expected {known}"));
                return None;
            }
        };
        let has = [price.price.is_some(), price.size.is_some(), !price.tiers.is_empty()];
        for ((name, needed), given) in ["price", "size", "tiers"].into_iter().zip(needs).zip(has) {
            if needed != given {
                let verb = if needed { "needs" } else { "does not take" };
                self.add(row, format!("the model {} {verb} `{name}`", price.model));
            }
        }
        if needs != has {
            return None;
        }
        let unit_price = price.price.and_then(|number| self.unit_price(row, number));
        let mut tiers = Vec::with_capacity(price.tiers.len());
        for (number, tier) in (1..).zip(&price.tiers) {
            let row = format!("{row}, tier {number}");
            self.places(&row, "from", tier.from.0);
            if let Some(up_to) = tier.up_to {
                self.places(&row, "up_to", up_to.0);
            }
            let flat = tier.flat.map_or(Some(UnitPrice::FREE), |flat| self.unit_price(&row, flat));
            let unit_price = self.unit_price(&row, tier.price);
            let (Some(price), Some(flat)) = (unit_price, flat) else { continue };
            tiers.push(PriceTier { from: tier.from.0, up_to: tier.up_to.map(|up_to| up_to.0), price, flat });
        }
        if tiers.len() != price.tiers.len() {
            return None;
        }
        let model = match price.model.as_str() {
            "flat" => PriceModel::Flat { amount: unit_price? },
            "per_unit" => PriceModel::PerUnit { price: unit_price? },
            "package" => {
                let size = price.size?.0;
                self.places(row, "size", size);
                PriceModel::Package { size, price: unit_price? }
            }
            "graduated" => PriceModel::Graduated { tiers },
            _ => PriceModel::Volume { tiers },
        };
        if let Some(fault) = model.fault() {
            let row = fault.tier.map_or_else(|| row.to_owned(), |tier| format!("{row}, tier {tier}"));
            self.add(&row, fault.rule);
            return None;
        }
        Some(model)
    }

    fn unit_price(&mut self, row: &str, number: Number) -> Option<UnitPrice> {
        let price = UnitPrice::new(number.0);
        if price.is_none() {
            self.add(row, "a price is 0 or more, below 1,000,000,000, with at most 12 places");
        }
        price
    }

    fn units(&mut self, row: &str, name: &str, units: Decimal) {
        if units < Decimal::ZERO {
            self.add(row, format!("`{name}` has negative units"));
        }
        self.places(row, name, units);
    }

    fn places(&mut self, row: &str, name: &str, units: Decimal) {
        if UNITS_LIMIT < units || 6 < units.normalize().scale() {
            self.add(row, format!("`{name}` is at most {UNITS_LIMIT} with at most 6 places"));
        }
    }
}
