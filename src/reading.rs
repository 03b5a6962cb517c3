//! What reading depends on beside what is read: declared sources, defined meters, and the objects that notices name.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

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
    latest: Latest,
}

/// The latest instant that anything was read at. What was looked at once and found good is good when it is counted, also if
/// the clock is put back in between: otherwise a record ahead of that clock would be set aside under a letter that is put right.
#[derive(Clone, Debug)]
struct Latest(Arc<AtomicI64>);

impl Latest {
    fn new() -> Self {
        Self(Arc::new(AtomicI64::new(i64::MIN)))
    }

    /// Now, or the latest instant so far if the clock went back.
    fn or(&self, now: Timestamp) -> Timestamp {
        let latest = self.0.fetch_max(now.micros(), Ordering::Relaxed);
        Timestamp::from_micros(latest).map_or(now, |latest| latest.max(now))
    }
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
        Ok(Self { declared, meters: Arc::new(meters), objects, latest: Latest::new() })
    }

    /// The rules at this instant, or at the latest that this and its copies were asked for.
    pub(crate) fn rules(&self, now: Timestamp) -> Rules<'_> {
        Rules { now: self.latest.or(now), declared: &self.declared, meters: &self.meters }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_later_is_never_read_at_an_earlier_time() {
        let at = |micros| Timestamp::from_micros(micros).unwrap();
        let latest = Latest::new();
        let copy = latest.clone();
        for (now, expected) in [(5, 5), (3, 5), (8, 8), (7, 8)] {
            assert_eq!(copy.or(at(now)), at(expected));
        }
        assert_eq!(latest.or(at(1)), at(8));
    }
}
