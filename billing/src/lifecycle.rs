//! The life of an invoice as types: what can be done with an invoice depends on its state, and a state is only had from the
//! store or from the transition that leads to it.
//!
//! ```text
//! draft ──issue──> issued ──settle──> paid
//!   └───discard──> cancelled
//! ```
//!
//! Overdue is no state: an issued invoice is overdue when its due date has passed and something of it is open. An issued
//! invoice is taken back by a credit note, never by a transition. The table refuses every other step by trigger.

use std::fmt;

use thiserror::Error;

/// The state as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// May change until it is issued; the customer does not see it.
    Draft,
    /// Numbered, never changes.
    Issued,
    /// Nothing is open any more.
    Paid,
    /// A draft that was discarded.
    Cancelled,
}

/// Why a credit note was issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CreditNoteKind {
    /// A newer cut of the invoice's period came to less.
    LateUsage,
    /// It takes back one adjustment that the invoice carries.
    Adjustment,
    /// It takes back all that is left of the invoice.
    Cancellation,
}

/// A stored name is none of these words. Stop: the row is not what this room writes.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("unknown {what} {name:?}")]
pub struct UnknownName {
    /// What it should name.
    pub what: &'static str,
    /// What is stored.
    pub name: String,
}

macro_rules! named {
    ($type:ident, $what:literal, [$($variant:ident = $name:literal),+ $(,)?]) => {
        impl $type {
            /// Every one.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];

            /// The name used in SQL, documents and on the command line.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }

            /// Reads the name.
            pub fn parse(name: &str) -> Result<Self, UnknownName> {
                let known = Self::ALL.into_iter().find(|known| known.as_str() == name);
                known.ok_or_else(|| UnknownName { what: $what, name: name.to_owned() })
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

named!(Status, "status of an invoice", [Draft = "draft", Issued = "issued", Paid = "paid", Cancelled = "cancelled"]);
named!(
    CreditNoteKind,
    "kind of credit note",
    [LateUsage = "late_usage", Adjustment = "adjustment", Cancellation = "cancellation",]
);

/// A draft: it can be made again, issued or discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drafted(());

/// Issued, and not settled: it can be paid and credited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open(());

/// Issued and settled: it can be credited only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled(());

/// A discarded draft: nothing can be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discarded(());

/// A stored invoice in a state that is known by its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored<S> {
    /// Its id.
    id: String,
    /// Whose it is.
    customer_id: String,
    state: S,
}

/// A stored invoice, by its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnyStored {
    /// A draft.
    Draft(Stored<Drafted>),
    /// Issued.
    Issued(Stored<Open>),
    /// Paid.
    Paid(Stored<Settled>),
    /// Discarded.
    Cancelled(Stored<Discarded>),
}

impl<S> Stored<S> {
    /// The invoice's id, a UUID.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The customer's id.
    pub fn customer_id(&self) -> &str {
        &self.customer_id
    }

    fn become_state<T>(self, state: T) -> Stored<T> {
        Stored { id: self.id, customer_id: self.customer_id, state }
    }
}

impl AnyStored {
    /// A row that was read, or the draft that was just written.
    pub(crate) fn from_row(id: String, customer_id: String, status: Status) -> Self {
        fn stored<S>(id: String, customer_id: String, state: S) -> Stored<S> {
            Stored { id, customer_id, state }
        }
        match status {
            Status::Draft => Self::Draft(stored(id, customer_id, Drafted(()))),
            Status::Issued => Self::Issued(stored(id, customer_id, Open(()))),
            Status::Paid => Self::Paid(stored(id, customer_id, Settled(()))),
            Status::Cancelled => Self::Cancelled(stored(id, customer_id, Discarded(()))),
        }
    }

    /// The state.
    pub fn status(&self) -> Status {
        match self {
            Self::Draft(_) => Status::Draft,
            Self::Issued(_) => Status::Issued,
            Self::Paid(_) => Status::Paid,
            Self::Cancelled(_) => Status::Cancelled,
        }
    }
}

impl Stored<Drafted> {
    /// A draft that was just inserted.
    pub(crate) fn inserted(id: String, customer_id: String) -> Self {
        Self { id, customer_id, state: Drafted(()) }
    }

    /// Its number was taken and stored.
    pub(crate) fn issued(self) -> Stored<Open> {
        self.become_state(Open(()))
    }

    /// It is not to be issued.
    pub(crate) fn discarded(self) -> Stored<Discarded> {
        self.become_state(Discarded(()))
    }
}

impl Stored<Open> {
    /// Nothing of it is open any more.
    pub(crate) fn settled(self) -> Stored<Settled> {
        self.become_state(Settled(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back() {
        for status in Status::ALL {
            assert_eq!(Status::parse(status.as_str()), Ok(status));
            assert_eq!(AnyStored::from_row("i".into(), "c".into(), status).status(), status);
        }
        for kind in CreditNoteKind::ALL {
            assert_eq!(CreditNoteKind::parse(kind.as_str()), Ok(kind));
        }
        assert_eq!(Status::parse("overdue").unwrap_err().to_string(), "unknown status of an invoice \"overdue\"");
    }
}
