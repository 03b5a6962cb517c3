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
use ingest::dead_letter::{DeadLetter, DeadLetters};
use ingest::kinesis::pack;
use ingest::manifest::{Manifest, Manifests, ObjectVersion};
use ingest::{Judged, ObjectRead, Packer, ReadError, RunId, Slice, SliceId, Timestamp, Verdict, read_object};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::edge;
use crate::print::Progress;
use crate::stores::{Role, Stores};

/// Threads that read and judge; judging is what takes the time.
const READERS_MAX: usize = 8;
/// Messages that may wait between the readers and the sender.
const MESSAGES_WAITING_MAX: usize = 256;
/// Messages sent together.
const MESSAGES_TOGETHER_MAX: usize = 128;
/// Batches of manifests being written while the next slices leave.
const KEEPING_AT_ONCE: usize = 4;
/// Dead letters of an object that are held before they leave.
const DEAD_LETTERS_TOGETHER_MAX: usize = 64;
/// Events on their way before reading waits for counting: bounds the stream's memory.
const EVENTS_ON_THEIR_WAY_MAX: u64 = 1_000_000;
/// Runs looked up at once.
const LOOK_UPS_AT_ONCE: usize = 16;
const POLL: Duration = Duration::from_millis(50);

/// One line that balances: what was read, and what became of it.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Balance {
    pub(crate) read: u64,
    pub(crate) counted: u64,
    pub(crate) duplicates: u64,
    pub(crate) not_counted: BTreeMap<String, u64>,
    pub(crate) dead_letters: BTreeMap<String, u64>,
    pub(crate) files: u64,
    pub(crate) skipped_files: u64,
    #[serde(serialize_with = "seconds")]
    pub(crate) seconds: Duration,
    pub(crate) write_units: u64,
}

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    // Milliseconds are all that a run of a program means.
    serializer.serialize_f64((time.as_secs_f64() * 1_000.0).round() / 1_000.0)
}

