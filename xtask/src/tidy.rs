//! Rules of the house that no compiler knows. `cargo test` checks them too.

use crate::workspace::root;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::process::ExitCode;

/// Folders with our own source.
const FOLDERS: [&str; 5] = ["lb-common", "lb-ebpf", "lb-userspace", "tests", "xtask"];

/// Longer than this and a file is about more than one thing.
const MAX_LINES: usize = 600;
/// Files that may be longer, each with its reason.
const LONG_FILES: [(&str, &str); 0] = [];

/// Files and folders that may contain `unsafe`.
const UNSAFE: [&str; 10] = [
    "lb-ebpf/src/",
    "lb-common/src/abi/user.rs",
    "lb-common/src/packet.rs",
    "lb-userspace/build.rs",
    "lb-userspace/src/datapath/",
    "lb-userspace/src/net/sys.rs",
    "tests/bpf/src/",
    "tests/src/",
    "tests/datapath/",
    // In the text of its tests.
    "xtask/src/tidy.rs",
];

/// What must not occur in a folder outside of tests, and why.
const FORBIDDEN: [(&str, &[&str], &str); 3] = [
    (
        "lb-userspace/core/src/",
        &[
            "tokio",
            "aya",
            "serde",
            "std::fs",
            "std::env",
            "std::process",
            "std::thread",
            "std::net",
            "std::io",
            "Instant",
            "SystemTime",
            "println!",
            "eprintln!",
        ],
        "the core has no I/O, no clock and no runtime: they are arguments",
    ),
    (
        "lb-common/src/datapath/",
        &["std", "alloc", "aya"],
        "the packet path runs in the kernel",
    ),
    (
        "lb-userspace/src/wire/",
        &["tokio", "crate::api", "crate::daemon"],
        "wire is conversion only",
    ),
];

/// Prints every breach.
///
/// # Errors
/// The tree cannot be read.
pub fn run() -> Result<ExitCode> {
    let breaches = breaches()?;
    for breach in &breaches {
        println!("{breach}");
    }
    Ok(if breaches.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn breaches() -> Result<Vec<String>> {
    let root = root();
    let mut found = Vec::new();
    for folder in FOLDERS {
        visit(&root, &root.join(folder), &mut found)?;
    }
    found.sort();
    Ok(found)
}

fn visit(root: &Path, folder: &Path, found: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() && name != "target" && name != "corpus" {
            visit(root, &path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            let name = path
                .strip_prefix(root)
                .unwrap_or(&path)
                .to_string_lossy()
                .into_owned();
            check(&name, &text, found);
        }
    }
    Ok(())
}

/// Checks one file.
fn check(file: &str, text: &str, found: &mut Vec<String>) {
    let first = text
        .lines()
        .find(|line| !line.trim().is_empty() && !line.starts_with("#!["));
    if !first.is_some_and(|line| line.starts_with("//!")) {
        found.push(format!(
            "{file}: does not begin with `//!`: why is this file there?"
        ));
    }
    let lines = text.lines().count();
    if lines > MAX_LINES && !LONG_FILES.iter().any(|(long, _)| *long == file) {
        found.push(format!(
            "{file}: {lines} lines, more than {MAX_LINES}: it is about more than one thing"
        ));
    }
    let mut in_tests = false;
    for (number, line) in text.lines().enumerate() {
        in_tests |= line.starts_with("#[cfg(test)]");
        let code = line.split("//").next().unwrap_or_default();
        let at = format!("{file}:{}", number + 1);
        if has_word(code, "unsafe") && !UNSAFE.iter().any(|allowed| file.starts_with(allowed)) {
            found.push(format!(
                "{at}: `unsafe` has its own files, and this is none of them"
            ));
        }
        for (folder, words, reason) in FORBIDDEN {
            let here = !in_tests && file.starts_with(folder);
            for word in words.iter().filter(|word| here && has_word(code, word)) {
                found.push(format!("{at}: `{word}`: {reason}"));
            }
        }
    }
}

/// Whether `word` stands in `code` by itself, not as part of an identifier or a string of its own.
fn has_word(code: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(|c| part(c) || c == '"' || c == '`')
            && !after.is_some_and(|c| part(c) || c == '"' || c == '`')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_keeps_the_rules_of_the_house() {
        let breaches = breaches().unwrap();
        assert!(breaches.is_empty(), "\n{}", breaches.join("\n"));
    }

    #[test]
    fn breaches_are_found() {
        let cases = [
            ("lb-common/src/x.rs", "fn x() {}\n", "does not begin"),
            (
                "lb-common/src/x.rs",
                "//! X.\nfn x() { unsafe { y() } }\n",
                "x.rs:2",
            ),
            ("lb-userspace/core/src/x.rs", "//! X.\nuse std::fs;\n", "no I/O"),
            (
                "lb-common/src/x.rs",
                &"//! X.\n".repeat(MAX_LINES + 1),
                "lines, more than",
            ),
        ];
        for (file, text, expected) in cases {
            let mut found = Vec::new();
            check(file, text, &mut found);
            assert!(
                found.iter().any(|breach| breach.contains(expected)),
                "{file}: {found:?}"
            );
        }
    }

    #[test]
    fn what_is_allowed_is_not_a_breach() {
        let cases = [
            ("lb-ebpf/src/x.rs", "#![no_std]\n//! X.\nunsafe fn x() {}\n"),
            (
                "lb-common/src/x.rs",
                "//! X.\n#![deny(unsafe_code)]\n// unsafe in words\n",
            ),
            (
                "lb-userspace/core/src/x.rs",
                "//! X.\nuse std::collections::BTreeMap;\nuse core::net::IpAddr;\n",
            ),
        ];
        for (file, text) in cases {
            let mut found = Vec::new();
            check(file, text, &mut found);
            assert_eq!(found, Vec::<String>::new(), "{file}");
        }
    }
}
