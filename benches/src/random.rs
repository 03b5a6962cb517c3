//! Random choices that are a function of a seed and a number.

use std::fmt::Write as _;

/// What a choice is about, so that one seed gives unrelated choices.
#[derive(Clone, Copy)]
pub(crate) enum Stream {
    Account = 1,
    Owner,
    Delivery,
    Size,
    Event,
    Copy,
    Burst,
    Digest,
    Finding,
    Evaluation,
    Organization,
    Sample,
    Export,
    Envelope,
    Simulation,
}

/// SplitMix64 (Steele, Lea, Flood, 2014). Ten lines of our own, because a library may change its numbers between versions.
#[derive(Clone, Debug)]
pub(crate) struct Draws(u64);

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Draws {
    /// The choices for one thing. Mixing is one-to-one, so the first number drawn differs for every `index` of a stream.
    pub(crate) fn new(seed: u64, stream: Stream, index: u64) -> Self {
        Self(mix(mix(seed.wrapping_add((stream as u64).wrapping_mul(STEP))) ^ index))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// From 0 to `limit` - 1; 0 when `limit` is 0.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        let product = u128::from(self.next()) * u128::from(limit);
        u64::try_from(product >> 64).expect("the upper half has 64 bits")
    }

    pub(crate) fn percent(&mut self, percent: u8) -> bool {
        self.below(100) < u64::from(percent)
    }

    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        let index = self.below(choices.len() as u64);
        choices[usize::try_from(index).expect("below a length")]
    }

    /// The 16 bytes of a version 4 UUID.
    pub(crate) fn uuid(&mut self) -> u128 {
        let random = (u128::from(self.next()) << 64) | u128::from(self.next());
        (random & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62)
    }

    pub(crate) fn push_letters_and_digits(&mut self, out: &mut String, count: usize) {
        self.push_from(out, count, b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789");
    }

    pub(crate) fn push_capitals_and_digits(&mut self, out: &mut String, count: usize) {
        self.push_from(out, count, b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567");
    }

    pub(crate) fn push_hex(&mut self, out: &mut String, count: usize) {
        self.push_from(out, count, b"0123456789abcdef");
    }

    /// Ten characters from one number: six bits of it choose one.
    fn push_from(&mut self, out: &mut String, count: usize, alphabet: &[u8]) {
        let mut bits = 0;
        for n in 0..count {
            if n % 10 == 0 {
                bits = self.next();
            }
            let index = (bits & 0x3f) as usize % alphabet.len();
            out.push(char::from(alphabet[index]));
            bits >>= 6;
        }
    }
}

/// Appends a UUID in its written form.
pub(crate) fn push_uuid(out: &mut String, uuid: u128) {
    write!(
        out,
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        uuid >> 96,
        (uuid >> 80) & 0xffff,
        (uuid >> 64) & 0xffff,
        (uuid >> 48) & 0xffff,
        uuid & 0xffff_ffff_ffff
    )
    .expect("a string takes every write");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_published_algorithm() {
        let mut draws = Draws(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| draws.next()).collect();
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn a_uuid_says_that_it_is_random() {
        let mut draws = Draws::new(1, Stream::Event, 0);
        for _ in 0..100 {
            let mut text = String::new();
            push_uuid(&mut text, draws.uuid());
            assert_eq!((text.len(), &text[14..15]), (36, "4"));
            assert!("89ab".contains(&text[19..20]), "{text}");
        }
    }
}
