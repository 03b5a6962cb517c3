//! Log objects on disk.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use flate2::{Compression, GzBuilder};
use sha2::{Digest, Sha256};

use super::{Answer, Plan};

/// The folder of the log objects; the one to replay.
pub const LOGS_FOLDER: &str = "AWSLogs";
/// The known answer, beside [`LOGS_FOLDER`].
pub const ANSWER_FILE: &str = "answer.json";

/// Writes every log object of `plan` below `dir`/[`LOGS_FOLDER`], gzipped, then the answer to `dir`/[`ANSWER_FILE`].
///
/// A folder that holds log objects already is refused: old ones would make the answer wrong.
///
/// ```no_run
/// # fn main() -> std::io::Result<()> {
/// use benches::cloudtrail::{Plan, write_month};
/// let from = chrono::DateTime::from_timestamp(1_790_812_800, 0).expect("2026-10-01T00:00:00Z");
/// let answer = write_month("logs".as_ref(), &Plan::new(1, 200_000, 3, from, 31 * 24))?;
/// assert_eq!((answer.files, answer.events), (957, 200_000));
/// # Ok(())
/// # }
/// ```
pub fn write_month(dir: &Path, plan: &Plan) -> io::Result<Answer> {
    plan.check().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let logs = dir.join(LOGS_FOLDER);
    if logs.exists() {
        let message = format!("{} is there already: choose an empty folder", logs.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    let answer = write_objects(dir, plan)?.answer;
    let mut file = BufWriter::new(File::create(dir.join(ANSWER_FILE))?);
    serde_json::to_writer_pretty(&mut file, &answer)?;
    file.write_all(b"\n")?;
    file.flush()?;
    Ok(answer)
}

/// What was written below a folder.
#[derive(Debug, Default)]
pub struct Written {
    /// What a right count of it gives.
    pub answer: Answer,
    /// SHA-256 of each object's text, by its number.
    pub content_sha256: Vec<[u8; 32]>,
}

/// Writes every log object of `plan` below `dir`/[`LOGS_FOLDER`], gzipped. 32 bytes an object are the memory that grows.
pub fn write_objects(dir: &Path, plan: &Plan) -> io::Result<Written> {
    plan.check().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    fs::create_dir_all(dir.join(LOGS_FOLDER))?;
    let next = AtomicU64::new(0);
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let parts = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(|| write_some(dir, plan, &next))).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("a worker returns its errors"))
            .collect::<io::Result<Vec<_>>>()
    })?;
    let count = usize::try_from(plan.file_count()).expect("objects are counted by the machine");
    let answer = Answer { seed: plan.seed, ..Answer::default() };
    let mut written = Written { answer, content_sha256: vec![[0; 32]; count] };
    for (answer, hashes) in parts {
        written.answer.merge(answer);
        for (k, hash) in hashes {
            written.content_sha256[usize::try_from(k).expect("below the count")] = hash;
        }
    }
    Ok(written)
}

/// Takes numbers from `next` until there are no more objects. One object's text is the memory it needs.
/// The SHA-256 of each object written, by its number.
type Hashes = Vec<(u64, [u8; 32])>;

fn write_some(dir: &Path, plan: &Plan, next: &AtomicU64) -> io::Result<(Answer, Hashes)> {
    let mut answer = Answer { seed: plan.seed, ..Answer::default() };
    let mut hashes = Vec::new();
    let mut text = String::new();
    loop {
        let k = next.fetch_add(1, Ordering::Relaxed);
        if k >= plan.file_count() {
            return Ok((answer, hashes));
        }
        text.clear();
        plan.write_records(k, &mut text, &mut answer);
        hashes.push((k, Sha256::digest(&text).into()));
        let bytes = gzip(text.as_bytes())?;
        answer.stored_bytes += u64::try_from(bytes.len()).expect("a length fits 64 bits");

        let path = dir.join(plan.log_object(k).key);
        fs::create_dir_all(path.parent().expect("a key has folders"))?;
        fs::write(path, bytes)?;
    }
}

/// No time and no system in the header: the bytes depend on the content alone.
pub(crate) fn gzip(content: &[u8]) -> io::Result<Vec<u8>> {
    let mut gzip = GzBuilder::new().mtime(0).write(Vec::with_capacity(content.len() / 4), Compression::default());
    gzip.write_all(content)?;
    gzip.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;
    use std::path::PathBuf;

    use chrono::DateTime;

    use super::*;

    fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut folders = vec![dir.to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.insert(path.strip_prefix(dir).unwrap().to_path_buf(), fs::read(&path).unwrap());
                }
            }
        }
        found
    }

    #[test]
    fn a_tree_is_the_same_byte_for_byte_and_holds_the_text_of_the_plan() {
        let from = DateTime::parse_from_rfc3339("2026-10-01T00:00:00Z").unwrap().to_utc();
        let plan = Plan { duplicates_percent: 10, late_percent: 3, ..Plan::new(9, 2_000, 3, from, 6) };
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let answer = write_month(one.path(), &plan).unwrap();
        assert_eq!(write_month(other.path(), &plan).unwrap(), answer);
        let written = files(one.path());
        assert_eq!(written, files(other.path()));
        assert_eq!(written.len(), 11, "ten log objects and the answer");

        for k in 0..plan.file_count() {
            let (mut expected, mut text) = (String::new(), String::new());
            plan.write_records(k, &mut expected, &mut Answer::default());
            let bytes = &written[Path::new(&plan.log_object(k).key)];
            flate2::read::GzDecoder::new(bytes.as_slice()).read_to_string(&mut text).unwrap();
            assert_eq!(text, expected);
        }
        let stored: serde_json::Value = serde_json::from_slice(&written[Path::new(ANSWER_FILE)]).unwrap();
        assert_eq!((&stored["events"], &stored["duplicates"]), (&2_000.into(), &200.into()));
        let total: u64 = stored["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| -> u64 { row["quantity"].as_str().unwrap().parse().unwrap() })
            .sum();
        assert_eq!(total, 2_000);
    }

    #[test]
    fn a_folder_with_log_objects_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan::new(1, 1, 1, DateTime::UNIX_EPOCH, 1);
        write_month(dir.path(), &plan).unwrap();
        assert_eq!(write_month(dir.path(), &plan).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}
