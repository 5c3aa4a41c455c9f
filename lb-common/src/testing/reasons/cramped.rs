//! A frame with little room in front of it.

use crate::packet::Packet;
use crate::testing::Frame;
use bytemuck::Pod;

/// A frame whose head may grow by `room` bytes and no more: behind other programs' metadata, for example.
#[derive(Clone, Debug)]
pub struct Cramped {
    pub frame: Frame,
    pub room: usize,
}

impl Packet for Cramped {
    fn holds(&self, length: usize) -> bool {
        self.frame.holds(length)
    }

    fn read<T: Pod>(&self, at: usize) -> Option<T> {
        self.frame.read(at)
    }

    fn write<T: Pod>(&mut self, at: usize, value: T) -> Option<()> {
        self.frame.write(at, value)
    }

    fn move_head(&mut self, by: isize) -> Option<()> {
        let room = self.room.checked_add_signed(by.wrapping_neg())?;
        self.frame.move_head(by)?;
        self.room = room;
        Some(())
    }

    fn truncate(&mut self, length: usize) -> Option<()> {
        self.frame.truncate(length)
    }

    fn sum(&self, at: usize, length: usize) -> Option<u16> {
        self.frame.sum(at, length)
    }
}
