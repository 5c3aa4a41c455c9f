//! `objects.json`: a copy of the objects that needs no database to be read.

use super::{Row, private};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const VERSION: u32 = 1;

/// What the copy holds.
pub struct Copy {
    pub path: PathBuf,
    pub rows: Vec<Row>,
    /// RFC 3339.
    pub written: String,
}

#[derive(Serialize, Deserialize)]
struct Contents {
    version: u32,
    written: String,
    /// Each value is JSON itself, and stands here as text.
    objects: Vec<(String, String)>,
}

/// Where it is.
pub fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("objects.json")
}

/// The copy; `None` when there is none.
///
/// # Errors
/// When it cannot be read or understood.
pub fn read(state_dir: &Path) -> Result<Option<Copy>> {
    let path = path(state_dir);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let contents: Contents =
        serde_json::from_slice(&bytes).with_context(|| format!("understand {}", path.display()))?;
    ensure!(
        contents.version == VERSION,
        "{} is of another version",
        path.display()
    );
    let rows = contents.objects.into_iter().map(|(key, value)| Row {
        key,
        value: value.into_bytes(),
    });
    Ok(Some(Copy {
        rows: rows.collect(),
        path,
        written: contents.written,
    }))
}

/// Replaces the copy as a whole.
///
/// # Errors
/// When it cannot be written.
pub fn write<'r>(state_dir: &Path, rows: impl IntoIterator<Item = (&'r String, &'r Vec<u8>)>) -> Result<()> {
    let contents = Contents {
        version: VERSION,
        written: crate::wire::rfc3339(SystemTime::now()),
        objects: rows
            .into_iter()
            .map(|(key, value)| (key.clone(), String::from_utf8_lossy(value).into_owned()))
            .collect(),
    };
    let path = path(state_dir);
    let new = path.with_extension("json.new");
    let text = serde_json::to_vec(&contents)?;
    let write = || -> io::Result<()> {
        let mut file = private::create(&new)?;
        file.write_all(&text)?;
        file.sync_data()?;
        fs::rename(&new, &path)
    };
    write().with_context(|| format!("write {}", path.display()))
}
