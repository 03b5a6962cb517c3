//! One delivery, from its bytes to the stream: what it carries, and every object that its notices name.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::aws::AwsError;
use crate::dead_letter::{DeadLetter, DeadLetters};
use crate::digest::SeenDigest;
use crate::expectations::Expectations;
use crate::kinesis::{StreamWriter, pack};
use crate::manifest::{Manifest, Manifests};
use crate::notice::NamedObject;
use crate::object_store::{ObjectStore, OpenError, Opened};
use crate::{
    Beside, Declarations, Delivered, Judged, Meters, Packer, ReadError, Reason, Rules, RunId, Slice, Timestamp, Verdict,
    read_object,
};

/// Bytes of dead letters that leave together.
const LETTER_BYTES_TOGETHER: usize = 256 << 10;
/// Memory of a dead letter beside its name and bytes.
const LETTER_FRAME_BYTES: usize = 256;
/// Parts that may wait between reading and sending.
const PARTS_WAITING_MAX: usize = 4;

/// Why a delivery was not taken in. What was sent of it is known when it comes again.
#[derive(Debug, Error)]
pub enum IntakeError {
    /// An object could not be read to its end. Retry.
    #[error("cannot read {name}: {source}")]
    Object {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The store of objects failed, or refuses us altogether. Retry if passing.
    #[error("cannot open {name}: {source}")]
    Open {
        /// The object's name.
        name: String,
        /// Why.
        source: OpenError,
    },
    /// The stream or a table failed. Retry if passing.
    #[error(transparent)]
    Store(#[from] AwsError),
}

/// What readings go by.
#[derive(Clone, Debug)]
pub struct IntakeRules {
    /// Which source each meter is counted from.
    pub declared: Arc<Declarations>,
    /// The meters that samples may be of.
    pub meters: Arc<Meters>,
    /// Gives a fresh random id to each reading.
    pub run_id: fn() -> RunId,
}

/// Takes deliveries in: reads them, sends what counts to the stream, sets aside what cannot be read, and writes manifests.
#[derive(Debug)]
pub struct Intake<S> {
    stream: StreamWriter,
    dead_letters: DeadLetters,
    manifests: Manifests,
    expectations: Expectations,
    objects: Arc<S>,
    rules: IntakeRules,
}

/// What was taken in, in source records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TakenIn {
    /// Objects and deliveries read.
    pub readings: u64,
    /// Records read.
    pub records: u64,
    /// Set aside.
    pub dead_letters: u64,
}

enum Part {
    Slices(Vec<Slice>),
    DeadLetters(Vec<DeadLetter>),
    Digests(Vec<SeenDigest>),
    Manifest(Box<Manifest>),
}

impl<S: ObjectStore + 'static> Intake<S> {
    /// An intake to this stream and these tables, from this store of objects.
    pub fn new(
        stream: StreamWriter,
        dead_letters: DeadLetters,
        manifests: Manifests,
        expectations: Expectations,
        objects: S,
        rules: IntakeRules,
    ) -> Self {
        Self { stream, dead_letters, manifests, expectations, objects: Arc::new(objects), rules }
    }

    /// Reads a delivery, and every object that its notices name under a run of its own.
    ///
    /// The manifest of a reading is written after everything else of it, so a reading that has one is on the stream. Memory
    /// is bounded, however large the objects are; reading blocks a thread of the runtime's for that.
    pub async fn take_in(&self, name: String, delivery: Vec<u8>, now: Timestamp) -> Result<TakenIn, IntakeError> {
        let (parts, mut waiting) = mpsc::channel(PARTS_WAITING_MAX);
        let reader =
            Reader { objects: self.objects.clone(), rules: self.rules.clone(), parts, runtime: Handle::current(), now };
        let read = tokio::task::spawn_blocking(move || {
            let object = Object { name: &name, written_at: None, signature: None, follows: true };
            reader.read(&object, delivery.as_slice())
        });
        let mut taken_in = TakenIn::default();
        while let Some(part) = waiting.recv().await {
            match part {
                Part::Slices(slices) => self.stream.put(pack(slices)).await?,
                Part::DeadLetters(letters) => drop(self.dead_letters.put(&letters).await?),
                Part::Digests(digests) => drop(self.expectations.put(&digests).await?),
                Part::Manifest(manifest) => {
                    self.manifests.put(std::slice::from_ref(&manifest)).await?;
                    taken_in.readings += 1;
                    taken_in.records += manifest.read;
                    taken_in.dead_letters += manifest.dead_letters.values().sum::<u64>();
                }
            }
        }
        match read.await {
            Ok(Ok(())) => Ok(taken_in),
            Ok(Err(Stopped::Failed(error))) => Err(error),
            Ok(Err(Stopped::Closed { name, source })) => Err(IntakeError::Open { name, source }),
            Ok(Err(Stopped::NobodyReceives)) => unreachable!("whoever receives does so until nobody sends"),
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
}

/// An object that is being read.
struct Object<'a> {
    name: &'a str,
    written_at: Option<Timestamp>,
    signature: Option<String>,
    /// Whether the objects that its notices name are read too. Those inside objects that were fetched for a notice are not:
    /// they could name each other without end.
    follows: bool,
}

enum Stopped {
    NobodyReceives,
    Closed { name: String, source: OpenError },
    Failed(IntakeError),
}

struct Reader<S> {
    objects: Arc<S>,
    rules: IntakeRules,
    parts: mpsc::Sender<Part>,
    runtime: Handle,
    now: Timestamp,
}

impl<S: ObjectStore> Reader<S> {
    fn hand_on(&self, part: Part) -> Result<(), Stopped> {
        self.parts.blocking_send(part).map_err(|_| Stopped::NobodyReceives)
    }

