//! Tiers: ranges of units with a price each.

use rust_decimal::Decimal;

use crate::fraction::Fraction;
use crate::price::UnitPrice;

/// The price of the units that lie between two counts.
///
/// Units are counted from 0: a quantity of 1,000 uses the units [0, 1000), so the tier with `up_to` 1,000 holds the
/// thousandth unit and the next begins behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceTier {
    /// Where the tier begins.
    pub from: Decimal,
    /// Where it ends; the last tier has no end.
    pub up_to: Option<Decimal>,
    /// The price of one unit.
    pub price: UnitPrice,
    /// What the tier costs once reached.
    pub flat: UnitPrice,
}

/// A rule that tiers break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TierFault {
    /// Which tier, from 1; `None` where it is none in particular.
    pub(crate) tier: Option<usize>,
    /// The rule, in words.
    pub(crate) rule: String,
}

/// The first rule the tiers break: they begin at 0, follow one another without gap or overlap, and only the last has no end.
pub(crate) fn fault(tiers: &[PriceTier]) -> Option<TierFault> {
    let fault = |index: usize, rule: String| Some(TierFault { tier: Some(index + 1), rule });
    if tiers.is_empty() {
        return Some(TierFault { tier: None, rule: "there is no tier".to_owned() });
    }
    let mut end = Some(Decimal::ZERO);
    for (index, tier) in tiers.iter().enumerate() {
        let Some(begin) = end else {
            return fault(index, "stands behind a tier without end".to_owned());
        };
        if tier.from < Decimal::ZERO || tier.up_to.is_some_and(|up_to| up_to < Decimal::ZERO) {
            return fault(index, "has negative units".to_owned());
        }
        if begin < tier.from {
            return fault(index, format!("begins at {} but the tier before ends at {begin}: a gap", tier.from));
        }
        if tier.from < begin {
            return fault(index, format!("begins at {} but the tier before ends at {begin}: an overlap", tier.from));
        }
        if tier.up_to.is_some_and(|up_to| up_to <= tier.from) {
            return fault(index, format!("has no units: it ends at or before its begin {}", tier.from));
        }
        end = tier.up_to;
    }
    match end {
        None => None,
        Some(end) => fault(tiers.len() - 1, format!("is the last one and ends at {end}: leave `up_to` away")),
    }
}

impl PriceTier {
    pub(crate) fn begin(&self) -> Fraction {
        Fraction::from_decimal(self.from)
    }

    pub(crate) fn end(&self) -> Option<Fraction> {
        self.up_to.map(Fraction::from_decimal)
    }

    /// Whether the last unit of a quantity lies in this tier; of nothing, the first tier.
    pub(crate) fn holds_last_of(&self, units: &Fraction) -> bool {
        let is_in = self.begin() < *units && self.end().is_none_or(|end| *units <= end);
        is_in || (units.is_zero() && self.from.is_zero())
    }

    /// Whether the unit behind a quantity lies in this tier.
    pub(crate) fn holds_next_of(&self, units: &Fraction) -> bool {
        self.begin() <= *units && self.end().is_none_or(|end| *units < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::price::testing::price;

    fn check(rows: &[(&str, Option<&str>)], expected: Option<(usize, &str)>) {
        let tiers: Vec<PriceTier> = rows
            .iter()
            .map(|(from, up_to)| PriceTier {
                from: from.parse().unwrap(),
                up_to: up_to.map(|up_to| up_to.parse().unwrap()),
                price: price("1"),
                flat: UnitPrice::FREE,
            })
            .collect();
        let expected = expected.map(|(tier, rule)| TierFault { tier: Some(tier), rule: rule.to_owned() });
        assert_eq!(fault(&tiers), expected, "{rows:?}");
    }

    #[test]
    fn tiers_cover_all_units_from_zero_on_exactly_once() {
        check(&[("0", Some("10")), ("10", Some("10.5")), ("10.5", None)], None);
        check(&[("1", None)], Some((1, "begins at 1 but the tier before ends at 0: a gap")));
        check(&[("0", Some("10")), ("11", None)], Some((2, "begins at 11 but the tier before ends at 10: a gap")));
        check(&[("0", Some("10")), ("9", None)], Some((2, "begins at 9 but the tier before ends at 10: an overlap")));
        check(&[("-1", None)], Some((1, "has negative units")));
        check(&[("0", Some("0")), ("0", None)], Some((1, "has no units: it ends at or before its begin 0")));
        check(&[("0", None), ("10", None)], Some((2, "stands behind a tier without end")));
        check(&[("0", Some("10"))], Some((1, "is the last one and ends at 10: leave `up_to` away")));
        assert_eq!(fault(&[]).unwrap().rule, "there is no tier");
    }
}
