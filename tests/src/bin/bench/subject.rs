//! What packets can be sent through.

use crate::cases::{Case, Effect};
use crate::counters::Counters;
use anyhow::Result;
use aya::programs::ProgramFd;

/// An XDP program with filled tables. [`crate::lb::Lb`] is one, of this tree or of an earlier object;
/// [`crate::foreign::Loaded`] is any other.
pub trait Subject {
    /// The program that is attached to interfaces.
    ///
    /// # Errors
    /// It is not loaded.
    fn entry(&self) -> Result<ProgramFd>;

    /// Whether it was loaded for frames in several buffers. Only programs that were, or were not, call each other.
    fn takes_frags(&self) -> bool {
        true
    }

    /// What becomes of a case's packets.
    fn effect(&self, case: &Case) -> Effect {
        case.effect()
    }

    /// Makes packets to origins leave by an interface.
    ///
    /// # Errors
    /// The kernel refuses.
    fn leave_by(&mut self, ifindex: u32) -> Result<()>;

    /// What it has counted; `None`: not in such a way, so that only frames and verdicts are looked at.
    ///
    /// # Errors
    /// The kernel refuses.
    fn counters(&self) -> Result<Option<Counters>>;

    /// Does what has to be done from time to time, so that the state is that of a node which has run for long.
    ///
    /// # Errors
    /// The kernel refuses.
    fn settle(&mut self) -> Result<()>;

    /// How many flows have entries that should have none.
    ///
    /// # Errors
    /// The kernel refuses.
    fn needless(&self) -> Result<u64>;

    /// How many of these flows, which a case has just opened, are not remembered but should be, or are but should not.
    ///
    /// # Errors
    /// The kernel refuses.
    fn amiss(&self, case: &Case, flows: &[u32]) -> Result<u64>;
}
