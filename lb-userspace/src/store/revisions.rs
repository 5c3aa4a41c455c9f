//! What was in force: the last revisions, each with the file and the objects of its time.
//!
//! A revision holds its file (a text that several may share) and what undoes its changes of objects. The objects of an
//! older revision are those of now with everything undone that came since, newest first: so a change of one object costs
//! one object, however many there are.

use super::{Row, RowChange, Table};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// So many revisions are kept, the one that is in force included.
const KEPT: usize = 50;
/// So many changes are one revision at most: with a slow disk and busy clients a way back would undo minutes otherwise. Older
/// ones are joined, too, before anything is given up.
const MOST_JOINED: u64 = 100;

/// What has brought a revision into force.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The daemon has started with a file that it did not know.
    Start,
    /// The file has changed, or was read again.
    File,
    /// Objects were changed through the API.
    Api,
    /// `lb apply`, or the deployment of a draft.
    Apply,
    /// `lb rollback`.
    Rollback,
    /// Nobody has confirmed the one before in time.
    Unconfirmed,
    /// A cause of a later version of lb.
    #[serde(other)]
    Unknown,
}

/// What undoes the change of an object.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Undo {
    /// Of the row in [`Table::Objects`].
    pub key: String,
    /// The row before, which is JSON; `None`: there was none.
    pub value: Option<String>,
}

/// One revision.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Revision {
    /// Counts from 1.
    #[serde(skip)]
    pub number: u64,
    /// Less than its number when it stands for several that were written to the disk together.
    pub first: u64,
    /// Microseconds since 1970.
    pub time: u64,
    pub cause: Cause,
    /// The draft, the file or the revision that it comes from; may be empty.
    pub note: String,
    /// Key of its file.
    text: String,
    undo: Vec<Undo>,
}

impl Revision {
    /// How many objects it has changed.
    #[must_use]
    pub fn objects_changed(&self) -> usize {
        self.undo.len()
    }

    /// Whether it and the next one may be told as one: changes of objects with the same file.
    fn joins(&self, next: &Self) -> bool {
        self.cause == Cause::Api
            && next.cause == Cause::Api
            && self.text == next.text
            && next.number - self.first < MOST_JOINED
    }

    /// As it is stored: texts and numbers can always be written.
    fn row(&self) -> RowChange {
        let value = serde_json::to_vec(self).unwrap_or_default();
        put(Table::Revisions, &key(self.number), value)
    }
}

/// What undoes two changes, of which `undo` undoes the first: what was there before both.
fn undo_both(undo: &mut Vec<Undo>, second: Vec<Undo>) {
    for step in second {
        if !undo.iter().any(|known| known.key == step.key) {
            undo.push(step);
        }
    }
}

/// What comes into force.
#[derive(Clone, Debug)]
pub struct NewRevision<'t> {
    pub time: u64,
    pub cause: Cause,
    pub note: String,
    /// The file.
    pub text: &'t str,
    pub undo: Vec<Undo>,
    /// The one before is of the same cause and still being written: both become one.
    pub joins: bool,
}

/// The revisions that are kept.
#[derive(Clone, Debug, Default)]
pub struct RevisionLog {
    /// By number; the last one is in force.
    revisions: VecDeque<Arc<Revision>>,
    /// By key.
    texts: BTreeMap<String, Arc<str>>,
    /// The greatest number that was ever given.
    last: u64,
    /// Rows that could not be understood, which go with the next change.
    unread: Vec<RowChange>,
}

/// Numbers in the order of the store's keys.
fn key(number: u64) -> String {
    format!("{number:020}")
}

