//! The rules a rate card must keep. Every broken rule is found, each named with its file and row.

mod prices;

use std::collections::BTreeSet;

use ingest::Meters;

use crate::currency::Currency;
use crate::days::Days;
use crate::money::Money;
use crate::rate_card::file::{Amount, CardFile, CommitmentFile, Day, FeeFile, Number, PhaseFile};
use crate::rate_card::{
    AnnualPrepayment, Commitment, Deduction, Fee, FeeKind, MeterPrice, Order, Phase, RateCard, RateCardError,
    RateCardFault, STANDARD_TAX_CATEGORY, Selector, Span, VolumeDiscount,
};
use crate::share::Share;
use crate::tier::Tier;

impl RateCard {
    /// Reads a rate card from TOML; `source` names the file in errors. `meters` are those that can be priced; without them a
    /// sample meter is what the card says it is, by its `raw_unit`.
    pub fn parse<'a>(
        text: &str,
        source: &'a str,
        meters: impl Into<Option<&'a Meters>>,
    ) -> Result<Self, RateCardError> {
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
        Self::check(file, source, meters.into())
    }

    /// Checks a rate card as it was written; `source` names it in errors.
    pub(crate) fn check(file: CardFile, source: &str, meters: Option<&Meters>) -> Result<Self, RateCardError> {
        let mut faults = Faults { source, meters, faults: Vec::new() };
        // PostgreSQL stores every character but this one.
        if has_nul(&serde_json::to_value(&file).expect("a card is text and lists of text")) {
            faults.faults.push(RateCardFault {
                source_name: source.to_owned(),
                row: "card".to_owned(),
                rule: "a text holds the character U+0000, which cannot be stored".to_owned(),
            });
        }
        let card = faults.card(file);
        faults.end(card)
    }
}

fn has_nul(written: &serde_json::Value) -> bool {
    match written {
        serde_json::Value::String(text) => text.contains('\0'),
        serde_json::Value::Array(all) => all.iter().any(has_nul),
        serde_json::Value::Object(members) => members.values().any(has_nul),
        _ => false,
    }
}

/// A card that was checked when it was written, from where this program keeps it: a sample meter is what the card says it is.
impl TryFrom<CardFile> for RateCard {
    type Error = RateCardError;

    fn try_from(file: CardFile) -> Result<Self, RateCardError> {
        let mut faults = Faults { source: "stored rate card", meters: None, faults: Vec::new() };
        let card = faults.card(file);
        faults.end(card)
    }
}

/// Collects what is wrong.
struct Faults<'a> {
    source: &'a str,
    /// The meters that there are; `None` where names are taken as they were written.
    meters: Option<&'a Meters>,
    faults: Vec<RateCardFault>,
}

impl Faults<'_> {
    fn end(self, card: Option<RateCard>) -> Result<RateCard, RateCardError> {
        if self.faults.is_empty() {
            // Whatever kept a part from being made has left a fault.
            card.ok_or_else(|| RateCardError(Vec::new()))
        } else {
            Err(RateCardError(self.faults))
        }
    }

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

    fn share(&mut self, row: &str, number: Number) -> Option<Share> {
        self.keep(row, Share::new(number.0))
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
