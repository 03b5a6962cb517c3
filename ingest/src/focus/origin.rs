//! Which export a file is an edition of, and which edition.

use crate::{Delivered, Timestamp};

/// What an export is called where its name does not say.
const UNNAMED: &str = "default";
/// The folder above a period's files in the layout of AWS Data Exports:
/// `PREFIX/EXPORT/data/BILLING_PERIOD=2026-10/[TIME-ID/]EXPORT-00001.csv.gz`.
const DATA_FOLDER: &str = "data";
const PERIOD_FOLDER: &str = "BILLING_PERIOD=";

/// What the name and the time of a file say of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExportOrigin<'a>(pub(super) Delivered<'a>);

impl ExportOrigin<'_> {
    /// The export's name in the layout of AWS Data Exports; files elsewhere are all editions of one.
    pub(super) fn export(&self) -> &str {
        let folders: Vec<&str> = self.0.name.split('/').collect();
        let period = folders.iter().rposition(|folder| folder.starts_with(PERIOD_FOLDER));
        match period.and_then(|period| folders.get(period.checked_sub(2)?..period)) {
            Some([export, folder]) if *folder == DATA_FOLDER && !export.is_empty() => export,
            _ => UNNAMED,
        }
    }

    /// The number of the edition: the time in its name, else when it was written, in microseconds; 0 where neither is known.
    pub(super) fn generation(&self) -> u64 {
        let named = self.0.name.rsplit('/').find_map(leading_instant);
        let at = named.or(self.0.written_at).map_or(0, Timestamp::micros);
        u64::try_from(at).unwrap_or_default()
    }

    /// Whether the file is only a part of an edition that has several: `-00002` and so on, as AWS Data Exports counts them.
    pub(super) fn is_later_part(&self) -> bool {
        let file = self.0.name.rsplit('/').next().unwrap_or_default();
        let stem = file.split('.').next().unwrap_or_default();
        let number = stem.rsplit('-').next().filter(|digits| digits.len() == 5 && stem.contains('-'));
        number.and_then(|digits| digits.parse::<u32>().ok()).is_some_and(|number| 1 < number)
    }
}

/// The instant a folder or file begins with: `2026-11-02T06:30:00.000Z-8ba3...` or `20261102T063000Z...`.
fn leading_instant(name: &str) -> Option<Timestamp> {
    let end = name.find('Z')?;
    let text = name.get(..=end)?;
    if let Ok(instant) = Timestamp::parse_rfc3339(text) {
        return Some(instant);
    }
    let basic = chrono::NaiveDateTime::parse_from_str(text, "%Y%m%dT%H%M%SZ").ok()?;
    Some(Timestamp::from(basic.and_utc()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(name: &str) -> ExportOrigin<'_> {
        ExportOrigin(Delivered { name, written_at: Timestamp::parse_rfc3339("2026-11-03T00:00:00Z").ok() })
    }

    #[test]
    fn the_layout_of_aws_names_export_and_edition_and_other_files_are_one_export() {
        let aws = origin(
            "s3://b/pre/fix/monthly/data/BILLING_PERIOD=2026-10/2026-11-02T06:30:00.000Z-8ba3/monthly-00001.csv.gz",
        );
        assert_eq!((aws.export(), aws.is_later_part()), ("monthly", false));
        assert_eq!(aws.generation(), 1_793_601_000_000_000);
        let overwritten = origin("monthly/data/BILLING_PERIOD=2026-10/monthly-00003.csv.gz");
        assert_eq!((overwritten.export(), overwritten.is_later_part()), ("monthly", true));
        assert_eq!(overwritten.generation(), 1_793_664_000_000_000, "when it was written");
        for other in ["/home/me/focus.csv.gz", "BILLING_PERIOD=2026-10/x.csv", "x/y/BILLING_PERIOD=2026-10/z.csv"] {
            assert_eq!(origin(other).export(), UNNAMED, "{other}");
        }
        assert_eq!(origin("20261102T063000Z.csv").generation(), 1_793_601_000_000_000);
        assert_eq!(ExportOrigin("focus.csv".into()).generation(), 0);
        for (name, is_later) in
            [("a-00001.csv", false), ("a-00002.csv.gz", true), ("a-2026.csv", false), ("00002.csv", false)]
        {
            assert_eq!(origin(name).is_later_part(), is_later, "{name}");
        }
    }
}