impl Balance {
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
        anyhow::ensure!(before < files.len(), "{path}: no such file, folder or match");
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
            Self::Kept { name, .. } | Self::Slices { name, .. } => name.clone(),
        }
    }

    fn size(&self) -> u64 {
        match self {
            Self::File(path) => path.metadata().map(|found| found.len()).unwrap_or_default(),
            Self::Kept { bytes, .. } => bytes.len() as u64,
            Self::Slices { .. } => 0,
        }
    }

    fn open(&self) -> io::Result<Box<dyn io::Read + '_>> {
        Ok(match self {
            Self::File(path) => Box::new(File::open(path)?),
            Self::Kept { bytes, .. } => Box::new(bytes.as_slice()),
            Self::Slices { .. } => Box::new(io::empty()),
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
        let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(1, READERS_MAX);
        for _ in 0..threads {
            let reader = Reader {
                sources: sources.clone(),
                next: next.clone(),
                is_over: is_over.clone(),
                messages: messages.clone(),
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
        let records = RecordKeeper { dead_letters: self.stores.dead_letters(), manifests: self.stores.manifests() };
        let mut keeping = JoinSet::new();
        let mut waiting = Waiting::new(self.stores)?;
        let mut messages = Vec::new();
        loop {
            while let Some(kept) = keeping.try_join_next() {
                waiting.add_all(kept??, progress);
            }
            while EVENTS_ON_THEIR_WAY_MAX < waiting.on_their_way() {
                waiting.look_again().await?;
            }
            if received.recv_many(&mut messages, MESSAGES_TOGETHER_MAX).await == 0 {
                break;
            }
            let read = Read::sort(messages.drain(..))?;
            waiting.balance.skipped_files += read.skipped;
            // A manifest says that the slices are on the stream, so they go first; the rest need not hold up the next.
            waiting.sent(&read.slices);
            stream.put(pack(read.slices)).await?;
            if KEEPING_AT_ONCE <= keeping.len()
                && let Some(kept) = keeping.join_next().await
            {
                waiting.add_all(kept??, progress);
            }
            keeping.spawn(records.clone().keep(read.letters, read.manifests));
        }
        while let Some(kept) = keeping.join_next().await {
            waiting.add_all(kept??, progress);
        }
        while !waiting.runs.is_empty() {
            waiting.poll(progress).await?;
        }
        waiting.rolled_up().await?;
        Ok(waiting.balance)
    }
}

/// What a reader has for the sender, in order: slices and dead letters of an object before the object's end.
enum Message {
    Slices(Vec<Slice>),
    DeadLetters(Vec<DeadLetter>),
    Read(Box<Manifest>),
    Skipped,
}

struct Reader {
    sources: Arc<Vec<Source>>,
    next: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
    messages: mpsc::Sender<anyhow::Result<Message>>,
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

    fn read(&self, source: &Source) -> anyhow::Result<Result<(), NobodyListens>> {
        let name = source.name();
        if let Some(done) = &self.done {
            let sha256 = hash(source)?;
            if done.is_done(&ObjectVersion { name: name.clone(), sha256 })? {
                return Ok(self.send(Message::Skipped));
            }
        }
        let started_at = edge::now();
        let run = edge::run_id();
        if let Source::Slices { slices, .. } = source {
            return Ok(self.send_again(run, name, slices, started_at));
        }
        let mut packer = Packer::new(run);
        let mut slices = Vec::new();
        let mut letters = Vec::new();
        let read = read_object(&name, source.open()?, started_at, |judged: Judged<'_>| {
            match judged.verdict {
                Verdict::Usage(event) => packer.add(event, &mut slices),
                Verdict::NotCounted(_) => {}
                Verdict::DeadLetter(reason) => letters.push(DeadLetter {
                    object: name.clone(),
                    offset: judged.offset,
                    reason,
                    bytes: judged.bytes.to_vec(),
                    is_whole: judged.is_whole,
                    seen_at: started_at,
                    resolved_at: None,
                }),
            }
            if !slices.is_empty() {
                self.send(Message::Slices(std::mem::take(&mut slices)))?;
            }
            if DEAD_LETTERS_TOGETHER_MAX <= letters.len() {
                self.send(Message::DeadLetters(std::mem::take(&mut letters)))?;
            }
            Ok(())
        });
        let found = match read {
            Ok(found) => found,
            Err(ReadError::Store(error)) => return Err(error.into()),
            Err(ReadError::Sink(gone)) => return Ok(Err(gone)),
        };
        slices.extend(packer.flush());
        let manifest = Manifest::new(run, name, found, packer.slices(), started_at);
        Ok(self
            .send(Message::Slices(slices))
            .and_then(|()| self.send(Message::DeadLetters(letters)))
            .and_then(|()| self.send(Message::Read(Box::new(manifest)))))
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
        let manifest = Manifest::new(run, name, found, u32::try_from(slices.len()).unwrap_or(u32::MAX), started_at);
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
    /// An object is done when all slices of any one of its runs are acknowledged.
    fn is_done(&self, object: &ObjectVersion) -> anyhow::Result<bool> {
        self.runtime.block_on(async {
            for manifest in self.manifests.of_object(object).await? {
                let acknowledged = self.acknowledgements.of_run(manifest.run).await?;
                if is_acknowledged(&manifest, &acknowledged) {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }
}

fn is_acknowledged(manifest: &Manifest, acknowledged: &RunAcknowledged) -> bool {
    (0..manifest.slices).all(|number| acknowledged.slices.contains_key(&number))
}

/// What the readers had, by where it goes.
#[derive(Default)]
struct Read {
    slices: Vec<Slice>,
    letters: Vec<DeadLetter>,
    manifests: Vec<Manifest>,
    skipped: u64,
}

impl Read {
    fn sort(messages: impl Iterator<Item = anyhow::Result<Message>>) -> anyhow::Result<Self> {
        let mut read = Self::default();
        for message in messages {
            match message? {
                Message::Slices(slices) => read.slices.extend(slices),
                Message::DeadLetters(letters) => read.letters.extend(letters),
                Message::Read(manifest) => read.manifests.push(*manifest),
                Message::Skipped => read.skipped += 1,
            }
        }
        Ok(read)
    }
}

/// Keeps what was set aside, and then what was read.
#[derive(Clone)]
struct RecordKeeper {
    dead_letters: DeadLetters,
    manifests: Manifests,
}

impl RecordKeeper {
    /// Returns the manifests and the write units.
    async fn keep(self, letters: Vec<DeadLetter>, manifests: Vec<Manifest>) -> anyhow::Result<(Vec<Manifest>, u64)> {
        let units = self.dead_letters.put(&letters).await? + self.manifests.put(&manifests).await?;
        Ok((manifests, units))
    }
}

#[derive(Default)]
struct OnTheirWay {
    sent: u64,
    acknowledged: u64,
}

/// Runs that are not acknowledged yet, and what the others came to.
struct Waiting {
    acknowledgements: Acknowledgements,
    rows: UsageRows,
    runs: VecDeque<Manifest>,
    /// Events sent and not known to be acknowledged, by run; an object's run is here before its manifest is.
    on_their_way: HashMap<RunId, OnTheirWay>,
    balance: Balance,
    through: BTreeMap<Partition, u64>,
}

impl Waiting {
    fn new(stores: &Stores) -> anyhow::Result<Self> {
        Ok(Self {
            acknowledgements: stores.acknowledgements(),
            rows: UsageRows::new(stores.database.pool(Role::Aggregator)?),
            runs: VecDeque::new(),
            on_their_way: HashMap::new(),
            balance: Balance::default(),
            through: BTreeMap::new(),
        })
    }

    fn sent(&mut self, slices: &[Slice]) {
        for slice in slices {
            self.on_their_way.entry(slice.id.run).or_default().sent += slice.events() as u64;
        }
    }

    fn on_their_way(&self) -> u64 {
        self.on_their_way.values().map(|run| run.sent.saturating_sub(run.acknowledged)).sum()
    }

    /// Looks how far the runs with the most events on their way are, and gives counting time.
    async fn look_again(&mut self) -> anyhow::Result<()> {
        tokio::time::sleep(POLL).await;
        let mut runs: Vec<_> =
            self.on_their_way.iter().map(|(run, way)| (way.sent.saturating_sub(way.acknowledged), *run)).collect();
        runs.sort_unstable_by(|a, b| b.cmp(a));
        for (_, run) in runs.into_iter().take(LOOK_UPS_AT_ONCE) {
            let acknowledged = self.acknowledgements.of_run(run).await?;
            let events = |slice: &Acknowledgement| slice.tally.counted + slice.tally.duplicates + slice.parked;
            self.on_their_way.entry(run).or_default().acknowledged = acknowledged.slices.values().map(events).sum();
        }
        Ok(())
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
        self.on_their_way.remove(&manifest.run);
        self.balance.write_units += acknowledged.units;
        for slice in acknowledged.slices.into_values() {
            self.balance.counted += slice.tally.counted;
            self.balance.duplicates += slice.tally.duplicates;
            self.balance.write_units += slice.units;
            if 0 < slice.parked {
                let parked = ingest::Reason::PartitionUntrusted.to_string();
                *self.balance.dead_letters.entry(parked).or_default() += slice.parked;
            }
            for (partition, version) in slice.through {
                let highest = self.through.entry(partition).or_default();
                *highest = version.max(*highest);
            }
        }
    }

    /// Waits until usage rows hold everything that was acknowledged.
    async fn rolled_up(&self) -> anyhow::Result<()> {
        let mut behind: BTreeMap<String, u64> =
            self.through.iter().map(|(partition, version)| (partition.to_string(), *version)).collect();
        loop {
            let names: Vec<String> = behind.keys().cloned().collect();
            let cursors = self.rows.cursors(&names).await?;
            behind.retain(|name, version| cursors.get(name).copied().unwrap_or_default() < *version);
            if behind.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }
}
