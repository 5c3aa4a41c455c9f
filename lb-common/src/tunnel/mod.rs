//! Tunnels, but for what the packet path does: at their far end, where an origin takes out what a node encapsulated
//! (`dsr_ipip` and `dsr_gue`), [`process`], and sees to the size of what comes, [`clamp`]; and at the near end, how
//! monitors' packets get into them, [`probe`].
//!
//! The rules of [`crate::datapath`] for code that the verifier reads hold here too.

mod clamp;
mod decapsulate;
mod header;
mod locals;
pub mod probe;

pub use clamp::{Clamp, clamp};
pub use decapsulate::{Outcome, Work, process};
pub use locals::{Local, Locals, Roles};

/// UDP port of GUE where nobody says otherwise (RFC draft-ietf-intarea-gue, as registered with IANA).
pub const GUE_PORT: u16 = 6080;

/// Names of the agent's programs and maps: once, for the program and for its loader.
pub mod maps {
    /// The XDP program that decapsulates.
    pub const DECAPSULATE: &str = "lb_decap";
    /// The TC program that clamps.
    pub const CLAMP: &str = "lb_clamp";
    /// Addresses: hash, [`crate::abi::Ip`] → [`super::Local`].
    pub const LOCALS: &str = "LOCALS";
    /// Prefixes of the addresses that tunnels may come from: longest prefix match, [`crate::abi::Ip`] → `u32`.
    pub const NODES: &str = "NODES";
    /// Per-CPU counters: `u64` by [`super::Outcome::row`], and [`CLAMPED_ROW`].
    pub const OUTCOMES: &str = "OUTCOMES";
    /// Read-only word: the UDP port that carries GUE, in the machine's order.
    pub const GUE_PORT: &str = "GUE_PORT";
    /// Read-only word: largest packet that the way from the nodes carries, in bytes; 0: nothing is clamped.
    pub const PATH_MTU: &str = "PATH_MTU";
    /// The row that counts clamped segments.
    pub const CLAMPED_ROW: u32 = 15;
    /// Rows of [`OUTCOMES`].
    pub const OUTCOME_ROWS: u32 = 16;
}
