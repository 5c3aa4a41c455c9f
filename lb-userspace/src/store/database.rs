//! The database: rows by key, changed in transactions that are whole or not there.

use super::{backup, private};
use anyhow::{Context, Result, anyhow, bail};
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Layout of the tables. A file of an older one is migrated when it is opened, one of a newer one is left alone.
const VERSION: u64 = 2;

/// `version`.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// A table of rows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Table {
    /// The objects that are in force.
    Objects,
    /// What was in force, see [`super::RevisionLog`].
    Revisions,
    /// The files of revisions.
    Texts,
    /// Files that are not deployed.
    Drafts,
    /// What must be brought to its end after a crash.
    Unfinished,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Objects,
        Self::Revisions,
        Self::Texts,
        Self::Drafts,
        Self::Unfinished,
    ];

    const fn definition(self) -> TableDefinition<'static, &'static str, &'static [u8]> {
        TableDefinition::new(match self {
            Self::Objects => "objects",
            Self::Revisions => "revisions",
            Self::Texts => "texts",
            Self::Drafts => "drafts",
            Self::Unfinished => "unfinished",
        })
    }
}

/// One row: what the bytes mean is the matter of those who made them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Row {
    pub key: String,
    pub value: Vec<u8>,
}

/// What becomes of one row; `None`: it goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RowChange {
    pub table: Table,
    pub key: String,
    pub value: Option<Vec<u8>>,
}

/// Rows of all tables but the objects'.
pub type Further = BTreeMap<Table, Vec<Row>>;

/// An open database. No other process can open it meanwhile.
#[derive(Debug)]
pub struct Database {
    redb: redb::Database,
}

/// What was found in `state_dir`.
#[derive(Debug)]
pub struct Opened {
    /// `None`: nothing can be changed.
    pub database: Option<Database>,
    /// The objects.
    pub rows: Vec<Row>,
    /// Nothing when the objects come from their copy.
    pub further: Further,
    /// What the operator must know.
    pub problem: Option<String>,
}

/// What was read from a file.
struct Read {
    database: Database,
    /// All rows.
    tables: Further,
    /// It was damaged, and what could be mended is there.
    is_mended: bool,
}

/// Why a database cannot be used.
enum Unusable {
    /// It is not what this program has written.
    Damaged(anyhow::Error),
    /// It may be well, and must not be touched.
    Closed(anyhow::Error),
}

/// Opens the database of `state_dir`, or makes it. A damaged one is kept aside, and its objects come from their copy as far
/// as there is one: forwarding goes on whatever happened.
#[must_use]
pub fn open(state_dir: &Path) -> Opened {
    let path = state_dir.join("lb.redb");
    if let Some(loss) = lost(state_dir, &path) {
        return replace(state_dir, &path, &loss);
    }
    match Database::open(&path) {
        Ok(Read {
            database,
            mut tables,
            is_mended,
        }) => Opened {
            database: Some(database),
            rows: tables.remove(&Table::Objects).unwrap_or_default(),
            further: tables,
            problem: is_mended.then(|| {
                format!(
                    "{} was damaged and has been mended: the last changes may be lost; compare with {}",
                    path.display(),
                    backup::path(state_dir).display()
                )
            }),
        },
        Err(Unusable::Closed(error)) => {
            let (rows, copy) = copied(state_dir);
            Opened {
                database: None,
                rows,
                further: Further::new(),
                problem: Some(format!(
                    "objects cannot be changed through the API: {}: {error:#}; {copy}",
                    path.display()
                )),
            }
        }
        Err(Unusable::Damaged(error)) => replace(state_dir, &path, &error),
    }
}

/// Why there cannot be what the copy says was there: a full disk or an interrupted restore leaves an empty file, or none.
fn lost(state_dir: &Path, path: &Path) -> Option<anyhow::Error> {
    let flaw = match fs::metadata(path) {
        Ok(file) if file.len() == 0 => "it is empty",
        Err(error) if error.kind() == ErrorKind::NotFound => "it is missing",
        Ok(_) | Err(_) => return None,
    };
    // A copy that cannot be read is told when there is something to be told.
    let copy = backup::read(state_dir).transpose()?;
    let has_objects = copy.map_or(true, |copy| !copy.rows.is_empty());
    has_objects.then(|| anyhow!(flaw))
}

