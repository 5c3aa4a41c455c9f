//! Packets in the format of Wireshark and tcpdump (draft-ietf-opsawg-pcapng), little endian.

use std::collections::BTreeMap;

const SECTION: u32 = 0x0a0d_0d0a;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
/// LINKTYPE_ETHERNET.
const ETHERNET: u16 = 1;

const COMMENT: u16 = 1;
const APPLICATION: u16 = 4;
const INTERFACE_NAME: u16 = 2;
const RESOLUTION: u16 = 9;
const FLAGS: u16 = 2;
const DROPPED: u16 = 4;
const VERDICT: u16 = 7;

/// `epb_flags`: the packet came in.
const INBOUND: u32 = 1;
/// The kind of `epb_verdict` that is an XDP action.
const XDP: u8 = 2;

/// Writes one section.
#[derive(Debug)]
pub struct Pcapng {
    snap: u32,
    /// Numbers of the interfaces in the section, by their indices.
    interfaces: BTreeMap<u32, u32>,
}

/// A packet to be written.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Index and name of the interface by which it came.
    pub interface: (u32, &'a str),
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Of the whole frame.
    pub length: u32,
    /// The frame, or its start.
    pub frame: &'a [u8],
    pub comment: &'a str,
    /// What XDP did with it, by its number in `enum xdp_action`.
    pub action: u64,
    /// How many packets are missing before it.
    pub lost: u64,
}

impl Pcapng {
    /// A section, and its first bytes. No packet is to hold more than `snap` bytes.
    #[must_use]
    pub fn begin(snap: u32) -> (Self, Vec<u8>) {
        let mut body = Vec::new();
        body.extend(BYTE_ORDER.to_le_bytes());
        body.extend([1, 0, 0, 0]);
        // The section's length is not known.
        body.extend(u64::MAX.to_le_bytes());
        option(
            &mut body,
            APPLICATION,
            concat!("lb ", env!("CARGO_PKG_VERSION")).as_bytes(),
        );
        end(&mut body);
        let this = Self {
            snap,
            interfaces: BTreeMap::new(),
        };
        (this, block(SECTION, &body))
    }

    /// The bytes of one packet, and before them of its interface when that is new.
    pub fn packet(&mut self, packet: &Packet<'_>) -> Vec<u8> {
        let (index, name) = packet.interface;
        let next = self.interfaces.len() as u32;
        let number = *self.interfaces.entry(index).or_insert(next);
        let mut bytes = if number == next {
            self.interface(name)
        } else {
            Vec::new()
        };
        let mut body = Vec::new();
        for field in [
            number,
            (packet.time >> 32) as u32,
            packet.time as u32,
            packet.frame.len() as u32,
            packet.length,
        ] {
            body.extend(field.to_le_bytes());
        }
        padded(&mut body, packet.frame);
        option(&mut body, COMMENT, packet.comment.as_bytes());
        option(&mut body, FLAGS, &INBOUND.to_le_bytes());
        if packet.lost > 0 {
            option(&mut body, DROPPED, &packet.lost.to_le_bytes());
        }
        let verdict = [&[XDP], &packet.action.to_le_bytes()[..]].concat();
        option(&mut body, VERDICT, &verdict);
        end(&mut body);
        bytes.extend(block(PACKET, &body));
        bytes
    }

    fn interface(&self, name: &str) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend(ETHERNET.to_le_bytes());
        body.extend([0, 0]);
        body.extend(self.snap.to_le_bytes());
        option(&mut body, INTERFACE_NAME, name.as_bytes());
        // Ten to the minus ninth of a second.
        option(&mut body, RESOLUTION, &[9]);
        end(&mut body);
        block(INTERFACE, &body)
    }
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 12).to_le_bytes();
    [&kind.to_le_bytes(), &length, body, &length].concat()
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = value.get(..usize::from(u16::MAX)).unwrap_or(value);
    body.extend(code.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    padded(body, value);
}

/// The end of options.
fn end(body: &mut Vec<u8>) {
    body.extend([0; 4]);
}

fn padded(body: &mut Vec<u8>, bytes: &[u8]) {
    body.extend(bytes);
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Kind and body of each block; lengths must agree.
    pub(crate) fn blocks(mut bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let mut blocks = Vec::new();
        let number = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        while !bytes.is_empty() {
            let length = number(bytes, 4) as usize;
            assert_eq!(length % 4, 0);
            assert_eq!(number(bytes, length - 4) as usize, length);
            blocks.push((number(bytes, 0), bytes[8..length - 4].to_vec()));
            bytes = &bytes[length..];
        }
        blocks
    }

    /// Codes and values of options.
    fn options(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
        let mut options = Vec::new();
        loop {
            let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
            let (code, length) = (word(0), usize::from(word(2)));
            if code == 0 {
                assert_eq!(bytes.len(), 4);
                return options;
            }
            options.push((code, bytes[4..4 + length].to_vec()));
            bytes = &bytes[4 + length.next_multiple_of(4)..];
        }
    }

    #[test]
    fn a_section_holds_its_interfaces_once_and_its_packets() {
        let (mut writer, mut bytes) = Pcapng::begin(8191);
        let packet = |interface, lost| Packet {
            interface,
            time: 0x0102_0304_0506_0708,
            length: 100,
            frame: b"frame",
            comment: "verdict=forward",
            action: 4,
            lost,
        };
        for (interface, lost) in [((7, "eth0"), 0), ((9, "eth1"), 3), ((7, "eth0"), 0)] {
            bytes.extend(writer.packet(&packet(interface, lost)));
        }
        let blocks = blocks(&bytes);
        let kinds: Vec<u32> = blocks.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [SECTION, INTERFACE, PACKET, INTERFACE, PACKET, PACKET]);
        assert_eq!(blocks[0].1[..4], BYTE_ORDER.to_le_bytes());
        assert_eq!(
            options(&blocks[3].1[8..]),
            [(INTERFACE_NAME, b"eth1".to_vec()), (RESOLUTION, vec![9])]
        );
        let numbers: Vec<u8> = [2, 4, 5].map(|at: usize| blocks[at].1[0]).to_vec();
        assert_eq!(numbers, [0, 1, 0]);
        let body = &blocks[4].1;
        assert_eq!(body[4..12], [4, 3, 2, 1, 8, 7, 6, 5]);
        assert_eq!((body[12], body[16]), (5, 100));
        assert_eq!(&body[20..28], b"frame\0\0\0");
        let verdict = [2, 4, 0, 0, 0, 0, 0, 0, 0].to_vec();
        assert_eq!(
            options(&body[28..]),
            [
                (COMMENT, b"verdict=forward".to_vec()),
                (FLAGS, vec![1, 0, 0, 0]),
                (DROPPED, vec![3, 0, 0, 0, 0, 0, 0, 0]),
                (VERDICT, verdict)
            ]
        );
    }
}
