//! Drafts, revisions, the differences between them, and deployments.

use super::Problem;
use serde::{Deserialize, Serialize};

/// `GET /api/v1/revisions`: the newest first.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Revisions {
    pub revisions: Vec<RevisionRow>,
}

/// What was in force, or is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RevisionRow {
    pub revision: u64,
    /// Less than `revision` when it stands for several changes that were written to the disk together.
    pub first: u64,
    /// RFC 3339, UTC.
    pub time: String,
    /// `start`, `file`, `api`, `apply`, `rollback` or `unconfirmed`.
    pub cause: String,
    /// Where it comes from, in words; may be empty.
    pub note: String,
    /// How many objects of the API it has changed, and how many others by hand.
    pub objects_changed: usize,
    pub running: bool,
    /// When it goes back unless it is confirmed.
    pub confirm_by: Option<String>,
}

/// `GET /api/v1/drafts`: by name.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Drafts {
    pub drafts: Vec<DraftRow>,
}

/// A file that is not deployed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DraftRow {
    pub name: String,
    /// RFC 3339, UTC.
    pub saved: String,
    /// The revision that was in force then.
    pub base: u64,
    /// Whether another file is in force since.
    pub conflicts: bool,
    /// Length of the file.
    pub bytes: usize,
}

/// The text of a draft or a revision.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Text {
    pub text: String,
}

/// `PUT /api/v1/drafts/NAME`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DraftBody {
    pub text: String,
    /// What messages call the text; default: the draft.
    #[serde(default)]
    pub file: Option<String>,
}

/// `POST /api/v1/drafts/NAME/deploy`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeployBody {
    /// Whatever has changed since the draft was saved, or in the file.
    #[serde(default)]
    pub force: bool,
    /// Go back after so many seconds unless somebody confirms it.
    #[serde(default)]
    pub confirm: Option<f64>,
}

/// `POST /api/v1/apply`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyBody {
    pub text: String,
    /// What messages call the text.
    pub file: String,
    #[serde(default)]
    pub force: bool,
    #[serde(default)]
    pub confirm: Option<f64>,
}

/// `POST /api/v1/rollback`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollbackBody {
    /// Default: what waits for its confirmation goes back, else the revision before the one in force.
    #[serde(default)]
    pub revision: Option<u64>,
    #[serde(default)]
    pub force: bool,
}

/// What is in force now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Deployed {
    pub revision: u64,
    /// False: it was in force already.
    pub changed: bool,
    /// The configuration file that holds it, or will when it is confirmed; empty: none does.
    pub file: String,
    /// RFC 3339, UTC: when it goes back unless it is confirmed.
    pub confirm_by: Option<String>,
    pub warnings: Vec<Problem>,
}

/// `POST /api/v1/diff`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffBody {
    pub from: Side,
    pub to: Side,
}

/// One side of a comparison.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// What is in force.
    Running,
    /// The daemon's configuration file as it is on the disk.
    File,
    Draft(String),
    Revision(u64),
    /// This text.
    Text {
        text: String,
        file: String,
    },
}

/// What differs.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// What is compared, in words.
    pub from: String,
    pub to: String,
    /// Of monitors, pools and so on, in the order of the file.
    pub changes: Vec<PartDiff>,
    /// Applications of which new flows would get other origins, with every enabled origin up.
    pub traffic: Vec<TrafficDiff>,
    /// About what is compared with.
    pub warnings: Vec<Problem>,
}

/// A part of the configuration that is not the same.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PartDiff {
    /// `added`, `removed` or `changed`.
    pub change: String,
    /// `node`, `datapath`, `api`, `geoip`, `monitor`, `monitor group`, `pool`, `origin`, `load balancer` or `application`.
    pub object: String,
    /// Of an origin `POOL/ORIGIN`.
    pub name: String,
    pub fields: Vec<FieldDiff>,
}

/// A field; `null`: it has no value.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FieldDiff {
    pub field: String,
    pub before: Option<String>,
    pub after: Option<String>,
}

/// What becomes of an application's new flows.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TrafficDiff {
    pub application: String,
    /// `ipv4` or `ipv6`.
    pub family: String,
    /// Of clients of that country; `null`: of all others.
    pub country: Option<String>,
    /// The share of flows that get another origin, 0 to 1.
    pub moved: f64,
    pub shares: Vec<ShareDiff>,
}

/// An origin's share, 0 to 1.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ShareDiff {
    /// `POOL/ORIGIN`.
    pub origin: String,
    pub before: f64,
    pub after: f64,
}
