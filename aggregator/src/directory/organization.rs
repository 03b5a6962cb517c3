//! Accounts follow their organization: which intervals of ownership come of that. Pure.
//!
//! An account is in an organization from when it is first seen live there until it is seen live in another. Being closed ends
//! nothing: what a closed account still uses is its last organization's.

use std::fmt;

use ingest::{Hour, Timestamp};
use thiserror::Error;

use super::Ownership;

/// An AWS organization's id: `o-` and 10 to 32 lower-case letters and digits.
///
/// Source: AWS Organizations API reference, data type Organization.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrganizationId(String);

/// The text is no organization id.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("an organization id is o- and 10 to 32 lower-case letters and digits")]
pub struct NotAnOrganizationId;

impl OrganizationId {
    /// Reads an organization id; nothing is trimmed or folded.
    pub fn parse(text: &str) -> Result<Self, NotAnOrganizationId> {
        let rest = text.strip_prefix("o-").ok_or(NotAnOrganizationId)?;
        let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let fits = (10..=32).contains(&rest.len()) && rest.bytes().all(is_part);
        if fits { Ok(Self(text.to_owned())) } else { Err(NotAnOrganizationId) }
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OrganizationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for OrganizationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The intervals that follow from where an account was seen live, in order of time, and from who owned the organizations;
/// less what was said of the account itself.
pub(super) fn follow(
    seen: &[(Timestamp, OrganizationId)],
    owners: impl Fn(&OrganizationId) -> Vec<Ownership>,
    said: &[Ownership],
) -> Vec<Ownership> {
    let mut memberships: Vec<(Hour, Option<Hour>, &OrganizationId)> = Vec::new();
    for (time, organization) in seen {
        let hour = time.hour();
        match memberships.last_mut() {
            Some((_, _, last)) if *last == organization => continue,
            // The hour of the change is the later one's.
            Some((from, until, _)) if *from < hour => *until = Some(hour),
            Some(_) => {
                memberships.pop();
            }
            None => {}
        }
        memberships.push((hour, None, organization));
    }
    let mut follows: Vec<Ownership> = Vec::new();
    for (from, until, organization) in memberships {
        let in_membership = owners(organization).into_iter().filter_map(|owned| {
            let (from, until) = (owned.from.max(from), earlier(owned.until, until));
            until.is_none_or(|until| from < until).then_some(Ownership { from, until, ..owned })
        });
        for owned in in_membership.flat_map(|owned| without(owned, said)) {
            match follows.last_mut() {
                Some(last) if last.customer == owned.customer && last.until == Some(owned.from) => {
                    last.until = owned.until
                }
                _ => follows.push(owned),
            }
        }
    }
    follows
}

fn earlier(a: Option<Hour>, b: Option<Hour>) -> Option<Hour> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, None) | (None, one) => one,
    }
}

/// An interval less those of a list in order of time.
fn without(owned: Ownership, said: &[Ownership]) -> Vec<Ownership> {
    let mut left = Vec::new();
    let mut from = Some(owned.from);
    for one in said {
        let Some(start) = from else { break };
        if owned.until.is_some_and(|until| until <= one.from) {
            break;
        }
        if start < one.from {
            left.push(Ownership { from: start, until: Some(one.from), ..owned.clone() });
        }
        from = one.until.map(|until| until.max(start));
    }
    if let Some(from) = from.filter(|from| owned.until.is_none_or(|until| *from < until)) {
        left.push(Ownership { from, ..owned });
    }
    left
}

