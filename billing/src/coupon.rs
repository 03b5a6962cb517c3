//! Coupons: what a customer was promised off its invoices, by percent or amount.

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::days::Days;
use crate::money::Money;
use crate::share::Share;

/// What a coupon takes off an invoice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CouponValue {
    /// A share of what is left when its turn comes.
    Percent(Share),
    /// An amount off each invoice; what an invoice is too small for is lost.
    Fixed(Money),
    /// An amount altogether: what one invoice is too small for waits for the next. A promotional credit is one.
    Balance(Money),
}

/// A coupon that customers can redeem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coupon {
    /// Its name, for ever.
    pub code: String,
    /// Its words on the invoice.
    pub description: String,
    /// What it takes off.
    pub value: CouponValue,
    /// The first day on which it can be redeemed.
    pub valid_from: NaiveDate,
    /// The first day on which it no longer can; `None` without end.
    pub valid_to: Option<NaiveDate>,
    /// How many customers can redeem it.
    pub redemptions_max: Option<u32>,
    /// How many invoices of a customer it is taken off, from the month of its redemption on.
    pub invoices_max: Option<u32>,
}

/// A coupon that a customer has redeemed, before some invoice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedeemedCoupon {
    /// The coupon as it was when it was redeemed.
    pub coupon: Coupon,
    /// When.
    pub redeemed_on: NaiveDate,
    /// How many invoices it was taken off before this one.
    pub invoices_used: u32,
    /// What it took off them altogether.
    pub taken: Money,
}

/// A coupon cannot be redeemed. Skip: nothing was changed, and the reason holds until the coupon does.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RedeemError {
    /// Too early.
    #[error("coupon {code} can be redeemed from {from} on")]
    NotYet {
        /// The coupon.
        code: String,
        /// Its first day.
        from: NaiveDate,
    },
    /// Too late.
    #[error("coupon {code} could be redeemed before {to}")]
    Expired {
        /// The coupon.
        code: String,
        /// The first day on which it no longer can be.
        to: NaiveDate,
    },
    /// It was redeemed by as many customers as it allows.
    #[error("coupon {code} was redeemed {redemptions} times, as often as it allows")]
    UsedUp {
        /// The coupon.
        code: String,
        /// By how many customers.
        redemptions: u32,
    },
}

impl Coupon {
    /// Whether one more customer can redeem it on this day, after so many others have.
    pub fn check_redemption(&self, day: NaiveDate, redemptions: u32) -> Result<(), RedeemError> {
        check_redemption(&self.code, (self.valid_from, self.valid_to), self.redemptions_max, day, redemptions)
    }
}

/// Whether one more customer can redeem a coupon of these days and limits.
pub(crate) fn check_redemption(
    code: &str,
    (valid_from, valid_to): (NaiveDate, Option<NaiveDate>),
    redemptions_max: Option<u32>,
    day: NaiveDate,
    redemptions: u32,
) -> Result<(), RedeemError> {
    let code = || code.to_owned();
    if day < valid_from {
        return Err(RedeemError::NotYet { code: code(), from: valid_from });
    }
    if let Some(to) = valid_to
        && to <= day
    {
        return Err(RedeemError::Expired { code: code(), to });
    }
    if redemptions_max.is_some_and(|most| most <= redemptions) {
        return Err(RedeemError::UsedUp { code: code(), redemptions });
    }
    Ok(())
}

impl RedeemedCoupon {
    /// Whether it is taken off the invoice of this period: it was redeemed before the period's end and has invoices, and of a
    /// balance something, left. Its validity bounds the redemption, not the use.
    pub fn applies_to(&self, period: Days) -> bool {
        let has_invoices = self.coupon.invoices_max.is_none_or(|most| self.invoices_used < most);
        let has_balance = match self.coupon.value {
            CouponValue::Balance(whole) => self.taken.minor() < whole.minor(),
            CouponValue::Percent(_) | CouponValue::Fixed(_) => true,
        };
        self.redeemed_on < period.end() && has_invoices && has_balance
    }

    /// The order in which coupons are taken off: the oldest first, then by code.
    pub(crate) fn turn(&self) -> (NaiveDate, &str) {
        (self.redeemed_on, &self.coupon.code)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::currency::Currency;
    use crate::period::Month;

    fn day(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    pub(crate) fn redeemed(code: &str, value: CouponValue) -> RedeemedCoupon {
        RedeemedCoupon {
            coupon: Coupon {
                code: code.to_owned(),
                description: format!("Coupon {code}"),
                value,
                valid_from: day("2026-01-01"),
                valid_to: Some(day("2027-01-01")),
                redemptions_max: Some(2),
                invoices_max: Some(3),
            },
            redeemed_on: day("2026-10-31"),
            invoices_used: 0,
            taken: Money::zero(Currency::Usd),
        }
    }

    #[test]
    fn a_coupon_is_redeemed_within_its_days_and_as_often_as_it_allows() {
        let coupon = redeemed("TEN", CouponValue::Percent(Share::new("0.1".parse().unwrap()).unwrap())).coupon;
        let check = |on: &str, redemptions| coupon.check_redemption(day(on), redemptions).map_err(|e| e.to_string());
        assert_eq!(check("2026-01-01", 1), Ok(()));
        assert_eq!(check("2026-12-31", 0), Ok(()));
        assert_eq!(check("2025-12-31", 0), Err("coupon TEN can be redeemed from 2026-01-01 on".into()));
        assert_eq!(check("2027-01-01", 0), Err("coupon TEN could be redeemed before 2027-01-01".into()));
        assert_eq!(check("2026-06-01", 2), Err("coupon TEN was redeemed 2 times, as often as it allows".into()));
    }

    #[test]
    fn a_coupon_is_taken_off_from_the_month_of_its_redemption_on_while_something_is_left() {
        let usd = |minor| Money::from_minor(minor, Currency::Usd);
        let mut coupon = redeemed("CREDIT", CouponValue::Balance(usd(10_000)));
        let applies = |coupon: &RedeemedCoupon, month| coupon.applies_to(Month::parse(month).unwrap().all_days());
        assert!(!applies(&coupon, "2026-09"));
        assert!(applies(&coupon, "2026-10") && applies(&coupon, "2027-05"));
        let next = RedeemedCoupon { redeemed_on: day("2026-11-01"), ..coupon.clone() };
        assert!(
            !applies(&next, "2026-10") && applies(&next, "2026-11"),
            "the first day of a month is none of the one before"
        );
        coupon.taken = usd(9_999);
        coupon.invoices_used = 2;
        assert!(applies(&coupon, "2026-12"));
        coupon.invoices_used = 3;
        assert!(!applies(&coupon, "2026-12"), "three invoices were all");
        coupon.invoices_used = 2;
        coupon.taken = usd(10_000);
        assert!(!applies(&coupon, "2026-12"), "the balance is used");
    }
}
