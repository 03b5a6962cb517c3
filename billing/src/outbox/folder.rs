//! Mail as files: each message an .eml that any mail program opens. For local work.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::compose::OutgoingMail;
use super::mailer::{Mailer, MessageId, SendError};

/// Writes each message as `TAG.eml` into a folder. A message that comes again replaces itself.
#[derive(Clone, Debug)]
pub struct FolderMailer {
    folder: PathBuf,
}

impl FolderMailer {
    /// Messages go into this folder, which is made when the first one comes.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn write(&self, mail: &OutgoingMail) -> std::io::Result<PathBuf> {
        std::fs::create_dir_all(&self.folder)?;
        let path = self.folder.join(format!("{}.eml", mail.tag));
        // A reader never sees half a message.
        let unfinished = self.folder.join(format!(".{}.{}", mail.tag, std::process::id()));
        let mut file = std::fs::File::create(&unfinished)?;
        file.write_all(&mail.raw)?;
        file.sync_all()?;
        std::fs::rename(&unfinished, &path)?;
        Ok(path)
    }
}

impl Mailer for FolderMailer {
    async fn send(&self, mail: &OutgoingMail) -> Result<MessageId, SendError> {
        let path = self.write(mail).map_err(|error| {
            SendError::Passing(format!("cannot write {}: {error}", self.folder.join(mail.tag.as_str()).display()))
        })?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(MessageId(name))
    }
}