impl RevisionLog {
    /// The history that rows tell, and what about them cannot be understood. Older revisions than one that is damaged are
    /// lost: nobody knows their objects.
    #[must_use]
    pub fn read(revisions: &[Row], texts: &[Row]) -> (Self, Vec<String>) {
        let mut flaws = Vec::new();
        let mut history = Self::default();
        for row in texts {
            match String::from_utf8(row.value.clone()) {
                Ok(text) => drop(history.texts.insert(row.key.clone(), text.into())),
                Err(_) => flaws.push(format!("the file {} of a revision is damaged", row.key)),
            }
        }
        for row in revisions {
            let number = row.key.parse().ok();
            history.last = history.last.max(number.unwrap_or_default());
            match (number, serde_json::from_slice::<Revision>(&row.value)) {
                (Some(number), Ok(revision)) => {
                    history
                        .revisions
                        .push_back(Arc::new(Revision { number, ..revision }));
                }
                (_, _) => {
                    flaws.push(format!(
                        "revision {} is damaged: it and older ones are lost",
                        row.key
                    ));
                    let lost = history.revisions.drain(..).map(|revision| key(revision.number));
                    let lost = lost.chain([row.key.clone()]);
                    let lost = lost.map(|key| gone(Table::Revisions, key));
                    history.unread.extend(lost);
                }
            }
        }
        (history, flaws)
    }

    /// The one that is in force; `None` before the first.
    #[must_use]
    pub fn running(&self) -> Option<&Arc<Revision>> {
        self.revisions.back()
    }

    /// The number of the one that is in force; 0 before the first.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.running().map_or(0, |revision| revision.number)
    }

    /// The oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Revision>> {
        self.revisions.iter()
    }

    /// The revision with that number, or that stands for it.
    #[must_use]
    pub fn find(&self, number: u64) -> Option<&Arc<Revision>> {
        let mut revisions = self.revisions.iter();
        revisions.find(|revision| (revision.first..=revision.number).contains(&number))
    }

    /// The file of a revision; `None` when it is damaged.
    #[must_use]
    pub fn text(&self, revision: &Revision) -> Option<&Arc<str>> {
        self.texts.get(&revision.text)
    }

    /// A further revision is in force: what becomes of rows.
    pub fn push(&mut self, new: NewRevision<'_>) -> Vec<RowChange> {
        let number = self.last + 1;
        self.last = number;
        let mut changes = std::mem::take(&mut self.unread);
        let joined = match self.revisions.back() {
            Some(last)
                if new.joins && last.cause == new.cause && last.number - last.first + 1 < MOST_JOINED =>
            {
                self.revisions.pop_back()
            }
            Some(_) | None => None,
        };
        let (first, mut undo, former) = match joined {
            Some(joined) => {
                changes.push(gone(Table::Revisions, key(joined.number)));
                (joined.first, joined.undo.clone(), Some(joined))
            }
            None => (number, Vec::new(), None),
        };
        undo_both(&mut undo, new.undo);
        let last = former.as_ref().or(self.revisions.back());
        let shared = last.filter(|last| self.text(last).is_some_and(|text| **text == *new.text));
        let text = match shared {
            Some(last) => last.text.clone(),
            None => {
                let key = key(number);
                changes.push(put(Table::Texts, &key, new.text.as_bytes().to_vec()));
                self.texts.insert(key.clone(), new.text.into());
                key
            }
        };
        let revision = Revision {
            number,
            first,
            time: new.time,
            cause: new.cause,
            note: new.note,
            text,
            undo,
        };
        changes.push(revision.row());
        self.revisions.push_back(Arc::new(revision));
        self.prune(&mut changes);
        changes
    }

    /// Makes room, and lets files go that nobody has.
    fn prune(&mut self, changes: &mut Vec<RowChange>) {
        while self.revisions.len() > KEPT {
            // Many small changes of objects are not to cost what the file was.
            let joinable = self.joinable();
            let Some(former) = self.revisions.remove(joinable.unwrap_or(0)) else {
                return;
            };
            changes.push(gone(Table::Revisions, key(former.number)));
            if let Some(next) = joinable.and_then(|at| self.revisions.get_mut(at)) {
                let mut joined = Revision {
                    first: former.first,
                    undo: former.undo.clone(),
                    ..Revision::clone(next)
                };
                undo_both(&mut joined.undo, next.undo.clone());
                changes.push(joined.row());
                *next = Arc::new(joined);
            }
        }
        let revisions = &self.revisions;
        self.texts.retain(|text, _| {
            let used = revisions.iter().any(|revision| revision.text == *text);
            if !used {
                changes.push(gone(Table::Texts, text.clone()));
            }
            used
        });
    }

    /// The oldest revision that can be one with the next, of those before the one in force.
    fn joinable(&self) -> Option<usize> {
        let next = self.revisions.iter().skip(1);
        let mut pairs = self.revisions.iter().zip(next);
        pairs
            .position(|(revision, next)| revision.joins(next))
            .filter(|at| at + 2 < self.revisions.len())
    }

    /// The rows of the objects that were in force with a revision; `now`: those that are.
    ///
    /// # Errors
    /// There is no such revision.
    pub fn objects_at(&self, number: u64, now: &[Row]) -> Result<Vec<Row>, String> {
        let wanted = self.find(number).ok_or_else(|| self.unknown(number))?;
        let mut rows: BTreeMap<String, Vec<u8>> = now
            .iter()
            .map(|row| (row.key.clone(), row.value.clone()))
            .collect();
        let since = self.revisions.iter().rev();
        for revision in since.take_while(|revision| revision.number > wanted.number) {
            for step in &revision.undo {
                match &step.value {
                    Some(value) => rows.insert(step.key.clone(), value.clone().into_bytes()),
                    None => rows.remove(&step.key),
                };
            }
        }
        Ok(rows.into_iter().map(|(key, value)| Row { key, value }).collect())
    }

    /// Says which revisions there are instead of that one.
    #[must_use]
    pub fn unknown(&self, number: u64) -> String {
        match (self.revisions.front(), self.revisions.back()) {
            (Some(oldest), Some(newest)) => format!(
                "there is no revision {number}: {} to {} are kept",
                oldest.first, newest.number
            ),
            (_, _) => format!("there is no revision {number}: none is kept"),
        }
    }
}

