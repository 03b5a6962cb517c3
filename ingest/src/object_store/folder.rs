//! Objects in a folder, for replays of what was copied out of S3.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{ObjectStore, OpenError, Opened};
use crate::Timestamp;
use crate::notice::NamedObject;

/// A folder with a folder for each bucket, or with the keys of one bucket (as `aws s3 sync s3://BUCKET DIR` leaves it).
///
/// It knows no versions and no entity tags: of an object that was written again it notices only another size.
#[derive(Clone, Debug)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// The objects below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where an object is; `None` for a key that no file can have.
    pub fn path(&self, object: &NamedObject) -> Option<PathBuf> {
        let bucket = self.root.join(&object.bucket);
        let mut path = if bucket.is_dir() { bucket } else { self.root.clone() };
        for name in object.key.split('/') {
            // What leads out of the folder is no file in it.
            if matches!(name, "" | "." | "..") || name.contains(['\0', '\\']) {
                return None;
            }
            path.push(name);
        }
        Some(path)
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

impl ObjectStore for Folder {
    type Body = File;

    async fn open(&self, object: &NamedObject) -> Result<Opened<File>, OpenError> {
        let path = self.path(object).ok_or(OpenError::Missing)?;
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
        let (found, file) = opened.map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename => OpenError::Missing,
            ErrorKind::PermissionDenied => OpenError::Denied,
            _ => OpenError::Folder(error),
        })?;
        if !found.is_file() {
            return Err(OpenError::Missing);
        }
        if object.size.is_some_and(|size| size != found.len()) {
            return Err(OpenError::Changed);
        }
        Ok(Opened { body: file, signature: None, written_at: found.modified().ok().map(Timestamp::from) })
    }
}
