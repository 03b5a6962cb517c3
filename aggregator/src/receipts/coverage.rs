//! Through which hour an account's usage is all there: arithmetic on what its lanes cover and wait for.

use ingest::{AccountId, Timestamp};

/// What is known of one lane of an account, from the start of a scope on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneState {
    /// Its name.
    pub lane: String,
    /// The source says that every account has it.
    pub is_declared: bool,
    /// How far proofs cover without a gap from the start of the scope on; `None` if they do not cover the start.
    pub covered_until: Option<Timestamp>,
    /// Where its first chain begins, and how far proofs cover from there without a gap.
    pub begins: Option<(Timestamp, Timestamp)>,
    /// From here on its proofs do not follow each other: one was changed or replaced.
    pub broken_at: Option<Timestamp>,
    /// The earliest of what is expected and not done.
    pub waiting: Option<Waiting>,
}

/// Something that is expected and not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// No hour from this one's on is complete.
    pub since: Timestamp,
    /// What it is.
    pub name: String,
}

/// An account for as long as it is a customer's and its source is expected to say everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountScope {
    /// Which account.
    pub account: AccountId,
    /// The start.
    pub from: Timestamp,
    /// The end, if it has one.
    pub until: Option<Timestamp>,
    /// What is known of its lanes.
    pub lanes: Vec<LaneState>,
}

/// How far everything expected is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Through {
    /// Every hour before this one is complete; `None`: all there will ever be.
    pub until: Option<Timestamp>,
    /// What the next hour waits for; empty if for nothing.
    pub waits_for: String,
}

/// Every hour of the account before the one returned is complete: what was delivered until the hour's end plus the
/// lateness is proven and done.
pub fn complete_until(scope: &AccountScope, lateness_seconds: u32) -> Through {
    let account = scope.account;
    if scope.lanes.is_empty() {
        let waits_for = format!("account {account}: no proof of any kind");
        return Through { until: Some(scope.from.hour().start()), waits_for };
    }
    // How far the account is proven at all, by any lane from the scope's start on.
    let proven_until = scope.lanes.iter().filter_map(|lane| lane.covered_until).max();
    let lanes = scope.lanes.iter().map(|lane| lane_until(scope, lane, lateness_seconds, proven_until));
    let least = lanes.min_by_key(|(until, _)| *until).expect("there is a lane");
    let (until, waits_for) = least;
    // What happened before the end of the scope is all there: nothing more will come.
    if scope.until.is_some_and(|end| end <= until) {
        return Through { until: None, waits_for: String::new() };
    }
    Through { until: Some(until.hour().start()), waits_for }
}

fn lane_until(
    scope: &AccountScope,
    lane: &LaneState,
    lateness_seconds: u32,
    proven_until: Option<Timestamp>,
) -> (Timestamp, String) {
    let late = |instant: Timestamp| instant.saturating_add_secs(-i64::from(lateness_seconds));
    let (account, name) = (scope.account, &lane.lane);
    // A Region that begins a chain of its own while another Region of the account is proven was not there before: digests
    // are switched on for all Regions of a trail at once.
    let began = lane.begins.filter(|(begins, _)| {
        !lane.is_declared && scope.from < *begins && proven_until.is_some_and(|proven| *begins <= proven)
    });
    let covered = lane.covered_until.or(began.map(|(_, until)| until));
    let mut bounds = vec![match covered {
        Some(until) => (late(until), format!("account {account} {name}: nothing proven after {until}")),
        None => (scope.from, format!("account {account} {name}: nothing proven from {} on", scope.from)),
    }];
    if let Some(broken_at) = lane.broken_at {
        bounds.push((late(broken_at), format!("account {account} {name}: the chain is broken at {broken_at}")));
    }
    if let Some(waiting) = &lane.waiting {
        bounds.push((waiting.since, format!("account {account} {name}: {} is not counted", waiting.name)));
    }
    let (until, waits_for) = bounds.into_iter().min_by_key(|(until, _)| *until).expect("there is one");
    (until.max(scope.from), waits_for)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(&format!("2026-10-{text}Z")).unwrap()
    }

    fn lane(name: &str, covered_until: Option<&str>) -> LaneState {
        LaneState { lane: name.to_owned(), covered_until: covered_until.map(at), ..LaneState::default() }
    }

    /// Checks the hour that the account is complete until (`None`: for ever), and what is waited for.
    #[track_caller]
    fn check(until: Option<&str>, lanes: Vec<LaneState>, expected: Option<&str>, waits_for: &str) {
        let account = AccountId::parse("000000000012").unwrap();
        let scope = AccountScope { account, from: at("01T00:00:00"), until: until.map(at), lanes };
        let through = complete_until(&scope, 1_800);
        assert_eq!(through.until, expected.map(at), "{scope:?}");
        assert!(through.waits_for.contains(waits_for), "{through:?}");
        assert_eq!(through.waits_for.is_empty(), through.until.is_none());
    }

    #[test]
    fn an_hour_is_complete_once_its_end_and_the_lateness_are_proven_everywhere() {
        check(None, vec![lane("r", Some("05T12:30:00"))], Some("05T12:00:00"), "nothing proven after");
        check(None, vec![lane("r", Some("05T12:29:59"))], Some("05T11:00:00"), "r: nothing proven after");
        let two = vec![lane("r", Some("05T12:30:00")), lane("s", Some("03T12:30:00"))];
        check(None, two, Some("03T12:00:00"), "s: nothing proven after");
        check(None, vec![], Some("01T00:00:00"), "no proof of any kind");
        check(
            None,
            vec![lane("r", Some("05T12:30:00")), lane("s", None)],
            Some("01T00:00:00"),
            "s: nothing proven from",
        );
    }

    #[test]
    fn what_is_not_done_and_what_does_not_follow_hold_it_back() {
        let waiting = Waiting { since: at("04T07:10:00"), name: "s3://b/k".to_owned() };
        let lane_waiting = LaneState { waiting: Some(waiting), ..lane("r", Some("05T12:30:00")) };
        check(None, vec![lane_waiting.clone()], Some("04T07:00:00"), "s3://b/k is not counted");
        let broken = LaneState { broken_at: Some(at("03T10:00:00")), ..lane_waiting };
        check(None, vec![broken], Some("03T09:00:00"), "broken at 2026-10-03T10:00:00Z");
    }

    #[test]
    fn an_account_that_left_is_complete_for_ever_once_its_last_hour_is() {
        check(Some("04T00:00:00"), vec![lane("r", Some("04T00:30:00"))], None, "");
        check(Some("04T00:00:00"), vec![lane("r", Some("04T00:29:00"))], Some("03T23:00:00"), "nothing proven");
    }

    #[test]
    fn a_region_that_begins_later_counts_from_its_beginning_where_others_are_proven() {
        let begins = |is_declared| LaneState {
            is_declared,
            begins: Some((at("03T00:00:00"), at("05T12:30:00"))),
            ..lane("s", None)
        };
        let proven = lane("r", Some("06T00:30:00"));
        check(None, vec![proven.clone(), begins(false)], Some("05T12:00:00"), "s: nothing proven after");
        check(None, vec![proven, begins(true)], Some("01T00:00:00"), "s: nothing proven from");
        check(None, vec![lane("r", Some("02T00:30:00")), begins(false)], Some("01T00:00:00"), "s: nothing proven from");
        check(None, vec![begins(false)], Some("01T00:00:00"), "s: nothing proven from");
    }
}
