//! Usage that is not an event but a statement about a stretch of time: a sample, a transition, a row of an export.
//!
//! Facts are a keyed map: of two facts with one key the higher (revision, then content hash) stands, so any order of arrival
//! and any number of copies give the same state. The key says what a fact is about, the content what it says.

use std::borrow::Cow;
use std::fmt;

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::{AccountId, Aggregation, Day, Dimensions, Identity, Meter, MeterDefinition, Quantity, Timestamp};

/// One statement about usage of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageFact<'a> {
    /// What it is about.
    pub key: FactKey<'a>,
    /// The source's own number of this statement; a higher one corrects a lower one. 0 where the source has none. Rows and
    /// the end of an export carry the generation here. At most [`UsageFact::REVISION_MAX`].
    pub revision: u64,
    /// How its total is split further. Not part of the key: the fact that stands sets them.
    pub dimensions: Dimensions<'a>,
    /// Where the stretch of an [`FactValue::Amount`] ends, half-open; `None` where the source says nothing.
    pub end: Option<Timestamp>,
    /// What it says.
    pub value: FactValue,
}

/// What a fact is about: two facts with one key are two statements about the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FactKey<'a> {
    /// What is measured.
    pub meter: Meter,
    /// Whose usage it is. A member account's own id for [`Meter::Accounts`]; the management account for organizational units
    /// and service control policies.
    pub account: AccountId,
    /// Which resource of the account: an ARN, a bucket's name, an account's, unit's or policy's id; the row's place for a
    /// row of an export that names no resource of its own.
    pub resource: Cow<'a, str>,
    /// When: the sample's time or the start of its stretch; the time of a transition; for the end of an export the start of
    /// the period it covers.
    pub time: Timestamp,
    /// The generation of an export it is a row of, or the end of.
    pub export: Option<ExportGeneration<'a>>,
}

/// One edition of an export of one period. A later generation replaces an earlier one whole, once it was read to its end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExportGeneration<'a> {
    /// The export and the period it covers, such as `focus-hourly/2026-10`: what generations replace each other in.
    pub scope: Cow<'a, str>,
    /// Its number; the highest complete one is in force. Such as the instant the export was made, in microseconds.
    pub number: u64,
}

/// What a fact says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactValue {
    /// So much, in the meter's raw units, in the stretch that begins at the fact's time.
    Amount(Quantity),
    /// So much at the fact's time and until the next fact of the resource says otherwise: bytes, or a sample's units.
    Level(Quantity),
    /// The resource is live from the fact's time on.
    Live,
    /// The resource is not live from the fact's time on.
    Gone,
    /// The generation ends here: with so many distinct keys it is complete.
    ExportEnd {
        /// Facts of the generation with different keys, this one not among them.
        facts: u64,
    },
}

impl FactValue {
    /// The name used in stored forms.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Amount(_) => "amount",
            Self::Level(_) => "level",
            Self::Live => "live",
            Self::Gone => "gone",
            Self::ExportEnd { .. } => "export_end",
        }
    }

    /// The number it carries.
    pub fn number(&self) -> Option<Quantity> {
        match self {
            Self::Amount(quantity) | Self::Level(quantity) => Some(*quantity),
            Self::ExportEnd { facts } => Some(Quantity::whole((*facts).into())),
            Self::Live | Self::Gone => None,
        }
    }

    /// Reads what [`Self::kind`] and [`Self::number`] gave; `None` for anything else.
    pub fn read(kind: &str, number: Option<Quantity>) -> Option<Self> {
        Some(match (kind, number) {
            ("amount", Some(quantity)) => Self::Amount(quantity),
            ("level", Some(quantity)) => Self::Level(quantity),
            ("live", None) => Self::Live,
            ("gone", None) => Self::Gone,
            ("export_end", Some(quantity)) => match quantity.parts() {
                (facts, 0) => Self::ExportEnd { facts: u64::try_from(facts).ok()? },
                _ => return None,
            },
            _ => return None,
        })
    }
}

/// Tells two facts with one key apart: the first 16 bytes of SHA-256 over what the fact says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash([u8; 16]);

impl ContentHash {
    /// The hash stored as these bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The stored form.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Why a fact cannot be used. The record it came from is a dead letter.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NotAFact {
    /// The meter's values are of another kind.
    #[error("the meter takes no {0}")]
    ValueKind(&'static str),
    /// A level has more decimals than a product with microseconds can keep.
    #[error("a level has more than 12 decimals")]
    TooPrecise,
    /// A level is below zero.
    #[error("a level is below zero")]
    Negative,
    /// The resource, or the export's scope, is empty, too long, or has control characters.
    #[error("a resource or export has 1 to 512 bytes and no control characters")]
    Name,
    /// A stretch ends before it begins.
    #[error("the end is not after the start")]
    End,
    /// The revision or generation is too large to be stored.
    #[error("the revision is out of range")]
    Revision,
    /// A row of an export says something else than an amount.
    #[error("a row of an export is an amount")]
    OfExport,
    /// The generation is the revision of an export's facts.
    #[error("the revision of an export's fact is not its generation")]
    Generation,
}

impl UsageFact<'_> {
    /// Longest name of a resource or an export's scope, in bytes.
    pub const NAME_BYTES_MAX: usize = 512;
    /// Highest revision and generation: what PostgreSQL's `bigint` holds.
    pub const REVISION_MAX: u64 = i64::MAX as u64;
    /// Most decimals of a level, so that its product with microseconds has at most 18.
    pub const LEVEL_FRACTION_DIGITS_MAX: u8 = 12;

