//! Facts in an entry's item.
//!
//! Facts that have meter `m`, account `a`, resource `x`, region `r`, category `c` and export `g` (absent for none) in common
//! stand together. Their rest is in `f`, [`ROW_BYTES`] each, numbers big endian: time and end in microseconds since 1970 (the
//! least number for no end), revision, content hash, kind (0 amount, 1 level, 2 live, 3 gone, 4 export end), decimals,
//! mantissa (16 bytes), position in `slices`.

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use ingest::dynamodb::{self, Item, ItemError};
use ingest::{
    AccountId, ContentHash, Dimensions, ExportGeneration, FactKey, FactValue, Meter, Quantity, Timestamp, UsageFact,
};

use crate::entry::EntryFact;

/// Bytes of a fact beside what its group has in common.
pub(super) const ROW_BYTES: usize = 8 + 8 + 8 + 16 + 1 + 1 + 16 + 2;
const KINDS: [&str; 5] = ["amount", "level", "live", "gone", "export_end"];
/// Stands for no end. Every fact's time and end are years 1 to 9999.
const NO_END: i64 = i64::MIN;

pub(super) fn items(facts: &[EntryFact]) -> AttributeValue {
    AttributeValue::L(facts.chunk_by(is_of_one_group).map(group_item).collect())
}

fn is_of_one_group(a: &EntryFact, b: &EntryFact) -> bool {
    let (a, b) = (&a.fact, &b.fact);
    (a.key.meter, a.key.account, &a.key.resource, &a.dimensions)
        == (b.key.meter, b.key.account, &b.key.resource, &b.dimensions)
        && a.key.export.as_ref().map(|export| &export.scope) == b.key.export.as_ref().map(|export| &export.scope)
}

fn group_item(facts: &[EntryFact]) -> AttributeValue {
    let UsageFact { key, dimensions, .. } = &facts[0].fact;
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let mut item = Item::from([
        ("m".to_owned(), text(key.meter.as_str())),
        ("a".to_owned(), text(key.account.as_str())),
        ("x".to_owned(), text(&key.resource)),
        ("r".to_owned(), text(&dimensions.region)),
        ("c".to_owned(), text(&dimensions.category)),
        ("f".to_owned(), AttributeValue::B(Blob::new(facts.iter().flat_map(row).collect::<Vec<u8>>()))),
    ]);
    if let Some(export) = &key.export {
        item.insert("g".to_owned(), text(&export.scope));
    }
    AttributeValue::M(item)
}

fn row(EntryFact { fact, hash, slice }: &EntryFact) -> Vec<u8> {
    let (mantissa, scale) = fact.value.number().unwrap_or(Quantity::ZERO).parts();
    let kind = KINDS.iter().position(|kind| *kind == fact.value.kind()).expect("every kind is listed");
    let mut row = Vec::with_capacity(ROW_BYTES);
    row.extend(fact.key.time.micros().to_be_bytes());
    row.extend(fact.end.map_or(NO_END, Timestamp::micros).to_be_bytes());
    row.extend(fact.revision.to_be_bytes());
    row.extend(hash.as_bytes());
    row.push(u8::try_from(kind).expect("there are five kinds"));
    row.push(scale);
    row.extend(mantissa.to_be_bytes());
    row.extend(slice.to_be_bytes());
    row
}

pub(super) fn read(groups: &[AttributeValue]) -> Result<Vec<EntryFact>, ItemError> {
    let mut facts = Vec::new();
    for group in groups {
        read_group(group.as_m().map_err(|_| ItemError { attribute: "facts" })?, &mut facts)?;
    }
    Ok(facts)
}

fn read_group(group: &Item, facts: &mut Vec<EntryFact>) -> Result<(), ItemError> {
    let wrong = |attribute| ItemError { attribute };
    let meter = Meter::parse_stored(dynamodb::text(group, "m")?).map_err(|_| wrong("m"))?;
    let account = AccountId::parse(dynamodb::text(group, "a")?).map_err(|_| wrong("a"))?;
    let resource = dynamodb::text(group, "x")?;
    let dimension = |attribute| dynamodb::text(group, attribute).map(|value| value.to_owned().into());
    let dimensions = Dimensions { region: dimension("r")?, category: dimension("c")? };
    let scope = if group.contains_key("g") { Some(dynamodb::text(group, "g")?) } else { None };
    let (rows, rest) = dynamodb::bytes(group, "f")?.as_chunks::<ROW_BYTES>();
    if rows.is_empty() || !rest.is_empty() {
        return Err(wrong("f"));
    }
    for row in rows {
        let row = read_row(row).ok_or(wrong("f"))?;
        let export = scope.map(|scope| ExportGeneration { scope: scope.to_owned().into(), number: row.revision });
        let key = FactKey { meter, account, resource: resource.to_owned().into(), time: row.time, export };
        let fact =
            UsageFact { key, revision: row.revision, dimensions: dimensions.clone(), end: row.end, value: row.value };
        facts.push(EntryFact { fact, hash: row.hash, slice: row.slice });
    }
    Ok(())
}

struct Row {
    time: Timestamp,
    end: Option<Timestamp>,
    revision: u64,
    hash: ContentHash,
    value: FactValue,
    slice: u16,
}

fn read_row(row: &[u8; ROW_BYTES]) -> Option<Row> {
    let (time, row) = row.split_first_chunk::<8>()?;
    let (end, row) = row.split_first_chunk::<8>()?;
    let (revision, row) = row.split_first_chunk::<8>()?;
    let (hash, row) = row.split_first_chunk::<16>()?;
    let ([kind, scale], row) = row.split_first_chunk::<2>()?;
    let (mantissa, slice) = row.split_first_chunk::<16>()?;
    let kind = *KINDS.get(usize::from(*kind))?;
    let number = Quantity::new(i128::from_be_bytes(*mantissa), *scale)?;
    let end = i64::from_be_bytes(*end);
    Some(Row {
        time: Timestamp::from_micros(i64::from_be_bytes(*time))?,
        end: if end == NO_END { None } else { Some(Timestamp::from_micros(end)?) },
        revision: u64::from_be_bytes(*revision),
        hash: ContentHash::from_bytes(*hash),
        value: FactValue::read(kind, (!matches!(kind, "live" | "gone")).then_some(number))?,
        slice: u16::from_be_bytes(slice.try_into().ok()?),
    })
}
