//! The four tiers a customer can be in.

use std::fmt;

use thiserror::Error;

/// What a customer subscribes to: it names the rate card and the framework of compliance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// CIS benchmarks.
    Standard,
    /// Financial services.
    Fintech,
    /// HIPAA.
    Healthcare,
    /// FedRAMP.
    GovFederal,
}

/// No tier has this name.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("unknown tier {0:?}: expected one of standard, fintech, healthcare, gov-federal")]
pub struct UnknownTier(String);

impl Tier {
    /// Every tier, the cheapest first.
    pub const ALL: [Self; 4] = [Self::Standard, Self::Fintech, Self::Healthcare, Self::GovFederal];

    /// The name used in SQL, the API and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Fintech => "fintech",
            Self::Healthcare => "healthcare",
            Self::GovFederal => "gov-federal",
        }
    }

    /// Reads a tier's name.
    pub fn parse(name: &str) -> Result<Self, UnknownTier> {
        Self::ALL.into_iter().find(|tier| tier.as_str() == name).ok_or_else(|| UnknownTier(name.to_owned()))
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tier_is_read_from_the_name_it_writes() {
        for tier in Tier::ALL {
            assert_eq!(Tier::parse(tier.as_str()), Ok(tier));
        }
        assert!(Tier::parse("government").is_err());
    }
}
