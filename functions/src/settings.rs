//! Settings from the environment: read first, every problem reported at once, no secret among them.

use std::fmt;
use std::ops::RangeInclusive;

use thiserror::Error;

/// Everything that is wrong with the environment of a function. Stop: an operator has to change it.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("{}", problems.join("; "))]
pub struct SettingsError {
    /// One sentence a problem.
    pub problems: Vec<String>,
}

/// Reads settings one after another and remembers what is wrong with them.
pub struct Settings<'a> {
    read: &'a dyn Fn(&str) -> Option<String>,
    problems: Vec<String>,
}

impl fmt::Debug for Settings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("problems", &self.problems).finish_non_exhaustive()
    }
}

/// Where the stream and the tables are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// The Kinesis stream's name, and the prefix of the tables' names.
    pub name: String,
}

/// Where a function finds PostgreSQL, and who it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseSettings {
    /// `postgresql://USER@HOST:PORT/DATABASE`, without a password.
    pub url: String,
    /// The name or ARN of the secret that holds the password; without it the server asks for none.
    pub password_secret: Option<String>,
}

impl<'a> Settings<'a> {
    /// Settings as `read` finds them; an empty one counts as absent, because Lambda cannot unset a variable.
    pub fn new(read: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { read, problems: Vec::new() }
    }

    /// A setting that may be absent.
    pub fn optional(&self, name: &str) -> Option<String> {
        (self.read)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// A setting that must be there; `what` says what it is.
    pub fn required(&mut self, name: &str, what: &str) -> String {
        let value = self.optional(name);
        if value.is_none() {
            self.problem(format!("{name} is not set: {what}"));
        }
        value.unwrap_or_default()
    }

    /// A whole number in a range, with a default.
    pub fn whole(&mut self, name: &str, range: RangeInclusive<u64>, default: u64) -> u64 {
        let Some(text) = self.optional(name) else { return default };
        match text.parse() {
            Ok(number) if range.contains(&number) => number,
            _ => {
                self.problem(format!(
                    "{name} is {text:?}: give a whole number from {} to {}",
                    range.start(),
                    range.end()
                ));
                default
            }
        }
    }

    /// Something that is wrong with a setting, in one sentence without a full stop.
    pub fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// The stream and the tables.
    pub fn stores(&mut self) -> StoreSettings {
        self.required("AWS_REGION", "Lambda sets it");
        StoreSettings { name: self.optional("SECUREBASE_NAME").unwrap_or_else(|| "securebase".to_owned()) }
    }

    /// PostgreSQL; `role` is whom the function works as.
    pub fn database(&mut self, role: &str) -> DatabaseSettings {
        const FORM: &str = "postgresql://USER@HOST:PORT/DATABASE";
        let name = "SECUREBASE_DATABASE_URL";
        let url = self.required(name, &format!("give {FORM}, its user being {role} or a login that is nothing else"));
        let login = url.strip_prefix("postgresql://").or_else(|| url.strip_prefix("postgres://"));
        let login = login.and_then(|rest| rest.split_once('@')).map(|(login, _)| login);
        match login {
            _ if url.is_empty() => {}
            // The value is not repeated: it may hold a password.
            None | Some("") => self.problem(format!("{name} is not of the form {FORM}")),
            Some(login) if login.contains(':') => self.problem(format!(
                "{name} holds a password: keep it in Secrets Manager and name the secret in SECUREBASE_DATABASE_SECRET"
            )),
            Some(_) => {}
        }
        DatabaseSettings { url, password_secret: self.optional("SECUREBASE_DATABASE_SECRET") }
    }

    /// The settings, unless one of them is wrong.
    pub fn finish<T>(self, settings: T) -> Result<T, SettingsError> {
        if self.problems.is_empty() { Ok(settings) } else { Err(SettingsError { problems: self.problems }) }
    }
}

/// Reads the environment of this process.
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(set: &[(&str, &str)], expected: &[&str]) -> (StoreSettings, DatabaseSettings, u64) {
        let read = |name: &str| set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned());
        let mut settings = Settings::new(&read);
        let stores = settings.stores();
        let database = settings.database("securebase_aggregator");
        let cache = settings.whole("CACHE", 1..=8, 4);
        let problems = settings.finish(()).map_err(|error| error.problems).err().unwrap_or_default();
        assert_eq!(problems, expected);
        (stores, database, cache)
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        check(
            &[("SECUREBASE_NAME", " "), ("CACHE", "9")],
            &[
                "AWS_REGION is not set: Lambda sets it",
                "SECUREBASE_DATABASE_URL is not set: give postgresql://USER@HOST:PORT/DATABASE, its user being \
                 securebase_aggregator or a login that is nothing else",
                "CACHE is \"9\": give a whole number from 1 to 8",
            ],
        );
    }

    #[test]
    fn a_password_in_an_address_is_refused_and_not_repeated() {
        let region = ("AWS_REGION", "eu-central-1");
        for (url, problem) in [
            (
                "postgres://who:secret@host:5432/usage",
                "SECUREBASE_DATABASE_URL holds a password: keep it in Secrets Manager and name the secret in \
                 SECUREBASE_DATABASE_SECRET",
            ),
            (
                "host=x password=secret",
                "SECUREBASE_DATABASE_URL is not of the form postgresql://USER@HOST:PORT/DATABASE",
            ),
            (
                "postgresql://host/usage",
                "SECUREBASE_DATABASE_URL is not of the form postgresql://USER@HOST:PORT/DATABASE",
            ),
        ] {
            check(&[region, ("SECUREBASE_DATABASE_URL", url)], &[problem]);
        }
    }

    #[test]
    fn what_is_absent_has_its_default() {
        let url = "postgresql://securebase_aggregator@db.internal:5432/securebase";
        let (stores, database, cache) = check(
            &[("AWS_REGION", "eu-central-1"), ("SECUREBASE_DATABASE_URL", url), ("SECUREBASE_DATABASE_SECRET", "")],
            &[],
        );
        assert_eq!(stores.name, "securebase");
        assert_eq!(database, DatabaseSettings { url: url.to_owned(), password_secret: None });
        assert_eq!(cache, 4);
    }
}
