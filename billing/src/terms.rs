//! Everything an invoice follows from, beside the usage: one value, kept whole in the snapshot of an issued invoice.
//!
//! The same terms and the same usage give the same invoice, now, in a preview, and in a re-rating years later.

use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::coupon::RedeemedCoupon;
use crate::currency::Currency;
use crate::days::Days;
use crate::money::Money;
use crate::period::Month;
use crate::rate_card::{Fee, Phase, RateCard};
use crate::share::Share;
use crate::tax::{TaxRate, rate_for};
use crate::tier::Tier;

/// What a customer and its operator have agreed on for a month.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Whose.
    pub customer: String,
    /// The month.
    pub month: Month,
    /// The first day of the contract: phases and one-off fees count from it.
    pub contract_start: NaiveDate,
    /// The first day after the contract; `None` while it goes on.
    pub contract_end: Option<NaiveDate>,
    /// The currency of every amount.
    pub currency: Currency,
    /// Which card is in force on which of the month's days; in their order, without gaps, the days under contract and no others.
    pub stretches: Vec<Stretch>,
    /// Promotional phases that this customer has beside those of its cards.
    pub promotions: Vec<Phase>,
    /// Fees that were paid for before.
    pub prepaid: Vec<PrepaidFee>,
    /// Coupons that are redeemed, as they stand before this invoice.
    pub coupons: Vec<RedeemedCoupon>,
    /// The tax rates of the tax point.
    pub taxes: Vec<TaxRate>,
}

/// Days on which one rate card is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    /// The days.
    pub days: Days,
    /// The stored card's number; `None` of a card that is not stored.
    pub rate_card_id: Option<i64>,
    /// The card.
    pub card: RateCard,
}

/// A fee that a prepayment covers: on these days, and in this tier, it costs nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrepaidFee {
    /// Which fee.
    pub fee: String,
    /// In which tier.
    #[serde(with = "tier_name")]
    pub tier: Tier,
    /// The days.
    pub days: Days,
    /// The number of the invoice it was paid with.
    pub invoice: String,
}

/// Terms that contradict themselves. Stop for this customer until its terms are corrected.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TermsError {
    /// Skip: there is nothing to bill.
    #[error("no day of {0} is under contract")]
    NotUnderContract(Month),
    /// Stop until a card is added, or another ends earlier.
    #[error("rate cards do not cover the days under contract, {days}, exactly once: {found}")]
    Uncovered {
        /// The days.
        days: Days,
        /// What covers what.
        found: String,
    },
    /// Stop: one invoice has one currency.
    #[error("the customer is billed in {customer}, but {card} is in {found}")]
    CurrencyMismatch {
        /// The customer's currency.
        customer: Currency,
        /// The card, or the coupon.
        card: String,
        /// Its currency.
        found: Currency,
    },
    /// Stop until a rate is added.
    #[error("there is no tax rate for the category {0}")]
    NoTaxRate(String),
}

/// What a line costs less by, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reduction {
    /// Why.
    pub name: String,
    /// By how much.
    pub off: Share,
}

impl Terms {
    /// The month's days under contract.
    pub fn days(&self) -> Result<Days, TermsError> {
        self.month
            .all_days()
            .meet_open(self.contract_start, self.contract_end)
            .ok_or(TermsError::NotUnderContract(self.month))
    }

    /// Checks that the terms fit together; returns the days under contract.
    pub fn check(&self) -> Result<Days, TermsError> {
        let days = self.days()?;
        let mut next = days.start();
        let mut covers = true;
        for stretch in &self.stretches {
            covers &= stretch.days.start() == next;
            next = stretch.days.end();
        }
        if !covers || next != days.end() {
            let found: Vec<String> =
                self.stretches.iter().map(|stretch| format!("{} on {}", stretch.card, stretch.days)).collect();
            let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
            return Err(TermsError::Uncovered { days, found });
        }
        for Stretch { card, .. } in &self.stretches {
            self.check_currency(card.currency(), &card.to_string())?;
        }
        for coupon in &self.coupons {
            let code = &coupon.coupon.code;
            self.check_currency(coupon.taken.currency(), &format!("coupon {code}"))?;
            if let Some(amount) = amount_of(coupon) {
                self.check_currency(amount.currency(), &format!("coupon {code}"))?;
            }
        }
        let categories: BTreeSet<&str> = self.tax_categories().collect();
        if let Some(missing) = categories.into_iter().find(|category| rate_for(&self.taxes, category).is_none()) {
            return Err(TermsError::NoTaxRate(missing.to_owned()));
        }
        Ok(days)
    }

    /// The card whose discount and order of arithmetic hold for the invoice: the one in force on the last day.
    pub fn closing_card(&self) -> Option<&RateCard> {
        self.stretches.last().map(|stretch| &stretch.card)
    }

