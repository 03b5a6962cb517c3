//! Where a deployment says which source each meter is counted from.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use ingest::Declarations;

use crate::cli::Global;

/// The file in the home that is read when no other is named.
const FILE: &str = "sources.toml";

/// The file that holds: the one named, else the home's.
pub(crate) fn path(global: &Global) -> PathBuf {
    global.sources.clone().unwrap_or_else(|| global.home.join(FILE))
}

/// Reads the declarations; there are none without a file.
pub(crate) fn load(global: &Global) -> anyhow::Result<Arc<Declarations>> {
    let path = path(global);
    let declarations =
        Declarations::parse(&text(global)?).with_context(|| format!("the declared sources in {}", path.display()))?;
    Ok(Arc::new(declarations))
}

/// The file as it is written; nothing without one.
pub(crate) fn text(global: &Global) -> anyhow::Result<String> {
    let path = path(global);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text),
        // A file that was named is meant to be there.
        Err(error) if error.kind() == ErrorKind::NotFound && global.sources.is_none() => Ok(String::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read the declared sources in {}", path.display())),
    }
}
