//! One directory with all local state, and which process owns its stores.
//!
//! Several commands may be given the same home at once. One of them owns the stores: it starts the servers and writes
//! where they are. The others are its clients. When the owner goes, the next command becomes the owner.
//!
//! Three files carry this; every lock is one of the kernel's, which goes with its process however that ends:
//!
//! | file | locked | by | means |
//! |---|---|---|---|
//! | `owner.lock` | exclusively | the owner, from before it opens a store until after it closed the last | it owns the stores |
//! | `endpoints.json` | exclusively | the owner, from before the file gets its name | what the file says holds now |
//! | `clients.lock` | shared | a client, for as long as it uses the stores | do not close them yet |
//! | `clients.lock` | exclusively | the owner, while it closes them | no client is left, none may come |
//!
//! Invariant: a client that holds its shared lock and has then found `endpoints.json` locked does not lose its stores to the
//! owner's normal exit. The owner ends only once it has the clients' lock for itself, and then keeps it as long as it lives.
//!
//! Invariant: the contents of `endpoints.json` are never judged by process number or age. A file whose writer died is free,
//! and so stale; a file that is locked has a living writer.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// An owner's first start may install PostgreSQL; a normal one takes a second.
pub(crate) const OWNER_READY_SECONDS_MAX: u64 = 180;
const POLL: Duration = Duration::from_millis(25);

const OWNER_LOCK: &str = "owner.lock";
const CLIENTS_LOCK: &str = "clients.lock";
const ENDPOINTS: &str = "endpoints.json";
const ENDPOINTS_UNFINISHED: &str = "endpoints.json.new";

/// The directory named by `--home`.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    path: PathBuf,
}

/// Where the owner's servers answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Endpoints {
    /// The owner's process, for messages only.
    pub(crate) pid: u32,
    /// `http://HOST:PORT` of Kinesis.
    pub(crate) kinesis: String,
    /// `http://HOST:PORT` of DynamoDB.
    pub(crate) dynamodb: String,
    /// `HOST:PORT` of PostgreSQL.
    pub(crate) postgres: String,
    /// `http://HOST:PORT` of the API, while the owner serves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) api: Option<String>,
}

/// What this process is to the home's stores.
#[derive(Debug)]
pub(crate) enum Membership {
    /// Nobody had them: this process starts them.
    Owner(OwnerGuard),
    /// Another process runs them, for at least as long as this value lives.
    Client(ClientGuard),
}

/// The right to open the home's stores. Dropped, another process may open them: close them first.
#[derive(Debug)]
pub(crate) struct OwnerGuard {
    directory: PathBuf,
    published: Option<File>,
    clients: File,
    _owner: File,
}

/// The use of another process's stores, which stay up while this lives unless that process is killed.
#[derive(Debug)]
pub(crate) struct ClientGuard {
    endpoints: Endpoints,
    _clients: File,
}

