//! Bytes of a source object, inflated where it is gzip, hashed as stored and as they are, and bounded.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use flate2::{Decompress, FlushDecompress, Status};
use sha2::{Digest, Sha256};

use crate::Reason;

/// Inflated bytes that are never refused, whatever the ratio.
pub(crate) const INFLATED_BYTES_FREE: u64 = 64 << 20;
/// Highest ratio of inflated to stored bytes beyond that. CloudTrail logs reach 10 to 30; deflate itself ends at 1,032.
pub(crate) const INFLATE_RATIO_MAX: u64 = 400;
/// RFC 1952 section 2.3.1.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const STORED_BUFFER_BYTES: usize = 128 << 10;
/// How much of an object is looked at to tell what it is: the header of an export is below a tenth of it.
const PEEK_BYTES: usize = 64 << 10;
/// The same for what is in memory already.
const DELIVERY_BUFFER_BYTES: usize = 8 << 10;

/// Why no more bytes come.
#[derive(Debug)]
pub(crate) enum InflateError {
    /// The object itself is at fault: what was read before still stands.
    Fault(Reason),
    /// The store is at fault: read the object again.
    Io(io::Error),
}

/// The stored bytes, the two that were looked at first before the others.
type StoredBytes<R> = BufReader<Chain<Cursor<Vec<u8>>, Hashed<R>>>;

/// A source object's content. Concatenated gzip members read as one (RFC 1952 section 2.2).
pub(crate) struct Inflate<R> {
    form: Form<R>,
    /// What was looked at, and how much of it was read since.
    ahead: Vec<u8>,
    ahead_read: usize,
}

enum Form<R> {
    Plain(StoredBytes<R>),
    Gzip(Box<Gunzip<R>>),
}

/// What the object is, as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) bytes: u64,
    pub(crate) sha256: [u8; 32],
    /// Over what was inflated; the same as `sha256` for an object that is not compressed.
    pub(crate) content_sha256: [u8; 32],
}

impl<R: Read> Inflate<R> {
    /// Detects gzip by its first two bytes.
    pub(crate) fn open(stored: R) -> Result<Self, io::Error> {
        Self::open_with(stored, STORED_BUFFER_BYTES, u64::MAX)
    }

    /// The same for the content of a delivery, which is in memory; `inflated_bytes_max` bounds it beside its own size.
    pub(crate) fn within(content: R, inflated_bytes_max: u64) -> Result<Self, io::Error> {
        Self::open_with(content, DELIVERY_BUFFER_BYTES, inflated_bytes_max)
    }

    fn open_with(stored: R, buffer_bytes: usize, inflated_bytes_max: u64) -> Result<Self, io::Error> {
        let mut stored = Hashed::new(stored);
        // A store may hand out one byte at a time, so the two are read before anything is decided.
        let mut magic = Vec::with_capacity(2);
        stored.by_ref().take(2).read_to_end(&mut magic)?;
        let is_gzip = magic == GZIP_MAGIC;
        let reader = BufReader::with_capacity(buffer_bytes, Cursor::new(magic).chain(stored));
        let form =
            if is_gzip { Form::Gzip(Box::new(Gunzip::new(reader, inflated_bytes_max))) } else { Form::Plain(reader) };
        Ok(Self { form, ahead: Vec::new(), ahead_read: 0 })
    }

    /// How the content begins, without reading it: [`PEEK_BYTES`], or all there is before its end or its damage.
    ///
    /// For an object of which nothing was read yet.
    pub(crate) fn peek(&mut self) -> Result<&[u8], io::Error> {
        let mut filled = self.ahead.len();
        self.ahead.resize(PEEK_BYTES.max(filled), 0);
        while filled < self.ahead.len() {
            match self.form.read(&mut self.ahead[filled..]) {
                // A fault comes again when it is read up to.
                Ok(0) | Err(InflateError::Fault(_)) => break,
                Ok(count) => filled += count,
                Err(InflateError::Io(error)) => return Err(error),
            }
        }
        self.ahead.truncate(filled);
        Ok(&self.ahead)
    }

    /// Reads some bytes; 0 at the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, InflateError> {
        let ahead = &self.ahead[self.ahead_read..];
        if ahead.is_empty() {
            return self.form.read(buffer);
        }
        let count = ahead.len().min(buffer.len());
        buffer[..count].copy_from_slice(&ahead[..count]);
        self.ahead_read += count;
        Ok(count)
    }

    /// Bytes that came out of gzip so far.
    pub(crate) fn inflated_bytes(&self) -> u64 {
        match &self.form {
            Form::Plain(_) => 0,
            Form::Gzip(gunzip) => gunzip.inflated_bytes,
        }
    }

    /// Reads what is left of the stored bytes, so that the hash is of the whole object.
    pub(crate) fn finish(self) -> Result<Stored, io::Error> {
        let (mut reader, content) = match self.form {
            Form::Plain(reader) => (reader, None),
            Form::Gzip(gunzip) => (gunzip.stored, Some(gunzip.content)),
        };
        io::copy(&mut reader, &mut io::sink())?;
        let (_, hashed) = reader.into_inner().into_inner();
        let sha256 = hashed.hash.finalize().into();
        let content_sha256 = content.map_or(sha256, |content| content.finalize().into());
        Ok(Stored { bytes: hashed.bytes, sha256, content_sha256 })
    }
}

