//! The PostgreSQL programs on this machine: found, or installed by its package manager.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::PostgresError;

/// The oldest major version that is used.
pub const OLDEST_MAJOR: u32 = 15;

/// What names the directory of the programs and rules out every other.
const DIRECTORY_VARIABLE: &str = "PG_BIN";

/// Directories that hold one directory per version, with the programs in `bin` or `Versions/*/bin` below.
const VERSIONED: [(&str, &str, &str); 5] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/opt/homebrew/opt", "postgresql@", "bin"),
    ("/usr/local/opt", "postgresql@", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// Keeps Debian's packages from making and starting a cluster of their own while we install them.
const NO_MAIN_CLUSTER: &str = "/etc/postgresql-common/createcluster.d/embedded.conf";

/// One version of PostgreSQL whose `initdb` and `postgres` can be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Installation {
    /// The major version, such as 15.
    pub(super) major: u32,
    /// Where `initdb` and `postgres` are.
    pub(super) bin: PathBuf,
}

/// Where to look, in order.
#[derive(Clone, Debug)]
pub(super) struct Places {
    named: Option<PathBuf>,
    usual: Vec<PathBuf>,
}

impl Places {
    /// `PG_BIN` alone if it is set; else the directories that packages use, newest version first, and then `PATH`.
    pub(super) fn of_this_machine() -> Self {
        let named = env::var_os(DIRECTORY_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
        let mut usual = Vec::new();
        for (root, prefix, below) in VERSIONED {
            usual.extend(versions_below(Path::new(root), prefix).into_iter().map(|version| version.join(below)));
        }
        usual.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
        Self { named, usual }
    }

    /// Every installation, in the order of preference.
    fn installations(&self) -> Result<Vec<Installation>, PostgresError> {
        if let Some(bin) = &self.named {
            let found = installation_in(bin).ok_or_else(|| PostgresError::NoPrograms { bin: bin.clone() })?;
            return Ok(vec![found]);
        }
        let mut seen = BTreeSet::new();
        let distinct = |bin: &&PathBuf| seen.insert(fs::canonicalize(bin).unwrap_or_else(|_| bin.to_path_buf()));
        Ok(self.usual.iter().filter(distinct).filter_map(|bin| installation_in(bin)).collect())
    }

    /// The programs for a cluster of this major version, or for a new cluster; installs them if there are none.
    pub(super) fn programs_for(&self, cluster_major: Option<u32>) -> Result<Installation, PostgresError> {
        let found = self.installations()?;
        if let Some(chosen) = choose(&found, cluster_major) {
            return Ok(chosen.clone());
        }
        match cluster_major {
            Some(made_by) => Err(PostgresError::OtherMajor {
                made_by,
                found: found.iter().map(|one| one.major.to_string()).collect::<Vec<_>>().join(", "),
            }),
            None if !found.is_empty() => Err(PostgresError::TooOld { found: found[0].major }),
            None => {
                install()?;
                let found = Self::of_this_machine().installations()?;
                choose(&found, None).cloned().ok_or(PostgresError::NotInstalled { advice: ADVICE })
            }
        }
    }
}

/// The first installation of the cluster's own version, or for a new cluster the first that is not too old.
fn choose(found: &[Installation], cluster_major: Option<u32>) -> Option<&Installation> {
    found.iter().find(|one| match cluster_major {
        Some(major) => one.major == major,
        None => OLDEST_MAJOR <= one.major,
    })
}

/// The directories `root/PREFIX<version>`, highest version first.
fn versions_below(root: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir(root)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((version, entry.path()))
        })
        .collect();
    versions.sort_by(|a, b| b.cmp(a));
    versions.into_iter().map(|(_, path)| path).collect()
}

/// The installation in this directory, if both programs are there and `postgres` tells its version.
fn installation_in(bin: &Path) -> Option<Installation> {
    let server = bin.join("postgres");
    if !server.is_file() || !bin.join("initdb").is_file() {
        return None;
    }
    let answer = Command::new(&server).arg("--version").stdin(Stdio::null()).output().ok()?;
    let major = major_of(&String::from_utf8_lossy(&answer.stdout))?;
    // A link in /usr/local/bin leads to the directory that also holds the version's other programs.
    let bin = fs::canonicalize(server).ok()?.parent()?.to_owned();
    Some(Installation { major, bin })
}

