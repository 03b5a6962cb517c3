//! Reading source objects into the counters: readers, one sender, and a wait until everything is acknowledged and rolled up.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use aggregator::acknowledgement::{Acknowledgement, Acknowledgements, RunAcknowledged};
use aggregator::partition::Partition;
use aggregator::usage_rows::UsageRows;
use anyhow::Context;
use futures::{StreamExt, TryStreamExt, stream};
use ingest::dead_letter::DeadLetter;
use ingest::digest::SeenDigest;
use ingest::kinesis::pack;
use ingest::manifest::{Manifest, Manifests, ObjectVersion};
use ingest::notice::NamedObject;
use ingest::object_store::{OpenError, Opened};
use ingest::{
    Delivered, Judged, NotCounted, ObjectRead, ReadError, Reason, Run, RunEnd, RunId, Slice, SliceId, Timestamp,
    read_object,
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::edge;
use crate::print::Progress;
use crate::reading::Reading;
use crate::stores::{Role, Stores};

/// Threads that read and judge; judging is what takes the time.
const READERS_MAX: usize = 8;
/// Messages that may wait between the readers and the sender.
const MESSAGES_WAITING_MAX: usize = 256;
/// Messages sent together.
const MESSAGES_TOGETHER_MAX: usize = 128;
/// Batches of manifests being written while the next slices leave.
const KEEPING_AT_ONCE: usize = 4;
/// Bytes of dead letters that leave together.
const LETTER_BYTES_TOGETHER: usize = 256 << 10;
/// KiB of dead letters between the readers and the store; a reader with more waits.
const LETTERS_WAITING_KIB_MAX: u32 = 64 << 10;
/// Events on their way before reading waits for counting: bounds the stream's memory.
const EVENTS_ON_THEIR_WAY_MAX: u64 = 1_000_000;
/// Runs looked up at once.
const LOOK_UPS_AT_ONCE: usize = 16;
/// How long usage rows may stand still behind the counters before a command gives up.
const ROLL_UP_PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// One line that balances: what was read, and what became of it.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Balance {
    pub(crate) read: u64,
    pub(crate) counted: u64,
    pub(crate) duplicates: u64,
    pub(crate) not_counted: BTreeMap<String, u64>,
    pub(crate) dead_letters: BTreeMap<String, u64>,
    /// What records say beside their verdicts, and what became of that.
    #[serde(skip_serializing_if = "Besides::is_empty")]
    pub(crate) beside: Besides,
    pub(crate) files: u64,
    pub(crate) skipped_files: u64,
    #[serde(serialize_with = "seconds")]
    pub(crate) seconds: Duration,
    pub(crate) write_units: u64,
    /// The runs under which slices that were set aside were sent again, with the name they were set aside by.
    #[serde(skip)]
    pub(crate) sent_again: Vec<(String, RunId)>,
}

/// What records say beside their verdicts: events of other meters, facts, and parts that could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Besides {
    pub(crate) counted: u64,
    pub(crate) duplicates: u64,
    pub(crate) dead_letters: BTreeMap<String, u64>,
}

impl Besides {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    // Milliseconds are all that a run of a program means.
    serializer.serialize_f64((time.as_secs_f64() * 1_000.0).round() / 1_000.0)
}

impl Balance {
    /// Adds another run's.
    pub(crate) fn add(&mut self, other: Self) {
        self.read += other.read;
        self.counted += other.counted;
        self.duplicates += other.duplicates;
        for (kind, count) in other.not_counted {
            *self.not_counted.entry(kind).or_default() += count;
        }
        for (reason, count) in other.dead_letters {
            *self.dead_letters.entry(reason).or_default() += count;
        }
        self.beside.counted += other.beside.counted;
        self.beside.duplicates += other.beside.duplicates;
        for (reason, count) in other.beside.dead_letters {
            *self.beside.dead_letters.entry(reason).or_default() += count;
        }
        self.files += other.files;
        self.skipped_files += other.skipped_files;
        self.seconds += other.seconds;
        self.write_units += other.write_units;
        self.sent_again.extend(other.sent_again);
    }

