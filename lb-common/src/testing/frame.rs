//! A frame in memory.

use crate::packet::{MAX_OFFSET, MAX_SUM, Packet};
use bytemuck::Pod;

/// An Ethernet frame in a vector, with the kernel's room to grow in front.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Frame(pub Vec<u8>);

/// Bytes the kernel keeps free before a frame: XDP_PACKET_HEADROOM less the 40 bytes of its own `struct xdp_frame`.
const HEADROOM: usize = 256 - 40;

impl Packet for Frame {
    fn holds(&self, length: usize) -> bool {
        self.0.len() >= length
    }

    fn read<T: Pod>(&self, at: usize) -> Option<T> {
        if at > MAX_OFFSET {
            return None;
        }
        self.0
            .get(at..at + size_of::<T>())
            .map(bytemuck::pod_read_unaligned)
    }

    fn write<T: Pod>(&mut self, at: usize, value: T) -> Option<()> {
        if at > MAX_OFFSET {
            return None;
        }
        self.0
            .get_mut(at..at + size_of::<T>())
            .map(|bytes| bytes.copy_from_slice(bytemuck::bytes_of(&value)))
    }

    fn move_head(&mut self, by: isize) -> Option<()> {
        let bytes = by.unsigned_abs();
        if by > 0 {
            if bytes > HEADROOM {
                return None;
            }
            self.0.splice(0..0, std::iter::repeat_n(0, bytes));
        } else {
            // The kernel refuses frames shorter than an Ethernet header.
            if self.0.len() < bytes + 14 {
                return None;
            }
            self.0.drain(..bytes);
        }
        Some(())
    }

    fn truncate(&mut self, length: usize) -> Option<()> {
        // The kernel refuses frames shorter than an Ethernet header.
        if length > self.0.len() || length < 14 {
            return None;
        }
        self.0.truncate(length);
        Some(())
    }

    fn sum(&self, at: usize, length: usize) -> Option<u16> {
        if length > MAX_SUM {
            return None;
        }
        let bytes = self.0.get(at..at + length)?;
        let mut sum: u64 = 0;
        for pair in bytes.chunks(2) {
            sum += u64::from(match *pair {
                [a, b] => u16::from_ne_bytes([a, b]),
                [a] => u16::from_ne_bytes([a, 0]),
                _ => 0,
            });
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        Some(sum as u16)
    }
}
