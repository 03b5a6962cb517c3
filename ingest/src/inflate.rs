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
                let read = decoder.read(buffer);
                let stored = &decoder.get_ref().get_ref().get_ref().1;
                let count =
                    read.map_err(|error| if stored.failed { InflateError::Io(error) } else { gzip_error(&error) })?;
                *inflated_bytes += count as u64;
                let allowed = (stored.bytes * INFLATE_RATIO_MAX).max(INFLATED_BYTES_FREE);
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

/// What the decoder says of bytes that the store did hand out.
fn gzip_error(error: &io::Error) -> InflateError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => InflateError::Fault(Reason::GzipTruncated),
        _ => InflateError::Fault(Reason::GzipCorrupt),
    }
}

/// Counts and hashes what passes through, and fills what it is given, so that nothing behind it depends on how the
/// store's bytes trickle in.
pub(crate) struct Hashed<R> {
    input: R,
    hash: Sha256,
    bytes: u64,
    /// The store failed: an error is not the object's fault, whatever its kind.
    failed: bool,
}

impl<R> Hashed<R> {
    fn new(input: R) -> Self {
        Self { input, hash: Sha256::new(), bytes: 0, failed: false }
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
                Err(error) => {
                    self.failed = true;
                    return Err(error);
                }
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
}
