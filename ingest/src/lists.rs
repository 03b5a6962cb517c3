//! Lists of an organization's accounts, units and policies, as `aws organizations list-accounts`,
//! `list-organizational-units-for-parent` and `list-policies` print them: what was live before the first event, and what the
//! events must come to.
//!
//! A listed account says when it joined. Everything else is known to be live, or closed, when the list was made, which the
//! answer itself does not tell: `listedAt` beside it does, or the `ResponseMetadata` that the SDKs leave in.
//!
//! Sources: AWS Organizations API Reference, ListAccounts, ListOrganizationalUnitsForParent, ListPolicies; Service
//! Authorization Reference, "Resource types defined by AWS Organizations" (the forms of their ARNs).

use std::borrow::Cow;

use chrono::DateTime;

use crate::json::{Members, Scalar};
use crate::rules::{account_of, event_time};
use crate::{
    AccountId, Dimensions, FactKey, FactValue, Meter, NotCounted, Quantity, Reason, Rules, Source, Statement,
    Timestamp, UsageFact, Verdict,
};

/// The Region of what a list says was live when it was made: it tells a list's word from an event's.
pub const LISTED: &str = "listed";

/// What a list is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListKind {
    Accounts,
    Units,
    Policies,
}

impl ListKind {
    const ALL: [Self; 3] = [Self::Accounts, Self::Units, Self::Policies];

    /// The member that holds its elements.
    pub(crate) fn member(self) -> &'static str {
        match self {
            Self::Accounts => "Accounts",
            Self::Units => "OrganizationalUnits",
            Self::Policies => "Policies",
        }
    }
}

/// A list, and when it was made.
#[derive(Debug)]
pub(crate) struct List<'a> {
    pub(crate) kind: ListKind,
    pub(crate) elements: Vec<&'a [u8]>,
    listed_at: Scalar<'a>,
}

impl<'a> List<'a> {
    /// The list that an object is; `None` if it is none of AWS Organizations.
    pub(crate) fn of(members: &Members<'a>) -> Option<Self> {
        let (kind, elements) =
            ListKind::ALL.into_iter().find_map(|kind| Some((kind, members.array(kind.member())?)))?;
        // IAM lists policies, too. An empty list of accounts or units is one all the same.
        let is_ours = elements.first().map_or(kind != ListKind::Policies, |element| {
            Members::read(element).is_some_and(|element| Arn::read(&element.text("Arn")).is_some())
        });
        is_ours.then(|| Self { kind, elements, listed_at: listed_at(members) })
    }

    /// The same list with one element, which can be judged by itself.
    pub(crate) fn with_only(&self, element: &[u8]) -> Vec<u8> {
        let listed_at = match &self.listed_at {
            Scalar::Text(text) => format!("\"listedAt\":{},", serde_json::Value::String(text.clone().into_owned())),
            Scalar::Absent | Scalar::Other => String::new(),
        };
        [format!("{{{listed_at}\"{}\":[", self.kind.member()).as_bytes(), element, b"]}"].concat()
    }

    /// Judges one element.
    pub(crate) fn judge<'e>(&self, element: &'e [u8], rules: Rules<'_>) -> Verdict<'e> {
        let Some(members) = Members::read(element) else { return Verdict::DeadLetter(Reason::ListMalformed) };
        let facts = match self.kind {
            ListKind::Accounts => self.account(&members, rules),
            ListKind::Units => self.live(Meter::OrganizationalUnits, &members, rules),
            ListKind::Policies => match Arn::read(&members.text("Arn")) {
                // Policies that AWS manages belong to no account, and of the others only these are metered.
                Some(arn) if arn.account == "aws" || !arn.resource.contains("/service_control_policy/") => {
                    return Verdict::NotCounted(NotCounted::OtherPolicy);
                }
                _ => self.live(Meter::ServiceControlPolicies, &members, rules),
            },
        };
        let mut facts = match facts {
            Ok(facts) => facts,
            Err(reason) => return Verdict::DeadLetter(reason),
        };
        facts.retain(|fact| {
            let FactKey { meter, account, time, .. } = fact.key;
            rules.declared.is_declared(Source::Organizations, meter, account, time)
        });
        let mut facts = facts.into_iter();
        match facts.next() {
            Some(first) => Verdict::of(Statement::of_facts(first, facts)),
            None => Verdict::NotCounted(NotCounted::NotTheDeclaredSource),
        }
    }