    /// Whether every record read became exactly one thing.
    pub(crate) fn balances(&self) -> bool {
        let not_counted: u64 = self.not_counted.values().sum();
        let dead_letters: u64 = self.dead_letters.values().sum();
        self.read == self.counted + self.duplicates + not_counted + dead_letters
    }
}

/// The files that paths name: files as they are, folders whole in order of name, globs expanded.
pub(crate) fn expand(paths: &[String]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if Path::new(path).exists() {
            add_files(Path::new(path), &mut files)?;
            continue;
        }
        let matches = glob::glob(path).with_context(|| format!("{path} is neither a path nor a glob"))?;
        let before = files.len();
        for found in matches {
            add_files(&found?, &mut files)?;
        }
        anyhow::ensure!(before < files.len(), "{path}: no such file, folder or match; check the path");
    }
    Ok(files)
}

fn add_files(path: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let cannot = || format!("cannot read {}", path.display());
    if !path.metadata().with_context(cannot)?.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let entries = path.read_dir().with_context(cannot)?;
    let mut inside = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    inside.sort();
    for path in inside {
        // A link to a folder may lead back to where it stands; what it names can be named itself.
        if path.is_dir() && path.is_symlink() {
            crate::print::note(&format!("securebase: {} is a link to a folder and not followed", path.display()));
        } else {
            add_files(&path, files)?;
        }
    }
    Ok(())
}

/// Something to read: where it is, and the delivered name it has.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// A file.
    File(PathBuf),
    /// An object in the store of what notices name.
    Named(NamedObject),
    /// Bytes kept elsewhere, such as a dead letter's, under the name of the object they are from.
    Kept { name: String, bytes: Vec<u8> },
    /// Slices that were set aside on their way, under the name they were set aside by.
    Slices { name: String, slices: Vec<Slice> },
}

impl Source {
    fn name(&self) -> String {
        match self {
            // Absolute, so that the same file is the same object from every working directory.
            Self::File(path) => path.canonicalize().unwrap_or_else(|_| path.clone()).to_string_lossy().into_owned(),
            Self::Named(object) => object.name(),
            Self::Kept { name, .. } | Self::Slices { name, .. } => name.clone(),
        }
    }

    /// When it was last written, if that is known.
    fn written_at(&self) -> Option<Timestamp> {
        match self {
            Self::File(path) => path.metadata().and_then(|found| found.modified()).ok().map(Timestamp::from),
            Self::Named(_) | Self::Kept { .. } | Self::Slices { .. } => None,
        }
    }

    fn size(&self) -> u64 {
        match self {
            Self::File(path) => path.metadata().map(|found| found.len()).unwrap_or_default(),
            Self::Kept { bytes, .. } => bytes.len() as u64,
            Self::Named(_) | Self::Slices { .. } => 0,
        }
    }

    fn open(&self) -> io::Result<Box<dyn io::Read + '_>> {
        Ok(match self {
            Self::File(path) => Box::new(File::open(path)?),
            Self::Kept { bytes, .. } => Box::new(bytes.as_slice()),
            Self::Named(_) | Self::Slices { .. } => Box::new(io::empty()),
        })
    }
}

/// The stores went away while they were in use.
#[derive(Debug, thiserror::Error)]
#[error("the process that owned the stores has gone; run the same command again with --resume")]
pub(crate) struct OwnerGone;

/// Reads sources into the counters.
pub(crate) struct Replay<'a> {
    pub(crate) stores: &'a Stores,
    /// Whether objects that are done are skipped.
    pub(crate) resume: bool,
    /// The rules to read by.
    pub(crate) reading: Reading,
}

