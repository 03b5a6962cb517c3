//! What a recount is told beside the logs: which source counts, and which meters are data.

use std::collections::BTreeMap;

use crate::facts::Adds;
use crate::time::instant;

/// Which source each meter is counted from, and the meters of samples that are data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    declared: Vec<Row>,
    /// Meters that are data, by name, and how they add up.
    pub meters: BTreeMap<String, Adds>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    meter: String,
    source: String,
    /// `None`: of every account that has no row of its own.
    accounts: Option<Vec<String>>,
    from: i64,
}

impl Rules {
    /// Nothing declared, and these meters that are data.
    pub fn with_meters(meters: BTreeMap<String, Adds>) -> Self {
        Self { declared: Vec::new(), meters }
    }

    /// Reads a file of declared sources (TOML); the reason, if it is none.
    pub fn declare(&mut self, toml: &str) -> Result<(), String> {
        let table: toml::Table = toml.parse().map_err(|error: toml::de::Error| error.to_string())?;
        let rows = match table.get("declared") {
            None => return Ok(()),
            Some(rows) => rows.as_array().ok_or("declared is no list of tables")?,
        };
        for row in rows {
            let text = |key: &str| row.get(key).and_then(toml::Value::as_str).map(str::to_owned);
            let accounts = row.get("accounts").and_then(toml::Value::as_array);
            let accounts = accounts.map(|all| all.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect());
            let from = match text("from") {
                Some(from) => instant(&from).ok_or("a declaration's from is no instant")?,
                None => i64::MIN,
            };
            let (meter, source) = text("meter").zip(text("source")).ok_or("a declaration lacks its meter or source")?;
            self.declared.push(Row { meter, source, accounts, from });
        }
        Ok(())
    }

    /// Whether usage of a meter counts from this source for an account at a time: the latest declaration that names the
    /// account, else the latest that names none, else what holds where nothing is declared.
    pub(crate) fn counts(&self, source: &str, meter: &str, account: &str, at: i64) -> bool {
        let begun = |row: &&Row| row.meter == meter && row.from <= at;
        let names = |row: &&Row| row.accounts.as_ref().is_some_and(|all| all.iter().any(|one| one == account));
        let own = self.declared.iter().filter(begun).filter(names).max_by_key(|row| row.from);
        let everyones =
            || self.declared.iter().filter(begun).filter(|row| row.accounts.is_none()).max_by_key(|row| row.from);
        match own.or_else(everyones) {
            Some(row) => row.source == source,
            None => source == default_of(meter),
        }
    }
}

fn default_of(meter: &str) -> &'static str {
    match meter {
        "cloudtrail_events" => "cloudtrail",
        "guardduty_findings" => "guardduty",
        "security_hub_findings" => "security_hub",
        "config_rule_evaluations" => "rule_invocations",
        "accounts" | "organizational_units" | "service_control_policies" => "organizations",
        _ => "usage_samples",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_declaration_of_an_account_goes_before_everyones() {
        let mut rules = Rules::default();
        rules
            .declare(
                r#"
                [[declared]]
                meter = "config_rule_evaluations"
                source = "put_evaluations"
                [[declared]]
                meter = "config_rule_evaluations"
                source = "usage_samples"
                accounts = ["111122223333"]
                from = "2026-10-01T00:00:00Z"
                "#,
            )
            .unwrap();
        let begun = instant("2026-10-01T00:00:00Z").unwrap();
        let source = |account, at| {
            let all = ["put_evaluations", "usage_samples", "rule_invocations"];
            all.into_iter().find(|source| rules.counts(source, "config_rule_evaluations", account, at))
        };
        assert_eq!(source("111122223333", begun), Some("usage_samples"));
        assert_eq!(source("111122223333", begun - 1), Some("put_evaluations"));
        assert_eq!(source("444455556666", begun), Some("put_evaluations"));
        assert!(rules.counts("cloudtrail", "cloudtrail_events", "444455556666", 0));
        assert!(Rules::default().declare("[[declared]]\nmeter = \"x\"").is_err());
    }
}
