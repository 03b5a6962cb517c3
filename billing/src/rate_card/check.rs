//! The rules a rate card must keep. Every broken rule is found, each named with its file and row.

use std::collections::BTreeSet;

use ingest::Meter;
use rust_decimal::Decimal;

use crate::currency::Currency;
use crate::days::Days;
use crate::money::Money;
use crate::price::tiers::PriceTier;
use crate::price::{PriceModel, UnitPrice};
use crate::quantity::Aggregation;
use crate::rate_card::file::{Amount, CardFile, CommitmentFile, Day, FeeFile, Number, PhaseFile, PriceFile};
use crate::rate_card::{
    AnnualPrepayment, Commitment, Deduction, Fee, FeeKind, MeterPrice, Order, Phase, RateCard, RateCardError,
    RateCardFault, STANDARD_TAX_CATEGORY, Selector, Span, VolumeDiscount,
};
use crate::share::Share;
use crate::tier::Tier;

/// The most units that a tier, a package or an allowance can name.
const UNITS_LIMIT: Decimal = Decimal::from_parts(0x6fc1_0000, 0x0023_86f2, 0, false, 0);

impl RateCard {
    /// Reads a rate card from TOML; `source` names the file in errors.
    pub fn parse(text: &str, source: &str) -> Result<Self, RateCardError> {
        let file: CardFile = toml::from_str(text).map_err(|error| {
            // The first line of the message says where, the last what; between them is the text itself.
            let place = error.span().map_or_else(
                || "the file".to_owned(),
                |span| format!("line {}", text[..span.start.min(text.len())].matches('\n').count() + 1),
            );
            RateCardError(vec![RateCardFault {
                source_name: source.to_owned(),
                row: place,
                rule: error.message().to_owned(),
            }])
        })?;
        Self::check(file, source)
    }

    /// Checks a rate card as it was written; `source` names it in errors.
    pub(crate) fn check(file: CardFile, source: &str) -> Result<Self, RateCardError> {
        let mut faults = Faults { source, faults: Vec::new() };
        let card = faults.card(file);
        if faults.faults.is_empty() {
            // Whatever kept a part from being made has left a fault.
            card.ok_or_else(|| RateCardError(Vec::new()))
        } else {
            Err(RateCardError(faults.faults))
        }
    }
}

impl TryFrom<CardFile> for RateCard {
    type Error = RateCardError;

    fn try_from(file: CardFile) -> Result<Self, RateCardError> {
        Self::check(file, "snapshot")
    }
}

/// Collects what is wrong.
struct Faults<'a> {
    source: &'a str,
    faults: Vec<RateCardFault>,
}

