//! What a newer cut of an invoiced period means: the period counted again with the invoice's own terms, minus everything
//! invoiced or credited for it.
//!
//! More than was billed is charged as an adjustment on another invoice. Less is credited: on the period's own invoice as far
//! as that stays within it in every component, else by taking back adjustments that were charged for the period, the newest
//! first, until it does.

use crate::correction::{Correction, LineCorrection, Standing, add_coupons, negated_coupons};
use crate::fraction::Fraction;
use crate::invoice::{Invoice, TaxLine, Totals};
use crate::money::AmountError;

/// What is billed for a period now.
#[derive(Clone, Debug)]
pub struct Billed<A> {
    /// The number of the period's own invoice.
    pub number: String,
    /// What is left of that invoice after its credit notes for late usage.
    pub own: Standing,
    /// Adjustments charged for the period that nothing took back, the newest first.
    pub adjustments: Vec<(A, Correction)>,
}

/// One step towards the newer cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<A> {
    /// A credit note on the period's own invoice.
    Credit(Correction),
    /// A credit note that takes back an adjustment, whole.
    TakeBack(A, Correction),
    /// An adjustment that charges the rest on another invoice.
    Charge(Correction),
}

impl<A> Step<A> {
    /// What changes.
    pub fn correction(&self) -> &Correction {
        match self {
            Self::Credit(correction) | Self::TakeBack(_, correction) | Self::Charge(correction) => correction,
        }
    }
}

impl<A> Billed<A> {
    /// Everything billed for the period.
    pub fn total(&self) -> Result<Standing, AmountError> {
        self.adjustments.iter().try_fold(self.own.clone(), |sum, (_, adjustment)| sum.corrected(adjustment))
    }

    /// The steps that bring what is billed to what the period comes to now; none where it came to the same. Each says why.
    pub fn steps_to(self, recount: &Invoice, cause: &str) -> Result<Vec<Step<A>>, AmountError> {
        let Self { number, own, adjustments } = self;
        let mut adjustments = adjustments.into_iter().collect::<std::collections::VecDeque<_>>();
        let mut steps = Vec::new();
        loop {
            let billed = adjustments.iter().try_fold(own.clone(), |sum, (_, adjustment)| sum.corrected(adjustment))?;
            let Some(difference) = billed.correction_to(recount, &number, cause)? else { return Ok(steps) };
            // Other quantities that come to the same money: there is nothing to charge and nothing to credit.
            if difference.taxes.is_empty() && difference.totals == Totals::zero(difference.totals.total.currency()) {
                return Ok(steps);
            }
            if difference.is_charge() {
                steps.push(Step::Charge(difference));
                return Ok(steps);
            }
            if !is_within(&own, &difference)?
                && let Some((adjustment, charged)) = adjustments.pop_front()
            {
                steps.push(Step::TakeBack(adjustment, negated(&charged, cause)?));
                continue;
            }
            // Without adjustments what would be left is the recount, and nothing of a recount is below zero.
            steps.push(Step::Credit(difference));
            return Ok(steps);
        }
    }
}

/// Whether a credit leaves nothing of an invoice below zero, in any component.
fn is_within(own: &Standing, credit: &Correction) -> Result<bool, AmountError> {
    let left = own.totals().checked_add(&credit.totals)?;
    let Totals { subtotal, volume_discount, coupons, net, tax, total } = left;
    Ok(![subtotal, volume_discount, coupons, net, tax, total].into_iter().any(crate::money::Money::is_negative))
}

