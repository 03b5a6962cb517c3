//! From a delivery to the stream: what a function does with what AWS hands it.
//!
//! One call for every form of delivery, because the front door tells forms apart: an S3 notice (direct, by SNS, SQS or
//! EventBridge), an EventBridge event, a CloudWatch Logs subscription, Kinesis or Firehose records, usage samples. Objects
//! that notices name are fetched and read under runs of their own. When a call returns, everything is on the stream or kept:
//! the delivery may be let go of. When it fails, it may be tried again whole: what was counted is known.

mod samples;

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use thiserror::Error;
use tokio::runtime::Handle;

use crate::aws::AwsError;
use crate::dead_letter::DeadLetters;
use crate::expectations::Expectations;
use crate::kinesis::{StreamWriter, pack};
use crate::manifest::{Manifest, Manifests};
use crate::notice::NamedObject;
use crate::object_store::{ObjectStore, OpenError, Opened};
use crate::run::{Run, RunEnd};
use crate::{Declarations, Delivered, Meters, ReadError, Reason, Rules, RunId, Slice, Timestamp, read_object};

pub use samples::{RefusedSample, SampleIntake, SampleReceipt, SamplesTaken};

/// Bytes of dead letters that are kept together.
const LETTER_BYTES_TOGETHER: usize = 256 << 10;

/// What reading goes by, beside the clock.
#[derive(Clone, Debug)]
pub struct IntakeRules {
    /// Which source each meter is counted from.
    pub declared: Arc<Declarations>,
    /// The meters that samples may be of.
    pub meters: Arc<Meters>,
}

/// Where what is read goes.
#[derive(Clone, Debug)]
pub struct Sinks {
    /// The stream.
    pub stream: StreamWriter,
    /// The table of dead letters.
    pub dead_letters: DeadLetters,
    /// The table of manifests.
    pub manifests: Manifests,
    /// The table of expectations.
    pub expectations: Expectations,
}

/// The clock and the dice of the edge.
#[derive(Clone, Copy, Debug)]
pub struct Edge {
    /// Reads the calendar.
    pub now: fn() -> Timestamp,
    /// Makes the id of a run.
    pub run_id: fn() -> RunId,
}

/// Takes deliveries in.
#[derive(Clone, Debug)]
pub struct Intake<S> {
    sinks: Sinks,
    objects: S,
    rules: IntakeRules,
    edge: Edge,
}

/// A delivery was not taken in. Nothing of it is lost: try it again.
#[derive(Debug, Error)]
pub enum IntakeError {
    /// An object broke off while it was read. Retry.
    #[error("cannot read {name}: {source}")]
    Read {
        /// Which object.
        name: String,
        /// How it failed.
        #[source]
        source: io::Error,
    },
    /// The store of objects fails, or refuses us altogether. Retry if [`IntakeError::is_passing`], else stop.
    #[error("cannot open {name}: {source}")]
    Open {
        /// Which object.
        name: String,
        /// What the store said.
        #[source]
        source: OpenError,
    },
    /// The stream or a table fails. Retry if [`IntakeError::is_passing`], else stop.
    #[error(transparent)]
    Sink(#[from] AwsError),
    /// Whoever asked for it has stopped waiting. Retry.
    #[error("nobody waits any more for {0} to be taken in")]
    GivenUp(String),
    /// The reading ended by a bug. Stop.
    #[error("the reading of {0} ended by a bug in this program")]
    Bug(String),
}

impl IntakeError {
    /// Whether the same delivery may go through later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Read { .. } | Self::GivenUp(_) => true,
            Self::Open { source, .. } => source.is_passing(),
            Self::Sink(error) => error.kind.is_passing(),
            Self::Bug(_) => false,
        }
    }
}

impl<S: ObjectStore + Clone + 'static> Intake<S> {
    /// Takes deliveries in by these rules; `objects` are those that notices name.
    pub fn new(sinks: Sinks, objects: S, rules: IntakeRules, edge: Edge) -> Self {
        Self { sinks, objects, rules, edge }
    }

    /// Takes in a delivery that is in memory, under a name of its own such as `sqs:059f36b4-87a3-...`.
    ///
    /// Returns the manifests of what was read, the delivery's own last. Reading and fetching block, so they have a thread.
    pub async fn take(&self, name: String, content: Vec<u8>) -> Result<Vec<Manifest>, IntakeError> {
        let named = name.clone();
        self.on_a_thread(name, move |taking| taking.delivery(&named, content.as_slice())).await
    }

    /// Takes in an object that is in the store: for what no notice came of, or came too early for.
    pub async fn take_object(&self, object: NamedObject) -> Result<Vec<Manifest>, IntakeError> {
        self.on_a_thread(object.name(), move |taking| match taking.object(&object)? {
            None => Ok(()),
            Some(source) => Err(IntakeError::Open { name: object.name(), source }),
        })
        .await
    }

    async fn on_a_thread(
        &self,
        name: String,
        work: impl FnOnce(&mut Taking<S>) -> Result<(), IntakeError> + Send + 'static,
    ) -> Result<Vec<Manifest>, IntakeError> {
        // A thread cannot be dropped like a future: without this it would read on into somebody else's time.
        let waiter = Waiter::default();
        let is_given_up = waiter.is_gone.clone();
        let mut taking =
            Taking { intake: self.clone(), runtime: Handle::current(), is_given_up, manifests: Vec::new() };
        let done = tokio::task::spawn_blocking(move || work(&mut taking).map(|()| taking.manifests));
        let taken = done.await.map_err(|_| IntakeError::Bug(name))?;
        drop(waiter);
        taken
    }
}

