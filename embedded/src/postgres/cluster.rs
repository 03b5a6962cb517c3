//! One cluster's directory and processes.

use std::env;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::sys::statvfs::statvfs;
use nix::unistd::{Pid, Uid, User, geteuid};
use tempfile::TempDir;

use super::deadline::Deadline;
use super::installation::{Installation, Places};
use super::{Durability, PostgresError, PostgresOptions};

/// Recovery after a crash is part of a start.
const READY_SECONDS_MAX: u64 = 120;
/// A cluster whose process was killed stops by itself; its last checkpoint takes this long at most.
const PREDECESSOR_SECONDS_MAX: u64 = 60;
/// After this long a fast shutdown becomes an immediate one, and after as long again a kill.
const STOP_SECONDS_MAX: u64 = 60;
const POLL: Duration = Duration::from_millis(10);
/// Another process may take a free port between our look and the server's.
const PORT_ATTEMPTS_MAX: u32 = 10;
const LOG_LINES_SHOWN: usize = 3;
const LOG_BYTES_SHOWN: u64 = 8 << 10;
/// A full disk may also swallow the server's complaint about it. A new cluster takes about 40 MB.
const FREE_BYTES_MIN: u64 = 48 << 20;

const RUN_SCRIPT: &str = include_str!("run.sh");
/// Puts the cluster's directory where run.sh has it, and becomes the command.
const INIT_SCRIPT: &str = "exec 9>&1 1>&2; exec \"$@\"";

const DATA: &str = "pgdata";
const DATA_UNFINISHED: &str = "pgdata.new";

/// Log messages are in English because [`ClusterHome::explain`] reads them.
const SETTINGS: &[&str] = &[
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "logging_collector=off",
    "log_destination=stderr",
    "lc_messages=C",
    "timezone=UTC",
    "log_timezone=UTC",
];
const SETTINGS_DURABLE: &[&str] = &["max_connections=100"];
/// Many tests at once, each with pools of its own.
const SETTINGS_THROWAWAY: &[&str] =
    &["max_connections=300", "fsync=off", "synchronous_commit=off", "full_page_writes=off"];

/// A running cluster. The order of the fields is the order of their ends.
#[derive(Debug)]
pub(super) struct Cluster {
    server: Server,
    home: ClusterHome,
    _temporary: Option<TempDir>,
}

impl Cluster {
    pub(super) fn start(options: &PostgresOptions) -> Result<Self, PostgresError> {
        let home = ClusterHome::open(&options.directory)?;
        let programs = home.programs()?;
        home.begin_log()?;
        home.initialize(&programs, options.durability)?;
        let server = home.launch(&programs, options.durability, options.port, "".as_ref())?;
        Ok(Self { server, home, _temporary: None })
    }

    pub(super) fn throwaway() -> Result<Self, PostgresError> {
        let temporary = tempfile::Builder::new().prefix("embedded-postgres-").tempdir().map_err(|source| {
            PostgresError::File { attempt: "create a directory in", path: env::temp_dir(), source }
        })?;
        let home = ClusterHome::open(temporary.path())?;
        // So that run.sh may remove it if we are killed.
        home.give_to_user(&home.directory)?;
        let programs = home.programs()?;
        home.initialize(&programs, Durability::Throwaway)?;
        let server = home.launch(&programs, Durability::Throwaway, None, &home.directory)?;
        Ok(Self { server, home, _temporary: Some(temporary) })
    }

    pub(super) fn port(&self) -> u16 {
        self.server.port
    }

    pub(super) fn pid(&self) -> u32 {
        self.server.pid
    }

    pub(super) fn log(&self) -> &Path {
        &self.home.log
    }
}

/// The server's processes; dropped, they end.
#[derive(Debug)]
struct Server {
    script: Child,
    /// Our end of the pipe that the server's life hangs on.
    life: Option<ChildStdin>,
    port: u16,
    pid: u32,
}