    fn read(&self, object: &Object<'_>, stored: impl Read) -> Result<(), Stopped> {
        let run = (self.rules.run_id)();
        let mut packer = Packer::new(run);
        let (mut slices, mut letters, mut letter_bytes) = (Vec::new(), Vec::new(), 0);
        let mut digests = Vec::new();
        let mut closed = BTreeMap::<Reason, u64>::new();
        let delivered = Delivered { name: object.name, written_at: object.written_at };
        let rules = Rules { now: self.now, declared: &self.rules.declared, meters: &self.rules.meters };
        let read = read_object(delivered, stored, rules, |judged: Judged<'_>| {
            let Judged { verdict, beside, bytes, offset, number, is_whole } = judged;
            let mut set_aside = |reason| {
                letter_bytes += LETTER_FRAME_BYTES + object.name.len() + bytes.len();
                let (object, bytes) = (object.name.to_owned(), bytes.to_vec());
                let (seen_at, resolved_at) = (self.now, None);
                letters.push(DeadLetter { object, offset, number, reason, bytes, is_whole, seen_at, resolved_at });
            };
            match verdict {
                Verdict::Usage(event) => packer.add(event, &mut slices),
                Verdict::Facts(statement) => packer.add_statement(*statement, &mut slices),
                Verdict::NotCounted(_) => {}
                Verdict::DeadLetter(reason) => set_aside(reason),
            }
            for beside in beside {
                match beside {
                    Beside::Usage(event) => packer.add_beside(event, &mut slices),
                    Beside::Fact(fact) => packer.add_fact_beside(*fact, &mut slices),
                    Beside::Digest(digest) => digests.push((*digest, Sha256::digest(bytes).into())),
                    Beside::DeadLetter(reason) => set_aside(reason),
                    Beside::Object(named) => match self.follow(object, &named) {
                        Err(Stopped::Closed { name, source }) => {
                            let reason = source.reason().ok_or(Stopped::Closed { name, source })?;
                            *closed.entry(reason).or_default() += 1;
                            set_aside(reason);
                        }
                        followed => followed?,
                    },
                }
            }
            if !slices.is_empty() {
                self.hand_on(Part::Slices(std::mem::take(&mut slices)))?;
            }
            if LETTER_BYTES_TOGETHER <= letter_bytes {
                letter_bytes = 0;
                self.hand_on(Part::DeadLetters(std::mem::take(&mut letters)))?;
            }
            Ok(())
        });
        let mut found = read.map_err(|error| match error {
            ReadError::Store(source) => Stopped::Failed(IntakeError::Object { name: object.name.to_owned(), source }),
            ReadError::Sink(stopped) => stopped,
        })?;
        for (reason, count) in closed {
            *found.beside_dead_letters.entry(reason).or_default() += count;
        }
        slices.extend(packer.flush());
        self.hand_on(Part::Slices(slices))?;
        self.hand_on(Part::DeadLetters(letters))?;
        // A digest file is one digest; its hash is that of its whole content.
        let is_alone = found.read == 1;
        let seen = digests.into_iter().map(|(digest, sha256)| SeenDigest {
            digest,
            content_sha256: if is_alone { found.content_sha256 } else { sha256 },
            signature: object.signature.clone(),
            seen_at: self.now,
        });
        let seen: Vec<SeenDigest> = seen.collect();
        if !seen.is_empty() {
            self.hand_on(Part::Digests(seen))?;
        }
        let name = object.name.to_owned();
        let manifest = Manifest::new(run, name, found, packer.slices(), packer.beside_slices(), self.now);
        self.hand_on(Part::Manifest(Box::new(manifest)))
    }

    /// Reads what a notice names.
    fn follow(&self, within: &Object<'_>, named: &NamedObject) -> Result<(), Stopped> {
        let name = named.name();
        if !within.follows {
            return Err(Stopped::Closed { name, source: OpenError::Missing });
        }
        match self.runtime.block_on(self.objects.open(named)) {
            Ok(Opened { body, signature, written_at }) => {
                self.read(&Object { name: &name, written_at, signature, follows: false }, body)
            }
            Err(source) => Err(Stopped::Closed { name, source }),
        }
    }
}
