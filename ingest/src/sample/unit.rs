//! Units of samples: what a value is in the raw units of its meter.

use crate::{FactValue, MeterDefinition, Quantity, RawUnit, Reason};

/// A unit that a sample may be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleUnit {
    /// Its names.
    pub names: &'static [&'static str],
    /// How many raw units one is.
    pub factor: i128,
    /// Whether it says how much there is at a time, or how much there was in a stretch.
    pub says: Says,
}

/// What a value in a unit says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// So much in the stretch that begins at the sample's time.
    Amount,
    /// So much at the sample's time and until the next.
    Level,
}

const fn amount(names: &'static [&'static str], factor: i128) -> SampleUnit {
    SampleUnit { names, factor, says: Says::Amount }
}

const fn level(names: &'static [&'static str], factor: i128) -> SampleUnit {
    SampleUnit { names, factor, says: Says::Level }
}

const BYTES: &[&str] = &["bytes", "Bytes", "By", "B"];

// GB and its like are left out: for some they are 10^9 bytes, on AWS bills 2^30. GiB leaves no doubt.
const BYTE_AMOUNTS: &[SampleUnit] = &[
    amount(BYTES, 1),
    amount(&["KiB"], 1 << 10),
    amount(&["MiB"], 1 << 20),
    amount(&["GiB"], 1 << 30),
    amount(&["TiB"], 1 << 40),
];
const STORED_BYTES: &[SampleUnit] = &[
    level(BYTES, 1),
    level(&["KiB"], 1 << 10),
    level(&["MiB"], 1 << 20),
    level(&["GiB"], 1 << 30),
    level(&["TiB"], 1 << 40),
    amount(&["byte_seconds"], 1),
    amount(&["byte_hours"], 3_600),
    amount(&["GiB_hours"], 3_600 << 30),
];
const ONE: &[&str] = &["each", "count", "Count", "1"];
const AMOUNTS: &[SampleUnit] = &[amount(ONE, 1)];
const LEVELS: &[SampleUnit] = &[level(ONE, 1)];
const LEVELS_OVER_TIME: &[SampleUnit] = &[level(ONE, 1), amount(&["unit_seconds"], 1), amount(&["unit_hours"], 3_600)];

/// The units that samples of a meter may be in; none for a meter that has no samples.
pub fn units_of(definition: &MeterDefinition) -> &'static [SampleUnit] {
    use crate::Aggregation::{Count, Max, Sum, TimeWeighted};
    match (definition.raw_unit, definition.aggregation) {
        (RawUnit::Byte, Sum) => BYTE_AMOUNTS,
        (RawUnit::ByteSecond, TimeWeighted) => STORED_BYTES,
        (RawUnit::Each, Sum | Count) => AMOUNTS,
        (RawUnit::Each, Max) => LEVELS,
        (RawUnit::UnitSecond, TimeWeighted) => LEVELS_OVER_TIME,
        _ => &[],
    }
}

/// A value of a meter in this unit, in raw units.
pub(super) fn read(definition: &MeterDefinition, unit: &str, number: Quantity) -> Result<FactValue, Reason> {
    let units = units_of(definition);
    if units.is_empty() {
        return Err(Reason::FactMalformed);
    }
    let unit = units.iter().find(|known| known.names.contains(&unit)).ok_or(Reason::UnitUnknown)?;
    let value = number.checked_mul(unit.factor).ok_or(Reason::FactMalformed)?;
    Ok(match unit.says {
        Says::Amount => FactValue::Amount(value),
        Says::Level => FactValue::Level(value),
    })
}
