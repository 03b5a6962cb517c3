//! What a month costs, counted once more, as plainly as it can be said. Shares nothing with billing.

use std::collections::BTreeMap;

use ingest::Meter;

use super::source::Scope;

/// The prices of the simulated month, with roundings that matter.
pub(super) const CARD: &str = r#"
tier = "standard"
version = 1
currency = "USD"
valid_from = 2020-01-01

[[fees]]
id = "base"
kind = "base"
description = "Base fee"
amount = "3990.00"

[[prices]]
meter = "cloudtrail_events"
unit = "event"
model = "per_unit"
price = "0.125"

[[prices]]
meter = "guardduty_findings"
unit = "finding"
model = "per_unit"
price = "7.005"

[[prices]]
meter = "nat_gateway_bytes"
unit = "GiB"
raw_units_per_unit = 1073741824
model = "per_unit"
price = "0.45"

[[prices]]
meter = "data_transfer_bytes"
unit = "GiB"
raw_units_per_unit = 1073741824
model = "per_unit"
price = "0.9"

[volume_discount]
above = "4000.00"
rate = "0.05"
"#;

/// Half to even.
fn rounded(numerator: i128, denominator: i128) -> i128 {
    let (whole, rest) = (numerator.div_euclid(denominator), numerator.rem_euclid(denominator));
    match (2 * rest).cmp(&denominator) {
        std::cmp::Ordering::Less => whole,
        std::cmp::Ordering::Greater => whole + 1,
        std::cmp::Ordering::Equal => whole + whole.rem_euclid(2),
    }
}

/// The total of a month with tax, in cents.
pub(super) fn total_minor(usage: &BTreeMap<Scope, i128>) -> i128 {
    let of = |meter: Meter| usage.iter().filter(|((of, ..), _)| *of == meter).map(|(_, total)| total).sum::<i128>();
    let gib = 1 << 30;
    let subtotal = 399_000
        + rounded(of(Meter::CloudTrailEvents) * 125, 10)
        + rounded(of(Meter::GuardDutyFindings) * 7_005, 10)
        + rounded(of(Meter::NatGatewayBytes) * 45, gib)
        + rounded(of(Meter::DataTransferBytes) * 90, gib);
    let discount = if 400_000 < subtotal { rounded(subtotal * 5, 100) } else { 0 };
    let net = subtotal - discount;
    net + rounded(net * 8, 100)
}
