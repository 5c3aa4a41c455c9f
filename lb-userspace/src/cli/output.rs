//! Writing to stdout and stderr, where the reader may have gone.

use super::{Exit, Failure};
use serde::Serialize;
use std::io::{ErrorKind, IsTerminal, Write};

/// Writes data to stdout. A reader that has seen enough (`lb flows | head`) ends the command without words.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// As [`print`], for bytes.
pub(super) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(|error| match error.kind() {
            ErrorKind::BrokenPipe => Failure::silent(Exit::Ok),
            _ => Failure::new(Exit::Failed, format!("cannot write to stdout: {error}")),
        })
}

/// Writes JSON and a newline to stdout.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_vec(value)
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot write JSON: {error}")))?;
    text.push(b'\n');
    print_bytes(&text)
}

/// Writes an answer of the daemon, which is JSON already, and a newline.
pub(super) fn print_answer(body: &[u8]) -> Result<(), Failure> {
    print_bytes(&[body, b"\n"].concat())
}

/// Writes words to stderr; nobody can be told when that fails.
pub(super) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", text.trim_end_matches('\n'));
}

/// Whether stdout takes colours: NO_COLOR and CLICOLOR_FORCE are honoured, else only a terminal does.
pub(super) fn stdout_has_color() -> bool {
    anstream::AutoStream::choice(&std::io::stdout()) != anstream::ColorChoice::Never
}

/// As [`stdout_has_color`], for stderr.
pub(super) fn stderr_has_color() -> bool {
    anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never
}

/// Whether somebody looks at stderr.
pub(super) fn stderr_is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// Whether somebody looks at stdout.
pub(super) fn stdout_is_terminal() -> bool {
    std::io::stdout().is_terminal()
}