/// The first hour in which two histories differ; `None` if they are the same.
pub(super) fn first_difference(before: &[Ownership], after: &[Ownership]) -> Option<Hour> {
    let mut hours: Vec<Hour> =
        before.iter().chain(after).flat_map(|owned| std::iter::once(owned.from).chain(owned.until)).collect();
    hours.sort_unstable();
    let owner = |history: &[Ownership], hour: Hour| {
        let covers = |owned: &&Ownership| owned.from <= hour && owned.until.is_none_or(|until| hour < until);
        history.iter().find(covers).map(|owned| owned.customer.clone())
    };
    hours.into_iter().find(|hour| owner(before, *hour) != owner(after, *hour))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::directory::CustomerId;

    fn organization(letter: char) -> OrganizationId {
        OrganizationId::parse(&format!("o-{}", letter.to_string().repeat(10))).unwrap()
    }

    fn hour(number: i64) -> Hour {
        Hour::from_number(number).unwrap()
    }

    fn owned(customer: &str, from: i64, until: Option<i64>) -> Ownership {
        let customer = CustomerId::parse(customer).unwrap();
        Ownership { customer, from: hour(from), until: until.map(hour) }
    }

    /// Owners of organizations a and b.
    fn owners(organization_id: &OrganizationId) -> Vec<Ownership> {
        if *organization_id == organization('a') {
            vec![owned("anna", 10, Some(20)), owned("carla", 20, None)]
        } else {
            vec![owned("berta", 0, None)]
        }
    }

    fn check(seen: &[(i64, char)], said: &[Ownership], expected: &[Ownership]) {
        let seen: Vec<_> = seen.iter().map(|&(at, letter)| (hour(at).start(), organization(letter))).collect();
        assert_eq!(follow(&seen, owners, said), expected, "{seen:?} {said:?}");
    }

    #[test]
    fn an_account_follows_its_organization_and_what_is_said_of_it_stands_above() {
        check(&[], &[], &[]);
        check(&[(5, 'a')], &[], &[owned("anna", 10, Some(20)), owned("carla", 20, None)]);
        check(
            &[(12, 'a'), (15, 'a'), (30, 'b')],
            &[],
            &[owned("anna", 12, Some(20)), owned("carla", 20, Some(30)), owned("berta", 30, None)],
        );
        check(&[(5, 'b'), (5, 'a')], &[], &[owned("anna", 10, Some(20)), owned("carla", 20, None)]);
        check(&[(12, 'a')], &[owned("dora", 15, None)], &[owned("anna", 12, Some(15))]);
        check(
            &[(12, 'a')],
            &[owned("dora", 1, Some(13)), owned("eva", 18, Some(25))],
            &[owned("anna", 13, Some(18)), owned("carla", 25, None)],
        );
        check(&[(12, 'a')], &[owned("anna", 0, None)], &[]);
        // Left and come back, with the same owner in between.
        check(&[(2, 'b'), (4, 'a'), (8, 'b')], &[], &[owned("berta", 2, Some(4)), owned("berta", 8, None)]);
    }

    #[test]
    fn only_organization_ids_are_read() {
        for good in ["o-exampleorgid", "o-aa111bb222"] {
            assert_eq!(OrganizationId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "o-", "o-short", "r-aa111bb222", "o-AA111BB222", "o-aa111bb222 ", "none"] {
            assert_eq!(OrganizationId::parse(bad), Err(NotAnOrganizationId), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_follows_is_what_a_look_at_each_hour_gives(
            mut seen in prop::collection::vec((0..40_i64, prop::sample::select(vec!['a', 'b'])), 0..6),
            said in prop::collection::vec((0..6_i64, 1..6_i64), 0..4),
            is_open in any::<bool>(),
        ) {
            seen.sort_by_key(|(at, _)| *at);
            let mut at = 0;
            let mut history = Vec::new();
            for (gap, length) in said {
                history.push(owned("dora", at + gap, Some(at + gap + length)));
                at += gap + length;
            }
            if let (true, Some(last)) = (is_open, history.last_mut()) {
                last.until = None;
            }
            let timed: Vec<_> = seen.iter().map(|&(at, letter)| (hour(at).start(), organization(letter))).collect();
            let follows = follow(&timed, owners, &history);
            for at in 0..50 {
                let of = |list: &[Ownership]| {
                    let covers = |one: &&Ownership| one.from <= hour(at) && one.until.is_none_or(|until| hour(at) < until);
                    let found: Vec<_> = list.iter().filter(covers).map(|one| one.customer.clone()).collect();
                    assert!(found.len() < 2, "one owner at a time");
                    found.first().cloned()
                };
                let last = timed.iter().rev().find(|(time, _)| time.hour() <= hour(at));
                let expected = if of(&history).is_some() { None } else { last.and_then(|(_, one)| of(&owners(one))) };
                prop_assert_eq!(of(&follows), expected, "at {}", at);
            }
        }
    }
}