impl Replay<'_> {
    /// Reads every source, and returns when all of it is acknowledged and rolled up.
    pub(crate) async fn run(&self, sources: Vec<Source>) -> anyhow::Result<Balance> {
        let started = edge::stopwatch();
        let mut progress = Progress::new(sources.len() as u64, sources.iter().map(Source::size).sum());
        let sources = Arc::new(sources);
        let next = Arc::new(AtomicUsize::new(0));
        let is_over = Arc::new(AtomicBool::new(false));
        let (messages, mut received) = mpsc::channel(MESSAGES_WAITING_MAX);
        let letters_room = Arc::new(Semaphore::new(LETTERS_WAITING_KIB_MAX as usize));
        let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(1, READERS_MAX);
        for _ in 0..threads {
            let reader = Reader {
                sources: sources.clone(),
                next: next.clone(),
                is_over: is_over.clone(),
                messages: messages.clone(),
                letters_room: letters_room.clone(),
                runtime: Handle::current(),
                reading: self.reading.clone(),
                done: self.resume.then(|| Done {
                    manifests: self.stores.manifests(),
                    acknowledgements: self.stores.acknowledgements(),
                    runtime: Handle::current(),
                }),
            };
            std::thread::spawn(move || reader.run());
        }
        drop(messages);

        let result = self.send(&mut received, &mut progress).await;
        // Readers that are still at it have nobody to tell any more.
        letters_room.close();
        drop(received);
        is_over.store(true, Ordering::Relaxed);
        let mut balance = result?;
        progress.finish();
        balance.seconds = started.elapsed();
        Ok(balance)
    }

    async fn send(
        &self,
        received: &mut mpsc::Receiver<anyhow::Result<Message>>,
        progress: &mut Progress,
    ) -> anyhow::Result<Balance> {
        let stream = self.stores.stream_writer();
        let (dead_letters, manifests) = (self.stores.dead_letters(), self.stores.manifests());
        let expectations = self.stores.expectations();
        let mut keeping = JoinSet::new();
        let mut waiting = Waiting::new(self.stores)?;
        let mut messages = Vec::new();
        loop {
            while let Some(kept) = keeping.try_join_next() {
                waiting.add_all(kept??, progress);
            }
            while EVENTS_ON_THEIR_WAY_MAX < waiting.events {
                if waiting.runs.is_empty() { waiting.look_again().await? } else { waiting.poll(progress).await? }
            }
            if received.recv_many(&mut messages, MESSAGES_TOGETHER_MAX).await == 0 {
                break;
            }
            let read = Read::sort(messages.drain(..))?;
            waiting.balance.skipped_files += read.skipped;
            waiting.go_through(read.through);
            // A manifest says that slices and dead letters are there, so it comes after them; it need not hold up the next.
            waiting.sent(&read.slices);
            stream.put(pack(read.slices)).await?;
            waiting.balance.write_units += dead_letters.put(&read.letters).await?;
            waiting.balance.write_units += expectations.put(&read.digests).await?;
            drop(read.letters_room);
            if KEEPING_AT_ONCE <= keeping.len()
                && let Some(kept) = keeping.join_next().await
            {
                waiting.add_all(kept??, progress);
            }
            keeping.spawn(keep(manifests.clone(), read.manifests));
        }
        while let Some(kept) = keeping.join_next().await {
            waiting.add_all(kept??, progress);
        }
        while !waiting.runs.is_empty() {
            waiting.poll(progress).await?;
        }
        rolled_up(&waiting.rows, &waiting.through).await?;
        Ok(waiting.balance)
    }
}

/// What a reader has for the sender, in order: slices and dead letters of an object before the object's end.
enum Message {
    Slices(Vec<Slice>),
    DeadLetters(Vec<DeadLetter>, OwnedSemaphorePermit),
    Digests(Vec<SeenDigest>),
    Read(Box<Manifest>),
    /// An earlier run has read it to the end; where its events are counted.
    Skipped(Vec<(Partition, u64)>),
}

struct Reader {
    sources: Arc<Vec<Source>>,
    next: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
    messages: mpsc::Sender<anyhow::Result<Message>>,
    letters_room: Arc<Semaphore>,
    runtime: Handle,
    reading: Reading,
    done: Option<Done>,
}

/// The receiver is gone: another part has failed and says so.
struct NobodyListens;