/// The correction that takes another one back.
pub(crate) fn negated(correction: &Correction, cause: &str) -> Result<Correction, AmountError> {
    let zero = Totals::zero(correction.totals.total.currency());
    let lines = correction.lines.iter().map(|line| {
        let quantity = Fraction::zero().checked_sub(&line.quantity).ok_or(AmountError::OutOfRange)?;
        Ok(LineCorrection { quantity, amount: line.amount.checked_neg()?, ..line.clone() })
    });
    let taxes = correction.taxes.iter().map(|tax| {
        Ok(TaxLine { rate: tax.rate.clone(), basis: tax.basis.checked_neg()?, amount: tax.amount.checked_neg()? })
    });
    Ok(Correction {
        invoice: correction.invoice.clone(),
        period: correction.period,
        cause: cause.to_owned(),
        lines: lines.collect::<Result<_, AmountError>>()?,
        taxes: taxes.collect::<Result<_, AmountError>>()?,
        totals: zero.checked_sub(&correction.totals)?,
        coupons: negated_coupons(&correction.coupons)?,
    })
}

/// Two corrections as one, under the first one's name: what a note says that takes back several things at once.
pub(crate) fn joined(mut first: Correction, second: &Correction) -> Result<Correction, AmountError> {
    first.lines.extend(second.lines.iter().cloned());
    for tax in &second.taxes {
        match first.taxes.iter_mut().find(|known| known.rate == tax.rate) {
            Some(known) => {
                known.basis = known.basis.checked_add(tax.basis)?;
                known.amount = known.amount.checked_add(tax.amount)?;
            }
            None => first.taxes.push(tax.clone()),
        }
    }
    first.totals = first.totals.checked_add(&second.totals)?;
    add_coupons(&mut first.coupons, &second.coupons)?;
    Ok(first)
}

#[cfg(test)]
mod tests {
    use ingest::Meter;
    use proptest::prelude::*;

    use super::*;
    use crate::invoice::draft;
    use crate::terms::tests::{card, terms};
    use crate::tier::Tier;
    use crate::usage::tests::in_month;

    /// October of a standard customer with so many findings at 0.05: 60,000 of them come to the threshold of the discount.
    fn counted(findings: i128) -> Invoice {
        let terms = terms(card(Tier::Standard), "2026-10");
        draft(&terms, &in_month("2026-10", &[(Meter::GuardDutyFindings, findings)])).unwrap()
    }

    fn billed(invoice: &Invoice) -> Billed<u32> {
        Billed { number: "INV-2026-11-0001".into(), own: Standing::of(invoice).unwrap(), adjustments: Vec::new() }
    }

    fn words(steps: &[Step<u32>]) -> Vec<(&'static str, i64)> {
        steps
            .iter()
            .map(|step| match step {
                Step::Credit(credit) => ("credit", credit.totals.total.minor()),
                Step::TakeBack(_, credit) => ("take back", credit.totals.total.minor()),
                Step::Charge(charge) => ("charge", charge.totals.total.minor()),
            })
            .collect()
    }

    #[test]
    fn the_same_usage_is_corrected_by_nothing() {
        assert_eq!(billed(&counted(20)).steps_to(&counted(20), "late usage").unwrap(), []);
    }

    #[test]
    fn usage_that_comes_to_less_than_half_a_cent_is_corrected_by_nothing() {
        let count = |events| {
            let usage = in_month("2026-10", &[(Meter::CloudTrailEvents, events)]);
            draft(&terms(card(Tier::Standard), "2026-10"), &usage).unwrap()
        };
        assert_eq!(billed(&count(10)).steps_to(&count(24_000), "late usage").unwrap(), []);
        assert_eq!(billed(&count(10)).steps_to(&count(26_000), "late usage").unwrap().len(), 1);
    }

    #[test]
    fn more_usage_is_charged_and_less_is_credited() {
        let steps = |from, to| words(&billed(&counted(from)).steps_to(&counted(to), "late usage").unwrap());
        assert_eq!(steps(0, 200), [("charge", 1_080)]);
        assert_eq!(steps(200, 0), [("credit", -1_080)]);
    }

    #[test]
    fn usage_that_brings_the_discount_is_credited() {
        // 5,000.00 against 5,000.05: 0.05 more, 250.00 off, 20.00 less tax.
        let steps = billed(&counted(60_000)).steps_to(&counted(60_001), "late usage").unwrap();
        let [Step::Credit(credit)] = steps.as_slice() else { panic!("{steps:?}") };
        let totals = credit.totals;
        let minor = [totals.subtotal, totals.volume_discount, totals.net, totals.tax, totals.total];
        assert_eq!(minor.map(|amount| amount.minor()), [5, 25_000, -24_995, -2_000, -26_995]);
    }