impl Server {
    /// Waits for the script, and so for the server; `None` if it takes longer.
    fn wait_for_end(&mut self, longest: Duration) -> Option<()> {
        let deadline = Deadline::after(longest);
        loop {
            match self.script.try_wait() {
                Ok(None) if !deadline.has_passed() => thread::sleep(POLL),
                Ok(None) => return None,
                Ok(Some(_)) | Err(_) => return Some(()),
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.life = None;
        let group = Pid::from_raw(i32::try_from(self.script.id()).expect("a process id fits i32"));
        let longest = Duration::from_secs(STOP_SECONDS_MAX);
        for harder in [Signal::SIGQUIT, Signal::SIGKILL] {
            if self.wait_for_end(longest).is_some() {
                return;
            }
            tracing::warn!(signal = %harder, "PostgreSQL does not stop");
            // A group that is already gone has nobody to signal.
            let _ = killpg(group, harder);
        }
        let _ = self.script.wait();
    }
}

/// Whom PostgreSQL runs as when we are root.
#[derive(Clone, Debug)]
struct OtherUser {
    name: String,
    uid: u32,
    gid: u32,
}

impl OtherUser {
    /// The owner of a cluster that exists, else the package's user, else `nobody`; `None` if we are not root.
    fn choose(data: &Path) -> Result<Option<Self>, PostgresError> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        if let Ok(owner) = fs::metadata(data)
            && owner.uid() != 0
        {
            return Ok(Some(Self { name: user_name(owner.uid()), uid: owner.uid(), gid: owner.gid() }));
        }
        let known = |name: &str| User::from_name(name).ok().flatten();
        let user = known("postgres").or_else(|| known("nobody")).ok_or(PostgresError::NoUser)?;
        Ok(Some(Self { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
    }
}

fn user_name(uid: u32) -> String {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

/// A cluster's directory, locked.
#[derive(Debug)]
struct ClusterHome {
    directory: PathBuf,
    log: PathBuf,
    user: Option<OtherUser>,
    /// The directory itself, with the lock that the server inherits.
    lock: File,
    /// Locked by this process alone: free while `lock` is not, it tells that the cluster outlives its starter.
    _starter: File,
}

impl ClusterHome {
    /// Makes the directory if need be and locks it.
    fn open(directory: &Path) -> Result<Self, PostgresError> {
        let failed = |attempt, source| file_error(attempt, directory, directory, source);
        // A server that runs as another user reaches its files through the open directory; that takes search permission.
        let mode = if geteuid().is_root() { 0o711 } else { 0o700 };
        DirBuilder::new().recursive(true).mode(mode).create(directory).map_err(|error| failed("create", error))?;
        let directory = fs::canonicalize(directory).map_err(|error| failed("find", error))?;
        let user = OtherUser::choose(&directory.join(DATA))?;
        let lock = File::open(&directory).map_err(|error| failed("open", error))?;
        if user.is_some() {
            let mode = lock.metadata().map_err(|error| failed("read", error))?.mode();
            lock.set_permissions(Permissions::from_mode(mode | 0o011)).map_err(|error| failed("open", error))?;
        }
        let starter_path = directory.join("starter.pid");
        let mut starter = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&starter_path)
            .map_err(|error| file_error("open", &starter_path, &directory, error))?;
        wait_for_lock(&lock, &mut starter, &directory)?;
        let written = starter.lock().and_then(|()| starter.set_len(0)).and_then(|()| starter.rewind());
        written
            .and_then(|()| writeln!(starter, "{}", std::process::id()))
            .map_err(|error| file_error("write", &starter_path, &directory, error))?;
        Ok(Self { log: directory.join("postgres.log"), directory, user, lock, _starter: starter })
    }

    /// The programs of the version that made the cluster, or those for a new one.
    fn programs(&self) -> Result<Installation, PostgresError> {
        let version = self.directory.join(DATA).join("PG_VERSION");
        let major = match fs::read_to_string(&version) {
            Ok(text) => text.trim().split('.').next().and_then(|major| major.parse().ok()),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(self.file_error("read", &version, error)),
        };
        Places::of_this_machine().programs_for(major)
    }

    /// Keeps the log of one earlier start.
    fn begin_log(&self) -> Result<(), PostgresError> {
        match fs::rename(&self.log, self.directory.join("postgres.log.1")) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(self.file_error("rename", &self.log, error)),
            _ => Ok(()),
        }
    }

    fn open_log(&self) -> Result<File, PostgresError> {
        let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.log);
        opened.map_err(|error| self.file_error("open", &self.log, error))
    }

    /// Makes the cluster if there is none. Until it is whole it has another name.
    fn initialize(&self, programs: &Installation, durability: Durability) -> Result<(), PostgresError> {
        let (data, unfinished) = (self.directory.join(DATA), self.directory.join(DATA_UNFINISHED));
        if data.exists() {
            return Ok(());
        }
        match fs::remove_dir_all(&unfinished) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(self.file_error("remove", &unfinished, error));
            }
            _ => {}
        }
        let made = DirBuilder::new().mode(0o700).create(&unfinished);
        made.map_err(|error| self.file_error("create", &unfinished, error))?;
        self.give_to_user(&unfinished)?;
        let log_start = self.log_length();
        let mut command = self.script(INIT_SCRIPT)?;
        command.arg(programs.bin.join("initdb")).arg("-D").arg(self.as_seen_by_server(DATA_UNFINISHED));
        command.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale"]);
        if durability == Durability::Throwaway {
            command.arg("--no-sync");
        }
        let ended = command.stdin(Stdio::null()).status();
        if !ended.map_err(|error| self.file_error("run", &programs.bin.join("initdb"), error))?.success() {
            return Err(self.explain(log_start, 0));
        }
        fs::rename(&unfinished, &data).map_err(|error| self.file_error("rename", &unfinished, error))?;
        if durability == Durability::Durable {
            self.lock.sync_all().map_err(|error| self.file_error("write", &self.directory, error))?;
        }
        Ok(())
    }