/// Puts a new database in the place of a damaged one.
fn replace(state_dir: &Path, path: &Path, damage: &anyhow::Error) -> Opened {
    let (rows, copy) = copied(state_dir);
    let start_anew = || -> Result<(Database, Option<PathBuf>)> {
        let aside = set_aside(state_dir, path)?;
        let Read { mut database, .. } = Database::open(path).map_err(|unusable| match unusable {
            Unusable::Damaged(error) | Unusable::Closed(error) => error,
        })?;
        let changes: Vec<RowChange> = rows
            .iter()
            .map(|row| RowChange {
                table: Table::Objects,
                key: row.key.clone(),
                value: Some(row.value.clone()),
            })
            .collect();
        database.commit([changes.as_slice()])?;
        Ok((database, aside))
    };
    match start_anew() {
        Ok((database, aside)) => Opened {
            database: Some(database),
            rows,
            further: Further::new(),
            problem: Some(match aside {
                Some(aside) => format!(
                    "{} was damaged ({damage:#}) and is kept as {}, with revisions and drafts; {copy}",
                    path.display(),
                    aside.display()
                ),
                None => format!("{} was made anew: {damage:#}; {copy}", path.display()),
            }),
        },
        Err(error) => Opened {
            database: None,
            rows,
            further: Further::new(),
            problem: Some(format!(
                "{} is damaged ({damage:#}), and a new one cannot be made: {error:#}; objects cannot be changed through the \
                 API; {copy}",
                path.display()
            )),
        },
    }
}

/// Keeps a damaged file for whoever wants to look into it; `None`: there is nothing to keep.
fn set_aside(state_dir: &Path, path: &Path) -> Result<Option<PathBuf>> {
    if fs::metadata(path).map_or(true, |file| file.len() == 0) {
        return Ok(None);
    }
    let aside = (1..)
        .map(|number| state_dir.join(format!("lb.redb.damaged-{number}")))
        .find(|aside| !aside.exists())
        .ok_or_else(|| anyhow!("no name is free"))?;
    fs::rename(path, &aside).with_context(|| format!("keep it as {}", aside.display()))?;
    Ok(Some(aside))
}

/// The copy of the objects, and words about it.
fn copied(state_dir: &Path) -> (Vec<Row>, String) {
    match backup::read(state_dir) {
        Ok(Some(copy)) => {
            let words = format!(
                "{} objects come from the copy of {} in {}: later changes are lost",
                copy.rows.len(),
                copy.written,
                copy.path.display()
            );
            (copy.rows, words)
        }
        Ok(None) => (
            Vec::new(),
            "there is no copy of the objects: those of the file are in force alone".to_owned(),
        ),
        Err(error) => (
            Vec::new(),
            format!(
                "the copy of the objects is of no use either ({error:#}): those of the file are in force alone"
            ),
        ),
    }
}

impl Database {
    fn open(path: &Path) -> Result<Read, Unusable> {
        let opened = catch_unwind(AssertUnwindSafe(|| Self::open_checked(path)));
        // What the library's code did not expect in a file is damage, too.
        opened.unwrap_or_else(|_| Err(Unusable::Damaged(anyhow!("reading it fails"))))
    }

