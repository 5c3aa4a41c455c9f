//! The keyed flow hash: the one answer to "which slot?".
//!
//! SipHash-1-3 (Aumasson and Bernstein, 2012) over whole 64-bit words. Keyed, so that nobody outside can aim flows at
//! one slot; computed only for new flows, where its 15 ns do not show.

use crate::abi::{FlowKey4, FlowKey6, HashKey, Ip, Ip4, Ip6, Port, Protocol};

struct Sip {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl Sip {
    #[inline(always)]
    fn new(key: HashKey) -> Self {
        Self {
            v0: key.k0 ^ 0x736f_6d65_7073_6575,
            v1: key.k1 ^ 0x646f_7261_6e64_6f6d,
            v2: key.k0 ^ 0x6c79_6765_6e65_7261,
            v3: key.k1 ^ 0x7465_6462_7974_6573,
        }
    }

    #[inline(always)]
    fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.rotate_left(32);
    }

    #[inline(always)]
    fn word(&mut self, word: u64) {
        self.v3 ^= word;
        self.round();
        self.v0 ^= word;
    }

    #[inline(always)]
    fn finish(mut self, bytes: u64) -> u64 {
        self.word(bytes << 56);
        self.v2 ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.v0 ^ self.v1 ^ self.v2 ^ self.v3
    }
}

#[inline(always)]
fn join(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

#[inline(always)]
fn ports(source: Port, destination: Port, protocol: Protocol) -> u64 {
    source.0 as u64 | (destination.0 as u64) << 16 | (protocol.0 as u64) << 32
}

/// Hash of an IPv4 flow's 5-tuple.
#[inline(always)]
pub fn flow4(key: HashKey, source: Ip4, destination: Ip4, from: Port, to: Port, protocol: Protocol) -> u64 {
    let mut sip = Sip::new(key);
    sip.word(join(source.0, destination.0));
    sip.word(ports(from, to, protocol));
    sip.finish(16)
}

/// Hash of an IPv6 flow's 5-tuple.
#[inline(always)]
pub fn flow6(key: HashKey, source: Ip6, destination: Ip6, from: Port, to: Port, protocol: Protocol) -> u64 {
    let mut sip = Sip::new(key);
    for [a, b, c, d] in [source.0, destination.0] {
        sip.word(join(a, b));
        sip.word(join(c, d));
    }
    sip.word(ports(from, to, protocol));
    sip.finish(40)
}

/// Hash of an IPv4 client's address alone.
#[inline(always)]
pub fn client4(key: HashKey, client: Ip4) -> u64 {
    let mut sip = Sip::new(key);
    sip.word(client.0 as u64);
    sip.finish(8)
}

/// Hash of an IPv6 client's address alone.
#[inline(always)]
pub fn client6(key: HashKey, client: Ip6) -> u64 {
    let [a, b, c, d] = client.0;
    let mut sip = Sip::new(key);
    sip.word(join(a, b));
    sip.word(join(c, d));
    sip.finish(16)
}

/// A quick hash of a flow, without a key: it spreads tunnels over a receiver's queues and a network's paths, where it does
/// not matter who can foresee it.
#[inline(always)]
pub fn spread(source: Ip, from: Port, to: Port) -> u64 {
    let [a, b, c, d] = source.0;
    let mix = |value: u64, factor: u64| {
        let product = value.wrapping_mul(factor);
        product ^ product >> 32
    };
    let ports = join(from.0.into(), to.0.into());
    let address = mix(join(a, b) ^ ports.rotate_left(16), 0x9e37_79b9_7f4a_7c15);
    mix(address ^ join(c, d), 0xd6e8_feb8_6659_fd93)
}

/// Hash of an IPv4 client's address and port: a sum of products by secret factors, of which the upper half is strongly universal
/// (Thorup, "High Speed Hashing for Integers and Strings", section 3.3). Whoever cannot see where flows go cannot aim them at
/// one bucket, and it takes a tenth of the time of the other hash.
#[inline(always)]
pub fn bucket4(key: HashKey, source: Ip4, from: Port) -> u32 {
    let sum = (source.0 as u64)
        .wrapping_mul(key.k0)
        .wrapping_add((from.0 as u64).wrapping_mul(key.k1))
        .wrapping_add(key.k0.rotate_left(23) ^ key.k1);
    finish(sum)
}

/// Spreads what is regular in a client's ports.
#[inline(always)]
fn finish(sum: u64) -> u32 {
    ((sum ^ sum >> 32).wrapping_mul(FACTOR) >> 32) as u32
}

/// As [`bucket4`], of IPv6.
#[inline(always)]
pub fn bucket6(key: HashKey, source: Ip6, from: Port) -> u32 {
    let [a, b, c, d] = source.0;
    let HashKey { k0, k1 } = key;
    let sum = (a as u64)
        .wrapping_mul(k0)
        .wrapping_add((b as u64).wrapping_mul(k0.rotate_left(19) ^ k1))
        .wrapping_add((c as u64).wrapping_mul(k1.rotate_left(31) ^ k0))
        .wrapping_add((d as u64).wrapping_mul(k1))
        .wrapping_add((from.0 as u64).wrapping_mul(k0.rotate_left(43) ^ k1.rotate_left(7)))
        .wrapping_add(k0.rotate_left(23) ^ k1);
    finish(sum)
}

/// Hash of the key of an IPv4 flow's entry, as [`bucket4`].
#[inline(always)]
pub fn key4(key: HashKey, flow: &FlowKey4) -> u32 {
    let HashKey { k0, k1 } = key;
    let sum = (flow.source.0 as u64)
        .wrapping_mul(k0)
        .wrapping_add((flow.destination.0 as u64).wrapping_mul(k0.rotate_left(19) ^ k1))
        .wrapping_add(ports(flow.source_port, flow.destination_port, flow.protocol).wrapping_mul(k1))
        .wrapping_add(k0.rotate_left(23) ^ k1);
    finish(sum)
}

/// As [`key4`], of IPv6.
#[inline(always)]
pub fn key6(key: HashKey, flow: &FlowKey6) -> u32 {
    let [a, b, c, d] = flow.source.0;
    let [e, f, g, h] = flow.destination.0;
    let HashKey { k0, k1 } = key;
    // Words in pairs (Black and others, "UMAC", section 4.2): half as many products.
    let pair = |a: u32, b: u32, by: u64| {
        let first = a.wrapping_add(by as u32) as u64;
        first.wrapping_mul(b.wrapping_add((by >> 32) as u32) as u64)
    };
    let sum = pair(a, b, k0)
        .wrapping_add(pair(c, d, k1))
        .wrapping_add(pair(e, f, k0.rotate_left(19) ^ k1))
        .wrapping_add(pair(g, h, k1.rotate_left(31) ^ k0))
        .wrapping_add(ports(flow.source_port, flow.destination_port, flow.protocol).wrapping_mul(k1));
    finish(sum)
}

/// The hash whose first [`probe`] is `number`: buckets share a table of as many slots, or fewer, evenly.
#[inline(always)]
pub fn enter(number: u32) -> u64 {
    ((number as u64) << 32).wrapping_mul(INVERSE)
}

const FACTOR: u64 = 0xd6e8_feb8_6659_fd93;
/// Of [`FACTOR`], modulo 2^64 (by Newton's iteration: each step doubles the bits that are right).
const INVERSE: u64 = {
    let mut inverse: u64 = FACTOR;
    let mut step = 0;
    while step < 6 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(FACTOR.wrapping_mul(inverse)));
        step += 1;
    }
    inverse
};