/// The home cannot be used; each is a stop, and says what to do.
#[derive(Debug, Error)]
pub(crate) enum HomeError {
    /// A file stands where the directory should be.
    #[error("{} is not a directory: name another with --home", path.display())]
    NotADirectory {
        /// What stands there.
        path: PathBuf,
    },
    /// This user may not write there.
    #[error("cannot write to {}: {source}; make it writable for this user, or name another home with --home", path.display())]
    NotWritable {
        /// What cannot be written.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file system is full.
    #[error("no space left in {}: free some, or name another home with --home", path.display())]
    DiskFull {
        /// The home.
        path: PathBuf,
    },
    /// The file system keeps no locks.
    #[error("{} is on a file system without file locks: name a home on a local disk with --home", path.display())]
    NoLocks {
        /// The home.
        path: PathBuf,
    },
    /// The owner's file was written by another version of this program.
    #[error("{} is in use by process {pid}, another version of this program: stop it first", path.display())]
    OtherVersion {
        /// The home.
        path: PathBuf,
        /// The owner's process, or `unknown`.
        pid: String,
    },
    /// The owner neither published its stores nor gave them up in time.
    #[error(
        "process {pid} owns the stores in {} and was not ready for others after {seconds} s: wait for it, or stop it",
        path.display()
    )]
    OwnerNotReady {
        /// The home.
        path: PathBuf,
        /// The owner's process, or `unknown`.
        pid: String,
        /// How long was waited.
        seconds: u64,
    },
    /// A file operation failed otherwise.
    #[error("cannot use {}: {source}; put that right, or name another home with --home", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Home {
    /// Uses this directory, and makes it if need be.
    ///
    /// A home that root makes is searchable by others: PostgreSQL then runs as another user, who must reach its own
    /// directory below. Each store sees to the protection of its own files.
    pub(crate) fn open(path: &Path) -> Result<Self, HomeError> {
        let mode = if nix::unistd::geteuid().is_root() { 0o711 } else { 0o700 };
        DirBuilder::new().recursive(true).mode(mode).create(path).map_err(|error| file_error(path, error))?;
        // Absolute, so that a later change of the working directory changes nothing.
        let path = fs::canonicalize(path).map_err(|error| file_error(path, error))?;
        if !path.is_dir() {
            return Err(HomeError::NotADirectory { path });
        }
        Ok(Self { path })
    }

    /// The directory, absolute.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Owns the stores, or uses those of the process that does; waits for one that is starting or ending.
    ///
    /// Blocks: from async code call it on a thread that may wait.
    pub(crate) fn join(&self) -> Result<Membership, HomeError> {
        self.join_within(Duration::from_secs(OWNER_READY_SECONDS_MAX))
    }

    /// [`Home::join`] with another longest wait.
    pub(crate) fn join_within(&self, longest: Duration) -> Result<Membership, HomeError> {
        let waiting_since = now();
        let mut owner = self.open_lock(OWNER_LOCK)?;
        loop {
            if self.locked(owner.try_lock(), OWNER_LOCK)? {
                return self.become_owner(owner).map(Membership::Owner);
            }
            if let Some(client) = self.become_client(&mut owner)? {
                return Ok(Membership::Client(client));
            }
            if longest <= waiting_since.elapsed() {
                let (path, pid) = (self.path.clone(), written_pid(&mut owner));
                return Err(HomeError::OwnerNotReady { path, pid, seconds: longest.as_secs() });
            }
            thread::sleep(POLL);
        }
    }

    fn become_owner(&self, mut owner: File) -> Result<OwnerGuard, HomeError> {
        let path = self.path.join(OWNER_LOCK);
        owner
            .set_len(0)
            .and_then(|()| owner.rewind())
            .and_then(|()| writeln!(owner, "{}", std::process::id()))
            .map_err(|error| file_error(&path, error))?;
        let clients = self.open_lock(CLIENTS_LOCK)?;
        let guard = OwnerGuard { directory: self.path.clone(), published: None, clients, _owner: owner };
        // What a killed owner left; nobody trusts it, so this is only for tidiness.
        guard.remove_endpoints()?;
        Ok(guard)
    }

    /// `None` while the owner's stores are not there to be used.
    fn become_client(&self, owner: &mut File) -> Result<Option<ClientGuard>, HomeError> {
        let clients = self.open_lock(CLIENTS_LOCK)?;
        if !self.locked(clients.try_lock_shared(), CLIENTS_LOCK)? {
            return Ok(None);
        }
        let path = self.path.join(ENDPOINTS);
        let mut published = match File::open(&path) {
            Ok(published) => published,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(file_error(&path, error)),
        };
        if self.locked(published.try_lock_shared(), ENDPOINTS)? {
            return Ok(None);
        }
        let mut text = String::new();
        published.read_to_string(&mut text).map_err(|error| file_error(&path, error))?;
        match serde_json::from_str(&text) {
            Ok(endpoints) => Ok(Some(ClientGuard { endpoints, _clients: clients })),
            Err(_) => Err(HomeError::OtherVersion { path: self.path.clone(), pid: written_pid(owner) }),
        }
    }

    fn open_lock(&self, name: &str) -> Result<File, HomeError> {
        let path = self.path.join(name);
        let opened = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        opened.map_err(|error| file_error(&path, error))
    }

    /// Whether the lock was free and is now ours.
    fn locked(&self, attempt: Result<(), TryLockError>, name: &str) -> Result<bool, HomeError> {
        match attempt {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(lock_error(&self.path, name, error)),
        }
    }
}

impl OwnerGuard {
    /// Lets clients in. Called again, it replaces what they are told.
    pub(crate) fn publish(&mut self, endpoints: &Endpoints) -> Result<(), HomeError> {
        let path = self.directory.join(ENDPOINTS_UNFINISHED);
        let mut text = serde_json::to_string_pretty(endpoints).expect("strings and numbers are always JSON");
        text.push('\n');
        // A new file each time: a lock belongs to the file, not to its name.
        let removed = fs::remove_file(&path).or_else(|error| match error.kind() {
            ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        });
        let written = removed.and_then(|()| {
            let mut file = OpenOptions::new().create_new(true).write(true).open(&path)?;
            file.lock()?;
            file.write_all(text.as_bytes())?;
            fs::rename(&path, self.directory.join(ENDPOINTS))?;
            Ok(file)
        });
        // The predecessor is freed only after it has lost its name.
        self.published = Some(written.map_err(|error| file_error(&path, error))?);
        Ok(())
    }