    /// Starts the server on the port wanted, or on one that is free.
    fn launch(
        &self,
        programs: &Installation,
        durability: Durability,
        wanted_port: Option<u16>,
        removed_afterwards: &Path,
    ) -> Result<Server, PostgresError> {
        self.clear_stale_pid()?;
        let mut attempt = 1;
        loop {
            let port = wanted_port.map_or_else(free_port, Ok);
            let port = port.map_err(|error| self.file_error("find a free port for", &self.directory, error))?;
            match self.launch_on(port, programs, durability, removed_afterwards) {
                Err(PostgresError::PortInUse { .. }) if wanted_port.is_none() && attempt < PORT_ATTEMPTS_MAX => {
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    fn launch_on(
        &self,
        port: u16,
        programs: &Installation,
        durability: Durability,
        removed_afterwards: &Path,
    ) -> Result<Server, PostgresError> {
        let log_start = self.log_length();
        let more = match durability {
            Durability::Durable => SETTINGS_DURABLE,
            Durability::Throwaway => SETTINGS_THROWAWAY,
        };
        let mut command = self.script(RUN_SCRIPT)?;
        command.arg(removed_afterwards);
        command.arg(programs.bin.join("postgres")).arg("-D").arg(self.as_seen_by_server(DATA));
        command.arg("-p").arg(port.to_string());
        for setting in SETTINGS.iter().chain(more) {
            command.arg("-c").arg(setting);
        }
        let spawned = command.stdin(Stdio::piped()).spawn();
        let mut script = spawned.map_err(|error| self.file_error("run", Path::new("/bin/sh"), error))?;
        let life = script.stdin.take();
        // From here on an error drops the server, which ends it.
        let mut server = Server { script, life, port, pid: 0 };
        let deadline = Deadline::after(Duration::from_secs(READY_SECONDS_MAX));
        loop {
            if let Some(pid) = self.ready_pid(port) {
                server.pid = pid;
                return Ok(server);
            }
            if server.script.try_wait().is_ok_and(|ended| ended.is_some()) {
                return Err(self.explain(log_start, port));
            }
            if deadline.has_passed() {
                let (log, last_lines) = (self.log.clone(), last_lines(&self.log_from(log_start)));
                return Err(PostgresError::NotReady { seconds: READY_SECONDS_MAX, log, last_lines });
            }
            thread::sleep(POLL);
        }
    }

    /// A shell with this script, as the user that PostgreSQL runs as, in a process group of its own: the signals of
    /// our terminal are for us, and we stop the server when we are done with it.
    fn script(&self, text: &str) -> Result<Command, PostgresError> {
        let directory = self.lock.try_clone().map_err(|error| self.file_error("open", &self.directory, error))?;
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(text).arg("embedded-postgres");
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_str().is_some_and(|name| name.starts_with("PG"))) {
            command.env_remove(name);
        }
        command.env("LC_ALL", "C").current_dir("/").process_group(0);
        command.stdout(directory).stderr(self.open_log()?);
        if let Some(user) = &self.user {
            command.uid(user.uid).gid(user.gid);
        }
        Ok(command)
    }

    /// A directory's path for the server. Another user may not be able to walk there from the root directory, for
    /// instance below a home of mode 0700, so on Linux it starts from the directory that it inherits open.
    fn as_seen_by_server(&self, name: &str) -> PathBuf {
        let inherited = cfg!(target_os = "linux") && self.user.is_some();
        if inherited { Path::new("/proc/self/fd/9").join(name) } else { self.directory.join(name) }
    }

    fn give_to_user(&self, path: &Path) -> Result<(), PostgresError> {
        let Some(user) = &self.user else { return Ok(()) };
        chown(path, Some(user.uid), Some(user.gid)).map_err(|error| self.file_error("change the owner of", path, error))
    }

    /// Removes the `postmaster.pid` of a server that was killed, so that a process which has its number since is not
    /// taken for it. Holding the lock we know it is gone, unless somebody started it by hand.
    fn clear_stale_pid(&self) -> Result<(), PostgresError> {
        let data = self.directory.join(DATA);
        let path = data.join("postmaster.pid");
        let pid = match fs::read_to_string(&path) {
            Ok(text) => text.lines().next().unwrap_or_default().trim().to_owned(),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(self.file_error("read", &path, error)),
        };
        if !cfg!(target_os = "linux") {
            // The server judges by the number alone, and refuses when in doubt.
            return Ok(());
        }
        // A server works in its data directory.
        let works_in = fs::metadata(Path::new("/proc").join(&pid).join("cwd"));
        let here = fs::metadata(&data).map_err(|error| self.file_error("read", &data, error))?;
        if works_in.is_ok_and(|works_in| (works_in.dev(), works_in.ino()) == (here.dev(), here.ino())) {
            return Err(PostgresError::InUse { directory: self.directory.clone(), pid });
        }
        fs::remove_file(&path).map_err(|error| self.file_error("remove", &path, error))
    }

    /// The server's process once it takes connections on this port.
    fn ready_pid(&self, port: u16) -> Option<u32> {
        let text = fs::read_to_string(self.directory.join(DATA).join("postmaster.pid")).ok()?;
        // One fact a line: process, directory, start, port, socket directory, address, shared memory, state.
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let ready = lines.get(7) == Some(&"ready") && lines.get(3) == Some(&port.to_string().as_str());
        ready.then(|| lines[0].parse().ok())?
    }

    fn log_length(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |log| log.len())
    }

    fn log_from(&self, start: u64) -> String {
        let read = || -> io::Result<String> {
            let mut log = File::open(&self.log)?;
            let length = log.metadata()?.len();
            log.seek(SeekFrom::Start(start.max(length.saturating_sub(LOG_BYTES_SHOWN))))?;
            let mut bytes = Vec::new();
            log.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_default()
    }

    /// Why `initdb` or the server ended, from what they logged since.
    fn explain(&self, log_start: u64, port: u16) -> PostgresError {
        let text = self.log_from(log_start);
        let directory = self.directory.clone();
        let free_bytes = free_bytes(&self.directory);
        if text.contains("Address already in use") {
            return PostgresError::PortInUse { port };
        }
        if text.contains("No space left on device") || free_bytes.is_ok_and(|free| free < FREE_BYTES_MIN) {
            return PostgresError::DiskFull { directory };
        }
        if text.contains("lock file \"postmaster.pid\" already exists") {
            return PostgresError::InUse { directory, pid: "unknown".into() };
        }
        let refused = |line: &&str| line.contains("ermission denied") || line.contains("has wrong ownership");
        if let Some(line) = text.lines().find(refused) {
            return PostgresError::NotPermitted { user: self.user_name(), directory, reason: line.trim().to_owned() };
        }
        PostgresError::Failed { log: self.log.clone(), last_lines: last_lines(&text) }
    }

    fn user_name(&self) -> String {
        self.user.as_ref().map_or_else(|| user_name(geteuid().as_raw()), |user| user.name.clone())
    }

    fn file_error(&self, attempt: &'static str, path: &Path, source: io::Error) -> PostgresError {
        file_error(attempt, path, &self.directory, source)
    }
}

/// Waits while a cluster ends whose starter is gone; one whose starter lives is in use.
fn wait_for_lock(lock: &File, starter: &mut File, directory: &Path) -> Result<(), PostgresError> {
    let deadline = Deadline::after(Duration::from_secs(PREDECESSOR_SECONDS_MAX));
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(file_error("lock", directory, directory, error)),
        }
        let starter_lives = matches!(starter.try_lock_shared(), Err(TryLockError::WouldBlock));
        if starter_lives || deadline.has_passed() {
            let mut pid = String::new();
            let read = starter.rewind().and_then(|()| starter.read_to_string(&mut pid));
            let pid = if read.is_ok() && !pid.trim().is_empty() { pid.trim().to_owned() } else { "unknown".to_owned() };
            return Err(PostgresError::InUse { directory: directory.to_owned(), pid });
        }
        // The next starter takes this lock as soon as it has the other.
        let _ = starter.unlock();
        thread::sleep(POLL);
    }
}

/// A file error in terms of the cluster, where it has one.
fn file_error(attempt: &'static str, path: &Path, directory: &Path, source: io::Error) -> PostgresError {
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            PostgresError::DiskFull { directory: directory.to_owned() }
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => PostgresError::NotPermitted {
            user: user_name(geteuid().as_raw()),
            directory: directory.to_owned(),
            reason: format!("cannot {attempt} {}: {source}", path.display()),
        },
        _ => PostgresError::File { attempt, path: path.to_owned(), source },
    }
}

/// What this user may still write to the file system of a directory.
#[allow(clippy::useless_conversion, reason = "the widths of these counts differ between systems")]
fn free_bytes(directory: &Path) -> nix::Result<u64> {
    let disk = statvfs(directory)?;
    Ok(u64::from(disk.fragment_size()).saturating_mul(u64::from(disk.blocks_available())))
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// The last lines of a log, as one.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        return "(nothing)".to_owned();
    }
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join(" | ")
}
