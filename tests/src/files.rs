//! Large files: made, carried over HTTP, and compared.

use crate::netns::Netns;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const MEGABYTE: usize = 1 << 20;

/// Fills a file with bytes that do not repeat, so that a segment that is lost, doubled or misplaced shows.
///
/// # Panics
/// It cannot be written.
pub fn generate(path: &Path, megabytes: usize) {
    let file = File::create(path).expect("the file can be made");
    let mut file = BufWriter::with_capacity(MEGABYTE, file);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..megabytes * MEGABYTE / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.write_all(&state.to_le_bytes())
            .expect("the file can be written");
    }
    file.flush().expect("the file can be written");
}

/// A file's checksum.
///
/// # Panics
/// There is none.
#[must_use]
pub fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output();
    let output = output.expect("sha256sum is there");
    assert!(output.status.success(), "sha256sum {}", path.display());
    first_word(&output.stdout)
}

fn first_word(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.split_whitespace().next().unwrap_or_default().to_owned()
}

/// The checksum of what a client downloads.
///
/// # Errors
/// What curl says when it fails, or takes longer than `limit`.
pub fn download(client: &Netns, url: &str, limit: Duration) -> Result<String, String> {
    let script = format!(
        "set -o pipefail; curl --silent --show-error --fail --globoff --max-time {} '{url}' | sha256sum",
        limit.as_secs()
    );
    let output = client.output(Command::new("bash").args(["-c", &script]));
    if output.status.success() {
        Ok(first_word(&output.stdout))
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Lets a client upload a file.
///
/// # Errors
/// As for [`download`].
pub fn upload(client: &Netns, path: &Path, url: &str, limit: Duration) -> Result<(), String> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--globoff", "--max-time"])
        .arg(limit.as_secs().to_string())
        .arg("--upload-file")
        .arg(path)
        .arg(url);
    let output = client.output(&mut curl);
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