impl Reader {
    fn run(self) {
        while let Some(source) = self.sources.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            let outcome = self.read(source).with_context(|| format!("cannot read {}", source.name()));
            match outcome {
                Ok(Ok(())) => {}
                Ok(Err(NobodyListens)) => return,
                Err(error) => {
                    // Nobody listening means that another reader has failed first.
                    let _ = self.messages.blocking_send(Err(error));
                    return;
                }
            }
        }
    }

    fn send(&self, message: Message) -> Result<(), NobodyListens> {
        self.messages.blocking_send(Ok(message)).map_err(|_| NobodyListens)
    }

    /// Hands dead letters on, once there is room for their bytes.
    fn set_aside(&self, letters: Vec<DeadLetter>, bytes: usize) -> Result<(), NobodyListens> {
        if letters.is_empty() {
            return Ok(());
        }
        let kib = u32::try_from(bytes >> 10).unwrap_or(u32::MAX).min(LETTERS_WAITING_KIB_MAX);
        let room =
            self.runtime.block_on(self.letters_room.clone().acquire_many_owned(kib)).map_err(|_| NobodyListens)?;
        self.send(Message::DeadLetters(letters, room))
    }

    fn read(&self, source: &Source) -> anyhow::Result<Result<(), NobodyListens>> {
        let name = source.name();
        if let Source::Named(object) = source {
            return match self.read_named(object) {
                Ok(()) => Ok(Ok(())),
                Err(Stopped::NobodyListens) => Ok(Err(NobodyListens)),
                Err(Stopped::Closed(error)) => Err(error.into()),
                Err(Stopped::Failed(error)) => Err(error),
            };
        }
        if let Some(done) = &self.done {
            let sha256 = hash(source)?;
            if let Some(through) = done.counted_through(&ObjectVersion { name: name.clone(), sha256 })? {
                return Ok(self.send(Message::Skipped(through)));
            }
        }
        let started_at = edge::now();
        if let Source::Slices { slices, .. } = source {
            return Ok(self.send_again(edge::run_id(), name, slices, started_at));
        }
        let object = Object { name: &name, written_at: source.written_at(), signature: None, follows: true };
        match self.read_as(object, source.open()?) {
            Ok(()) => Ok(Ok(())),
            Err(Stopped::NobodyListens) => Ok(Err(NobodyListens)),
            Err(Stopped::Closed(error)) => Err(error.into()),
            Err(Stopped::Failed(error)) => Err(error),
        }
    }

    /// Fetches and reads an object that a notice names.
    fn read_named(&self, object: &NamedObject) -> Result<(), Stopped> {
        let Opened { body, signature, written_at } =
            self.reading.open(&self.runtime, object).map_err(Stopped::Closed)?;
        let name = object.name();
        self.read_as(Object { name: &name, written_at, signature, follows: false }, body)
    }

    /// Reads an object under a run of its own, and what it names under runs of theirs.
    fn read_as(&self, object: Object<'_>, stored: impl io::Read) -> Result<(), Stopped> {
        let Object { name, written_at, signature, follows } = object;
        let started_at = edge::now();
        let mut run = Run::new(edge::run_id(), name.to_owned(), signature, started_at);
        let delivered = Delivered { name, written_at };
        let read = read_object(delivered, stored, self.reading.rules(started_at), |judged: Judged<'_>| {
            run.take(judged, |named| match self.follow(follows, named) {
                Ok(()) => Ok(None),
                Err(Stopped::Closed(error)) => match error.reason() {
                    Some(reason) => Ok(Some(reason)),
                    None => Err(Stopped::Closed(error)),
                },
                Err(stopped) => Err(stopped),
            })?;
            let full = run.full_slices();
            if !full.is_empty() {
                self.send(Message::Slices(full))?;
            }
            if LETTER_BYTES_TOGETHER <= run.letter_bytes() {
                let bytes = run.letter_bytes();
                self.set_aside(run.letters(), bytes)?;
            }
            Ok(())
        });
        let found = match read {
            Ok(found) => found,
            Err(ReadError::Store(error)) => return Err(Stopped::Failed(error.into())),
            Err(ReadError::Sink(stopped)) => return Err(stopped),
        };
        let letter_bytes = run.letter_bytes();
        let RunEnd { slices, letters, digests, manifest } = run.end(found);
        self.send(Message::Slices(slices))?;
        self.set_aside(letters, letter_bytes)?;
        if !digests.is_empty() {
            self.send(Message::Digests(digests))?;
        }
        Ok(self.send(Message::Read(Box::new(manifest)))?)
    }

    /// Reads what a notice names. Notices inside objects that were fetched for a notice are not followed: they could name
    /// each other without end.
    fn follow(&self, follows: bool, named: &NamedObject) -> Result<(), Stopped> {
        if !follows {
            return Err(Stopped::Closed(OpenError::Missing));
        }
        self.read_named(named).map_err(|stopped| match stopped {
            Stopped::Failed(error) => Stopped::Failed(error.context(format!("cannot read {named}"))),
            stopped => stopped,
        })
    }
}

