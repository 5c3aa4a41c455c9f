//! A packet for every reason: what has to be so that it is counted with that one. The pipeline in memory and the kernel
//! program are both held to it.

mod cramped;
mod make;

pub use cramped::Cramped;

use super::{Frame, Scenario};
use crate::datapath::{
    Arrival, DropReason, Hold, Notice, Pass, Reply, Scratch, Stage, Step, Verdict, count, process, young,
};
use make::Maker;

/// A row of the verdict counters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reason {
    Pass(Pass),
    Reply(Reply),
    Hold(Hold),
    Drop(DropReason),
    Notice(Notice),
}

impl Reason {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        (Pass::ALL.iter().copied().map(Self::Pass))
            .chain(Reply::ALL.iter().copied().map(Self::Reply))
            .chain(Hold::ALL.iter().copied().map(Self::Hold))
            .chain(DropReason::ALL.iter().copied().map(Self::Drop))
            .chain(Notice::ALL.iter().copied().map(Self::Notice))
    }

    /// The row that counts it.
    #[must_use]
    pub fn row(self) -> u32 {
        match self {
            Self::Pass(reason) => reason.row(),
            Self::Reply(reason) => reason.row(),
            Self::Hold(reason) => reason.row(),
            Self::Drop(reason) => reason.row(),
            Self::Notice(notice) => notice.row(),
        }
    }

    /// What it is one of, and its name.
    #[must_use]
    pub fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::Pass(reason) => ("pass", reason.name()),
            Self::Reply(reason) => ("reply", reason.name()),
            Self::Hold(reason) => ("hold", reason.name()),
            Self::Drop(reason) => ("drop", reason.name()),
            Self::Notice(notice) => ("notice", notice.name()),
        }
    }
}

/// What is unusual about the packet's surroundings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Circumstance {
    /// Nothing but what the tables say.
    Usual,
    /// The head of the frame has room for no more than so many bytes.
    Cramped(usize),
    /// Nobody takes frames that are to be held. Only the kernel's shell notices.
    NobodyHolds,
    /// The program of a stage is not there.
    Without(Stage),
}

/// A packet that is counted with one reason.
pub struct Case {
    /// The tables, with all that earlier packets have left in them.
    pub scenario: Scenario,
    pub ifindex: u32,
    pub frame: Frame,
    pub circumstance: Circumstance,
}

/// The packet that is counted with `reason`, in a world where it is `now`. A reason without one does not compile.
#[must_use]
pub fn case(reason: Reason, v6: bool, now: u32) -> Case {
    let make = Maker::new(v6, now);
    match reason {
        Reason::Pass(reason) => match reason {
            Pass::Unconfigured => make.unconfigured(),
            Pass::NotIp => make.not_ip(),
            Pass::MalformedIp => make.malformed_ip(),
            Pass::OtherProtocol => make.other_protocol(),
            Pass::Fragment => make.fragment_of_others(),
            Pass::NotOurs => make.not_ours(),
        },
        Reason::Reply(reason) => match reason {
            Reply::ResetUnknownFlow => make.segment_of_no_flow(),
            Reply::ResetNoOrigin => make.connection_for_nobody(),
            Reply::UnreachableNoOrigin => make.datagram_for_nobody(),
            Reply::TooBig => make.too_long(),
            Reply::TimeExceeded => make.expiring(),
            Reply::ResetEnded => make.ended(),
            Reply::Echo => make.pinged(),
        },
        Reason::Hold(reason) => match reason {
            Hold::Fragment => make.early_fragment(Circumstance::Usual),
        },
        Reason::Drop(reason) => match reason {
            DropReason::Malformed => make.malformed(),
            DropReason::UnknownFlow => make.reset_of_no_flow(),
            DropReason::Fragment => make.fragment_of_refused(),
            DropReason::Denied => make.denied(),
            DropReason::DeniedGlobally => make.denied_globally(),
            DropReason::DeniedCountry => make.denied_country(),
            DropReason::RateLimited => make.one_flow_too_many(),
            DropReason::RateLimitedSource => make.one_flow_of_a_source_too_many(),
            DropReason::OriginsFull => make.full_origins(),
            DropReason::Migrating => make.migrating(),
            DropReason::TtlExpired => make.expiring_unanswered(),
            DropReason::NoNextHop => make.silent_neighbour(),
            DropReason::NoOriginRecord => make.lost_origin(),
            DropReason::PortsExhausted => make.ports_exhausted(),
            DropReason::NoSourceAddress => make.no_source_address(),
            DropReason::TupleTaken => make.tuple_taken(),
            DropReason::NotRemembered => make.not_remembered(),
            DropReason::Resize => make.cramped(),
            DropReason::PartialChecksum => make.endless_checksum(),
            DropReason::TooBig => make.too_long_unanswered(),
            DropReason::NotHeld => make.early_fragment(Circumstance::NobodyHolds),
            DropReason::IcmpUnknownFlow => make.strange_error(),
            DropReason::PathMtuLearned => make.narrow_path(),
            DropReason::ReplyLimited => make.pinged_too_often(),
            DropReason::Internal => make.without_a_stage(),
        },
        Reason::Notice(notice) => match notice {
            Notice::FlowTableFull => make.no_room_for_established(),
        },
    }
}

impl Case {
    /// Plays it in memory: the packet's verdict, what is left of it, and how often it was counted with `reason`.
    pub fn play(&self, reason: Reason, now: u32) -> (Verdict, Frame, u64) {
        let tables = &self.scenario.tables;
        let count_of = || tables.verdicts.borrow().get(&reason.row()).copied().unwrap_or(0);
        let before = count_of();
        let arrival = Arrival {
            ifindex: self.ifindex,
            now,
        };
        let mut scratch = Box::<Scratch>::default();
        let (verdict, left) = match self.circumstance {
            Circumstance::Usual | Circumstance::NobodyHolds => {
                let mut frame = self.frame.clone();
                (process(&mut frame, tables, &mut scratch, arrival), frame)
            }
            Circumstance::Cramped(room) => {
                let mut frame = Cramped {
                    frame: self.frame.clone(),
                    room,
                };
                (process(&mut frame, tables, &mut scratch, arrival), frame.frame)
            }
            // Calls cannot be missing here, but one may come out of turn.
            Circumstance::Without(_) => {
                let mut frame = self.frame.clone();
                let Step::Done(verdict) = young(&mut frame, tables, &mut scratch) else {
                    panic!("a stage goes on with nothing");
                };
                count(tables, verdict);
                (verdict, frame)
            }
        };
        (verdict, left, count_of() - before)
    }
}
