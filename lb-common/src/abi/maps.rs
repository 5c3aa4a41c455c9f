//! Names and sizes of the maps: once, for the program and for its loader.

/// Settings: array of one [`super::Settings`].
pub const SETTINGS: &str = "SETTINGS";
/// IPv4 flows: LRU hash, [`super::FlowKey4`] → [`super::Flow4`], two entries a flow.
pub const FLOWS4: &str = "FLOWS4";
/// IPv6 flows: LRU hash, [`super::FlowKey6`] → [`super::Flow6`], two entries a flow.
pub const FLOWS6: &str = "FLOWS6";
/// Applications: hash, [`super::ApplicationKey`] → [`super::Application`], two generations.
pub const APPLICATIONS: &str = "APPLICATIONS";
/// Pools: array of [`super::Pool`], row = 2 × id + parity.
pub const POOLS: &str = "POOLS";
/// Origins: array of [`super::Origin`].
pub const ORIGINS: &str = "ORIGINS";
/// Next hops: array of [`super::Hop`].
pub const HOPS: &str = "HOPS";
/// Source addresses for `nat`: array of [`super::Ip`].
pub const SNAT_ADDRESSES: &str = "SNAT_ADDRESSES";
/// Arena of [`super::Slot`]s.
pub const SLOTS: &str = "SLOTS";
/// Per-CPU verdict counters: `u64` by [`super::Verdicts`].
pub const VERDICTS: &str = "VERDICTS";
/// Per-CPU [`super::Traffic`] by application id.
pub const APPLICATION_TRAFFIC: &str = "APP_TRAFFIC";
/// Per-CPU [`super::Traffic`] by origin id.
pub const ORIGIN_TRAFFIC: &str = "ORIGIN_TRAFFIC";
/// Per-CPU working memory of one packet; not pinned.
pub const SCRATCH: &str = "SCRATCH";

/// Every map that is pinned, so that flows and tables outlive the daemon.
pub const PINNED: [&str; 12] = [
    SETTINGS,
    FLOWS4,
    FLOWS6,
    APPLICATIONS,
    POOLS,
    ORIGINS,
    HOPS,
    SNAT_ADDRESSES,
    SLOTS,
    VERDICTS,
    APPLICATION_TRAFFIC,
    ORIGIN_TRAFFIC,
];

/// Rows of the verdict counter map: room for every [`crate::datapath::Verdict::row`].
pub const VERDICT_ROWS: u32 = 64;

/// The stages' programs, for tail calls: index [`STAGE_KNOWN`] and [`STAGE_OPEN`]. Pinned with the program that uses it,
/// because the kernel empties such a map when userspace lets go of it.
pub const STAGES: &str = "STAGES";
/// Index and program name of [`crate::datapath::known`]; the program that is attached.
pub const STAGE_KNOWN: (u32, &str) = (0, "lb");
/// Index and program name of [`crate::datapath::open`].
pub const STAGE_OPEN: (u32, &str) = (1, "lb_open");
/// Name of the program that only tells the time: it writes two `u64` to the start of its frame, jiffies and the monotonic
/// clock in nanoseconds. Run by userspace, never attached.
pub const CLOCK: &str = "lb_clock";
