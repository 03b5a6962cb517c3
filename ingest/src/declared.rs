//! Which source each meter is counted from.
//!
//! A meter may be told by more than one source: an evaluation of a Config rule is seen when the rule is invoked, when its
//! result is put, and on the bill. Exactly one of them is declared for a customer's accounts and counted; the others are
//! understood and not counted. Declarations have a beginning in event time, so that reading old usage again counts it from
//! the source it was counted from.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use thiserror::Error;

use crate::{AccountId, Meter, Timestamp, UnknownMeter};

/// Where usage of a meter is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// CloudTrail events, by whatever delivery.
    CloudTrail,
    /// GuardDuty findings, by whatever delivery.
    GuardDuty,
    /// Security Hub findings in ASFF.
    SecurityHub,
    /// The events by which AWS Config invokes the functions of custom rules.
    RuleInvocations,
    /// `PutEvaluations` calls, as CloudTrail logs them.
    PutEvaluations,
    /// Events of AWS Organizations, as CloudTrail logs them, and lists of its accounts, units and policies.
    Organizations,
    /// Usage samples in CloudEvents envelopes.
    UsageSamples,
    /// Rows of a FOCUS export.
    FocusExport,
}

impl Source {
    /// Every source.
    pub const ALL: [Self; 8] = [
        Self::CloudTrail,
        Self::GuardDuty,
        Self::SecurityHub,
        Self::RuleInvocations,
        Self::PutEvaluations,
        Self::Organizations,
        Self::UsageSamples,
        Self::FocusExport,
    ];

    /// The name used in declarations.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CloudTrail => "cloudtrail",
            Self::GuardDuty => "guardduty",
            Self::SecurityHub => "security_hub",
            Self::RuleInvocations => "rule_invocations",
            Self::PutEvaluations => "put_evaluations",
            Self::Organizations => "organizations",
            Self::UsageSamples => "usage_samples",
            Self::FocusExport => "focus_export",
        }
    }

    /// Reads a source's name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|source| source.as_str() == name)
    }

    /// The source of a meter that nothing is declared for.
    pub fn default_of(meter: Meter) -> Self {
        match meter {
            Meter::CloudTrailEvents => Self::CloudTrail,
            Meter::GuardDutyFindings => Self::GuardDuty,
            Meter::SecurityHubFindings => Self::SecurityHub,
            Meter::ConfigRuleEvaluations => Self::RuleInvocations,
            Meter::Accounts | Meter::OrganizationalUnits | Meter::ServiceControlPolicies => Self::Organizations,
            Meter::LogStorageGb
            | Meter::ArchiveStorageGb
            | Meter::NatGatewayBytes
            | Meter::DataTransferBytes
            | Meter::Sample(_) => Self::UsageSamples,
            Meter::ExportGenerations => Self::FocusExport,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// From an event time on, a meter of some accounts is counted from this source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// The source.
    pub source: Source,
    /// Whose usage; `None`: of every account that has no declaration of its own by then.
    pub accounts: Option<Vec<AccountId>>,
    /// The first event time it holds for.
    pub from: Timestamp,
}

/// Which source each meter is counted from, by account and event time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declarations {
    of_meter: BTreeMap<Meter, Vec<Declaration>>,
}

/// Nothing is declared: every meter is counted from its default source.
pub static NOTHING_DECLARED: Declarations = Declarations { of_meter: BTreeMap::new() };

/// Declarations cannot be read. Stop: what would be counted is not what was meant.
#[derive(Debug, Error)]
pub enum DeclarationError {
    /// Not the TOML that is expected.
    #[error("not a list of [[declared]] tables with meter, source, and perhaps accounts and from: {0}")]
    Toml(#[from] toml::de::Error),
    /// A value that is none of those it may be.
    #[error("declaration {number}: {field} {value:?} {expected}")]
    Value {
        /// Which declaration, from 1.
        number: usize,
        /// Its field.
        field: &'static str,
        /// What stands there.
        value: String,
        /// What should.
        expected: String,
    },
    /// Two declarations say different things about the same accounts from the same time on.
    #[error(
        "declaration {number} contradicts declaration {earlier}: the same meter, accounts and time, another source"
    )]
    Contradiction {
        /// The later one, from 1.
        number: usize,
        /// The earlier one, from 1.
        earlier: usize,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    declared: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    meter: String,
    source: String,
    accounts: Option<Vec<String>>,
    from: Option<String>,
}

