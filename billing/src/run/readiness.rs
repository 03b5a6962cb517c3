//! Whether a period can be issued: from a close, and, where nothing proves it complete, not before the grace has ended.

use ingest::Timestamp;

use crate::document::SourceClass;
use crate::period::Month;

/// Hours after the end of a period in which late usage is waited for, unless the period is proven complete before.
pub const GRACE_HOURS: u32 = 72;

/// A close, as far as this matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closed {
    /// How far it is proven.
    pub(super) source_class: SourceClass,
    /// Whether an operator closed although something was missing.
    pub(super) is_overridden: bool,
}

/// What a period waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    /// It can be issued.
    Ready,
    /// There is no close yet, and the grace still runs.
    WaitsForClose {
        /// The end of the grace.
        until: Timestamp,
    },
    /// There is a close, but usage of its best-effort sources may still arrive.
    WaitsForGrace {
        /// The end of the grace.
        until: Timestamp,
    },
    /// The grace has ended and there is no close.
    Unproven {
        /// When it ended.
        since: Timestamp,
    },
}

/// A proven or reconciled close ends the wait early, and so does an operator's override; an outage never does.
pub(super) fn readiness(period: Month, close: Option<Closed>, grace_hours: u32, now: Timestamp) -> Readiness {
    let until = period.end().saturating_add_secs(i64::from(grace_hours) * 3600);
    match close {
        Some(Closed { source_class: SourceClass::BestEffort, is_overridden: false }) if now < until => {
            Readiness::WaitsForGrace { until }
        }
        Some(_) => Readiness::Ready,
        None if now < until => Readiness::WaitsForClose { until },
        None => Readiness::Unproven { since: until },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_proven_close_or_an_override_ends_the_grace_early() {
        let period = Month::parse("2026-10").unwrap();
        let at = |text: &str| Timestamp::parse_rfc3339(text).unwrap();
        let end = at("2026-11-04T00:00:00Z");
        let close = |source_class, is_overridden| Some(Closed { source_class, is_overridden });
        for (close, early, late) in [
            (None, Readiness::WaitsForClose { until: end }, Readiness::Unproven { since: end }),
            (close(SourceClass::BestEffort, false), Readiness::WaitsForGrace { until: end }, Readiness::Ready),
            (close(SourceClass::BestEffort, true), Readiness::Ready, Readiness::Ready),
            (close(SourceClass::Reconciled, false), Readiness::Ready, Readiness::Ready),
            (close(SourceClass::Proven, false), Readiness::Ready, Readiness::Ready),
        ] {
            for (now, expected) in [
                ("2026-11-01T00:00:00Z", early),
                ("2026-11-03T23:59:59.999999Z", early),
                ("2026-11-04T00:00:00Z", late),
                ("2027-11-04T00:00:00Z", late),
            ] {
                assert_eq!(readiness(period, close, GRACE_HOURS, at(now)), expected, "{close:?} {now}");
            }
        }
        assert_eq!(readiness(period, close(SourceClass::BestEffort, false), 0, period.end()), Readiness::Ready);
    }
}
