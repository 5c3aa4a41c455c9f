//! What a node remembers of its configurations: revisions and drafts; and what follows once a change is on the disk.

use super::deployment::Written;
use super::node::Node;
use super::objects::{ChangeReply, Objects, micros};
use crate::api::Reply;
use crate::cloudflare::Failure;
use crate::objects::{Catalog, Entry};
use crate::store::{Cause, Draft, Further, NewRevision, RevisionLog, RowChange, Table, Undo, Unfinished};
use crate::wire::{ErrorCode, ErrorDetail};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;
use tracing::info;

/// What the store holds beside the objects.
#[derive(Clone, Debug, Default)]
pub struct Records {
    pub revisions: RevisionLog,
    /// By name.
    pub drafts: BTreeMap<String, Arc<Draft>>,
    /// What a daemon before this one has left half done.
    pub unfinished: Option<Unfinished>,
}

impl Records {
    /// The records that rows tell, and what about them cannot be understood.
    pub fn read(further: &Further) -> (Self, Vec<String>) {
        let rows = |table| further.get(&table).map_or(&[][..], Vec::as_slice);
        let (revisions, mut flaws) = RevisionLog::read(rows(Table::Revisions), rows(Table::Texts));
        let mut drafts = BTreeMap::new();
        for row in rows(Table::Drafts) {
            match Draft::of_row(row) {
                Ok(draft) => drop(drafts.insert(draft.name.clone(), Arc::new(draft))),
                Err(flaw) => flaws.push(flaw),
            }
        }
        let unfinished = Unfinished::of_rows(rows(Table::Unfinished));
        let records = Self {
            revisions,
            drafts,
            unfinished,
        };
        (records, flaws)
    }
}

/// What follows when a change is on the disk.
pub enum Then {
    Nothing,
    /// A change of an object is answered.
    Object(Arc<Entry>, ChangeReply),
    /// A deployment goes on.
    Deployment(Box<Written>),
    /// Somebody is answered.
    Answer(Box<dyn FnOnce(Result<(), ErrorDetail>) + Send>),
}

impl Then {
    /// `answer` goes out when the change is on the disk.
    pub fn answer<T: Send + 'static>(reply: Reply<T>, answer: T) -> Self {
        Self::Answer(Box::new(move |result| {
            // A client that has gone does not want it any more.
            let _ = reply.send(result.map(|()| answer));
        }))
    }
}

/// What undoes changes of objects.
pub fn undo(before: &Catalog, changes: &[RowChange]) -> Vec<Undo> {
    let former = |key: &str| {
        let mut entries = before.of_api().iter();
        let entry = entries.find(|entry| entry.key() == key)?;
        Some(String::from_utf8_lossy(&entry.value()).into_owned())
    };
    let changes = changes.iter().filter(|change| change.table == Table::Objects);
    changes
        .map(|change| Undo {
            key: change.key.clone(),
            value: former(&change.key),
        })
        .collect()
}

impl Objects {
    /// Notes that what is in force now is a revision; returns the rows to be written. Changes of objects that come while
    /// the one before is being written are one revision with it.
    pub(super) fn push_revision(&mut self, cause: Cause, note: String, undo: Vec<Undo>) -> Vec<RowChange> {
        let history = &mut self.records.revisions;
        let joins = cause == Cause::Api && history.number() != self.durable.records.revisions.number();
        history.push(NewRevision {
            time: micros(SystemTime::now()),
            cause,
            note,
            text: self.file.source.text(),
            undo,
            joins,
        })
    }

    /// Whether the file that is in force is that of the last revision.
    pub(super) fn is_recorded(&self) -> bool {
        let history = &self.records.revisions;
        let text = history.running().and_then(|running| history.text(running));
        text.is_some_and(|text| **text == *self.file.source.text())
    }
}

impl Node {
    /// The file was read again and is in force: what the disk has is that, whatever else is being written.
    pub(super) fn note_reload(&mut self, cause: &str) {
        let objects = &mut self.objects;
        let file = Rc::clone(&objects.file);
        for waiting in &mut objects.waiting {
            waiting.durable.file = Rc::clone(&file);
        }
        objects.durable.file = file;
        let unconfirmed = self.unconfirmed.take();
        let objects = &mut self.objects;
        if objects.committer.is_none() || unconfirmed.is_none() && objects.is_recorded() {
            return;
        }
        let mut changes = objects.push_revision(Cause::File, cause.to_owned(), Vec::new());
        if unconfirmed.is_some() {
            changes.push(Unfinished::done());
        }
        objects.commit(changes, Then::Nothing);
        if let Some(unconfirmed) = unconfirmed {
            let message = format!(
                "revision {} was not confirmed yet, and is replaced by the file",
                unconfirmed.revision
            );
            info!("{message}");
            self.record_store(message);
        }
    }

    /// A change is on the disk.
    pub(super) fn proceed(&mut self, then: Then) {
        match then {
            Then::Nothing => {}
            // A client that has gone does not want it any more.
            Then::Object(entry, reply) => drop(reply.send(Ok(entry))),
            Then::Deployment(written) => self.finish_deployment(*written),
            Then::Answer(answer) => answer(Ok(())),
        }
    }

    /// A change could not be written, and is undone.
    pub(super) fn give_up(&mut self, then: Then, why: &str) {
        let message = format!("the change could not be saved, and was undone: {why}");
        match then {
            Then::Nothing => {}
            Then::Object(_, reply) => drop(reply.send(Err(Failure::internal(message)))),
            Then::Deployment(written) => {
                self.unconfirmed = None;
                written.refuse(ErrorDetail::new(ErrorCode::Internal, message));
            }
            Then::Answer(answer) => answer(Err(ErrorDetail::new(ErrorCode::Internal, message))),
        }
    }
}