impl Declarations {
    /// Reads declarations from TOML.
    ///
    /// ```
    /// use ingest::{AccountId, Declarations, Meter, Source, Timestamp};
    ///
    /// let declarations = Declarations::parse(
    ///     r#"
    ///     [[declared]]
    ///     meter = "config_rule_evaluations"
    ///     source = "put_evaluations"
    ///     accounts = ["123456789012"]
    ///     from = "2026-11-01T00:00:00Z"
    ///     "#,
    /// )?;
    /// let account = AccountId::parse("123456789012")?;
    /// let at = |text| Timestamp::parse_rfc3339(text);
    /// let source = |time| declarations.source(Meter::ConfigRuleEvaluations, account, time);
    /// assert_eq!(source(at("2026-10-31T23:59:59Z")?), Source::RuleInvocations);
    /// assert_eq!(source(at("2026-11-01T00:00:00Z")?), Source::PutEvaluations);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self, DeclarationError> {
        let file: File = toml::from_str(text)?;
        let mut declarations = Self::default();
        let mut numbers: BTreeMap<Meter, Vec<usize>> = BTreeMap::new();
        for (row, number) in file.declared.into_iter().zip(1..) {
            let (meter, declaration) = row.read(number)?;
            let others = declarations.of_meter.entry(meter).or_default();
            let of_others = numbers.entry(meter).or_default();
            let contradicted = others.iter().position(|other| other.contradicts(&declaration));
            if let Some(position) = contradicted {
                return Err(DeclarationError::Contradiction { number, earlier: of_others[position] });
            }
            others.push(declaration);
            of_others.push(number);
        }
        Ok(declarations)
    }

    /// The source a meter of an account is counted from at an event time: the latest declaration that names the account, else
    /// the latest that names none, else the meter's default.
    pub fn source(&self, meter: Meter, account: AccountId, event_time: Timestamp) -> Source {
        let declared = self.of_meter.get(&meter).map_or([].as_slice(), Vec::as_slice);
        let latest = |is_named: bool| {
            let begun = declared.iter().filter(|one| one.from <= event_time);
            let of_account = begun.filter(|one| match &one.accounts {
                Some(accounts) => is_named && accounts.contains(&account),
                None => !is_named,
            });
            of_account.max_by_key(|one| one.from).map(|one| one.source)
        };
        latest(true).or_else(|| latest(false)).unwrap_or_else(|| Source::default_of(meter))
    }

    /// Everything that is declared, in order of meters.
    pub fn all(&self) -> impl Iterator<Item = (Meter, &Declaration)> {
        self.of_meter.iter().flat_map(|(meter, declared)| declared.iter().map(|one| (*meter, one)))
    }

    /// Whether usage of a meter counts when it comes from this source.
    pub fn is_declared(&self, source: Source, meter: Meter, account: AccountId, event_time: Timestamp) -> bool {
        self.source(meter, account, event_time) == source
    }
}