/// The `attempt`-th slot index of a flow, before it is masked: one multiplication each, all different.
#[inline(always)]
pub fn probe(hash: u64, attempt: u32) -> u32 {
    let step = (attempt as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash.wrapping_add(step).wrapping_mul(FACTOR) >> 32) as u32
}

/// As [`probe`], for a table of pools. The halves of the hash are swapped, so that a pool's share does not choose the
/// origin's slot as well.
#[inline(always)]
pub fn pool_probe(hash: u64, attempt: u32) -> u32 {
    probe(hash.rotate_left(32), attempt)
}

/// Scales a 32-bit hash to `0..n` without a division.
#[inline(always)]
pub fn scale(hash: u32, n: u32) -> u32 {
    ((hash as u64 * n as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::hash::Hasher;
    use proptest::prelude::*;
    use siphasher::sip::SipHasher13;

    proptest! {
        #[test]
        fn the_hash_is_siphash_1_3(k0: u64, k1: u64, a: [u32; 4], b: [u32; 4], from: u16, to: u16, protocol: u8) {
            let key = HashKey { k0, k1 };
            let mut reference = SipHasher13::new_with_keys(k0, k1);
            for word in a.into_iter().chain(b) {
                reference.write(&word.to_le_bytes());
            }
            reference.write(&from.to_le_bytes());
            reference.write(&to.to_le_bytes());
            reference.write(&[protocol, 0, 0, 0]);
            prop_assert_eq!(
                flow6(key, Ip6(a), Ip6(b), Port(from), Port(to), Protocol(protocol)),
                reference.finish()
            );
        }

        /// Neighbours are spread, of either family.
        #[test]
        fn keys_of_flows_are_spread(k0: u64, k1: u64, base: [u32; 4], port: u16) {
            let key = HashKey { k0: k0 | 1, k1: k1 | 1 };
            let mut seen = [const { std::collections::BTreeSet::new() }; 2];
            for step in 0..256u32 {
                let (source_port, [a, b, c, d]) = (Port::new(port.wrapping_add(step as u16 / 16)), base);
                let last = (u32::from_be(d).wrapping_add(step % 16)).to_be();
                let four = FlowKey4 {
                    source: Ip4(last),
                    destination: Ip4(a),
                    source_port,
                    protocol: Protocol::TCP,
                    ..FlowKey4::default()
                };
                let six = FlowKey6 {
                    source: Ip6([a, b, c, last]),
                    destination: Ip6(base),
                    source_port,
                    protocol: Protocol::TCP,
                    ..FlowKey6::default()
                };
                seen[0].insert(key4(key, &four) >> 12);
                seen[1].insert(key6(key, &six) >> 12);
            }
            // Of a million places.
            prop_assert!(seen.iter().all(|seen| seen.len() > 240), "{} {}", seen[0].len(), seen[1].len());
        }

        #[test]
        fn a_number_enters_where_it_stands(number: u32) {
            prop_assert_eq!(probe(enter(number), 0), number);
        }

        #[test]
        fn probes_stay_in_scale(hash: u64, attempt in 0u32..32, n in 1u32..70_000) {
            prop_assert!(scale(probe(hash, attempt), n) < n);
        }
    }
}