    /// Whether a text may name a resource or an export.
    pub fn is_name(text: &str) -> bool {
        !text.is_empty() && text.len() <= Self::NAME_BYTES_MAX && !text.chars().any(char::is_control)
    }

    /// Checks the fact against its meter's rules. Sources check before they hand a fact on.
    pub fn check(&self, definition: &MeterDefinition) -> Result<(), NotAFact> {
        let of_meter = matches!(
            (definition.aggregation, self.value),
            // Events that samples or an export count are amounts: where one of those is the declared source, no event is counted.
            (Aggregation::Count | Aggregation::Sum | Aggregation::TimeWeighted, FactValue::Amount(_))
                | (Aggregation::Max | Aggregation::TimeWeighted, FactValue::Level(_))
                | (Aggregation::Interval, FactValue::Live | FactValue::Gone)
                | (Aggregation::Marker, FactValue::ExportEnd { .. })
        );
        if !of_meter || definition.meter != self.key.meter {
            return Err(NotAFact::ValueKind(self.value.kind()));
        }
        if let FactValue::Level(level) = self.value {
            if level.is_negative() {
                return Err(NotAFact::Negative);
            }
            if Self::LEVEL_FRACTION_DIGITS_MAX < level.fraction_digits() {
                return Err(NotAFact::TooPrecise);
            }
        }
        self.check_form()
    }

    /// Checks what holds for every fact, whatever its meter.
    pub(crate) fn check_form(&self) -> Result<(), NotAFact> {
        let scope = self.key.export.as_ref().map(|export| &export.scope);
        if !Self::is_name(&self.key.resource) || scope.is_some_and(|scope| !Self::is_name(scope)) {
            return Err(NotAFact::Name);
        }
        if self.end.is_some_and(|end| end <= self.key.time) {
            return Err(NotAFact::End);
        }
        if Self::REVISION_MAX < self.revision {
            return Err(NotAFact::Revision);
        }
        match (&self.key.export, self.value) {
            (_, FactValue::ExportEnd { facts }) if Self::REVISION_MAX < facts => Err(NotAFact::Revision),
            (None, FactValue::ExportEnd { .. }) => Err(NotAFact::ValueKind(self.value.kind())),
            (Some(_), FactValue::Level(_) | FactValue::Live | FactValue::Gone) => Err(NotAFact::OfExport),
            (Some(export), _) if export.number != self.revision => Err(NotAFact::Generation),
            _ => Ok(()),
        }
    }

    /// The day its partition holds.
    pub fn day(&self) -> Day {
        self.key.time.day()
    }

    /// What the fact says, hashed: SHA-256 over dimensions, end and value, each in its written form and ended by a zero
    /// byte; the first 16 bytes. Part of the storage format.
    pub fn content_hash(&self) -> ContentHash {
        let number = self.value.number().map_or_else(String::new, |number| number.to_string());
        let end = self.end.map_or_else(String::new, |end| end.to_string());
        let texts = [&*self.dimensions.region, &*self.dimensions.category, &end, self.value.kind(), &number];
        ContentHash(first_16(texts))
    }

    /// The same fact, independent of the record it was read from.
    pub fn into_owned(self) -> UsageFact<'static> {
        let Self { key, revision, dimensions, end, value } = self;
        UsageFact { key: key.into_owned(), revision, dimensions: dimensions.into_owned(), end, value }
    }
}

impl FactKey<'_> {
    /// The key hashed: SHA-256 over meter, account, resource, time and export, each in its written form and ended by a zero
    /// byte; the first 16 bytes. Part of the storage format: it decides which child of a split partition a fact belongs to.
    pub fn identity(&self) -> Identity {
        let time = self.time.to_string();
        let (scope, number) = match &self.export {
            Some(export) => (&*export.scope, export.number.to_string()),
            None => ("", String::new()),
        };
        Identity::from_bytes(first_16([
            self.meter.as_str(),
            self.account.as_str(),
            &self.resource,
            &time,
            scope,
            &number,
        ]))
    }

    /// The same key, independent of the record it was read from.
    pub fn into_owned(self) -> FactKey<'static> {
        let Self { meter, account, resource, time, export } = self;
        let export = export.map(|ExportGeneration { scope, number }| ExportGeneration {
            scope: Cow::Owned(scope.into_owned()),
            number,
        });
        FactKey { meter, account, resource: Cow::Owned(resource.into_owned()), time, export }
    }
}