    /// An account is live from when it joined, and when the list was made; one that is closed is gone by then.
    fn account<'e>(&self, members: &Members<'e>, rules: Rules<'_>) -> Result<Vec<UsageFact<'e>>, Reason> {
        let id = account_of(&members.text("Id"))?;
        let organization = Arn::read(&members.text("Arn")).and_then(|arn| arn.organization());
        let fact = |time, region: &'static str, value| UsageFact {
            key: FactKey { meter: Meter::Accounts, account: id, resource: id.to_string().into(), time, export: None },
            revision: 0,
            dimensions: Dimensions {
                region: region.into(),
                category: organization.clone().map_or(Dimensions::NONE.into(), Cow::Owned),
            },
            end: None,
            value,
        };
        let joined = fact(joined_at(members, rules)?, Dimensions::NONE, FactValue::Live);
        // `State` takes the place of `Status` from September 2026 on.
        let state = members.text_of(["State", "Status"]);
        let value = match state.into_text().as_deref() {
            Some("ACTIVE" | "PENDING_ACTIVATION" | "PENDING_CLOSURE") => FactValue::Live,
            Some("SUSPENDED" | "CLOSED") => FactValue::Gone,
            _ => return Err(Reason::ListMalformed),
        };
        match (self.listed_at(rules), value) {
            (Ok(listed_at), value) => Ok(vec![joined, fact(listed_at, LISTED, value)]),
            // What is live is known by when it joined; what is closed would count on.
            (Err(Reason::ListTimeMissing), FactValue::Live) => Ok(vec![joined]),
            (Err(reason), _) => Err(reason),
        }
    }

    /// A unit or policy of the management account that its ARN names, live when the list was made.
    fn live<'e>(&self, meter: Meter, members: &Members<'e>, rules: Rules<'_>) -> Result<Vec<UsageFact<'e>>, Reason> {
        let arn = Arn::read(&members.text("Arn")).ok_or(Reason::ListMalformed)?;
        let resource =
            members.text("Id").into_text().filter(|id| UsageFact::is_name(id)).ok_or(Reason::ListMalformed)?;
        let account = AccountId::parse(&arn.account).map_err(|_| Reason::AccountMalformed)?;
        let category = arn.organization().map_or(Dimensions::NONE.into(), Cow::Owned);
        Ok(vec![UsageFact {
            key: FactKey { meter, account, resource, time: self.listed_at(rules)?, export: None },
            revision: 0,
            dimensions: Dimensions { region: LISTED.into(), category },
            end: None,
            value: FactValue::Live,
        }])
    }

    fn listed_at(&self, rules: Rules<'_>) -> Result<Timestamp, Reason> {
        if self.listed_at.says_nothing() {
            return Err(Reason::ListTimeMissing);
        }
        event_time(&self.listed_at, rules.now)
    }
}

/// `listedAt`, or the date of the answer's HTTP headers in RFC 3339.
fn listed_at<'a>(members: &Members<'a>) -> Scalar<'a> {
    let said = members.text("listedAt");
    if !said.says_nothing() {
        return said;
    }
    let headers = members.object("ResponseMetadata").and_then(|metadata| metadata.object("HTTPHeaders"));
    let date = headers.and_then(|headers| headers.text("date").into_text());
    let date = date.and_then(|date| DateTime::parse_from_rfc2822(&date).ok());
    date.map_or(Scalar::Absent, |date| Scalar::Text(Cow::Owned(date.to_rfc3339())))
}

/// `JoinedTimestamp`: RFC 3339, or seconds since 1970 with decimals, as older versions of the command line print it.
fn joined_at(members: &Members<'_>, rules: Rules<'_>) -> Result<Timestamp, Reason> {
    let text = members.text("JoinedTimestamp");
    if !matches!(text, Scalar::Other) {
        return event_time(&text, rules.now);
    }
    let number = members.raw("JoinedTimestamp").and_then(|raw| std::str::from_utf8(raw).ok());
    let seconds: Option<Quantity> = number.and_then(|number| number.parse().ok());
    let micros = seconds.and_then(|seconds| match seconds.parts() {
        (mantissa, scale @ 0..=6) => mantissa.checked_mul(10_i128.pow(6 - u32::from(scale))),
        // Finer than what is kept.
        (mantissa, scale) => Some(mantissa.div_euclid(10_i128.pow(u32::from(scale) - 6))),
    });
    let instant = micros.and_then(|micros| Timestamp::from_micros(i64::try_from(micros).ok()?));
    let instant = instant.ok_or(Reason::EventTimeMalformed)?;
    event_time(&Scalar::Text(Cow::Owned(instant.to_string())), rules.now)
}

