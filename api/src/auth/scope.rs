//! What a key may do.

use std::fmt;

use thiserror::Error;

/// One thing a key may be allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Usage, metrics, the customer and its accounts. Alias `read:metrics`.
    ReadUsage,
    /// Invoices and their evidence.
    ReadInvoices,
    /// The audit trail.
    ReadAudit,
    /// Keys: list, create, rotate, revoke.
    WriteKeys,
    /// The customer's settings.
    WriteConfig,
    /// Everything of every customer: operators only, and never together with another scope's meaning.
    Admin,
}

/// No scope has this name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "unknown scope `{0}`; the scopes are read:usage (or read:metrics), read:invoices, read:audit, write:keys, write:config"
)]
pub struct UnknownScope(String);

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 6] =
        [Self::ReadUsage, Self::ReadInvoices, Self::ReadAudit, Self::WriteKeys, Self::WriteConfig, Self::Admin];

    /// The scope's one name in answers and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReadUsage => "read:usage",
            Self::ReadInvoices => "read:invoices",
            Self::ReadAudit => "read:audit",
            Self::WriteKeys => "write:keys",
            Self::WriteConfig => "write:config",
            Self::Admin => "admin",
        }
    }

    /// Reads a name or alias.
    pub fn parse(text: &str) -> Result<Self, UnknownScope> {
        if text == "read:metrics" {
            return Ok(Self::ReadUsage);
        }
        let named = Self::ALL.into_iter().find(|scope| scope.as_str() == text);
        named.ok_or_else(|| UnknownScope(crate::problem::shortened(text)))
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of scopes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Scopes(u8);

impl Scopes {
    /// Reads names and aliases.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, UnknownScope> {
        names.into_iter().map(Scope::parse).collect()
    }

    /// Whether the scope is in the set.
    pub fn allows(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// Whether every scope of this set is in the other.
    pub fn is_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The names, in the order of [`Scope::ALL`].
    pub fn names(self) -> Vec<String> {
        Scope::ALL.into_iter().filter(|scope| self.allows(*scope)).map(|scope| scope.to_string()).collect()
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | scope.bit()))
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_aliases_read_back_as_one_name() {
        for scope in Scope::ALL {
            assert_eq!(Scope::parse(scope.as_str()), Ok(scope));
        }
        assert_eq!(Scope::parse("read:metrics"), Ok(Scope::ReadUsage));
        for bad in ["", "Read:usage", "read:usage ", "read", "*", "admin:read"] {
            assert!(Scope::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_set_is_within_another_when_that_allows_all_of_it() {
        let set = |names: &[&str]| Scopes::parse(names.iter().copied()).unwrap();
        assert!(set(&["read:usage"]).is_within(set(&["write:keys", "read:metrics"])));
        assert!(!set(&["read:usage", "admin"]).is_within(set(&["read:usage"])));
        assert!(set(&[]).is_within(set(&[])) && set(&[]).is_empty());
        assert_eq!(set(&["write:keys", "read:metrics", "read:usage"]).names(), ["read:usage", "write:keys"]);
    }
}
