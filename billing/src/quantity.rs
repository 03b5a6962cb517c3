//! How much was used, exactly: integers in raw units, divided only inside a fraction.

use std::collections::BTreeMap;

use ingest::Meter;
use thiserror::Error;

use crate::fraction::Fraction;
use crate::period::Month;

/// What a usage row's total counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawUnit {
    /// Events, findings, evaluations: one by one.
    Each,
    /// Bytes.
    Byte,
    /// Bytes times the seconds they were stored.
    ByteSecond,
}

impl RawUnit {
    /// The raw unit a meter's usage rows are in.
    pub fn of(meter: Meter) -> Self {
        match meter {
            Meter::LogStorageGb => Self::ByteSecond,
            Meter::NatGatewayBytes => Self::Byte,
            _ => Self::Each,
        }
    }
}

/// An exact quantity in priced units: `raw / raw_per_unit`, kept as these two numbers so that a line can be recounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantity {
    raw: i128,
    raw_per_unit: i128,
}

impl Quantity {
    /// So many raw units of which `raw_per_unit` make one priced unit; `None` when a number is negative or the divisor zero.
    pub fn new(raw: i128, raw_per_unit: i128) -> Option<Self> {
        (0 <= raw && 0 < raw_per_unit).then_some(Self { raw, raw_per_unit })
    }

    /// Usage of a meter in a month, in the priced unit of which one is `raw_per_unit` counts, bytes, or bytes stored for the
    /// whole month: the price of storage is per month, so its byte-seconds are divided by the seconds of that very month.
    pub fn of_usage(meter: Meter, raw: i128, raw_per_unit: i64, month: Month) -> Option<Self> {
        let raw_per_unit = match RawUnit::of(meter) {
            RawUnit::Each | RawUnit::Byte => i128::from(raw_per_unit),
            RawUnit::ByteSecond => i128::from(raw_per_unit).checked_mul(i128::from(month.seconds()))?,
        };
        Self::new(raw, raw_per_unit)
    }

    /// The raw units.
    pub fn raw(self) -> i128 {
        self.raw
    }

    /// How many raw units make one priced unit.
    pub fn raw_per_unit(self) -> i128 {
        self.raw_per_unit
    }

    /// The quantity in priced units.
    pub fn exact(self) -> Fraction {
        Fraction::new(self.raw, self.raw_per_unit).expect("the divisor is positive and both numbers fit")
    }
}

/// The usage of one customer in one month: the sum of the totals per meter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    totals: BTreeMap<Meter, i128>,
}

/// Usage cannot be summed. Stop for this customer: the rows are wrong, and trying again gives the same.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum UsageError {
    /// A total below zero.
    #[error("usage of {0} is negative")]
    Negative(Meter),
    /// A sum that does not fit.
    #[error("usage of {0} is out of range")]
    OutOfRange(Meter),
}

impl Usage {
    /// Adds the total of one or more windows.
    pub fn add(&mut self, meter: Meter, raw: i128) -> Result<(), UsageError> {
        if raw < 0 {
            return Err(UsageError::Negative(meter));
        }
        let total = self.totals.entry(meter).or_insert(0);
        *total = total.checked_add(raw).ok_or(UsageError::OutOfRange(meter))?;
        Ok(())
    }

    /// The raw units used; `None` where no window reported any, which is not the same as zero.
    pub fn of(&self, meter: Meter) -> Option<i128> {
        self.totals.get(&meter).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: i64 = 1 << 30;

    #[test]
    fn a_gigabyte_month_is_two_to_the_thirty_bytes_for_all_seconds_of_that_month() {
        for (month, seconds) in
            [("2026-10", 2_678_400), ("2026-11", 2_592_000), ("2026-02", 2_419_200), ("2028-02", 2_505_600)]
        {
            let month = Month::parse(month).unwrap();
            let raw = 100 * i128::from(GIB) * seconds;
            let quantity = Quantity::of_usage(Meter::LogStorageGb, raw, GIB, month).unwrap();
            assert_eq!(quantity.exact(), Fraction::whole(100), "{month}");
            let one_day_less =
                Quantity::of_usage(Meter::LogStorageGb, raw - 100 * i128::from(GIB) * 86_400, GIB, month).unwrap();
            assert_eq!(one_day_less.exact(), Fraction::new(100 * (seconds - 86_400), seconds).unwrap());
        }
    }

    #[test]
    fn bytes_and_counts_are_divided_by_what_makes_one_unit() {
        let month = Month::parse("2026-10").unwrap();
        let exact = |meter, raw, per| Quantity::of_usage(meter, raw, per, month).unwrap().exact();
        assert_eq!(exact(Meter::NatGatewayBytes, i128::from(GIB) / 2, GIB), Fraction::new(1, 2).unwrap());
        assert_eq!(exact(Meter::CloudTrailEvents, 262, 1), Fraction::whole(262));
        assert_eq!(Quantity::new(-1, 1), None);
        assert_eq!(Quantity::new(1, 0), None);
    }

    #[test]
    fn usage_that_cannot_be_is_an_error() {
        let mut usage = Usage::default();
        assert_eq!(usage.of(Meter::CloudTrailEvents), None);
        assert_eq!(usage.add(Meter::CloudTrailEvents, -1), Err(UsageError::Negative(Meter::CloudTrailEvents)));
        usage.add(Meter::CloudTrailEvents, i128::MAX).unwrap();
        assert_eq!(usage.add(Meter::CloudTrailEvents, 1), Err(UsageError::OutOfRange(Meter::CloudTrailEvents)));
    }
}
