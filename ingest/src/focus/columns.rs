//! Which column of a file is which, whatever their order.

use std::collections::BTreeMap;

use csv::ByteRecord;

/// What stands for nothing, beside an empty field: the word that AWS and others write.
const NULL: &str = "NULL";

macro_rules! columns {
    ($($field:ident $name:literal,)+; $($optional:ident $optional_name:literal,)+) => {
        /// Where the columns stand that decide about a row.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub(super) struct Columns {
            $($field: usize,)+
            $($optional: Option<usize>,)+
            count: usize,
        }

        /// The fields of a row that decide; empty where the row has nothing.
        #[derive(Clone, Copy, Debug)]
        pub(super) struct Fields<'a> {
            $(pub(super) $field: &'a str,)+
            $(pub(super) $optional: &'a str,)+
        }

        impl Columns {
            /// Columns without which no row can be read.
            pub(super) const REQUIRED: &'static [&'static str] = &[$($name,)+];

            /// Reads the header; the name of a column that is missing, or there twice, otherwise.
            pub(super) fn read(header: &ByteRecord) -> Result<Self, String> {
                let mut places = BTreeMap::new();
                for (place, name) in header.iter().enumerate() {
                    let name = String::from_utf8_lossy(name).trim().to_owned();
                    let is_ours = [$($name,)+ $($optional_name,)+].contains(&name.as_str());
                    if is_ours && places.insert(name.clone(), place).is_some() {
                        return Err(name);
                    }
                }
                Ok(Self {
                    $($field: places.get($name).copied().ok_or($name)?,)+
                    $($optional: places.get($optional_name).copied(),)+
                    count: header.len(),
                })
            }

            /// The fields of a row; `None` if it has another number of fields than the header, or they are no text.
            pub(super) fn fields<'a>(&self, row: &'a ByteRecord) -> Option<Fields<'a>> {
                if row.len() != self.count {
                    return None;
                }
                Some(Fields {
                    $($field: field(row, self.$field)?,)+
                    $($optional: match self.$optional { Some(place) => field(row, place)?, None => "" },)+
                })
            }
        }
    };
}

columns! {
    provider "ProviderName",
    billing_account "BillingAccountId",
    sub_account "SubAccountId",
    billing_period_start "BillingPeriodStart",
    billing_period_end "BillingPeriodEnd",
    charge_period_start "ChargePeriodStart",
    charge_period_end "ChargePeriodEnd",
    charge_category "ChargeCategory",
    charge_description "ChargeDescription",
    service "ServiceName",
    consumed_quantity "ConsumedQuantity",
    consumed_unit "ConsumedUnit",
    ;
    region "RegionId",
    resource "ResourceId",
    usage_type "x_UsageType",
}

fn field(row: &ByteRecord, place: usize) -> Option<&str> {
    let text = std::str::from_utf8(row.get(place)?).ok()?;
    Some(if text == NULL { "" } else { text })
}
