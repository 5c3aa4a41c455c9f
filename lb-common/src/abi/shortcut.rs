//! A short way to the applications whose TCP flows may have no entry: one array access, where a hash table costs a quarter
//! of all that such a packet does.

use super::{Application, ApplicationFlags, ApplicationKey, BucketRun, Ip};
use bytemuck::{Pod, Zeroable};

/// What a packet of such a flow needs to know of its application. Where several applications would stand in one row, one
/// does, and the others are found by their records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Shortcut {
    /// Whose row it is; all zero: nobody's.
    pub key: ApplicationKey,
    pub application: u32,
    pub flags: ApplicationFlags,
    /// As in the application's record; never [`BucketRun::NONE`] where there is a key.
    pub buckets: BucketRun,
}

impl Shortcut {
    /// Rows of the map: half of them for each of the two generations.
    pub const ROWS: u32 = 2 << ROW_BITS;

    /// The row of an application that has buckets; `None`: it has none.
    #[must_use]
    pub fn of(key: ApplicationKey, record: &Application) -> Option<Self> {
        (record.buckets != BucketRun::NONE).then_some(Self {
            key,
            application: record.id,
            flags: record.flags,
            buckets: record.buckets,
        })
    }

    /// Where an application's row is.
    #[inline(always)]
    pub const fn row(key: &ApplicationKey) -> u32 {
        let Ip([a, b, c, d]) = key.address;
        let high = (a as u64 | (b as u64) << 32).wrapping_mul(FACTOR);
        let low = (c as u64 ^ (key.port.0 as u64) << 16 | (d as u64) << 32).wrapping_mul(FACTOR);
        let hash = (high >> 32 ^ low).wrapping_mul(FACTOR);
        ((hash >> (64 - ROW_BITS)) as u32) << 1 | (key.parity.0 & 1) as u32
    }
}

const ROW_BITS: u32 = 10;
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

const _: () = assert!(size_of::<Shortcut>() == 32);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{Parity, Port, Protocol};
    use std::collections::BTreeSet;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    fn key(address: impl Into<IpAddr>, port: u16, generation: u32) -> ApplicationKey {
        ApplicationKey {
            address: address.into().into(),
            port: Port::new(port),
            protocol: Protocol::TCP,
            parity: Parity::of(generation),
        }
    }

    #[test]
    fn generations_have_rows_of_their_own() {
        for generation in 0..4 {
            let row = Shortcut::row(&key(Ipv4Addr::new(192, 0, 2, 1), 80, generation));
            assert!(row < Shortcut::ROWS);
            assert_eq!(row % 2, generation % 2);
        }
    }

    /// Of 64 applications in 1,024 rows, 2 are in another's way when the hash is as good as chance.
    #[test]
    fn neighbours_rarely_share_a_row() {
        let distinct = |keys: Vec<ApplicationKey>| {
            let rows: BTreeSet<u32> = keys.iter().map(Shortcut::row).collect();
            assert!(rows.len() >= keys.len() - 6, "{} of {}", rows.len(), keys.len());
        };
        distinct(
            (0..64)
                .map(|last| key(Ipv4Addr::new(203, 0, 113, last), 443, 0))
                .collect(),
        );
        distinct(
            (0..64)
                .map(|port| key(Ipv4Addr::new(203, 0, 113, 1), 8000 + port, 0))
                .collect(),
        );
        let v6 = |last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last);
        distinct((0..64).map(|last| key(v6(last), 443, 0)).collect());
        distinct((0..64).map(|port| key(v6(1), 8000 + port, 0)).collect());
    }
}
