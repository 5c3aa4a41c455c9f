//! What a node remembers of its configurations: revisions and drafts; and what follows once a change is on the disk.

use super::deployment::Written;
use super::node::Node;
use super::objects::{ChangeReply, Objects};
use crate::api::Reply;
use crate::cloudflare::Failure;
use crate::objects::{Catalog, Entry, Overrides};
use crate::store::{Cause, Draft, Further, RevisionLog, RowChange, Table, Undo, Unfinished};
use crate::wire::{ErrorCode, ErrorDetail};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
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
    /// Somebody is answered, or told why it could not be written.
    Answer(Box<dyn FnOnce(Result<(), String>) + Send>),
}

impl Then {
    /// `answer` goes out when the change is on the disk.
    pub fn answer<T: Send + 'static>(reply: Reply<T>, answer: T) -> Self {
        Self::answer_or(reply, answer, "the change could not be saved, and was undone")
    }

    /// The same, with other words for the case that it could not be written.
    pub fn answer_or<T: Send + 'static>(reply: Reply<T>, answer: T, words: &'static str) -> Self {
        Self::Answer(Box::new(move |result| {
            let answer = result
                .map(|()| answer)
                .map_err(|why| ErrorDetail::new(ErrorCode::Internal, format!("{words}: {why}")));
            // A client that has gone does not want it any more.
            let _ = reply.send(answer);
        }))
    }

    /// The change is on the disk: answers who waits for that; returns the deployment that goes on.
    pub(super) fn accept(self) -> Option<Written> {
        match self {
            Self::Nothing => None,
            Self::Object(entry, reply) => {
                // A client that has gone does not want it any more.
                let _ = reply.send(Ok(entry));
                None
            }
            Self::Deployment(written) => Some(*written),
            Self::Answer(answer) => {
                answer(Ok(()));
                None
            }
        }
    }

    /// The change could not be written: tells who waits for it.
    pub(super) fn refuse(self, why: &str) {
        let message = format!("the change could not be saved, and was undone: {why}");
        match self {
            Self::Nothing => {}
            // A client that has gone does not want it any more.
            Self::Object(_, reply) => drop(reply.send(Err(Failure::internal(message)))),
            Self::Deployment(written) => written.refuse(ErrorDetail::new(ErrorCode::Internal, message)),
            Self::Answer(answer) => answer(Err(why.to_owned())),
        }
    }
}

/// What undoes changes of objects and of what was set by hand.
pub fn undo(before: &Catalog, changes: &[RowChange]) -> Vec<Undo> {
    let changes = changes.iter().filter(|change| change.table == Table::Objects);
    changes
        .map(|change| Undo {
            key: change.key.clone(),
            value: before
                .value(&change.key)
                .map(|value| String::from_utf8_lossy(&value).into_owned()),
        })
        .collect()
}

impl Objects {
    /// Whether the file that is in force is that of the last revision.
    pub(super) fn is_recorded(&self) -> bool {
        let history = &self.records.revisions;
        let text = history.running().and_then(|running| history.text(running));
        text.is_some_and(|text| **text == *self.file.source.text())
    }
}

impl Node {
    /// The file was read again and is in force: what the disk has is that, whatever else is being written.
    pub(super) fn note_reload(&mut self, cause: &str, former: &Catalog) {
        let unconfirmed = self.unconfirmed.take();
        let returning = unconfirmed
            .as_ref()
            .map_or_else(Overrides::default, |unconfirmed| unconfirmed.returning.clone());
        let objects = &mut self.objects;
        let file = Rc::clone(&objects.file);
        objects.is_on_disk(&file, &returning);
        if objects.committer.is_none() || unconfirmed.is_none() && objects.is_recorded() {
            return;
        }
        let mut changes = objects.revise(former, Cause::File, cause.to_owned());
        changes.push(Unfinished::done());
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
        if let Some(written) = then.accept() {
            self.finish_deployment(written);
        }
    }

    /// A change could not be written, and is undone.
    pub(super) fn give_up(&mut self, then: Then, why: &str) {
        if matches!(then, Then::Deployment(_)) {
            self.unconfirmed = None;
        }
        then.refuse(why);
    }
}
