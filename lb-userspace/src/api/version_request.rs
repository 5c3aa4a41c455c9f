//! What the API asks of the daemon about drafts, revisions and deployments.

use super::Reply;
use crate::wire::{Deployed, DraftRow, Drafts, Plan, RevisionRow, Revisions, Side, Text};
use std::time::Duration;

/// Everything the daemon can be asked about versions of the configuration.
#[derive(Debug)]
pub enum VersionRequest {
    Revisions {
        reply: Reply<Revisions>,
    },
    Revision {
        number: u64,
        reply: Reply<RevisionRow>,
    },
    Drafts {
        reply: Reply<Drafts>,
    },
    Draft {
        name: String,
        reply: Reply<DraftRow>,
    },
    /// The file of a draft or a revision.
    Text {
        of: Version,
        reply: Reply<Text>,
    },
    /// Keep a file without deploying it. Answered when it is on the disk.
    SaveDraft {
        name: String,
        text: String,
        /// What messages call the text.
        file: String,
        reply: Reply<DraftRow>,
    },
    DeleteDraft {
        name: String,
        reply: Reply<DraftRow>,
    },
    Diff {
        from: Side,
        to: Side,
        reply: Reply<Plan>,
    },
    /// Bring another file into force. Answered when it is on the disk.
    Deploy {
        deployment: Deployment,
        reply: Reply<Deployed>,
    },
    /// What waits for it stays.
    Confirm {
        reply: Reply<Deployed>,
    },
    /// Go back to a revision, or to what was before the one that waits for its confirmation, or before the last one.
    RollBack {
        revision: Option<u64>,
        force: bool,
        reply: Reply<Deployed>,
    },
}

/// Something that is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Version {
    Draft(String),
    Revision(u64),
}

/// What is to be deployed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Deployment {
    pub source: DeploymentSource,
    /// Whatever has changed since.
    pub force: bool,
    /// Go back after this time unless it is confirmed.
    pub confirm: Option<Duration>,
}

/// Where its file comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeploymentSource {
    Draft(String),
    Text {
        text: String,
        /// What messages call it.
        file: String,
    },
}
