//! Everything the kernel program and userspace must agree on: the bytes of every map ([`abi`]), the hash that
//! picks a slot ([`hash`]), what happens to a packet ([`datapath`]), and how tunnels end ([`tunnel`]).
//!
//! The crate has no pointers into packets, no maps and no clock: [`packet::Packet`] and
//! [`datapath::Tables`] stand for them, so the same code runs in XDP, in host tests and in `lb explain`.
#![cfg_attr(not(any(test, feature = "testing")), no_std)]
#![deny(unsafe_code)]

pub mod abi;
pub mod datapath;
pub mod hash;
pub mod packet;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod trace;
pub mod tunnel;
