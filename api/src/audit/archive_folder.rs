//! The archive as a folder, for a home. Files are read-only; who owns the disk can still change them.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::archive::{Archive, ArchiveError};

/// A folder whose files are written once.
#[derive(Clone, Debug)]
pub struct FolderArchive(PathBuf);

impl FolderArchive {
    /// Uses the folder; it is made when the first file is.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    fn put(&self, name: &str, bytes: &[u8]) -> std::io::Result<bool> {
        let path = self.0.join(name);
        if path.exists() {
            return Ok(false);
        }
        fs::create_dir_all(path.parent().unwrap_or(&self.0))?;
        // Whole or not at all: a link is made in one step, and only where nothing stands.
        let unfinished = path.with_extension(format!("unfinished-{}", std::process::id()));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::set_permissions(&unfinished, Permissions::from_mode(0o444))?;
        let linked = fs::hard_link(&unfinished, &path);
        fs::remove_file(&unfinished)?;
        match linked {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn list(&self, prefix: &str) -> std::io::Result<Vec<String>> {
        let mut names = Vec::new();
        let mut folders = vec![self.0.clone()];
        while let Some(folder) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if let Some(name) = path.strip_prefix(&self.0).ok().and_then(Path::to_str) {
                    names.push(name.to_owned());
                }
            }
        }
        names.retain(|name| name.starts_with(prefix) && !name.contains(".unfinished-"));
        names.sort();
        Ok(names)
    }
}

impl Archive for FolderArchive {
    async fn put_once(&self, name: &str, bytes: Vec<u8>) -> Result<bool, ArchiveError> {
        self.put(name, &bytes).map_err(|error| ArchiveError::at(name, error))
    }

    async fn names(&self, prefix: &str) -> Result<Vec<String>, ArchiveError> {
        self.list(prefix).map_err(|error| ArchiveError::at(prefix, error))
    }

    async fn get(&self, name: &str) -> Result<Vec<u8>, ArchiveError> {
        fs::read(self.0.join(name)).map_err(|error| ArchiveError::at(name, error))
    }
}