/// An object that is being read.
struct Object<'a> {
    name: &'a str,
    written_at: Option<Timestamp>,
    /// The signature that stands beside it.
    signature: Option<String>,
    /// Whether the objects that its notices name are read too.
    follows: bool,
}

/// Why a reading ended before its end.
enum Stopped {
    NobodyListens,
    /// The object cannot be opened.
    Closed(OpenError),
    Failed(anyhow::Error),
}

impl From<NobodyListens> for Stopped {
    fn from(NobodyListens: NobodyListens) -> Self {
        Self::NobodyListens
    }
}

impl Reader {
    /// Sends slices under a run of their own: to the counters they are what they were.
    fn send_again(
        &self,
        run: RunId,
        name: String,
        slices: &[Slice],
        started_at: Timestamp,
    ) -> Result<(), NobodyListens> {
        let events = slices.iter().map(|slice| slice.events() as u64).sum();
        let found = ObjectRead { read: events, ..ObjectRead::default() };
        let slices: Vec<Slice> =
            (0..).zip(slices).map(|(number, slice)| Slice { id: SliceId { run, number }, ..slice.clone() }).collect();
        let number = u32::try_from(slices.len()).unwrap_or(u32::MAX);
        let manifest = Manifest::new(run, name, found, number, &[], started_at);
        self.send(Message::Slices(slices))?;
        self.send(Message::Read(Box::new(manifest)))
    }
}

fn hash(source: &Source) -> anyhow::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut stored = source.open()?;
    let mut buffer = vec![0; 128 << 10];
    loop {
        match stored.read(&mut buffer)? {
            0 => return Ok(hash.finalize().into()),
            count => hash.update(&buffer[..count]),
        }
    }
}

/// Looks up which objects earlier runs have finished.
struct Done {
    manifests: Manifests,
    acknowledgements: Acknowledgements,
    runtime: Handle,
}

impl Done {
    /// Where an object's events are counted, if it is done: all slices of any one of its runs are acknowledged.
    fn counted_through(&self, object: &ObjectVersion) -> anyhow::Result<Option<Vec<(Partition, u64)>>> {
        self.runtime.block_on(async {
            for manifest in self.manifests.of_object(object).await? {
                // Whether what a notice names is done is not known from the notice.
                if manifest.not_counted.contains_key(&NotCounted::ObjectNotice) {
                    continue;
                }
                let acknowledged = self.acknowledgements.of_run(manifest.run).await?;
                if is_acknowledged(&manifest, &acknowledged) {
                    return Ok(Some(acknowledged.slices.into_values().flat_map(|slice| slice.through).collect()));
                }
            }
            Ok(None)
        })
    }
}

/// Whether a name is what slices were set aside by, alone or in a record of the stream. Objects have paths and addresses.
fn is_of_slices(name: &str) -> bool {
    SliceId::of_letter_name(name).is_some() || name.starts_with("stream:")
}

/// Whether all slices of a run are.
pub(crate) fn is_acknowledged(manifest: &Manifest, acknowledged: &RunAcknowledged) -> bool {
    (0..manifest.slices).all(|number| acknowledged.slices.contains_key(&number))
}