impl Faults<'_> {
    fn add(&mut self, row: &str, rule: impl Into<String>) {
        self.faults.push(RateCardFault { source_name: self.source.to_owned(), row: row.to_owned(), rule: rule.into() });
    }

    fn keep<T, E: ToString>(&mut self, row: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.add(row, error.to_string())).ok()
    }

    fn card(&mut self, file: CardFile) -> Option<RateCard> {
        const CARD: &str = "card";
        let tier = self.keep(CARD, Tier::parse(&file.tier));
        let currency = self.keep(CARD, Currency::parse(&file.currency));
        if file.version < 1 {
            self.add(CARD, "versions count from 1");
        }
        if file.valid_to.is_some_and(|end| end.0 <= file.valid_from.0) {
            self.add(CARD, "`valid_to`, the first day it is no longer in force, does not lie after `valid_from`");
        }
        if file.customer.as_deref().is_some_and(|customer| aggregator::directory::CustomerId::parse(customer).is_err())
        {
            self.add(CARD, "`customer` is no customer id");
        }
        let order = self.order(file.order);
        // Without a currency no amount can be read; its absence is a fault already.
        let currency = currency?;
        let fees: Vec<Fee> = file.fees.into_iter().filter_map(|fee| self.fee(fee, currency)).collect();
        let prices: Vec<MeterPrice> = file.prices.into_iter().filter_map(|price| self.price(price)).collect();
        self.names(&fees, &prices);
        if Money::sum(fees.iter().map(|fee| fee.amount), currency).is_err() {
            self.add(CARD, "the fees do not fit into one amount");
        }
        let commitment = file.commitment.and_then(|commitment| self.commitment(commitment, currency, &fees, &prices));
        let volume_discount = file.volume_discount.and_then(|discount| {
            let row = "volume_discount";
            let threshold = self.amount(row, "above", &discount.above, currency);
            let rate = self.share(row, discount.rate);
            Some(VolumeDiscount { threshold: threshold?, rate: rate? })
        });
        let phases = (1..).zip(file.phases).filter_map(|(number, phase)| self.phase(number, phase, &fees, &prices));
        let phases: Vec<Phase> = phases.collect();
        let annual_prepayment = file.annual_prepayment.and_then(|annual| {
            let row = "annual_prepayment";
            if !fees.iter().any(|fee| fee.id == annual.fee && fee.kind.is_monthly()) {
                self.add(row, format!("{:?} is no monthly fee of this card", annual.fee));
            }
            Some(AnnualPrepayment { fee: annual.fee, off: self.share(row, annual.off)? })
        });
        Some(RateCard {
            tier: tier?,
            customer: file.customer,
            version: file.version,
            currency,
            valid_from: file.valid_from.0,
            valid_to: file.valid_to.map(|day| day.0),
            order: order?,
            fees,
            prices,
            commitment,
            volume_discount,
            phases,
            annual_prepayment,
        })
    }

    fn order(&mut self, names: Option<Vec<String>>) -> Option<Order> {
        let Some(names) = names else { return Some(Order::default()) };
        let (first, last) = (Order::FIRST.len(), Order::LAST.len());
        let middle = names.get(first..names.len().saturating_sub(last)).unwrap_or_default();
        let deductions: Vec<Deduction> = middle
            .iter()
            .filter_map(|name| Deduction::ALL.into_iter().find(|deduction| deduction.as_str() == name))
            .collect();
        let is_each_once = Deduction::ALL.iter().all(|deduction| deductions.contains(deduction));
        match <[Deduction; 3]>::try_from(deductions) {
            Ok(deductions) if is_each_once && Order { deductions }.names() == names => Some(Order { deductions }),
            _ => {
                let rule = format!(
                    "expected the steps {} with only the three between subtotal and net in another order",
                    Order::default().names().join(", ")
                );
                self.add("order", rule);
                None
            }
        }
    }

    fn fee(&mut self, fee: FeeFile, currency: Currency) -> Option<Fee> {
        let row = format!("fee {}", fee.id);
        let kind = match (fee.kind.as_str(), fee.on) {
            ("base", None) => Some(FeeKind::Base),
            ("recurring", None) => Some(FeeKind::Recurring),
            ("one_off", None) => Some(FeeKind::OnceAtStart),
            ("one_off", Some(Day(day))) => Some(FeeKind::OnceOn(day)),
            ("base" | "recurring", Some(_)) => {
                self.add(&row, "only a one_off fee has a day, `on`");
                None
            }
            (other, _) => {
                self.add(&row, format!("unknown kind {other:?}: expected base, recurring or one_off"));
                None
            }
        };
        if fee.id.is_empty() || fee.description.is_empty() {
            self.add(&row, "a fee has an id and a description");
        }
        let amount = self.amount(&row, "amount", &fee.amount, currency);
        let tax_category = self.tax_category(&row, fee.tax_category);
        Some(Fee { id: fee.id, kind: kind?, description: fee.description, amount: amount?, tax_category })
    }

    fn price(&mut self, price: PriceFile) -> Option<MeterPrice> {
        let row = format!("price of {}", price.meter);
        let meter = self.keep(&row, Meter::parse(&price.meter));
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
        let aggregation = match (price.aggregation.as_deref(), meter) {
            (None, meter) => meter.map(Aggregation::of),
            (Some(name), meter) => {
                let known = [Aggregation::Sum, Aggregation::Peak, Aggregation::TimeWeighted];
                let found = known.into_iter().find(|aggregation| aggregation.as_str() == name);
                match (found, meter) {
                    (None, _) => {
                        self.add(&row, format!("unknown aggregation {name:?}: expected sum, peak or time_weighted"))
                    }
                    (Some(found), Some(meter)) if !found.suits(meter) => {
                        self.add(&row, "only a level that lasts, such as storage, is weighted by time");
                    }
                    _ => {}
                }
                found
            }
        };
        let tax_category = self.tax_category(&row, price.tax_category.clone());
        let model = self.model(&row, &price);
        Some(MeterPrice {
            meter: meter?,
            description: price.description,
            unit: price.unit,
            raw_units_per_unit: raw_units_per_unit?,
            aggregation: aggregation?,
            included,
            model: model?,
            tax_category,
        })
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

    fn commitment(
        &mut self,
        commitment: CommitmentFile,
        currency: Currency,
        fees: &[Fee],
        prices: &[MeterPrice],
    ) -> Option<Commitment> {
        let row = "commitment";
        self.selectors(row, &commitment.counts, fees, prices);
        Some(Commitment {
            amount: self.amount(row, "amount", &commitment.amount, currency)?,
            counts: commitment.counts,
            description: commitment.description.unwrap_or_else(|| "Minimum commitment, true-up".to_owned()),
            tax_category: self.tax_category(row, commitment.tax_category),
        })
    }

    fn phase(&mut self, number: usize, phase: PhaseFile, fees: &[Fee], prices: &[MeterPrice]) -> Option<Phase> {
        let row = format!("phase {number}");
        if phase.description.is_empty() {
            self.add(&row, "a phase has a description");
        }
        self.selectors(&row, &phase.applies_to, fees, prices);
        let span = match (phase.first_months, phase.from, phase.to) {
            (Some(months), None, None) if 0 < months => Some(Span::FirstMonths(months)),
            (None, Some(from), Some(to)) => Days::new(from.0, to.0).map(Span::Days),
            _ => None,
        };
        if span.is_none() {
            self.add(&row, "has either `first_months`, of 1 or more, or `from` and a later `to`");
        }
        let off = self.share(&row, phase.off);
        Some(Phase { description: phase.description, off: off?, applies_to: phase.applies_to, span: span? })
    }

    fn selectors(&mut self, row: &str, selectors: &[Selector], fees: &[Fee], prices: &[MeterPrice]) {
        if selectors.is_empty() {
            self.add(row, "names no lines");
        }
        for selector in selectors {
            let Selector::Item(item) = selector else { continue };
            let is_known = fees.iter().any(|fee| fee.id == *item)
                || prices.iter().any(|price| price.meter.as_str() == item.as_str());
            if !is_known {
                self.add(row, format!("{item:?} is no fee and no price of this card"));
            }
        }
    }

    fn names(&mut self, fees: &[Fee], prices: &[MeterPrice]) {
        let mut seen = BTreeSet::from(["fees", "usage"]);
        for fee in fees {
            if !seen.insert(&fee.id) {
                self.add(&format!("fee {}", fee.id), "the id is taken");
            }
        }
        for price in prices {
            if !seen.insert(price.meter.as_str()) {
                self.add(&format!("price of {}", price.meter), "the meter has two prices");
            }
        }
    }

    fn amount(&mut self, row: &str, name: &str, amount: &Amount, currency: Currency) -> Option<Money> {
        let (number, code) = amount.0.split_once(' ').unwrap_or((&amount.0, currency.as_str()));
        if code != currency.as_str() {
            self.add(row, format!("`{name}` is in {code} but the card is in {currency}"));
            return None;
        }
        match Money::parse(number, currency) {
            Some(money) if !money.is_negative() => Some(money),
            Some(_) => {
                self.add(row, format!("`{name}` is negative"));
                None
            }
            None => {
                let places = currency.minor_digits();
                self.add(row, format!("`{name}` {:?} is no amount with at most {places} places", amount.0));
                None
            }
        }
    }

    fn unit_price(&mut self, row: &str, number: Number) -> Option<UnitPrice> {
        let price = UnitPrice::new(number.0);
        if price.is_none() {
            self.add(row, "a price is 0 or more, below 1,000,000,000, with at most 12 places");
        }
        price
    }

    fn share(&mut self, row: &str, number: Number) -> Option<Share> {
        self.keep(row, Share::new(number.0))
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

    fn tax_category(&mut self, row: &str, category: Option<String>) -> String {
        if category.as_deref().is_some_and(str::is_empty) {
            self.add(row, "`tax_category` has no name");
        }
        category.unwrap_or_else(|| STANDARD_TAX_CATEGORY.to_owned())
    }
}

#[cfg(test)]
mod tests;