/// A row that is written.
pub(super) fn put(table: Table, key: &str, value: Vec<u8>) -> RowChange {
    RowChange {
        table,
        key: key.to_owned(),
        value: Some(value),
    }
}

/// A row that goes.
pub(super) fn gone(table: Table, key: String) -> RowChange {
    RowChange {
        table,
        key,
        value: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{self, Opened};
    use std::path::Path;

    fn revision(text: &str, cause: Cause, undo: &[(&str, Option<&str>)]) -> NewRevision<'static> {
        let step = |(key, value): &(&str, Option<&str>)| Undo {
            key: (*key).to_owned(),
            value: value.map(str::to_owned),
        };
        NewRevision {
            time: 7,
            cause,
            note: "n".to_owned(),
            text: text.to_owned().leak(),
            undo: undo.iter().map(step).collect(),
            joins: false,
        }
    }

    fn rows(rows: &[(&str, &str)]) -> Vec<Row> {
        let row = |(key, value): &(&str, &str)| Row {
            key: (*key).to_owned(),
            value: value.as_bytes().to_vec(),
        };
        rows.iter().map(row).collect()
    }

    fn read(opened: &Opened) -> (RevisionLog, Vec<String>) {
        RevisionLog::read(&opened.further[&Table::Revisions], &opened.further[&Table::Texts])
    }

    fn numbers(history: &RevisionLog) -> Vec<u64> {
        history.iter().map(|revision| revision.number).collect()
    }

    #[test]
    fn fifty_are_kept_and_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut opened = store::open(folder.path());
        let (mut history, flaws) = read(&opened);
        assert!(flaws.is_empty() && history.number() == 0);
        let database = opened.database.as_mut().unwrap();
        for n in 1..=120 {
            // Each file serves three revisions.
            let changes = history.push(revision(&format!("file {}", n / 3), Cause::File, &[]));
            database.commit([changes.as_slice()]).unwrap();
        }
        drop(opened);
        let opened = store::open(folder.path());
        let (read, flaws) = read(&opened);
        assert!(flaws.is_empty(), "{flaws:?}");
        assert_eq!(numbers(&read), (71..=120).collect::<Vec<u64>>());
        assert!(numbers(&read) == numbers(&history) && read.iter().eq(history.iter()));
        assert_eq!(
            opened.further[&Table::Texts].len(),
            18,
            "files that nobody has are gone"
        );
        for revision in read.iter() {
            let expected = format!("file {}", revision.number / 3);
            assert_eq!(read.text(revision).map(AsRef::as_ref), Some(expected.as_str()));
        }
        assert!(read.unknown(70).contains("71 to 120 are kept"));
    }

    #[test]
    fn objects_of_older_revisions_are_found_by_undoing() {
        let mut history = RevisionLog::default();
        history.push(revision("f", Cause::Start, &[]));
        // a is made, then changed together with a new b, then a goes.
        history.push(revision("f", Cause::Api, &[("a", None)]));
        history.push(revision("g", Cause::Api, &[("a", Some("1")), ("b", None)]));
        history.push(revision("g", Cause::Api, &[("a", Some("2"))]));
        let now = rows(&[("b", "3")]);
        for (number, expected) in [
            (1, &[][..]),
            (2, &[("a", "1")]),
            (3, &[("a", "2"), ("b", "3")]),
            (4, &[("b", "3")]),
        ] {
            assert_eq!(
                history.objects_at(number, &now).unwrap(),
                rows(expected),
                "{number}"
            );
        }
        assert!(
            history
                .objects_at(5, &now)
                .unwrap_err()
                .contains("1 to 4 are kept")
        );
        let text = |number| history.text(history.find(number).unwrap()).unwrap().to_string();
        assert_eq!((text(2).as_str(), text(3).as_str()), ("f", "g"));
    }

    #[test]
    fn revisions_that_are_written_together_are_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut opened = store::open(folder.path());
        let mut history = RevisionLog::default();
        let mut commit = |changes: Vec<RowChange>| {
            let database = opened.database.as_mut().unwrap();
            database.commit([changes.as_slice()]).unwrap();
        };
        commit(history.push(revision("f", Cause::Start, &[])));
        commit(history.push(revision("f", Cause::Api, &[("a", None)])));
        for old in ["1", "2"] {
            commit(history.push(NewRevision {
                joins: true,
                ..revision("f", Cause::Api, &[("a", Some(old)), ("b", None)])
            }));
        }
        // A reload is no part of them.
        commit(history.push(NewRevision {
            joins: true,
            ..revision("g", Cause::File, &[])
        }));
        drop(opened);
        let (history, flaws) = read(&store::open(folder.path()));
        assert!(flaws.is_empty());
        assert_eq!(numbers(&history), [1, 4, 5]);
        let joined = history.find(2).unwrap();
        assert_eq!((joined.first, joined.number, joined.objects_changed()), (2, 4, 2));
        let now = rows(&[("a", "3"), ("b", "1")]);
        assert!(history.objects_at(1, &now).unwrap().is_empty());
        assert_eq!(history.objects_at(3, &now).unwrap(), now);
    }

    #[test]
    fn no_revision_joins_without_end() {
        let mut history = RevisionLog::default();
        for _ in 0..250 {
            history.push(NewRevision {
                joins: true,
                ..revision("f", Cause::Api, &[("a", Some("1"))])
            });
        }
        assert_eq!(numbers(&history), [100, 200, 250]);
    }

    #[test]
    fn many_changes_of_objects_cost_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut opened = store::open(folder.path());
        let mut history = RevisionLog::default();
        let mut commit = |changes: Vec<RowChange>| {
            let database = opened.database.as_mut().unwrap();
            database.commit([changes.as_slice()]).unwrap();
        };
        commit(history.push(revision("f", Cause::Start, &[])));
        // The object counts the changes; revision 101 is one of the file.
        for n in 1..=200 {
            if n == 100 {
                commit(history.push(revision("g", Cause::File, &[])));
            }
            let former = n.to_string();
            let text = if n < 100 { "f" } else { "g" };
            commit(history.push(revision(text, Cause::Api, &[("a", Some(&former))])));
        }
        drop(opened);
        let (read, flaws) = read(&store::open(folder.path()));
        assert!(flaws.is_empty() && read.iter().eq(history.iter()));
        let kept: Vec<(u64, u64)> = read
            .iter()
            .map(|revision| (revision.first, revision.number))
            .collect();
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept[..4], [(1, 1), (2, 100), (101, 101), (102, 156)]);
        assert_eq!(kept[4..], (157..=202).map(|n| (n, n)).collect::<Vec<_>>());
        let now = rows(&[("a", "201")]);
        for (number, object) in [
            (1, "1"),
            (50, "100"),
            (100, "100"),
            (101, "100"),
            (120, "155"),
            (157, "156"),
        ] {
            assert_eq!(
                history.objects_at(number, &now).unwrap(),
                rows(&[("a", object)]),
                "{number}"
            );
        }
        // Nor does any number of them grow without end.
        for _ in 0..50 * MOST_JOINED {
            history.push(revision("g", Cause::Api, &[("a", None)]));
        }
        assert_eq!(history.iter().count(), KEPT);
        assert!(
            history
                .iter()
                .all(|revision| revision.number - revision.first < MOST_JOINED)
        );
    }

    #[test]
    fn a_damaged_revision_costs_itself_and_older_ones() {
        let mut history = RevisionLog::default();
        let mut changes = Vec::new();
        for n in 1..=5 {
            changes.extend(history.push(revision(&format!("file {n}"), Cause::File, &[])));
        }
        let rows = |table| -> Vec<Row> {
            let of_table = changes.iter().filter(|change| change.table == table);
            let row = |change: &RowChange| Row {
                key: change.key.clone(),
                value: change.value.clone().unwrap(),
            };
            of_table.map(row).collect()
        };
        let (mut revisions, mut texts) = (rows(Table::Revisions), rows(Table::Texts));
        revisions[2].value = b"{".to_vec();
        texts[3].value = vec![0xff];
        let (history, flaws) = RevisionLog::read(&revisions, &texts);
        assert_eq!(numbers(&history), [4, 5]);
        assert_eq!(flaws.len(), 2, "{flaws:?}");
        assert!(history.text(history.find(4).unwrap()).is_none());
        assert!(history.text(history.find(5).unwrap()).is_some());
        // What nobody understands goes, and its number is nobody else's.
        revisions[4].value = b"{".to_vec();
        let (mut history, _) = RevisionLog::read(&revisions, &texts);
        assert_eq!(history.number(), 0);
        let changes = history.push(revision("file 6", Cause::Start, &[]));
        let gone = changes
            .iter()
            .filter(|change| change.table == Table::Revisions && change.value.is_none());
        assert_eq!((gone.count(), history.number()), (5, 6));
    }

    #[test]
    fn a_damaged_store_begins_a_new_history() {
        let folder = tempfile::tempdir().unwrap();
        let mut opened = store::open(folder.path());
        let changes = RevisionLog::default().push(revision("f", Cause::Start, &[]));
        let database = opened.database.as_mut().unwrap();
        database.commit([changes.as_slice()]).unwrap();
        drop(opened);
        std::fs::write(
            Path::join(folder.path(), "lb.redb"),
            b"not a database".repeat(999),
        )
        .unwrap();
        let opened = store::open(folder.path());
        assert!(opened.problem.unwrap().contains("with revisions and drafts"));
        assert!(opened.further.is_empty());
        let mut history = RevisionLog::default();
        assert_eq!(history.push(revision("f", Cause::Start, &[])).len(), 2);
    }
}
