//! The aggregation format of the Amazon Kinesis Producer Library, written and read without a protobuf library.
//!
//! A record is the magic number, a protobuf message, and the message's MD5 (`aggregation-format.md` of
//! awslabs/amazon-kinesis-producer):
//!
//! ```text
//! message AggregatedRecord { repeated string partition_key_table = 1; repeated string explicit_hash_key_table = 2;
//!                            repeated Record records = 3; }
//! message Record { required uint64 partition_key_index = 1; optional uint64 explicit_hash_key_index = 2;
//!                  required bytes data = 3; repeated Tag tags = 4; }
//! ```

const MAGIC: [u8; 4] = [0xf3, 0x89, 0x9a, 0xc2];
const MD5_BYTES: usize = 16;

/// Protobuf keys: field number and wire type, 0 for a varint and 2 for bytes with their length.
const PARTITION_KEY_TABLE: u8 = 1 << 3 | 2;
const RECORDS: u8 = 3 << 3 | 2;
const PARTITION_KEY_INDEX: u8 = 1 << 3;
const DATA: u8 = 3 << 3 | 2;

/// Writes one record whose user records all have the same partition key.
pub(crate) struct Aggregate {
    bytes: Vec<u8>,
}

impl Aggregate {
    pub(crate) fn new(partition_key: &str) -> Self {
        let mut bytes = MAGIC.to_vec();
        bytes.push(PARTITION_KEY_TABLE);
        push_bytes(&mut bytes, partition_key.as_bytes());
        Self { bytes }
    }

    pub(crate) fn push(&mut self, user_record: &[u8]) {
        // The index of the only key, then the key, length and bytes of the user record.
        let length = 2 + 1 + varint_bytes(user_record.len()) + user_record.len();
        self.bytes.push(RECORDS);
        push_varint(&mut self.bytes, length);
        self.bytes.extend([PARTITION_KEY_INDEX, 0, DATA]);
        push_bytes(&mut self.bytes, user_record);
    }

    /// Bytes of the record if it were finished now.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + MD5_BYTES
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        let digest = md5::compute(&self.bytes[MAGIC.len()..]);
        self.bytes.extend(digest.0);
        self.bytes
    }
}

/// The user records of a record; `None` if it is not in this format.
pub(crate) fn user_records(record: &[u8]) -> Option<Vec<&[u8]>> {
    let (message, digest) = record.strip_prefix(&MAGIC)?.split_last_chunk::<MD5_BYTES>()?;
    if md5::compute(message).0 != *digest {
        return None;
    }
    let mut found = Vec::new();
    let mut rest = message;
    while let Some(field) = next_field(&mut rest)? {
        if let Field::Bytes(RECORDS, mut record) = field {
            let mut user_record = None;
            while let Some(field) = next_field(&mut record)? {
                if let Field::Bytes(DATA, bytes) = field {
                    user_record = Some(bytes);
                }
            }
            found.push(user_record?);
        }
    }
    Some(found)
}

enum Field<'a> {
    Varint,
    Bytes(u8, &'a [u8]),
}

/// `None` for a message that breaks off or has a field of another kind, `Some(None)` at its end.
fn next_field<'a>(rest: &mut &'a [u8]) -> Option<Option<Field<'a>>> {
    let Some((&key, after)) = rest.split_first() else { return Some(None) };
    *rest = after;
    let number = varint(rest)?;
    match key & 7 {
        0 => Some(Some(Field::Varint)),
        2 => {
            let (bytes, after) = rest.split_at_checked(usize::try_from(number).ok()?)?;
            *rest = after;
            Some(Some(Field::Bytes(key, bytes)))
        }
        _ => None,
    }
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn push_varint(out: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn varint_bytes(number: usize) -> usize {
    let bits = (usize::BITS - number.leading_zeros()).max(1);
    bits.div_ceil(7) as usize
}

fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    push_varint(out, bytes.len());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_byte_for_byte_what_another_implementation_writes() {
        let mut aggregate = Aggregate::new("partition_key");
        aggregate.push(b"data");
        let length = aggregate.len();
        let record = aggregate.finish();
        // From the documentation of the Elixir package ex_kpl, which changes the first byte of the magic number.
        let mut expected = MAGIC.to_vec();
        expected.extend(b"\x0a\x0dpartition_key\x1a\x08\x08\x00\x1a\x04data");
        expected.extend([208, 54, 153, 218, 90, 34, 47, 163, 33, 8, 173, 27, 217, 85, 161, 78]);
        assert_eq!(record, expected);
        assert_eq!(length, record.len());
    }

    #[test]
    fn user_records_of_any_length_come_back_and_a_changed_byte_is_found() {
        let user_records_in = [0, 1, 127, 128, 16_383, 16_384, 300_000].map(|length| vec![7_u8; length]);
        let mut aggregate = Aggregate::new("31");
        user_records_in.iter().for_each(|user_record| aggregate.push(user_record));
        let mut record = aggregate.finish();
        assert_eq!(user_records(&record).unwrap(), user_records_in.each_ref().map(Vec::as_slice));
        record[1_000] ^= 1;
        assert_eq!(user_records(&record), None);
        for short in [0, 3, 4, 19] {
            assert_eq!(user_records(&record[..short]), None);
        }
    }
}
