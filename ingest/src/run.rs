//! One reading of an object or a delivery: what it found so far, sorted by where it goes.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use crate::dead_letter::DeadLetter;
use crate::digest::{Digest, SeenDigest};
use crate::manifest::Manifest;
use crate::notice::NamedObject;
use crate::{Beside, Judged, ObjectRead, Packer, Reason, RunId, Slice, Timestamp, Verdict};

/// Memory of a dead letter beside its name and bytes.
const LETTER_FRAME_BYTES: usize = 256;

/// A reading under way. Slices and dead letters are taken from it as they come, so that an object of any size is read in
/// bounded memory; its manifest comes last.
pub struct Run {
    id: RunId,
    /// The delivered name of what is read.
    name: String,
    /// The signature that stands beside a digest file.
    signature: Option<String>,
    started_at: Timestamp,
    packer: Packer,
    slices: Vec<Slice>,
    letters: Vec<DeadLetter>,
    letter_bytes: usize,
    digests: Vec<(Digest, [u8; 32])>,
    /// Objects of notices that could not be opened, by reason.
    closed: BTreeMap<Reason, u64>,
}

/// What a reading ends with, in the order in which it is to be kept: the manifest says that the others are there.
#[derive(Debug)]
pub struct RunEnd {
    /// The last slices.
    pub slices: Vec<Slice>,
    /// The last dead letters.
    pub letters: Vec<DeadLetter>,
    /// What must be there, by the digest files that were read.
    pub digests: Vec<SeenDigest>,
    /// What was read.
    pub manifest: Manifest,
}

impl Run {
    /// A reading of what has this delivered name; `signature` is what stands beside the object, if it has one.
    pub fn new(id: RunId, name: String, signature: Option<String>, started_at: Timestamp) -> Self {
        Self {
            id,
            name,
            signature,
            started_at,
            packer: Packer::new(id),
            slices: Vec::new(),
            letters: Vec::new(),
            letter_bytes: 0,
            digests: Vec::new(),
            closed: BTreeMap::new(),
        }
    }

    /// Takes what a record says. `follow` reads an object that a notice names, and gives the reason if it cannot be opened
    /// for good: the notice is then kept as a dead letter.
    pub fn take<E>(
        &mut self,
        judged: Judged<'_>,
        mut follow: impl FnMut(&NamedObject) -> Result<Option<Reason>, E>,
    ) -> Result<(), E> {
        let Judged { verdict, beside, bytes, offset, number, is_whole } = judged;
        let mut aside = Vec::new();
        match verdict {
            Verdict::Usage(event) => self.packer.add(event, &mut self.slices),
            Verdict::Facts(statement) => self.packer.add_statement(*statement, &mut self.slices),
            Verdict::NotCounted(_) => {}
            Verdict::DeadLetter(reason) => aside.push(reason),
        }
        for beside in beside {
            match beside {
                Beside::Usage(event) => self.packer.add_beside(event, &mut self.slices),
                Beside::Fact(fact) => self.packer.add_fact_beside(*fact, &mut self.slices),
                Beside::Digest(digest) => self.digests.push((*digest, Sha256::digest(bytes).into())),
                Beside::Object(object) => {
                    if let Some(reason) = follow(&object)? {
                        *self.closed.entry(reason).or_default() += 1;
                        aside.push(reason);
                    }
                }
                Beside::DeadLetter(reason) => aside.push(reason),
            }
        }
        for reason in aside {
            self.letter_bytes += LETTER_FRAME_BYTES + self.name.len() + bytes.len();
            self.letters.push(DeadLetter {
                object: self.name.clone(),
                offset,
                number,
                reason,
                bytes: bytes.to_vec(),
                is_whole,
                seen_at: self.started_at,
                resolved_at: None,
            });
        }
        Ok(())
    }

    /// Slices that are full.
    pub fn full_slices(&mut self) -> Vec<Slice> {
        std::mem::take(&mut self.slices)
    }

    /// Memory of the dead letters that wait.
    pub fn letter_bytes(&self) -> usize {
        self.letter_bytes
    }

    /// The dead letters that wait.
    pub fn letters(&mut self) -> Vec<DeadLetter> {
        self.letter_bytes = 0;
        std::mem::take(&mut self.letters)
    }

    /// Ends the reading of what was read to its end.
    pub fn end(mut self, mut found: ObjectRead) -> RunEnd {
        for (reason, count) in self.closed {
            *found.beside_dead_letters.entry(reason).or_default() += count;
        }
        self.slices.extend(self.packer.flush());
        // A digest file is one digest; its hash is that of its whole content.
        let is_alone = found.read == 1;
        let digests = self.digests.into_iter().map(|(digest, sha256)| SeenDigest {
            digest,
            content_sha256: if is_alone { found.content_sha256 } else { sha256 },
            signature: self.signature.clone(),
            seen_at: self.started_at,
        });
        let digests = digests.collect();
        let (slices, beside) = (self.packer.slices(), self.packer.beside_slices());
        let manifest = Manifest::new(self.id, self.name, found, slices, beside, self.started_at);
        RunEnd { slices: self.slices, letters: self.letters, digests, manifest }
    }
}
