//! Reading files, each up to a size, and without waiting for anybody where a running daemon reads them.

use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io::{Error, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// What may be read.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// Also what must be waited for: commands get pipes from their users.
    Any,
    /// A pipe or a device would have a daemon wait for ever.
    Regular,
}

/// All bytes of a file of at most `most` bytes.
///
/// # Errors
/// Says what is wrong with the file.
pub(super) fn bytes(path: &Path, kind: Kind, most: u64) -> Result<Vec<u8>, String> {
    let unreadable = |error: Error| format!("cannot read the file: {error}");
    let file = match kind {
        Kind::Any => File::open(path).map_err(unreadable)?,
        Kind::Regular => regular(path).map_err(unreadable)?,
    };
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > most {
        return Err(format!("the file is larger than {} MiB", most >> 20));
    }
    Ok(bytes)
}

/// As [`bytes`], as text.
///
/// # Errors
/// As there, or where it is not UTF-8.
pub(super) fn text(path: &Path, kind: Kind, most: u64) -> Result<String, String> {
    String::from_utf8(bytes(path, kind, most)?).map_err(|error| {
        format!(
            "the file is not UTF-8: byte {} is not",
            error.utf8_error().valid_up_to()
        )
    })
}

fn regular(path: &Path) -> Result<File, Error> {
    // Opening a pipe would already wait for somebody who writes.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.cast_signed())
        .open(path)?;
    let kind = file.metadata()?.file_type();
    let other = match kind {
        _ if kind.is_file() => return Ok(file),
        _ if kind.is_dir() => "a folder",
        _ if kind.is_fifo() => "a pipe",
        _ if kind.is_socket() => "a socket",
        _ => "a device",
    };
    Err(Error::other(format!("it is {other}, not a regular file")))
}
