//! Bytes of a source object, inflated where it is gzip, hashed as stored, and bounded.

use std::io::{self, BufReader, Chain, Cursor, Read};

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};

use crate::Reason;

/// Inflated bytes that are never refused, whatever the ratio.
const INFLATED_BYTES_FREE: u64 = 64 << 20;
/// Highest ratio of inflated to stored bytes beyond that. CloudTrail logs reach 10 to 30; deflate itself ends at 1,032.
const INFLATE_RATIO_MAX: u64 = 400;
const STORED_BUFFER_BYTES: usize = 128 << 10;

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
pub(crate) enum Inflate<R> {
    Plain(StoredBytes<R>),
    Gzip { decoder: Box<MultiGzDecoder<StoredBytes<R>>>, inflated_bytes: u64 },
}

/// What the object is, as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) bytes: u64,
    pub(crate) sha256: [u8; 32],
}

impl<R: Read> Inflate<R> {
    /// Detects gzip by its first two bytes.
    pub(crate) fn open(stored: R) -> Result<Self, io::Error> {
        let mut stored = Hashed::new(stored);
        // A store may hand out one byte at a time, so the two are read before anything is decided.
        let mut magic = Vec::with_capacity(2);
        stored.by_ref().take(2).read_to_end(&mut magic)?;
        let is_gzip = magic == [0x1f, 0x8b];
        let reader = BufReader::with_capacity(STORED_BUFFER_BYTES, Cursor::new(magic).chain(stored));
        Ok(if is_gzip {
            Self::Gzip { decoder: Box::new(MultiGzDecoder::new(reader)), inflated_bytes: 0 }
        } else {
            Self::Plain(reader)
        })
    }

    /// Reads some bytes; 0 at the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, InflateError> {
        match self {
            Self::Plain(reader) => reader.read(buffer).map_err(InflateError::Io),
            Self::Gzip { decoder, inflated_bytes } => {
                let count = decoder.read(buffer).map_err(gzip_error)?;
                *inflated_bytes += count as u64;
                let allowed =
                    (decoder.get_ref().get_ref().get_ref().1.bytes * INFLATE_RATIO_MAX).max(INFLATED_BYTES_FREE);
                if allowed < *inflated_bytes {
                    return Err(InflateError::Fault(Reason::GzipBomb));
                }
                Ok(count)
            }
        }
    }

    /// Reads what is left of the stored bytes, so that the hash is of the whole object.
    pub(crate) fn finish(self) -> Result<Stored, io::Error> {
        let mut reader = match self {
            Self::Plain(reader) => reader,
            Self::Gzip { decoder, .. } => decoder.into_inner(),
        };
        io::copy(&mut reader, &mut io::sink())?;
        let (_, hashed) = reader.into_inner().into_inner();
        Ok(Stored { bytes: hashed.bytes, sha256: hashed.hash.finalize().into() })
    }
}

/// The decoder passes errors of the store on with their OS code; its own have none.
fn gzip_error(error: io::Error) -> InflateError {
    match error.kind() {
        _ if error.raw_os_error().is_some() => InflateError::Io(error),
        io::ErrorKind::UnexpectedEof => InflateError::Fault(Reason::GzipTruncated),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => InflateError::Fault(Reason::GzipCorrupt),
        _ => InflateError::Io(error),
    }
}

/// Counts and hashes what passes through.
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
        let count = self.input.read(buffer)?;
        self.hash.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
}