    /// Ends the ownership if no client is left: says whether that is so. If not, others may still join, and it may be
    /// called again. After it, the stores may be closed and the guard dropped.
    pub(crate) fn try_retire(&mut self) -> Result<bool, HomeError> {
        match self.clients.try_lock() {
            // Until this process ends nobody gets that lock, so nobody who finds the file in between can use it.
            Ok(()) => self.unpublish().map(|()| true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(lock_error(&self.directory, CLIENTS_LOCK, error)),
        }
    }

    /// Takes the file away before its lock, so that nobody finds it free.
    fn unpublish(&mut self) -> Result<(), HomeError> {
        self.remove_endpoints()?;
        self.published = None;
        Ok(())
    }

    fn remove_endpoints(&self) -> Result<(), HomeError> {
        let path = self.directory.join(ENDPOINTS);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(file_error(&path, error)),
            _ => Ok(()),
        }
    }
}

impl ClientGuard {
    /// Where the stores are.
    pub(crate) fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }
}

#[expect(clippy::disallowed_methods, reason = "how long another process may take is measured by the clock")]
fn now() -> Instant {
    Instant::now()
}

/// The process that wrote its number into a lock file; for messages.
fn written_pid(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
    if read.is_ok() && !text.trim().is_empty() { text.trim().to_owned() } else { "unknown".to_owned() }
}

fn lock_error(home: &Path, name: &str, source: io::Error) -> HomeError {
    match source.kind() {
        ErrorKind::Unsupported => HomeError::NoLocks { path: home.to_owned() },
        _ => file_error(&home.join(name), source),
    }
}