/// An ARN of AWS Organizations: `arn:PARTITION:organizations::ACCOUNT:RESOURCE`.
struct Arn {
    account: String,
    resource: String,
}

impl Arn {
    fn read(text: &Scalar<'_>) -> Option<Self> {
        let Scalar::Text(text) = text else { return None };
        let mut parts = text.splitn(6, ':');
        let is_arn = parts.next()? == "arn" && parts.next()?.starts_with("aws") && parts.next()? == "organizations";
        let account = parts.nth(1)?;
        is_arn.then_some(Self { account: account.to_owned(), resource: parts.next()?.to_owned() })
    }

    /// The organization's id, the second part of the resource.
    fn organization(&self) -> Option<String> {
        let id = self.resource.split('/').nth(1)?;
        (id.starts_with("o-") && Dimensions::is_value(id)).then(|| id.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of each element: the facts as `meter account resource time region category kind`, or the reason.
    fn read(json: &str) -> Vec<String> {
        let members = Members::read(json.as_bytes()).unwrap();
        let Some(list) = List::of(&members) else { return vec!["no list".to_owned()] };
        let now = Timestamp::parse_rfc3339("2026-11-01T00:00:00Z").unwrap();
        let rules = Rules::at(now);
        let told = |element: &&[u8]| match list.judge(element, rules) {
            Verdict::Facts(statement) => {
                assert!(statement.event().is_none());
                let facts = statement.facts().iter().map(|fact| {
                    let UsageFact { key, dimensions, value, .. } = fact;
                    let (region, category) = (&dimensions.region, &dimensions.category);
                    format!(
                        "{} {} {} {} {region} {category} {}",
                        key.meter,
                        key.account,
                        key.resource,
                        key.time,
                        value.kind()
                    )
                });
                facts.collect::<Vec<_>>().join("; ")
            }
            other => {
                // Alone, an element is judged as it is among the others.
                let alone = list.with_only(element);
                let alone_members = Members::read(&alone).unwrap();
                let alone_list =
                    List::of(&alone_members).unwrap_or(List { elements: vec![element], ..List::of(&members).unwrap() });
                assert_eq!(alone_list.judge(element, rules), other);
                format!("{other:?}")
            }
        };
        list.elements.iter().map(told).collect()
    }

    const ACCOUNT: &str = r#"{"Id":"111122223333","Arn":"arn:aws:organizations::999999999999:account/o-exampleorgid/111122223333",
        "Email":"a@example.com","Name":"a","Status":"ACTIVE","JoinedMethod":"CREATED",
        "JoinedTimestamp":"2024-03-05T10:20:30.123000+01:00"}"#;

    #[test]
    fn an_account_is_live_from_when_it_joined_and_when_the_list_was_made() {
        let joined = "accounts 111122223333 111122223333 2024-03-05T09:20:30.123Z none o-exampleorgid live";
        let of = |account: &str, beside: &str| read(&format!(r#"{{"Accounts":[{account}]{beside}}}"#));
        let listed = |kind: &str| {
            format!("{joined}; accounts 111122223333 111122223333 2026-10-01T00:00:00Z listed o-exampleorgid {kind}")
        };
        let at = r#","listedAt":"2026-10-01T00:00:00Z""#;
        assert_eq!(of(ACCOUNT, ""), [joined]);
        assert_eq!(of(ACCOUNT, at), [listed("live")]);
        let headers = r#","ResponseMetadata":{"HTTPHeaders":{"date":"Thu, 01 Oct 2026 00:00:00 GMT"}}"#;
        assert_eq!(of(ACCOUNT, headers), [listed("live")]);
        let closed = ACCOUNT.replace("ACTIVE", "SUSPENDED");
        assert_eq!(of(&closed, at), [listed("gone")]);
        assert_eq!(of(&closed, ""), ["DeadLetter(ListTimeMissing)"], "it would count on");
        let newer = ACCOUNT.replace(r#""Status":"ACTIVE""#, r#""Status":"SUSPENDED","State":"PENDING_CLOSURE""#);
        assert_eq!(of(&newer, at), [listed("live")]);
        let seconds = ACCOUNT.replace(r#""2024-03-05T10:20:30.123000+01:00""#, "1709630430.1230004");
        assert_eq!(of(&seconds, ""), [joined]);
        let china = ACCOUNT.replace("arn:aws:", "arn:aws-cn:");
        assert_eq!(of(&china, ""), [joined]);
    }

    #[test]
    fn units_and_policies_are_live_when_the_list_was_made() {
        let at = r#""listedAt":"2026-10-01T00:00:00Z""#;
        let unit = r#"{"Id":"ou-1a2b-33cc44dd","Arn":"arn:aws:organizations::999999999999:ou/o-exampleorgid/ou-1a2b-33cc44dd","Name":"u"}"#;
        let policy = r#"{"Id":"p-1","Arn":"arn:aws:organizations::999999999999:policy/o-exampleorgid/service_control_policy/p-1",
            "Type":"SERVICE_CONTROL_POLICY","AwsManaged":false}"#;
        let managed = r#"{"Id":"p-FullAWSAccess","Arn":"arn:aws:organizations::aws:policy/service_control_policy/p-FullAWSAccess",
            "Type":"SERVICE_CONTROL_POLICY","AwsManaged":true}"#;
        let live = |meter: &str, id: &str| {
            format!("{meter} 999999999999 {id} 2026-10-01T00:00:00Z listed o-exampleorgid live")
        };
        assert_eq!(
            read(&format!(r#"{{{at},"OrganizationalUnits":[{unit}]}}"#)),
            [live("organizational_units", "ou-1a2b-33cc44dd")]
        );
        let tag = policy.replace("service_control_policy", "tag_policy");
        assert_eq!(
            read(&format!(r#"{{"Policies":[{policy},{managed},{tag}],{at}}}"#)),
            [
                live("service_control_policies", "p-1"),
                "NotCounted(OtherPolicy)".to_owned(),
                "NotCounted(OtherPolicy)".to_owned()
            ]
        );
        assert_eq!(read(&format!(r#"{{"OrganizationalUnits":[{unit}]}}"#)), ["DeadLetter(ListTimeMissing)"]);
        assert_eq!(read(r#"{"OrganizationalUnits":[]}"#), [""; 0]);
    }

    #[test]
    fn what_a_list_does_not_say_is_named_and_other_lists_are_none() {
        let of = |from: &str, to: &str| {
            assert!(ACCOUNT.contains(from), "{from}");
            read(&format!(r#"{{"Accounts":[{ACCOUNT},{}]}}"#, ACCOUNT.replace(from, to))).pop().unwrap()
        };
        for (from, to, reason) in [
            (r#""Id":"111122223333""#, r#""Id":"1111""#, "AccountMalformed"),
            (r#""Id":"111122223333","#, "", "AccountMissing"),
            (r#""ACTIVE""#, r#""UNHEARD""#, "ListMalformed"),
            (r#""2024-03-05T10:20:30.123000+01:00""#, r#""yesterday""#, "EventTimeMalformed"),
            (r#""2024-03-05T10:20:30.123000+01:00""#, "true", "EventTimeMalformed"),
            (r#""2024-03-05T10:20:30.123000+01:00""#, "1e17", "EventTimeMalformed"),
            (r#""2024-03-05T10:20:30.123000+01:00""#, r#""2026-12-05T10:20:30Z""#, "EventTimeInFuture"),
        ] {
            assert_eq!(of(from, to), format!("DeadLetter({reason})"), "{to}");
        }
        for other in [
            "{}",
            r#"{"Accounts":{}}"#,
            r#"{"Accounts":[{"Id":"1"}]}"#,
            r#"{"Policies":[{"Arn":"arn:aws:iam::aws:policy/x"}]}"#,
            r#"{"Policies":[]}"#,
        ] {
            assert_eq!(read(other), ["no list"], "{other}");
        }
    }
}
