//! Query parameters: each known, given once, and readable, or a problem that names it.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::problem::{Problem, shortened};

/// The decoded query string of a request.
#[derive(Debug, Default)]
pub(crate) struct Parameters(Vec<(String, String)>);

impl<S: Sync> FromRequestParts<S> for Parameters {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri).map(|query| Self(query.0)).map_err(
            |_| {
                let mut problem = Problem::parameter("", "the query string cannot be read; percent-encode it");
                problem.parameter = None;
                problem
            },
        )
    }
}

impl Parameters {
    /// Refuses every name not listed, and every name given twice.
    pub(crate) fn only(&self, known: &[&str]) -> Result<(), Problem> {
        for (index, (name, _)) in self.0.iter().enumerate() {
            let shown = shortened(name);
            if !known.contains(&name.as_str()) {
                let hint = if known.is_empty() {
                    "this resource takes none".to_owned()
                } else {
                    format!("this resource takes {}", known.join(", "))
                };
                return Err(Problem::parameter(name, format!("unknown query parameter `{shown}`; {hint}")));
            }
            if self.0[..index].iter().any(|(earlier, _)| earlier == name) {
                let detail = format!("query parameter `{shown}` is given more than once; give it once");
                return Err(Problem::parameter(name, detail));
            }
        }
        Ok(())
    }

    /// The value of a parameter, if it is given.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// Reads a parameter if it is given. The reader's complaint follows the parameter's name.
    pub(crate) fn read<T>(
        &self,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Problem> {
        self.get(name)
            .map(|value| {
                read(value).map_err(|why| Problem::parameter(name, format!("query parameter `{name}`: {why}")))
            })
            .transpose()
    }

    /// Reads a whole number from 1 to `max`.
    pub(crate) fn read_limit(&self, max: u32, default: u32) -> Result<u32, Problem> {
        let read = |value: &str| match value.parse() {
            Ok(limit) if (1..=max).contains(&limit) => Ok(limit),
            _ => Err(format!("expected a whole number from 1 to {max}")),
        };
        Ok(self.read("limit", read)?.unwrap_or(default))
    }
}