    /// The last day of the period, which is the tax point: the supply of a month is complete when the month is.
    pub fn tax_point(&self) -> Result<NaiveDate, TermsError> {
        self.days().map(Days::last)
    }

    /// The same terms, of whose balances this much was taken off before, by code: a balance gives its amount once, however many
    /// invoices and corrections it is taken off.
    pub(crate) fn with_balances_taken(mut self, taken: &BTreeMap<String, Money>) -> Self {
        for redeemed in &mut self.coupons {
            let is_balance = matches!(redeemed.coupon.value, crate::coupon::CouponValue::Balance(_));
            if is_balance {
                redeemed.taken =
                    taken.get(&redeemed.coupon.code).copied().unwrap_or_else(|| Money::zero(redeemed.taken.currency()));
            }
        }
        self
    }

    /// What each coupon has taken off before, by code.
    pub(crate) fn coupons_taken(&self) -> BTreeMap<String, Money> {
        self.coupons.iter().map(|redeemed| (redeemed.coupon.code.clone(), redeemed.taken)).collect()
    }

    fn check_currency(&self, found: Currency, card: &str) -> Result<(), TermsError> {
        if found == self.currency {
            return Ok(());
        }
        Err(TermsError::CurrencyMismatch { customer: self.currency, card: card.to_owned(), found })
    }

    fn tax_categories(&self) -> impl Iterator<Item = &str> {
        self.stretches.iter().flat_map(|Stretch { card, .. }| {
            let fees = card.fees().iter().map(|fee| fee.tax_category.as_str());
            let prices = card.prices().iter().map(|price| price.tax_category.as_str());
            fees.chain(prices).chain(card.commitment().map(|commitment| commitment.tax_category.as_str()))
        })
    }

    /// The parts some days of a fee fall into, each with what it costs less by. A prepaid fee costs nothing; of several phases
    /// the one that takes off most counts, because phases never add up.
    pub(crate) fn reductions_of_fee(&self, card: &RateCard, fee: &Fee, days: Days) -> Vec<(Days, Option<Reduction>)> {
        let phases = |phase: &&Phase| phase.applies_to.iter().any(|selector| selector.selects_fee(&fee.id));
        let mut reductions = self.phases(card, phases);
        let prepaid = self.prepaid.iter().filter(|prepaid| prepaid.fee == fee.id && prepaid.tier == card.tier());
        reductions.extend(prepaid.map(|prepaid| {
            let reduction = Reduction { name: format!("prepaid by {}", prepaid.invoice), off: Share::WHOLE };
            (prepaid.days.start(), Some(prepaid.days.end()), reduction)
        }));
        in_parts(days, &reductions)
    }

    /// The parts some days of a meter's usage fall into, each with what it costs less by.
    pub(crate) fn reductions_of_usage(
        &self,
        card: &RateCard,
        meter: ingest::Meter,
        days: Days,
    ) -> Vec<(Days, Option<Reduction>)> {
        let phases = |phase: &&Phase| phase.applies_to.iter().any(|selector| selector.selects_usage(meter));
        in_parts(days, &self.phases(card, phases))
    }

    fn phases(
        &self,
        card: &RateCard,
        applies: impl Fn(&&Phase) -> bool,
    ) -> Vec<(NaiveDate, Option<NaiveDate>, Reduction)> {
        let all = card.phases().iter().chain(&self.promotions).filter(applies);
        let reduction = |phase: &Phase| {
            let (from, to) = phase.bounds(self.contract_start);
            (from, to, Reduction { name: phase.description.clone(), off: phase.off })
        };
        all.map(reduction).collect()
    }
}

fn amount_of(coupon: &RedeemedCoupon) -> Option<Money> {
    use crate::coupon::CouponValue::{Balance, Fixed, Percent};
    match coupon.coupon.value {
        Percent(_) => None,
        Fixed(amount) | Balance(amount) => Some(amount),
    }
}

fn in_parts(days: Days, reductions: &[(NaiveDate, Option<NaiveDate>, Reduction)]) -> Vec<(Days, Option<Reduction>)> {
    let cuts = reductions.iter().flat_map(|(from, to, _)| [Some(*from), *to]).flatten();
    let best = |part: Days| {
        let held = reductions.iter().filter(|(from, to, _)| part.meet_open(*from, *to) == Some(part));
        // Of equals the first, so that the order of the card decides and not chance.
        let best = held.fold(None, |best: Option<&Reduction>, (_, _, next)| match best {
            Some(best) if next.off <= best.off => Some(best),
            _ => Some(next),
        });
        best.filter(|reduction| !reduction.off.is_zero()).cloned()
    };
    days.split_at(cuts).into_iter().map(|part| (part, best(part))).collect()
}

mod tier_name {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::tier::Tier;

