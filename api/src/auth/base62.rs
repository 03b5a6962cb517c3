//! Bytes as letters and digits: safe in a URL, a shell and a double click.

/// Digits, upper case, lower case: the order of ASCII, so that texts sort like numbers.
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The number in `bytes`, most significant first, written with exactly `digits` digits.
///
/// Digits that do not fit are cut off at the front, so give enough: 43 for 32 bytes.
pub(crate) fn encode(bytes: &[u8], digits: usize) -> String {
    let mut number = bytes.to_vec();
    let mut text = vec![ALPHABET[0]; digits];
    for digit in text.iter_mut().rev() {
        let mut remainder = 0_u32;
        for byte in &mut number {
            let value = remainder << 8 | u32::from(*byte);
            *byte = u8::try_from(value / 62).expect("a quotient below 256, for the remainder is below 62");
            remainder = value % 62;
        }
        *digit = ALPHABET[usize::try_from(remainder).expect("a remainder below 62")];
    }
    String::from_utf8(text).expect("the alphabet is ASCII")
}

/// Whether the text is made of these digits only.
pub(crate) fn is_base62(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_written_in_base_62_with_leading_zeros() {
        for (bytes, digits, text) in [
            (vec![], 2, "00"),
            (vec![0], 3, "000"),
            (vec![61], 2, "0z"),
            (vec![62], 2, "10"),
            (vec![0x0f, 0x04], 3, "100"),
            (vec![0xff; 32], 43, "yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp1"),
        ] {
            let encoded = encode(&bytes, digits);
            assert_eq!(encoded.len(), digits);
            assert_eq!(encoded, text, "{bytes:?}");
        }
    }

    #[test]
    fn different_secrets_are_different_texts() {
        let mut texts = std::collections::BTreeSet::new();
        for bit in 0..256 {
            let mut bytes = [0_u8; 32];
            bytes[bit / 8] = 1 << (bit % 8);
            assert!(texts.insert(encode(&bytes, 43)), "no bit is cut off: {bit}");
        }
        assert!(texts.iter().all(|text| is_base62(text) && text.len() == 43));
    }
}
