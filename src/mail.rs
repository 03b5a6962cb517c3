//! How this deployment's mail leaves: as files below the home, or through Amazon SES.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use billing::outbox::{FolderMailer, MailSettings, SendReport, SesMailer, send_due};
use billing::{RenderReport, render_due};
use invoice_pdf::{PdfRenderer, Typefaces};

use crate::cli::{Global, StoresChoice};
use crate::edge;
use crate::stores::{Role, Stores};

/// Where messages go locally, below the home.
const FOLDER: &str = "mail";
/// How often `serve` looks into the outbox.
const EVERY: Duration = Duration::from_secs(60);
/// The most messages of one look, so that a large run does not keep the others waiting.
const MESSAGES_MAX: u64 = 1_000;

/// Documents rendered at once.
const RENDERERS: usize = 2;

/// What prints invoices: the embedded typefaces, and one more for what they do not have, where `SECUREBASE_INVOICE_TYPEFACE` names
/// its file.
pub(crate) fn renderer() -> anyhow::Result<Arc<PdfRenderer>> {
    let faces = match std::env::var_os("SECUREBASE_INVOICE_TYPEFACE").filter(|path| !path.is_empty()) {
        None => Typefaces::embedded(),
        Some(path) => {
            let at = || format!("SECUREBASE_INVOICE_TYPEFACE {}", path.to_string_lossy());
            Typefaces::with_additional(std::fs::read(&path).with_context(at)?).with_context(at)?
        }
    };
    Ok(Arc::new(PdfRenderer::new(faces)))
}

/// The way out.
pub(crate) struct Mail {
    stores: Stores,
    settings: MailSettings,
    folder: PathBuf,
    configuration_set: Option<String>,
    renderer: Arc<PdfRenderer>,
}

impl Mail {
    /// The way out, by the environment; in AWS only with an address that SES may send from.
    pub(crate) fn of(global: &Global, stores: &Stores) -> anyhow::Result<Option<Self>> {
        let setting = |name| std::env::var(name).ok().filter(|text| !text.trim().is_empty());
        let from = match (setting("SECUREBASE_MAIL_FROM"), global.stores) {
            (Some(from), _) => from,
            (None, StoresChoice::Local) => "SecureBase Billing <billing@localhost>".to_owned(),
            (None, StoresChoice::Aws) => return Ok(None),
        };
        Ok(Some(Self {
            stores: stores.clone(),
            settings: MailSettings::new(&from, setting("SECUREBASE_MAIL_REPLY_TO").as_deref())?,
            folder: global.home.join(FOLDER),
            configuration_set: setting("SECUREBASE_MAIL_CONFIGURATION_SET"),
            renderer: renderer()?,
        }))
    }

    /// Renders what has no document yet, and sends what is due.
    pub(crate) async fn send(&self, messages_max: u64) -> anyhow::Result<(RenderReport, SendReport)> {
        let pool = self.stores.database.pool(Role::Billing)?;
        let now = edge::now();
        let rendered = render_due(&pool, &self.renderer, RENDERERS, now).await?;
        let sent = match self.stores.ses() {
            None => {
                let mailer = FolderMailer::new(self.folder.clone());
                send_due(&pool, &mailer, &self.settings, now, edge::random, messages_max).await?
            }
            Some(client) => {
                let mailer = SesMailer::new(client, self.configuration_set.clone());
                send_due(&pool, &mailer, &self.settings, now, edge::random, messages_max).await?
            }
        };
        Ok((rendered, sent))
    }

    /// Sends for as long as it is let: what fails is tried again with the next look.
    pub(crate) async fn keep_sending(self) {
        let mut look = tokio::time::interval(EVERY);
        loop {
            look.tick().await;
            if let Err(error) = self.send(MESSAGES_MAX).await {
                tracing::warn!(error = format!("{error:#}"), "the outbox cannot be sent");
            }
        }
    }
}
