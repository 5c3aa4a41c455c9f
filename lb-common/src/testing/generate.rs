//! Generates packets: conversations that open flows and go on, and what nobody sane would send.

mod side;

use super::build::{Checksum, PacketBuilder, extension};
use super::check;
use super::scenario::{CLIENT_SIDE, ORIGIN_MAC, ORIGIN_NODE_MAC, ORIGIN_SIDE, VIPS};
use super::{Frame, Random};
use std::net::{IpAddr, SocketAddr};

/// How many forwarded packets are remembered, to be answered and followed.
const MEMORY: usize = 64;

/// Makes one packet after the other; told what became of each, it answers those that were forwarded.
pub struct Generator {
    pub random: Random,
    /// Packets that reached an origin or a client: their ends.
    seen: Vec<Talk>,
    /// Fragments that are on their way.
    pieces: Vec<side::Piece>,
    /// Of the last packet, when it was one of those: how often it may be held.
    sent: Option<u32>,
    /// Packets as they left.
    left: Vec<Frame>,
    /// Largest payload.
    pub max_payload: usize,
}

/// A packet that was forwarded: how it arrived, and how it left, if its answer comes back that way.
#[derive(Clone, Copy)]
struct Talk {
    arrived: (SocketAddr, SocketAddr),
    left: Option<(SocketAddr, SocketAddr)>,
    tcp: bool,
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

impl Generator {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            random: Random(seed),
            seen: Vec::new(),
            pieces: Vec::new(),
            sent: None,
            left: Vec::new(),
            max_payload: 64,
        }
    }

    /// The next packet, and the interface by which it arrives.
    pub fn packet(&mut self) -> (u32, Frame) {
        let ifindex = self.random.pick(&[CLIENT_SIDE, CLIENT_SIDE, ORIGIN_SIDE]);
        self.sent = None;
        let (side, mut frame) = match self.random.below(100) {
            0..26 => (ifindex, self.opening()),
            26..48 => self.follow_up(),
            48..62 => self.piece(),
            62..70 => self.complaint(),
            70..96 => {
                let (side, frame) = match self.random.below(10) {
                    0..4 => (ifindex, self.opening()),
                    4..8 => self.follow_up(),
                    8 => self.piece(),
                    _ => self.complaint(),
                };
                (side, self.spoil(frame))
            }
            _ => {
                let length = self.random.below(200);
                (ifindex, Frame(self.random.bytes(length)))
            }
        };
        // The kernel's test runs take no less.
        if frame.0.len() < 14 {
            frame.0.resize(14, 0);
        }
        (side, frame)
    }

    /// Tells what became of a packet that was forwarded.
    pub fn forwarded(&mut self, arrived: &Frame, left: &Frame) {
        self.note(left);
        let (Some((arrived, _)), Some((left, _))) = (check::dissect(arrived), check::dissect(left)) else {
            return;
        };
        if !matches!(arrived.protocol, 6 | 17) {
            return;
        }
        let ends = |seen: &check::Seen| (seen.source, seen.destination);
        let translated = left.protocol == arrived.protocol
            && ends(&left) != ends(&arrived)
            && left.destination.port() != super::modes::GUE_PORT;
        let talk = Talk {
            arrived: ends(&arrived),
            left: translated.then(|| ends(&left)),
            tcp: arrived.protocol == 6,
        };
        if self.seen.len() < MEMORY {
            self.seen.push(talk);
        } else {
            let slot = self.random.below(MEMORY);
            self.seen[slot] = talk;
        }
    }

    fn client(&mut self, v6: bool) -> SocketAddr {
        let host = self.random.below(12);
        let port = 40_000 + self.random.below(24) as u16;
        let ip: IpAddr = match (v6, self.random.once_in(60)) {
            (false, false) => [198, 51, 100, host as u8].into(),
            (true, false) => [0x2001, 0xdb8, 0xc, 0, 0, 0, 0, host as u16].into(),
            (false, true) => {
                let odd = [
                    [0, 0, 0, 0],
                    [127, 0, 0, 1],
                    [224, 0, 0, 1],
                    [255; 4],
                    [1, 2, 3, 4],
                ];
                self.random.pick(&odd).into()
            }
            (true, true) => {
                let odd = [
                    [0; 8],
                    [0, 0, 0, 0, 0, 0, 0, 1],
                    [0xff02, 0, 0, 0, 0, 0, 0, 1],
                    // Mapped addresses must not be on the wire, and yet may be.
                    [0, 0, 0, 0, 0, 0xffff, 0xc633, 0x6401],
                    [0, 0, 0, 0, 0, 0xffff, 0x7f00, 1],
                ];
                self.random.pick(&odd).into()
            }
        };
        (ip, port).into()
    }

    fn target(&mut self, v6: bool) -> SocketAddr {
        let vip: IpAddr = VIPS[usize::from(v6)].parse().expect("an address");
        let ip = match self.random.below(40) {
            0 if v6 => [0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x10].into(),
            0 => [192, 0, 2, 10].into(),
            1 if v6 => [0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x99].into(),
            1 => [203, 0, 113, 99].into(),
            // The IPv4 address, mapped.
            2 if v6 => [0, 0, 0, 0, 0, 0xffff, 0xcb00, 0x710a].into(),
            _ => vip,
        };
        let usual = [
            80, 80, 53, 53, 81, 443, 443, 82, 83, 84, 84, 85, 86, 87, 90, 91, 92, 93, 94, 95, 6000, 6001,
            6050, 6200,
        ];
        let port = match self.random.below(30) {
            0 => self.random.word() as u16,
            1 => 20_000 + self.random.below(4096) as u16,
            _ => self.random.pick(&usual),
        };
        (ip, port).into()
    }

    fn opening(&mut self) -> Frame {
        let v6 = self.random.once_in(2);
        let (source, destination) = (self.client(v6), self.target(v6));
        let tcp = match destination.port() {
            80 | 82 | 83 => !self.random.once_in(12),
            53 => self.random.once_in(12),
            _ => self.random.once_in(2),
        };
        let flags = match self.random.below(10) {
            0..7 => SYN,
            7 => self.random.word() as u8,
            _ => self.random.pick(&[ACK, RST, FIN | ACK, SYN | ACK, RST | ACK, 0]),
        };
        let builder = if self.random.once_in(20) {
            let protocol = self.random.pick(&[1, 58, 2, 132, 59]);
            let bytes = self.random.bytes(12);
            PacketBuilder::raw(source.ip(), destination.ip(), protocol).payload(&bytes)
        } else if tcp {
            PacketBuilder::tcp(source, destination, flags)
        } else {
            PacketBuilder::udp(source, destination)
        };
        self.dress(builder, v6).frame()
    }

    /// A packet of a flow that was opened: the next from the same side, or an answer.
    fn follow_up(&mut self) -> (u32, Frame) {
        if self.seen.is_empty() {
            return (CLIENT_SIDE, self.opening());
        }
        let index = self.random.below(self.seen.len());
        let talk = self.seen[index];
        let left = talk.left.filter(|_| self.random.once_in(2));
        let answer = left.is_some();
        let (source, destination) = left.map_or(talk.arrived, |(source, destination)| (destination, source));
        let builder = if talk.tcp {
            let flags = if answer {
                self.random
                    .pick(&[SYN | ACK, SYN | ACK, ACK, ACK, ACK, FIN | ACK, RST])
            } else {
                self.random
                    .pick(&[ACK, ACK, ACK, ACK | 8, FIN | ACK, SYN, RST, RST | ACK])
            };
            PacketBuilder::tcp(source, destination, flags)
        } else {
            PacketBuilder::udp(source, destination)
        };
        let from_origin = answer && source.port() < 40_000;
        let builder = if from_origin {
            builder.link(ORIGIN_MAC, ORIGIN_NODE_MAC)
        } else {
            builder
        };
        let side = if from_origin { ORIGIN_SIDE } else { CLIENT_SIDE };
        (side, self.dress(builder, source.is_ipv6()).frame())
    }

    /// Adds what a packet may carry.
    fn dress(&mut self, mut builder: PacketBuilder, v6: bool) -> PacketBuilder {
        let most = if self.random.once_in(12) {
            // Around what interfaces and paths carry.
            self.max_payload.max(1_600)
        } else {
            self.max_payload
        };
        let length = self.random.below(most + 1);
        let payload = self.random.bytes(length);
        builder = builder.payload(&payload);
        let (first, second) = (self.random.word() as u32, self.random.word() as u32);
        builder = builder.numbers(first, second);
        if self.random.once_in(3) {
            let words = self.random.below(11);
            let mut options = self.random.bytes(words * 4);
            if self.random.once_in(2) && words > 1 {
                // An MSS, at an even place or at an odd one.
                let at = self.random.below(2);
                options[0] = 1;
                options[at..at + 2].copy_from_slice(&[2, 4]);
            }
            builder = builder.tcp_options(&options);
        }
        if self.random.once_in(4) {
            let tags = self.random.below(4);
            let tags: Vec<u16> = (0..tags).map(|_| self.random.word() as u16).collect();
            builder = builder.tags(&tags);
        }
        if self.random.once_in(6) {
            builder = builder.ttl(self.random.pick(&[0, 1, 2, 255]));
        }
        if self.random.once_in(5) {
            builder = builder.checksum(self.random.pick(&[
                Checksum::Wrong,
                Checksum::Partial,
                Checksum::Partial,
                Checksum::None,
            ]));
        }
        if self.random.once_in(5) {
            builder = builder.padding(self.random.below(30));
        }
        if self.random.once_in(12) {
            let last = self.random.below(4) as u8;
            builder = builder.link([2, 0, 0, 0, 0, 0xc1 + last], [2, 0, 0, 0, 0, 1]);
        }
        if self.random.once_in(12) {
            builder = builder.fragment(self.random.pick(&[0, 0, 1, 64, 0x1fff]), self.random.once_in(2));
        }
        if v6 && self.random.once_in(4) {
            for _ in 0..=self.random.below(9) {
                let number = self.random.pick(&[
                    extension::HOP_BY_HOP,
                    extension::ROUTING,
                    extension::DESTINATION_OPTIONS,
                    extension::AUTHENTICATION,
                ]);
                builder = if number == extension::AUTHENTICATION {
                    builder.extension(number, &[1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2])
                } else {
                    builder.padding_extension(number)
                };
            }
        } else if !v6 && self.random.once_in(4) {
            let words = self.random.below(11);
            builder = builder.options(&vec![1; words * 4]);
        }
        builder
    }

    /// Breaks a frame: bytes, lengths, or its end.
    fn spoil(&mut self, Frame(mut bytes): Frame) -> Frame {
        for _ in 0..=self.random.below(3) {
            let length = bytes.len();
            match self.random.below(8) {
                0 => bytes.truncate(self.random.below(length + 1)),
                1 => {
                    let more = self.random.below(40);
                    bytes.extend(self.random.bytes(more));
                }
                2 => {
                    // One of the first bytes: types, lengths, IHL, protocol, data offset.
                    let at = 12 + self.random.below(60);
                    let value = self.random.word() as u8;
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = value;
                    }
                }
                3 => {
                    let at = self.random.below(length);
                    let bit = 1 << self.random.below(8);
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= bit;
                    }
                }
                // IPv4: version and IHL, total length, fragment, protocol; IPv6: payload length, next header.
                4 => self.write(&mut bytes, &[14, 18, 22], 1),
                5 => self.write(&mut bytes, &[16, 18, 20, 24], 2),
                6 => self.write(&mut bytes, &[20, 23, 24, 27], 1),
                // TCP data offset and flags; UDP length.
                _ => self.write(&mut bytes, &[38, 46, 47, 50, 66, 67], 1),
            }
        }
        Frame(bytes)
    }

    /// Writes an edge value of `size` bytes at one of `offsets`.
    fn write(&mut self, bytes: &mut [u8], offsets: &[usize], size: usize) {
        let at = self.random.pick(offsets);
        let near = bytes.len() as u16;
        let value = match self.random.below(6) {
            0 => 0,
            1 => u16::MAX,
            2 => near.wrapping_sub(14),
            3 => near.wrapping_sub(13),
            4 => self.random.below(80) as u16,
            _ => self.random.word() as u16,
        };
        let value = value.to_be_bytes();
        if let Some(target) = bytes.get_mut(at..at + size) {
            target.copy_from_slice(&value[2 - size..]);
        }
    }
}
