//! What lb and the floors have counted.

use crate::abi::FRAME_LEN;
use crate::layout::Door;
use crate::modes::Mode;
use lb_common::abi::Traffic;
use std::array;
use std::collections::BTreeMap;

/// Applications that are counted together: those of a mode, or one with another door.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Group(pub usize);

impl Group {
    pub const COUNT: usize = Mode::ALL.len() + Door::CLOSABLE.len();

    pub fn of(mode: Mode, door: Door) -> Self {
        match door {
            Door::Open => Self(mode.index() as usize),
            Door::Listed | Door::Limited | Door::Denied => Self(Mode::ALL.len() + door as usize - 1),
        }
    }
}

/// All that is counted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// By [`Group`].
    pub applications: [Traffic; Group::COUNT],
    /// As [`Mode::row`] has it.
    pub origins: [Traffic; Mode::ORIGINS],
    /// By name; what is not there is 0.
    pub verdicts: BTreeMap<&'static str, u64>,
    /// Packets that a floor did its work for.
    pub found: u64,
}

/// Adds one row to another.
pub fn add(sum: &mut Traffic, row: Traffic) {
    sum.packets_in += row.packets_in;
    sum.bytes_in += row.bytes_in;
    sum.packets_out += row.packets_out;
    sum.bytes_out += row.bytes_out;
    sum.new_flows += row.new_flows;
}

impl Counters {
    /// What has been counted since.
    pub fn since(&self, before: &Self) -> Self {
        let traffic = |now: Traffic, before: Traffic| Traffic {
            packets_in: now.packets_in - before.packets_in,
            bytes_in: now.bytes_in - before.bytes_in,
            packets_out: now.packets_out - before.packets_out,
            bytes_out: now.bytes_out - before.bytes_out,
            new_flows: now.new_flows - before.new_flows,
        };
        let verdicts = self.verdicts.iter().map(|(&name, &now)| {
            let before = before.verdicts.get(name).copied().unwrap_or(0);
            (name, now - before)
        });
        Self {
            applications: array::from_fn(|row| traffic(self.applications[row], before.applications[row])),
            origins: array::from_fn(|row| traffic(self.origins[row], before.origins[row])),
            verdicts: verdicts.filter(|&(_, count)| count > 0).collect(),
            found: self.found - before.found,
        }
    }

    /// By how many packets the two differ, at most.
    pub fn distance(&self, other: &Self) -> u64 {
        let traffic = |traffic: Traffic| {
            let frames = FRAME_LEN as u64;
            [
                traffic.packets_in,
                traffic.bytes_in / frames,
                traffic.packets_out,
                traffic.bytes_out / frames,
                traffic.new_flows,
            ]
        };
        let numbers = |counters: &Self| {
            let rows = counters.applications.into_iter().chain(counters.origins);
            let mut numbers: Vec<u64> = rows.flat_map(traffic).collect();
            numbers.push(counters.found);
            numbers
        };
        let counted = numbers(self).into_iter().zip(numbers(other));
        let names = self.verdicts.keys().chain(other.verdicts.keys());
        let verdict = |counters: &Self, name| counters.verdicts.get(name).copied().unwrap_or(0);
        let verdicts = names.map(|&name| (verdict(self, name), verdict(other, name)));
        counted
            .chain(verdicts)
            .map(|(a, b)| a.abs_diff(b))
            .max()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_those_of_the_worst_counter() {
        let mut expected = Counters::default();
        expected.applications[0].packets_in = 10;
        assert_eq!(expected.distance(&expected), 0);
        let mut counted = expected.clone();
        counted.verdicts.insert("denied", 3);
        assert_eq!(counted.distance(&expected), 3);
        assert_eq!(expected.distance(&counted), 3);
        counted.applications[0].packets_in = 5;
        assert_eq!(counted.distance(&expected), 5);
        assert_eq!(counted.since(&counted), Counters::default());
    }

    #[test]
    fn groups_do_not_overlap() {
        let closable = Door::CLOSABLE.map(|door| Group::of(Mode::Nat, door).0);
        assert_eq!(closable, [7, 8, 9]);
        assert_eq!(
            Group::of(Mode::Gue(crate::frame::Version::V6), Door::Open),
            Group(6)
        );
        assert_eq!(Group::COUNT, 10);
    }
}
