//! `lb capture`.

use super::trace::{End, Which};
use super::{Exit, Failure, Global, global, output};
use clap::Args;
use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Write packets as they came, each with its verdict as a comment, to a pcapng file
///
/// Wireshark and tcpdump read such files. It goes on until it is interrupted.
#[derive(Args, Debug)]
pub(super) struct Capture {
    /// The file; `-` for stdout
    #[arg(short = 'w', long = "write", value_name = "FILE")]
    write: PathBuf,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    end: End,
    /// Bytes of each packet
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=8191))]
    snaplen: Option<u32>,
}

impl Capture {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let snap = self.snaplen.map(|snap| snap.to_string());
        let query = self
            .which
            .query("/api/v1/capture")
            .with_some("snap", snap.as_deref());
        let failed = |error: std::io::Error| {
            Failure::new(
                Exit::Failed,
                format!("cannot write {}: {error}", self.write.display()),
            )
        };
        let to_stdout = self.write.as_os_str() == "-";
        let mut file: Option<File> = None;
        let mut blocks = Blocks::new(self.end.count);
        let save = |bytes: &[u8]| {
            let (whole, enough) = blocks.take(bytes);
            match &mut file {
                Some(file) => file.write_all(&whole).map_err(failed)?,
                None if to_stdout => output::print_bytes(&whole)?,
                // Not before there is something to write: a mistake must not cost an older file.
                None => file
                    .insert(create(&self.write).map_err(failed)?)
                    .write_all(&whole)
                    .map_err(failed)?,
            }
            Ok(if enough {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        };
        global::wait(self.end.limit(client.stream(&query, save)))?;
        global.say(&format!("{} packets", blocks.packets));
        Ok(())
    }
}

/// A file that its owner alone may read: what others sent is in it.
fn create(path: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path)
}

/// Whole blocks of a pcapng file that comes piece by piece: a file that ends within one is damaged.
#[derive(Debug)]
struct Blocks {
    waiting: Vec<u8>,
    /// Packets that are still wanted.
    left: Option<u64>,
    packets: u64,
}

/// The type of a block that holds a packet.
const PACKET: u32 = 6;

impl Blocks {
    fn new(left: Option<u64>) -> Self {
        Self {
            waiting: Vec::new(),
            left,
            packets: 0,
        }
    }

    /// The blocks that are whole now, and whether there are enough packets.
    fn take(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        self.waiting.extend(bytes);
        let mut end = 0;
        while self.left != Some(0)
            && let Some(length) = self.number(end + 4).map(|length| length as usize)
            && length >= 12
            && self.waiting.len() >= end + length
        {
            if self.number(end) == Some(PACKET) {
                self.packets += 1;
                self.left = self.left.map(|left| left - 1);
            }
            end += length;
        }
        let rest = self.waiting.split_off(end);
        (std::mem::replace(&mut self.waiting, rest), self.left == Some(0))
    }

    fn number(&self, at: usize) -> Option<u32> {
        let bytes = self.waiting.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_le_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::Blocks;
    use crate::wire::{Pcapng, PcapngPacket};

    #[test]
    fn only_whole_blocks_are_written_and_no_more_packets_than_asked_for() {
        let (mut writer, mut bytes) = Pcapng::begin(100);
        let packet = PcapngPacket {
            interface: (1, "eth0"),
            time: 0,
            length: 3,
            frame: &[1, 2, 3],
            comment: "",
            action: 1,
            lost: 0,
        };
        bytes.extend(writer.packet(&packet));
        let two = bytes.len() + writer.packet(&packet).len();
        for _ in 0..3 {
            bytes.extend(writer.packet(&packet));
        }
        for step in [1, 7, 1000] {
            let mut blocks = Blocks::new(Some(2));
            let mut written = Vec::new();
            let mut enough = false;
            for piece in bytes.chunks(step) {
                let (whole, done) = blocks.take(piece);
                written.extend(whole);
                enough |= done;
            }
            assert!(enough);
            assert_eq!((written.as_slice(), blocks.packets), (&bytes[..two], 2));
        }
        let mut blocks = Blocks::new(None);
        assert_eq!(blocks.take(&bytes), (bytes.clone(), false));
    }
}
