//! Names and sizes of the maps: once, for the program and for its loader.

/// Settings: array of one [`super::Settings`].
pub const SETTINGS: &str = "SETTINGS";
/// Established IPv4 flows: hash, [`super::FlowKey4`] → [`super::Flow4`], two entries a flow. Nothing is ever evicted.
pub const FLOWS4: &str = "FLOWS4";
/// Established IPv6 flows: hash, [`super::FlowKey6`] → [`super::Flow6`], two entries a flow.
pub const FLOWS6: &str = "FLOWS6";
/// Which flows may be among them: array of `u64`; see [`super::FlowFilter`].
pub const FLOW_FILTER: &str = "FLOW_FILTER";
/// IPv4 flows that have not proven themselves, or are closing: LRU hash of the same entries, so that a flood evicts only
/// its like.
pub const TENTATIVE4: &str = "TENTATIVE4";
/// As [`TENTATIVE4`], of IPv6.
pub const TENTATIVE6: &str = "TENTATIVE6";
/// Applications: hash, [`super::ApplicationKey`] → [`super::Application`], two generations.
pub const APPLICATIONS: &str = "APPLICATIONS";
/// Pools by the client's country: hash, [`super::RouteKey`] → [`super::Route`], two generations.
pub const ROUTES: &str = "ROUTES";
/// Idle times: array of [`super::Timeouts`] by application id.
pub const TIMEOUTS: &str = "TIMEOUTS";
/// Addresses of applications and those that `nat` translates to: hash, [`super::VipKey`] → [`super::Vip`], two generations.
pub const VIPS: &str = "VIPS";
/// Addresses that packets may be for: array of `u64`, the words that [`super::Filter`] names. Bits are only set: flows outlive
/// the addresses that they were opened to.
pub const ADDRESSES: &str = "ADDRESSES";
/// Arena of [`super::Bucket`]s.
pub const BUCKETS: &str = "BUCKETS";
/// Array of `u32` by bucket: when a sweep began that found no entry of its flows, in jiffies (low 32 bits).
pub const SETTLED: &str = "SETTLED";
/// Array of [`super::Shortcut`]s.
pub const SHORTCUTS: &str = "SHORTCUTS";
/// Arena of [`super::PortSpan`]s.
pub const SPANS: &str = "SPANS";
/// Access lists: longest-prefix trie, [`super::AccessKey`] → [`super::AccessRule`].
pub const ACCESS: &str = "ACCESS";
/// Countries of access lists: hash, [`super::CountryKey`] → [`super::AccessRule`].
pub const COUNTRY_RULES: &str = "COUNTRY_RULES";
/// Countries of addresses: longest-prefix trie, [`super::Ip`] → [`super::Country`].
pub const COUNTRIES: &str = "COUNTRIES";
/// When an application's next flow is due (see [`super::Rate`]): array of `u64` by application id.
pub const RATES: &str = "RATES";
/// The same for each client: LRU hash, [`super::SourceKey`] → `u64`.
pub const SOURCE_RATES: &str = "SOURCE_RATES";
/// The same for the node's own answers: per-CPU array of one `u64`; not pinned.
pub const REPLY_RATE: &str = "REPLY_RATE";
/// Affinity: LRU hash, [`super::AffinityKey`] → [`super::Affinity`].
pub const AFFINITY: &str = "AFFINITY";
/// Array of [`super::Load`] by origin id; the first row stands for all direct origins together.
pub const LOADS: &str = "LOADS";
/// Array of [`super::Load`] by origin id: established flows that userspace has removed, to be taken off [`LOADS`]. Each
/// map has one writer.
pub const SWEPT: &str = "SWEPT";
/// Array of one `u32`: when userspace swept the flow tables last, in jiffies (low 32 bits); 0: it never has.
pub const SWEPT_AT: &str = "SWEPT_AT";
/// Array of [`super::PathMtu`] by origin id.
pub const PATH_MTUS: &str = "PATH_MTUS";
/// Datagrams in fragments: LRU hash, [`super::FragmentKey`] → [`super::FragmentFlow`].
pub const FRAGMENTS: &str = "FRAGMENTS";
/// Array of one `u32`: the number of the last datagram in fragments.
pub const FRAGMENT_COUNT: &str = "FRAGMENT_COUNT";
/// Interfaces that run the program: hash, index → [`super::Interface`].
pub const INTERFACES: &str = "INTERFACES";
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
/// Frames that userspace shall hold: perf event array; each event is a [`super::Held`] and the frame. Not pinned: whoever
/// listens has loaded the program.
pub const HELD: &str = "HELD";
/// What is traced: array of one [`super::Tracing`]; not pinned.
pub const TRACING: &str = "TRACING";
/// Reports of traced packets: perf event array of [`super::Report`]s, each with the start of its frame; not pinned.
pub const REPORTS: &str = "REPORTS";
/// Per-CPU working memory of one packet; not pinned.
pub const SCRATCH: &str = "SCRATCH";

/// Every map that is pinned, so that flows and tables outlive the daemon.
pub const PINNED: [&str; 36] = [
    SETTINGS,
    FLOWS4,
    FLOWS6,
    FLOW_FILTER,
    TENTATIVE4,
    TENTATIVE6,
    APPLICATIONS,
    ROUTES,
    TIMEOUTS,
    VIPS,
    ADDRESSES,
    BUCKETS,
    SETTLED,
    SHORTCUTS,
    SPANS,
    ACCESS,
    COUNTRY_RULES,
    COUNTRIES,
    RATES,
    SOURCE_RATES,
    AFFINITY,
    LOADS,
    SWEPT,
    SWEPT_AT,
    PATH_MTUS,
    FRAGMENTS,
    FRAGMENT_COUNT,
    INTERFACES,
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
pub const VERDICT_ROWS: u32 = 128;

/// The stages' programs, for tail calls, by the number of their [`crate::datapath::Stage`]. Pinned with the program that uses
/// it, because the kernel empties such a map when userspace lets go of it.
pub const STAGES: &str = "STAGES";
/// The program that reports what became of a packet that is traced, and lets it go: its place behind the stages in
/// [`STAGES`], and its name.
pub const REPORT: (u32, &str) = (crate::datapath::Stage::ALL.len() as u32, "lb_report");
/// Name of the program that only tells the time: it writes two `u64` to the start of its frame, jiffies and the monotonic
/// clock in nanoseconds. Run by userspace, never attached.
pub const CLOCK: &str = "lb_clock";
