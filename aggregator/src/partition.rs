//! Where usage lives: a log for each bucket and hour of counts, one for each bucket and day of facts, and their children
//! once they are full.

use std::fmt;

use ingest::{Bucket, Hour, Identity, Window};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// One commit log: a bucket's hour or day, or a part of it after splits.
///
/// Written `07/2026-10-01T13`, a child `07/2026-10-01T13/a`, its child `07/2026-10-01T13/a3`; of facts `07/2026-10-01`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// The bucket of every account in it.
    pub bucket: Bucket,
    /// The tumbling window of everything in it: an hour of counts, a day of facts.
    pub window: Window,
    /// One hexadecimal digit a split on the way to it; empty for the root.
    path: String,
}

/// The text names no partition.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("not a partition such as 07/2026-10-01T13")]
pub struct NotAPartition;

impl Partition {
    /// Children of a split partition.
    pub const FANOUT: u8 = 16;

    /// The partition that everything of this bucket and window is looked up in first.
    pub fn root(bucket: Bucket, window: Window) -> Self {
        Self { bucket, window, path: String::new() }
    }

    /// The hour of its counts; `None` for a partition of facts.
    pub fn hour(&self) -> Option<Hour> {
        match self.window {
            Window::Hour(hour) => Some(hour),
            Window::Day(_) => None,
        }
    }

    /// The child an identity belongs to once this partition is split: digit number `depth` of SHA-256 over the identity.
    pub fn child_of(&self, identity: &Identity) -> Self {
        let hash = hex::encode(Sha256::digest(identity.as_bytes()));
        let depth = self.path.len();
        Self { path: format!("{}{}", self.path, &hash[depth..=depth]), ..self.clone() }
    }

    /// Every child that a split of this partition has.
    pub fn children(&self) -> impl Iterator<Item = Self> + '_ {
        let child = |digit| Self { path: format!("{}{digit:x}", self.path), ..self.clone() };
        (0..Self::FANOUT).map(child)
    }

    /// Reads the written form, and no other: a log has one name.
    pub fn parse(text: &str) -> Result<Self, NotAPartition> {
        let mut parts = text.splitn(3, '/');
        let bucket = parts.next().and_then(|number| number.parse().ok()).and_then(Bucket::new).ok_or(NotAPartition)?;
        let window = Window::parse_key(parts.next().ok_or(NotAPartition)?).map_err(|_| NotAPartition)?;
        let path = parts.next().unwrap_or_default();
        let is_path = path.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        let partition = Self { bucket, window, path: path.to_owned() };
        if is_path && path.len() < 64 && partition.to_string() == text { Ok(partition) } else { Err(NotAPartition) }
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}/{}", self.bucket.number(), self.window)?;
        if self.path.is_empty() { Ok(()) } else { write!(f, "/{}", self.path) }
    }
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_written_and_read_and_its_children_partition_identities() {
        let root = Partition::parse("07/2026-10-01T13").unwrap();
        assert_eq!(root.to_string(), "07/2026-10-01T13");
        let identity = Identity::from_bytes([9; 16]);
        let child = root.child_of(&identity);
        let grandchild = child.child_of(&identity);
        assert_eq!(Partition::parse(&grandchild.to_string()), Ok(grandchild.clone()));
        assert!(grandchild.to_string().starts_with(&child.to_string()));
        let facts = Partition::parse("07/2026-10-01").unwrap().child_of(&identity);
        assert_eq!(Partition::parse(&facts.to_string()), Ok(facts.clone()));
        assert_eq!(facts.to_string().len(), "07/2026-10-01/a".len());
        for bad in ["", "7/2026-10-01T13", "32/2026-10-01T13", "07/2026-10", "07/2026-10-01T13/", "07/2026-10-01T13/g"]
            .into_iter()
            .chain(["+7/2026-10-01T13", "07/2026-10-01t13", "07/2026-10-01 13", "07/2026-10-01T13/A"])
        {
            assert_eq!(Partition::parse(bad), Err(NotAPartition), "{bad}");
        }
    }
}