impl<R: Read> Form<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, InflateError> {
        match self {
            Self::Plain(reader) => reader.read(buffer).map_err(InflateError::Io),
            Self::Gzip(gunzip) => gunzip.read(buffer),
        }
    }
}

/// Inflates gzip members one behind the other, up to the very byte where one is damaged.
pub(crate) struct Gunzip<R> {
    stored: StoredBytes<R>,
    inflate: Decompress,
    /// A member has begun and not ended.
    in_member: bool,
    inflated_bytes: u64,
    /// A limit of its own, whatever the stored size.
    inflated_bytes_max: u64,
    /// What was inflated, hashed: digest files name log files by it.
    content: Sha256,
    /// What is wrong behind the bytes handed out.
    fault: Option<Reason>,
}

impl<R: Read> Gunzip<R> {
    const WINDOW_BITS: u8 = 15;

    fn new(stored: StoredBytes<R>, inflated_bytes_max: u64) -> Self {
        let inflate = Decompress::new_gzip(Self::WINDOW_BITS);
        Self {
            stored,
            inflate,
            in_member: true,
            inflated_bytes: 0,
            inflated_bytes_max,
            content: Sha256::new(),
            fault: None,
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, InflateError> {
        while self.fault.is_none() {
            let ahead = self.stored.fill_buf().map_err(InflateError::Io)?;
            if ahead.is_empty() {
                if !self.in_member {
                    return Ok(0);
                }
                self.fault = Some(Reason::GzipTruncated);
                break;
            }
            if !self.in_member {
                if ahead[0] != GZIP_MAGIC[0] {
                    self.fault = Some(Reason::GzipCorrupt);
                    break;
                }
                self.inflate.reset(true);
                self.in_member = true;
            }
            let (consumed, inflated) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self.inflate.decompress(ahead, buffer, FlushDecompress::None);
            let consumed = (self.inflate.total_in() - consumed) as usize;
            let inflated = (self.inflate.total_out() - inflated) as usize;
            self.stored.consume(consumed);
            match status {
                Ok(Status::StreamEnd) => self.in_member = false,
                Ok(Status::Ok | Status::BufError) if 0 < consumed + inflated => {}
                Ok(Status::Ok | Status::BufError) | Err(_) => self.fault = Some(Reason::GzipCorrupt),
            }
            self.inflated_bytes += inflated as u64;
            self.content.update(&buffer[..inflated]);
            let allowed = self.stored.get_ref().get_ref().1.bytes * INFLATE_RATIO_MAX;
            if allowed.max(INFLATED_BYTES_FREE).min(self.inflated_bytes_max) < self.inflated_bytes {
                self.fault = Some(Reason::GzipBomb);
            } else if 0 < inflated {
                return Ok(inflated);
            }
        }
        self.fault.map_or(Ok(0), |reason| Err(InflateError::Fault(reason)))
    }
}

/// Counts and hashes what passes through, and fills what it is given, so that nothing behind it depends on how the
/// store's bytes trickle in.
pub(crate) struct Hashed<R> {
    input: R,
    hash: Sha256,
    bytes: u64,
}

impl<R> Hashed<R> {
    fn new(input: R) -> Self {
        Self { input, hash: Sha256::new(), bytes: 0 }
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.input.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.hash.update(&buffer[..filled]);
        self.bytes += filled as u64;
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    #[test]
    fn an_error_of_the_store_is_never_the_objects_fault() {
        struct Fails<'a>(&'a [u8], io::ErrorKind);
        impl Read for Fails<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                if self.0.is_empty() { Err(self.1.into()) } else { self.0.read(buffer) }
            }
        }
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(b"{}").unwrap();
        let gzip = gzip.finish().unwrap();
        for kind in [io::ErrorKind::UnexpectedEof, io::ErrorKind::InvalidData, io::ErrorKind::Other] {
            for length in [3, 15, gzip.len() - 1] {
                let mut inflate = Inflate::open(Fails(&gzip[..length], kind)).unwrap();
                let failure = loop {
                    match inflate.read(&mut [0; 64]) {
                        Ok(0) => panic!("the end at {length}"),
                        Ok(_) => {}
                        Err(failure) => break failure,
                    }
                };
                assert!(matches!(failure, InflateError::Io(_)), "{failure:?} at {length}");
            }
        }
    }

    #[test]
    fn everything_before_the_damage_is_read_and_the_same_however_it_is_asked_for() {
        let content: Vec<u8> = (0..40_000_u32).flat_map(|n| (n * n).to_string().into_bytes()).collect();
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(&content).unwrap();
        let mut stored = gzip.finish().unwrap();
        let middle = stored.len() / 2;
        stored[middle..middle + 64].fill(0xff);
        let inflated = |step: usize| {
            let mut inflate = Inflate::open(stored.as_slice()).unwrap();
            let (mut all, mut buffer) = (Vec::new(), vec![0; step]);
            loop {
                match inflate.read(&mut buffer) {
                    Ok(0) => panic!("no fault"),
                    Ok(count) => all.extend_from_slice(&buffer[..count]),
                    Err(fault) => break (all, format!("{fault:?}")),
                }
            }
        };
        let (all, fault) = inflated(1);
        assert_eq!(fault, "Fault(GzipCorrupt)");
        assert!(content.len() / 3 < all.len(), "only {} of {} bytes", all.len(), content.len());
        assert_eq!(all[..content.len() / 3], content[..content.len() / 3]);
        for step in [100, 1 << 20] {
            assert!(inflated(step) == (all.clone(), fault.clone()), "{step} at a time");
        }
    }
}
