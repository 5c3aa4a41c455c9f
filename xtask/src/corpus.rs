//! The fuzzer's corpus: a folder with a file for each input where libFuzzer works, one text file in the tree.
//!
//! In the file, each line is an input in hexadecimal; lines that begin with `#` are remarks.

use anyhow::{Context, Result};
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// Makes `folder` hold the inputs of a file, and nothing else.
///
/// # Errors
/// The file is no corpus, or the folder cannot be written.
pub fn unpack(file: &Path, folder: &Path) -> Result<()> {
    empty(folder)?;
    let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    for (number, line) in text.lines().enumerate() {
        if line.starts_with('#') {
            continue;
        }
        let input = bytes(line).with_context(|| format!("{}:{} is no input", file.display(), number + 1))?;
        fs::write(folder.join(format!("{number:04}")), input)?;
    }
    Ok(())
}

/// Writes the inputs of a folder to a file, always in the same order; returns how many there are.
///
/// # Errors
/// The folder cannot be read, or the file not written.
pub fn pack(folder: &Path, file: &Path) -> Result<usize> {
    let inputs = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let inputs = inputs.map(|input| Ok(fs::read(input?.path())?));
    let mut lines = inputs
        .map(|input: Result<_>| Ok(line(&input?)))
        .collect::<Result<Vec<_>>>()?;
    lines.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    let text = format!("# Written by `cargo xtask fuzz --minimise`.\n{}", lines.concat());
    fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
    Ok(lines.len())
}

/// Makes an empty folder.
///
/// # Errors
/// It cannot be made.
pub fn empty(folder: &Path) -> Result<()> {
    // It may not be there.
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))
}

fn line(input: &[u8]) -> String {
    let mut line = String::with_capacity(2 * input.len() + 1);
    for byte in input {
        let _ = write!(line, "{byte:02x}");
    }
    line.push('\n');
    line
}

fn bytes(line: &str) -> Option<Vec<u8>> {
    let pairs = line.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
    let whole = line.len().is_multiple_of(2);
    whole.then(|| pairs.map(byte).collect()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_a_line() {
        let every: Vec<u8> = (0..=255).collect();
        for input in [&[][..], &[0], &every] {
            let line = line(input);
            assert_eq!(bytes(line.strip_suffix('\n').unwrap()).unwrap(), input);
        }
        for wrong in ["0", "0g", "001"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }
}
