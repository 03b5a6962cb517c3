//! The seeds of the fuzzer, and small changes of them, through every reader: nothing panics, and what is read is sound.
//!
//! `make fuzz` looks further, guided by what the code does.

#![expect(clippy::unwrap_used, reason = "in a test, what is not as expected fails it")]

use std::path::Path;

#[path = "../../fuzz/src/targets.rs"]
mod targets;

use targets::{TARGETS, Target};

/// Changes of each seed.
const CHANGES: u64 = 30;
/// Seeds above this are played as they are only.
const CHANGED_BYTES_MAX: usize = 20_000;

/// SplitMix64: the changes are the same each time.
struct Draws(u64);

impl Draws {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % limit.max(1) as u64).unwrap()
    }
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The words of the dictionary, in libFuzzer's form: one in quotes a line, with `\\`, `\"` and `\xAB`.
fn dictionary() -> Vec<Vec<u8>> {
    let text = std::fs::read_to_string(root().join("fuzz/dictionary.txt")).unwrap();
    let words = text.lines().filter(|line| line.starts_with('"'));
    let unquoted = words.map(|line| {
        let (mut word, mut rest) = (Vec::new(), line[1..line.len() - 1].bytes());
        while let Some(byte) = rest.next() {
            match byte {
                b'\\' => match rest.next().unwrap() {
                    b'x' => {
                        let digits = [rest.next().unwrap(), rest.next().unwrap()];
                        word.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
                    }
                    other => word.push(other),
                },
                byte => word.push(byte),
            }
        }
        word
    });
    unquoted.collect()
}

fn seeds(target: &Target) -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for folder in target.seeds {
        let mut files: Vec<_> =
            std::fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        seeds.extend(files.iter().filter(|path| path.is_file()).map(|path| std::fs::read(path).unwrap()));
    }
    assert!(!seeds.is_empty(), "{} has no seeds", target.name);
    seeds
}

fn changed(seed: &[u8], words: &[Vec<u8>], others: &[Vec<u8>], draws: &mut Draws) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=draws.below(4) {
        let at = draws.below(bytes.len() + 1);
        let until = (at + draws.below(40)).min(bytes.len());
        match draws.below(6) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..until)),
            2 => drop(bytes.splice(at..at, words[draws.below(words.len())].iter().copied())),
            3 => drop(bytes.splice(at..until, words[draws.below(words.len())].iter().copied())),
            4 if at < bytes.len() => bytes[at] ^= 1 << draws.below(8),
            _ => {
                let other = &others[draws.below(others.len())];
                let from = draws.below(other.len());
                let piece = other[from..(from + draws.below(200)).min(other.len())].to_vec();
                drop(bytes.splice(at..at, piece));
            }
        }
    }
    bytes
}

#[test]
fn every_seed_and_small_changes_of_it_are_read_to_their_end() {
    let words = dictionary();
    for target in TARGETS {
        let seeds = seeds(target);
        for (number, seed) in seeds.iter().enumerate() {
            (target.read)(seed);
            if CHANGED_BYTES_MAX < seed.len() {
                continue;
            }
            for change in 0..CHANGES {
                let mut draws = Draws((number as u64) << 20 | change);
                let input = changed(seed, &words, &seeds, &mut draws);
                let read = std::panic::catch_unwind(|| (target.read)(&input));
                if read.is_err() {
                    let kept = std::env::temp_dir().join(format!("{}-{number}-{change}", target.name));
                    std::fs::write(&kept, &input).unwrap();
                    panic!("{}: seed {number}, change {change}, kept as {}", target.name, kept.display());
                }
            }
        }
    }
}