/// What the readers had, by where it goes.
#[derive(Default)]
struct Read {
    slices: Vec<Slice>,
    letters: Vec<DeadLetter>,
    letters_room: Vec<OwnedSemaphorePermit>,
    digests: Vec<SeenDigest>,
    manifests: Vec<Manifest>,
    skipped: u64,
    /// Where the skipped ones are counted.
    through: Vec<(Partition, u64)>,
}

impl Read {
    fn sort(messages: impl Iterator<Item = anyhow::Result<Message>>) -> anyhow::Result<Self> {
        let mut read = Self::default();
        for message in messages {
            match message? {
                Message::Slices(slices) => read.slices.extend(slices),
                Message::DeadLetters(letters, room) => {
                    read.letters.extend(letters);
                    read.letters_room.push(room);
                }
                Message::Digests(digests) => read.digests.extend(digests),
                Message::Read(manifest) => read.manifests.push(*manifest),
                Message::Skipped(through) => {
                    read.skipped += 1;
                    read.through.extend(through);
                }
            }
        }
        Ok(read)
    }
}

/// Writes manifests; returns them and the write units.
async fn keep(store: Manifests, manifests: Vec<Manifest>) -> anyhow::Result<(Vec<Manifest>, u64)> {
    let units = store.put(&manifests).await?;
    Ok((manifests, units))
}

/// Runs that are not acknowledged yet, and what the others came to.
struct Waiting {
    acknowledgements: Acknowledgements,
    rows: UsageRows,
    runs: VecDeque<Manifest>,
    /// Events sent and not known to be acknowledged.
    events: u64,
    /// Events sent, by run; an object's run is here before its manifest is.
    on_their_way: HashMap<RunId, u64>,
    /// Of those, the events that are known to be acknowledged.
    acknowledged: HashMap<RunId, u64>,
    balance: Balance,
    through: BTreeMap<Partition, u64>,
}

impl Waiting {
    fn new(stores: &Stores) -> anyhow::Result<Self> {
        Ok(Self {
            acknowledgements: stores.acknowledgements(),
            rows: UsageRows::new(stores.database.pool(Role::Aggregator)?),
            runs: VecDeque::new(),
            events: 0,
            on_their_way: HashMap::new(),
            acknowledged: HashMap::new(),
            balance: Balance::default(),
            through: BTreeMap::new(),
        })
    }

    fn sent(&mut self, slices: &[Slice]) {
        for slice in slices {
            let events = slice.events() as u64;
            *self.on_their_way.entry(slice.id.run).or_default() += events;
            self.events += events;
        }
    }

    /// Looks how far the objects are that are still being read, and gives counting time. At most one a reader.
    async fn look_again(&mut self) -> anyhow::Result<()> {
        tokio::time::sleep(POLL).await;
        let runs: Vec<RunId> = self.on_their_way.keys().copied().collect();
        for run in runs {
            let acknowledged = self.acknowledgements.of_run(run).await?;
            let events = |slice: &Acknowledgement| slice.tally.counted + slice.tally.duplicates + slice.parked;
            let done = acknowledged.slices.values().map(events).sum();
            self.is_done(run, done);
        }
        Ok(())
    }

    /// So many events of a run are acknowledged in all.
    fn is_done(&mut self, run: RunId, acknowledged: u64) {
        let before = self.acknowledged.entry(run).or_default();
        self.events -= acknowledged - *before;
        *before = acknowledged;
    }

    fn add_all(&mut self, (manifests, units): (Vec<Manifest>, u64), progress: &mut Progress) {
        self.balance.write_units += units;
        for manifest in manifests {
            progress.object(manifest.stored_bytes, manifest.read);
            self.add(manifest);
        }
    }

    fn add(&mut self, manifest: Manifest) {
        let balance = &mut self.balance;
        balance.files += 1;
        balance.read += manifest.read;
        for (kind, count) in &manifest.not_counted {
            *balance.not_counted.entry(kind.to_string()).or_default() += count;
        }
        for (reason, count) in &manifest.dead_letters {
            *balance.dead_letters.entry(reason.to_string()).or_default() += count;
        }
        for (reason, count) in &manifest.beside_dead_letters {
            *balance.beside.dead_letters.entry(reason.to_string()).or_default() += count;
        }
        if 0 < manifest.slices {
            self.runs.push_back(manifest);
        }
    }

