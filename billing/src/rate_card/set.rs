//! Rate cards beside each other: at most one of a tier, or of a customer's contract in it, is in force on a day.

use std::collections::BTreeMap;

use crate::rate_card::{RateCard, RateCardFault};

/// A card and where it comes from.
#[derive(Clone, Debug)]
pub struct NamedCard {
    /// The file, or `database`.
    pub source_name: String,
    /// The card.
    pub card: RateCard,
}

/// Every rule that cards break together: versions and days in force must not collide, a tier has one currency and no day
/// without a card once it has begun.
///
/// A card without `valid_to` is in force until the next version begins. A contract may leave days out: on those the prices of
/// the tier hold.
pub fn check_set(cards: &[NamedCard]) -> Vec<RateCardFault> {
    let mut by_key: BTreeMap<(&str, Option<&str>), Vec<&NamedCard>> = BTreeMap::new();
    for named in cards {
        by_key.entry((named.card.tier().as_str(), named.card.customer())).or_default().push(named);
    }
    let mut faults = Vec::new();
    for of_key in by_key.values_mut() {
        of_key.sort_by_key(|named| (named.card.valid_from(), named.card.version()));
        for pair in of_key.windows(2) {
            faults.extend(collisions(pair[0], pair[1]));
        }
    }
    faults
}

fn collisions(earlier: &NamedCard, later: &NamedCard) -> Vec<RateCardFault> {
    let (before, after) = (&earlier.card, &later.card);
    let mut rules = Vec::new();
    if before.version() == after.version() {
        rules.push(format!("{before} exists twice: also in {}", earlier.source_name));
    } else if after.version() < before.version() {
        rules.push(format!("is in force later than version {}, so its version must be higher", before.version()));
    }
    if before.currency() != after.currency() {
        rules.push(format!("is in {} but version {} is in {}", after.currency(), before.version(), before.currency()));
    }
    let from = after.valid_from();
    match before.valid_to() {
        _ if before.valid_from() == from => {
            rules.push(format!("is in force from {from} on, as version {} is: an overlap", before.version()));
        }
        Some(end) if from < end => {
            rules.push(format!("begins on {from} but version {} ends before {end}: an overlap", before.version()));
        }
        Some(end) if end < from && after.customer().is_none() => {
            rules.push(format!("begins on {from} but version {} ends before {end}: a gap", before.version()));
        }
        _ => {}
    }
    let fault = |rule| RateCardFault { source_name: later.source_name.clone(), row: after.to_string(), rule };
    rules.into_iter().map(fault).collect()
}

#[cfg(test)]
mod tests {
    use ingest::Meters;

    use super::*;

    fn named(source: &str, head: &str) -> NamedCard {
        let text = head.replace(';', "\n");
        let card = RateCard::parse(&text, source, &Meters::built_in()).unwrap_or_else(|error| panic!("{error}"));
        NamedCard { source_name: source.to_owned(), card }
    }

    fn check(second: &str, expected: &[&str]) {
        let first =
            "tier = \"standard\"; version = 1; currency = \"USD\"; valid_from = 2026-01-01; valid_to = 2026-06-01";
        let found: Vec<String> =
            check_set(&[named("a.toml", first), named("b.toml", second)]).iter().map(ToString::to_string).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn cards_of_a_tier_follow_each_other_without_gap_or_overlap() {
        check("tier = \"standard\"; version = 2; currency = \"USD\"; valid_from = 2026-06-01", &[]);
        check("tier = \"fintech\"; version = 1; currency = \"EUR\"; valid_from = 2026-01-01", &[]);
        check(
            "tier = \"standard\"; version = 2; currency = \"USD\"; valid_from = 2026-05-31",
            &[
                "b.toml: rate card standard version 2: begins on 2026-05-31 but version 1 ends before 2026-06-01: an overlap",
            ],
        );
        check(
            "tier = \"standard\"; version = 2; currency = \"USD\"; valid_from = 2026-06-02",
            &["b.toml: rate card standard version 2: begins on 2026-06-02 but version 1 ends before 2026-06-01: a gap"],
        );
        check(
            "tier = \"standard\"; version = 2; currency = \"EUR\"; valid_from = 2026-06-01",
            &["b.toml: rate card standard version 2: is in EUR but version 1 is in USD"],
        );
        check(
            "tier = \"standard\"; version = 1; currency = \"USD\"; valid_from = 2026-06-01",
            &["b.toml: rate card standard version 1: rate card standard version 1 exists twice: also in a.toml"],
        );
        check(
            "tier = \"standard\"; version = 2; currency = \"USD\"; valid_from = 2026-01-01",
            &["b.toml: rate card standard version 2: is in force from 2026-01-01 on, as version 1 is: an overlap"],
        );
    }

    #[test]
    fn a_contract_stands_beside_the_cards_of_its_tier_and_may_leave_days_out() {
        let contract = |version: &str, from: &str, to: &str| {
            let head = format!(
                "tier = \"standard\"; customer = \"acme\"; version = {version}; currency = \"USD\"; valid_from = {from}{to}"
            );
            named(&format!("{version}.toml"), &head)
        };
        let first = contract("1", "2026-01-01", "; valid_to = 2026-02-01");
        assert_eq!(check_set(&[first.clone(), contract("2", "2026-03-01", "")]), []);
        let overlap = check_set(&[first, contract("2", "2026-01-31", "")]);
        assert_eq!(overlap[0].row, "rate card standard of acme version 2");
    }
}