    #[test]
    fn a_credit_larger_than_the_invoice_takes_adjustments_back_first() {
        // The base fee was 1.00 when the period was billed, so that most of it came late.
        let cheap = |findings| {
            let mut invoice = counted(findings);
            let fee = invoice.lines[0].amount;
            let one = crate::money::Money::from_minor(100, fee.currency());
            invoice.lines[0].amount = one;
            let totals = &mut invoice.totals;
            totals.subtotal = totals.subtotal.checked_sub(fee).unwrap().checked_add(one).unwrap();
            totals.net = totals.subtotal;
            totals.tax = totals.net.share(crate::terms::tests::share("0.08")).unwrap();
            totals.total = totals.net.checked_add(totals.tax).unwrap();
            invoice.taxes[0].basis = totals.net;
            invoice.taxes[0].amount = totals.tax;
            invoice
        };
        let charge = |from: i128, to| {
            let steps = billed(&cheap(from)).steps_to(&cheap(to), "late usage").unwrap();
            let [Step::Charge(charge)] = steps.as_slice() else { panic!("{steps:?}") };
            charge.clone()
        };
        let standing =
            || Billed { adjustments: vec![(2, charge(400, 1_000)), (1, charge(0, 400))], ..billed(&cheap(0)) };
        for (recount, expected) in [
            (1_000, vec![]),
            (980, vec![("credit", -108)]),
            (979, vec![("take back", -3_240), ("charge", 3_127)]),
            (400, vec![("take back", -3_240)]),
            (390, vec![("take back", -3_240), ("credit", -54)]),
            (0, vec![("take back", -3_240), ("take back", -2_160)]),
        ] {
            assert_eq!(words(&standing().steps_to(&cheap(recount), "late usage").unwrap()), expected, "{recount}");
        }
    }

    #[test]
    fn joined_corrections_sum_and_negated_ones_cancel() {
        let steps = billed(&counted(0)).steps_to(&counted(200), "late usage").unwrap();
        let [Step::Charge(charge)] = steps.as_slice() else { panic!("{steps:?}") };
        let back = negated(charge, "taken back").unwrap();
        let nothing = joined(charge.clone(), &back).unwrap();
        assert_eq!(nothing.totals, Totals::zero(charge.totals.total.currency()));
        assert!(nothing.taxes.iter().all(|tax| tax.amount.is_zero() && tax.basis.is_zero()));
        assert_eq!(nothing.lines.len(), 2);
    }

    proptest! {
        /// Cut after cut: what is billed always comes to what the newest cut comes to, and no note exceeds its invoice.
        #[test]
        fn invoice_less_credits_plus_adjustments_is_the_recount(
            cuts in proptest::collection::vec(0_i128..150_000, 2..8),
        ) {
            let first = counted(cuts[0]);
            let mut standing = billed(&first);
            for (number, cut) in (0..).zip(&cuts[1..]) {
                let recount = counted(*cut);
                let mut kept = standing.clone();
                for step in standing.steps_to(&recount, "late usage").unwrap() {
                    match step {
                        Step::Credit(credit) => {
                            prop_assert!(!credit.is_charge());
                            prop_assert!(is_within(&kept.own, &credit).unwrap());
                            kept.own = kept.own.corrected(&credit).unwrap();
                        }
                        Step::TakeBack(adjustment, _) => kept.adjustments.retain(|(kept, _)| *kept != adjustment),
                        Step::Charge(charge) => kept.adjustments.insert(0, (number, charge)),
                    }
                }
                let total = kept.total().unwrap();
                prop_assert_eq!(total.totals(), &recount.totals);
                prop_assert_eq!(kept.clone().steps_to(&recount, "again").unwrap(), vec![], "again changes nothing");
                standing = kept;
            }
        }
    }
}