    /// Looks at the runs that have waited longest; waits a little when none of them is done.
    async fn poll(&mut self, progress: &Progress) -> anyhow::Result<()> {
        progress.waiting(self.runs.len());
        let looked_at: Vec<Manifest> = self.runs.drain(..self.runs.len().min(LOOK_UPS_AT_ONCE)).collect();
        let acknowledgements = &self.acknowledgements;
        let found: Vec<(Manifest, RunAcknowledged)> = stream::iter(looked_at)
            .map(|manifest| async move {
                let acknowledged = acknowledgements.of_run(manifest.run).await?;
                anyhow::Ok((manifest, acknowledged))
            })
            .buffered(LOOK_UPS_AT_ONCE)
            .try_collect()
            .await?;
        let mut is_any_done = false;
        for (manifest, acknowledged) in found.into_iter().rev() {
            if is_acknowledged(&manifest, &acknowledged) {
                is_any_done = true;
                self.take(&manifest, acknowledged);
            } else {
                self.runs.push_front(manifest);
            }
        }
        if !is_any_done {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    fn take(&mut self, manifest: &Manifest, acknowledged: RunAcknowledged) {
        if is_of_slices(&manifest.object.name) {
            self.balance.sent_again.push((manifest.object.name.clone(), manifest.run));
        }
        let sent = self.on_their_way.remove(&manifest.run).unwrap_or_default();
        let before = self.acknowledged.remove(&manifest.run).unwrap_or_default();
        self.events -= sent - before;
        self.balance.write_units += acknowledged.units;
        for (number, slice) in acknowledged.slices {
            let balance = &mut self.balance;
            let (counted, duplicates, dead_letters) = if manifest.beside_slices.contains(&number) {
                let Besides { counted, duplicates, dead_letters } = &mut balance.beside;
                (counted, duplicates, dead_letters)
            } else {
                (&mut balance.counted, &mut balance.duplicates, &mut balance.dead_letters)
            };
            *counted += slice.tally.counted;
            *duplicates += slice.tally.duplicates;
            if 0 < slice.parked {
                *dead_letters.entry(Reason::PartitionUntrusted.to_string()).or_default() += slice.parked;
            }
            // Facts beside an event, or beside another fact, are in their record's own slice.
            balance.beside.counted += slice.tally.beside.stated;
            balance.beside.duplicates += slice.tally.beside.known;
            balance.write_units += slice.units;
            self.go_through(slice.through);
        }
    }

    /// Usage rows must hold these before the replay ends.
    fn go_through(&mut self, through: Vec<(Partition, u64)>) {
        for (partition, version) in through {
            let highest = self.through.entry(partition).or_default();
            *highest = version.max(*highest);
        }
    }
}

/// Waits until usage rows hold these partitions up to these versions; gives up when nothing moves any more.
pub(crate) async fn rolled_up(rows: &UsageRows, through: &BTreeMap<Partition, u64>) -> anyhow::Result<()> {
    let mut behind: BTreeMap<String, u64> =
        through.iter().map(|(partition, version)| (partition.to_string(), *version)).collect();
    let mut moved = edge::stopwatch();
    loop {
        let names: Vec<String> = behind.keys().cloned().collect();
        let cursors = rows.cursors(&names).await?;
        behind.retain(|name, version| cursors.get(name).copied().unwrap_or_default() < *version);
        if behind.is_empty() {
            return Ok(());
        }
        if behind.len() < names.len() {
            moved = edge::stopwatch();
        }
        anyhow::ensure!(
            moved.elapsed() < ROLL_UP_PATIENCE,
            "{} partitions are counted but not rolled up, {} among them: look at what the process that owns the stores says",
            behind.len(),
            names[0]
        );
        tokio::time::sleep(POLL).await;
    }
}
