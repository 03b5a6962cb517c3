//! What reading depends on beside what is read: declared sources, defined meters, and the objects that notices name.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use aggregator::meters::MeterBook;
use ingest::notice::NamedObject;
use ingest::object_store::{Folder, ObjectStore, OpenError, Opened, S3Objects};
use ingest::{Declarations, Meters, Rules, Timestamp};
use tokio::runtime::Handle;

use crate::stores::{Role, Stores};

/// The rules that reading goes by, and the store of what notices name.
#[derive(Clone)]
pub(crate) struct Reading {
    declared: Arc<Declarations>,
    meters: Arc<Meters>,
    objects: Objects,
}

/// Where the objects that notices name are.
#[derive(Clone)]
enum Objects {
    /// Nowhere: local stores, and no folder was named.
    None,
    Folder(Folder),
    S3(S3Objects),
}

impl Reading {
    /// Reads the meters that are defined. Objects come from `folder`, else from S3 with stores in AWS.
    pub(crate) async fn new(
        stores: &Stores,
        declared: Arc<Declarations>,
        folder: Option<PathBuf>,
    ) -> anyhow::Result<Self> {
        let meters = MeterBook::new(stores.database.pool(Role::Aggregator)?).read().await?;
        let objects = match (folder, &stores.objects) {
            (Some(folder), _) => Objects::Folder(Folder::new(folder)),
            (None, Some(client)) => Objects::S3(S3Objects::new(client.clone())),
            (None, None) => Objects::None,
        };
        Ok(Self { declared, meters: Arc::new(meters), objects })
    }

    /// The rules at this instant.
    pub(crate) fn rules(&self, now: Timestamp) -> Rules<'_> {
        Rules { now, declared: &self.declared, meters: &self.meters }
    }

    /// Opens an object that a notice names. For a thread that may block.
    pub(crate) fn open(
        &self,
        runtime: &Handle,
        object: &NamedObject,
    ) -> Result<Opened<Box<dyn Read + Send>>, OpenError> {
        fn boxed<B: Read + Send + 'static>(opened: Opened<B>) -> Opened<Box<dyn Read + Send>> {
            Opened { body: Box::new(opened.body), signature: opened.signature, written_at: opened.written_at }
        }
        match &self.objects {
            Objects::None => Err(OpenError::Missing),
            Objects::Folder(folder) => runtime.block_on(folder.open(object)).map(boxed::<File>),
            Objects::S3(objects) => runtime.block_on(objects.open(object)).map(boxed),
        }
    }
}