/// No text has a zero byte, so none can be taken for two.
fn first_16<const N: usize>(texts: [&str; N]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update(text);
        hash.update([0]);
    }
    hash.finalize()[..16].try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Meters;

    fn fact(meter: Meter, value: FactValue) -> UsageFact<'static> {
        UsageFact {
            key: FactKey {
                meter,
                account: AccountId::parse("000000000012").unwrap(),
                resource: "nat-1".into(),
                time: Timestamp::parse_rfc3339("2026-10-01T12:00:00Z").unwrap(),
                export: None,
            },
            revision: 0,
            dimensions: Dimensions { region: "eu-west-1".into(), category: Dimensions::NONE.into() },
            end: None,
            value,
        }
    }

    fn quantity(text: &str) -> Quantity {
        text.parse().unwrap()
    }

    #[test]
    fn a_fact_has_the_values_its_meter_takes() {
        let meters = Meters::built_in();
        let amount = FactValue::Amount(quantity("-1.5"));
        let level = |text: &str| FactValue::Level(quantity(text));
        for (meter, value, expected) in [
            (Meter::NatGatewayBytes, amount, Ok(())),
            (Meter::NatGatewayBytes, level("1"), Err(NotAFact::ValueKind("level"))),
            (Meter::LogStorageGb, level("0"), Ok(())),
            (Meter::LogStorageGb, amount, Ok(())),
            (Meter::LogStorageGb, level("-1"), Err(NotAFact::Negative)),
            (Meter::LogStorageGb, level("0.0000000000001"), Err(NotAFact::TooPrecise)),
            (Meter::Accounts, FactValue::Live, Ok(())),
            (Meter::Accounts, amount, Err(NotAFact::ValueKind("amount"))),
            (Meter::CloudTrailEvents, amount, Ok(())),
            (Meter::CloudTrailEvents, level("1"), Err(NotAFact::ValueKind("level"))),
            (Meter::ExportGenerations, FactValue::ExportEnd { facts: 1 }, Err(NotAFact::ValueKind("export_end"))),
        ] {
            assert_eq!(fact(meter, value).check(meters.get(meter).unwrap()), expected, "{meter} {value:?}");
        }
        let nat = meters.get(Meter::NatGatewayBytes).unwrap();
        let good = fact(Meter::NatGatewayBytes, amount);
        let end = UsageFact { end: Some(good.key.time), ..good.clone() };
        assert_eq!(end.check(nat), Err(NotAFact::End));
        assert_eq!(UsageFact { revision: u64::MAX, ..good.clone() }.check(nat), Err(NotAFact::Revision));
        for resource in ["", "a\0b", &"é".repeat(257)] {
            let mut bad = good.clone();
            bad.key.resource = resource.to_owned().into();
            assert_eq!(bad.check(nat), Err(NotAFact::Name), "{resource:?}");
        }
        let mut of_export = good;
        of_export.key.export = Some(ExportGeneration { scope: "focus/2026-10".into(), number: 7 });
        assert_eq!(of_export.check(nat), Err(NotAFact::Generation));
        of_export.revision = 7;
        assert_eq!(of_export.check(nat), Ok(()));
    }

    #[test]
    fn the_key_says_what_a_fact_is_about_and_the_content_what_it_says() {
        let one = fact(Meter::NatGatewayBytes, FactValue::Amount(quantity("10")));
        let same_about = UsageFact { value: FactValue::Amount(quantity("11")), revision: 3, ..one.clone() };
        assert_eq!(one.key.identity(), same_about.key.identity());
        assert_ne!(one.content_hash(), same_about.content_hash());
        let written_otherwise = UsageFact { value: FactValue::Amount(quantity("1.000e1")), ..one.clone() };
        assert_eq!(one.content_hash(), written_otherwise.content_hash());
        let mut other_region = one.clone();
        other_region.dimensions.region = "us-east-1".into();
        assert_eq!(one.key.identity(), other_region.key.identity());
        assert_ne!(one.content_hash(), other_region.content_hash());
        let mut other_export = one.clone();
        other_export.key.export = Some(ExportGeneration { scope: "x".into(), number: 0 });
        assert_ne!(one.key.identity(), other_export.key.identity());
    }

    #[test]
    fn the_hashes_are_part_of_the_storage_format() {
        let one = fact(Meter::NatGatewayBytes, FactValue::Amount(quantity("10")));
        let key = Sha256::digest(b"nat_gateway_bytes\x00000000000012\0nat-1\x002026-10-01T12:00:00Z\0\0\0");
        assert_eq!(one.key.identity().as_bytes(), &key[..16]);
        let content = Sha256::digest(b"eu-west-1\0none\0\0amount\x0010\0");
        assert_eq!(one.content_hash().as_bytes(), &content[..16]);
    }

    #[test]
    fn a_value_is_read_back_from_its_kind_and_number() {
        let ten = quantity("10");
        for value in [
            FactValue::Amount(ten),
            FactValue::Level(ten),
            FactValue::Live,
            FactValue::Gone,
            FactValue::ExportEnd { facts: 3 },
        ] {
            assert_eq!(FactValue::read(value.kind(), value.number()), Some(value));
        }
        for (kind, number) in
            [("amount", None), ("live", Some(ten)), ("export_end", Some(quantity("0.5"))), ("rate", Some(ten))]
        {
            assert_eq!(FactValue::read(kind, number), None, "{kind}");
        }
    }
}
