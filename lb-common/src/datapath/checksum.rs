//! One's-complement arithmetic (RFC 1071, RFC 1624).
//!
//! Sums are over words as loaded: the sum of swapped words is the swapped sum, so nothing here converts byte order.

use crate::abi::{Ip4, Ip6, Port};

/// Folds a sum of 16-bit words into 16 bits.
#[inline(always)]
pub fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The two words of a loaded 32-bit value.
#[inline(always)]
pub fn words(value: u32) -> u32 {
    (value & 0xffff) + (value >> 16)
}

/// Sum of an IPv4 address's words.
#[inline(always)]
pub fn sum4(address: Ip4) -> u32 {
    words(address.0)
}

/// Sum of an IPv6 address's words.
#[inline(always)]
pub fn sum6(address: Ip6) -> u32 {
    let [a, b, c, d] = address.0;
    words(a) + words(b) + words(c) + words(d)
}

/// Difference that turns a sum over `old` into a sum over `new` (both as sums of words).
#[inline(always)]
pub fn difference(old: u32, new: u32) -> u16 {
    fold(u32::from(!fold(old)) + new)
}

/// Sum of two ports.
#[inline(always)]
pub fn ports(a: Port, b: Port) -> u32 {
    a.0 as u32 + b.0 as u32
}

/// The checksum field after the data under it changed by `delta` (RFC 1624, equation 3).
#[inline(always)]
pub fn adjust(field: u16, delta: u16) -> u16 {
    !fold(u32::from(!field) + u32::from(delta))
}

/// What a decrement of the TTL does to the IPv4 header's sum: the TTL is the first byte of its word.
pub const TTL_DELTA: u16 = !u16::from_ne_bytes([1, 0]);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reference(words: &[u16]) -> u16 {
        let mut sum = 0u64;
        for &word in words {
            sum += u64::from(word);
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    proptest! {
        /// RFC 1624: incremental and full computation agree (+0 and −0 are the same number).
        #[test]
        fn an_adjusted_checksum_equals_a_new_one(mut data: [u16; 10], at in 0usize..10, new: u16) {
            prop_assume!(data.iter().any(|&word| word != 0));
            let field = reference(&data);
            let delta = difference(u32::from(data[at]), u32::from(new));
            data[at] = new;
            prop_assume!(data.iter().any(|&word| word != 0));
            prop_assert_eq!(adjust(field, delta), reference(&data));
        }

        #[test]
        fn a_ttl_decrement_is_a_constant(ttl in 1u8.., protocol: u8, rest: [u16; 9]) {
            let word = |ttl| u16::from_ne_bytes([ttl, protocol]);
            let all = |ttl| [&rest[..], &[word(ttl)]].concat();
            prop_assume!(all(ttl - 1).iter().any(|&word| word != 0));
            prop_assert_eq!(adjust(reference(&all(ttl)), TTL_DELTA), reference(&all(ttl - 1)));
        }
    }
}
