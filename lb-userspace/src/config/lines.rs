//! Files beside the configuration that hold something a line: every mistake is reported, at its line.

use super::diagnostic::Source;
use super::files;
use super::reader::Value;
use std::path::Path;

/// Larger files are refused: a million prefixes need about 20 MiB.
const MAX_SIZE: u64 = 64 << 20;

/// Mistakes of one file that are told one by one.
const MAX_TOLD: usize = 20;

/// Reads the file that `value` names; a `#` or `;` begins a comment. `None` after a mistake.
pub(super) fn read<T>(
    value: &Value<'_>,
    path: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Option<Vec<T>> {
    if !path.starts_with('/') {
        value.error(
            format!("{path:?} is not an absolute path"),
            "start it with `/`".to_owned(),
        );
        return None;
    }
    let text = match files::text(Path::new(path), files::Kind::Regular, MAX_SIZE) {
        Ok(text) => text,
        Err(message) => {
            value.error(message, None);
            return None;
        }
    };
    let mut items = Vec::new();
    let mut mistakes = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let said = line.split(['#', ';']).next().unwrap_or_default();
        let content = said.trim();
        if !content.is_empty() {
            let begin = start + said.len() - said.trim_start().len();
            match read(content) {
                Ok(item) => items.push(item),
                Err(message) => mistakes.push((begin..begin + content.len(), message)),
            }
        }
        start += line.len();
    }
    if mistakes.is_empty() {
        return Some(items);
    }
    let source = Source::new(path, &text);
    let more = mistakes.len().saturating_sub(MAX_TOLD);
    for (span, message) in mistakes.into_iter().take(MAX_TOLD) {
        value.sink.error_in(&source, span, &value.place, message);
    }
    if more > 0 {
        value.error(format!("{more} more lines of {path} are wrong"), None);
    }
    None
}