impl Declaration {
    fn contradicts(&self, other: &Self) -> bool {
        let share_accounts = match (&self.accounts, &other.accounts) {
            (Some(some), Some(others)) => some.iter().any(|account| others.contains(account)),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        self.from == other.from && self.source != other.source && share_accounts
    }
}

impl Row {
    fn read(self, number: usize) -> Result<(Meter, Declaration), DeclarationError> {
        let wrong = |field, value: &str, expected: String| DeclarationError::Value {
            number,
            field,
            value: value.to_owned(),
            expected,
        };
        let meter = Meter::parse(&self.meter)
            .map_err(|UnknownMeter| wrong("meter", &self.meter, "is no meter; see securebase meters".to_owned()))?;
        let names = Source::ALL.map(Source::as_str).join(", ");
        let source = Source::parse(&self.source)
            .ok_or_else(|| wrong("source", &self.source, format!("is no source; there are {names}")))?;
        let account = |text: String| {
            AccountId::parse(&text).map_err(|error| wrong("accounts", &text, format!("is no account: {error}")))
        };
        let accounts = self.accounts.map(|list| list.into_iter().map(account).collect()).transpose()?;
        let from = match &self.from {
            None => Timestamp::MIN,
            Some(text) => Timestamp::parse_rfc3339(text).map_err(|error| wrong("from", text, format!("is {error}")))?,
        };
        Ok((meter, Declaration { source, accounts, from }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(declarations: &Declarations, account: &str, time: &str) -> Source {
        let (account, time) = (AccountId::parse(account).unwrap(), Timestamp::parse_rfc3339(time).unwrap());
        declarations.source(Meter::ConfigRuleEvaluations, account, time)
    }

    #[test]
    fn an_accounts_own_declaration_goes_before_everyones_and_the_latest_before_earlier_ones() {
        let declarations = Declarations::parse(
            r#"
            [[declared]]
            meter = "config_rule_evaluations"
            source = "usage_samples"
            from = "2026-10-01T00:00:00Z"
            [[declared]]
            meter = "config_rule_evaluations"
            source = "put_evaluations"
            accounts = ["111111111111", "222222222222"]
            [[declared]]
            meter = "config_rule_evaluations"
            source = "focus_export"
            accounts = ["222222222222"]
            from = "2026-11-01T00:00:00+01:00"
            [[declared]]
            meter = "guardduty_findings"
            source = "usage_samples"
            "#,
        )
        .unwrap();
        for (account, time, expected) in [
            ("333333333333", "2026-09-30T23:59:59Z", Source::RuleInvocations),
            ("333333333333", "2026-10-01T00:00:00Z", Source::UsageSamples),
            ("111111111111", "2026-12-01T00:00:00Z", Source::PutEvaluations),
            ("222222222222", "2026-10-31T22:59:59Z", Source::PutEvaluations),
            ("222222222222", "2026-10-31T23:00:00Z", Source::FocusExport),
        ] {
            assert_eq!(source(&declarations, account, time), expected, "{account} at {time}");
        }
        assert_eq!(source(&NOTHING_DECLARED, "111111111111", "2026-12-01T00:00:00Z"), Source::RuleInvocations);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_number() {
        for (text, says) in [
            ("x = 1", "[[declared]]"),
            ("[[declared]]\nmeter = \"x\"\nsource = \"cloudtrail\"", "declaration 1: meter \"x\" is no meter"),
            ("[[declared]]\nmeter = \"guardduty_findings\"\nsource = \"x\"", "there are cloudtrail, guardduty"),
            (
                "[[declared]]\nmeter = \"guardduty_findings\"\nsource = \"guardduty\"\naccounts = [\"1\"]",
                "exactly 12 digits",
            ),
            (
                "[[declared]]\nmeter = \"guardduty_findings\"\nsource = \"guardduty\"\nfrom = \"2026-11-01\"",
                "from \"2026-11-01\" is not an instant",
            ),
            (
                "[[declared]]\nmeter = \"guardduty_findings\"\nsource = \"guardduty\"\n\
                 [[declared]]\nmeter = \"guardduty_findings\"\nsource = \"usage_samples\"",
                "declaration 2 contradicts declaration 1",
            ),
        ] {
            let message = Declarations::parse(text).unwrap_err().to_string();
            assert!(message.contains(says), "{message}");
        }
        assert_eq!(Declarations::parse("").unwrap(), NOTHING_DECLARED);
    }
}
