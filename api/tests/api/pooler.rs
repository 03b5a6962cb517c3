//! PgBouncer in transaction mode with one connection to the server, for one test.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

use crate::stage::Stage;

/// A running PgBouncer; it ends with this value.
#[derive(Debug)]
pub(crate) struct Pooler {
    process: Child,
    port: u16,
    _folder: TempDir,
}

impl Pooler {
    /// Finds or installs the program with `checks/pgbouncer.sh`, and starts it. Missing, it fails the test with the
    /// script's advice.
    pub(crate) async fn start(stage: &Stage) -> Self {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../checks/pgbouncer.sh");
        let found = tokio::task::spawn_blocking(move || Command::new(script).output().unwrap()).await.unwrap();
        assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
        let program = String::from_utf8(found.stdout).unwrap().trim().to_owned();

        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let server = stage.postgres_address();
        let users = folder.path().join("users.txt");
        std::fs::write(&users, "\"securebase_app\" \"\"\n").unwrap();
        let settings = format!(
            "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = transaction\ndefault_pool_size = 1\n\
             max_db_connections = 1\nignore_startup_parameters = extra_float_digits,options\n",
            server.ip(),
            server.port(),
            users.display()
        );
        let file = folder.path().join("pgbouncer.ini");
        std::fs::write(&file, settings).unwrap();
        let mut command = Command::new(program);
        command.arg("-q");
        if nix_is_root() {
            // It refuses to run as root.
            command.args(["-u", "nobody"]);
            open_to_all(folder.path());
        }
        let process =
            command.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap();
        let pooler = Self { process, port, _folder: folder };
        let listens = async {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), listens).await.expect("pgbouncer listens in time");
        pooler
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

fn nix_is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// The other user must be able to read the settings.
fn open_to_all(folder: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
}

impl Drop for Pooler {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
