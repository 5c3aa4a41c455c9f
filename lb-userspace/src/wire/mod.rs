//! The JSON shapes of lb's own API, `/api/v1`: what the daemon answers, the client reads and `--json` prints.
//!
//! Keys are a contract: they may be added, never renamed or removed.

mod agent;
mod check;
mod error;
mod event;
mod explain;
mod flows;
mod history;
mod monitor_test;
mod notice;
mod object;
mod ordered;
mod pcapng;
mod status;
mod time;
mod trace;
mod version;

pub use agent::{AgentAddress, AgentStatus};
pub use check::{CheckReport, DoctorCheck, HandedOver, Problem, Reloaded, StoredObjects, Version};
pub(crate) use error::failure_reason;
pub use error::{ErrorBody, ErrorCode, ErrorDetail};
pub use event::{Event, EventFilter, EventLine, EventQuery, Events, KINDS as EVENT_KINDS};
pub use explain::{Explain, ExplainQuery, ExplainStep};
pub use flows::{Drops, FlowFilter, FlowRow, Flows, Flushed};
pub use history::{HISTORY_KINDS, HealthHistory, HealthHistoryQuery, HealthPeriod, Seconds, SubjectHistory};
pub use monitor_test::{MonitorAttempt, MonitorRun, MonitorStep, MonitorTest, MonitorTestQuery};
pub use notice::{NoticeBody, NoticeData};
pub use object::{Declared, Object, ObjectText, Objects, Operand, Overridden};
pub use ordered::Ordered;
#[cfg(test)]
pub(crate) use pcapng::tests::blocks as pcapng_blocks;
pub use pcapng::{Packet as PcapngPacket, Pcapng};
pub use status::{
    ApplicationStatus, Counters, InterfaceStatus, LoadBalancerStatus, MonitorStatus, MonitoringStatus,
    NodeStatus, OriginStatus, PoolStatus, Status, UnattachedInterface, WebhookStatus,
};
pub(crate) use time::{from_micros, from_rfc3339, micros, rfc3339, rfc3339_micros};
pub use trace::{
    Names as TraceNames, PacketHead, TraceLine, TraceQuery, TraceRow, action as trace_action,
    row_of as trace_row_of,
};

pub use version::{
    ApplyBody, DeployBody, Deployed, DiffBody, DraftBody, DraftRow, Drafts, FieldDiff, PartDiff, Plan,
    RevisionRow, Revisions, RollbackBody, ShareDiff, Side, Text, TrafficDiff,
};

/// Version of the shapes, `api_version` of a status.
pub const API_VERSION: u32 = 1;