/// Says, by being dropped, that nobody waits any more.
#[derive(Default)]
struct Waiter {
    is_gone: Arc<AtomicBool>,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.is_gone.store(true, Ordering::Relaxed);
    }
}

/// One delivery being taken in, on a thread that may block.
struct Taking<S> {
    intake: Intake<S>,
    runtime: Handle,
    is_given_up: Arc<AtomicBool>,
    manifests: Vec<Manifest>,
}

impl<S: ObjectStore + Clone + 'static> Taking<S> {
    fn delivery(&mut self, name: &str, content: impl Read) -> Result<(), IntakeError> {
        let follow = |taking: &mut Self, object: &NamedObject| match taking.object(object)? {
            None => Ok(None),
            Some(error) => Ok(error.reason()),
        };
        self.read(name.into(), None, content, follow)
    }

    /// Reads an object; the reason why it cannot be opened, if that is for good.
    fn object(&mut self, object: &NamedObject) -> Result<Option<OpenError>, IntakeError> {
        let name = object.name();
        let Opened { body, signature, written_at } = match self.runtime.block_on(self.intake.objects.open(object)) {
            Ok(opened) => opened,
            Err(error) if error.reason().is_some() => return Ok(Some(error)),
            Err(source) => return Err(IntakeError::Open { name, source }),
        };
        // Notices inside objects are not followed: they could name each other without end.
        let follow = |_: &mut Self, _: &NamedObject| Ok(Some(Reason::ObjectMissing));
        self.read(Delivered { name: &name, written_at }, signature, body, follow)?;
        Ok(None)
    }

    fn read(
        &mut self,
        delivered: Delivered<'_>,
        signature: Option<String>,
        stored: impl Read,
        follow: impl Fn(&mut Self, &NamedObject) -> Result<Option<Reason>, IntakeError>,
    ) -> Result<(), IntakeError> {
        let IntakeRules { declared, meters } = self.intake.rules.clone();
        let now = (self.intake.edge.now)();
        let rules = Rules { now, declared: &declared, meters: &meters };
        let mut run = Run::new((self.intake.edge.run_id)(), delivered.name.to_owned(), signature, now);
        let read = read_object(delivered, stored, rules, |judged| {
            if self.is_given_up.load(Ordering::Relaxed) {
                return Err(IntakeError::GivenUp(delivered.name.to_owned()));
            }
            run.take(judged, |object| follow(self, object))?;
            self.put_slices(run.full_slices())?;
            if LETTER_BYTES_TOGETHER <= run.letter_bytes() {
                self.runtime.block_on(self.intake.sinks.dead_letters.put(&run.letters()))?;
            }
            Ok(())
        });
        let found = read.map_err(|error| match error {
            ReadError::Store(source) => IntakeError::Read { name: delivered.name.to_owned(), source },
            ReadError::Sink(error) => error,
        })?;
        let manifest = self.runtime.block_on(self.intake.sinks.end(run.end(found)))?;
        self.manifests.push(manifest);
        Ok(())
    }

    fn put_slices(&self, slices: Vec<Slice>) -> Result<(), IntakeError> {
        if slices.is_empty() {
            return Ok(());
        }
        Ok(self.runtime.block_on(self.intake.sinks.stream.put(pack(slices)))?)
    }
}

impl Sinks {
    /// Keeps what a reading ends with; returns its manifest.
    async fn end(&self, end: RunEnd) -> Result<Manifest, AwsError> {
        let RunEnd { slices, letters, digests, manifest } = end;
        if !slices.is_empty() {
            self.stream.put(pack(slices)).await?;
        }
        self.dead_letters.put(&letters).await?;
        self.expectations.put(&digests).await?;
        // It says that the others are there, so it comes last.
        self.manifests.put(std::slice::from_ref(&manifest)).await?;
        Ok(manifest)
    }
}
