//! Drafts and revisions as the API asks for them.

use super::deployment::{Wanted, invalid};
use super::node::Node;
use super::objects::micros;
use super::records::Then;
use crate::api::{Reply, Version, VersionRequest};
use crate::config::{self, HostDefaults};
use crate::objects::Stored;
use crate::store::{Cause, Draft, Revision};
use crate::wire::{DraftRow, Drafts, ErrorCode, ErrorDetail, RevisionRow, Revisions, Text, rfc3339};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// So many drafts are kept.
const MAX_DRAFTS: usize = 100;

impl Node {
    /// Answers one request. A reply that nobody waits for any more is dropped.
    pub(super) fn answer_version(&mut self, request: VersionRequest) {
        match request {
            VersionRequest::Revisions { reply } => {
                let revisions = self.objects.records.revisions.iter().rev();
                let revisions = revisions.map(|revision| self.revision_row(revision)).collect();
                let _ = reply.send(Ok(Revisions { revisions }));
            }
            VersionRequest::Revision { number, reply } => {
                let found = self.revision(number).map(|revision| self.revision_row(revision));
                let _ = reply.send(found);
            }
            VersionRequest::Drafts { reply } => {
                let drafts = self.objects.records.drafts.values();
                let drafts = drafts.map(|draft| self.draft_row(draft)).collect();
                let _ = reply.send(Ok(Drafts { drafts }));
            }
            VersionRequest::Draft { name, reply } => {
                let _ = reply.send(self.draft(&name).map(|draft| self.draft_row(draft)));
            }
            VersionRequest::Text { of, reply } => {
                let text = match of {
                    Version::Draft(name) => self.draft(&name).map(|draft| draft.text.clone()),
                    Version::Revision(number) => self.text_of(number),
                };
                let _ = reply.send(text.map(|text| Text { text }));
            }
            VersionRequest::SaveDraft {
                name,
                text,
                file,
                reply,
            } => self.save_draft(name, text, &file, reply),
            VersionRequest::DeleteDraft { name, reply } => self.delete_draft(&name, reply),
            VersionRequest::Diff { from, to, reply } => self.diff(&from, &to, reply),
            VersionRequest::Deploy { deployment, reply } => self.deploy(deployment, reply),
            VersionRequest::Confirm { reply } => self.confirm(reply),
            VersionRequest::RollBack {
                revision,
                force,
                reply,
            } => self.roll_back(revision, force, reply),
        }
    }

    fn save_draft(&mut self, name: String, text: String, file: &str, reply: Reply<DraftRow>) {
        let saved = self.check_draft(&name, &text, file).map(|()| Draft {
            name,
            saved: micros(SystemTime::now()),
            base: self.objects.records.revisions.number(),
            text,
        });
        let draft = match saved {
            Ok(draft) => Arc::new(draft),
            Err(refusal) => return drop(reply.send(Err(refusal))),
        };
        let drafts = &mut self.objects.records.drafts;
        drafts.insert(draft.name.clone(), Arc::clone(&draft));
        let answer = self.draft_row(&draft);
        let then = Then::answer(reply, answer);
        self.objects.commit(vec![draft.saved()], then);
    }