/// Reads `postgres (PostgreSQL) 15.18 (Debian ...)` or `... 18beta1`.
fn major_of(answer: &str) -> Option<u32> {
    let version = answer.split_once("(PostgreSQL) ")?.1;
    let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

const ADVICE: &str = if cfg!(target_os = "macos") {
    "run `brew install postgresql@17`"
} else {
    "install it (Debian, Ubuntu: `sudo apt-get install postgresql`; Fedora: `sudo dnf install postgresql-server \
     postgresql-contrib`; Alpine: `apk add postgresql postgresql-contrib`)"
};

/// Installs PostgreSQL with the machine's package manager, if there is one that we may run.
fn install() -> Result<(), PostgresError> {
    if cfg!(target_os = "linux") && nix::unistd::geteuid().is_root() && on_path("apt-get") {
        eprintln!("PostgreSQL is not installed: installing the package `postgresql` with apt-get");
        let path = Path::new(NO_MAIN_CLUSTER);
        let written = path.parent().map(fs::create_dir_all).is_some_and(|made| made.is_ok())
            && fs::write(path, "create_main_cluster = off\n").is_ok();
        let installed = run("apt-get", &["update", "-q"]).and_then(|()| {
            run(
                "apt-get",
                &["install", "-q", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120", "postgresql"],
            )
        });
        if written {
            // A machine's later packages behave as if we had never been here.
            let _ = fs::remove_file(path);
        }
        return installed;
    }
    if cfg!(target_os = "macos") && !nix::unistd::geteuid().is_root() && on_path("brew") {
        eprintln!("PostgreSQL is not installed: installing postgresql@17 with brew");
        return run("brew", &["install", "--quiet", "postgresql@17"]);
    }
    Err(PostgresError::NotInstalled { advice: ADVICE })
}

fn on_path(program: &str) -> bool {
    env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(|directory| directory.join(program).is_file())
}

/// Runs one step of the package manager; its words are shown only if it fails.
fn run(program: &'static str, arguments: &[&str]) -> Result<(), PostgresError> {
    let failed = |reason: String| PostgresError::InstallFailed { program, reason, advice: ADVICE };
    let answer = Command::new(program)
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if answer.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&answer.stderr);
    Err(failed(words.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no reason given").to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn pretend(root: &Path, version: &str) -> PathBuf {
        let bin = root.join(version).join("bin");
        fs::create_dir_all(&bin).unwrap();
        for program in ["postgres", "initdb"] {
            fs::write(bin.join(program), format!("#!/bin/sh\necho 'postgres (PostgreSQL) {version}.3 (X 1)'\n"))
                .unwrap();
            fs::set_permissions(bin.join(program), fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::canonicalize(bin).unwrap()
    }

    fn places(root: &Path) -> Places {
        Places { named: None, usual: versions_below(root, "").into_iter().map(|version| version.join("bin")).collect() }
    }

    #[test]
    fn the_major_version_is_read_from_every_form() {
        for (answer, major) in [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", Some(15)),
            ("postgres (PostgreSQL) 18beta1", Some(18)),
            ("postgres (PostgreSQL) 17.0", Some(17)),
            ("something else", None),
            ("postgres (PostgreSQL) devel", None),
        ] {
            assert_eq!(major_of(answer), major, "{answer}");
        }
    }

    #[test]
    fn a_new_cluster_gets_the_newest_version_and_an_old_one_its_own() {
        let root = tempfile::tempdir().unwrap();
        let (nine, fifteen, hundred) =
            (pretend(root.path(), "9"), pretend(root.path(), "15"), pretend(root.path(), "100"));
        let places = places(root.path());
        assert_eq!(places.programs_for(None).unwrap(), Installation { major: 100, bin: hundred });
        assert_eq!(places.programs_for(Some(15)).unwrap(), Installation { major: 15, bin: fifteen });
        assert_eq!(places.programs_for(Some(9)).unwrap(), Installation { major: 9, bin: nine });
    }

    #[test]
    fn a_cluster_is_never_opened_by_another_major_version() {
        let root = tempfile::tempdir().unwrap();
        pretend(root.path(), "15");
        pretend(root.path(), "18");
        let refused = places(root.path()).programs_for(Some(16)).unwrap_err();
        assert!(matches!(&refused, PostgresError::OtherMajor { made_by: 16, found } if found == "18, 15"), "{refused}");
    }

    #[test]
    fn too_old_a_version_is_named_and_not_used() {
        let root = tempfile::tempdir().unwrap();
        pretend(root.path(), "13");
        let refused = places(root.path()).programs_for(None).unwrap_err();
        assert!(matches!(refused, PostgresError::TooOld { found: 13 }), "{refused}");
    }

    #[test]
    fn a_named_directory_without_the_programs_is_refused_and_nothing_else_is_tried() {
        let root = tempfile::tempdir().unwrap();
        let bin = pretend(root.path(), "15");
        let named = Places { named: Some(root.path().to_owned()), usual: vec![bin] };
        assert!(matches!(named.programs_for(None), Err(PostgresError::NoPrograms { .. })));
    }
}