fn file_error(path: &Path, source: io::Error) -> HomeError {
    let path = path.to_owned();
    match source.kind() {
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => HomeError::NotADirectory { path },
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => HomeError::NotWritable { path, source },
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => HomeError::DiskFull { path },
        _ => HomeError::File { path, source },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    // Locks belong to an open file, not to a process, so threads that each open their own meet like processes.

    const SOON: Duration = Duration::from_millis(60);

    fn endpoints(n: u16) -> Endpoints {
        Endpoints {
            pid: std::process::id(),
            kinesis: format!("http://127.0.0.1:{n}"),
            dynamodb: format!("http://127.0.0.1:{n}"),
            postgres: format!("127.0.0.1:{n}"),
            api: None,
        }
    }

    fn owner(home: &Home) -> OwnerGuard {
        match home.join_within(SOON).unwrap() {
            Membership::Owner(guard) => guard,
            Membership::Client(_) => panic!("somebody else owns the home"),
        }
    }

    fn client(home: &Home) -> ClientGuard {
        match home.join_within(SOON).unwrap() {
            Membership::Client(guard) => guard,
            Membership::Owner(_) => panic!("nobody owned the home"),
        }
    }

    /// Retires as the program does: again and again until no client is left.
    fn retire(guard: &mut OwnerGuard) {
        while !guard.try_retire().unwrap() {
            thread::yield_now();
        }
    }

    fn refusal(home: &Home) -> HomeError {
        home.join_within(SOON).map(|_| ()).unwrap_err()
    }

    #[test]
    fn the_first_owns_and_the_next_are_told_where_the_stores_are() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::open(&directory.path().join("a/b")).unwrap();
        let mut first = owner(&home);
        first.publish(&endpoints(1)).unwrap();
        assert_eq!(client(&home).endpoints(), &endpoints(1));
        first.publish(&Endpoints { api: Some("http://127.0.0.1:8080".into()), ..endpoints(1) }).unwrap();
        assert_eq!(client(&home).endpoints().api.as_deref(), Some("http://127.0.0.1:8080"));
        drop(first);
        owner(&home);
    }

    #[test]
    fn an_owner_that_has_published_nothing_is_waited_for_and_then_named() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::open(directory.path()).unwrap();
        let mut first = owner(&home);
        let refused = refusal(&home);
        let us = std::process::id().to_string();
        assert!(matches!(&refused, HomeError::OwnerNotReady { pid, .. } if *pid == us), "{refused}");
        thread::scope(|scope| {
            let waiting = scope.spawn(|| home.join_within(Duration::from_secs(20)));
            first.publish(&endpoints(1)).unwrap();
            assert!(matches!(waiting.join().unwrap(), Ok(Membership::Client(_))));
        });
    }

    #[test]
    fn what_a_killed_owner_left_is_never_used() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::open(directory.path()).unwrap();
        let mut killed = owner(&home);
        killed.publish(&endpoints(1)).unwrap();
        drop(killed);
        assert!(home.path().join(ENDPOINTS).exists(), "a guard dropped without retiring leaves what a kill leaves");
        // The next owner has the lock, and has not come to anything else yet.
        let next = home.open_lock(OWNER_LOCK).unwrap();
        next.lock().unwrap();
        assert!(matches!(refusal(&home), HomeError::OwnerNotReady { .. }));
        drop(next);
        let mut next = owner(&home);
        assert!(matches!(refusal(&home), HomeError::OwnerNotReady { .. }));
        next.publish(&endpoints(2)).unwrap();
        assert_eq!(client(&home).endpoints(), &endpoints(2));
    }

    #[test]
    fn an_owner_does_not_end_while_a_client_works_and_lets_others_join_until_then() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::open(directory.path()).unwrap();
        let mut first = owner(&home);
        first.publish(&endpoints(1)).unwrap();
        let working = client(&home);
        assert!(!first.try_retire().unwrap(), "a client is still at work");
        let another = client(&home);
        drop(working);
        assert!(!first.try_retire().unwrap(), "another is");
        drop(another);
        assert!(first.try_retire().unwrap());
        assert!(matches!(refusal(&home), HomeError::OwnerNotReady { .. }), "no new client while the stores close");
        thread::scope(|scope| {
            let next = scope.spawn(|| home.join_within(Duration::from_secs(20)));
            drop(first);
            assert!(matches!(next.join().unwrap(), Ok(Membership::Owner(_))), "who waited takes over");
        });
    }

    #[test]
    fn many_at_once_never_have_two_owners_and_no_client_outlives_its_stores() {
        const COMMANDS: usize = 8;
        const TURNS: usize = 25;
        let directory = tempfile::tempdir().unwrap();
        let (owners, turn) = (AtomicUsize::new(0), AtomicUsize::new(1));
        // The turn whose stores are up; 0 while none are.
        let (up, start) = (AtomicUsize::new(0), Barrier::new(COMMANDS));
        thread::scope(|scope| {
            for _ in 0..COMMANDS {
                scope.spawn(|| {
                    start.wait();
                    for _ in 0..TURNS {
                        let home = Home::open(directory.path()).unwrap();
                        match home.join_within(Duration::from_secs(60)).unwrap() {
                            Membership::Owner(mut guard) => {
                                assert_eq!(owners.fetch_add(1, Ordering::SeqCst), 0, "one owner at a time");
                                let mine = turn.fetch_add(1, Ordering::SeqCst);
                                up.store(mine, Ordering::SeqCst);
                                guard.publish(&endpoints(u16::try_from(mine).unwrap())).unwrap();
                                thread::yield_now();
                                retire(&mut guard);
                                up.store(0, Ordering::SeqCst);
                                owners.fetch_sub(1, Ordering::SeqCst);
                            }
                            Membership::Client(guard) => {
                                for _ in 0..20 {
                                    let told = guard.endpoints().postgres.clone();
                                    assert_eq!(told, format!("127.0.0.1:{}", up.load(Ordering::SeqCst)));
                                    thread::yield_now();
                                }
                            }
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn a_file_of_another_version_is_refused_with_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::open(directory.path()).unwrap();
        let mut first = owner(&home);
        first.publish(&endpoints(1)).unwrap();
        fs::write(home.path().join(ENDPOINTS), "{\"version\": 9}").unwrap();
        assert!(matches!(refusal(&home), HomeError::OtherVersion { .. }));
    }

    #[test]
    fn a_home_that_cannot_be_one_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [file.clone(), file.join("below")] {
            let refused = Home::open(&path).unwrap_err().to_string();
            assert!(refused.contains("is not a directory") && refused.contains("--home"), "{refused}");
        }
        // Root may write anywhere but here.
        let refused = Home::open(Path::new("/proc/securebase")).unwrap_err().to_string();
        assert!(refused.contains("/proc/securebase"), "{refused}");
    }
}