    /// Refuses what could not be kept, or not be deployed.
    fn check_draft(&self, name: &str, text: &str, file: &str) -> Result<(), ErrorDetail> {
        let invalid_name =
            |message: String| ErrorDetail::new(ErrorCode::InvalidRequest, message).of_field("name");
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) {
            let message = format!("the name {name:?} is not 1 to 64 letters, digits, `-`, `_` and `.`");
            return Err(invalid_name(message));
        }
        let drafts = &self.objects.records.drafts;
        if drafts.len() >= MAX_DRAFTS && !drafts.contains_key(name) {
            let message = format!("there are {MAX_DRAFTS} drafts: delete one first (lb drafts delete NAME)");
            return Err(ErrorDetail::new(ErrorCode::Conflict, message));
        }
        if self.objects.committer.is_none() {
            let problem = self.objects.problem().unwrap_or_default();
            let message = format!("no draft can be saved now: {problem}");
            return Err(ErrorDetail::new(ErrorCode::Internal, message));
        }
        let checked = config::parse(text, file, &HostDefaults::of_this_machine());
        let catalog = self.objects.catalog();
        checked
            .and_then(|loaded| self.objects.with_file(&loaded, &catalog.stored()))
            .map(drop)
            .map_err(|errors| invalid(file, &errors))
    }

    fn delete_draft(&mut self, name: &str, reply: Reply<DraftRow>) {
        let row = self.draft(name).map(|draft| self.draft_row(draft));
        let answer = match row {
            Ok(row) => row,
            Err(refusal) => return drop(reply.send(Err(refusal))),
        };
        self.objects.records.drafts.remove(name);
        let then = Then::answer(reply, answer);
        self.objects.commit(vec![Draft::deleted(name)], then);
    }

    pub(super) fn draft(&self, name: &str) -> Result<&Arc<Draft>, ErrorDetail> {
        let found = self.objects.records.drafts.get(name);
        found.ok_or_else(|| {
            let message = format!("there is no draft `{name}` (lb drafts list)");
            ErrorDetail::new(ErrorCode::NotFound, message).of_field("draft")
        })
    }

    /// A draft, unless another file has come into force since it was saved.
    pub(super) fn draft_to_deploy(&self, name: &str, force: bool) -> Result<Arc<Draft>, ErrorDetail> {
        let draft = self.draft(name)?;
        if self.draft_conflicts(draft) && !force {
            let message = format!(
                "another file is in force since the draft `{name}` was saved at revision {} (now {}): `lb diff draft:{name}` \
                 shows what it would change; save it again, or deploy it with --force",
                draft.base,
                self.objects.records.revisions.number()
            );
            return Err(ErrorDetail::new(ErrorCode::Conflict, message));
        }
        Ok(Arc::clone(draft))
    }

    /// Whether the file that was in force when the draft was saved is not the one that is now.
    fn draft_conflicts(&self, draft: &Draft) -> bool {
        let history = &self.objects.records.revisions;
        let base = history.find(draft.base).and_then(|base| history.text(base));
        base.is_none_or(|base| **base != *self.objects.file.source.text())
    }

    fn draft_row(&self, draft: &Draft) -> DraftRow {
        DraftRow {
            name: draft.name.clone(),
            saved: rfc3339(time(draft.saved)),
            base: draft.base,
            conflicts: self.draft_conflicts(draft),
            bytes: draft.text.len(),
        }
    }

    fn revision(&self, number: u64) -> Result<&Arc<Revision>, ErrorDetail> {
        let history = &self.objects.records.revisions;
        let found = history.find(number);
        found.ok_or_else(|| {
            ErrorDetail::new(ErrorCode::NotFound, history.unknown(number)).of_field("revision")
        })
    }

    /// The file of a revision.
    pub(super) fn text_of(&self, number: u64) -> Result<String, ErrorDetail> {
        let revision = self.revision(number)?;
        let text = self.objects.records.revisions.text(revision);
        text.map(|text| text.to_string()).ok_or_else(|| {
            let message = format!("the file of revision {number} is damaged");
            ErrorDetail::new(ErrorCode::Internal, message)
        })
    }

    /// The objects of a revision, and what was set by hand then.
    pub(super) fn objects_of(&self, number: u64) -> Result<Stored, ErrorDetail> {
        let now = self.objects.rows();
        let rows = self.objects.records.revisions.objects_at(number, &now);
        let rows = rows.map_err(|message| ErrorDetail::new(ErrorCode::NotFound, message))?;
        let (stored, flaws) = Stored::read(&rows);
        match flaws.is_empty() {
            true => Ok(stored),
            false => {
                let flaws = flaws.join("; ");
                let message = format!("an object of revision {number} is damaged: {flaws}");
                Err(ErrorDetail::new(ErrorCode::Internal, message))
            }
        }
    }

    /// What a rollback brings into force; without a number the revision before the one that is.
    pub(super) fn revision_to_deploy(&self, number: Option<u64>, force: bool) -> Result<Wanted, ErrorDetail> {
        let history = &self.objects.records.revisions;
        let number = match number {
            Some(number) => number,
            None => {
                let before = history.iter().rev().nth(1);
                let message = "there is no revision before the one in force";
                let before = before.ok_or_else(|| ErrorDetail::new(ErrorCode::NotFound, message))?;
                before.number
            }
        };
        Ok(Wanted {
            text: self.text_of(number)?,
            name: format!("revision {number}"),
            objects: Some(self.objects_of(number)?),
            cause: Cause::Rollback,
            note: format!("to {number}"),
            force,
            confirm: None,
        })
    }

    fn revision_row(&self, revision: &Revision) -> RevisionRow {
        let running = revision.number == self.objects.records.revisions.number();
        RevisionRow {
            revision: revision.number,
            first: revision.first,
            time: rfc3339(time(revision.time)),
            cause: match revision.cause {
                Cause::Start => "start",
                Cause::File => "file",
                Cause::Api => "api",
                Cause::Apply => "apply",
                Cause::Rollback => "rollback",
                Cause::Unconfirmed => "unconfirmed",
                Cause::Unknown => "unknown",
            }
            .to_owned(),
            note: revision.note.clone(),
            objects_changed: revision.objects_changed(),
            running,
            confirm_by: self.confirm_by().filter(|_| running),
        }
    }
}

fn time(micros: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(micros)
}