    pub(super) fn serialize<S: Serializer>(tier: &Tier, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(tier.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Tier, D::Error> {
        Tier::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::rate_card::Span;

    pub(crate) fn day(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    pub(crate) fn share(text: &str) -> Share {
        Share::new(text.parse().unwrap()).unwrap()
    }

    /// The seeded card of a tier.
    pub(crate) fn card(tier: Tier) -> RateCard {
        crate::rate_card::seeded(tier)
    }

    /// A customer in dollars with 8 % tax, on one card all month, under contract since January.
    pub(crate) fn terms(card: RateCard, month: &str) -> Terms {
        let month = Month::parse(month).unwrap();
        Terms {
            customer: "anna".into(),
            month,
            contract_start: day("2026-01-01"),
            contract_end: None,
            currency: card.currency(),
            stretches: vec![Stretch { days: month.all_days(), rate_card_id: None, card }],
            promotions: Vec::new(),
            prepaid: Vec::new(),
            coupons: Vec::new(),
            taxes: vec![TaxRate::of_customer(share("0.08"))],
        }
    }

    fn phase(name: &str, off: &str, span: Span) -> Phase {
        Phase { description: name.into(), off: share(off), applies_to: vec!["fees".to_owned().into()], span }
    }

    fn parts(terms: &Terms) -> Vec<String> {
        let card = terms.closing_card().unwrap();
        terms
            .reductions_of_fee(card, &card.fees()[0], terms.days().unwrap())
            .into_iter()
            .map(|(days, reduction)| {
                let name = reduction.map_or_else(|| "full".to_owned(), |r| format!("{} {}", r.name, r.off.decimal()));
                format!("{days}: {name}")
            })
            .collect()
    }

    #[test]
    fn phases_count_from_the_contract_and_the_greatest_holds() {
        let mut terms = terms(card(Tier::Standard), "2026-10");
        terms.contract_start = day("2026-04-16");
        assert_eq!(parts(&terms), ["2026-10-01 to 2026-10-31: full"]);
        terms.promotions = vec![
            phase("Pilot", "0.5", Span::FirstMonths(6)),
            phase("Autumn", "0.1", Span::Days(Days::new(day("2026-10-10"), day("2026-10-21")).unwrap())),
        ];
        assert_eq!(
            parts(&terms),
            [
                "2026-10-01 to 2026-10-09: Pilot 0.5",
                "2026-10-10 to 2026-10-15: Pilot 0.5",
                "2026-10-16 to 2026-10-20: Autumn 0.1",
                "2026-10-21 to 2026-10-31: full"
            ]
        );
        // Six months from the 31st of August end with the last day of February.
        terms.contract_start = day("2025-08-31");
        terms.promotions.truncate(1);
        assert_eq!(terms.promotions[0].bounds(terms.contract_start).1, Some(day("2026-02-28")));
    }

    #[test]
    fn terms_that_contradict_themselves_say_how() {
        let good = terms(card(Tier::Standard), "2026-10");
        assert_eq!(good.check(), Ok(good.month.all_days()));
        let broken = |change: fn(&mut Terms)| {
            let mut terms = good.clone();
            change(&mut terms);
            terms.check().unwrap_err().to_string()
        };
        assert_eq!(broken(|t| t.contract_start = day("2026-11-01")), "no day of 2026-10 is under contract");
        assert_eq!(
            broken(|t| t.stretches.clear()),
            "rate cards do not cover the days under contract, 2026-10-01 to 2026-10-31, exactly once: none"
        );
        assert_eq!(
            broken(|t| t.contract_start = day("2026-10-02")),
            "rate cards do not cover the days under contract, 2026-10-02 to 2026-10-31, exactly once: rate card standard \
             version 1 on 2026-10-01 to 2026-10-31"
        );
        assert_eq!(
            broken(|t| t.currency = Currency::Eur),
            "the customer is billed in EUR, but rate card standard version 1 is in USD"
        );
        assert_eq!(
            broken(|t| t.taxes[0].category = Some("books".into())),
            "there is no tax rate for the category standard"
        );
    }

    #[test]
    fn terms_are_read_as_they_were_written() {
        let mut terms = terms(card(Tier::Fintech), "2026-10");
        terms.promotions = vec![phase("Pilot", "0.5", Span::FirstMonths(6))];
        terms.prepaid = vec![PrepaidFee {
            fee: "base".into(),
            tier: Tier::Fintech,
            days: terms.month.all_days(),
            invoice: "INV-2026-01-0001".into(),
        }];
        terms.coupons = vec![crate::coupon::tests::redeemed("TEN", crate::coupon::CouponValue::Percent(share("0.1")))];
        let written = serde_json::to_string(&terms).unwrap();
        assert_eq!(serde_json::from_str::<Terms>(&written).unwrap(), terms);
    }
}