    fn open_checked(path: &Path) -> Result<Read, Unusable> {
        use redb::{DatabaseError, StorageError};
        let is_new = fs::metadata(path).map_or(true, |file| file.len() == 0);
        if let Some(folder) = path.parent() {
            private::folder(folder).map_err(Unusable::Closed)?;
        }
        private::reserve(path)
            .context("make it")
            .map_err(Unusable::Closed)?;
        let mut redb = redb::Database::create(path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => Unusable::Closed(anyhow!("another process has it open")),
            DatabaseError::UpgradeRequired(version) => Unusable::Closed(anyhow!(
                "it has the file format {version} of another version of lb"
            )),
            DatabaseError::Storage(StorageError::Io(error))
                if !matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) =>
            {
                Unusable::Closed(anyhow::Error::new(error).context("open it"))
            }
            other => Unusable::Damaged(other.into()),
        })?;
        if is_new {
            // The name of the file is to outlive a loss of power like what it holds.
            let folder = path.parent().unwrap_or(Path::new("."));
            File::open(folder)
                .and_then(|folder| folder.sync_all())
                .context("write the state folder")
                .map_err(Unusable::Closed)?;
        }
        let is_whole = redb
            .check_integrity()
            .map_err(|error| Unusable::Damaged(error.into()))?;
        let database = Self { redb };
        database.migrate()?;
        let mut tables = Further::new();
        for table in Table::ALL {
            tables.insert(table, database.rows(table).map_err(Unusable::Damaged)?);
        }
        Ok(Read {
            database,
            tables,
            is_mended: !is_whole,
        })
    }

    /// Brings the tables to the present layout.
    fn migrate(&self) -> Result<(), Unusable> {
        let run = || -> Result<Option<u64>> {
            let transaction = self.redb.begin_write()?;
            {
                let mut meta = transaction.open_table(META)?;
                let found = meta.get("version")?.map(|version| version.value());
                match found {
                    Some(VERSION) => return Ok(None),
                    Some(newer @ VERSION..) => return Ok(Some(newer)),
                    // Migrations from older layouts stand here, one after another.
                    Some(0) => bail!("its layout is 0, which never was"),
                    // The first layout had objects alone.
                    Some(_) | None => {}
                }
                for table in Table::ALL {
                    transaction.open_table(table.definition())?;
                }
                meta.insert("version", VERSION)?;
            }
            transaction.commit()?;
            Ok(None)
        };
        match run() {
            Ok(None) => Ok(()),
            Ok(Some(newer)) => Err(Unusable::Closed(anyhow!(
                "it was written by a later version of lb (layout {newer}, this one knows {VERSION})"
            ))),
            Err(error) => Err(Unusable::Damaged(error)),
        }
    }

    fn rows(&self, table: Table) -> Result<Vec<Row>> {
        let transaction = self.redb.begin_read()?;
        let table = transaction.open_table(table.definition())?;
        let mut rows = Vec::new();
        for row in table.iter()? {
            let (key, value) = row?;
            rows.push(Row {
                key: key.value().to_owned(),
                value: value.value().to_owned(),
            });
        }
        Ok(rows)
    }

    /// Makes all changes in one transaction, in order. They are on the disk when it returns.
    ///
    /// # Errors
    /// When they cannot be written: then none of them is there.
    pub fn commit<'c>(&mut self, changes: impl IntoIterator<Item = &'c [RowChange]>) -> Result<()> {
        let transaction = self.redb.begin_write()?;
        {
            let mut tables = BTreeMap::new();
            for table in Table::ALL {
                tables.insert(table, transaction.open_table(table.definition())?);
            }
            for change in changes.into_iter().flatten() {
                let Some(table) = tables.get_mut(&change.table) else {
                    continue;
                };
                match &change.value {
                    Some(value) => drop(table.insert(change.key.as_str(), value.as_slice())?),
                    None => drop(table.remove(change.key.as_str())?),
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

/// Makes a database of the first layout, which had objects and what was set by hand alone.
#[cfg(test)]
pub(crate) fn write_first_layout(state_dir: &Path, rows: &[(&str, &str)]) {
    let redb = redb::Database::create(state_dir.join("lb.redb")).unwrap();
    let transaction = redb.begin_write().unwrap();
    {
        let mut objects = transaction.open_table(Table::Objects.definition()).unwrap();
        for (key, value) in rows {
            objects.insert(*key, value.as_bytes()).unwrap();
        }
        let mut meta = transaction.open_table(META).unwrap();
        meta.insert("version", 1).unwrap();
    }
    transaction.commit().unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str) -> RowChange {
        RowChange {
            table: Table::Objects,
            key: key.to_owned(),
            value: Some(value.as_bytes().to_vec()),
        }
    }

    fn texts(opened: &Opened) -> Vec<(&str, &str)> {
        opened
            .rows
            .iter()
            .map(|row| (row.key.as_str(), std::str::from_utf8(&row.value).unwrap()))
            .collect()
    }

    #[test]
    fn what_is_committed_is_there_after_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let mut opened = open(&folder.path().join("new"));
        assert!(opened.problem.is_none() && opened.rows.is_empty());
        let database = opened.database.as_mut().unwrap();
        database.commit([&[put("a", "1"), put("b", "2")][..]]).unwrap();
        let gone = RowChange {
            table: Table::Objects,
            key: "a".to_owned(),
            value: None,
        };
        database
            .commit([&[gone, put("c", "3")][..], &[put("b", "4")][..]])
            .unwrap();
        // Nobody else can open it meanwhile, and nobody takes it for damaged.
        let second = open(&folder.path().join("new"));
        assert!(second.database.is_none() && second.problem.unwrap().contains("another process"));
        drop(opened);
        let opened = open(&folder.path().join("new"));
        assert_eq!(texts(&opened), [("b", "4"), ("c", "3")]);
    }

    #[test]
    fn a_damaged_database_is_kept_aside_and_its_copy_is_used() {
        for damage in ["garbage", "truncated", "middle", "empty", "missing"] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("lb.redb");
            let mut opened = open(folder.path());
            let rows: Vec<RowChange> = (0..500)
                .map(|n| put(&format!("k{n:03}"), &"v".repeat(200)))
                .collect();
            opened.database.as_mut().unwrap().commit([&rows[..]]).unwrap();
            drop(opened);
            let kept = Row {
                key: "k".to_owned(),
                value: b"v".to_vec(),
            };
            backup::write(folder.path(), [(&kept.key, &kept.value)]).unwrap();
            let mut bytes = fs::read(&path).unwrap();
            match damage {
                "garbage" => bytes = b"not a database".repeat(1000),
                "truncated" => bytes.truncate(5000),
                "empty" | "missing" => bytes.clear(),
                _ => {
                    let at = bytes
                        .windows(9)
                        .position(|window| window == b"vvvvvvvvv")
                        .unwrap();
                    bytes[at] = b'x';
                }
            }
            let is_there = !bytes.is_empty();
            fs::write(&path, bytes).unwrap();
            if damage == "missing" {
                fs::remove_file(&path).unwrap();
            }
            let opened = open(folder.path());
            assert_eq!(opened.rows, std::slice::from_ref(&kept), "{damage}");
            let problem = opened.problem.unwrap();
            let flaw = if is_there { "damaged-1" } else { damage };
            assert!(
                problem.contains(flaw) && problem.contains("1 objects come from the copy"),
                "{problem}"
            );
            assert_eq!(folder.path().join("lb.redb.damaged-1").exists(), is_there);
            drop(opened.database);
            // The new one has them.
            let opened = open(folder.path());
            assert!(opened.problem.is_none(), "{:?}", opened.problem);
            assert_eq!(opened.rows, [kept]);
        }
    }

    #[test]
    fn the_first_layout_is_migrated() {
        let folder = tempfile::tempdir().unwrap();
        write_first_layout(folder.path(), &[("a", "1")]);
        let mut opened = open(folder.path());
        assert!(opened.problem.is_none(), "{:?}", opened.problem);
        assert_eq!(texts(&opened), [("a", "1")]);
        let draft = RowChange {
            table: Table::Drafts,
            ..put("d", "2")
        };
        opened.database.as_mut().unwrap().commit([&[draft][..]]).unwrap();
        drop(opened);
        let opened = open(folder.path());
        assert_eq!(texts(&opened), [("a", "1")]);
        assert_eq!(opened.further[&Table::Drafts][0].value, b"2");
    }

    #[test]
    fn a_database_of_a_later_version_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let opened = open(folder.path());
        let redb = &opened.database.as_ref().unwrap().redb;
        let transaction = redb.begin_write().unwrap();
        transaction
            .open_table(META)
            .unwrap()
            .insert("version", 99)
            .unwrap();
        transaction.commit().unwrap();
        drop(opened);
        let before = fs::read(folder.path().join("lb.redb")).unwrap();
        let opened = open(folder.path());
        assert!(opened.database.is_none());
        let problem = opened.problem.unwrap();
        assert!(problem.contains("later version of lb"), "{problem}");
        assert_eq!(
            fs::read(folder.path().join("lb.redb")).unwrap().len(),
            before.len()
        );
    }
}
