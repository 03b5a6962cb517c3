//! Where the objects that notices name are kept: S3, or a folder that looks like its buckets.

mod folder;
mod s3;

use std::future::Future;
use std::io::{self, Read};

use thiserror::Error;

use crate::aws::AwsError;
use crate::notice::NamedObject;
use crate::{Reason, Timestamp};

pub use folder::Folder;
pub use s3::{S3Body, S3Objects};

/// Objects that can be read by bucket and key.
pub trait ObjectStore: Send + Sync {
    /// An object's bytes as stored, in order. Reading may block: use a thread that may.
    type Body: Read + Send + 'static;

    /// Opens the object that was named, in the version that was named. Nothing of it is read yet.
    fn open(&self, object: &NamedObject) -> impl Future<Output = Result<Opened<Self::Body>, OpenError>> + Send;
}

/// An object that is being read.
#[derive(Debug)]
pub struct Opened<B> {
    /// Its bytes.
    pub body: B,
    /// The signature that stands beside it (`x-amz-meta-signature`), as CloudTrail's digest files have.
    pub signature: Option<String>,
    /// When it was written.
    pub written_at: Option<Timestamp>,
}

/// Why an object could not be opened.
///
/// The first four are for good as far as a reader can tell: the notice is set aside ([`OpenError::reason`]) and can be
/// replayed once a person has put it right. The others are about the store: retry if [`OpenError::is_passing`], else stop.
#[derive(Debug, Error)]
pub enum OpenError {
    /// There is no such object, or no such version, or its bucket is gone. Skip.
    #[error("there is no such object")]
    Missing,
    /// A policy denies it; S3 says so of missing objects too where listing is not allowed. Skip.
    #[error("reading the object is not allowed")]
    Denied,
    /// It was moved to an archive class and must be restored first. Skip.
    #[error("the object is archived")]
    Archived,
    /// It was written again since: what the notice named is no more. Skip.
    #[error("the object is no longer what was named")]
    Changed,
    /// The service failed, or refuses us altogether. Retry if passing, else stop.
    #[error(transparent)]
    Service(#[from] AwsError),
    /// The folder failed. Stop.
    #[error("cannot open the object: {0}")]
    Folder(#[source] io::Error),
}

impl OpenError {
    /// Why the notice is set aside; `None` where the fault is not the object's.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Missing => Some(Reason::ObjectMissing),
            Self::Denied => Some(Reason::ObjectDenied),
            Self::Archived => Some(Reason::ObjectArchived),
            Self::Changed => Some(Reason::ObjectChanged),
            Self::Service(_) | Self::Folder(_) => None,
        }
    }

    /// Whether the same call may go through later.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Service(error) if error.kind.is_passing())
    }
}
