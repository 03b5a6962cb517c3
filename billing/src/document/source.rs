//! How far the usage behind an invoice is proven, and by what.

use ingest::Meter;
use serde::{Deserialize, Serialize};

/// How far the usage behind an invoice is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceClass {
    /// Every object that the sources name is counted.
    Proven,
    /// What should be there was compared with a list.
    Reconciled,
    /// Nothing says what should have arrived.
    BestEffort,
}

impl SourceClass {
    /// Every class.
    pub const ALL: [Self; 3] = [Self::Proven, Self::Reconciled, Self::BestEffort];

    /// The name used in SQL and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Reconciled => "reconciled",
            Self::BestEffort => "best effort",
        }
    }

    /// Reads a class's name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == name)
    }

    /// The sentence on the invoice.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Proven => {
                "The usage is proven complete: every object that its sources say exists was counted before the period was \
                 closed."
            }
            Self::Reconciled => {
                "The usage is reconciled: what its sources list for the period was compared with what was counted before \
                 the period was closed."
            }
            Self::BestEffort => {
                "The usage comes from best-effort sources: it is what had arrived when this invoice was made, and no close \
                 proves that nothing was missing."
            }
        }
    }
}

/// How far the usage is proven.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct UsageSource {
    /// `proven`, `reconciled` or `best effort`.
    pub class: String,
    /// The same in a sentence.
    pub sentence: String,
    /// Priced meters that reported nothing in the period; nothing was charged for them.
    pub meters_without_usage: Vec<String>,
}

/// What an invoice's usage is proven by: the close it was rated from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Evidence {
    /// Which cut of the period, from 1.
    pub cut: i32,
    /// When the cut was made.
    pub cut_at: String,
    /// SHA-256 of the evidence file, in lower-case hexadecimal digits.
    pub sha256: String,
}

impl UsageSource {
    /// Of an invoice in advance.
    pub(crate) fn none(class: SourceClass) -> Self {
        let sentence = "This invoice charges a fee in advance and no usage.".to_owned();
        Self { class: class.as_str().to_owned(), sentence, meters_without_usage: Vec::new() }
    }

    /// The class, its sentence, and the meters that reported nothing.
    pub(crate) fn of(class: SourceClass, meters_without_usage: &[Meter]) -> Self {
        Self {
            class: class.as_str().to_owned(),
            sentence: class.sentence().to_owned(),
            meters_without_usage: meters_without_usage.iter().map(|meter| meter.as_str().to_owned()).collect(),
        }
    }
}
