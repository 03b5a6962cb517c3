//! Where a registration fits into an account's history. Pure.

use ingest::Hour;

use super::{CustomerId, Ownership};

/// What a registration does to the intervals.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// It is so already.
    Unchanged {
        /// Since when.
        since: Hour,
    },
    /// The customer's interval that starts at `former_start` starts earlier.
    Extend {
        /// Where it starts so far.
        former_start: Hour,
    },
    /// A new interval without end begins; the former owner's, if any, ends there.
    Open {
        /// Whose interval ends there.
        former: Option<Ownership>,
    },
}

/// The interval that contradicts the registration.
#[derive(Debug, PartialEq, Eq)]
pub struct Conflict(pub Ownership);

/// Decides what makes `customer` the owner from `from` on. `history` is sorted and does not overlap.
///
/// Only the end of the history can change: an hour before the start of a later interval would take usage from an owner
/// without saying until when.
pub fn place(history: &[Ownership], customer: &CustomerId, from: Hour) -> Result<Change, Conflict> {
    if history.iter().any(|owned| owned.customer == *customer && owned.from == from) {
        // The same registration again, also when the account has moved on since: repeating must not undo the move.
        return Ok(Change::Unchanged { since: from });
    }
    let covering = history.iter().find(|owned| owned.from <= from && owned.until.is_none_or(|until| from < until));
    let later: Vec<&Ownership> = history.iter().filter(|owned| from < owned.from).collect();
    match (covering, later.as_slice()) {
        (Some(owned), _) if owned.customer == *customer && owned.until.is_none() => {
            Ok(Change::Unchanged { since: owned.from })
        }
        (None, [last]) if last.customer == *customer && last.until.is_none() => {
            Ok(Change::Extend { former_start: last.from })
        }
        (_, [next, ..]) => Err(Conflict((*next).clone())),
        (Some(owned), []) if owned.from == from || owned.customer == *customer => Err(Conflict(owned.clone())),
        (Some(owned), []) => Ok(Change::Open { former: Some(owned.clone()) }),
        (None, []) => Ok(Change::Open { former: None }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn customer(id: &str) -> CustomerId {
        CustomerId::parse(id).unwrap()
    }

    fn hour(number: i64) -> Hour {
        Hour::from_number(number).unwrap()
    }

    fn owned(id: &str, from: i64, until: Option<i64>) -> Ownership {
        Ownership { customer: customer(id), from: hour(from), until: until.map(hour) }
    }

    fn check(history: &[Ownership], id: &str, from: i64, expected: Result<Change, Conflict>) {
        assert_eq!(place(history, &customer(id), hour(from)), expected, "{id} from {from} in {history:?}");
    }

    #[test]
    fn an_account_without_owner_is_opened() {
        check(&[], "anna", 5, Ok(Change::Open { former: None }));
        check(&[owned("anna", 1, Some(3))], "berta", 3, Ok(Change::Open { former: None }));
    }

    #[test]
    fn saying_it_again_changes_nothing_even_after_a_move() {
        let history = [owned("anna", 5, Some(9)), owned("berta", 9, None)];
        check(&history, "anna", 5, Ok(Change::Unchanged { since: hour(5) }));
        check(&history, "berta", 9, Ok(Change::Unchanged { since: hour(9) }));
        check(&history, "berta", 12, Ok(Change::Unchanged { since: hour(9) }));
    }

    #[test]
    fn another_customer_takes_the_account_over_at_the_hour() {
        let former = owned("anna", 5, None);
        check(std::slice::from_ref(&former), "berta", 6, Ok(Change::Open { former: Some(former.clone()) }));
    }

    #[test]
    fn an_ownership_can_begin_earlier_while_nobody_else_is_in_the_way() {
        check(&[owned("anna", 5, None)], "anna", 2, Ok(Change::Extend { former_start: hour(5) }));
        check(
            &[owned("berta", 1, Some(2)), owned("anna", 5, None)],
            "anna",
            2,
            Ok(Change::Extend { former_start: hour(5) }),
        );
    }

    #[test]
    fn history_is_not_rewritten_under_another_owner() {
        let history = [owned("anna", 5, Some(9)), owned("berta", 9, None)];
        let berta = || Err(Conflict(owned("berta", 9, None)));
        check(&history, "carla", 9, berta());
        check(&history, "carla", 7, berta());
        check(&history, "carla", 2, Err(Conflict(owned("anna", 5, Some(9)))));
        check(&history, "anna", 7, berta());
        check(&history, "berta", 6, berta());
        check(&history, "anna", 3, Err(Conflict(owned("anna", 5, Some(9)))));
    }
}
