//! Packets beside the usual ones: datagrams in fragments, in any order, ICMP errors about packets that went through, pings.

use super::super::check;
use super::super::messages::{kind, message, quote};
use super::super::pieces::cut;
use super::*;

/// How often a fragment that is held comes again.
const PATIENCE: u32 = 2;
/// How many fragments are on their way at most.
const MAX_PIECES: usize = 60;

/// A fragment that is on its way.
pub(super) struct Piece {
    ifindex: u32,
    frame: Frame,
    /// How often it may still be held.
    patience: u32,
}

impl Generator {
    /// Tells that a frame was held: it comes again, some time.
    pub fn held(&mut self, ifindex: u32, frame: &Frame) {
        let patience = self
            .sent
            .take()
            .map_or(PATIENCE, |patience| patience.saturating_sub(1));
        if patience > 0 && self.pieces.len() < MAX_PIECES {
            self.pieces.push(Piece {
                ifindex,
                frame: frame.clone(),
                patience,
            });
        }
    }

    /// One of the fragments that are on their way, or the first of another datagram.
    pub(super) fn piece(&mut self) -> (u32, Frame) {
        if self.pieces.is_empty() || (self.pieces.len() < MAX_PIECES / 2 && self.random.once_in(4)) {
            self.datagram();
        }
        let index = if self.random.once_in(2) {
            0
        } else {
            self.random.below(self.pieces.len())
        };
        let piece = self.pieces.remove(index);
        self.sent = Some(piece.patience);
        (piece.ifindex, piece.frame)
    }

    /// Puts a datagram's fragments on their way.
    fn datagram(&mut self) {
        let talk = match self.seen.len() {
            0 => None,
            length => Some(self.seen[self.random.below(length)]).filter(|_| !self.random.once_in(3)),
        };
        let (side, ends, tcp) = match talk {
            None => {
                let v6 = self.random.once_in(2);
                let ends = (self.client(v6), self.target(v6));
                (CLIENT_SIDE, ends, self.random.once_in(8))
            }
            Some(talk) => match talk.left.filter(|_| self.random.once_in(2)) {
                Some((source, destination)) => (ORIGIN_SIDE, (destination, source), talk.tcp),
                None => (CLIENT_SIDE, talk.arrived, talk.tcp),
            },
        };
        let mut builder = if tcp {
            let flags = self.random.pick(&[SYN, ACK, ACK, FIN | ACK]);
            PacketBuilder::tcp(ends.0, ends.1, flags)
        } else {
            PacketBuilder::udp(ends.0, ends.1)
        };
        if self.random.once_in(4) {
            builder = if ends.0.is_ipv6() {
                builder
                    .padding_extension(extension::HOP_BY_HOP)
                    .padding_extension(extension::DESTINATION_OPTIONS)
            } else {
                builder.options(&[1; 12])
            };
        }
        if self.random.once_in(6) {
            builder = builder.checksum(self.random.pick(&[Checksum::None, Checksum::Partial]));
        }
        if self.random.once_in(6) {
            builder = builder.tags(&[self.random.word() as u16]);
        }
        let length = 40 + self.random.below(self.max_payload.min(1_400) + 60);
        let payload = self.random.bytes(length);
        let mut cuts: Vec<usize> = (0..=self.random.below(3))
            .map(|_| 8 + self.random.below((length - 8) / 8) * 8)
            .collect();
        cuts.sort_unstable();
        cuts.dedup();
        // Few, so that clients use the same, and again.
        let identification = [0, self.random.below(6) as u8, 0, self.random.below(2) as u8];
        let mut pieces = cut(&builder.payload(&payload), identification, &cuts);
        if self.random.once_in(2) {
            pieces.reverse();
        }
        for frame in pieces {
            self.pieces.push(Piece {
                ifindex: side,
                frame,
                patience: PATIENCE,
            });
        }
    }

    /// Remembers a frame that left, to complain about it.
    pub(super) fn note(&mut self, left: &Frame) {
        if self.left.len() < MEMORY {
            self.left.push(left.clone());
        } else {
            let slot = self.random.below(MEMORY);
            self.left[slot] = left.clone();
        }
    }

    /// An error about something that went through here or past us, or a ping.
    pub(super) fn complaint(&mut self) -> (u32, Frame) {
        let side = self.random.pick(&[CLIENT_SIDE, ORIGIN_SIDE]);
        if self.left.is_empty() || self.random.once_in(6) {
            return (side, self.ping());
        }
        let index = self.random.below(self.left.len());
        let about = self.left[index].clone();
        let about = match self.seen.len() {
            // What an origin answered to the client by itself.
            length if length > 0 && self.random.once_in(4) => {
                let (client, vip) = self.seen[self.random.below(length)].arrived;
                PacketBuilder::udp(vip, client).payload(&[7; 20]).frame()
            }
            _ => about,
        };
        let Some((seen, _)) = check::dissect(&about) else {
            return (side, self.ping());
        };
        let sender = seen.source.ip();
        let v6 = sender.is_ipv6();
        let router: IpAddr = if v6 {
            [0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 1].into()
        } else {
            [100, 64, 0, 1].into()
        };
        let what = self.random.pick(&kind::ERRORS[usize::from(v6)]);
        let mtu = self
            .random
            .pick(&[0, 68, 68, 68, 576, 1280, 1400, 1450, 9000_u32]);
        let length = self.random.pick(&[20, 28, 48, 60, 88, 128, 548, 2_000]);
        let length = length + self.random.below(9);
        let mut error = message(router, sender, what, mtu.to_be_bytes(), quote(&about, length));
        if self.random.once_in(20) {
            error = error.ttl(self.random.pick(&[0, 1]));
        }
        if self.random.once_in(10) {
            error = error.tags(&[self.random.word() as u16]);
        }
        (side, error.frame())
    }

    fn ping(&mut self) -> Frame {
        let v6 = self.random.once_in(2);
        let (source, destination) = (self.client(v6), self.target(v6));
        let length = self.random.below(40);
        let data = self.random.bytes(length);
        let kind = self
            .random
            .pick(&[kind::ECHO_REQUEST, kind::ECHO_REQUEST, kind::ECHO_REPLY]);
        message(
            source.ip(),
            destination.ip(),
            (kind[usize::from(v6)], 0),
            [1; 4],
            &data,
        )
        .frame()
    }
}
