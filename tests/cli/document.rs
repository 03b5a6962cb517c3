//! `docs/cli.md` describes the program that is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::support::{clean, run};

/// The help of a command, told by its words.
fn help(words: &[String]) -> String {
    let ran = run(clean(env!("CARGO_BIN_EXE_securebase")).args(words).arg("--help"));
    ran.succeeded();
    ran.out
}

/// The commands below a command, by its help.
fn commands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
    names.map(str::to_owned).collect()
}

/// The options, arguments and variables that a help lists.
fn mentioned(help: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in help.lines().skip_while(|line| *line != "Options:" && *line != "Arguments:") {
        let line = line.trim_start();
        if line.starts_with('-') {
            let words = line.split([' ', ',']).filter(|word| word.starts_with("--"));
            found.extend(words.map(str::to_owned));
        }
        for variable in line.split("[env: ").skip(1) {
            found.extend(variable.split(['=', ']']).next().map(str::to_owned));
        }
    }
    found
}

/// The part of the document below a heading, up to the next one.
fn section<'a>(document: &'a str, heading: &str) -> &'a str {
    let at = document.find(&format!("{heading}\n")).unwrap_or_else(|| panic!("docs/cli.md has no heading {heading:?}"));
    let rest = &document[at + heading.len()..];
    &rest[..rest.find("\n## ").unwrap_or(rest.len())]
}

#[test]
fn every_command_option_and_variable_is_in_the_document() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md");
    let document = fs::read_to_string(path).unwrap();
    let everywhere = mentioned(&help(&[]));
    let general = section(&document, "## Options of every command");
    for option in &everywhere {
        assert!(general.contains(&format!("`{option}")), "the options of every command lack {option}");
    }
    let mut waiting: Vec<Vec<String>> = vec![Vec::new()];
    let mut seen = 0;
    while let Some(words) = waiting.pop() {
        let help = help(&words);
        let below = commands(&help);
        if below.is_empty() {
            seen += 1;
            let own = section(&document, &format!("## `securebase {}`", words.join(" ")));
            for option in mentioned(&help).difference(&everywhere) {
                assert!(own.contains(&format!("`{option}")), "the section of {words:?} lacks {option}");
            }
        }
        waiting.extend(below.into_iter().map(|name| [words.as_slice(), &[name]].concat()));
    }
    assert!(10 < seen, "only {seen} commands found in the help");
}

#[test]
fn help_teaches_without_a_home() {
    for words in [&["replay"] as &[&str], &["invoice", "run"], &["usage"]] {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let text = help(&words);
        assert!(text.contains("Usage: securebase"), "{text}");
        assert!(text.contains("--home <DIR>"), "{text}");
    }
    assert!(help(&[]).contains("securebase demo"));
}
